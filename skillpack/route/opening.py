"""Making a router for a live model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from skillpack.route.protocol import Router
    from skillpack.summaries import StoreLike


def open_router(
    model: torch.nn.Module,
    tokenizer: Any,
    skills: Sequence[str] | None = None,
    *,
    method: str = "prototype",
    top_k: int = 1,
    threshold: float | Literal["auto"] = "auto",
    store: StoreLike = None,
    branch: str = "main",
) -> Router:
    """Make a router for a live base.

    Args:
        model: the base, loaded by transformers; a router only reads it.
        tokenizer: of the base.
        skills: addresses of those to choose from; by default the whole library.
        method: "prototype", "linear" and "self-refined" compare with the examples that are attached to the skills
            (`add_examples`), "arrow" and "likelihood" need none; or one that a package offers.
        top_k: most skills for a prompt.
        threshold: least score of a skill that is chosen; "auto" is what the method has found for each skill.
        store: where the skills are.
        branch: branch of the library.
    """
    raise NotImplementedError
