"""Making a router for a live model, and routing prompts with a base that is opened for it."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Final

from skillpack.errors import ReportedError, UsageError, listing
from skillpack.grafting.wrappers import unwrap
from skillpack.live.models import open_model, open_tokenizer
from skillpack.routing.applying import HostSkills
from skillpack.routing.features import Base
from skillpack.routing.methods import OWN
from skillpack.routing.protocol import Routes
from skillpack.routing.router import SkillRouter
from skillpack.summaries import list_skills

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import torch

    from skillpack.routing.protocol import Method, Threshold, Tokens
    from skillpack.summaries import StoreLike
    from skillpack.texts import Sample

ENTRY_POINTS: Final = "skillpack.routers"


def open_router(
    model: torch.nn.Module,
    tokenizer: Any,
    skills: Sequence[str] | None = None,
    *,
    method: str = "prototype",
    top_k: int = 1,
    threshold: Threshold = "auto",
    store: StoreLike = None,
    branch: str = "main",
) -> SkillRouter:
    """Make a router for a live base.

    Args:
        model: the base, loaded by transformers; its weights are only read. If it is a host of skills in overlay mode,
            they do not matter to routes.
        tokenizer: of the base.
        skills: addresses of those to choose from; by default all of the library that can be used. What cannot (no
            examples, another base, damaged, a second name of the same skill) is in the router's `left_out`.
        method: "prototype", "linear" and "self-refined" compare with the examples that are attached to the skills
            (`add_examples`); "arrow" and "likelihood" need none; or one that a package offers.
        top_k: most skills for a prompt.
        threshold: least score of a skill that is chosen; "auto" is what the method finds for each skill, see
            docs/route.md.
        store: where the skills are.
        branch: branch of the library.

    Raises:
        UsageError: there is no such method.
        DataError: a skill that was named has no examples and the method needs some.
        UnsupportedModelError: the method can do nothing with this kind of model.
        see `skillpack.Host.graft` for what is wrong with skills that were named, or with all of the library.
    """
    base = Base(model, tokenizer, HostSkills(unwrap(model), store, branch))
    router = SkillRouter(base, method_named(method)(base), store=store, branch=branch, top_k=top_k, threshold=threshold)
    _add(router, skills, store, branch)
    return router


def route(
    prompts: Sequence[str | Sample | Tokens] | str,
    base: str | Path,
    skills: Sequence[str] | None = None,
    *,
    method: str = "prototype",
    top_k: int = 1,
    threshold: Threshold = "auto",
    store: StoreLike = None,
    branch: str = "main",
) -> Routes:
    """Which skills serve each prompt; those with no choice are the base's.

    The base is opened for this alone. Where there is more to route, `open_router` keeps it.

    Args:
        prompts: what a user asks, one or several.
        base: a model folder or a Hub id.
        skills: see `open_router`, as all others.
        method: see `open_router`.
        top_k: see `open_router`.
        threshold: see `open_router`.
        store: see `open_router`.
        branch: see `open_router`.

    Raises:
        CheckpointError: the base cannot be opened.
        see `open_router`.

    Example:
        >>> route("What is 12 times 12?", "org/base")[0].choices  # doctest: +SKIP
    """
    asked = [prompts] if isinstance(prompts, str) else prompts
    router = open_router(
        open_model(base),
        open_tokenizer(base),
        skills,
        method=method,
        top_k=top_k,
        threshold=threshold,
        store=store,
        branch=branch,
    )
    return Routes(router.route(asked), router.left_out)


def method_named(name: str) -> Callable[[Base], Method]:
    """What makes a method of routing for a base: one of ours, or one that a package offers.

    Raises:
        UsageError: there is none of this name.
    """
    if name in OWN:
        return OWN[name]
    offered = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if name not in offered:
        raise UsageError(
            f"There is no method {name!a} of routing", hint=f"Choose from {listing([*OWN, *offered], 20)}."
        )
    found: Callable[[Base], Method] = offered[name].load()
    return found


def _add(router: SkillRouter, skills: Sequence[str] | None, store: StoreLike, branch: str) -> None:
    """Those that were named; of a whole library, those that can be used, if any can."""
    if skills is not None:
        for address in skills:
            router.add(address)
        return
    problems = [problem for skill in list_skills(store=store, branch=branch) if (problem := _tried(router, skill.name))]
    if problems and not router.skills:
        raise problems[0]


def _tried(router: SkillRouter, name: str) -> ReportedError | None:
    try:
        router.add(name)
    except ReportedError as error:
        router.left_out[name] = str(error)
        return error
    return None
