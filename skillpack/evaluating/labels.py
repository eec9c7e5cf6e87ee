"""Labels of samples as a classifier numbers its classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from skillpack.errors import DataError, listing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skillpack.texts import Sample


def class_numbers(samples: Sequence[Sample], config: Any) -> torch.Tensor | None:
    """The class of each sample, int64 of shape (samples,); None if no sample has a label.

    Args:
        samples: texts with labels.
        config: the classifier's, which says how many classes there are and what they are called.

    Raises:
        DataError: only some samples have labels, or a label is no class of the model.
    """
    labelled = sum(sample.label is not None for sample in samples)
    if not labelled:
        return None
    if labelled < len(samples):
        raise DataError(
            f"{labelled} of {len(samples)} samples have a label", hint="Give a label to every sample, or to none."
        )
    return torch.tensor([_number(sample.label, config) for sample in samples])


def _number(label: int | str | None, config: Any) -> int:
    number = config.label2id.get(label) if isinstance(label, str) else label
    if number is None or not 0 <= number < config.num_labels:
        raise DataError(
            f"{label!a} is no class of the model",
            hint=f"Its classes are 0 to {config.num_labels - 1}, or {listing(config.label2id)}.",
        )
    return int(number)
