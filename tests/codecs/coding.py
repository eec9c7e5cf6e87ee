"""A codec's way there and back, as the packer and a skill go it."""

from __future__ import annotations

import json

import numpy as np

from skillpack.codecs import lowrank, tucker
from skillpack.codecs.dither import UNIT, Dither, is_fine
from skillpack.codecs.entropy import ChunkReader, Tables, count_all, encode_chunk
from skillpack.codecs.matrix import matrix_shape
from skillpack.codecs.noise import Seed
from skillpack.codecs.protocol import Layout


def coded(encoding):
    """Parameters, chunks and tables of an encoding, each after a pass through its stored form."""
    tables = count_all(encoding.chunks()).tables()
    chunks = [encode_chunk(chunk, tables) for chunk in encoding.chunks()]
    stored = Tables.from_json(json.loads(json.dumps(tables.to_json())))
    return json.loads(json.dumps(encoding.parameters)), chunks, stored


def decoded(codec, parts, layout, reference=None):
    parameters, chunks, tables = parts
    return codec.decode(parameters, iter([ChunkReader(chunk, tables) for chunk in chunks]), Layout(*layout), reference)


def coded_size(parts):
    return sum(map(len, parts[1]))


def lowrank_streams():
    """Coded streams that do not come from an SVD, whose last bits depend on the machine."""
    random = np.random.default_rng(5)
    counts = [3, 0, 7, 0, 0, 40, 0, 0, 0, 0, 100]
    parameters = {"outer": 2.0**-30 / 3, "top": 21, "columns": counts}
    chunk = []
    for entries in (300, 200):
        for level, first, last in lowrank._runs(parameters, entries):
            spread = 2.0 ** (level / 2) / np.sqrt(entries)
            values = np.rint(spread * random.normal(size=entries * (last - first))).astype(np.int64)
            chunk.append((lowrank._context(level, entries), values))
    tables = count_all([chunk]).tables()
    return parameters, [encode_chunk(chunk, tables)], tables


def tucker_streams(*, dither=False):
    """Coded streams of a 20x6x60x50 tensor that do not come from a decomposition either."""
    random, noise = np.random.default_rng(6), Seed(("a",)).noise()
    shape = (20, 6, 60, 50)
    parameters = {
        "outer": 2.0**-30 / 3,
        "level": 11,
        "axes": [0, 2, 3],
        "tops": [15, 14, 14],
        "slices": [[1, 0, 3, 4, 0, 1], [3, 0, 7, 0, 0, 15, 11], [2, 2, 4, 9, 0, 0, 0, 8]],
    }
    if dither:
        parameters |= {"outer": 2.0**-30 / 3 / UNIT**4, "level": 2, "dither": 7}
    offsets = Dither.announced(parameters)
    factors = []
    for axis in parameters["axes"]:
        for context, columns, fine in tucker._runs(parameters, axis, shape[axis]):
            spread = 2.0 ** (int(context.partition(".")[2]) / 2)
            values = np.rint(spread * random.normal(size=shape[axis] * (columns.stop - columns.start)))
            factors += tucker._rounded(context, values.astype(np.float32), noise, offsets, fine=fine)
    core = []
    for _, levels in tucker._core_blocks(parameters, shape):
        for level in np.unique(levels).tolist():
            values = np.rint(2.0**level * random.normal(size=int((levels == level).sum()))).astype(np.float32)
            own = tucker._of_level(offsets, level)
            core += tucker._rounded(f"tucker.{level}", values, noise, own, fine=is_fine(2 * level))
    tables = count_all([factors, core]).tables()
    return parameters, [encode_chunk(chunk, tables) for chunk in (factors, core)], tables


def there_and_back(delta, step, *, codec, seed):
    """A delta as a codec that folds it to a matrix gives it back, its coded parts, and the encoding."""
    encoding = codec.encode(codec.analyse(delta.reshape(matrix_shape(delta.shape)), step), step, seed)
    parts = coded(encoding)
    return decoded(codec, parts, ("F32", delta.shape)), parts, encoding
