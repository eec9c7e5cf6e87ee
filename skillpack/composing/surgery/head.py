"""Where a model's representation is: what its head reads."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from skillpack.errors import UnsupportedModelError
from skillpack.live.predictions import Task, task_of


class Head(NamedTuple):
    """The last linear layer of a model.

    Attributes:
        module: reads representations, of shape (..., width).
        width: numbers of a representation.
        predicts: what the model predicts with it.
    """

    module: torch.nn.Linear
    width: int
    predicts: Task


def head_of(model: Any) -> Head:
    """The layer whose input is the representation.

    Of a language model it is the output embedding, so that z is what comes out of the last norm. Of a classifier it is
    the last linear layer outside the encoder that has a row for each class: ``score`` of decoders, ``classifier`` of
    BERT, ``classifier.out_proj`` of RoBERTa. What comes before it there, such as a pooler, is part of the encoder.

    Args:
        model: of transformers, unwrapped.

    Raises:
        UnsupportedCheckpointError: the model predicts neither next tokens nor classes of texts.
        UnsupportedModelError: it has no such layer, or is no model of transformers.
    """
    if not hasattr(model, "config") or not hasattr(model, "can_generate"):
        raise UnsupportedModelError(
            f"A {type(model).__name__} is no model of transformers, so which of its modules is the head is not known"
        )
    predicts = task_of(model)
    found = _classifier(model) if predicts == "class" else model.get_output_embeddings()
    if not isinstance(found, torch.nn.Linear):
        raise UnsupportedModelError(
            f"A {type(model).__name__} has no linear layer as its head, so that there is no representation to correct",
            hint="Language models (…ForCausalLM) and classifiers (…ForSequenceClassification) mostly have one.",
        )
    return Head(found, found.in_features, predicts)


def _classifier(model: Any) -> torch.nn.Module | None:
    encoder = getattr(model, model.base_model_prefix, None)
    inside = {id(module) for module in encoder.modules()} if isinstance(encoder, torch.nn.Module) else set()
    found = [
        module
        for module in model.modules()
        if id(module) not in inside
        and isinstance(module, torch.nn.Linear)
        and module.out_features == model.config.num_labels
    ]
    return found[-1] if found else None
