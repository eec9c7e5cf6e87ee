"""The commands `compare` and `report`."""

import pytest


@pytest.mark.usefixtures("library")
def test_two_skills(run, models):
    result = run("compare", "math", "code", "--base", models.base)
    assert result.exit_code == 0, result.output
    head, row = result.stdout.splitlines()[:2]
    assert head.split() == ["skills", "cosine", "opposed", "outvoted", "directions", "same", "tensors", "norms"]
    assert row.startswith("math, code")
    assert "x chance" in row
    assert "math, code: " in result.stdout
    assert "cosine, block of layers by block of layers (░ from 2%" in result.stdout
    assert "sign conflict (outvoted), block of layers by block of layers (░ from 20%" in result.stdout
    assert "subspace overlap (directions), block of layers by block of layers (░ from 2%" in result.stdout
    assert len([line for line in result.stdout.splitlines() if line.startswith("  math, code |")]) == 3
    assert "left out" not in result.stderr


@pytest.mark.usefixtures("library")
def test_layers_and_tensors(run, models):
    result = run("compare", "math", "code", "--layers", "--tensors", "--base", models.base)
    for name in ("model.layers.0", "model.layers.1.mlp.up_proj.weight", "energy of math", "others"):
        assert name in result.stdout


@pytest.mark.usefixtures("library")
def test_what_is_left_out_is_said(run):
    result = run("compare", "math@1", "code")
    assert result.exit_code == 0
    assert "left out: what comes back bit for bit cannot be compared without the base" in result.stderr


@pytest.mark.usefixtures("library")
def test_pictures(run, tmp_path):
    for name in ("clash.png", "clash.svg"):
        result = run("compare", "math", "code", "--plot", tmp_path / name)
        assert result.exit_code == 0, result.output
        assert (tmp_path / name).stat().st_size > 1000
    result = run("compare", "math", "code", "--plot", tmp_path / "clash.txt")
    assert result.exit_code == 2
    assert "End it in .png or .svg" in result.stderr


@pytest.mark.usefixtures("library")
def test_groups(run, models):
    result = run("compare", "--cluster", "math@1")
    assert "math is in no group: what comes back bit for bit" in result.stderr
    result = run("compare", "--cluster", "math", "math@1", "code", "--base", models.base)
    assert result.exit_code == 0, result.output
    assert "near-duplicates:" in result.stdout
    assert "math@1" in result.stdout
    assert run("compare", "--cluster", "--groups", "2", "--base", models.base).stdout.count("\n") == 3


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    "wrong",
    [
        ["compare", "math"],
        ["compare", "math", "code", "--groups", "2"],
        ["compare", "--cluster", "--layers"],
        ["compare", "--cluster", "--plot", "a.png"],
        ["compare", "--cluster", "--rank", "2"],
        ["compare", "math", "code", "--rank", "0"],
    ],
)
def test_what_makes_no_sense(run, wrong):
    result = run(*wrong)
    assert result.exit_code == 2, result.output


def test_an_empty_library(run, tmp_path):
    from skillpack_store import Repository

    Repository.open_or_create(tmp_path / "store")
    result = run("compare", "--cluster", "--store", tmp_path / "store")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no skill to group" in result.stderr


@pytest.mark.usefixtures("library")
def test_a_page(run, tmp_path):
    page = tmp_path / "library.html"
    result = run("report", "-o", page, "--title", "Ours")
    assert (result.exit_code, result.stdout) == (0, ""), result.output
    assert f"wrote {page}" in result.stderr
    assert "2 skills" in result.stderr
    assert "<h1>Ours</h1>" in page.read_text()


@pytest.mark.usefixtures("library")
def test_a_wrong_file(run, tmp_path):
    (tmp_path / "learn.json").write_text("{}")
    result = run("report", "-o", tmp_path / "page.html", "--learn", tmp_path / "learn.json")
    assert result.exit_code == 2
    assert "is not what `skillpack learn` writes" in result.stderr
    assert not (tmp_path / "page.html").exists()
