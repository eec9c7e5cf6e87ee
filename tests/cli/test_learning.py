"""`skillpack learn` as users type it."""

from __future__ import annotations

import json

import pytest

from tests.learning.conftest import ANSWERS
from tests.live import models

HOW = ["--share", "0.5", "--steps", "60", "--batch", "4", "--rate", "0.01", "--no-plot"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return models.llama(tmp_path_factory.mktemp("base") / "base", initializer_range=0.1)


@pytest.fixture
def listed(tmp_path):
    """A list of two tasks."""
    rows = []
    for name in ("colours", "sounds"):
        lines = [json.dumps({"prompt": f"{name}: {word}?", "answer": answer}) for word, answer in ANSWERS[name].items()]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
        rows.append({"name": name, "train": f"{name}.jsonl", "held_out": f"{name}.jsonl", "score": "exact"})
    (tmp_path / "tasks.yaml").write_text(json.dumps({"tasks": rows}))
    return tmp_path / "tasks.yaml"


def test_a_list_of_tasks(run, run_json, base, listed, tmp_path):
    command = ("learn", listed, "--base", base, "-o", tmp_path / "out", *HOW)
    result = run(*command)
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["skill", "size", "base", "tuned", "score"] in lines
    assert any(line[:1] == ["colours@1"] and line[-3:] == ["0.000", "1.000", "1.000"] for line in lines)
    assert "tasks named: average 1.000, backward transfer +0.000, forward transfer +0.000" in result.stdout
    assert ["sounds", "1.000", "1.000"] in lines
    assert "2 tasks, 0 of them learned before" in result.stderr
    again = run_json(*command)
    assert (again["resumed"], again["scores"], again["base"]) == (2, [[1, 0], [1, 1]], [0, 0])
    assert again["written"] == [str(tmp_path / "out" / "learn.json")]
    assert [each["name"] for each in run_json("list")["skills"]] == ["colours", "sounds"]
    assert {each["size"] for each in again["skills"]} == set(again["bytes"])
    routed = run(*command, "--route", "prototype")
    assert (routed.exit_code, "were measured with no router" in routed.stderr) == (2, True)
    assert run_json(*command) == again
    wanted = ("--prefer", "colours=0.25, sounds=0.75", "--name", "both", "--base", base)
    (made,) = run_json("learn", *wanted)["preferred"]
    assert made["preferences"] == [{"skill": "colours", "weight": 0.25}, {"skill": "sounds", "weight": 0.75}]
    assert (run_json("show", "both")["digest"], made["name"]) == (made["digest"], "both")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "there is nothing to do"),
        (["--prefer", "math=1"], "--prefer and --name belong together"),
        (["--prefer", "math=0.5,code=0.4", "--name", "both"], "preferences add up to 0.9, not to 1"),
        (["tasks.yaml"], "tasks need --base and --output"),
        (["nowhere.yaml", "--base", "base", "-o", "out"], "nowhere.yaml: cannot be read"),
    ],
)
def test_what_is_refused(run, arguments, message):
    result = run("learn", *arguments)
    assert result.exit_code in {1, 2}
    assert message in result.stderr


def test_a_damaged_folder(run, base, listed, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "progress.json").write_text("{}")
    result = run("learn", listed, "--base", base, "-o", tmp_path / "out", *HOW)
    assert (result.exit_code, "progress.json is damaged" in result.stderr) == (1, True)
