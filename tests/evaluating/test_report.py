from __future__ import annotations

import math

import numpy as np
import pytest

from skillpack.evaluating.report import TensorShare, far_from_tuned, make_report


def report(base, packed, tuned, task="next token", **columns):
    values = {"nll base": base, "nll packed": packed, "nll tuned": tuned, **columns}
    found = {name: np.asarray(column, np.float32) for name, column in values.items() if column is not None}
    count = len(tuned)
    found |= {"kl": np.full(count, 0.5), "agrees": np.arange(count) % 2 == 0}
    shares = [TensorShare("b", 0.1), TensorShare("a", 0.1), TensorShare("c", 0.3)]
    return make_report("math", task, np.arange(count), found, tensors=shares, remarks=["one"])


def test_figures_by_hand():
    found = report([4, 4, 4, 4], [2, 2, 1, 1], [1, 1, 1, 1])
    assert (found.samples, found.tokens, found.kl, found.agreement) == (4, 4, 0.5, 0.5)
    assert found.kl_interval == (0.5, 0.5)
    assert found.perplexity == pytest.approx((math.exp(4), math.exp(1.5), math.exp(1)))
    assert found.kept == pytest.approx(2.5 / 3)
    assert found.kept_interval == pytest.approx((2 / 3, 1))
    assert [share.name for share in found.tensors] == ["c", "a", "b"]
    assert found.remarks[0] == "one"


def test_what_is_far_is_called_so():
    assert "far from the fine-tune, more than 0.02 nats" in report([4, 4], [2, 2], [1, 1]).remarks[-1]
    assert far_from_tuned(0.021)
    assert far_from_tuned(0.02) == []


def test_a_gain_that_may_be_none_has_no_interval():
    found = report([3, 0], [2, 1], [1, 1])
    assert found.kept == 0
    assert found.kept_interval is None
    assert "not certain" in found.remarks[1]


def test_no_gain():
    found = report([1, 1], [1, 1], [1, 1])
    assert (found.kept, found.kept_interval) == (None, None)
    assert "no gain to keep" in found.remarks[1]


def test_without_a_base():
    found = report(None, [2, 2], [1000, 1000])
    assert (found.kept, found.perplexity.base, found.perplexity.tuned) == (None, None, math.inf)


def test_classes_have_an_accuracy_and_no_perplexity():
    hits = {"hit packed": [1, 0], "hit tuned": [1, 1], "hit base": [0, 0]}
    found = report([2, 2], [1, 1], [1, 1], task="class", **hits)
    assert found.perplexity is None
    assert found.accuracy == (0, 0.5, 1)
    assert found.kept == 1
