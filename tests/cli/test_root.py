"""The program as a whole: it starts fast, helps, and is documented."""

import contextlib
import inspect
import io
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import skillpack
from skillpack.cli import bar
from skillpack.cli.docs import TWINS, render
from skillpack.cli.documents import KEYS
from skillpack.cli.root import all_commands, root
from tests.pace import paced

COMMANDS = all_commands()
HEAVY = ["torch", "numpy", "rich", "huggingface_hub", "transformers", "safetensors", "constriction", "zstandard"]


def test_the_commands():
    assert list(COMMANDS) == [
        *["pack", "install", "remove", "status", "list", "show", "eval", "rebase"],
        *["compose", "surgery", "tint", "compare", "learn", "learn-stream"],
        *["delete", "export", "import", "verify"],
        *["log", "diff", "reflog", "branch", "tag", "merge", "restore", "revert", "undelete", "lock", "sync"],
        *["gc", "fsck", "stats", "report"],
        *["remote add", "remote list", "remote remove", "remote set-url"],
        *["push", "pull", "fetch", "clone", "ls-remote"],
        *["route", "add-examples"],
        "serve",
        *["sign", "signatures", "key new", "key list", "key show"],
        *["policy show", "policy set", "policy trust", "policy untrust"],
    ]


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_names_every_command(flag, run):
    result = run(flag)
    assert result.exit_code == 0
    for name, command in root.commands.items():
        assert f"  {name} " in result.stdout
        assert command.get_short_help_str(100) in result.stdout
    assert run().stdout == result.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_a_twin(name, run):
    command = COMMANDS[name]
    result = run(*name.split(), "-h")
    assert result.exit_code == 0
    assert command.help
    for option in command.params:
        if option.param_type_name == "option":
            assert option.help, f"{name} {option.name}"
    assert {"--json", "-q"} <= {text for option in command.params for text in option.opts}
    twin = TWINS.get(name, name)
    assert twin in skillpack.__all__
    assert inspect.isfunction(getattr(skillpack, twin))


def test_version(run):
    assert run("--version").stdout.startswith("skillpack 0.")


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom skillpack.cli.root import root\n"
        f"for name in ['', *{list(COMMANDS)}]:\n"
        "    try: root([*name.split(), '--help'])\n"
        "    except SystemExit: pass\n"
        f"sys.exit(str(set({HEAVY}) & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.stderr == "set()\n"


def test_help_is_fast(process):
    def show():
        start = time.perf_counter()
        assert process("--help").communicate(timeout=20)[1] == ""
        return time.perf_counter() - start

    assert paced(show) < 0.4


def test_the_page_is_up_to_date():
    page = Path(__file__).parents[2] / "docs" / "cli.md"
    assert page.read_text() == render(), "run: python -m skillpack.cli.docs > docs/cli.md"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_page_documents_every_command(name):
    section = render().partition(f"## skillpack {name}\n")[2].partition("\n## ")[0]
    assert f"`skillpack.{TWINS.get(name, name)}`" in section
    for option in COMMANDS[name].params:
        if option.param_type_name == "option":
            assert option.opts[-1] in section


def paths(document, prefix=""):
    """Paths of all keys; an empty list or null stands for everything below it."""
    if isinstance(document, dict):
        for key, value in document.items():
            yield from paths(value, f"{prefix}.{key}" if prefix else key)
    elif isinstance(document, list) and not prefix.endswith((".rank", ".error")):
        if not document:
            yield f"{prefix}[]*"
        for value in document:
            yield from paths(value, f"{prefix}[]")
    else:
        yield prefix


