"""Bases of several kinds with an exact and two approximate skills each, in overlay mode and merged."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
import transformers

import skillpack
from skillpack.grafting.overlay.engine import Overlay
from skillpack.grafting.places import find_places
from skillpack.skill import open_skill
from skillpack.summaries import open_existing
from tests.live import models


def gpt2(folder):
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=models.VOCABULARY, n_positions=128, n_embd=32, n_layer=2, n_head=4)
    return models.save(folder, transformers.GPT2LMHeadModel(config), torch.float32)


def untied(folder):
    return models.llama(folder, tie_word_embeddings=False, attention_bias=True)


MAKERS = {"llama": models.llama, "untied": untied, "mixtral": models.mixtral, "gpt2": gpt2, "bert": models.bert}
SKILLS = {"exact": "", "wide": "", "thin": ""}


def thin(source, target):
    """A fine-tune of rank 2 in every matrix, with a few changed rows in the embedding."""
    config = transformers.AutoConfig.from_pretrained(source)
    model = getattr(transformers, config.architectures[0]).from_pretrained(source, dtype="auto")
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            size = 0.3 * weight.float().square().mean().sqrt()
            if weight.ndim != 2:
                weight.add_(size * torch.randn(weight.shape, generator=generator))
            elif "embed" in name or "wte" in name:
                weight[:5].add_(size * torch.randn(weight[:5].shape, generator=generator))
            else:
                left, right = (torch.randn(length, 2, generator=generator) for length in weight.shape)
                weight.add_(size * left @ right.T)
    return models.save(target, model, next(model.parameters()).dtype)


@pytest.fixture(scope="session", params=MAKERS)
def kind(request, tmp_path_factory):
    """A base, its skills in a store, and the skills opened."""
    return make_kind(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    return make_kind("llama", tmp_path_factory.mktemp("llama"))


def make_kind(name, root):
    base, store = MAKERS[name](root / "base"), root / "store"
    tuned = {
        "exact": models.moved(base, root / "exact", scale=0.1, seed=1),
        "wide": models.moved(base, root / "wide", scale=0.1, seed=2),
        "thin": thin(base, root / "thin"),
    }
    for skill, folder in tuned.items():
        options = {"exact": True} if skill == "exact" else {"quality": 0.9}
        skillpack.pack(base, folder, skill, store=store, **options)
    repository = open_existing(store)
    digests = {each.name: each.digest for each in skillpack.list(store=store)}
    opened = {skill: open_skill(repository, digest, skill) for skill, digest in digests.items()}
    found = SimpleNamespace(name=name, base=base, store=store, tuned=tuned, digests=digests, skills=opened)
    found.load = lambda dtype=torch.float32: load(base, dtype)
    found.choice = lambda **weights: tuple((digests[skill], weight) for skill, weight in weights.items())
    found.merged = lambda **weights: merged(found, weights)
    found.overlay = lambda model, **options: overlay(found, model, **options)
    return found


def load(base, dtype):
    config = transformers.AutoConfig.from_pretrained(base)
    return getattr(transformers, config.architectures[0]).from_pretrained(base, dtype=dtype).eval()


def merged(kind, weights):
    """The model with skills in its weights, in fp32 and so without rounding."""
    model = kind.load()
    if weights:
        skillpack.host(model, store=kind.store).graft(*(f"{name}={weight}" for name, weight in weights.items()))
    return copy.deepcopy(model)


def overlay(kind, model, **options):
    engine = Overlay(model, find_places(model), **options)
    for skill in kind.skills.values():
        engine.load(skill)
    return engine


@pytest.fixture
def batch():
    """Function: token ids of some rows."""

    def batch(rows, length, seed=0):
        return torch.randint(3, 250, (rows, length), generator=torch.Generator().manual_seed(seed))

    return batch


@pytest.fixture
def close():
    """Function: whether two results are equal but for the order in which fp32 sums are taken."""

    def close(found, expected, tolerance=1e-5):
        return float((found - expected).norm() / expected.norm()) < tolerance

    return close
