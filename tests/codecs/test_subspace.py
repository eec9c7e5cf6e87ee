"""Strong directions of a large matrix: close to those of the exact decomposition, or exactly those."""

import numpy as np
import pytest

from skillpack.codecs import LowRank, lowrank
from skillpack.codecs.subspace import strongest
from skillpack.errors import SkillPackError

LENGTH = 256


def falling(exponent, *, rows=400, columns=LENGTH, seed=0):
    """A matrix whose i-th singular value is i to minus `exponent`, and its right singular vectors."""
    random = np.random.default_rng(seed)
    left, right = (np.linalg.qr(random.normal(size=(size, columns)))[0] for size in (rows, columns))
    return ((left * np.arange(1, columns + 1.0) ** -exponent) @ right.T).astype(np.float32), right


def blocks_of(matrix, size=64):
    return lambda: (matrix[first : first + size] for first in range(0, len(matrix), size))


@pytest.mark.parametrize(("exponent", "kept"), [(1.0, 0.9999), (0.7, 0.9999), (0.5, 0.999), (0.3, 0.99)])
@pytest.mark.parametrize("rank", [5, 30])
def test_what_is_found_is_nearly_the_best(exponent, kept, rank):
    matrix, right = falling(exponent)
    values, vectors = strongest(blocks_of(matrix), LENGTH, (rank + 0.5) ** -exponent)
    best = np.arange(1, rank + 1.0) ** -exponent
    assert 0.95 * rank <= len(values) <= rank
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(len(values)), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(matrix @ vectors, axis=0), values, rtol=1e-4)  # and no more than there is
    assert kept * np.square(best).sum() <= np.square(values).sum() <= (1 + 1e-6) * np.square(best).sum()
    assert abs(vectors[:, 0] @ right[:, 0]) > 0.999


def test_the_subspace_grows_until_it_holds_all_that_is_wanted():
    matrix, _ = falling(1.0)
    values, _ = strongest(blocks_of(matrix), LENGTH, 1 / 30.5)
    assert len(values) == 30  # the first subspace has 24 directions


@pytest.mark.parametrize("exponent", [0.0, 1e-6, 0.1])
def test_many_strong_directions_are_left_to_the_exact_way(exponent):
    matrix, _ = falling(exponent)
    assert strongest(blocks_of(matrix), LENGTH, 0.5) is None


def test_a_matrix_of_few_directions_is_found_exactly():
    matrix = falling(1.0, columns=6)[0] @ np.linalg.qr(np.random.default_rng(1).normal(size=(LENGTH, 6)))[0].T
    values, _ = strongest(blocks_of(matrix.astype(np.float32)), LENGTH, 1e-3)
    np.testing.assert_allclose(values, 1 / np.arange(1, 7), rtol=1e-5)


def test_nothing_may_be_strong_enough():
    matrix, _ = falling(0.5)
    values, vectors = strongest(blocks_of(matrix), LENGTH, 1.01)
    assert (values.shape, vectors.shape) == ((0,), (LENGTH, 0))


def test_one_matrix_gives_the_same_bits_every_time():
    matrix, _ = falling(0.7)
    first, second = (strongest(blocks_of(matrix), LENGTH, 0.1) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_device_without_enough_memory_is_named(monkeypatch):
    import torch

    def none_left(*_, **__):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(torch.linalg, "qr", none_left)
    with pytest.raises(SkillPackError, match="a subspace of 256 columns"):
        strongest(blocks_of(falling(1.0)[0]), LENGTH, 0.1)


def analyses(matrix, finest, monkeypatch):
    """The exact analysis of a matrix, and one by subspaces."""
    exact = LowRank().analyse(matrix, finest)
    monkeypatch.setattr(lowrank, "_LARGE", 1)
    return exact, LowRank().analyse(matrix, finest)


def step_for(matrix, threshold):
    """The step at which columns are kept from a singular value on."""
    return threshold / (LowRank().keep * (matrix.shape[0] * matrix.shape[1]) ** 0.25)


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e25])
@pytest.mark.parametrize("wide", [False, True])
def test_the_analysis_of_a_large_matrix_is_nearly_the_exact_one(monkeypatch, scale, wide):
    matrix = np.float32(scale) * falling(0.8)[0]
    matrix = np.ascontiguousarray(matrix.T) if wide else matrix
    exact, large = analyses(matrix, step_for(matrix, scale * 20.5**-0.8), monkeypatch)
    assert len(exact["values"]) == 20
    assert len(large["values"]) == 20
    np.testing.assert_allclose(large["values"][:10], exact["values"][:10], rtol=1e-3)
    assert large["all_values"].shape == exact["all_values"].shape
    energies = [np.square(analysis["all_values"] / scale).sum() for analysis in (exact, large)]
    assert energies[1] == pytest.approx(energies[0], rel=1e-5)
    products = [(analysis["left"] * (analysis["values"] / scale)) @ analysis["right"].T for analysis in (exact, large)]
    errors = [np.square(matrix / scale - product).sum() for product in products]
    assert errors[0] * (1 - 1e-5) <= errors[1] <= 1.001 * errors[0]


@pytest.mark.parametrize("finest", [0.0, 1e-9, 1e9])
@pytest.mark.parametrize("delta", [np.zeros((60, 50), np.float32), falling(0.5, rows=60, columns=50)[0]])
def test_where_subspaces_have_nothing_to_save_the_analysis_is_the_exact_one(monkeypatch, finest, delta):
    exact, large = analyses(delta, finest, monkeypatch)
    for name, array in exact.items():
        np.testing.assert_array_equal(array, large[name])
