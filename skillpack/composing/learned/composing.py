"""Learn how skills go together, and compose them so."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from skillpack.composing.learned.concrete import Concrete
from skillpack.composing.learned.learning import (
    BATCH,
    MAX_TOKENS,
    STEPS,
    Course,
    learn_weights,
    learned_method,
)
from skillpack.composing.skills import compose
from skillpack.grafting.addresses import Shelf
from skillpack.progress import Progress, silent
from skillpack.summaries import open_existing
from skillpack_store import check_skill_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from skillpack.composing.learned.examples import Source
    from skillpack.composing.learned.learning import LearnedMethod
    from skillpack.composing.report import ComposeReport
    from skillpack.summaries import StoreLike


def learned_compose(
    addresses: Sequence[str],
    name: str,
    *,
    method: str | LearnedMethod,
    data: Source,
    base: str | Path,
    options: Mapping[str, Any] | None = None,
    steps: int = STEPS,
    batch: int = BATCH,
    max_tokens: int = MAX_TOKENS,
    seed: int = 0,
    learn_device: str = "cpu",
    size: int | None = None,
    store: StoreLike = None,
    branch: str = "main",
    message: str = "",
    author: str | None = None,
    workers: int | None = None,
    device: str = "cpu",
    dry_run: bool = False,
    progress: Progress = silent,
) -> ComposeReport:
    """Make one skill of several with weights or a mask that are learned from texts, and commit it.

    What was learned, and what from, is in the recipe. Weights are there in full, so that composing again needs no
    texts. Learning starts anew if it was interrupted; what comes after it goes on where it was.

    Args:
        addresses: of the skills, without weights.
        name: of the composed skill.
        method: "adamerging", "atlas", "self-positioning", "concrete", "localise", or one of their dataclasses.
        data: texts, prompts or answered chats: what `skillpack.texts.read_samples` reads, or samples; or several of
            these, one for each task, of which every step draws. As many tasks as skills are taken to be theirs, in
            their order, by methods that let a model answer the prompts.
        base: folder or Hub id of the skills' base.
        options: of a method by name: ``{"layerwise": False}``.
        steps: of gradient descent.
        batch: texts of each task that a step draws.
        max_tokens: texts that are longer are cut.
        seed: of the order of the texts, and of what a method draws.
        learn_device: torch device to learn on.
        size: bytes on disk that the skill may take, see `skillpack.compose`.
        store: folder of the store; by default the user's own.
        branch: branch of the library.
        message: why, for the history.
        author: who, for the history; by default the user's login.
        workers: see `skillpack.compose`.
        device: likewise.
        dry_run: do all the work but store nothing.
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
        >>> learned_compose(  # doctest: +SKIP
        ...     ["math", "code"], "both", method="adamerging", data="prompts.jsonl", base="org/base"
        ... )
    """
    check_skill_name(name)
    how = learned_method(method, options)
    if isinstance(how, Concrete) and isinstance(method, str) and "seed" not in (options or {}):
        how = replace(how, seed=seed)
    skills = Shelf(open_existing(store), branch).find(addresses)
    course = Course(steps, batch, max_tokens, seed, learn_device)
    found = learn_weights(skills, how, data, base, course=course, progress=progress)
    return compose(
        # By digest: the library may have moved on while weights were learned.
        [f"{active.skill.name}@{active.skill.digest}" for active in skills],
        name,
        method="sum" if found.mask is None else found.mask,
        weights=found.weights,
        learned=found.facts,
        size=size,
        base=base,
        store=store,
        branch=branch,
        message=message or f"Compose {', '.join(active.skill.name for active in skills)} by {how.name}",
        author=author,
        workers=workers,
        device=device,
        dry_run=dry_run,
        progress=progress,
    )
