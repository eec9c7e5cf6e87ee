from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import transformers

import skillpack
from skillpack.composing.methods import twin
from skillpack.composing.methods.twin import Exclusive, Twin, truncated, twin_addresses
from skillpack.composing.protocol import Deltas, Linear, Source, Tasked
from skillpack.composing.skills import compose
from skillpack.errors import NotFiniteError, UsageError
from tests.live import models
from tests.routing.conftest import CODE, MATH

A, B = np.float32([[1, 0], [0, 2]]), np.float32([[3, 0], [0, 0]])
DELTAS = Deltas((Source("a", "sha256:1"), Source("b", "sha256:2")), (A, B))


def test_the_shared_part_by_hand():
    """0.5 (A + B)."""
    np.testing.assert_allclose(Twin(scale=0.5).merge("w", DELTAS, [1.0, 1.0]), [[2, 0], [0, 1]])
    assert isinstance(Twin(), Linear)
    assert isinstance(Twin(), Tasked)


def test_exclusive_parts_by_hand():
    """A - 0.5 (A + B) = diag(-1, 1); B - that = diag(1, -1); of rank 1 the stronger direction stays."""
    first = Twin(scale=0.5, rank=1.0).for_task(0).merge("w", DELTAS, [1.0, 1.0])
    np.testing.assert_allclose(first, [[-1, 0], [0, 1]], atol=1e-6)
    second = Exclusive(scale=0.25, rank=0.5, task=1).merge("w", DELTAS, [1.0, 1.0])
    np.testing.assert_allclose(second, [[2, 0], [0, 0]], atol=1e-6)
    assert not isinstance(Exclusive(), Linear)


def test_vectors_are_kept_whole():
    deltas = Deltas(DELTAS.sources, (np.float32([1, 2, 3]), np.float32([0, 0, 1])))
    found = Exclusive(scale=0.5, rank=0.1, task=0).merge("w", deltas, [1.0, 1.0])
    np.testing.assert_allclose(found, [0.5, 1, 1])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_has_no_singular_vectors_is_refused(bad):
    deltas = Deltas(DELTAS.sources, (A, np.float32([[3, 0], [bad, 0]])))
    with pytest.raises(NotFiniteError, match="tensor w of the skills holds NaN or infinity"):
        Exclusive(task=0).merge("w", deltas, [1.0, 1.0])


@pytest.mark.parametrize("shape", [(9, 4), (4, 9)])
def test_truncation_is_that_of_the_singular_value_decomposition(shape):
    matrix = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    for rank in (1, 3, 4):
        wanted = (left[:, :rank] * values[:rank]) @ right[:rank]
        np.testing.assert_allclose(truncated(matrix, rank), wanted, atol=1e-5)


@pytest.mark.parametrize("shape", [(9, 4), (4, 9)])
def test_truncation_in_blocks_is_the_same(shape, monkeypatch):
    matrix = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    whole = truncated(matrix, 2)
    monkeypatch.setattr(twin, "_BLOCK", 8)
    np.testing.assert_allclose(truncated(matrix, 2), whole, atol=1e-6)


