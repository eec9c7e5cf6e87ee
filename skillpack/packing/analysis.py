"""What codecs find out about one tensor's delta: the costly part of a pack, done once, anywhere, and worth keeping."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from skillpack.codecs.protocol import DELTA
from skillpack.packing.unfinished import Unfinished
from skillpack.packing.workers import Threads, Workers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skillpack.codecs.protocol import Analysis, LossyCodec
    from skillpack.tensors import Floats

_VERSION: Final = 2
"""Raised whenever an analysis of the same delta comes out differently."""


class Offer(NamedTuple):
    """A codec that may write a delta.

    Attributes:
        codec: the codec.
        shape: what it sees the delta as.
        limit: the greatest step it may use.
    """

    codec: LossyCodec
    shape: tuple[int, ...]
    limit: float


@dataclass(frozen=True)
class Analyst:
    """Who analyses the deltas of a pack.

    Attributes:
        workers: where the work is done.
        device: torch device that does it there.
        unfinished: what an interrupted run has left, and this one would leave.
    """

    workers: Workers = field(default_factory=Threads)
    device: str = "cpu"
    unfinished: Unfinished = field(default_factory=Unfinished)

    def analyse(self, delta: Floats, offers: Sequence[Offer], finest: float) -> list[Analysis]:
        """What the codecs find out about a delta, one analysis for each offer, in files.

        Args:
            delta: fp32, of any shape that the offers' shapes are views of; may be a memory map.
            offers: who may write it.
            finest: no step below this one will be asked for.
        """
        key = _key(delta, offers, self.device) if self.unfinished.kept else ""
        found = self.unfinished.find(key, finest)
        if found is None:
            # As a plain array, since the subclass for memory maps is copied when it is sent anywhere.
            fresh = self.workers.run(analysed, np.asarray(delta), offers, finest)
            found = self.unfinished.keep(key, finest, fresh)
        return [
            {**analysis, DELTA: delta.reshape(offer.shape)} if DELTA in analysis else analysis
            for offer, analysis in zip(offers, found, strict=True)
        ]


LOCAL: Final = Analyst()
"""Analyses in this process and leaves nothing."""


def analysed(delta: Floats, offers: Sequence[Offer], finest: float) -> list[dict[str, Floats]]:
    """What codecs find out; in place of the delta itself, where one needs it, there is an empty array.

    Args:
        delta: fp32, of any shape that the offers' shapes are views of.
        offers: the codecs.
        finest: no step below this one will be asked for.
    """
    results = []
    for codec, shape, _ in offers:
        analysis = dict(codec.analyse(delta.reshape(shape), finest))
        if DELTA in analysis:
            analysis[DELTA] = np.empty(0, np.float32)
        results.append(analysis)
    return results


def _key(delta: Floats, offers: Sequence[Offer], device: str) -> str:
    """Digest of all that analyses depend on but the finest step: delta, codecs, and what rounds their last bits."""
    import torch

    kind = device.partition(":")[0]
    model = torch.cuda.get_device_name(device) if kind == "cuda" and torch.cuda.is_available() else kind
    codecs = [[repr(codec), shape] for codec, shape, _ in offers]
    about = [_VERSION, codecs, model, torch.__version__, torch.backends.cpu.get_cpu_capability()]
    digest = hashlib.sha256(json.dumps(about).encode())
    digest.update(np.ascontiguousarray(delta).data.cast("B"))
    return digest.hexdigest()
