"""From two models on disk to a packer of what differs, with whoever is to do its work."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from skillpack.checkpoint import open_checkpoint, open_tuned
from skillpack.delta import find_delta
from skillpack.errors import UsageError
from skillpack.fingerprint import fingerprint
from skillpack.packing.analysis import Analyst
from skillpack.packing.cluster import connected
from skillpack.packing.device import check_device
from skillpack.packing.packer import Packer
from skillpack.packing.unfinished import unfinished_work
from skillpack.packing.workers import Threads
from skillpack.progress import Progress, Stage, silent
from skillpack.settings import unfinished_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from skillpack.checkpoint import Checkpoint
    from skillpack.delta import Delta
    from skillpack.packing.packer import Goal
    from skillpack.packing.unfinished import Unfinished
    from skillpack.packing.workers import Workers


@dataclass(frozen=True)
class Hands:
    """Who does the work.

    Attributes:
        workers: tensors that are worked on at a time; None for one for each core.
        device: torch device that finds singular vectors.
        ray: address of a Ray cluster that finds them; None for this process.

    Raises:
        UsageError: they exclude one another.
    """

    workers: int | None = None
    device: str = "cpu"
    ray: str | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"{self.workers} workers do nothing", hint="Leave out --workers for one per core.")
        if self.ray is not None and ":" in self.device:
            raise UsageError(
                f"a cluster chooses itself which device is {self.device}", hint="Give its kind only, such as cuda."
            )

    @contextmanager
    def hired(self) -> Iterator[tuple[Threads, Workers]]:
        """Threads, and who analyses on the device: these threads, or a cluster.

        Raises:
            UsageError: the device or the cluster is not there.
        """
        threads = Threads(self.workers)
        with nullcontext(threads) if self.ray is None else connected(self.ray, self.device) as analysts:
            if self.device != "cpu":
                analysts.run(check_device, self.device)
            yield threads, analysts


@dataclass(frozen=True)
class Opened:
    """A base and a fine-tune, ready to be packed.

    Attributes:
        delta: what differs.
        packer: of it.
        unfinished: analyses that an interrupted pack has left.
    """

    delta: Delta
    packer: Packer
    unfinished: Unfinished


@contextmanager
def opened(
    base: str | Path, tuned: str | Path | Checkpoint, goal: Goal, hands: Hands, progress: Progress = silent
) -> Iterator[Opened]:
    """Compare two models; analyses are kept for the next time if this one is interrupted.

    Raises:
        CheckpointError: a checkpoint cannot be read, or the two do not fit each other.
        UsageError: nothing differs, or the device or the cluster is not there.
    """
    with hands.hired() as (threads, analysts):
        delta = _compared(base, tuned, progress)
        with unfinished_work(unfinished_folder(), _name(delta)) as unfinished:
            analyst = Analyst(analysts, hands.device, unfinished)
            yield Opened(delta, Packer(delta, goal, progress, analyst=analyst, threads=threads), unfinished)


def checkpoint_bytes(checkpoint: Checkpoint) -> int:
    """Bytes of all tensors."""
    return sum(info.nbytes for info in checkpoint.tensors.values())


def _compared(base: str | Path, tuned: str | Path | Checkpoint, progress: Progress) -> Delta:
    base_model = open_checkpoint(base)
    tuned_model = open_tuned(tuned, base_model) if isinstance(tuned, str | Path) else tuned
    reading = Stage(progress, "comparing models", checkpoint_bytes(base_model) + checkpoint_bytes(tuned_model))
    delta = find_delta(base_model, tuned_model, progress=reading.advance)
    if not (delta.changes or delta.gone or delta.files):
        raise UsageError(f"{tuned_model.origin} does not differ from {base}", hint="There is nothing to pack.")
    return delta


def _name(delta: Delta) -> str:
    """What unfinished work on two models is found by, whatever is to be achieved with them."""
    models = fingerprint(delta.base_digests) + fingerprint(delta.tuned_digests)
    return hashlib.sha256(models.encode()).hexdigest()[:32]