@pytest.mark.parametrize("shape", [(1 << 16, 96), (96, 1 << 16)])
def test_truncation_takes_less_memory_than_the_matrix(shape):
    matrix = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    tracemalloc.start()
    try:
        found = truncated(matrix, 1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < matrix.nbytes
    assert isinstance(found, np.memmap)


def test_shared_and_exclusive_part_together_are_the_skill(tmp_path):
    """In a live model, at full rank: shared + exclusive = the skill, whatever else is shared."""
    store = tmp_path / "store"
    base = models.llama(tmp_path / "base", torch_dtype="float32")
    for name, seed in (("math", 1), ("code", 2)):
        skillpack.pack(base, models.moved(base, tmp_path / name, 0.1, seed=seed), name, quality=0.99, store=store)
    method = Twin(scale=0.4, rank=1.0)
    compose(["math", "code"], "shared", method=method, base=base, store=store)
    compose(["math", "code"], "math-only", method=method, task="math", base=base, store=store)
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    host = skillpack.host(model, store=store)
    found = {}
    for skills in (["math"], ["shared", "math-only=1"], ["shared"], []):
        with host.using(*skills):
            found[tuple(skills)] = model.model.layers[0].mlp.up_proj.weight.detach().float().numpy().copy()
    start = found[()]
    error = np.linalg.norm(found["shared", "math-only=1"] - found["math",])
    # Three skills are coded here, each with an error of its own.
    assert error < 0.2 * np.linalg.norm(found["math",] - start)
    assert np.linalg.norm(found["shared",] - found["math",]) > 3 * error


class Scored:
    """What a router says of a skill, as far as weights need it."""

    def __init__(self, name, score):
        self.name, self.score = name, score


class Route:
    """The same of a prompt."""

    def __init__(self, choices, scores):
        self.choices, self.scores = choices, scores


EXCLUSIVE = {"math": "math-only@2", "code": "code-only"}


def test_weights_are_the_softmax_of_scores():
    scores = (Scored("math", np.log(3.0)), Scored("code", 0.0), Scored("other", 9.0))
    found = twin_addresses(Route(scores[:1], scores), "shared", EXCLUSIVE, temperature=1)
    assert found[0] == "shared"
    assert [part.partition("=")[0] for part in found[1:]] == ["math-only@2", "code-only"]
    assert [float(part.partition("=")[2]) for part in found[1:]] == pytest.approx([0.75, 0.25])
    sharper = twin_addresses(Route(scores[:1], scores), "shared", EXCLUSIVE, temperature=0.5)
    assert [float(part.partition("=")[2]) for part in sharper[1:]] == pytest.approx([0.9, 0.1])


def test_one_clear_choice_among_many_gets_nearly_all():
    """Scores of routers are 1 for a skill's own prompts and 0 for others; the paper's classifier is as sure of them."""
    scores = tuple(Scored(f"skill-{place}", float(place == 0)) for place in range(5))
    exclusive = {each.name: f"{each.name}-only" for each in scores}
    found = twin_addresses(Route(scores[:1], scores), "shared", exclusive, least=0)
    shares = dict(part.split("=") for part in found[1:])
    assert float(shares["skill-0-only"]) > 0.99
    assert len(shares) == 5


def test_a_router_gives_prompts_of_a_skill_nearly_all_of_it(tmp_path):
    base, store = models.llama(tmp_path / "base", num_hidden_layers=4), tmp_path / "store"
    prompts = {"math": MATH, "code": CODE}
    for seed, (name, texts) in enumerate(prompts.items(), start=1):
        skillpack.pack(base, models.moved(base, tmp_path / name, 0.2, seed=seed, names="proj"), name, store=store)
        skillpack.add_examples(name, texts[:16], base, store=store)
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype="float32").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    router = skillpack.open_router(model, tokenizer, list(prompts), method="prototype", store=store)
    exclusive = {name: f"{name}-only" for name in prompts}
    for name, texts in prompts.items():
        for route in router.route(texts[16:]):
            shares = dict(part.split("=") for part in twin_addresses(route, "shared", exclusive)[1:])
            assert float(shares[f"{name}-only"]) > 0.95, route


def test_small_weights_are_left_out_and_abstaining_leaves_the_shared_part():
    scores = (Scored("math", 50.0), Scored("code", 0.0))
    assert twin_addresses(Route(scores, scores), "shared", EXCLUSIVE) == ["shared", "math-only@2=1.0"]
    assert twin_addresses(Route((), scores), "shared", EXCLUSIVE) == ["shared"]
    with pytest.raises(UsageError, match="temperature"):
        twin_addresses(Route(scores, scores), "shared", EXCLUSIVE, temperature=0)


@pytest.mark.parametrize("rank", [0, 1.2])
def test_ranks_are_shares(rank):
    with pytest.raises(UsageError, match="rank"):
        Twin(rank=rank)
