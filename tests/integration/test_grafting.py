"""Skills on a live model of real size: the base comes back, swaps are copies, and no memory is lost."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import skillpack
from benchmarks import grafting
from skillpack.checkpoint import open_checkpoint

pytestmark = [pytest.mark.real_model, pytest.mark.xdist_group("smollm2")]

NAMES = ["spanish", "french"]


def test_the_base_is_there_at_every_empty_point_and_the_installed_model_at_others(smol, room):
    found = grafting.random_steps(smol.base, smol.store, NAMES, 20)
    assert found["empty_points"] == found["empty_points_equal_to_base"] >= 3
    assert found["steps_with_the_bits_of_their_set"] == 20
    assert found["sets_of_skills"] == 4
    skillpack.install(NAMES, smol.base, output=room / "model", store=smol.store)
    assert found["digests"][" ".join(sorted(NAMES))] == grafting.digest(grafting.open_live(room / "model"))


def test_swaps_lose_no_memory(smol):
    found = grafting.memory_after_swaps(smol.base, smol.store, NAMES, 50)
    assert found["growth"] < 0.01


LOAD = """
import json, sys
import torch, transformers, skillpack
import skillpack.grafting.loading
base, store, *skills = sys.argv[1:]
torch.set_num_threads(1)
if skills:
    model = skillpack.from_pretrained(base, skills, store=store)
else:
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype="auto")
with torch.no_grad():
    model(torch.arange(4)[None])
status = dict(line.split(":") for line in open("/proc/self/status"))
print(json.dumps([int(status[name].split()[0]) * 1024 for name in ("VmHWM", "VmRSS")]))
"""


def test_loading_with_skills_takes_no_copy_of_the_model(smol):
    found = []
    for skills in ([], ["spanish"]):
        command = [sys.executable, "-c", LOAD, str(smol.base), str(smol.store), *skills]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found.append(json.loads(done.stdout))
    (plain_peak, plain), (peak, grafted) = found
    largest = max(info.nbytes for info in open_checkpoint(smol.base).tensors.values())
    # A delta in fp32 is twice the size of a bf16 tensor; then there are the result and the base's pages.
    assert peak - plain_peak < 5 * largest
    assert grafted - plain < largest
