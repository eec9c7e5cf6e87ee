"""Skills on a live model of real size: the base comes back, swaps are copies, and no memory is lost."""

from __future__ import annotations

import sys

import pytest

import skillpack
from benchmarks import grafting
from benchmarks.process import run
from skillpack.checkpoint import open_checkpoint
from skillpack.grafting.places import find_places

pytestmark = [pytest.mark.real_model, pytest.mark.xdist_group("smollm2")]

NAMES = ["spanish", "french"]


def test_the_base_is_there_at_every_empty_point(smol):
    found = grafting.random_steps(smol.base, smol.store, NAMES, 30)
    assert found["empty_points"] == found["empty_points_equal_to_base"] >= 3
    assert found["steps_with_the_bits_of_their_set"] == 30
    assert found["sets_of_skills"] == 4


def test_the_live_model_is_the_installed_one(smol, room):
    skills = ["spanish=0.7", "french"]
    skillpack.install(skills, smol.base, output=room / "model", store=smol.store)
    model = grafting.open_live(smol.base)
    skillpack.host(model, store=smol.store, base=smol.base, cache_bytes=0).graft(*skills)
    assert grafting.digest(model) == grafting.digest(grafting.open_live(room / "model"))
    assert set(open_checkpoint(smol.base).tensors) <= set(find_places(model))


def test_swaps_lose_no_memory(smol):
    found = grafting.memory_after_swaps(smol.base, smol.store, NAMES, 60)
    assert found["growth"] < 0.01


LOAD = """
import sys, torch, transformers, skillpack
import skillpack.grafting.loading
base, store, *skills = sys.argv[1:]
torch.set_num_threads(1)
if skills:
    model = skillpack.from_pretrained(base, skills, store=store)
else:
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype="auto")
with torch.no_grad():
    model(torch.arange(4)[None])
"""


def test_loading_with_skills_takes_no_copy_of_the_model(smol):
    command = [sys.executable, "-c", LOAD, str(smol.base), str(smol.store)]
    plain, grafted = (run([*command, *skills]).anonymous for skills in ([], ["spanish"]))
    sizes = [info.nbytes for info in open_checkpoint(smol.base).tensors.values()]
    # The largest tensor, of two bytes a weight, and what computing it takes: a delta and a sum in fp32, a codec's part.
    assert grafted - plain < 4 * max(sizes) < sum(sizes)
