"""The base, as far as it is needed: its names and digests are in the skills; its values only if it is given."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from skillpack.checkpoint import TensorInfo, open_checkpoint
from skillpack.errors import ConflictError, UsageError, WrongBaseError, listing

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from skillpack.checkpoint import Checkpoint
    from skillpack.installing.claims import Active
    from skillpack.manifest import Manifest
    from skillpack.tensors import Factors, Floats, Tensor


@dataclass(frozen=True, eq=False)
class KnownBase:
    """The base of some skills; see `skillpack.checkpoint.Checkpoint`.

    Attributes:
        origin: what it is called.
        fingerprint: of the whole base.
        digests: base tensor -> digest, of those that the skills name.
        tensors: the same tensors, or all of them if the base is given; without it, shapes are those that skills write.
        given: the base itself.
    """

    origin: str
    fingerprint: str
    digests: Mapping[str, str]
    tensors: Mapping[str, TensorInfo]
    given: Checkpoint | None
    _sound: set[str] = field(default_factory=set, repr=False)

    @property
    def folder(self) -> Path | None:
        """Where it is."""
        return None if self.given is None else self.given.folder

    @property
    def companions(self) -> Mapping[str, Path]:
        """Its other files."""
        return {} if self.given is None else self.given.companions

    @property
    def code_files(self) -> tuple[str, ...]:
        """None that matter."""
        return ()

    def read(self, name: str) -> Tensor:
        """A tensor of the base, compared with the digest that skills have of it when it is first read.

        Raises:
            UsageError: the base is not given.
            WrongBaseError: it is another base.
        """
        if self.given is None:
            raise needs_base([name])
        tensor = self.given.read(name)
        if name not in self._sound:
            if tensor.digest() != self.digests.get(name, tensor.digest()):
                raise WrongBaseError(
                    f"{self.origin} is not the base of these skills: tensor {name} differs",
                    tensors=[name],
                    hint="Give the base that the skills were packed from: --base MODEL",
                )
            self._sound.add(name)
        return tensor

    def update(self, name: str) -> Floats | None:  # noqa: ARG002
        """None: it is no fine-tune."""
        return None

    def factors(self, name: str) -> Factors | None:  # noqa: ARG002
        """None: it is no fine-tune."""
        return None

    def inherits(self, name: str) -> str | None:  # noqa: ARG002
        """None: it is no fine-tune."""
        return None


def open_base(skills: Sequence[Active], base: str | Path | None) -> KnownBase:
    """What is known of the base that all skills are for.

    Raises:
        CheckpointError: the base cannot be read.
        ConflictError: the skills are for different bases.
        WrongBaseError: the base lacks tensors that they change.
    """
    _refuse_other_bases(skills)
    digests = _digests(skills)
    given = None if base is None else open_checkpoint(base)
    fingerprint = skills[0].skill.manifest.base_fingerprint
    if given is None:
        infos = {name: info for active in skills for name, info in _infos(active.skill.manifest)}
        return KnownBase("the base", fingerprint, digests, dict(sorted(infos.items())), None)
    if missing := sorted(digests.keys() - given.tensors.keys()):
        raise WrongBaseError(
            f"{given.origin} is not the base of these skills: it lacks {listing(missing)}",
            tensors=missing,
            hint="Give the base that the skills were packed from: --base MODEL",
        )
    return KnownBase(given.origin, fingerprint, digests, given.tensors, given)


def needs_base(names: Iterable[str]) -> UsageError:
    """The error that the base has to be given for some tensors."""
    found = sorted(names)
    count = "1 tensor is" if len(found) == 1 else f"{len(found)} tensors are"
    return UsageError(
        f"{count} kept bit for bit, as distances from the base's values: {listing(found)}",
        hint="Give the base that the skills were packed from: --base MODEL",
    )


def _refuse_other_bases(skills: Sequence[Active]) -> None:
    first, *others = skills
    for other in others:
        if other.skill.manifest.base_fingerprint != first.skill.manifest.base_fingerprint:
            raise ConflictError(
                f"The skills {first.skill.name} and {other.skill.name} are for different bases",
                hint=f"Move one of them first: skillpack rebase {other.skill.name} --onto BASE",
            )


def _digests(skills: Sequence[Active]) -> dict[str, str]:
    found: dict[str, str] = {}
    for active in skills:
        manifest = active.skill.manifest
        named = [(entry.reference, entry.reference_digest) for entry in manifest.tensors] + list(manifest.gone)
        for name, digest in named:
            if name is not None and digest is not None and found.setdefault(name, digest) != digest:
                raise ConflictError(
                    f"Skill {active.skill.name} was packed from another tensor {name} than the others",
                    hint="Skills of one base can be composed.",
                )
    return found


def _infos(manifest: Manifest) -> list[tuple[str, TensorInfo]]:
    """Base tensors that a manifest names, with the dtype and the shape that it writes."""
    names = {entry.name for entry in manifest.tensors}
    found = []
    for entry in manifest.tensors:
        if entry.reference is not None:
            found.append((entry.reference, TensorInfo(entry.reference, entry.dtype, entry.shape, Path(), 0)))
        if entry.same_as is not None and entry.same_as not in names:
            # It is the same as a tensor that does not change, which only the base has.
            own = manifest.renaming
            name = own.strip + entry.same_as.removeprefix(own.add) if own.add or own.strip else entry.same_as
            found.append((name, TensorInfo(name, entry.dtype, entry.shape, Path(), 0)))
    return found + [(name, TensorInfo(name, "F32", (), Path(), 0)) for name, _ in manifest.gone]
