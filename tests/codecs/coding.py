"""A codec's way there and back, as the packer and a skill go it."""

from __future__ import annotations

import json

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
