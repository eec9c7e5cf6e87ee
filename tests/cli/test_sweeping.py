import json

import pytest

from skillpack.cli.documents import KEYS
from skillpack.packing import drawing
from tests.cli.test_root import paths


def test_a_sweep_writes_a_curve_and_keeps_no_skill(models, run, home, tmp_path):
    result = run("pack", models.base, models.math, "--sweep", tmp_path / "curve")
    assert result.exit_code == 0, result.output
    heading, *rows = result.stdout.splitlines()
    assert heading.split() == ["bytes", "share", "error"]
    assert len(rows) == len(json.loads((tmp_path / "curve" / "curve.json").read_text())["points"]) > 1
    wrote, last = result.stderr.splitlines()
    assert wrote.count("curve.") == 3
    assert last == "no skill was put into the library"
    assert not home.exists()


def test_json(models, run_json, tmp_path):
    found = run_json("pack", models.base, models.math, "--sweep", tmp_path)
    saved = json.loads((tmp_path / "curve.json").read_text())
    assert [point["size"] for point in found["points"]] == [point["size"] for point in saved["points"]]
    assert {path.removesuffix("*") for path in paths(found)} <= {*KEYS["pack"], "points[].kl_interval[]"}
    assert found["written"] == [str(tmp_path / f"curve.{kind}") for kind in ("json", "png", "svg")]


def test_a_sweep_with_texts(llama, run, run_json, tmp_path):
    (tmp_path / "data.txt").write_text("Some are useful.\n\nAll models are wrong.\n")
    arguments = ("pack", llama.base, llama.tuned, "--sweep", tmp_path, "--calibration", tmp_path / "data.txt")
    found = run_json(*arguments)
    assert found["samples"] == 2
    result = run(*arguments)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0].split() == ["bytes", "share", "error", "KL", "95", "%", "interval"]
    assert f"{found['points'][0]['kl']:.3g}" in result.stdout.splitlines()[1]


def test_statistics_of_a_sweep_are_kept_and_weigh_the_next_one_without_texts(llama, run_json, tmp_path):
    (tmp_path / "data.txt").write_text("Some are useful.\n\nAll models are wrong.\n")
    arguments = ("pack", llama.base, llama.tuned, "--sweep", tmp_path, "--statistics", tmp_path / "weights.json")
    told = run_json(*arguments, "--calibration", tmp_path / "data.txt", "--metric", "activation")
    assert json.loads((tmp_path / "weights.json").read_text())["metric"] == "activation"
    again = run_json(*arguments, "--metric", "activation")
    assert again["samples"] is None
    assert [point["size"] for point in again["points"]] == [point["size"] for point in told["points"]]
    plain = run_json("pack", llama.base, llama.tuned, "--sweep", tmp_path)
    assert [point["error"] for point in plain["points"]] != [point["error"] for point in told["points"]]


@pytest.mark.parametrize(
    "goal",
    [
        *(["--exact"], ["--size", "5kB"], ["--quality", "0.5"], ["--max-kl", "0.1"], ["--refine", "3"], ["--dry-run"]),
        *(["--name", "math"], ["--examples", "prompts.txt"], ["--license", "MIT"]),
    ],
)
def test_goals_that_make_no_sense_with_a_sweep(goal, models, run, tmp_path):
    result = run("pack", models.base, models.math, "--sweep", tmp_path / "curve", *goal)
    assert result.exit_code == 2
    assert "keeps none" in result.stderr
    assert not (tmp_path / "curve").exists()


def test_without_matplotlib(models, run, tmp_path, monkeypatch):
    monkeypatch.setattr(drawing, "find_spec", lambda name: None)
    result = run("pack", models.base, models.math, "--sweep", tmp_path / "curve")
    assert result.exit_code == 2
    assert 'hint: python -m pip install "skillpack[plot]"' in result.stderr


def test_a_file_in_the_place_of_the_folder(models, run, tmp_path):
    (tmp_path / "curve").touch()
    assert run("pack", models.base, models.math, "--sweep", tmp_path / "curve").exit_code == 2
