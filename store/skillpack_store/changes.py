"""What differs between two states of a library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skillpack_store.descriptors import Descriptor

__all__ = ["SkillChange", "find_changes"]


@dataclass(frozen=True)
class SkillChange:
    """A skill that is not the same in two states of a library.

    Attributes:
        name: The skill's.
        before: The older one; None if it was added.
        after: The newer one; None if it was removed.
    """

    name: str
    before: Descriptor | None
    after: Descriptor | None

    @property
    def kind(self) -> Literal["added", "removed", "changed"]:
        """What happened, in one word."""
        if self.before is None:
            return "added"
        return "removed" if self.after is None else "changed"

    @property
    def digests(self) -> tuple[str | None, str | None]:
        """Digest before and after; None where there is no such skill."""
        before, after = (None if skill is None else skill.digest for skill in (self.before, self.after))
        return before, after


def find_changes(before: Mapping[str, Descriptor], after: Mapping[str, Descriptor]) -> list[SkillChange]:
    """Return what differs, sorted by name.

    Args:
        before: Name -> skill of the older state.
        after: The same of the newer one.
    """
    return [
        SkillChange(name, before.get(name), after.get(name))
        for name in sorted(before.keys() | after.keys())
        if name not in before or name not in after or before[name].digest != after[name].digest
    ]
