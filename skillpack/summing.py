"""What several skills make of one tensor: the sum of their weighted deltas, in a fixed order and with one cast.

No files are known here, so that the same rules serve checkpoint folders and live models.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from skillpack.errors import ConflictError, DamagedSkillError, UsageError, listing
from skillpack.skill import first_rows
from skillpack.tensors import DTYPE_BYTES, FLOAT_DTYPES, Floats, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from skillpack.manifest import TensorEntry
    from skillpack.skill import Decoded

_BLOCK: Final = 1 << 17
"""Elements that are summed at a time: few enough that all intermediate results stay in the processor's cache."""


class Claim(NamedTuple):
    """What one skill wants one tensor to be.

    Attributes:
        digest: of the skill; claims are summed in the order of their digests.
        skill: its name, for messages.
        weight: factor of the delta.
        entry: dtype, shape and reference of the tensor as the skill has it.
        decode: gives the skill's content; called when it is the claim's turn, so that one delta is held at a time.
    """

    digest: str
    skill: str
    weight: float
    entry: TensorEntry
    decode: Callable[[], Decoded]


def check_weight(skill: str, weight: float) -> float:
    """Return `weight` if a skill can be installed with it.

    Raises:
        UsageError: it is not finite as fp32, or zero.
    """
    with np.errstate(over="ignore", under="ignore"):
        single = float(np.float32(weight))
    if not math.isfinite(single) or single == 0:
        raise UsageError(
            f"The weight {weight:g} of skill {skill} is not a finite number other than 0",
            hint="Give a weight such as 0.7; to take a skill off, remove it.",
        )
    return float(weight)


def installed_tensor(base: Tensor | None, claims: Sequence[Claim], dtype: str | None = None) -> Tensor:
    """The tensor that an install writes, or a live model of another precision gets.

    A lone claim with an exact value at weight 1 gives that value bit for bit. Otherwise, in fp32, the base plus weight
    times delta for every claim in the order of the digests, where an exact value's delta is its difference from the
    base; then one cast to the claims' dtype, or to the widest of them. What cannot be scaled or added (integers, new
    tensors, grown or shrunk rows) is taken as it is.

    Args:
        base: the whole tensor that the claims' entries refer to; None where they refer to none.
        claims: at least one, all on the same tensor; every skill at most once.
        dtype: to cast to instead, for floating-point numbers.

    Returns:
        A tensor with the claims' shape. Besides it, memory of about twice its fp32 size is used, less for one claim.

    Raises:
        ConflictError: claims that cannot be added differ, or have a weight other than 1.
        DamagedSkillError: a skill's content is not what its entry says.
        UsageError: a weight is zero or not finite.
    """
    for claim in claims:
        check_weight(claim.skill, claim.weight)
    ordered = sorted(claims, key=lambda claim: claim.digest)
    reason = unaddable(base, [claim.entry for claim in ordered])
    if reason is None and base is not None:
        return _sum(base, ordered, dtype)
    return _as(_agreed(base, ordered, reason or "it is not in the base"), dtype)


def unaddable(base: Tensor | None, entries: Sequence[TensorEntry]) -> str | None:
    """Why these entries of one tensor cannot be scaled and added; None if they can."""
    if base is None or any(entry.reference is None for entry in entries):
        return "it is new in the fine-tune"
    if any(entry.common_rows is not None for entry in entries):
        return "the fine-tune has another number of rows"
    if not base.is_float or any(entry.dtype not in FLOAT_DTYPES for entry in entries):
        return "its values are not floating-point numbers"
    return None


def refuse_scaling(name: str, skill: str, weight: float, reason: str, what: str = "tensor") -> None:
    """Raise ConflictError unless the weight is 1."""
    if weight != 1:
        raise ConflictError(
            f"Skill {skill} cannot have weight {weight:g}: {what} {name} cannot be scaled, because {reason}",
            hint=f"Install {skill} with weight 1.",
        )


def _agreed(base: Tensor | None, claims: Sequence[Claim], reason: str) -> Tensor:
    """The one tensor that all claims want."""
    name = claims[0].entry.name
    for claim in claims:
        refuse_scaling(name, claim.skill, claim.weight, reason)
    first = _whole(base, claims[0])
    for claim in claims[1:]:
        other = _whole(base, claim)
        same_form = (other.dtype, other.shape) == (first.dtype, first.shape)
        if not same_form or not np.array_equal(other.data, first.data):
            skills = listing(sorted(claim.skill for claim in claims))
            raise ConflictError(
                f"The skills {skills} differ in tensor {name}, which cannot be added, because {reason}",
                hint="Install one of them.",
            )
    return first


