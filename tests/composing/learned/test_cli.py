from __future__ import annotations

import json
import shutil

import pytest
from click.testing import CliRunner

from skillpack.cli.root import root
from skillpack.composing.learned import METHODS
from skillpack.composing.names import LEARNED


@pytest.fixture
def run(tiny, tmp_path):
    store = shutil.copytree(tiny.store, tmp_path / "store")

    def command(*arguments):
        return CliRunner().invoke(root, ["compose", *map(str, arguments), "--store", str(store)])

    return command


@pytest.fixture
def files(tiny, tmp_path):
    """A file of texts for each task."""
    found = []
    for number, task in enumerate(tiny.tasks):
        found.append(tmp_path / f"task-{number}.jsonl")
        found[-1].write_text("".join(json.dumps({"text": sample.text}) + "\n" for sample in task))
    return found


def test_the_command_knows_all_methods_without_importing_them():
    assert sorted(LEARNED) == sorted(METHODS)


def test_learning_on_the_command_line(tiny, run, files):
    options = ("--method", "adamerging", "--base", tiny.base, "--steps", 3, "--batch", 4, "--max-tokens", 64)
    data = [argument for file in files for argument in ("--data", file)]
    result = run("english", "german", "--name", "both", *options, *data, "--option", "layerwise=false", "--json")
    assert result.exit_code == 0, result.output
    recipe = json.loads(result.stdout)["recipe"]
    noted = {entry["key"]: entry["value"] for entry in recipe["learned"]}
    assert (noted["method"], noted["steps"], noted["batch"], noted["max_tokens"]) == ("adamerging", 3, 4, 64)
    assert noted["option.layerwise"] is False
    again = run("--again", "both", "--base", tiny.base)
    assert again.exit_code == 0, again.output
    assert "the same skill" in again.output


def test_a_mask_is_not_made_again_without_its_texts(tiny, run, files):
    options = ("--method", "localise", "--base", tiny.base, "--steps", 1, "--max-tokens", 64, "--data", files[0])
    made = run("english", "--name", "core", *options, "--option", "share=0.5")
    assert made.exit_code == 0, made.output
    again = run("--again", "core", "--base", tiny.base)
    assert again.exit_code == 2
    assert "learns from texts" in again.output


def test_twin_parts_on_the_command_line(tiny, run):
    shared = run("english", "german", "--name", "shared", "--method", "twin", "--base", tiny.base)
    assert shared.exit_code == 0, shared.output
    task = ("--method", "twin", "--task", "english", "--option", "rank=0.5", "--base", tiny.base)
    exclusive = run("english", "german", "--name", "english-only", *task, "--json")
    assert exclusive.exit_code == 0, exclusive.output
    recipe = json.loads(exclusive.stdout)["recipe"]
    assert (recipe["method"], recipe["task"]) == ("twin", "english")
    assert {"option": "rank", "value": 0.5} in recipe["options"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "atlas", "--base", "x"], "learns from texts with answers"),
        (["--method", "concrete", "--base", "x"], "learns from prompts"),
        (["--method", "adamerging", "--data", "x.txt"], "on the live model"),
        (["--method", "ties", "--data", "x.txt"], "needs no texts"),
        (["--method", "atlas", "--data", "x.txt", "--base", "x", "--weights", "1,2"], "no use for --weights"),
        (["--method", "atlas", "--data", "x.txt", "--base", "x", "--task", "english"], "no use for --task"),
    ],
)
def test_what_makes_no_sense(run, arguments, words):
    result = run("english", "german", "--name", "both", *arguments)
    assert result.exit_code == 2
    assert words in result.output
