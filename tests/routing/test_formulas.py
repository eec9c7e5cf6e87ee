"""Each method's formula, on cases that are computed by hand or by another library."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skillpack.errors import DataError
from skillpack.routing.examples import Examples
from skillpack.routing.methods.arrow import first_right
from skillpack.routing.methods.linear import Linear, logits, train_head
from skillpack.routing.methods.prototype import Prototype
from skillpack.routing.methods.refined import SelfRefined
from skillpack.routing.space import SHRINKAGE, Scale, Whitening, left_out_means

SKILL = SimpleNamespace(name="math", digest="sha256:1")
OTHER = SimpleNamespace(name="code", digest="sha256:2")


def rows(count, width, seed=0, shift=0.0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) + shift


@pytest.mark.parametrize(("texts", "width"), [(40, 6), (5, 12)])
def test_whitening_is_the_inverse_root_of_the_shrunk_covariance(texts, width):
    background, features = rows(texts, width) * torch.arange(1, width + 1), rows(3, width, seed=1)
    centred = (background - background.mean(0)).double()
    covariance = centred.T @ centred / texts
    shrunk = (1 - SHRINKAGE) * covariance + SHRINKAGE * covariance.trace() / width * torch.eye(width).double()
    values, vectors = torch.linalg.eigh(shrunk)
    expected = (features - background.mean(0)).double() @ (vectors / values.sqrt()) @ vectors.T
    found = Whitening(background)(features)
    torch.testing.assert_close(found, torch.nn.functional.normalize(expected, dim=1).float(), rtol=1e-4, atol=1e-4)


def test_scores_are_0_on_the_background_and_1_on_the_examples():
    scale = Scale.of(SKILL, torch.tensor([0.8, 0.9, 1.0]), torch.tensor([0.0, 0.2]))
    assert scale.low == pytest.approx(0.1)
    assert scale.scores(torch.tensor([0.1, 0.9, 0.5])).tolist() == pytest.approx([0.0, 1.0, 0.5])
    assert scale.threshold == 0.5
    # The quantile of 5 % of 0.2, 1.0, 1.8 is 0.28; on the scale (0.28 - 0.1) / 0.9.
    wide = Scale.of(SKILL, torch.tensor([0.35, 1.0, 1.65]), torch.tensor([0.0, 0.2]))
    assert wide.threshold == pytest.approx((0.415 - 0.1) / 0.9)
    with pytest.raises(DataError, match="nothing in common"):
        Scale.of(SKILL, torch.tensor([0.1, 0.2]), torch.tensor([0.1, 0.3]))


def test_each_example_is_scored_by_the_mean_of_the_others():
    found = left_out_means(torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]]))
    assert found.tolist() == [[1.0, 1.5], [1.5, 1.0], [0.5, 0.5]]


class Plain:
    """A base in a plane whose features are what it is given; nothing is whitened but scaled to unit length."""

    def __init__(self, under=None):
        self.background_directions = self.whitened(torch.tensor([[-1.0, 0.1], [-1.0, -0.1], [-1.0, 0.0]]))
        self.under = under or {}
        self.asked = []
        self.applied = SimpleNamespace(load=lambda _: None, unload=lambda _: None)

    @staticmethod
    def whitened(features):
        return torch.nn.functional.normalize(features, dim=1)

    @staticmethod
    def features(prompts):
        return torch.tensor(prompts)

    def features_under(self, prompts, skills):
        self.asked.append([skill.name for skill in skills])
        return torch.tensor([self.under[skill.name] for skill in skills])


def along(x, y, refined=None):
    wobble = torch.tensor([[0.01, 0.0], [-0.01, 0.0], [0.0, 0.01], [0.0, -0.01]])
    own = torch.tensor([x, y]) + wobble
    return Examples(own, torch.tensor(refined) + wobble if refined else own)


def test_prototype_is_a_cosine_with_the_mean():
    method = Prototype(Plain())
    method.add(SKILL, along(1.0, 0.0))
    method.add(OTHER, along(0.0, 1.0))
    found = method.scores([[2.0, 0.0], [0.0, 5.0], [-3.0, 0.0]], ["sha256:1", "sha256:2"])
    # Along the x axis the background's cosine is -1 and the examples' own 1, so that a right angle is half-way.
    assert found[:, 0].tolist() == pytest.approx([1.0, 0.5, 0.0], abs=5e-3)
    # Along the y axis the background's is 0.
    assert found[:, 1].tolist() == pytest.approx([0.0, 1.0, 0.0], abs=5e-3)


def test_self_refined_asks_the_skill_that_was_guessed():
    base = Plain(under={"math": [0.0, 1.0], "code": [0.0, 1.0]})
    method = SelfRefined(base)
    method.add(SKILL, along(1.0, 0.0))
    method.add(OTHER, along(0.0, 1.0))
    digests = ["sha256:1", "sha256:2"]
    # Math is guessed first; under math the prompt looks like code, and under code as well.
    found = method.scores([[1.0, 0.9]], digests)
    assert base.asked == [["math"], ["code"]]
    assert found[0].argmax() == 1
    # A prompt that nobody knows is not asked again, and one that is sure of itself once.
    base.asked.clear()
    method.scores([[-1.0, -1.0]], digests)
    assert base.asked == []
    method.scores([[0.1, 1.0]], digests)
    assert base.asked == [["code"]]


def test_self_refined_ends_between_two_skills():
    base = Plain(under={"math": [0.0, 1.0], "code": [1.0, 0.0]})
    method = SelfRefined(base)
    method.add(SKILL, along(1.0, 0.0))
    method.add(OTHER, along(0.0, 1.0))
    method.scores([[1.0, 0.9]], ["sha256:1", "sha256:2"])
    assert [names for (names,) in base.asked] == ["math", "code", "math", "code"]


def test_self_refined_needs_features_under_the_skill():
    with pytest.raises(DataError, match="skill itself"):
        SelfRefined(Plain()).add(SKILL, Examples(along(1.0, 0.0).prompts, None))


@pytest.mark.parametrize(("width", "shift"), [(3, 0.7), (30, 0.7), (30, 5.0)])
def test_a_head_is_at_the_minimum_of_its_loss(width, shift):
    positive, negative = rows(12, width, shift=shift), rows(20, width, seed=1)
    head = train_head(positive, negative).double().requires_grad_()
    losses = [
        torch.nn.functional.softplus(sign * (each.double() @ head[:-1] + head[-1])).mean() / 2
        for sign, each in ((-1, positive), (1, negative))
    ]
    # The loss is strictly convex: it has one place without a slope.
    loss = sum(losses) + 1e-3 / 2 * head[:-1].square().sum()
    (slope,) = torch.autograd.grad(loss, head)
    assert float(slope.norm()) < 1e-6


def test_linear_tells_sides_apart_and_leaves_other_heads_alone():
    method = Linear(Plain())
    threshold = method.add(SKILL, along(1.0, 0.0))
    before = method.scores([[1.0, 0.0], [-1.0, 0.0]], ["sha256:1"])
    method.add(OTHER, along(0.0, 1.0))
    after = method.scores([[1.0, 0.0], [-1.0, 0.0]], ["sha256:1", "sha256:2"])
    assert torch.equal(before[:, 0], after[:, 0])
    assert before[0, 0] >= threshold > before[1, 0]
    assert logits(torch.tensor([[2.0, 3.0]]), torch.tensor([1.0, 10.0, 100.0])).tolist() == [132.0]


@given(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_a_direction_is_the_first_right_singular_vector(rank, height, width, seed):
    random = np.random.default_rng(seed)
    left, right = random.normal(size=(height, rank)), random.normal(size=(width, rank))
    left[:, 0] *= 6  # one direction that is clearly the strongest
    found = first_right(left, right).numpy().astype(np.float64)
    delta = left @ right.T
    strongest = np.linalg.svd(delta)[1][0]
    assert np.linalg.norm(found) == pytest.approx(1)
    assert np.linalg.norm(delta @ found) >= 0.99 * strongest


def test_a_delta_of_nothing_has_no_direction():
    assert first_right(np.zeros((3, 2)), np.ones((4, 2))) is None
