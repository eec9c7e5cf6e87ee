import errno
import json
import os
import signal
import time

import click
import pytest
from click.testing import CliRunner

import skillpack
from skillpack.cli.failures import EXIT_CODES, explain
from skillpack.cli.root import Root
from skillpack.errors import ReportedError


def classes(kind):
    return {kind}.union(*(classes(child) for child in kind.__subclasses__()))


def test_every_error_has_a_published_exit_code():
    assert {kind.exit_code for kind in classes(ReportedError)} <= set(EXIT_CODES)


@pytest.mark.parametrize(
    ("arguments", "exit_code"),
    [
        (["show", "maht"], 1),
        (["pack"], 2),
        (["pack", "a", "b", "--size", "5M"], 2),
        (["list", "--colour"], 2),
        (["frobnicate"], 2),
        (["show", "math", "--store", "no"], 10),
    ],
)
def test_errors_are_json_where_json_is_wanted(arguments, exit_code, library, run):
    talk = run(*arguments)
    result = run(*arguments, "--json")
    assert talk.exit_code == result.exit_code == exit_code
    assert talk.stdout == ""
    document = json.loads(result.stdout)
    assert set(document) == {"error", "hint", "exit_code"}
    assert document["exit_code"] == exit_code
    assert result.stderr == f"error: {document['error']}\nhint: {document['hint']}\n"


def test_a_usage_error_shows_the_usage(run):
    assert "hint: skillpack pack [OPTIONS] BASE TUNED; 'skillpack pack --help' says more." in run("pack").stderr


def test_a_file_called_json_is_no_option(run):
    assert run("show", "--", "--json").stdout == ""


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.ENOSPC, "Free some space"),
        (errno.EACCES, "Check the permissions"),
        (errno.EROFS, "read-only"),
        (errno.ENOENT, "Check the path"),
        (errno.EIO, ""),
    ],
)
def test_errors_of_the_system(number, hint):
    failure = explain(OSError(number, os.strerror(number), "store/blob"))
    assert failure.message == f"store/blob: {os.strerror(number)}"
    assert hint in failure.hint
    assert failure.exit_code == 1
    assert explain(OSError("no number")).message == "no number"


@pytest.fixture
def buggy():
    @click.command()
    @click.option("--json", is_flag=True)
    def divide(json):
        return 1 / 0

    return Root("skillpack", commands={"divide": divide})


def test_a_bug_asks_to_be_reported(buggy, monkeypatch):
    result = CliRunner().invoke(buggy, ["divide"])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: SkillPack itself failed: ZeroDivisionError: division by zero\n")
    assert "SKILLPACK_DEBUG=1" in result.stderr
    assert "Traceback" not in result.output
    assert json.loads(CliRunner().invoke(buggy, ["divide", "--json"]).stdout)["exit_code"] == 1
    monkeypatch.setenv("SKILLPACK_DEBUG", "1")
    result = CliRunner().invoke(buggy, ["divide"])
    assert result.stderr.startswith("Traceback")
    assert result.stdout == ""


def test_an_interrupted_command():
    @click.command()
    @click.option("--json", is_flag=True)
    def wait(json):
        signal.raise_signal(signal.SIGINT)

    result = CliRunner().invoke(Root("skillpack", commands={"wait": wait}), ["wait", "--json"])
    assert result.exit_code == 130
    assert result.stderr.strip() == "error: Interrupted"
    assert json.loads(result.stdout) == {"error": "Interrupted", "hint": "", "exit_code": 130}


def test_an_interrupted_question(library, asking):
    running, terminal = asking("delete", "math")
    time.sleep(0.3)  # a signal between the prompt and the reading of the answer waits for the answer
    running.send_signal(signal.SIGINT)
    assert running.wait(20) == 130
    assert b"error: Interrupted" in os.read(terminal, 1000)
    assert len(skillpack.list()) == 2


@pytest.mark.parametrize("arguments", [["list"], ["--help"], ["show", "math", "--json"], ["show", "nothing", "--json"]])
def test_a_broken_pipe_is_quiet(arguments, library, process):
    read, write = os.pipe()
    os.close(read)
    running = process(*arguments, stdout=write)
    os.close(write)
    _, stderr = running.communicate(timeout=20)
    assert running.returncode == 1
    assert "error" not in stderr or "nothing" in arguments
    assert "Broken" not in stderr
    assert "Exception" not in stderr


def test_a_full_disk_is_no_traceback(library, process):
    with open("/dev/full", "w") as full:
        running = process("list", "--json", stdout=full)
        _, stderr = running.communicate(timeout=20)
    assert running.returncode == 1
    assert stderr.splitlines() == [
        "error: No space left on device",
        "hint: Free some space and run the command again.",
    ]


def test_letters_that_the_terminal_lacks(models, process, run):
    run("pack", models.base, models.code, "-m", "für 日")
    stdout, stderr = process("list", env={"PYTHONIOENCODING": "latin-1"}, encoding="latin-1").communicate(timeout=20)
    assert "für \\u65e5" in stdout
    assert stderr == ""
