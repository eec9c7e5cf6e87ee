"""What a model predicts for a batch: next tokens, or a class for each sample."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Literal

from skillpack.errors import UnsupportedCheckpointError

if TYPE_CHECKING:
    import torch

    from skillpack.live.batches import Batch
    from skillpack.live.prefixes import Prefix

Task = Literal["next token", "class"]


def task_of(model: Any) -> Task:
    """What a model predicts.

    Raises:
        UnsupportedCheckpointError: neither next tokens nor a class for a whole text.
    """
    name = type(model).__name__
    problem = None
    if "ForSequenceClassification" in name:
        if model.config.problem_type in {"regression", "multi_label_classification"} or model.config.num_labels < 2:
            problem = "it gives no distribution over classes"
        else:
            return "class"
    elif model.config.is_encoder_decoder:
        problem = "it reads one text and writes another"
    elif not model.can_generate():
        problem = "it predicts neither next tokens nor classes of texts"
    if problem is None:
        return "next token"
    raise UnsupportedCheckpointError(
        f"a {name} cannot be measured by what it predicts: {problem}",
        hint="Language models (…ForCausalLM) and classifiers (…ForSequenceClassification) can.",
    )


def predict(model: Any, batch: Batch, prefix: Prefix | None = None) -> torch.Tensor:
    """Logits of the predictions of a batch that count.

    Gradients are taken if they are on; where positions do not count, models that can leave them out do.

    Args:
        model: as `skillpack.live.models.open_model` gives it.
        batch: from `skillpack.live.batches.encode`; for a classifier with ``whole``.
        prefix: what its rows begin with, if the model has read that already.

    Returns:
        fp32 of shape (scored, vocabulary) or (scored, classes), in the order of `Batch.sample`.
    """
    options: dict[str, Any] = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    accepted = inspect.signature(model.forward).parameters
    if "use_cache" in accepted:
        options["use_cache"] = False
    if task_of(model) == "class":
        logits: torch.Tensor = model(**options).logits
        return logits.float()
    scored = batch.scored
    if prefix is not None:
        options |= {"input_ids": batch.input_ids[:, prefix.length :], "use_cache": True}
        options["past_key_values"] = prefix.cache(len(scored))
        scored = scored[:, prefix.length :]
    if "logits_to_keep" in accepted:
        positions = scored.any(0).nonzero()[:, 0]
        options["logits_to_keep"], scored = positions, scored[:, positions]
    logits = model(**options).logits
    return logits[scored].float()


def longest(model: Any, tokenizer: Any, max_tokens: int) -> int:
    """The tokens that a sample may have: as many as asked for, and no more than model and tokenizer take."""
    limits = (max_tokens, tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None))
    return min(limit for limit in limits if isinstance(limit, int) and limit > 0)
