"""The command surgery."""

from __future__ import annotations

import json
import shutil

import pytest

import skillpack

QUICK = ("--steps", 150, "--batch", 4, "--max-tokens", 64, "--rank", 4)
TEXTS = ["All models are wrong.", "Some are useful.", "No man is an island.", "Time and tide.", "Haste makes waste."]


@pytest.fixture
def merged(llama, tmp_path):
    """A store with half of the skill tiny, and texts."""
    store = shutil.copytree(llama.store, tmp_path / "store")
    skillpack.compose(["tiny=0.5"], "half", base=llama.base, store=store)
    data = tmp_path / "texts.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return ("half", "--expert", "tiny", "--data", data, "--base", llama.base, "--store", store)


def test_a_module_is_attached(merged, run):
    store = merged[-1]
    before = skillpack.list(store=store)
    result = run("surgery", *merged, *QUICK)
    assert result.exit_code == 0, result.output
    assert "attached a module of rank 4 for tiny to half" in result.stderr
    assert "distance from tiny:" in result.stderr
    assert 'skillpack.open_surgery("half", "tiny")' in result.stderr
    assert skillpack.list(store=store) == before
    assert skillpack.open_surgery("half", "tiny", store=store).bias.rank == 4


def test_the_document_has_the_figures(merged, run_json):
    found = run_json("surgery", *merged, *QUICK)
    assert (found["name"], found["task"], found["rank"], found["width"]) == ("half", "tiny", 4, 32)
    assert found["after"] < found["before"]
    assert (found["texts"], found["held_out"]) == (5, 5)
    opened = skillpack.open_surgery("half", "tiny", attachment=found["attachment"], store=merged[-1])
    assert opened.facts.steps == 150


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--expert", "half"], 2, "the same skill"),
        (["--expert", "nobody"], 1, "nobody"),
        (["--data", "missing.txt"], 1, "missing.txt"),
        (["--rank", "64"], 2, "rank cannot be 64"),
        (["--rate", "1"], 2, "--rate"),
        (["--steps", "0"], 2, "--steps"),
    ],
)
def test_what_cannot_be_is_refused(merged, run, options, code, says):
    result = run("surgery", *merged, *QUICK, *options)
    assert result.exit_code == code
    assert says in result.stderr
