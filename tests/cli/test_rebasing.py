from __future__ import annotations

import json
import shutil

import pytest

import skillpack
from tests.cli.conftest import moved, tensors, write_model

BLOCKS = ["model.layers.0", "model.layers.1", "rest"]


@pytest.fixture
def newer(models, tmp_path):
    """A base that moved on from the models' base."""
    base = tensors(0, **{"model.inv_freq": (8,)})
    return write_model(tmp_path / "newer", {**moved(base, 21), "model.inv_freq": base["model.inv_freq"]}, {"labels": 2})


@pytest.mark.usefixtures("library")
def test_a_skill_moves_to_a_newer_base(run, models, newer):
    result = run("rebase", "math", "--onto", newer, "--from", models.base, "-m", "New base")
    assert result.exit_code == 0, result.output
    head, table = result.stdout.split("\n\n")
    assert head.splitlines()[0] == ("math@2: 8 of 9 tensors have another base now; 3 coded anew, 6 kept as they are")
    assert head.splitlines()[1].startswith("the new base moved ")
    heading, *rows = table.splitlines()
    assert heading.split() == ["layer", "tensors", "moved", "cosine", "opposed", "risk"]
    assert sorted(row.split()[0] for row in rows) == BLOCKS
    assert "rebased math@2 as math@3" in result.stderr
    assert skillpack.show("math").summary.message == "New base"
    assert run("install", "math", newer).exit_code == 0


@pytest.mark.usefixtures("library")
def test_json_and_dry_run(run_json, models, newer):
    found = run_json("rebase", "math@1", "--onto", newer, "--from", models.base, "--dry-run")
    assert (found["version"], found["digest"], found["source"], found["dry_run"]) == (None, "", "math@1", True)
    assert found["flips"] is None
    assert found["total"]["risk"] > 0
    risks = [row["risk"] for row in found["layers"]]
    assert risks == sorted(risks, reverse=True)
    assert skillpack.show("math").summary.version == 2


@pytest.mark.usefixtures("library")
def test_rows_of_the_table(run, models, newer):
    arguments = ("rebase", "math", "--onto", newer, "--from", models.base, "--dry-run")
    rows = run(*arguments, "--tensors", "--top", "3").stdout.split("\n\n")[1].splitlines()
    assert (rows[0].split()[0], len(rows)) == ("tensor", 4)
    assert "\n\n" not in run(*arguments, "--top", "0").stdout
    assert run(*arguments, "-q").stderr == ""


@pytest.mark.usefixtures("library")
def test_the_same_base_is_nothing_to_do(run, models, tmp_path):
    copy = shutil.copytree(models.base, tmp_path / "copy")
    result = run("rebase", "math", "--onto", copy, "--from", models.base)
    assert result.exit_code == 0
    assert "it is the same skill on this base" in result.stderr
    assert "as math@2" in result.stderr


@pytest.mark.usefixtures("library")
def test_refusals_have_their_exit_codes(run, models, newer, tmp_path):
    for arguments, code, message in (
        (("--onto", newer), 2, "distance from the values of the old base"),
        (("--onto", newer, "--from", models.other), 12, "packed from another base"),
        (("--onto", newer, "--data", tmp_path / "data.txt"), 2, "measured beside the old one"),
        (("--onto", tmp_path / "absent"), 1, "no such file or folder"),
        ((), 2, "--onto"),
    ):
        result = run("rebase", "math", *arguments)
        assert result.exit_code == code, result.output
        assert message in result.stderr
    assert run("rebase", "absent", "--onto", newer).exit_code == 1
    shapes = {**tensors(0), "model.norm.weight": tensors(0)["model.embed_tokens.weight"]}
    narrow = write_model(tmp_path / "narrow", shapes, {"labels": 2})
    result = run("rebase", "math", "--onto", narrow, "--from", models.base)
    assert result.exit_code == 12
    assert "another shape: [16] in the old base, [40, 16] in the new one" in result.stderr


def test_texts_show_what_is_kept(run, run_json, llama, tmp_path):
    data = tmp_path / "chats.jsonl"
    lines = [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"}, {"text": "Some are useful."}]
    data.write_text("\n".join(map(json.dumps, lines)))
    arguments = ("rebase", "tiny", "--onto", llama.tuned, "--from", llama.base, "--store", llama.store, "--dry-run")
    result = run(*arguments, "--data", data, "--top", "0")
    assert result.exit_code == 0, result.output
    found = run_json(*arguments, "--data", data)["flips"]
    assert f"gain kept: {found['kept']:.2%}" in result.stdout
    assert f"negative flips: {found['negative']:.2%} [" in result.stdout
    assert "note: 1 plain texts have no answer" in result.stdout
    assert found["samples"] == 3
    assert run_json(*arguments, "--data", data, "--limit", "2")["flips"]["samples"] == 2
