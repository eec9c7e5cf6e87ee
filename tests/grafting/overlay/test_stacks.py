"""Factors of several choices as one batch: every row meets its own, in whatever order rows and choices come."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from skillpack.codecs.protocol import DeltaFactors
from skillpack.grafting.overlay.parts import Factors, Use
from skillpack.grafting.overlay.stacks import Seats, Stack


def factors(seed, rank, *, shape=(40_000, 12), full=None, magnitude=100):
    """Integers of which, from the column `full` on, nearly all of the far side are zero."""
    random = np.random.default_rng(seed)
    rows, columns = (random.integers(-magnitude, magnitude, (size, rank), dtype=np.int16) for size in shape)
    if full is not None:
        rows[:, full:] *= random.random((shape[0], rank - full)) < 0.01
        order = random.permutation(rank)
        rows, columns = rows[:, order], columns[:, order]
    return DeltaFactors(rows, columns, random.normal(size=rank).astype(np.float32))


def delta(made):
    """In fp64."""
    return torch.from_numpy(made.left.astype(np.float64) @ made.right.T.astype(np.float64))


def test_columns_that_are_mostly_zeros_are_multiplied_as_such():
    made = factors(0, 20, full=5)
    part = Factors(made)
    assert part.full == 5
    assert part.sparse is not None
    assert part.sparse.shape == (40_000, 15)
    assert part.rank == 20
    x = torch.randn(3, 12, generator=torch.Generator().manual_seed(1))
    expected = x.double() @ delta(made).T
    assert torch.allclose(part.apply(Use.LINEAR, x).double(), expected, rtol=1e-5, atol=0.05)
    assert torch.allclose(
        part.apply(Use.LOOKUP, torch.tensor([7, 39_999])).double(), delta(made)[[7, 39_999]], atol=0.05
    )
    matrix = torch.zeros(40_000, 12)
    part.add_to_matrix(matrix, 0.5)
    assert torch.allclose(matrix.double(), 0.5 * delta(made), atol=0.05)
    graded = x.clone().requires_grad_()
    part.apply(Use.LINEAR, graded).sum().backward()
    assert torch.allclose(graded.grad.double(), delta(made).sum(0).expand(3, -1), rtol=1e-4, atol=0.5)


def test_factors_without_many_zeros_stay_as_they_are():
    made = factors(0, 6)
    part = Factors(made)
    assert (part.full, part.sparse) == (6, None)
    assert np.array_equal(part.far.numpy().T, made.rows)
    assert np.array_equal(part.near.numpy(), made.columns)


@pytest.mark.parametrize(("magnitude", "dtype"), [(100, torch.int8), (1000, torch.int16)])
def test_integers_are_kept_as_narrow_as_they_are(magnitude, dtype):
    part = Factors(factors(0, 6, magnitude=magnitude))
    assert part.near.dtype == part.far.dtype == dtype


@pytest.mark.parametrize("side", ["rows", "columns", "both"])
def test_few_columns_of_larger_integers_become_several_of_bytes(side):
    made = factors(0, 64)
    if side != "columns":
        made.rows[5, 3], made.rows[:, 7] = -300, made.rows[:, 7] * 2
    if side != "rows":
        made.columns[2, 7], made.columns[0, 9] = 128, -255
    part = Factors(made)
    assert part.near.dtype == part.far.dtype == torch.int8
    assert part.rank == 64 + {"rows": 3, "columns": 3, "both": 7}[side]
    product = (part.far.T.double() * part.scales.double()) @ part.near.T.double()
    assert torch.allclose(product, delta(made), rtol=1e-6, atol=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("use", [Use.LINEAR, Use.TRANSPOSED])
@pytest.mark.parametrize("belongs", [[0, 1, 2], [2, 0, 1], [1, -1, 1, 0], [-1, 2], [0, 0, 1, 1, 2, 2]], ids=str)
@pytest.mark.parametrize("tokens", [1, 3])
def test_every_row_meets_the_factors_of_its_group(belongs, use, tokens, dtype):
    made = [factors(1, 9, full=4), factors(2, 5), factors(3, 14, full=6, magnitude=1000), factors(4, 2)]
    parts = [Factors(each) for each in made]
    groups = [((parts[0], 1.0),), ((parts[1], -0.5), (parts[2], 2.0)), ((parts[3], 1.0),)]
    whole = [delta(made[0]), 2 * delta(made[2]) - 0.5 * delta(made[1]), delta(made[3])]
    generator = torch.Generator().manual_seed(0)
    inputs, outputs = (12, 40_000) if use is Use.LINEAR else (40_000, 12)
    x = torch.randn(len(belongs), tokens, inputs, generator=generator)
    y = torch.randn(len(belongs), tokens, outputs, generator=generator).to(dtype)
    expected = y.double()
    for row, group in enumerate(belongs):
        if group >= 0:
            expected[row] += x[row].double() @ (whole[group].T if use is Use.LINEAR else whole[group])
    device = torch.device("cpu")
    with torch.no_grad():
        Stack(groups, use, device).add_to(y, x, Seats.of_groups(torch.tensor(belongs), len(groups), device))
    scale = expected.abs().mean()
    tolerance = 1e-4 if dtype == torch.float32 else 1e-2
    assert torch.allclose(y.double(), expected, rtol=tolerance, atol=float(tolerance * scale))
