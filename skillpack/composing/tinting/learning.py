"""Learning a composed skill and a layer for each of its tasks, and committing both to the library."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from skillpack.composing.keeping import commit_composed, put_composed, report_of
from skillpack.composing.known_base import open_base
from skillpack.composing.learned.examples import Examples, read_groups
from skillpack.composing.learned.learning import (
    ANSWER_TOKENS,
    BATCH,
    MAX_TOKENS,
    STEPS,
    Course,
    check_unweighted,
    ends,
    facts_of,
    split,
    weights_by_name,
)
from skillpack.composing.learned.live import LiveSum
from skillpack.composing.skills import compose
from skillpack.composing.tinting.fitting import Tinting, distance, fit, put, spot_of, verdicts
from skillpack.composing.tinting.layers import LayerMaker
from skillpack.errors import UsageError
from skillpack.grafting.addresses import Shelf
from skillpack.live.generation import complete
from skillpack.live.models import open_tokenizer
from skillpack.live.predictions import task_of
from skillpack.packing.opening import Hands
from skillpack.progress import Progress, silent
from skillpack.summaries import open_existing
from skillpack_store import check_skill_name

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from skillpack.composing.learned.examples import Piece, Source
    from skillpack.composing.report import ComposeReport
    from skillpack.composing.tinting.fitting import Tinted
    from skillpack.composing.tinting.trusting import Verdict
    from skillpack.installing.claims import Active
    from skillpack.summaries import StoreLike
    from skillpack.tensors import Floats
    from skillpack.texts import Sample
    from skillpack_store import Descriptor, Repository


@dataclass(frozen=True)
class Tint:
    """The layer of one task.

    Attributes:
        task: name of the expert.
        name: of the skill that holds it; empty if it brings held-out texts no nearer to the expert, and is not kept.
        version: of that skill in the library; None if it is not kept.
        digest: likewise; empty if it is not kept.
        size: bytes on disk of everything that its digest covers.
        before: cross-entropy of what the expert finds likeliest under the composed skill alone, nats per prediction, on
            held-out texts.
        after: the same with the layer beside it, as it is stored.
    """

    task: str
    name: str
    version: int | None
    digest: str
    size: int
    before: float
    after: float


@dataclass(frozen=True)
class TintReport:
    """What was learned.

    Attributes:
        shared: the composed skill.
        layer: the tensor of the base that each task has its own of.
        tints: one for each task.
        texts: how many were learned from.
        held_out: how many were measured on; tasks with fewer than eight texts have the same ones.
    """

    shared: ComposeReport
    layer: str
    tints: tuple[Tint, ...]
    texts: int
    held_out: int


def learn_tints(
    addresses: Sequence[str],
    name: str,
    *,
    data: Source,
    base: str | Path,
    how: Tinting = Tinting(),  # noqa: B008  frozen
    steps: int = STEPS,
    batch: int = BATCH,
    max_tokens: int = MAX_TOKENS,
    seed: int = 0,
    device: str = "cpu",
    store: StoreLike = None,
    branch: str = "main",
    message: str = "",
    author: str | None = None,
    workers: int | None = None,
    progress: Progress = silent,
) -> TintReport:
    """Compose skills with coefficients for each tensor, and learn a layer of its own for each of their tasks.

    The composed skill is called as asked, and each layer is a skill ``NAME-EXPERT`` of that one tensor: installed or
    grafted beside the composed one, it puts the task's layer in place of the composed one's, and takes it away again
    when it is removed. No labels are needed: prompts of a language model are answered by the task's expert first.

    What differs from the paper: every fourth text is held out, where the paper learns from the test set itself, without
    its labels; of a language model every predicted token counts, and the layer is one of its last block, where the
    paper's classifiers have heads.

    Args:
        addresses: of the skills, without weights.
        name: of the composed skill.
        data: texts of each skill's task, in their order; see `skillpack.composing.learned.examples.read_groups`.
        base: folder or Hub id of the skills' base.
        how: which layer, and how fast.
        steps: of learning; each goes over texts of every task.
        batch: texts of a task that a step draws.
        max_tokens: texts that are longer are cut.
        seed: of what is drawn.
        device: torch device to learn on.
        store: folder of the store; by default the user's own.
        branch: branch of the library.
        message: why, for the history.
        author: who, for the history; by default the user's login.
        workers: see `skillpack.compose`.
        progress: called during the work.

    Raises:
        CheckpointError, UnsupportedCheckpointError: the base cannot be opened, or predicts nothing to learn from.
        ConflictError: a skill changes what cannot be weighted, or skills do not go together.
        DataError: the texts cannot be read, or not be learned from.
        NotFiniteError: the model predicts NaN or infinity.
        NotFoundError: there is no such skill.
        UsageError: the arguments make no sense.
        WrongBaseError: a skill is of another base.

    Example:
        >>> learn_tints(  # doctest: +SKIP
        ...     ["math", "code"], "both", data=["math.jsonl", "code.jsonl"], base="org/base"
        ... )
    """
    check_skill_name(name)
    repository = open_existing(store)
    skills = Shelf(repository, branch).find(addresses)
    groups = read_groups(data)
    _check(skills, name, groups, steps)
    course = Course(steps, batch, max_tokens, seed, device)
    live = LiveSum(base, [active.skill for active in skills], device)
    layer = live.names[spot_of(live, how.layer)]
    lesson = _Lesson.prepared(live, open_tokenizer(base), course, groups, progress)
    found = fit(live, lesson.examples, how, steps=steps, seed=seed, progress=progress)
    facts = {**facts_of(replace(how, layer=layer), course, groups), "losses": ends(found.losses)}
    what = message or f"Compose {', '.join(active.skill.name for active in skills)} by {how.name}"
    committing: dict[str, Any] = {"branch": branch, "author": author}
    shared = compose(
        # By digest: the library may have moved on while there was learning.
        [f"{active.skill.name}@{active.skill.digest}" for active in skills],
        name,
        weights=weights_by_name(live, found.weights),
        learned=facts,
        base=base,
        store=store,
        message=what,
        workers=workers,
        device=device,
        progress=progress,
        **committing,
    )
    hands = Hands(workers, device)
    maker = LayerMaker(skills, open_base(skills, base), layer, lesson.names_of(found.spot), facts, hands)
    workshop = _Workshop(repository, name, maker, lesson, found, progress)
    with repository.writing():
        tints = [workshop.tint(task) for task in range(len(skills))]
        if kept := {tint.name: skill for tint, skill in tints if tint.name}:
            commit_composed(repository, kept, message=f"{what}: a layer for each task", **committing)
    texts, held_out = lesson.counts
    numbered = tuple(
        replace(tint, version=repository.resolve(f"{tint.name}@{tint.digest}", branch).version) if tint.name else tint
        for tint, _ in tints
    )
    return TintReport(shared, layer, numbered, texts, held_out)


@dataclass(frozen=True, eq=False)
class _Workshop:
    """Where what was learned becomes skills.

    Attributes:
        repository: the store.
        name: of the composed skill.
        maker: of skills of one tensor.
        lesson: the live model.
        found: what was learned.
        progress: called during the work.
    """

    repository: Repository
    name: str
    maker: LayerMaker
    lesson: _Lesson
    found: Tinted
    progress: Progress

    def tint(self, task: int) -> tuple[Tint, Descriptor]:
        """Put the skill of one task's layer into the store, and see whether it is worth to be kept."""
        maker, lesson, found = self.maker, self.lesson, self.found
        expert = maker.skills[task].skill.name
        before = lesson.distance(task, found)
        with maker.made(expert, lesson.added(task, found), self.progress) as layer:
            report = report_of(_name_of(self.name, expert), layer.recipe, layer.made)
            skill = put_composed(self.repository, maker.skills, report, layer.made.packed)
        after = lesson.distance(task, found, maker.stored(self.repository, skill.digest, report.name, layer.recipe))
        kept = after < before
        digest = skill.digest if kept else ""
        return Tint(expert, report.name if kept else "", None, digest, report.size, before, after), skill


