"""`skillpack learn` and `skillpack learn-stream` as users type them."""

from __future__ import annotations

import inspect
import json

import pytest

import skillpack
from skillpack.cli.root import root
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


def test_a_stream_of_two_tasks(run, run_json, base, tmp_path):
    lines = [
        json.dumps({"prompt": f"{name}: {word}?", "answer": answer})
        for name in ("colours", "sounds")
        for word, answer in 40 * list(ANSWERS[name].items())
    ]
    (tmp_path / "stream.jsonl").write_text("\n".join(lines))
    command = ("learn-stream", tmp_path / "stream.jsonl", "--base", base, "--name", "week", "--share", "0.5")
    how = ("--batch", "4", "--rate", "0.005")
    found = run_json(*command, *how)["segments"]
    assert [(each["name"], each["start"], each["stop"], each["returned"]) for each in found] == [
        ("week-1", 0, 40, False),
        ("week-2", 40, 80, False),
    ]
    assert [len(each["losses"]) for each in found] == [40, 40]
    assert [each["name"] for each in run_json("list")["skills"]] == ["week-1", "week-2"]
    # Nothing is suspicious that is not a thousand deviations above the mean.
    result = run(*command, *how, "--limit", "1000")
    assert ["week-1@2", "0-79", "new"] in [line.split()[:3] for line in result.stdout.splitlines()]
    assert "1 task noticed; next: skillpack install week-1 MODEL_DIR" in result.stderr


def test_the_defaults_of_a_stream():
    options = {option.name: option.default for option in root.commands["learn-stream"].params}
    signature = inspect.signature(skillpack.learn_stream)
    for name in ("name", "limit", "run", "window"):
        assert options[name] == signature.parameters[name].default


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "holds no text"),
        ('{"text": "a", "label": 1}', "batch 0 of the stream has labels"),
    ],
)
def test_a_stream_that_is_refused(run, base, tmp_path, line, message):
    (tmp_path / "stream.jsonl").write_text(line)
    result = run("learn-stream", tmp_path / "stream.jsonl", "--base", base)
    assert (result.exit_code, message in result.stderr) == (1, True)
