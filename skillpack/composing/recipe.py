"""What a composed skill was made of, and how: enough to make it again from a library, byte for byte."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from skillpack.errors import DamagedSkillError
from skillpack_store import canonical_json, parse_digest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

VERSION: Final = 1


@dataclass(frozen=True)
class RecipePart:
    """A skill that went in.

    Attributes:
        name: what it was called.
        digest: of its content.
        weight: factor of its delta.
    """

    name: str
    digest: str
    weight: float

    def to_json(self) -> dict[str, Any]:
        """As in a manifest."""
        return {"name": self.name, "digest": self.digest, "weight": self.weight}


@dataclass(frozen=True)
class Recipe:
    """How a skill was composed.

    Attributes:
        method: its name.
        options: all of its options.
        parts: the skills, in an order that does not depend on how they were named unless the method's result does.
        task: name of the part that was given back; None for what all share.
        weights: tensor of the base -> factors of the parts, where they differ from tensor to tensor.
        size: bytes that the skill may take; None where it is as faithful as its parts.
        learned: what the weights were learned from, for information.
    """

    method: str
    options: Mapping[str, Any]
    parts: tuple[RecipePart, ...]
    task: str | None = None
    weights: Mapping[str, Sequence[float]] = field(default_factory=dict)
    size: int | None = None
    learned: Mapping[str, Any] | None = None

    def weights_of(self, reference: str) -> list[float]:
        """Factors of the parts for one tensor of the base."""
        found = self.weights.get(reference)
        return [part.weight for part in self.parts] if found is None else list(found)

    @property
    def digest(self) -> str:
        """Of everything in it."""
        return f"sha256:{hashlib.sha256(canonical_json(self.to_json())).hexdigest()}"

    def to_json(self) -> dict[str, Any]:
        """As in a manifest: what is absent is left out."""
        document: dict[str, Any] = {
            "version": VERSION,
            "method": self.method,
            "options": dict(self.options),
            "parts": [part.to_json() for part in self.parts],
            "task": self.task,
            "weights": {name: list(self.weights[name]) for name in sorted(self.weights)} or None,
            "size": self.size,
            "learned": None if self.learned is None else dict(self.learned),
        }
        return {key: value for key, value in document.items() if value is not None}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Recipe:
        """Inverse of `to_json`.

        Raises:
            DamagedSkillError: it is no recipe of this version.
        """
        try:
            if document["version"] != VERSION:
                raise DamagedSkillError(
                    f"the recipe has version {document['version']!r}; this version reads {VERSION}",
                    hint="Upgrade skillpack.",
                )
            return cls(
                method=str(document["method"]),
                options=dict(document["options"]),
                parts=tuple(
                    RecipePart(str(part["name"]), parse_digest(part["digest"]), float(part["weight"]))
                    for part in document["parts"]
                ),
                task=document.get("task"),
                weights={
                    str(name): [float(weight) for weight in weights]
                    for name, weights in document.get("weights", {}).items()
                },
                size=document.get("size"),
                learned=document.get("learned"),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DamagedSkillError(f"the recipe of the skill is damaged: {error!r}") from error