@dataclass(frozen=True, eq=False)
class _Lesson:
    """The live model, and the texts of all tasks.

    Attributes:
        live: the base with the skills.
        examples: of each task, to learn from.
        held_out: of each task, texts to measure on and what the expert says of them.
        counts: how many texts there are to learn from, and to measure on.
    """

    live: LiveSum
    examples: Sequence[Examples]
    held_out: Sequence[tuple[list[Piece], list[Verdict]]]
    counts: tuple[int, int]

    @classmethod
    def prepared(
        cls, live: LiveSum, tokenizer: Any, course: Course, groups: Sequence[Sequence[Sample]], progress: Progress
    ) -> _Lesson:
        """Let the experts answer what is to be answered, and say what they find of the texts that are held out."""
        if task_of(live.model) != "class":
            groups = list(groups)
            for task, group in enumerate(groups):
                live.set(live.alone(task))
                groups[task] = complete(live.model, tokenizer, group, ANSWER_TOKENS, progress=progress)
        train, measured = split(groups)

        def examples(samples: Sequence[Sample]) -> Examples:
            return Examples(
                [samples],
                live.model,
                tokenizer,
                batch=course.batch,
                max_tokens=course.max_tokens,
                seed=course.seed,
                labelled=False,
            )

        held_out = []
        for task, samples in enumerate(measured):
            pieces = [piece.to(live.device) for piece in examples(samples).all()]
            held_out.append((pieces, verdicts(live, task, pieces)))
        counts = sum(map(len, train)), sum(map(len, measured))
        return cls(live, [examples(samples) for samples in train], held_out, counts)

    def names_of(self, spot: int) -> frozenset[str]:
        """All names of a spot's tensor in the base."""
        numbers = self.live.by_name(range(len(self.live.spots)))
        return frozenset(name for name, number in numbers.items() if number == spot)

    def added(self, task: int, found: Tinted) -> Floats:
        """What the skill of a task's layer adds to the base's tensor, beside the composed skill."""
        values: Floats = (found.layers[task] - self._composed(found)).cpu().numpy()
        return values

    def distance(self, task: int, found: Tinted, added: Floats | None = None) -> float:
        """How far the composed skill is from a task's expert on held-out texts; see `Tint`.

        Args:
            task: number of the task.
            found: what was learned.
            added: by the skill of the task's layer; None for the composed skill alone.
        """
        layer = self._composed(found)
        if added is not None:
            layer = layer + torch.from_numpy(added).to(self.live.device)
        put(self.live, found.weights, found.spot, layer)
        return distance(self.live, *self.held_out[task])

    def _composed(self, found: Tinted) -> torch.Tensor:
        """What the composed skill adds to the tensor that tasks have their own of."""
        spot = self.live.spots[found.spot]
        total = torch.zeros(spot.base.shape, device=self.live.device)
        for weight, delta in zip(found.weights[found.spot].tolist(), spot.deltas, strict=True):
            if delta is not None:
                delta.add_to(total, weight)
        return total


def _name_of(name: str, expert: str) -> str:
    return f"{name}-{expert}"


def _check(skills: Sequence[Active], name: str, groups: Sequence[Sequence[Sample]], steps: int) -> None:
    if len(skills) < 2:
        raise UsageError("Tinting is for a skill that is composed of several", hint="Name two skills or more.")
    check_unweighted(skills, Tinting.name)
    if len(groups) != len(skills):
        raise UsageError(
            f"There are texts of {len(groups)} tasks for {len(skills)} skills",
            hint="Give the texts of each skill's task, in the order of the skills: --data ONE --data OTHER",
        )
    if steps < 1:
        raise UsageError(f"{steps} steps make no sense", hint="Ask for one or more.")
    for active in skills:
        check_skill_name(_name_of(name, active.skill.name))
