"""The main job on a real language model: pack, install, use, stack, remove."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys

import pytest

import skillpack
from benchmarks.folders import WEIGHTS, same_tensors, skill_bytes
from recipes.measure import HeldOut
from recipes.tasks import TASKS

pytestmark = [pytest.mark.real_model, pytest.mark.xdist_group("smollm2")]


def test_a_small_skill_keeps_the_gain_and_comes_off_without_a_trace(smol, room, contents):
    model = shutil.copytree(smol.base, room / "model")
    digest = skillpack.show("spanish", store=smol.store).summary.digest
    assert 0.97 * 4_000_000 <= skill_bytes(smol.store, digest) <= 4_000_000

    skillpack.install("spanish", model, store=smol.store)
    held_out = TASKS["spanish-numbers"].held_out()[:40]
    found = HeldOut(smol.base, smol.spanish, held_out).compare(model)
    assert found.kept >= 0.99
    assert found.kl <= 0.01

    skillpack.remove(["spanish"], model)
    assert contents(model) == contents(smol.base)
    assert {path.name for path in model.iterdir()} == {path.name for path in smol.base.iterdir()}


def test_an_exact_skill_gives_the_fine_tune_back_bit_for_bit(smol, room):
    packed = skillpack.pack(smol.base, smol.spanish, "exact", exact=True, store=room / "store")
    assert skill_bytes(room / "store", packed.digest) <= 0.21 * (smol.spanish / WEIGHTS).stat().st_size

    skillpack.install("exact", smol.base, output=room / "model", store=room / "store")
    assert same_tensors(room / "model", smol.spanish) == (272, 272)


def test_an_installed_model_needs_no_code_of_ours(smol, room):
    skillpack.install("spanish", smol.base, output=room / "model", store=smol.store)
    script = (
        "import sys; sys.modules.update(dict.fromkeys(['skillpack', 'skillpack_store'])); "
        "from transformers import pipeline; "
        "turns = [{'role': 'user', 'content': 'Write 21 in Spanish words.'}]; "
        "model = pipeline('text-generation', sys.argv[1]); "
        "print(model(turns, max_new_tokens=8, do_sample=False)[0]['generated_text'][-1]['content'])"
    )
    command = [sys.executable, "-c", script, str(room / "model")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=room)
    assert done.stdout.strip()


def test_a_stack_depends_on_its_skills_and_not_on_its_history(smol, room, contents):
    draw, model, installed = random.Random(4), shutil.copytree(smol.base, room / "model"), {}
    for _ in range(4):
        name = draw.choice(["spanish", "french"])
        weight = draw.choice([value for value in (1.0, 0.6, -0.5, None) if value != installed.get(name)])
        if weight is None:
            skillpack.remove([name], model)
            del installed[name]
        else:
            skillpack.install(f"{name}={weight}", model, store=smol.store)
            installed[name] = weight
    wanted = [f"{name}={weight}" for name, weight in installed.items()]
    draw.shuffle(wanted)
    skillpack.install(wanted, smol.base, output=room / "direct", store=smol.store)
    assert contents(model) == contents(room / "direct")
    assert contents(model)[WEIGHTS] != contents(smol.base)[WEIGHTS]

    for name in draw.sample(list(installed), len(installed)):
        skillpack.remove([name], model)
    assert contents(model) == contents(smol.base)
