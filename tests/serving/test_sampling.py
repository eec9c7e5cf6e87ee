"""The choice of a token."""

from __future__ import annotations

import collections
import math

import pytest
import torch

from skillpack.serving.sampling import Sampling, choose, generator

LOGITS = torch.tensor([0.0, 3.0, 1.0, 2.0])


def drawn(sampling, draws=4000, before=()):
    random = generator(0, 0)
    counts = collections.Counter(choose(LOGITS, sampling, before, random).token for _ in range(draws))
    return {token: counts[token] / draws for token in counts}


def expected(logits, kept):
    weights = {token: math.exp(logits[token]) for token in kept}
    return {token: weight / sum(weights.values()) for token, weight in weights.items()}


@pytest.mark.parametrize("temperature", [0.0, 1e-9])
def test_without_temperature_the_most_likely_token_is_taken(temperature):
    sampling = Sampling(temperature=temperature)
    assert sampling.is_plain
    assert choose(LOGITS, sampling, (), None).token == 1


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(), {0, 1, 2, 3}),
        (Sampling(top_k=2), {1, 3}),
        (Sampling(top_p=0.5), {1}),
        (Sampling(top_p=1e-9), {1}),
        (Sampling(top_p=0.7), {1, 3}),
        (Sampling(top_k=3, top_p=0.99), {1, 2, 3}),
        (Sampling(top_k=100), {0, 1, 2, 3}),
    ],
)
def test_tokens_are_drawn_by_their_probabilities(sampling, kept):
    found, wanted = drawn(sampling), expected(LOGITS.tolist(), kept)
    assert set(found) <= kept
    assert all(abs(found.get(token, 0) - wanted[token]) < 0.03 for token in kept)


def test_temperature_flattens():
    found, wanted = drawn(Sampling(temperature=2.0)), expected((LOGITS / 2).tolist(), range(4))
    assert all(abs(found[token] - wanted[token]) < 0.03 for token in range(4))


def test_penalties_and_biases():
    greedy = {"temperature": 0.0}
    assert choose(LOGITS, Sampling(**greedy, frequency_penalty=0.6), [1, 1], None).token == 3
    assert choose(LOGITS, Sampling(**greedy, frequency_penalty=0.4), [1, 1], None).token == 1
    assert choose(LOGITS, Sampling(**greedy, presence_penalty=1.1), [1, 1], None).token == 3
    assert choose(LOGITS, Sampling(**greedy, bias={0: 10.0}), (), None).token == 0
    assert choose(LOGITS, Sampling(**greedy, bias={1: -100.0}), (), None).token == 3
    assert LOGITS.tolist() == [0.0, 3.0, 1.0, 2.0]


def test_reported_probabilities_are_those_of_the_model():
    found = choose(LOGITS, Sampling(temperature=0.0, bias={0: 10.0}, logprobs=2), (), None)
    wanted = torch.log_softmax(LOGITS, -1)
    assert found.token == 0
    assert found.logprob == pytest.approx(float(wanted[0]))
    assert [likely.token for likely in found.likely] == [1, 3]
    assert [likely.logprob for likely in found.likely] == pytest.approx([float(wanted[1]), float(wanted[3])])
    assert choose(LOGITS, Sampling(temperature=0.0, logprobs=0), (), None).likely == ()


def test_a_seed_fixes_the_draws_and_answers_have_their_own():
    def tokens(seed, number):
        random = generator(seed, number)
        return [choose(LOGITS, Sampling(), (), random).token for _ in range(40)]

    assert tokens(7, 0) == tokens(7, 0)
    assert tokens(7, 0) != tokens(7, 1)
    assert tokens(7, 0) != tokens(8, 0)
    assert tokens(-3, 0) == tokens(-3, 0)