def _whole(base: Tensor | None, claim: Claim) -> Tensor:
    """The tensor as a skill alone has it, at weight 1."""
    entry, decoded = claim.entry, claim.decode()
    if entry.common_rows is None:
        return _checked(claim, _main(base, claim, decoded), entry.shape)
    common = (entry.common_rows, *entry.shape[1:])
    start = None if base is None else first_rows(base, common)
    main = _checked(claim, _main(start, claim, decoded), common)
    if decoded.rows is None:
        return main
    rows = _checked(claim, decoded.rows, (entry.shape[0] - entry.common_rows, *entry.shape[1:]))
    return Tensor(entry.dtype, entry.shape, np.concatenate([main.data, rows.data]))


def _main(start: Tensor | None, claim: Claim, decoded: Decoded) -> Tensor:
    if decoded.value is not None:
        return decoded.value
    if start is None or decoded.delta is None:
        raise DamagedSkillError(f"Skill {claim.skill}: tensor {claim.entry.name} is relative to nothing")
    return _one_delta(start, claim, decoded, claim.entry.dtype)


def _checked(claim: Claim, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    if (tensor.dtype, tensor.shape) != (claim.entry.dtype, shape):
        raise DamagedSkillError(
            f"Skill {claim.skill}: tensor {claim.entry.name} is {tensor}, expected was {claim.entry.dtype} {shape}"
        )
    return tensor


def _sum(base: Tensor, claims: Sequence[Claim], dtype: str | None) -> Tensor:
    if len(claims) == 1:
        decoded = claims[0].decode()
        if decoded.value is not None and claims[0].weight == 1:
            return _as(_checked(claims[0], decoded.value, base.shape), dtype)
        dtype = dtype or claims[0].entry.dtype
        return _one_delta(base, claims[0], decoded, dtype)
    total = np.empty(math.prod(base.shape), np.float32)
    for block in _blocks(total.size):
        total[block] = _floats(base, block)
    for claim in claims:
        _accumulate(total, base, claim)
    return _cast(base, dtype or widest([claim.entry.dtype for claim in claims]), lambda block: total[block])


def _as(tensor: Tensor, dtype: str | None) -> Tensor:
    return tensor if dtype in {None, tensor.dtype} else Tensor.from_float32(tensor.float32(), str(dtype))


def _accumulate(total: Floats, base: Tensor, claim: Claim) -> None:
    """Add a claim to `total`; its content is dropped on return, before the next one's is decoded."""
    decoded = claim.decode()
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for block in _blocks(total.size):
            total[block] += _weighted(base, claim, decoded, block)


def _one_delta(base: Tensor, claim: Claim, decoded: Decoded, dtype: str) -> Tensor:
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        return _cast(base, dtype, lambda block: _floats(base, block) + _weighted(base, claim, decoded, block))


def _cast(base: Tensor, dtype: str, values: Callable[[slice], Floats]) -> Tensor:
    """Cast block after block, so that the fp32 values of the whole tensor need not be there at once."""
    size, width = math.prod(base.shape), DTYPE_BYTES[dtype]
    data = np.empty(size * width, np.uint8)
    for block in _blocks(size):
        data[block.start * width : block.stop * width] = Tensor.from_float32(values(block), dtype).data
    return Tensor(dtype, base.shape, data)


def _weighted(base: Tensor, claim: Claim, decoded: Decoded, block: slice) -> Floats:
    """Weight times delta of the elements in `block`."""
    content = decoded.delta if decoded.value is None else decoded.value
    if content is None or content.shape != base.shape:
        raise DamagedSkillError(f"Skill {claim.skill}: tensor {claim.entry.name} does not have shape {base.shape}")
    if isinstance(content, Tensor):
        delta = _floats(content, block) - _floats(base, block)
    else:
        delta = content.reshape(-1)[block]
    return np.multiply(delta, np.float32(claim.weight), dtype=np.float32)


def _floats(tensor: Tensor, block: slice) -> Floats:
    width = DTYPE_BYTES[tensor.dtype]
    part = tensor.data[block.start * width : block.stop * width]
    return Tensor(tensor.dtype, (block.stop - block.start,), part).float32()


def _blocks(size: int) -> Iterator[slice]:
    for start in range(0, size, _BLOCK):
        yield slice(start, min(size, start + _BLOCK))


def widest(dtypes: Sequence[str]) -> str:
    """The dtype that holds the values of all: neither of BF16 and F16 holds the other's."""
    distinct = set(dtypes)
    if distinct == {"BF16", "F16"}:
        return "F32"
    return max(distinct, key=DTYPE_BYTES.__getitem__)
