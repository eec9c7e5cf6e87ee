import pytest

import skillpack
from skillpack.cli.options import parse_size


def test_pack_stores_a_skill_and_says_what_is_next(models, run, home):
    result = run("pack", models.base, models.math, "-m", "First try", "--author", "Ada", "--license", "mit")
    assert result.exit_code == 0
    assert result.stdout == ""
    first, second, third, last = result.stderr.splitlines()
    assert first.startswith("packed math-tuned@1: ")
    assert "of the fine-tune's" in first
    assert second.startswith("9 tensors changed, 1 gone, 0 unchanged, 1 file changed; ")
    assert "approximated" in second
    assert third.endswith("modeling_tiny.py")
    assert last == "next: skillpack show math-tuned; skillpack install math-tuned MODEL_DIR"
    (skill,) = skillpack.list()
    assert (skill.name, skill.author, skill.message) == ("math-tuned", "Ada", "First try")
    assert 'license: "mit"' in skillpack.show("math-tuned").card


def test_an_exact_pack_says_so(models, run, run_json):
    result = run("pack", models.base, models.math, "--exact", "--name", "math")
    assert "comes back bit for bit" in result.stderr
    assert run_json("pack", models.base, models.math, "--exact", "--name", "math")["exact"] is True


def test_a_size_is_met(models, run_json):
    report = run_json("pack", models.base, models.math, "--size", "5kB", "--name", "math")
    assert report["size"] <= 5000
    assert report["exact"] is False
    assert report["error"] > 0


def test_quality_changes_the_size(models, run_json):
    sizes = [
        run_json("pack", models.base, models.math, "--quality", quality, "--dry-run")["size"] for quality in (0.1, 0.95)
    ]
    assert sizes[0] < sizes[1]


def test_a_dry_run_stores_nothing(models, run, home):
    result = run("pack", models.base, models.math, "--dry-run")
    assert result.exit_code == 0
    assert result.stderr.splitlines()[-1] == "dry run: nothing was stored"
    assert not home.exists()


def test_quiet_is_quiet(models, run, tmp_path):
    result = run("pack", models.base, models.math, "-q", "--store", tmp_path / "store", "--branch", "trial")
    assert (result.exit_code, result.output) == (0, "")
    assert [skill.name for skill in skillpack.list(store=tmp_path / "store", branch="trial")] == ["math-tuned"]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("5MB", 5_000_000),
        ("2.5MiB", 2_621_440),
        ("500kB", 500_000),
        ("500 KB", 500_000),
        ("1GiB", 1 << 30),
        ("1.2345678 GB", 1_234_567_800),
        ("0.0015kB", 1),
        ("123", 123),
        ("7b", 7),
    ],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "5M", "-5MB", "5.MB", "1e6", "5 MB or so", "٣MB", "9" * 5000])
def test_what_is_no_size(text, models, run, home):
    result = run("pack", models.base, models.math, f"--size={text}")
    assert result.exit_code == 2
    assert "is no size; write 5MB, 2.5MiB, 500kB or a number of bytes" in result.stderr
    assert not home.exists()


@pytest.mark.parametrize(
    "goal",
    [["--exact", "--size", "5MB"], ["--size", "1kB", "--quality", "0.5"], ["--quality", "2"], ["--quality", "x"]],
)
def test_goals_that_make_no_sense(goal, models, run, home):
    result = run("pack", models.base, models.math, *goal)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert not home.exists()


def test_a_fine_tune_that_is_the_base(models, run):
    result = run("pack", models.base, models.base, "--name", "none")
    assert result.exit_code == 2
    assert "does not differ" in result.stderr


def test_a_checkpoint_that_is_not_there(models, run):
    result = run("pack", models.base, "./nowhere/at/all")
    assert result.exit_code == 1
    assert "no such file or folder" in result.stderr
    assert "hint: " in result.stderr
