"""gc, fsck, stats and verify --subset."""

import json
import os
import shutil
import time
from datetime import timedelta
from pathlib import Path

import pytest

import skillpack
from skillpack.cli.upkeep import parse_time
from tests.cli.conftest import model_files

PAGE = Path(__file__).parents[2] / "docs" / "troubleshooting.md"


def age(store, days=1000):
    then = time.time() - days * 86400
    for path in (store / "blobs" / "sha256").iterdir():
        os.utime(path, (then, then))


def lose(store):
    """Put a blob of 1000 bytes that nothing names into a store in which everything is old."""
    stray = skillpack.library.open_existing(store).blobs.put([b"x" * 1000]).digest
    age(store)
    return stray


def test_gc_moves_to_the_trash_deletes_and_brings_back(library, run):
    stray = lose(library)
    result = run("gc", "--dry-run")
    assert "would be moved to the trash: 1 blob, 1.00 kB" in result.stderr
    assert "dry run: nothing was changed" in result.stderr
    assert result.stdout == ""
    path = library / "blobs" / "sha256" / stray[7:]
    assert path.exists()
    result = run("gc")
    assert "moved to the trash: 1 blob, 1.00 kB" in result.stderr
    assert "skillpack gc --undo brings it back" in result.stderr
    assert not path.exists()
    assert "1 blob, 1.00 kB came back from the trash" in run("gc", "--undo").stderr
    assert path.exists()
    age(library)
    assert "deleted from the trash: 1 blob" in run("gc", "--now", "-y").stderr
    assert not list((library / "trash").iterdir())


def test_gc_asks_before_it_empties_the_trash(library, run):
    result = run("gc", "--now")
    assert result.exit_code == 2
    assert "Add -y" in result.stderr


@pytest.mark.parametrize(
    "arguments", [["--undo", "--now"], ["--undo", "--dry-run"], ["--grace", "x"], ["--grace", "5"]]
)
def test_gc_refuses_what_makes_no_sense(library, run, arguments):
    assert run("gc", *arguments).exit_code == 2


def test_gc_without_a_store(run, tmp_path):
    for command in ("gc", "fsck", "stats"):
        assert run(command, "--store", tmp_path / "none").exit_code == 10


def test_times():
    texts = ["14d", "12h", "30m", "90s", "2w", "0", "0d"]
    hours = [336, 12, 0.5, 0.025, 336, 0, 0]
    assert [parse_time(text) for text in texts] == [timedelta(hours=count) for count in hours]


def test_a_model_needs_nothing_of_the_store_after_an_install(library, model, models, run):
    """Not to check it, not to change its skills, not to give the base back; so nothing has to be registered."""
    before = model_files(model)
    assert run("install", "math", "code", model).exit_code == 0
    # More than any collection could take.
    shutil.rmtree(library)
    assert run("status", model, "--verify").exit_code == 0
    assert run("remove", "math", model).exit_code == 0
    assert run("remove", "code", model).exit_code == 0
    assert model_files(model) == before == model_files(models.base)


def test_fsck_of_a_sound_store(library, run, run_json):
    result = run("fsck", "--full")
    assert result.exit_code == 0
    assert result.stdout == ""
    assert "no errors" in result.stderr
    document = run_json("fsck")
    assert (document["errors"], document["findings"], document["level"]) == (0, [], "sizes")


def damage(library, run_json):
    digest = run_json("show", "math")["digest"]
    path = library / "blobs" / "sha256" / digest[7:]
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b" ")
    return digest


def test_fsck_finds_damage_says_what_it_affects_and_ends_with_13(library, run, run_json):
    digest = damage(library, run_json)
    result = run("fsck")
    assert result.exit_code == 13
    first, skills, commits, refs = result.stdout.splitlines()
    assert first.startswith(f"blob-damaged blobs/sha256/{digest[7:]}: Its content has digest")
    assert skills == f"  skills: math@{digest[:19]}"
    assert commits.startswith("  commits: sha256:")
    assert refs == "  refs: heads/main"
    assert "1 error" in result.stderr
    document = json.loads(run("fsck", "--json").stdout)
    (finding,) = document["findings"]
    assert (finding["problem"], finding["error"], finding["digest"]) == ("blob-damaged", True, digest)
    assert finding["affected"]["skills"] == [f"math@{digest}"]


def test_fsck_quarantines_when_asked(library, run, run_json):
    digest = damage(library, run_json)
    result = run("fsck", "--quarantine")
    assert result.exit_code == 13
    assert "  moved to: quarantine/" in result.stdout
    assert not (library / "blobs" / "sha256" / digest[7:]).exists()
    assert run("fsck").stdout.startswith("blob-missing")
    # What the missing manifest would lead to is not known, so neither is what could be freed.
    assert run("stats").exit_code == run("gc").exit_code == 13


def test_fsck_of_a_store_that_does_not_open(library, run):
    (library / "oci-layout").write_text("{}")
    assert run("list").exit_code == 13
    result = run("fsck")
    assert (result.exit_code, result.stdout.split()[0]) == (13, "layout-damaged")


def test_notes_do_not_fail(library, run):
    (library / "README").touch()
    result = run("fsck")
    assert result.exit_code == 0
    assert result.stdout.startswith("note: stray-file README")
    assert "no errors, 1 note" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [["--quick", "--full"], ["--subset", "1/5"], ["--full", "--subset", "6/5"], ["--full", "--subset", "x"]],
)
def test_fsck_refuses_what_makes_no_sense(library, run, arguments):
    assert run("fsck", *arguments).exit_code == 2


def test_parts_of_verify_make_a_whole(library, run):
    found = [run("verify", "--subset", f"{part}/3").stdout.splitlines() for part in (1, 2, 3)]
    assert sorted(line for part in found for line in part) == sorted(run("verify").stdout.splitlines())
    assert sum(map(len, found)) == 2
    assert run("verify", "--subset", "4/3").exit_code == 2


def test_stats_add_up(library, run, run_json):
    document = run_json("stats")
    skills = {skill["name"]: skill for skill in document["skills"]}
    assert {name: skill["versions"] for name, skill in skills.items()} == {"math": 2, "code": 1}
    own = sum(skill["own"] for skill in skills.values())
    others = sum(document[name]["bytes"] for name in ("shared", "history", "unreferenced"))
    on_disk = sum(path.stat().st_size for path in (library / "blobs" / "sha256").iterdir())
    assert own + others == document["blobs"]["bytes"] == document["total"] == on_disk
    result = run("stats")
    assert result.stdout.splitlines()[0].split() == ["skill", "versions", "size", "own"]
    assert result.stdout.splitlines()[-1].startswith("total")


def test_the_page_on_troubleshooting_has_every_finding_and_every_exit_code():
    from skillpack.cli.failures import EXIT_CODES
    from skillpack_store.findings import Problem

    text = PAGE.read_text()
    headings = [line.removeprefix("### ").strip("`") for line in text.splitlines() if line.startswith("### ")]
    assert headings == [problem.value for problem in Problem]
    for heading in headings:
        section = text.partition(f"### `{heading}`\n")[2].partition("\n#")[0]
        assert len(section.split()) > 20, heading
    codes = text.partition("## Exit codes\n")[2]
    for code in EXIT_CODES:
        assert f"\n| {code} |" in codes
