"""Texts, with what the fine-tune predicts for them, that other models are to predict as well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from skillpack.evaluating.scores import divergence, kl_gradient
from skillpack.live.precision import weight_gradients
from skillpack.live.predictions import predict
from skillpack.live.prefixes import read_prefix
from skillpack.packing.spool import spooled

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from skillpack.live.batches import Batch
    from skillpack.live.precision import Sink
    from skillpack.live.prefixes import Prefix
    from skillpack.progress import Stage


class Lessons:
    """Some texts.

    Attributes:
        nbytes: of the texts, for progress.
    """

    def __init__(self, tuned: Any, batches: Sequence[Batch]) -> None:
        """Ask the fine-tune.

        Args:
            tuned: the fine-tune, as `open_model` gives it.
            batches: the texts.
        """
        self._batches = batches
        self._predictions = sum(len(batch.sample) for batch in batches)
        self.nbytes = sum(batch.nbytes for batch in batches)
        with torch.no_grad():
            prefix = read_prefix(tuned, batches)
            self._wanted = [_kept(predict(tuned, batch, prefix)) for batch in batches]

    def kl(self, model: Any, stage: Stage) -> float:
        """Mean KL(tuned || model), nats per prediction.

        Args:
            model: one that `open_model` has opened.
            stage: is told of texts that are done.
        """

        def logits(prefix: Prefix | None) -> Iterator[torch.Tensor]:
            for batch in self._batches:
                yield predict(model, batch, prefix)
                stage.advance(batch.nbytes)

        with torch.no_grad():
            return self._mean(logits(read_prefix(model, self._batches)))

    def kl_with_gradients(self, model: Any, sink: Sink, stage: Stage) -> float:
        """The same; gradients of it with respect to weights go to `sink`.

        Args:
            model: as `kl` takes it, like `stage`.
            sink: see `skillpack.live.precision`; those of a weight add up to its gradient.
            stage: is told of texts that are done.
        """

        def logits(prefix: Prefix | None) -> Iterator[torch.Tensor]:
            for batch, wanted in zip(self._batches, self._wanted, strict=True):
                found = predict(model, batch, prefix)
                torch.autograd.backward(found, kl_gradient(found, wanted) / self._predictions)
                stage.advance(batch.nbytes)
                yield found.detach()

        with weight_gradients(model, sink), torch.enable_grad():
            prefix = read_prefix(model, self._batches)
            kl = self._mean(logits(prefix))
            if prefix is not None:
                prefix.backward()
        return kl

    def _mean(self, logits: Iterator[torch.Tensor]) -> float:
        pairs = zip(logits, self._wanted, strict=True)
        return sum(float(divergence(found, wanted).kl.double().sum()) for found, wanted in pairs) / self._predictions


def _kept(logits: torch.Tensor) -> torch.Tensor:
    """The same, whose memory is a temporary file."""
    return torch.from_numpy(spooled(tuple(logits.shape), np.float32)).copy_(logits)
