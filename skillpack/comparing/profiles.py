"""What is remembered of a skill's deltas so that a whole library is compared in a moment: energies and sketches.

Each tensor's delta D is projected from both sides, P^T D Q, onto random signs that depend on the tensor's name alone,
so that the inner product of two skills' projections is that of their deltas but for a small random error (Johnson and
Lindenstrauss; signs: Achlioptas 2003, https://doi.org/10.1016/S0022-0000(03)00025-4). A factored delta is never formed.

Profiles are kept in ``cache/profiles/`` of the store, named by the skill's digest. They can be deleted at any time; one
that is damaged, or was written by another version, is passed over and made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from skillpack.comparing.changes import Changes
from skillpack.tensor_differences import NotComparableError
from skillpack_store import disk

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from skillpack.checkpoint import Checkpoint
    from skillpack.comparing.changes import Change
    from skillpack.skill import Skill
    from skillpack.tensors import Floats
    from skillpack_store import Repository

SIDE: Final = 16
"""Rows and columns of a tensor's sketch."""
_HEADER: Final = "skillpack profile 1 "
_ENOUGH: Final = 0.5
"""Share of a skill's weights of which something must be known, so that the rest does not decide."""
_LIMIT: Final = 1 << 28
"""Bytes of a file that is believed to be a profile."""


@dataclass(frozen=True)
class Profile:
    """What is remembered of one skill.

    Attributes:
        energies: tensor -> squared norm of its delta.
        sketch: projections of these tensors, in their order; fp32 [tensors, SIDE * SIDE].
        left_out: tensor -> why its delta is not known.
        known_share: share of the changed weights whose delta is known.
    """

    energies: Mapping[str, float]
    sketch: Floats
    left_out: Mapping[str, str]
    known_share: float = 1.0

    @property
    def energy(self) -> float:
        """Squared norm of all deltas."""
        return math.fsum(self.energies.values())

    def dump(self) -> bytes:
        """As a file; `load` reads it."""
        told = {"energies": dict(self.energies), "left_out": dict(self.left_out), "known_share": self.known_share}
        content = json.dumps(told).encode() + b"\n" + self.sketch.astype("<f4").tobytes()
        return f"{_HEADER}{hashlib.sha256(content).hexdigest()}\n".encode() + content

    @classmethod
    def load(cls, data: bytes) -> Profile:
        """Inverse of `dump`; ValueError, TypeError, KeyError or AttributeError if it is no profile."""
        head, _, content = data.partition(b"\n")
        if head.decode() != f"{_HEADER}{hashlib.sha256(content).hexdigest()}":
            raise ValueError("it is damaged, or of another version")
        told, _, values = content.partition(b"\n")
        document = json.loads(told)
        energies = {str(name): float(energy) for name, energy in document["energies"].items()}
        sketch = np.frombuffer(values, "<f4").reshape(len(energies), SIDE * SIDE)
        if not (np.isfinite(sketch).all() and all(map(math.isfinite, energies.values()))):
            raise ValueError("it is not finite")
        left_out = {str(name): str(why) for name, why in document["left_out"].items()}
        return cls(energies, sketch, left_out, float(document["known_share"]))


class Profiles:
    """The profiles of a store's skills, made when they are first asked for.

    Args:
        repository: where the skills are.
        base: the model that the skills go on, if known; for what comes back bit for bit.
    """

    def __init__(self, repository: Repository, base: Checkpoint | None = None) -> None:
        self._repository = repository
        self._base = base
        self._folder = repository.path / "cache" / "profiles"

    def known(self, digest: str) -> Profile | None:
        """The profile of a skill if it can be had without decoding the skill."""
        try:
            with self._path(digest).open("rb") as file:
                profile = Profile.load(file.read(_LIMIT))
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None
        # Without a base less may have been found out than can be now.
        return None if profile.left_out and self._base is not None else profile

    def get(self, skill: Skill) -> Profile:
        """The profile of a skill.

        Raises:
            WrongBaseError: the skill goes on another base than the one that is given.
            DamagedSkillError: the skill is damaged.
        """
        known = self.known(skill.digest)
        if known is not None:
            return known
        profile = profile_of(skill, self._base)
        # A cache: where it cannot be written, profiles are made again.
        with contextlib.suppress(OSError):
            disk.make_directory(self._folder)
            disk.replace(self._path(skill.digest), [profile.dump()])
        return profile

    def prune(self) -> None:
        """Drop the profiles of skills that are not in the store any more."""
        with contextlib.suppress(OSError):
            for path in sorted(self._folder.iterdir()):
                if not self._repository.blobs.path(f"sha256:{path.name}").exists():
                    disk.unlink(path)

    def _path(self, digest: str) -> Path:
        return self._folder / digest.removeprefix("sha256:")


def profile_of(skill: Skill, base: Checkpoint | None) -> Profile:
    """Make the profile of a skill, one tensor at a time; raises as `Profiles.get` does."""
    changes = Changes(skill, base)
    energies, sketches, left_out = {}, [], {}
    for key in sorted(changes.entries):
        try:
            change = changes.read(key)
        except NotComparableError as error:
            left_out[key] = str(error)
            continue
        if change is not None:
            energies[key] = change.energy()
            sketches.append(_sketch(key, change).reshape(-1))
    found = np.stack(sketches) if sketches else np.zeros((0, SIDE * SIDE), np.float32)
    weights = {key: math.prod(entry.shape) for key, entry in changes.entries.items()}
    unknown = sum(weights[key] for key in left_out)
    return Profile(energies, found, left_out, 1 - unknown / max(1, sum(weights.values())))


def similarity(first: Profile, second: Profile) -> float | None:
    """The cosine of two skills' deltas, estimated from their sketches.

    Tensors that are left out of one are left out of both. Returns None if one delta is zero, or most of it not known.
    """
    if min(first.known_share, second.known_share) < _ENOUGH:
        return None
    skipped = first.left_out.keys() | second.left_out.keys()
    keys = [[key for key in one.energies if key not in skipped] for one in (first, second)]
    mine, theirs = (_vectors(one, own) for one, own in zip((first, second), keys, strict=True))
    norms = math.sqrt(float(np.vdot(mine, mine))) * math.sqrt(float(np.vdot(theirs, theirs)))
    if not norms:
        return None
    if keys[0] != keys[1]:
        common = sorted(set(keys[0]) & set(keys[1]))
        mine, theirs = _vectors(first, common), _vectors(second, common)
    return max(-1.0, min(1.0, float(np.vdot(mine, theirs)) / norms))


def _vectors(profile: Profile, keys: Sequence[str]) -> Floats:
    """The sketches of some tensors, in the order of `keys`."""
    if len(keys) == len(profile.energies) and list(keys) == list(profile.energies):
        return profile.sketch
    rows = {key: row for row, key in enumerate(profile.energies)}
    return profile.sketch[[rows[key] for key in keys]]


def _sketch(key: str, change: Change) -> Floats:
    left, right = (_signs(f"{side} {key}", size) for side, size in zip("lr", change.shape, strict=True))
    return change.projected(left, right) / np.float32(SIDE)


def _signs(name: str, size: int) -> Floats:
    """Random signs [size, SIDE] that depend on nothing but the name."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little")
    bits = np.frombuffer(np.random.Generator(np.random.PCG64(seed)).bytes(size * SIDE // 8), np.uint8)
    return 2.0 * np.unpackbits(bits).reshape(size, SIDE).astype(np.float32) - 1.0
