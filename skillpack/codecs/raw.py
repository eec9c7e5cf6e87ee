"""Tensors as they are: new ones, and those of dtypes that have no meaningful difference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import zstandard

from skillpack.codecs.protocol import Encoding, Layout
from skillpack.errors import DamagedSkillError
from skillpack.tensors import DTYPE_BYTES, Bytes, Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from skillpack.codecs.entropy import Chunk, ChunkReader

_CHUNK: Final = 1 << 24
"""Bytes of a tensor in a chunk."""


class Raw:
    """Bytes, those of equal significance side by side, compressed with zstandard."""

    name = "raw"

    def encode(self, reference: Tensor | None, tuned: Tensor) -> Encoding:
        """See `LosslessCodec`; the reference is not used."""
        del reference

        def chunks() -> Iterator[Chunk]:
            compressor = zstandard.ZstdCompressor(level=12)
            for first in range(0, tuned.nbytes, _CHUNK):
                yield compressor.compress(_by_significance(tuned.data[first : first + _CHUNK], tuned.dtype).tobytes())

        return Encoding({}, chunks)

    def decode(
        self, parameters: Mapping[str, Any], chunks: Iterator[ChunkReader], layout: Layout, reference: Tensor | None
    ) -> Tensor:
        """See `Codec`."""
        del parameters, reference
        size = DTYPE_BYTES[layout.dtype] * int(np.prod(layout.shape, dtype=np.int64))
        data = np.empty(size, np.uint8)
        for first in range(0, size, _CHUNK):
            piece = data[first : first + _CHUNK]
            piece[:] = _by_address(_decompress(next(chunks).data, piece.size), layout.dtype)
        return Tensor(layout.dtype, layout.shape, data)


def _decompress(coded: bytes, size: int) -> Bytes:
    try:
        announced = zstandard.get_frame_parameters(coded).content_size
        if announced != size:
            raise DamagedSkillError(f"a raw part announces {announced} bytes where {size} were expected")
        return np.frombuffer(
            zstandard.ZstdDecompressor().decompress(coded, max_output_size=size, allow_extra_data=False), np.uint8
        )
    except zstandard.ZstdError as error:
        raise DamagedSkillError(f"a raw part does not decompress: {error}") from error


def _by_significance(data: Bytes, dtype: str) -> Bytes:
    return data.reshape(-1, DTYPE_BYTES[dtype]).T.reshape(-1)


def _by_address(data: Bytes, dtype: str) -> Bytes:
    return data.reshape(DTYPE_BYTES[dtype], -1).T.reshape(-1)
