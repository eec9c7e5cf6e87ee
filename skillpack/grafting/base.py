"""A live model as the base of skills: its tensors by the checkpoint's names, proven by the digests that skills name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from skillpack.checkpoint import TensorInfo
from skillpack.errors import ModifiedModelError, WrongBaseError, listing
from skillpack.grafting.live_tensors import TORCH_DTYPES, live, origins, same_bits, stored
from skillpack.grafting.originals import HostCopies
from skillpack.installing.claims import Active, check_base

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skillpack.checkpoint import Checkpoint
    from skillpack.grafting.originals import Originals
    from skillpack.grafting.places import Place
    from skillpack.skill import Skill
    from skillpack.tensors import Factors, Floats, Tensor


@dataclass(frozen=True)
class _Proof:
    """What is known of one tensor of the base.

    Attributes:
        digest: of the checkpoint's tensor.
        dtype: of it; the live tensor's may be another.
    """

    digest: str
    dtype: str


class LiveBase:
    """The base that a live model was loaded from; has what `skillpack.checkpoint.Checkpoint` asks for.

    Args:
        places: the live model's tensors.
        originals: where the base's values are once skills are on the model.
        checkpoint: the base's files, if they are at hand. Without, the values themselves must prove what they were
            loaded from, which those of a bf16 checkpoint do in fp32 and need not in fp16.
    """

    def __init__(
        self, places: Mapping[str, Place], originals: Originals | None = None, checkpoint: Checkpoint | None = None
    ) -> None:
        self.places = places
        self.checkpoint = checkpoint
        self._originals = originals or HostCopies()
        self._proofs: dict[str, _Proof] = {}
        self.origin = "the live model" if checkpoint is None else checkpoint.origin
        self.folder = None
        self.companions: Mapping[str, Path] = {} if checkpoint is None else checkpoint.companions
        self.code_files = ()

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """The base's tensors; without its files, those that skills which were checked refer to."""
        if self.checkpoint is not None:
            return self.checkpoint.tensors
        return {name: self._info(name, self._proofs[name].dtype) for name in sorted(self._proofs)}

    def check(self, skill: Skill) -> None:
        """Check that the live model's base, as far as the skill touches it, is the one that it was packed from.

        Raises:
            WrongBaseError: names every tensor that is missing, has another shape or differs.
        """
        manifest = skill.manifest
        needed = {entry.reference: entry.reference_digest for entry in manifest.tensors if entry.reference is not None}
        needed.update(manifest.gone)
        found = {
            name: self._proofs.get(name) or self._prove(name, str(digest))
            for name, digest in needed.items()
            if name in self.places
        }
        shelf = _Candidates({name: self._info(name, proof.dtype) for name, proof in found.items()})
        try:
            check_base(Active(skill), shelf, {name: proof.digest for name, proof in found.items()})  # type: ignore[arg-type]
        except WrongBaseError as error:
            raise WrongBaseError(str(error), tensors=error.tensors, hint=self._hint(error)) from None
        self._proofs.update(found)

    def read(self, name: str) -> Tensor:
        """A tensor of the base, as the checkpoint has it, whatever is on the live model now."""
        if self.checkpoint is not None:
            return self.checkpoint.read(name)
        return stored(self.values(name).to(TORCH_DTYPES[self._proofs[name].dtype]))

    def values(self, name: str) -> torch.Tensor:
        """A tensor of the base in the live tensor's dtype."""
        place = self.places[name]
        return self._originals.values(place) if self._originals.has(place) else place.values

    def keep(self, name: str) -> None:
        """Make sure that the base's values can be had once they are overwritten.

        Raises:
            ModifiedModelError: they are no longer what they were when they were checked.
        """
        place = self.places[name]
        if self._originals.has(place):
            return
        try:
            self._originals.keep(place, name)
            self._check_kept(place, name)
        except BaseException:
            self._originals.forget(place)
            raise

    def _check_kept(self, place: Place, name: str) -> None:
        if not self.unharmed(name) or not same_bits(self._originals.values(place), place.values):
            raise ModifiedModelError(
                f"{name} was changed by somebody else since the skill was checked",
                tensors=[name],
                hint="Load the base anew.",
            )

    def unharmed(self, name: str) -> bool:
        """Whether the base's tensor, as it would be put back, has the digest that was proven."""
        return self.read(name).digest() == self._proofs[name].digest

    def put_back(self, place: Place) -> torch.Tensor:
        """The base's values of a place that was kept."""
        return self._originals.values(place)

    def update(self, name: str) -> Floats | None:  # noqa: ARG002
        """None: a base holds values."""
        return None

    def factors(self, name: str) -> Factors | None:  # noqa: ARG002
        """None: a base holds values."""
        return None

    def inherits(self, name: str) -> str | None:  # noqa: ARG002
        """None: a base has none of its own."""
        return None

    def _prove(self, name: str, digest: str) -> _Proof:
        """What the live tensor was loaded from: what has this digest, if anything that it can have been has."""
        if self.checkpoint is not None and name in self.checkpoint.tensors:
            tensor = self.checkpoint.read(name)
            loaded = same_bits(self._loaded(name), self.values(name))
            return _Proof(tensor.digest() if loaded else "", tensor.dtype)
        first = None
        for tensor in origins(self.values(name)):
            proof = _Proof(tensor.digest(), tensor.dtype)
            if proof.digest == digest:
                return proof
            first = first or proof
        return first or _Proof("", "F32")

    def _loaded(self, name: str) -> torch.Tensor:
        """The file's tensor, cast as loading does."""
        return live(self.checkpoint.read(name)).to(self.places[name].tensor.dtype)  # type: ignore[union-attr]

    def _info(self, name: str, dtype: str) -> TensorInfo:
        place = self.places[name]
        return TensorInfo(name, dtype, place.shape, Path(), place.values.numel() * place.tensor.element_size())

    def _hint(self, error: WrongBaseError) -> str:
        lossy = {torch.float16, torch.bfloat16}
        names = [name for name in error.tensors if name in self.places]
        if self.checkpoint is None and any(self.places[name].tensor.dtype in lossy for name in names):
            return (
                "If the model was loaded in another dtype than its checkpoint's, give the checkpoint: "
                'skillpack.host(model, base="org/base").'
            )
        return f"Graft it on the base that it was packed from; {listing(error.tensors, 3)} must be as they were."


@dataclass(frozen=True)
class _Candidates:
    """As much of a checkpoint as `check_base` looks at."""

    tensors: Mapping[str, TensorInfo]
