"""Each method against numbers worked out by hand from its paper."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from skillpack.composing import protocol
from skillpack.composing.elementwise import weighted_sum
from skillpack.composing.methods.average import Average
from skillpack.composing.methods.breadcrumbs import Breadcrumbs
from skillpack.composing.methods.consensus import Consensus
from skillpack.composing.methods.dare import Dare
from skillpack.composing.methods.emr import Emr
from skillpack.composing.methods.layer_swapping import LayerSwapping
from skillpack.composing.methods.negation import Negation
from skillpack.composing.methods.pcb import Pcb
from skillpack.composing.methods.sum import Sum
from skillpack.composing.methods.tall import TallMasks
from skillpack.composing.methods.ties import Ties
from skillpack.composing.random_masks import RandomMask
from skillpack.composing.registry import make_method, method_names
from skillpack.errors import UsageError
from tests.composing.methods import alone, merged

VECTORS = arrays(np.float32, 24, elements=st.floats(-8, 8, width=16))
SYMMETRIC = ["sum", "average", "negation", "ties", "breadcrumbs", "pcb", "consensus", "tall-masks", "emr"]


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch):
    """Tensors of these tests are worked on in several pieces."""
    monkeypatch.setattr(protocol, "PIECE", 4)


def close(found, expected):
    np.testing.assert_allclose(found, np.asarray(expected, np.float32), rtol=1e-6, atol=1e-7)


def test_sum_average_and_negation():
    first, second = [1, -2, 0.5], [4, 2, 8]
    close(alone(Sum(), first, second, weights=[2, 0.5]), [4, -3, 5])
    close(alone(Sum(scale=0.5), first, second), [2.5, 0, 4.25])
    close(alone(Average(), first, second), [2.5, 0, 4.25])
    close(alone(Average(), first, second, weights=[3, 1]), [1.75, -1, 2.375])
    close(alone(Negation(), first), [-1, 2, -0.5])
    close(alone(Negation(scale=0.5), first, second), [-2.5, 0, -4.25])
    with pytest.raises(UsageError, match="sum up to zero"):
        alone(Average(), first, second, weights=[1, -1])


def test_ties():
    # Three of five are kept: [4, ., 2, ., -3] and [-2, 1.5, 3, ., .]; signs of the sums: + + + 0 -.
    first, second = [4, -1, 2, 0.5, -3], [-2, 1.5, 3, -0.1, -1]
    for scope in ("model", "tensor"):
        close(alone(Ties(density=0.6, scope=scope), first, second), [4, 1.5, 2.5, 0, -3])
    close(alone(Ties(density=0.6, scale=2), first, second), [8, 3, 5, 0, -6])
    # With weights 1 and 4 the first sum is 4 - 8; of 2 and 3 the mean is (2 + 12) / 5.
    close(alone(Ties(density=0.6), first, second, weights=[1, 4]), [-2, 1.5, 2.8, 0, -3])


def test_ties_trims_the_model_as_a_whole_or_each_tensor():
    tensors = {"a": [[10, 9]], "b": [[1, -2]]}
    of_model, of_tensors = (merged(Ties(density=0.5, scope=scope), tensors) for scope in ("model", "tensor"))
    close(of_model["a"], [10, 9])
    close(of_model["b"], [0, 0])
    close(of_tensors["a"], [10, 0])
    close(of_tensors["b"], [0, -2])


def test_breadcrumbs():
    # Of ten, one of the largest is left out and then five are kept.
    vector = [1, -2, 3, -4, 5, -6, 7, -8, 9, -10]
    close(alone(Breadcrumbs(density=0.5, gamma=0.1), vector), [0, 0, 0, 0, 5, -6, 7, -8, 9, 0])
    # Where both shares are more than all, fewer large ones are left out.
    close(alone(Breadcrumbs(density=0.9, gamma=0.2, scale=2), vector), [*(2 * np.array(vector[:9])), 0])


def test_tall_masks_and_consensus():
    # Their sum is [2, 3.1, -0.5]. Masks at 0.4: 1 >= 0.4, 0.1 < 1.2, 2 >= 1; and 1 >= 0.4, 3 >= 0.04, 2.5 >= 0.8.
    first, second = [1, 0.1, 2], [1, 3, -2.5]
    close(alone(TallMasks(), first, second), [2, 3.1, -0.5])
    close(alone(TallMasks().for_task(0), first, second), [2, 0, -0.5])
    close(alone(TallMasks().for_task(1), first, second), [2, 3.1, -0.5])
    close(alone(Consensus(), first, second), [2, 0, -0.5])
    close(alone(Consensus(agree=1), first, second), [2, 3.1, -0.5])
    # At 0.9: 2 < 0.9 * 2.5.
    close(alone(Consensus(threshold=0.9), first, second), [2, 0, 0])


@pytest.mark.parametrize(("count", "options"), [(1, {}), (2, {"agree": 3})])
def test_consensus_of_more_skills_than_there_are_is_refused(count, options):
    with pytest.raises(UsageError, match="agree") as caught:
        alone(Consensus(**options), *[[1, 2]] * count)
    assert f"agree={count}" in caught.value.hint


def test_emr():
    # Signs of the sums + - - +; the largest of these signs 2, 2, 4, 0.5. The first one's mask leaves 2, -2, 0, 0.5.
    first, second = [1, -2, 3, 0.5], [2, 1, -4, 0.5]
    close(alone(Emr(), first, second), [2, -2, -4, 0.5])
    factor = (1 + 2 + 3 + 0.5) / (2 + 2 + 0.5)
    close(alone(Emr().for_task(0), first, second), np.array([2, -2, 0, 0.5]) * factor)
    factor = (2 + 1 + 4 + 0.5) / (2 + 4 + 0.5)
    close(alone(Emr().for_task(1), first, second), np.array([2, 0, -4, 0.5]) * factor)


def test_emr_rescales_over_the_whole_model():
    tensors = {"a": [[1, 1], [3, -2]], "b": [[4], [1]]}
    found = merged(Emr().for_task(0), tensors)
    # Shared: [3, -2] and [4]; of the first one's 6 in all, its masks leave 3 + 4.
    close(found["a"], np.array([3, 0]) * 6 / 7)
    close(found["b"], np.array([4]) * 6 / 7)


def test_pcb():
    tensors = {"a": [[1, -2, 0.5], [2, 2, -1]], "b": [[3, 0.1], [-1, 0.2]]}
    found = merged(Pcb(ratio=0.6, scale=2), tensors, weights=[1, 0.5])
    vectors = [np.array([1, -2, 0.5, 3, 0.1]), np.array([2, 2, -1, -1, 0.2])]

    def softmax(values):
        return np.exp(values) / np.exp(values).sum()

    def norm(values):
        return (values - values.min()) / (values.max() - values.min())

    betas = []
    for own in vectors:
        intra = softmax(2 * norm(own * own))
        beta = intra * sum(softmax(norm(own * other)) for other in vectors)
        # The share of 0.6 of five numbers: the three largest.
        betas.append(np.where(beta >= np.sort(beta)[-3], beta, 0))
    total = 2 * (betas[0] * vectors[0] + 0.5 * betas[1] * vectors[1])
    expected = np.divide(total, betas[0] + betas[1], out=np.zeros(5), where=betas[0] + betas[1] > 0)
    close(np.concatenate([found["a"], found["b"]]), expected)


def test_layer_swapping():
    tensors = {f"model.layers.{layer}.w": [[1], [10]] for layer in range(6)} | {"model.norm": [[1], [10]]}
    found = merged(LayerSwapping(bottom=1, top=1, transition=1), tensors, layers=6)
    assert [float(found[f"model.layers.{layer}.w"][0]) for layer in range(6)] == [10, 5.5, 1, 1, 5.5, 10]
    assert float(found["model.norm"][0]) == 5.5
    found = merged(LayerSwapping(bottom=2, top=1, transition=0), tensors, layers=6)
    assert [float(found[f"model.layers.{layer}.w"][0]) for layer in range(6)] == [10, 10, 1, 1, 1, 10]
    with pytest.raises(UsageError, match="There are 6 layers"):
        merged(LayerSwapping(), tensors, layers=6)
    with pytest.raises(UsageError, match="two skills"):
        alone(LayerSwapping(0, 0, 0), [1])


@pytest.mark.parametrize(
    ("bottom", "top", "expected"),
    [(0, 2, [1, 1, 1, 5.5, 10, 10]), (2, 0, [10, 10, 5.5, 1, 1, 1]), (0, 0, [1] * 6), (0, 5, [5.5, *[10] * 5])],
)
def test_there_is_no_seam_where_a_side_takes_no_layers(bottom, top, expected):
    tensors = {f"model.layers.{layer}.w": [[1], [10]] for layer in range(6)}
    found = merged(LayerSwapping(bottom, top, transition=1), tensors, layers=6)
    assert [float(found[name][0]) for name in tensors] == expected


def test_dare_drops_and_rescales():
    values = np.random.default_rng(0).normal(size=20_000).astype(np.float32)
    found = alone(Dare(density=0.25, seed=3), values)
    kept = found != 0
    assert 0.24 < kept.mean() < 0.26
    close(found[kept], 4 * values[kept])
    assert not np.array_equal(found, alone(Dare(density=0.25, seed=4), values))
    close(alone(Dare(density=1), values, -2 * values), -values)
    # Without dropping, election is that of TIES without trimming.
    close(alone(Dare(density=1, elect="ties"), [1, -4], [3, 1]), [2, -4])
    close(alone(Dare(density=1, elect="ties", normalize=False), [1, -4], [3, 1]), [4, -4])


def test_masks_depend_on_seed_tensor_and_skill_alone(monkeypatch):
    whole = RandomMask(0, "w", "sha256:1").take(1001, 0.3)
    pieces = RandomMask(0, "w", "sha256:1")
    np.testing.assert_array_equal(np.concatenate([pieces.take(count, 0.3) for count in (2, 600, 399)]), whole)
    for other in (RandomMask(1, "w", "sha256:1"), RandomMask(0, "v", "sha256:1"), RandomMask(0, "w", "sha256:2")):
        assert not np.array_equal(other.take(1001, 0.3), whole)
    values = np.arange(1, 101, dtype=np.float32)
    small = alone(Dare(), values)
    monkeypatch.setattr(protocol, "PIECE", 64)
    np.testing.assert_array_equal(alone(Dare(), values), small)


@given(VECTORS, st.sampled_from(["sum", "average", "consensus", "tall-masks", "emr", "ties", "dare", "breadcrumbs"]))
def test_one_skill_of_weight_1_gives_itself(vector, name):
    options = {
        "consensus": {"agree": 1},
        "ties": {"density": 1.0},
        "dare": {"density": 1.0},
        "breadcrumbs": {"density": 1.0, "gamma": 0.0},
    }
    np.testing.assert_array_equal(alone(make_method(name, options.get(name, {})), vector), vector)
    if name in {"emr", "tall-masks"}:
        close(alone(make_method(name, {}).for_task(0), vector), vector)


@given(VECTORS, VECTORS, st.sampled_from(SYMMETRIC))
def test_order_makes_no_difference(first, second, name):
    method = make_method(name, {})
    one, other = alone(method, first, second, weights=[0.5, 2]), alone(method, second, first, weights=[2, 0.5])
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@given(VECTORS, VECTORS, st.sampled_from([0.125, 0.5, 1.0]))
def test_what_ties_keeps_is_what_the_largest_say(first, second, density):
    found = alone(Ties(density=density), first, second)
    count = max(1, int(density * first.size))
    trimmed = [np.where(abs(each) >= np.sort(abs(each))[-count], each, 0) for each in (first, second)]
    agreeing = [np.where(each * np.sign(sum(trimmed)) > 0, each, np.nan) for each in trimmed]
    expected = [np.nanmean(pair) if not np.isnan(pair).all() else 0 for pair in zip(*agreeing, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_options_are_read_and_checked():
    assert make_method("ties", {"density": "0.5", "scope": "tensor"}) == Ties(density=0.5, scope="tensor")
    assert make_method("dare", {"seed": "7", "normalize": "false"}) == Dare(seed=7, normalize=False)
    assert make_method("sum", {"scale": 2}) == Sum(scale=2.0)
    assert set(SYMMETRIC) < set(method_names())
    for name, options, message in (
        ("tie", {}, "no method 'tie'"),
        ("ties", {"densty": 1}, "no option densty"),
        ("ties", {"thresholds": 1}, "no option thresholds"),
        ("ties", {"density": "much"}, "no value for density"),
        ("ties", {"density": "1.5"}, "not between 0 and 1"),
        ("ties", {"scope": "layer"}, "scope=layer is not known"),
        ("dare", {"seed": 0.5}, "no value for seed"),
        ("layer-swapping", {"top": -1}, "cannot be negative"),
        ("consensus", {"agree": -1}, "agree=-1"),
        ("consensus", {"agree": 0}, "agree=0"),
        ("consensus", {"threshold": -5}, "threshold=-5"),
        ("tall-masks", {"threshold": "nan"}, "threshold=nan"),
        ("tall-masks", {"threshold": -0.1}, "threshold=-0.1"),
    ):
        with pytest.raises(UsageError, match=message):
            make_method(name, options)


def test_a_method_of_another_package(monkeypatch):
    class Point:
        name = "loudest"

        def load(self):
            return Sum

    monkeypatch.setattr(
        "skillpack.composing.registry.entry_points",
        lambda group, name=None: [Point()] if name in {None, "loudest"} else [],
    )
    assert "loudest" in method_names()
    assert make_method("loudest", {"scale": 3}) == Sum(scale=3.0)


def test_a_weighted_sum_rounds_each_product_and_each_sum_once():
    pieces = [np.float32([0.1]), np.float32([0.7])]
    expected = np.float32(np.float32(0.1) * np.float32(0.3)) + np.float32(np.float32(0.7) * np.float32(3))
    assert weighted_sum(pieces, [0.3, 3])[0] == expected
