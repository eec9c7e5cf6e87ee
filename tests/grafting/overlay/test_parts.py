"""Every form of a delta, in every use, gives what the delta itself gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skillpack.codecs.protocol import DeltaFactors
from skillpack.grafting.overlay.parts import Dense, Entries, Factors, Rows, Use, part_of, with_added

FORMS = {"factors": Factors, "rows": Rows, "entries": Entries, "dense": Dense}


def made(form, use, rows, columns, seed):
    """A part of a form, and its delta."""
    random = np.random.default_rng(seed)
    if form == "factors":
        sides = (random.normal(size=(size, 2)).astype(np.float32) for size in (rows, columns))
        factors = DeltaFactors(*sides, np.float32([0.5, 2]))
        return Factors(factors), factors.left @ factors.right.T
    delta = random.normal(size=(rows, columns)).astype(np.float32)
    if form == "rows":
        delta[random.permutation(rows)[max(1, rows // 4) :]] = 0
    elif form == "entries":
        delta *= random.random(delta.shape) < 0.02
    values = torch.from_numpy(delta)
    if form == "rows":
        return Rows(values, values.any(1).nonzero()[:, 0]), delta
    return (Entries(values, use) if form == "entries" else Dense(values)), delta


@settings(max_examples=100, deadline=None)
@given(
    form=st.sampled_from(sorted(FORMS)),
    use=st.sampled_from(Use),
    shape=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
    weight=st.floats(-2, 2, width=32),
    seed=st.integers(0, 1000),
)
def test_a_part_adds_what_its_delta_makes_of_the_input(*, form, use, shape, dtype, weight, seed):
    rows, columns = shape
    if form == "entries" and use is Use.LOOKUP:
        form = "rows"
    part, delta = made(form, use, rows, columns, seed)
    generator = torch.Generator().manual_seed(seed)
    if use is Use.LOOKUP:
        x = torch.randint(0, rows, (2, 3), generator=generator)
        expected = torch.from_numpy(delta)[x]
    else:
        x = torch.randn(2, 3, columns if use is Use.LINEAR else rows, generator=generator).to(dtype)
        matrix = torch.from_numpy(delta.T if use is Use.LINEAR else delta)
        expected = x.double() @ matrix.double()
    y = torch.randn(expected.shape, generator=generator).to(dtype)
    expected = y.double() + weight * expected.double()
    found = with_added(y, x, use, lambda out, flat: part.add_to(out, use, flat, weight))
    assert found.dtype == dtype
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-5, torch.bfloat16: 1e-2}[dtype]
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance * 4)
    assert part.nbytes >= 4 * np.count_nonzero(delta) or form == "factors"


@pytest.mark.parametrize("use", Use)
def test_the_form_follows_from_what_is_there(use):
    random = np.random.default_rng(0)
    dense = random.normal(size=(100, 100)).astype(np.float32)
    rows, entries = dense.copy(), dense * (random.random(dense.shape) < 0.02)
    rows[10:] = 0
    assert type(part_of(dense, use)) is Dense
    assert type(part_of(rows, use)) is Rows
    assert type(part_of(entries, use)) is (Dense if use is Use.LOOKUP else Entries)


def test_a_factor_with_many_outputs_is_widened_piece_by_piece():
    draw = np.random.default_rng(0)
    sides = (draw.integers(-300, 300, (size, 2), np.int16) for size in (400_000, 3))
    factors = DeltaFactors(*sides, np.float32([0.5, 2]))
    part = Factors(factors)
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    found = part.apply(Use.LINEAR, x)
    expected = x.double() @ torch.from_numpy(factors.left @ factors.right.T).T.double()
    assert torch.allclose(found.double(), expected, rtol=1e-5, atol=0.1)
    places = torch.tensor([0, 399_999, 7])
    assert torch.allclose(part.apply(Use.LOOKUP, places), torch.from_numpy(factors.left @ factors.right.T)[places])