@pytest.mark.usefixtures("library")
def test_every_json_key_is_documented(models, model, llama, tmp_path, run_json, process):  # noqa: PLR0917
    (tmp_path / "data.txt").write_text("Some are useful.\n")
    of_tiny = ("--base", llama.base, "--tuned", llama.tuned, "--store", llama.store)
    (tmp_path / "prompts.txt").write_text("\n\n".join(f"Spell {number}." for number in range(12)))
    prompts = (tmp_path / "prompts.txt", "--base", llama.base)
    onto = ("--onto", llama.tuned, "--from", llama.base, "--data", tmp_path / "chats.jsonl")
    (tmp_path / "chats.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"text": "Some are useful."}\n')
    taught = shutil.copytree(llama.store, tmp_path / "taught")
    printed = {
        "serve": served(process, llama),
        "pack": run_json("pack", models.base, models.math),
        "install": run_json("install", "math", model),
        "status": run_json("status", model),
        "remove": run_json("remove", "math", model),
        "list": run_json("list"),
        "show": run_json("show", "math"),
        "add-examples": run_json("add-examples", "tiny", *prompts, "--store", taught),
        "route": run_json("route", "Some are useful.", *prompts[1:], "--store", taught),
        "eval": run_json("eval", "tiny", *of_tiny, "--data", tmp_path / "data.txt"),
        "surgery": operated(run_json, llama, tmp_path),
        "tint": tinted(run_json, llama, tmp_path),
        "compare": compared(run_json),
        "rebase": run_json("rebase", "tiny", *onto, "--store", llama.store, "--dry-run"),
        "learn": learned(run_json, llama, tmp_path),
        "learn-stream": run_json(
            *("learn-stream", tmp_path / "one" / "tiny" / "train.jsonl", "--base", llama.base),
            *("--share", "0.5", "--store", tmp_path / "stream-store"),
        ),
        "compose": run_json("compose", "math", "code", "--name", "both", "--base", models.base, "--dry-run"),
        "export": run_json("export", "math", tmp_path / "math.tar"),
        "import": run_json("import", tmp_path / "math.tar"),
        "gc": run_json("gc", "--now", "-y"),
        "stats": run_json("stats"),
        "report": run_json("report", "-o", tmp_path / "report.html"),
        "fsck": run_json("fsck", "--full"),
        "key new": run_json("key", "new", "ada", "--no-password"),
        "key list": run_json("key", "list"),
        "key show": run_json("key", "show", "ada"),
        "sign": run_json("sign", "math", "code", "math-tuned", "--key", "ada"),
        "signatures": run_json("signatures", "math"),
        "verify": run_json("verify", "--key", "ada"),
        "delete": run_json("delete", "math", "-y"),
        **history(run_json, model, tmp_path),
        "remote add": run_json("remote", "add", "origin", tmp_path / "stick"),
        "push": run_json("push"),
        "fetch": run_json("fetch"),
        "pull": run_json("pull", tmp_path / "stick", "code", "--store", tmp_path / "other"),
        "clone": run_json("clone", tmp_path / "stick", tmp_path / "third"),
        "ls-remote": run_json("ls-remote"),
        "remote list": run_json("remote", "list"),
        "remote set-url": run_json("remote", "set-url", "origin", tmp_path / "stick"),
        "remote remove": run_json("remote", "remove", "origin"),
        "policy trust": run_json("policy", "trust", "ada", "--name", "Ada"),
        "policy show": run_json("policy", "show"),
        "policy set": run_json("policy", "set", "require"),
        "policy untrust": run_json("policy", "untrust", "Ada"),
    }
    assert set(printed) == set(KEYS) == set(COMMANDS)
    for name, document in printed.items():
        found = set(paths(document))
        empty = tuple(path[:-1] for path in found if path.endswith("*"))
        assert {path for path in found if not path.endswith("*")} <= set(KEYS[name]), name
        assert {key for key in KEYS[name] if key not in found and not key.startswith(empty or "\0")} == set(), name


def operated(run_json, llama, folder):
    """What learning a module prints; of a skill that is not in the store of the others."""
    store = ("--store", shutil.copytree(llama.store, folder / "surgery-store"))
    run_json("compose", "tiny=0.5", "--name", "half", "--base", llama.base, *store)
    texts = ("--data", folder / "data.txt", "--base", llama.base, "--steps", "50")
    return run_json("surgery", "half", "--expert", "tiny", *texts, *store)


def tinted(run_json, llama, folder):
    """What learning layers prints; of skills that are not in the store of the others."""
    store = ("--store", shutil.copytree(llama.store, folder / "tint-store"))
    run_json("compose", "tiny=0.5", "--name", "half", "--base", llama.base, *store)
    texts = [option for _ in range(2) for option in ("--data", folder / "data.txt")]
    return run_json("tint", "tiny", "half", "--name", "both", *texts, "--base", llama.base, "--steps", "2", *store)


def compared(run_json):
    """The documents of both ways to compare, of which each has some keys only."""
    pairs, groups = (
        run_json("compare", "math", "math@1", "code"),
        run_json("compare", "--cluster", "math", "math@1", "code"),
    )
    return {**pairs, "groups": groups["groups"], "duplicates": groups["duplicates"]}


def history(run_json, model, tmp_path):
    """Documents of the commands on the history, of which each has every key."""
    return {
        "branch": run_json("branch", "try", "main"),
        "tag": run_json("tag", "v1", "main~1"),
        "log": log_of(run_json("log"), run_json("log", "math", "-n", "2")),
        "diff": run_json("diff", "main~3", "main~1", "--tensors"),
        "reflog": run_json("reflog"),
        "undelete": run_json("undelete", "math"),
        "revert": run_json("revert", "main"),
        "restore": run_json("restore", "main~1"),
        "merge": run_json("merge", "try", "--take", "code=ours"),
        "lock": run_json("lock", "code", "-o", tmp_path / "skills.lock"),
        "sync": run_json("sync", model, "--lock", tmp_path / "skills.lock"),
    }


def learned(run_json, llama, folder):
    """What learning a task prints."""
    for name in ("train", "held_out"):
        (folder / "one" / "tiny").mkdir(parents=True, exist_ok=True)
        (folder / "one" / "tiny" / f"{name}.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    options = ("--base", llama.base, "-o", folder / "learned", "--share", "0.5", "--steps", "2", "--no-plot")
    return run_json("learn", folder / "one", *options, "--store", folder / "learned-store")


def served(process, llama):
    """What a server prints when it answers."""
    server = process("serve", llama.base, "--skills", "tiny", "--store", llama.store, "--port", "0", "--json")
    lines = []
    while not lines or lines[-1] != "}\n":
        lines.append(server.stdout.readline())
        assert lines[-1], server.stderr.read()
    server.terminate()
    assert server.wait(20) == 0
    return json.loads("".join(lines))


def log_of(*documents):
    return {"commits": [commit for document in documents for commit in document["commits"]]}


def test_completion(process):
    words = {"_SKILLPACK_COMPLETE": "bash_complete", "COMP_WORDS": "skillpack in", "COMP_CWORD": "1"}
    assert process(env=words).communicate(timeout=20)[0].split() == ["plain,install"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def work(monkeypatch):
    """Work with a progress bar; returns what was printed on stderr."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")

    def work(stderr, *, patience, shown=True):
        monkeypatch.setattr(bar, "PATIENCE", patience)
        with contextlib.redirect_stderr(stderr), bar.Bar(shown=shown) as progress:
            for done in range(0, 5_000_001, 1_000_000):
                progress(done, 5_000_000, "comparing")
            progress(0, 0, "[coding]")
        return stderr.getvalue()

    return work


def test_long_work_shows_bytes_and_time(work):
    printed = work(Terminal(), patience=0)
    assert "comparing" in printed
    assert "0.0/5.0 MB" in printed
    assert "[coding]" in printed
    assert "\x1b[3" not in printed


def test_there_is_no_bar(work, monkeypatch):
    assert work(Terminal(), patience=2) == ""
    assert work(Terminal(), patience=0, shown=False) == ""
    assert work(io.StringIO(), patience=0) == ""
    monkeypatch.setenv("TERM", "dumb")
    assert work(Terminal(), patience=0) == ""
