from __future__ import annotations

import numpy as np
import pytest

from skillpack.codecs import LowRank, Raw, Sparse, Sum
from skillpack.codecs.entropy import ChunkReader, Tables, count_all, encode_chunk
from skillpack.codecs.noise import Seed
from skillpack.codecs.protocol import Layout
from skillpack.codecs.sum import Term
from skillpack.errors import DamagedSkillError
from skillpack.tensors import Tensor

SHAPE = (24, 16)
LAYOUT = Layout("F32", SHAPE)


def term(codec, step, weight, name, seed):
    """A coded random delta as a term, its tables, and what it decodes to."""
    random = np.random.default_rng(seed)
    delta = (random.normal(size=(SHAPE[0], 3)) @ random.normal(size=(3, SHAPE[1]))).astype(np.float32)
    encoding = codec.encode(codec.analyse(delta, step), step, Seed((name,)))
    tables = count_all(encoding.chunks()).tables()
    chunks = [encode_chunk(chunk, tables) for chunk in encoding.chunks()]
    readers = iter([ChunkReader(chunk, tables) for chunk in chunks])
    decoded = codec.decode(encoding.parameters, readers, LAYOUT, None)
    return Term(codec.name, encoding.parameters, chunks, weight, name), tables, decoded


def side_by_side(*terms):
    """Parameters, and a function that gives readers of the chunks."""
    encoding = Sum().encode([found for found, _, _ in terms])
    tables = Tables({}).extended(
        {context: table for found, own, _ in terms for context, table in own.within(found.tables).items()}
    )
    return encoding.parameters, lambda: iter([ChunkReader(chunk, tables) for chunk in encoding.chunks()])


def test_terms_are_read_with_their_own_tables_and_added_in_order():
    one, other = term(LowRank(), 0.1, 0.7, "a", 1), term(Sparse(), 0.3, -2.0, "b", 2)
    parameters, readers = side_by_side(one, other)
    expected = np.zeros(SHAPE, np.float32)
    expected += np.float32(0.7) * one[2]
    expected += np.float32(-2) * other[2]
    np.testing.assert_array_equal(Sum().decode(parameters, readers(), LAYOUT, None), expected)
    assert Sum().decode_factors(parameters, readers(), SHAPE) is None


def test_factors_stand_side_by_side():
    parameters, readers = side_by_side(term(LowRank(), 0.1, 0.5, "a", 1), term(LowRank(), 0.2, -1.0, "b", 2))
    factors = Sum().decode_factors(parameters, readers(), SHAPE)
    delta = Sum().decode(parameters, readers(), LAYOUT, None)
    np.testing.assert_allclose(factors.left @ factors.right.T, delta, atol=1e-4)
    assert Sum().decode_factors({"terms": []}, iter(()), SHAPE).rank == 0


def test_sums_of_sums():
    one = term(LowRank(), 0.1, 0.5, "a", 1)
    parameters, readers = side_by_side(one)
    inner = [reader.data for reader in readers()]
    outer = Sum().encode([Term("sum", parameters, inner, 2.0, "x")])
    tables = Tables({f"x/{context}": table for context, table in one[1].within("a").items()})
    chunks = iter([ChunkReader(chunk, tables) for chunk in outer.chunks()])
    np.testing.assert_array_equal(Sum().decode(outer.parameters, chunks, LAYOUT, None), one[2])


def nested(depth):
    parameters = {"terms": []}
    for _ in range(depth):
        parameters = {"terms": [{"codec": "sum", "parameters": parameters, "chunks": 0, "weight": 1, "tables": "0"}]}
    return parameters


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": float("nan")}, "no finite number"),
        ({"weight": True}, "no finite number"),
        ({"chunks": -1}, "not described"),
        ({"chunks": 99}, "more chunks"),
        ({"tables": 3}, "not described"),
        ({"codec": "none"}, "not known here"),
    ],
)
def test_hostile_terms(change, message):
    parameters, readers = side_by_side(term(LowRank(), 0.1, 0.5, "a", 1))
    parameters["terms"][0] |= change
    with pytest.raises(DamagedSkillError, match=message):
        Sum().decode(parameters, readers(), LAYOUT, None)


def test_what_is_no_sum():
    with pytest.raises(DamagedSkillError, match="sums within sums"):
        Sum().decode(nested(9), iter(()), LAYOUT, None)
    assert not Sum().decode(nested(7), iter(()), LAYOUT, None).any()
    value = Tensor.from_float32(np.ones(SHAPE, np.float32), "F32")
    chunks = list(Raw().encode(None, value).chunks())
    parameters = Sum().encode([Term("raw", {}, chunks, 1.0, "0")]).parameters
    with pytest.raises(DamagedSkillError, match="says what a tensor is"):
        Sum().decode(parameters, iter([ChunkReader(chunk, Tables({})) for chunk in chunks]), LAYOUT, None)
