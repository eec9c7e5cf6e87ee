"""Lists of tasks: what can be read, and what is refused and why."""

from __future__ import annotations

import json

import pytest

from skillpack.errors import DataError, StoreError, UsageError
from skillpack.learning import Task, read_tasks
from skillpack.texts import Sample
from tests.learning.conftest import chat

ROW = '{"prompt": "one?", "completion": "1"}\n'


def written(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text(ROW)
    return folder


@pytest.mark.parametrize("ending", ["yaml", "json"])
@pytest.mark.parametrize("wrapped", [True, False])
def test_a_file(tmp_path, ending, wrapped):
    written(tmp_path, "a.jsonl", "b.jsonl")
    rows = [{"name": name, "train": "a.jsonl", "held_out": "b.jsonl", "score": "exact"} for name in ("z", "a")]
    # JSON is YAML too.
    (tmp_path / f"tasks.{ending}").write_text(json.dumps({"tasks": rows} if wrapped else rows))
    tasks = read_tasks(tmp_path / f"tasks.{ending}")
    assert [task.name for task in tasks] == ["z", "a"]
    assert tasks[0].train == tmp_path / "a.jsonl"
    assert tasks[0].measured == [chat("one?", "1")]


def test_yaml_as_people_write_it(tmp_path):
    written(tmp_path, "a.jsonl")
    (tmp_path / "tasks.yml").write_text("- name: one\n  train: a.jsonl\n  held_out: a.jsonl\n  examples: 3\n")
    (task,) = read_tasks(tmp_path / "tasks.yml")
    assert (task.name, task.measure, task.examples) == ("one", "likelihood", 3)


def test_prompts_for_a_router(tmp_path):
    written(tmp_path, "a.jsonl")
    (tmp_path / "asked.txt").write_text("What is one?\n\nAnd two?\n\nAnd three?\n")
    (tmp_path / "tasks.yml").write_text(
        "- {name: one, train: a.jsonl, held_out: a.jsonl, prompts: asked.txt, examples: 2}\n"
        "- {name: two, train: a.jsonl, held_out: a.jsonl}\n"
    )
    one, two = read_tasks(tmp_path / "tasks.yml")
    assert [sample.text for sample in one.shown] == ["What is one?", "And two?"]
    assert two.shown == two.training
    assert one.key != Task("one", one.train, one.held_out, examples=2).key


def test_a_folder(tmp_path):
    for name in ("02-code", "01-math", ".hidden"):
        written(tmp_path / name, "train.jsonl", "held_out.jsonl")
    (tmp_path / "01-math" / "task.json").write_text('{"score": "number"}')
    written(tmp_path / "02-code", "prompts.jsonl")
    tasks = read_tasks(tmp_path)
    assert [(task.name, task.measure) for task in tasks] == [("math", "number"), ("code", "likelihood")]
    assert [task.prompts for task in tasks] == [None, tmp_path / "02-code" / "prompts.jsonl"]


def test_labels_are_what_is_scored_where_there_are_some():
    samples = [Sample(text="good", label=1), Sample(text="bad", label=0)]
    assert Task("mood", samples, samples).measure == "label"


def test_the_key_is_of_the_content():
    one, two = [chat("a", "b")], [chat("a", "c")]
    keys = {Task("x", *data).key for data in ((one, one), (two, one), (one, two))}
    assert len(keys) == 3
    assert Task("x", one, one).key == Task("x", list(one), list(one)).key
    assert Task("x", one, one).key != Task("x", one, one, "exact").key != Task("y", one, one, "exact").key


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "holds no task"),
        ("7", "no list of tasks"),
        ("[", "cannot be understood"),
        ('[{"name": "a"}]', "task 1 is incomplete"),
        ('[{"name": "a", "train": "a.jsonl", "held_out": "a.jsonl", "colour": 1}]', "unknown colour"),
        ('[{"name": "a", "train": "a.jsonl", "held_out": "a.jsonl", "examples": "x"}]', "examples is no number"),
        ('[{"name": "a", "train": "a.jsonl", "held_out": "a.jsonl", "prompts": 3}]', "prompts is no file"),
        ('[{"name": "a", "train": "a.jsonl", "held_out": "a.jsonl", "score": "x"}]', "no score 'x'"),
    ],
)
def test_lists_that_are_refused(tmp_path, text, message):
    written(tmp_path, "a.jsonl")
    (tmp_path / "tasks.json").write_text(text)
    with pytest.raises((DataError, UsageError), match=message):
        read_tasks(tmp_path / "tasks.json")


def test_folders_and_files_that_are_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_tasks(tmp_path / "nowhere.yaml")
    with pytest.raises(DataError, match=r"\.yaml or \.json"):
        read_tasks(written(tmp_path, "tasks.txt") / "tasks.txt")
    written(tmp_path / "folder" / "one", "held_out.jsonl")
    with pytest.raises(DataError, match=r"has no train\.jsonl"):
        read_tasks(tmp_path / "folder")


def test_tasks_that_are_refused():
    good, prompt = [chat("a", "b")], [Sample(messages=({"role": "user", "content": "a"},))]
    with pytest.raises(StoreError):
        Task("Not A Name", good, good)
    with pytest.raises(UsageError, match="two tasks have the name x"):
        read_tasks([Task("x", good, good), Task("x", good, good)])
    with pytest.raises(DataError, match="1 of 1 training samples wait for an answer"):
        _ = Task("x", prompt, good).training
    with pytest.raises(DataError, match="held-out samples 1 do not fit the score exact"):
        _ = Task("x", good, [Sample(text="a")], "exact").measured
    with pytest.raises(DataError, match="do not fit the score label"):
        _ = Task("x", good, good, "label").measured
