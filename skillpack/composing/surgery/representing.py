"""What a frozen model's head is fed for texts, computed once."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import torch

from skillpack.composing.surgery.head import head_of
from skillpack.errors import DataError, NotFiniteError, UnsupportedModelError
from skillpack.live.batches import encode, padding_token
from skillpack.live.partial import input_of
from skillpack.live.predictions import longest, task_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skillpack.live.batches import Batch
    from skillpack.progress import Stage
    from skillpack.texts import Sample

_BATCH_TOKENS: Final = 4096


def batches_of(
    samples: Sequence[Sample], model: Any, tokenizer: Any, *, max_tokens: int, most: int, seed: int
) -> list[Batch]:
    """Texts as the model reads them, with the positions whose representations count.

    They are those whose predictions count in an evaluation: where answers of a chat are predicted, all but the last of
    a plain text, and one of each text for a classifier.

    Args:
        samples: texts and chats with answers.
        model: merged or expert; both read the same.
        tokenizer: of the merged model.
        max_tokens: texts that are longer are cut.
        most: positions; of more, so many are drawn.
        seed: of that draw.

    Raises:
        DataError: there is no such position, or a text has tokens that the model does not know.
    """
    whole = task_of(model) == "class"
    limit = longest(model, tokenizer, max_tokens)
    # A classifier on a decoder finds the end of a text by the padding that its configuration names.
    alone = whole and model.config.pad_token_id != padding_token(tokenizer)
    batches = encode(samples, tokenizer, limit, 0 if alone else _BATCH_TOKENS, whole=whole)
    batches = [batch for batch in batches if len(batch.sample)]
    if not batches:
        raise DataError(
            f"nothing in the texts is predicted: no answer begins within {limit} tokens",
            hint="Give texts of at least two tokens, prompts, chats with answers, or a larger number of tokens.",
        )
    return _drawn(batches, most, seed)


def check_tokens(batches: Sequence[Batch], model: Any) -> None:
    """Refuse texts with tokens that a model has no embedding for.

    Raises:
        DataError: there are some.
    """
    known = model.get_input_embeddings().num_embeddings
    if (largest := max(int(batch.input_ids.max()) for batch in batches)) >= known:
        raise DataError(
            f"the texts have the token {largest}, and one of the two models knows only {known}",
            hint="Compose the skill so that it has the expert's tokens, or leave out texts that need them.",
        )


@torch.no_grad()
def representations(model: Any, batches: Sequence[Batch], device: torch.device, stage: Stage) -> torch.Tensor:
    """What the head is fed at the positions that count.

    Args:
        model: opened by `skillpack.live.models.open_model`, on the device.
        batches: from `batches_of`.
        device: where the model is.
        stage: advanced by the bytes of the token ids.

    Returns:
        fp32 of shape (positions, width), on the CPU, in the order of the batches' ``sample``.

    Raises:
        NotFiniteError: some are NaN or infinite.
        UnsupportedModelError: the model does not feed its head a representation for each position or each text.
    """
    found = []
    for batch in batches:
        states = _fed(model, batch, device)
        kept = _at_positions(states, batch, model).float().cpu()
        if not bool(kept.isfinite().all()):
            raise NotFiniteError(
                "the representations of some texts are NaN or infinite",
                hint="Check the skills: an exact skill brings its NaN along.",
            )
        found.append(kept)
        stage.advance(batch.nbytes)
    return torch.cat(found)


def _fed(model: Any, batch: Batch, device: torch.device) -> torch.Tensor:
    inputs: dict[str, Any] = {
        "input_ids": batch.input_ids.to(device),
        "attention_mask": batch.attention_mask.to(device),
    }
    if "use_cache" in inspect.signature(model.forward).parameters:
        inputs["use_cache"] = False
    states = input_of(head_of(model).module, lambda: model(**inputs))
    if states is None:
        raise UnsupportedModelError(f"A {type(model).__name__} does not use its head as a module")
    return states


def _at_positions(states: torch.Tensor, batch: Batch, model: Any) -> torch.Tensor:
    classes = task_of(model) == "class"
    if states.shape[:-1] == batch.input_ids.shape:
        where = _read_by_classifier(batch, model) if classes else batch.scored
        return states[where.to(states.device)]
    if classes and states.shape[:-1] == batch.input_ids.shape[:1]:
        return states
    raise UnsupportedModelError(
        f"A {type(model).__name__} feeds its head states of shape {tuple(states.shape)} for texts of shape "
        f"{tuple(batch.input_ids.shape)}, so which belong to which is not known"
    )


def _read_by_classifier(batch: Batch, model: Any) -> torch.Tensor:
    """Where a decoder's class is read: at the last token that is no padding, end tokens that pad left out as well."""
    ids, padding = batch.input_ids, model.config.pad_token_id
    places = torch.arange(ids.shape[1]).expand_as(ids)
    last = places.max(1).values if padding is None else (places * (ids != padding)).argmax(1)
    return places == last[:, None]


def _drawn(batches: Sequence[Batch], most: int, seed: int) -> list[Batch]:
    """All positions, or so many drawn at random: memory does not grow with the texts."""
    total = sum(len(batch.sample) for batch in batches)
    if total <= most:
        return list(batches)
    keep = torch.zeros(total, dtype=torch.bool)
    keep[torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:most]] = True
    found, start = [], 0
    for batch in batches:
        kept, start = keep[start : start + len(batch.sample)], start + len(batch.sample)
        scored = batch.scored.clone()
        scored[batch.scored] = kept
        found.append(replace(batch, scored=scored, sample=batch.sample[kept]))
    return [batch for batch in found if len(batch.sample)]
