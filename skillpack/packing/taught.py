"""Packing with texts: what is measured on them, chosen by them and learned from them."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Final

from skillpack.errors import DataError
from skillpack.evaluating.trials import LEAST_TO_LEARN
from skillpack.packing.divergence import pack_within
from skillpack.packing.lessons import Lessons
from skillpack.packing.refining import refine, roundings
from skillpack.progress import Progress, Stage, silent

if TYPE_CHECKING:
    from skillpack.evaluating.trials import Measured
    from skillpack.packing.divergence import Candidates
    from skillpack.packing.packer import Goal, Packed, Packer

FARTHER: Final = 0.05
"""How far down columns are kept where texts say that it is better so; see `LowRank.keep`."""
_CLEARLY: Final = 0.9
"""Share of the usual divergence within which that has to be: less of a difference is one of roundings."""
_BATCHES: Final = 8
"""Most batches that are learned from at a time."""
_USUAL_ROUNDS: Final = 3


def taught_pack(
    packer: Packer, goal: Goal, candidates: Candidates, progress: Progress = silent
) -> tuple[Packed, Measured]:
    """Pack to a goal, measure what came out, and learn from texts if that is asked for and helps.

    Args:
        packer: of the delta.
        goal: what to achieve.
        candidates: texts to learn from and to measure with.
        progress: called during the work.

    Returns:
        The pack and what was measured of it.

    Raises:
        UsageError: the size or the divergence cannot be met.
        DataError: there are too few texts to learn from, as was asked for.
    """
    trials, rounds = candidates.trials, _rounds(goal, candidates)
    # After each rounding other texts take their turn, if there are as many.
    starts = range(0, min(len(trials.lessons), _BATCHES * roundings(rounds)), _BATCHES)
    lessons = [Lessons(trials.tuned, trials.lessons[start : start + _BATCHES]) for start in starts]

    def plain(step: float | None = None) -> tuple[Packed, Measured]:
        packed = packer.pack() if step is None else packer.coded_at(step)
        return packed, candidates.measure(packed)

    def better(draft: Packed) -> tuple[Packed, Measured]:
        """What learning makes of a pack that is not checked, or that pack itself where it does not help."""
        step = draft.step
        with closing(draft.payload):
            model = candidates.opened(draft)
        found = trials.measure(model)
        refine(packer, step, model, lessons, rounds=rounds, progress=progress)
        try:
            packed, measured = plain(step)
        finally:
            packer.restore()
        if measured.kl < found.kl and (goal.size is None or packed.size <= goal.size):
            return packed, measured
        packed.payload.close()
        return plain(step if goal.size is None else None)

    if not rounds:
        return plain() if goal.max_kl is None else pack_within(packer.first_step(), goal.max_kl, plain)
    draft = _chosen(packer, goal, candidates, lessons[0], progress)
    if goal.max_kl is None:
        return better(draft)
    draft.payload.close()
    # What will most likely not be kept need not be checked.
    return pack_within(draft.step, goal.max_kl, lambda step: better(packer.coded_at(step, checked=False)))


def _chosen(packer: Packer, goal: Goal, candidates: Candidates, lessons: Lessons, progress: Progress) -> Packed:
    """A draft whose columns are kept as far down as usual, or one in as many bytes that goes farther and is better.

    The packer goes on as that one does.
    """

    def kl(packed: Packed) -> float:
        return lessons.kl(candidates.opened(packed), Stage(progress, "measuring", lessons.nbytes))

    packer.reach(FARTHER)
    usual = packer.pack(checked=False)
    usual_kl = kl(usual)
    packer.keep(FARTHER)
    farther = packer.pack(size=goal.size or usual.size, checked=False)
    if kl(farther) < _CLEARLY * usual_kl:
        usual.payload.close()
        return farther
    farther.payload.close()
    packer.keep(None)
    return usual


def _rounds(goal: Goal, candidates: Candidates) -> int:
    """How many steps of learning there are to be."""
    trials = candidates.trials
    if goal.refine and not trials.lessons:
        raise DataError(
            f"{len(trials.samples)} samples are too few to learn from and to measure with",
            hint=f"Give {LEAST_TO_LEARN} or more; some dozens are better.",
        )
    return _USUAL_ROUNDS if goal.refine is None and trials.lessons else goal.refine or 0
