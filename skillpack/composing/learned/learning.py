"""Learning how skills go together: what a method finds out from texts, before anything is composed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from skillpack.composing.learned.adamerging import AdaMerging
from skillpack.composing.learned.atlas import Atlas
from skillpack.composing.learned.concrete import Concrete, ConcreteMask
from skillpack.composing.learned.examples import Examples, digest_of_samples, read_groups
from skillpack.composing.learned.live import LiveSum
from skillpack.composing.learned.localising import Localise, RegionMask
from skillpack.composing.learned.masking import mask_digest
from skillpack.composing.learned.self_positioning import SelfPositioning
from skillpack.composing.options import with_options
from skillpack.composing.protocol import options_of
from skillpack.errors import UsageError, listing
from skillpack.live.generation import complete
from skillpack.live.models import open_tokenizer
from skillpack.live.predictions import task_of
from skillpack.progress import Progress, silent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import torch

    from skillpack.composing.learned.examples import Source
    from skillpack.composing.learned.masking import Masked
    from skillpack.installing.claims import Active
    from skillpack.texts import Sample

Weighted = AdaMerging | Atlas | SelfPositioning
LearnedMethod = Weighted | Concrete | Localise

METHODS: Final[dict[str, type[LearnedMethod]]] = {
    kind.name: kind for kind in (AdaMerging, Atlas, SelfPositioning, Concrete, Localise)
}
"""By the names that users type."""
STEPS: Final = 100
BATCH: Final = 8
MAX_TOKENS: Final = 256
ANSWER_TOKENS: Final = 32
"""Most tokens that are written of an answer to a prompt that comes without one."""
_DIGITS: Final = 6
"""Digits of a weight that are kept: what is finer is noise of the arithmetic, and would make recipes long."""
_HELD_OUT: Final = 4
"""Every so many texts one is measured on, if there are at least twice as many."""


@dataclass(frozen=True)
class Course:
    """How long and how to learn.

    Attributes:
        steps: of gradient descent.
        batch: texts of each task that a step draws.
        max_tokens: texts that are longer are cut.
        seed: of the order of the texts.
        device: torch device to compute on.
    """

    steps: int = STEPS
    batch: int = BATCH
    max_tokens: int = MAX_TOKENS
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True)
class Learned:
    """What was learned, as `skillpack.compose` takes it.

    Attributes:
        weights: of the skills, or of the skills in each tensor of the base.
        mask: the method that composes; None for the weighted sum.
        facts: JSON for the recipe: method, options, digest of the texts, and figures.
    """

    weights: tuple[float, ...] | dict[str, list[float]]
    mask: Masked | None
    facts: dict[str, Any]


def learned_method(method: str | LearnedMethod, options: Mapping[str, Any] | None = None) -> LearnedMethod:
    """A method with its options.

    Raises:
        UsageError: there is no such method, or it has no such option.
    """
    if not isinstance(method, str):
        if options:
            raise UsageError("Options are given twice", hint="Put them into the method.")
        return method
    if method not in METHODS:
        raise UsageError(f"{method} is no method that learns", hint=f"These are: {listing(METHODS, 20)}.")
    return with_options(METHODS[method], options or {})


def learn_weights(
    skills: Sequence[Active],
    method: LearnedMethod,
    data: Source,
    base: str | Path,
    *,
    course: Course,
    progress: Progress = silent,
) -> Learned:
    """Find out from texts how skills go together.

    Args:
        skills: opened; weighted methods and `Concrete` take any number, `Localise` one.
        method: what to find out.
        data: texts, see `skillpack.composing.learned.examples.read_groups`.
        base: folder or Hub id of the skills' base.
        course: how to learn.
        progress: called during the work.

    Raises:
        CheckpointError, UnsupportedCheckpointError: the base cannot be opened, or predicts nothing to learn from.
        ConflictError: a skill changes what cannot be weighted.
        DataError: the texts cannot be read, or not be learned from.
        NotFiniteError: the model predicts NaN or infinity.
        UsageError: the arguments make no sense.
        WrongBaseError: a skill is of another base.
    """
    _check(skills, method, course)
    groups = read_groups(data)
    live = LiveSum(base, [active.skill for active in skills], course.device)
    lesson = _Lesson(live, open_tokenizer(base), course, progress)
    learned = lesson.learn(method, groups)
    return replace(learned, facts={**facts_of(method, course, groups), **learned.facts})


@dataclass(frozen=True)
class _Lesson:
    """What all methods need.

    Attributes:
        live: the base with the skills.
        tokenizer: of the base.
        course: how to learn.
        progress: called during the work.
    """

    live: LiveSum
    tokenizer: Any
    course: Course
    progress: Progress

    def learn(self, method: LearnedMethod, groups: Sequence[Sequence[Sample]]) -> Learned:
        """Learn, and say in JSON how it went."""
        if isinstance(method, Localise):
            return self._region(method, groups)
        if isinstance(method, (AdaMerging, Concrete)):
            groups = self._answered(method, groups)
        examples = self._examples(groups, labelled=method.labelled)
        if isinstance(method, Concrete):
            return self._mask(method, examples)
        return self._weights(method, examples)

    def _answered(self, method: AdaMerging | Concrete, groups: Sequence[Sequence[Sample]]) -> list[list[Sample]]:
        """Prompts of a language model with answers of its own.

        Where there are as many tasks as skills, each task's prompts are answered by its skill alone: as the paper reads
        the predictions of a task off that task's own head, these here are read off along its own expert's text.
        Otherwise the sum that learning begins with answers.
        """
        live, found = self.live, []
        if task_of(live.model) == "class":
            return [list(group) for group in groups]
        skills = len(live.spots[0].deltas)
        for place, group in enumerate(groups):
            live.set(live.alone(place) if len(groups) == skills else method.start_weights(live))
            found.append(complete(live.model, self.tokenizer, group, ANSWER_TOKENS, progress=self.progress))
        return found

    def _weights(self, method: Weighted, examples: Examples) -> Learned:
        found = method.learn(self.live, examples, self.course.steps, self.progress)
        return Learned(weights_by_name(self.live, found.weights), None, {"losses": ends(found.losses)})

    def _mask(self, method: Concrete, examples: Examples) -> Learned:
        found = method.learn(self.live, examples, self.course.steps, self.progress)
        factors = self.live.by_name([factor.cpu().numpy() for factor in method.factors(found.logits)])
        weights = tuple(method.scale for _ in self.live.spots[0].deltas)
        return Learned(weights, ConcreteMask(mask_digest(factors), factors), {"losses": ends(found.losses)})

    def _region(self, method: Localise, groups: Sequence[Sequence[Sample]]) -> Learned:
        train, held_out = (self._examples(part, labelled=True) for part in split(groups))
        found = method.learn(self.live, train, held_out, self.course.steps, self.progress)
        factors = self.live.by_name([mask.cpu().numpy() for mask in found.chosen.masks])
        facts: dict[str, Any] = {
            "losses": ends(found.losses),
            "share": _rounded(found.chosen.share),
            "kept": _rounded(found.chosen.kept),
            "by_magnitude": [[_rounded(share), _rounded(kept)] for share, kept in found.magnitude],
        }
        if found.learned is not None:
            facts["after_learning"] = [_rounded(found.learned.share), _rounded(found.learned.kept)]
        return Learned((1.0,), RegionMask(mask_digest(factors), factors), facts)

    def _examples(self, groups: Sequence[Sequence[Sample]], *, labelled: bool) -> Examples:
        return Examples(
            groups,
            self.live.model,
            self.tokenizer,
            batch=self.course.batch,
            max_tokens=self.course.max_tokens,
            seed=self.course.seed,
            labelled=labelled,
        )


def facts_of(method: Any, course: Course, groups: Sequence[Sequence[Sample]]) -> dict[str, Any]:
    """What is learned from and how, for a recipe.

    Args:
        method: a dataclass of options with a `name`.
        course: how long and how.
        groups: the texts of each task.
    """
    options = {f"option.{name}": value for name, value in options_of(method).items()}
    about = {"texts": digest_of_samples(groups), **asdict(course)}
    del about["device"]
    return {"method": method.name, **options, **about}


def check_unweighted(skills: Sequence[Active], method: str) -> None:
    """Refuse skills that come with weights.

    Raises:
        UsageError: some do.
    """
    if weighted := [active.skill.name for active in skills if active.weight != 1]:
        raise UsageError(
            f"{method} learns the weights itself, and {listing(weighted)} came with one",
            hint="Name the skills without weights.",
        )


def weights_by_name(live: LiveSum, weights: torch.Tensor) -> tuple[float, ...] | dict[str, list[float]]:
    """Weights as `skillpack.compose` takes them: of the skills, or of the skills in each tensor of the base.

    Args:
        live: the base with the skills.
        weights: fp32 of shape (spots, skills).
    """
    rows = [[round(value, _DIGITS) for value in row] for row in weights.tolist()]
    if all(row == rows[0] for row in rows) and all(rows[0]):
        return tuple(rows[0])
    return live.by_name(rows)


def split(groups: Sequence[Sequence[Sample]]) -> tuple[list[list[Sample]], list[list[Sample]]]:
    """Texts to learn from and texts to measure on; the same ones where there are few."""
    train, held_out = [], []
    for group in groups:
        enough = len(group) >= 2 * _HELD_OUT
        train.append([text for place, text in enumerate(group) if not enough or (place + 1) % _HELD_OUT])
        held_out.append(list(group[_HELD_OUT - 1 :: _HELD_OUT]) if enough else list(group))
    return train, held_out


def _check(skills: Sequence[Active], method: LearnedMethod, course: Course) -> None:
    if not skills:
        raise UsageError("There are no skills to learn about", hint="Name at least one.")
    check_unweighted(skills, method.name)
    if isinstance(method, Localise) and len(skills) > 1:
        raise UsageError("localise looks for the region of one skill", hint="Name one skill.")
    if course.steps < (0 if isinstance(method, Localise) else 1):
        raise UsageError(f"{course.steps} steps make no sense", hint="Ask for one or more.")


def ends(losses: Sequence[float]) -> list[float]:
    """The first and the last loss, for a recipe."""
    return [_rounded(losses[0]), _rounded(losses[-1])] if losses else []


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
