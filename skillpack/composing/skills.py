"""Compose skills of a library, and commit the result to it."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skillpack.composing.composition import Composition
from skillpack.composing.keeping import commit_composed, put_composed, report_of
from skillpack.composing.known_base import open_base
from skillpack.composing.making import made
from skillpack.composing.protocol import Layered, Tasked, options_of
from skillpack.composing.recipe import Recipe, RecipePart
from skillpack.composing.registry import make_method
from skillpack.errors import UsageError, listing
from skillpack.grafting.addresses import Shelf
from skillpack.installing.claims import Active, find_targets
from skillpack.packing.opening import Hands
from skillpack.packing.payload import put_skill
from skillpack.progress import Progress, silent
from skillpack.signing.checking import require_trusted
from skillpack.skill import open_skill
from skillpack.summaries import label_of, open_existing
from skillpack_store import Repository, check_skill_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from skillpack.composing.known_base import KnownBase
    from skillpack.composing.making import Made
    from skillpack.composing.protocol import Method
    from skillpack.composing.report import ComposeReport
    from skillpack.summaries import StoreLike

    Weighting = Sequence[float] | Mapping[str, Sequence[float]] | None


@dataclass(frozen=True)
class _Order:
    """What is asked for.

    Attributes:
        method: by name or made.
        options: of a method by name.
        weights: instead of those in the addresses, or for each tensor.
        task: name of a part.
        size: bytes.
        learned: for the recipe.
    """

    method: str | Method
    options: Mapping[str, Any] = field(default_factory=dict)
    weights: Weighting = None
    task: str | None = None
    size: int | None = None
    learned: Mapping[str, Any] | None = None


def compose(
    addresses: Sequence[str],
    name: str,
    *,
    method: str | Method = "sum",
    options: Mapping[str, Any] | None = None,
    weights: Weighting = None,
    task: str | None = None,
    size: int | None = None,
    learned: Mapping[str, Any] | None = None,
    base: str | Path | None = None,
    store: StoreLike = None,
    branch: str = "main",
    message: str = "",
    author: str | None = None,
    workers: int | None = None,
    device: str = "cpu",
    dry_run: bool = False,
    progress: Progress = silent,
) -> ComposeReport:
    """Make one skill of several, and commit it.

    Everything goes tensor by tensor, straight from the store; memory is bounded by the largest tensor. A composition
    that was interrupted goes on where it was when it is started again. How the skill was made is in its manifest, and
    the same recipe gives the same digest.

    Args:
        addresses: of the skills, each with an optional weight: ``math``, ``code@3=0.7``.
        name: of the composed skill.
        method: its name, see ``docs/compose.md``, or a `skillpack.composing.protocol.Method`.
        options: of the method: ``{"density": 0.5}``.
        weights: factors in the order of the addresses, instead of theirs; or name of a tensor of the base -> factors,
            for those tensors alone. There they may be zero.
        task: name of one of the skills, for methods that give a task its own back (emr, tall-masks).
        size: bytes on disk that the skill may take. By default it is as faithful to what is composed as the parts are
            to their fine-tunes; a weighted sum then keeps their streams.
        learned: what weights were learned from; noted in the recipe.
        base: folder, file or Hub id of the base. It is needed where a part is kept bit for bit, as the norms of 16-bit
            models are.
        store: folder of the store; by default the user's own.
        branch: branch of the library.
        message: why, for the history.
        author: who, for the history; by default the user's login.
        workers: tensors that are worked on at a time; by default one for each core.
        device: torch device that finds singular vectors.
        dry_run: do all the work but store nothing.
        progress: called during the work.

    Raises:
        ConflictError: skills are for different bases, or want different things of what cannot be added.
        NotFiniteError: a delta holds NaN or infinity.
        NotFoundError: there is no such skill.
        NotTrustedError: the policy requires a signature and none of a skill's counts.
        UsageError: there is no such method or option, weights make no sense, the base has to be given, or the size
            cannot be met.
        WrongBaseError: the base is another one.

    Example:
        >>> compose(["math=0.7", "code=0.3"], "both", method="ties", options={"density": 0.3})  # doctest: +SKIP
    """
    target = check_skill_name(name)
    repository = open_existing(store)
    if not addresses:
        raise UsageError("No skill is named", hint="Write skillpack compose math code --name both")
    weighted = [address for address in addresses if "=" in address]
    if weighted and weights is not None and not isinstance(weights, Mapping):
        raise UsageError(
            f"{listing(weighted)} have weights, and others are given too", hint="Give weights in one of the two ways."
        )
    order = _Order(method, options or {}, weights, task, size, learned)
    skills, recipe, how = _ordered(Shelf(repository, branch).find(addresses), order)
    hands = Hands(workers, device)
    with _composed(skills, recipe, how, open_base(skills, base), (hands, progress)) as (recipe, found):
        report = report_of(target, recipe, found)
        if dry_run:
            return report
        with repository.writing():
            skill = put_composed(repository, skills, report, found.packed)
            what = message or f"Compose {', '.join(part.name for part in recipe.parts)} by {recipe.method}"
            commit_composed(repository, {target: skill}, branch=branch, author=author, message=what)
    kept = repository.resolve(f"{target}@{skill.digest}", branch)
    return replace(report, version=kept.version, digest=skill.digest)


def recompose(
    address: str,
    *,
    base: str | Path | None = None,
    store: StoreLike = None,
    branch: str = "main",
    workers: int | None = None,
    device: str = "cpu",
    progress: Progress = silent,
) -> ComposeReport:
    """Compose a skill once more from the library, by the recipe in its manifest, and compare; nothing is stored.

    What is a weighted sum comes out the same everywhere. What was coded anew may differ in last bits on a machine of
    another kind, or with another version of torch.

    Args:
        address: of a composed skill.
        base: as for `compose`.
        store: folder of the store; by default the user's own.
        branch: branch of the library.
        workers: as for `compose`.
        device: likewise.
        progress: called during the work.

    Returns:
        What came out; `same` says whether it is the same skill.

    Raises:
        NotFoundError: the skill, or one of its parts, is not in the store.
        UsageError: it was not composed; otherwise as `compose` raises.
    """
    repository = open_existing(store)
    resolved = repository.resolve(address, branch)
    opened = open_skill(repository, resolved.descriptor.digest, resolved.name)
    if opened.manifest.recipe is None:
        raise UsageError(
            f"{label_of(resolved)} was not composed but packed from a fine-tune",
            hint="skillpack show says how a skill was made.",
        )
    recipe = Recipe.from_json(opened.manifest.recipe)
    skills = [_open_part(repository, part) for part in recipe.parts]
    how = _for_task(make_method(recipe.method, recipe.options), recipe)
    hands = Hands(workers, device)
    with (
        _composed(skills, recipe, how, open_base(skills, base), (hands, progress)) as (recipe, found),
        tempfile.TemporaryDirectory(prefix="skillpack-compose-") as room,
    ):
        report = report_of(resolved.name, recipe, found)
        again = put_skill(
            Repository.open_or_create(Path(room) / "store"),
            resolved.name,
            found.packed.manifest,
            found.packed.payload,
        )
    return replace(report, version=resolved.version, digest=again.digest, expected=opened.digest)


@contextmanager
def _composed(
    skills: Sequence[Active], recipe: Recipe, how: Method, known: KnownBase, working: tuple[Hands, Progress]
) -> Iterator[tuple[Recipe, Made]]:
    composition = Composition(tuple(skills), recipe, known, find_targets(skills, known))
    _check_weighted(composition)
    if isinstance(how, Layered):
        how = how.with_layers(composition.layers)
        composition = replace(composition, recipe=replace(recipe, options=options_of(how)))
    with made(composition, how, *working) as found:
        yield composition.recipe, found


def _ordered(skills: Sequence[Active], order: _Order) -> tuple[list[Active], Recipe, Method]:
    """The skills in the order of the recipe, the recipe, and the method."""
    method = make_method(order.method, order.options) if isinstance(order.method, str) else order.method
    if order.options and not isinstance(order.method, str):
        raise UsageError("A method that is made already has its options", hint="Give options to the method itself.")
    factors = _factors(skills, order.weights)
    by_tensor = order.weights if isinstance(order.weights, Mapping) else {}
    places = list(range(len(skills)))
    if not method.ordered:
        places.sort(key=lambda at: skills[at].skill.digest)
    chosen = [skills[at]._replace(weight=factors[at]) for at in places]
    recipe = Recipe(
        method=method.name,
        options=options_of(method),
        parts=tuple(RecipePart(each.skill.name, each.skill.digest, each.weight) for each in chosen),
        task=order.task,
        weights={name: [_number(found[at]) for at in places] for name, found in _checked(by_tensor, skills).items()},
        size=order.size,
        learned=order.learned,
    )
    return chosen, recipe, _for_task(method, recipe)


def _factors(skills: Sequence[Active], weights: Weighting) -> list[float]:
    if weights is None or isinstance(weights, Mapping):
        return [active.weight for active in skills]
    if len(weights) != len(skills):
        raise UsageError(
            f"{len(weights)} weights for {len(skills)} skills", hint="Give one weight for each skill, in their order."
        )
    found = [_number(weight) for weight in weights]
    if not all(found):
        raise UsageError("A skill of weight 0 adds nothing", hint="Leave it out.")
    return found


def _checked(weights: Mapping[str, Sequence[float]], skills: Sequence[Active]) -> Mapping[str, Sequence[float]]:
    for name, found in weights.items():
        if len(found) != len(skills):
            raise UsageError(f"Tensor {name} has {len(found)} weights for {len(skills)} skills")
    return weights


def _check_weighted(composition: Composition) -> None:
    names = {target.reference for target in composition.targets.values()}
    if unknown := sorted(composition.recipe.weights.keys() - names - composition.base.digests.keys()):
        raise UsageError(
            f"There are weights for {listing(unknown)}, which no skill changes",
            hint="Weights go by the names of the base's tensors, as skillpack show --tensors lists them.",
        )


def _number(weight: float) -> float:
    if not math.isfinite(weight):
        raise UsageError(f"{weight} is no weight", hint="Give a finite number such as 0.7.")
    return float(weight)


def _for_task(method: Method, recipe: Recipe) -> Method:
    if recipe.task is None:
        return method
    if not isinstance(method, Tasked):
        raise UsageError(
            f"The method {method.name} gives no task its own back",
            hint="Leave out --task, or choose emr, tall-masks or twin.",
        )
    names = [part.name for part in recipe.parts]
    if recipe.task not in names:
        raise UsageError(f"{recipe.task} is none of the skills", hint=f"Choose one of {listing(names)}.")
    return method.for_task(names.index(recipe.task))


def _open_part(repository: Repository, part: RecipePart) -> Active:
    require_trusted(repository, part.digest, part.name)
    return Active(open_skill(repository, part.digest, part.name), part.weight)
