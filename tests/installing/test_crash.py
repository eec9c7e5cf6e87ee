"""A kill or a power loss at any point leaves the old model or the new one once the next command has run."""

from __future__ import annotations

import shutil

import pytest

from skillpack.errors import SkillPackError
from skillpack.installing import install, remove, status
from tests import crash
from tests.installing import models
from tests.installing.models import model_files, tensors_of, whole

STATE = ".skillpack/.cache/huggingface"


def installed(model):
    """Digests of the installed skills and of all files of the model."""
    found = status(model, verify=True)
    assert not found.differences
    assert not found.unfinished
    return [(record.digest, record.weight) for record in found.skills], model_files(model)


def loads_wrong(model, right):
    """Whether the folder, as it is, opens as a model that is neither the old one nor the new one."""
    try:
        return tensors_of(model) not in right
    except (SkillPackError, OSError):
        return False


@pytest.fixture
def place(shelf, tmp_path):
    """A folder with a store and a copy of the base, so that links between the two are recorded."""
    shutil.copytree(shelf.store, tmp_path / "place" / "store")
    shutil.copytree(shelf.base, tmp_path / "place" / "model")
    return tmp_path / "place"


@pytest.fixture
def put(shelf):
    """Install a skill of the store, perhaps under another name."""

    def put(place, skill, name=None):
        digest = shelf.skills[skill].skill.digest
        install([models.wanted(place / "store", digest, name or skill)], place / "model")

    return put


def put_math(place, put):
    put(place, "math")


def put_code(place, put):
    put(place, "code")


def put_chat_for_math(place, put):
    put(place, "chat", "math")


def remove_all(place, put):
    remove(None, place / "model")


def remove_math(place, put):
    remove(["math"], place / "model")


CASES = {
    "first install": ((), put_code),
    "second install": ((put_math,), put_code),
    "replacement by one that touches other files": ((put_math,), put_chat_for_math),
    "removal of one of two": ((put_math, put_code), remove_math),
    "removal of the last": ((put_code,), remove_all),
}


@pytest.mark.parametrize("case", CASES)
def test_every_crash_leaves_the_old_model_or_the_new(place, put, case):
    before, action = CASES[case]
    model = place / "model"
    for step in before:
        step(place, put)
    states = [installed(model)]
    tensors = [tensors_of(model)]
    with crash.record(place) as recording:
        action(place, put)
    states.append(installed(model))
    tensors.append(tensors_of(model))
    reached = set()

    def check(found):
        folder = found / "model"
        assert not loads_wrong(folder, tensors), "loads as a mixture"
        reached.add(states.index(installed(folder)))
        if not status(folder).managed:
            assert not (folder / ".skillpack").exists()
        left = {path.name for path in (folder / STATE).glob("*")}
        assert left <= {"receipt.json", "base", "skills", ".gitignore"}

    assert crash.check_every_crash(recording, check) > 20
    assert reached == {0, 1}
    crash.rebuild(recording, len(recording), "lost", place.parent / "finished")
    assert installed(place.parent / "finished" / "model") == states[1]


@pytest.mark.parametrize("case", ["second install", "removal of the last"])
def test_the_next_command_goes_on_by_itself(shelf, place, put, case):
    """Without a look at the status, an install after the crash ends in the state that a clean one ends in."""
    before, action = CASES[case]
    for step in before:
        step(place, put)
    with crash.record(place) as recording:
        action(place, put)
    expected = shutil.copytree(shelf.base, place.parent / "expected")
    install([shelf.skills["chat"]], expected)

    def check(found):
        folder = found / "model"
        install([shelf.skills["chat"]], folder)
        for name in ("math", "code"):
            if name in {record.name for record in status(folder).skills}:
                remove([name], folder)
        assert model_files(folder) == model_files(expected)

    crash.check_every_crash(recording, check, variants=("persisted", "lost"))


def test_a_crash_while_a_recovery_runs(shelf, place, put):
    """Moves that are repeated can be interrupted and repeated again."""
    with crash.record(place) as recording:
        put_code(place, put)
    new = installed(place / "model")
    journals = [
        number
        for number, operation in enumerate(recording.operations)
        if any(path.endswith("/journal.json") for path in operation.paths)
    ]
    for count in range(journals[0] + 1, len(recording), 7):
        crash.rebuild(recording, count, "lost", place.parent / f"half-{count}")
        folder = place.parent / f"half-{count}" / "model"
        with crash.record(folder) as again:
            status(folder)
        crash.check_every_crash(again, installed, variants=("lost",))
        assert installed(folder)[1] in (new[1], model_files(shelf.base))


def test_a_crash_while_a_new_folder_is_made(shelf, tmp_path):
    source = shutil.copytree(shelf.base, tmp_path / "source")
    store = shutil.copytree(shelf.store, tmp_path / "store")
    skill = models.wanted(store, shelf.skills["code"].skill.digest, "code")
    before = whole(source)
    with crash.record(tmp_path) as recording:
        install([skill], source, output=tmp_path / "out")
    expected = installed(tmp_path / "out")
    reached = set()

    def check(folder):
        assert whole(folder / "source") == before
        reached.add((folder / "out").exists())
        if not (folder / "out").exists():
            again = models.wanted(folder / "store", skill.skill.digest, "code")
            install([again], folder / "source", output=folder / "out")
        assert installed(folder / "out") == expected
        assert {path.name for path in folder.iterdir()} == {"source", "store", "out"}

    crash.check_every_crash(recording, check)
    assert reached == {False, True}


SNIPPET = """
import sys
from skillpack.installing import Wanted, install, remove
from skillpack.skill import open_skill
from skillpack_store import Repository
model, store, action, *digests = sys.argv[1:]
repository = Repository.open(store)
wanted = [Wanted(open_skill(repository, digest, name), repository) for name, digest in zip(("code", "math"), digests)]
install(wanted, model) if action == "install" else remove(["code"], model)
"""


@pytest.mark.parametrize("action", ["install", "remove"])
def test_real_kills(shelf, model, action):
    skills = [shelf.skills["code"].skill.digest, shelf.skills["math"].skill.digest]
    if action == "remove":
        install([shelf.skills["code"], shelf.skills["math"]], model)
    old = installed(model)
    number, seen = 3, []
    while True:
        folder = shutil.copytree(model, model.parent / f"killed-{number}")
        killed = crash.run_until_killed(number, SNIPPET, str(folder), str(shelf.store), action, *skills)
        seen.append(installed(folder))
        assert len(seen) == 1 or seen[-1] in (old, seen[0], seen[-2]) or seen[-2] == old
        if not killed:
            break
        number += 13
    assert seen[0] == old
    assert seen[-1] != old
    assert all(state in (old, seen[-1]) for state in seen)
