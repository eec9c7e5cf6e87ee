"""Opening skills in one line, as transformers' Auto classes open models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skillpack.interop.importing import import_adapter
from skillpack.library import open_wanted, show
from skillpack.summaries import open_existing

if TYPE_CHECKING:
    from pathlib import Path

    from skillpack.skill import Skill
    from skillpack.summaries import StoreLike


class AutoSkill:
    """Opens skills from where they are; it has no instances.

    Example:
        >>> skill = AutoSkill.from_library("math@3")  # doctest: +SKIP
        >>> skill.manifest.tensors[0].name  # doctest: +SKIP
        'model.embed_tokens.weight'
    """

    def __init__(self) -> None:
        raise TypeError("AutoSkill has no instances; call AutoSkill.from_library or AutoSkill.from_adapter")

    @classmethod
    def from_library(cls, address: str, *, store: StoreLike = None, branch: str = "main") -> Skill:
        """Open a skill of a library, every byte checked.

        Args:
            address: ``math``, ``math@3``, ``math@TAG`` or ``math@sha256:…``.
            store: where; by default the user's own store.
            branch: branch of the library.

        Raises:
            NotFoundError: there is no such skill.
            NotTrustedError: the policy requires a signature and none counts.
            CorruptStoreError: it is damaged.
        """
        (wanted,) = open_wanted(address, store=open_existing(store), branch=branch)
        return wanted.skill

    @classmethod
    def from_adapter(
        cls,
        adapter: str | Path,
        base: str | Path,
        name: str | None = None,
        *,
        store: StoreLike = None,
        branch: str = "main",
    ) -> Skill:
        """Take a LoRA adapter into a library and open the skill; arguments and errors are `import_adapter`'s."""
        report = import_adapter(adapter, base, name, store=store, branch=branch)
        return show(f"{report.name}@{report.digest}", store=store, branch=branch).skill
