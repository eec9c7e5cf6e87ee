"""Commands route and add-examples."""

from __future__ import annotations

import pytest

import skillpack


@pytest.fixture
def taught(llama, tmp_path, run):
    """A store whose skill tiny knows what it is for."""
    store = tmp_path / "store"
    skillpack.export("tiny", tmp_path / "tiny.tar", store=llama.store)
    skillpack.import_skill(tmp_path / "tiny.tar", store=store)
    data = tmp_path / "prompts.jsonl"
    data.write_text("\n".join(f'{{"prompt": "Spell {number}00 in words."}}' for number in range(10, 22)))
    result = run("add-examples", "tiny", data, "--base", llama.base, "--store", store)
    assert result.exit_code == 0, result.output
    assert "attached 12 examples to tiny, which has 12 now" in result.output
    return store


def test_a_prompt_is_routed(taught, llama, tmp_path, run, run_json):
    skillpack.pack(llama.base, llama.tuned, "other", store=taught, exact=True)
    skillpack.import_skill(tmp_path / "tiny.tar", "twin", store=taught)
    found = run("route", "Spell 3300 in words.", "The sea is calm.", "--base", llama.base, "--store", taught)
    lines = [line.split() for line in found.stdout.splitlines()]
    assert lines[1][:5] == ["Spell", "3300", "in", "words.", "tiny"]
    assert "left out other: The skill other has no examples of what it is for" in found.stderr
    assert "left out twin: twin is the same skill as tiny" in found.stderr
    assert lines[2][:5] == ["The", "sea", "is", "calm.", "(base)"]
    options = ("--base", llama.base, "--store", taught, "--skills", "tiny", "--threshold", "1000")
    document = run_json("route", "Spell 3300 in words.", *options)
    assert document["routes"][0]["choices"] == []
    assert document["routes"][0]["scores"][0]["name"] == "tiny"
    # Of skills that were named none is left out.
    assert document["left_out"] == []
    left_out = run_json("route", "x", "--base", llama.base, "--store", taught)["left_out"]
    assert [each["name"] for each in left_out] == ["other", "twin"]
    assert left_out[1]["reason"] == "twin is the same skill as tiny"


def test_what_is_left_out_is_told_of_some(taught, llama, run):
    for number in range(6):
        skillpack.import_skill(taught.parent / "tiny.tar", f"twin-{number}", store=taught)
    found = run("route", "x", "--base", llama.base, "--store", taught)
    assert [line for line in found.stderr.splitlines() if "left out" in line][4:] == [
        "left out twin-4: twin-4 is the same skill as tiny",
        "left out 1 more",
    ]


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--threshold", "high"], 2, "no threshold"),
        (["--method", "guess"], 2, "prototype"),
        (["--skills", "nothing"], 1, "nothing"),
    ],
)
def test_what_cannot_be_is_refused(taught, llama, run, options, code, says):  # noqa: PLR0917
    result = run("route", "x", "--base", llama.base, "--store", taught, *options)
    assert result.exit_code == code
    assert says in result.stderr


def test_without_examples_it_says_how_to_add_some(llama, run):
    result = run("route", "x", "--base", llama.base, "--store", llama.store, "--skills", "tiny")
    assert result.exit_code == 1
    assert "skillpack add-examples tiny FILE --base MODEL" in result.stderr
