"""Examples of what a skill is for, as features of the base, attached to the skill without changing it.

The prompts themselves are not kept. An attachment is an OCI referrer of the type `EXAMPLES_TYPE` with one safetensors
file, in which are ``prompts``, fp16 of shape (examples, width), ``refined``, the same under the skill (see
`skillpack.routing.methods.refined`; it may be missing), ``probe``, fp16 of shape (width,): features of a fixed text, by
which a base, a tokenizer or a template that is another one is noticed, and ``layer``, int64, after which they were
taken. All of a skill's attachments for the same base count together, so that what several people have added adds up, in
whatever order it arrives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from skillpack.errors import DataError, StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skillpack.routing.features import Base
    from skillpack_store import Descriptor, Repository

EXAMPLES_TYPE: Final = "application/vnd.skillpack.examples.v1+safetensors"
EXAMPLES_LIMIT: Final = 32 << 20
"""Bytes of one attachment."""
MOST_EXAMPLES: Final = 512
"""That count, of one skill: more cost memory, and decide nothing."""
PROBE: Final = "The quick brown fox jumps over the lazy dog. What does it do next?"
_SAME: Final = 0.05
"""Distance of two features of the probe, relative to their norm, that bf16 and another machine may make."""
_TWICE: Final = 1e-3
"""That distance below which two features are of one prompt, computed in other batches."""
_TITLE: Final = "examples.safetensors"


@dataclass(frozen=True, eq=False)
class Examples:
    """What the base makes of a skill's own prompts.

    Attributes:
        prompts: fp32 of shape (examples, width), see `Base.features`.
        refined: the same with the skill on, of those for which that was computed; None if there are none.
    """

    prompts: torch.Tensor
    refined: torch.Tensor | None

    def __len__(self) -> int:
        return len(self.prompts)


def attach_examples(
    repository: Repository, skill: Descriptor, base: Base, prompts: torch.Tensor, refined: torch.Tensor | None
) -> Descriptor:
    """Attach features of examples to a skill; the same ones once more change nothing.

    Args:
        repository: the store.
        skill: as the store knows it.
        base: by which they were computed.
        prompts: see `Examples`.
        refined: see `Examples`.
    """
    tensors = {"prompts": prompts, "probe": _probe(base)[0]} | ({} if refined is None else {"refined": refined})
    stored = {name: values.to(torch.float16).contiguous() for name, values in tensors.items()}
    if not all(bool(values.isfinite().all()) for values in stored.values()):
        raise DataError("The base gives features of these examples that are no numbers")
    content = save({**stored, "layer": torch.tensor(base.layer)})
    return repository.attach(skill, EXAMPLES_TYPE, [(content, EXAMPLES_TYPE, _TITLE)])


def find_examples(repository: Repository, digest: str, base: Base) -> Examples | None:
    """The examples of a skill that fit a base; None if nothing is attached.

    Args:
        repository: the store.
        digest: of the skill.
        base: that is to be routed from.

    Raises:
        DataError: there are some, but none that can be used with this base.
    """
    entries = [entry for entry in repository.referrers(digest) if entry.artifact_type == EXAMPLES_TYPE]
    tried = [_tried(repository, entry, digest, base) for entry in sorted(entries, key=lambda entry: entry.digest)]
    found = [each for each in tried if isinstance(each, Examples)]
    problems = [each for each in tried if not isinstance(each, Examples)]
    if problems and not found:
        raise DataError(
            f"The examples of the skill {digest[:19]} cannot be used: {problems[0]}",
            hint="Add some for this base: skillpack add-examples SKILL FILE --base MODEL",
        )
    return _joined(found)


def _tried(repository: Repository, entry: Descriptor, digest: str, base: Base) -> Examples | Exception:
    try:
        return _read(repository, entry, digest, base)
    except (ValueError, StoreError) as error:
        return error


def _joined(found: Sequence[Examples]) -> Examples | None:
    """All of them; what several attachments hold counts once."""
    if not found:
        return None
    # Where a prompt was added twice, the one stays of which more is known.
    prompts: list[torch.Tensor] = []
    refined: list[torch.Tensor] = []
    for each in sorted(found, key=lambda each: each.refined is None):
        new = torch.ones(len(each), dtype=torch.bool) if not prompts else _new(each.prompts, torch.cat(prompts))
        prompts.append(each.prompts[new])
        if each.refined is not None:
            refined.append(each.refined[new])
    return Examples(torch.cat(prompts)[:MOST_EXAMPLES], torch.cat(refined)[:MOST_EXAMPLES] if refined else None)


def _new(features: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Which rows are not known already, bool."""
    distances = torch.cdist(features, known, compute_mode="donot_use_mm_for_euclid_dist")
    return ~(distances <= _TWICE * known.norm(dim=1)).any(1)


def _read(repository: Repository, entry: Descriptor, digest: str, base: Base) -> Examples:
    """One attachment; anybody who can write to the store can attach one, so nothing about it is believed."""
    attachment = repository.attachment(entry.digest)
    if attachment.subject.digest != digest or len(attachment.files) != 1:
        raise ValueError("they are attached in another way")
    content = repository.blobs.read(attachment.files[0].digest, limit=EXAMPLES_LIMIT)
    tensors = _loaded(content)
    width = _probe(base).shape[1]
    prompts, refined, probe = tensors["prompts"], tensors.get("refined"), tensors["probe"]
    if prompts.dim() != 2 or not 0 < len(prompts) <= MOST_EXAMPLES:
        raise ValueError(f"there are {len(prompts)} of them")
    if probe.shape != (width,) or prompts.shape[1] != width or (refined is not None and refined.shape != prompts.shape):
        raise ValueError("they were computed by a base of another width")
    if int(tensors["layer"]) != base.layer or not _same(probe, _probe(base)[0]):
        raise ValueError("they were computed by another base, or with another tokenizer or chat template")
    return Examples(prompts, refined)


def _loaded(content: bytes) -> dict[str, torch.Tensor]:
    try:
        tensors = load(content)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise ValueError(f"they are damaged: {error}") from error
    if not {"prompts", "probe", "layer"} <= tensors.keys() <= {"prompts", "probe", "layer", "refined"}:
        raise ValueError("they are damaged: tensors are missing")
    layer = tensors.pop("layer")
    if layer.dtype != torch.int64 or layer.dim() or any(found.dtype != torch.float16 for found in tensors.values()):
        raise ValueError("they are damaged: tensors are of another kind")
    if not all(bool(values.isfinite().all()) for values in tensors.values()):
        raise ValueError("they are damaged: values are no numbers")
    return {"layer": layer, **{name: values.float() for name, values in tensors.items()}}


def _probe(base: Base) -> torch.Tensor:
    """Features of the probe, fp32 of shape (1, width)."""
    if base.probe is None:
        base.probe = base.features([base.read(PROBE)])
    return base.probe


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return float((one - other).norm()) <= _SAME * float(other.norm())
