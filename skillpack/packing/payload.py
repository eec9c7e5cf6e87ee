"""The coded streams of a skill on their way into layers."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from skillpack.manifest import LAYER_TYPE, MEDIA_TYPE
from skillpack.safetensors_file import plan_header
from skillpack.skill import open_skill
from skillpack_store import Descriptor, SkillManifest, digest_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from skillpack.manifest import Manifest
    from skillpack_store import Repository

SINGLE_LAYER: Final = 64 << 20
"""Below this many bytes all blocks share one layer; above, each block is a layer of its own."""
_COPY: Final = 1 << 20


class Payload:
    """Coded chunks in a temporary file, gathered by block."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="skillpack-")  # noqa: SIM115 - closed in `close`
        self._spans: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self._end = 0

    def add(self, block: str, data: bytes) -> None:
        """Append a chunk to a block."""
        self._file.write(data)
        self._spans[block].append((self._end, len(data)))
        self._end += len(data)

    def layers(self) -> list[Iterator[bytes]]:
        """The layers as chunks of safetensors files of U8 tensors, one tensor per block, sorted by name."""
        return [self._layer(blocks) for blocks in layer_blocks(self.sizes())]

    def sizes(self) -> dict[str, int]:
        """Bytes of each block."""
        return {block: sum(size for _, size in spans) for block, spans in self._spans.items()}

    def close(self) -> None:
        """Give the temporary file back."""
        self._file.close()

    def _layer(self, blocks: list[str]) -> Iterator[bytes]:
        sizes = self.sizes()
        yield layer_header({block: sizes[block] for block in blocks})
        for block in blocks:
            for start, size in self._spans[block]:
                for offset in range(0, size, _COPY):
                    self._file.seek(start + offset)
                    yield self._file.read(min(_COPY, size - offset))


def skill_size(manifest: Manifest, blocks: Mapping[str, int]) -> int:
    """Bytes of everything that the digest of a skill covers.

    Args:
        manifest: of the skill.
        blocks: bytes of each block.
    """
    config = Descriptor(digest_of(b""), len(manifest.dump()), MEDIA_TYPE)
    layers = [
        Descriptor(digest_of(b""), len(layer_header(sizes)) + sum(sizes.values()), LAYER_TYPE)
        for names in layer_blocks(blocks)
        for sizes in [{name: blocks[name] for name in names}]
    ]
    return len(SkillManifest.build(config, layers)) + config.size + sum(layer.size for layer in layers)


def put_skill(repository: Repository, name: str, manifest: Manifest, payload: Payload) -> Descriptor:
    """Put a coded skill into a store; nothing refers to it yet.

    Raises:
        DamagedSkillError: it cannot be opened again; what cannot must not get into a library.
    """
    layers = [(layer, LAYER_TYPE) for layer in payload.layers()]
    skill = repository.put_skill(manifest.dump(), MEDIA_TYPE, layers)
    open_skill(repository, skill.digest, name)
    return skill


def layer_blocks(sizes: Mapping[str, int]) -> list[list[str]]:
    """Which blocks go into which layer, both sorted; empty blocks are left out."""
    blocks = sorted(block for block, size in sizes.items() if size)
    if sum(sizes.values()) <= SINGLE_LAYER:
        return [blocks] if blocks else []
    return [[block] for block in blocks]


def layer_header(sizes: Mapping[str, int]) -> bytes:
    """First bytes of the layer that holds these blocks."""
    return plan_header({block: ("U8", (size,)) for block, size in sizes.items()})
