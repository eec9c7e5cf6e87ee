"""The command `compose` with the methods that need no data."""

import pytest

pytestmark = pytest.mark.usefixtures("library")


def test_a_sum(run, run_json, models):
    result = run("compose", "math", "code=0.5", "--name", "both", "--base", models.base)
    assert result.exit_code == 0, result.output
    first, second, last = result.stderr.splitlines()
    assert first.startswith("composed both@1 of code=0.5, math=1 by sum: ")
    assert "with the streams of the parts" in second
    assert last == "next: skillpack show both; skillpack install both MODEL_DIR"
    shown = run_json("show", "both")
    assert [(part["name"], part["weight"]) for part in shown["recipe"]["parts"]] == [("code", 0.5), ("math", 1)]


def test_weights_in_a_row(run, models):
    result = run("compose", "math", "code", "--weights", "1,0.25", "--name", "both", "--base", models.base)
    assert "composed both@1 of code=0.25, math=1 by sum" in result.stderr


def test_options_of_a_method(run, run_json, models):
    asked = ["compose", "math", "code", "--method", "dare", "--base", models.base, "--seed", "3"]
    result = run(*asked, "--option", "density=0.5", "--name", "half")
    assert result.exit_code == 0, result.output
    options = run_json("show", "half")["recipe"]["options"]
    assert {"density": 0.5, "seed": 3}.items() <= {one["option"]: one["value"] for one in options}.items()


def test_a_dry_run_stores_nothing(run, models):
    result = run("compose", "math", "code", "--name", "both", "--base", models.base, "--dry-run")
    assert result.stderr.startswith("would compose both of code=1, math=1")
    assert "dry run: nothing was stored" in result.stderr
    assert run("show", "both").exit_code == 1


def test_again(run, run_json, models):
    run("compose", "math", "code", "--name", "both", "--method", "ties", "--base", models.base)
    result = run("compose", "--again", "both", "--base", models.base)
    assert result.exit_code == 0, result.output
    digest = run_json("show", "both")["digest"]
    assert result.stderr.strip() == f"composing both again gives the same skill: {digest}"


@pytest.mark.parametrize(
    "refused",
    [
        (["math", "code"], 2, "Missing option '--name'"),
        (["math", "code", "--name", "x", "--method", "magic"], 2, "magic"),
        (["math", "code", "--name", "x", "--option", "density"], 2, "'density' is no option"),
        (["math", "code", "--name", "x", "--method", "ties", "--option", "colour=3"], 2, "colour"),
        (["math", "code", "--name", "x", "--method", "ties", "--option", "density=many"], 2, "density"),
        (["math", "code", "--name", "x", "--weights", "a,b"], 2, "'a,b' are no weights"),
        (["math", "code", "--name", "x", "--weights", "1"], 2, "weights"),
        (["math", "nothing", "--name", "x"], 1, "There is no skill 'nothing'"),
        (["--again", "math", "code"], 2, "composes one skill once more"),
        (["--again", "math"], 2, "math"),
        (["math", "code", "--name", "x", "--method", "adamerging"], 2, "--data"),
        (["math", "code", "--name", "x", "--task", "math"], 2, "task"),
    ],
)
def test_what_is_refused(run, models, library, refused):
    asked, code, said = refused
    before = sorted(path for path in library.rglob("*") if path.is_file())
    result = run("compose", *asked, "--base", models.base)
    assert result.exit_code == code, result.output
    assert said in result.stderr
    assert sorted(path for path in library.rglob("*") if path.is_file()) == before
