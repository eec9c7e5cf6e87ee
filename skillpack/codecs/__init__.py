"""Codecs: how one tensor's delta is written down. One file per codec, one small protocol, one registry."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points

from skillpack.codecs.direct import Direct
from skillpack.codecs.exact import Exact
from skillpack.codecs.factors import AdapterFactors
from skillpack.codecs.lowrank import LowRank
from skillpack.codecs.protocol import Codec
from skillpack.codecs.raw import Raw
from skillpack.codecs.residual import Residual
from skillpack.codecs.sparse import Sparse
from skillpack.codecs.sum import Sum
from skillpack.codecs.tucker import Tucker
from skillpack.errors import DamagedSkillError

__all__ = [
    "AdapterFactors",
    "Codec",
    "Direct",
    "Exact",
    "LowRank",
    "Raw",
    "Residual",
    "Sparse",
    "Sum",
    "Tucker",
    "codec_named",
]

_ALL: tuple[Codec, ...] = (AdapterFactors(), Direct(), Exact(), LowRank(), Raw(), Residual(), Sparse(), Sum(), Tucker())
_OWN = {codec.name: codec for codec in _ALL}


@cache
def codec_named(name: str) -> Codec:
    """The codec that a manifest names: one of ours, or one that a package offers as entry point `skillpack.codecs`.

    Raises:
        DamagedSkillError: nobody knows this codec.
    """
    if name in _OWN:
        return _OWN[name]
    for point in entry_points(group="skillpack.codecs", name=name):
        codec: Codec = point.load()()
        return codec
    raise DamagedSkillError(
        f"the skill uses codec {name!r}, which is not known here",
        hint="Upgrade skillpack, or install the package that offers this codec.",
    )
