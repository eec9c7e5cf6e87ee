"""A codec's way there and back, as the packer and a skill go it."""

from __future__ import annotations

import json

import numpy as np

from skillpack.codecs import lowrank
from skillpack.codecs.entropy import ChunkReader, Tables, count_all, encode_chunk
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
        for level, first, last in lowrank._runs(parameters):
            spread = 2.0 ** (level / 2) / np.sqrt(entries)
            values = np.rint(spread * random.normal(size=entries * (last - first))).astype(np.int64)
            chunk.append((lowrank._context(level, entries), values))
    tables = count_all([chunk]).tables()
    return parameters, [encode_chunk(chunk, tables)], tables
