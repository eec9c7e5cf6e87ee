"""The command tint."""

from __future__ import annotations

import json
import shutil

import pytest

import skillpack

TEXTS = ["All models are wrong.", "Some are useful.", "No man is an island.", "Time and tide.", "Haste makes waste."]
QUICK = ("--steps", 3, "--batch", 4, "--max-tokens", 64, "--layer-rate", 0.001)


@pytest.fixture
def two(llama, tmp_path):
    """A store with two skills, and texts of their tasks."""
    store = shutil.copytree(llama.store, tmp_path / "store")
    skillpack.compose(["tiny=0.5"], "half", base=llama.base, store=store)
    data = tmp_path / "texts.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return ("tiny", "half", "--data", data, "--data", data, "--base", llama.base, "--store", store)


def test_skills_are_made_and_can_be_installed_together(two, llama, run, tmp_path):
    result = run("tint", *two, "--name", "both", *QUICK)
    assert result.exit_code == 0, result.output
    assert "composed both@1 of" in result.stderr
    assert "each task has its own model.layers.1.mlp.down_proj.weight" in result.stderr
    assert "nats from tiny without it" in result.stderr
    named = result.stderr.split("next: skillpack install ")[1].split(" MODEL_DIR")[0].split()
    skillpack.install(named, llama.base, output=tmp_path / "model", store=two[-1])


def test_the_document_has_the_figures(two, run_json):
    found = run_json("tint", *two, "--name", "both", *QUICK, "--layer", "model.layers.0.mlp.up_proj.weight")
    assert (found["name"], found["layer"]) == ("both", "model.layers.0.mlp.up_proj.weight")
    assert [tint["task"] for tint in found["tints"]] == ["tiny", "half"]
    assert all(tint["before"] > 0 for tint in found["tints"])


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--layer", "nothing"], 2, "No skill changes the tensor nothing"),
        (["--data", "missing.txt"], 1, "missing.txt"),
        (["--rate", "1"], 2, "--rate"),
        (["--steps", "0"], 2, "--steps"),
    ],
)
def test_what_cannot_be_is_refused(two, run, options, code, says):
    result = run("tint", *two, "--name", "both", *QUICK, *options)
    assert result.exit_code == code
    assert says in result.output


def test_compose_says_which_command_it_is(two, run):
    result = run("compose", "tiny", "half", "--name", "both", "--method", "tinting", *two[-2:])
    assert result.exit_code == 2
    assert "skillpack tint SKILL" in result.output
