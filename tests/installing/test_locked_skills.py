"""Lock files, and model folders that are made to match them."""

import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import skillpack
from skillpack.errors import (
    LockFileError,
    ModifiedFolderError,
    NoStoreError,
    NotFoundError,
    ReportedError,
    UsageError,
    WrongBaseError,
)
from skillpack.locked_skills import Lock
from tests import crash
from tests.installing import models


@pytest.fixture
def locked(shelf):
    """A lock of given addresses."""
    return lambda *addresses, **options: skillpack.lock(addresses, store=shelf.store, **options)


def installed(folder):
    return {skill.name: skill.weight for skill in skillpack.status(folder).skills}


def test_a_lock_says_exactly_what(shelf, locked, tmp_path):
    lock = locked("math", "code=0.5", output=tmp_path / "skills.lock", remotes=["s3://b", "oci://a", "s3://b"])
    assert [(skill.name, skill.weight, skill.version) for skill in lock.skills] == [("code", 0.5, 1), ("math", 1.0, 1)]
    shown = skillpack.show("math", store=shelf.store)
    (math,) = (skill for skill in lock.skills if skill.name == "math")
    assert (math.digest, math.size) == (shown.summary.digest, shown.summary.size)
    assert math.base == shown.skill.manifest.base_fingerprint
    assert lock.remotes == ("oci://a", "s3://b")
    assert Lock.load(tmp_path / "skills.lock") == lock
    assert (tmp_path / "skills.lock").read_bytes() == lock.dump()
    assert len(locked().skills) == 4


def test_one_changed_skill_changes_its_own_lines(locked):
    before, after = (locked("math", weight).dump().decode().splitlines() for weight in ("code", "code=0.5"))
    assert len([1 for old, new in zip(before, after, strict=True) if old != new]) == 1
    assert locked("code", "math").dump() == locked("math", "code").dump()


@pytest.mark.parametrize("addresses", [("math", "math=0.5"), ("math=x",), ("math=0",), ("math=nan",)])
def test_what_cannot_be_locked(locked, addresses):
    with pytest.raises(UsageError):
        locked(*addresses)


def test_nothing_to_lock(shelf, locked):
    with pytest.raises(NotFoundError):
        locked(branch="none")
    with pytest.raises(NotFoundError):
        locked("prse")


def test_a_folder_is_made_to_match(shelf, locked, model, tmp_path):
    base = models.model_files(model)
    want = locked("math", "code=0.5")
    found = skillpack.sync(model, want, store=shelf.store)
    assert (found.in_sync, found.steps.install) == (False, ("code", "math"))
    assert installed(model) == {"code": 0.5, "math": 1.0}
    # The same as an install of the same set.
    other = shutil.copytree(shelf.base, tmp_path / "other")
    skillpack.install(["math", "code=0.5"], other, store=shelf.store)
    assert models.model_files(model) == models.model_files(other)
    # One leaves, one changes its weight, one comes; the store is not needed for those that are there.
    want = locked("chat", "code")
    found = skillpack.sync(model, want, store=shelf.store)
    assert (found.steps.install, found.steps.reweigh, found.steps.remove) == (("chat",), ("code",), ("math",))
    assert installed(model) == {"chat": 1.0, "code": 1.0}
    assert found.report.changed == ("chat", "code", "math")
    again = skillpack.sync(model, want, store=tmp_path / "no store")
    assert (again.in_sync, again.report.written) == (True, ())
    skillpack.sync(model, Lock(()), store=tmp_path / "no store")
    assert models.model_files(model) == base


def test_another_version_takes_the_place(shelf, model, tmp_path):
    store = shutil.copytree(shelf.store, tmp_path / "store")
    tensors = models.moved(shelf.tensors, 9, "layers.0.up.weight")
    models.make_skill(store, shelf.base, tensors, "math")
    skillpack.install("math@1", model, store=store)
    lock = skillpack.lock("math", store=store)
    found = skillpack.sync(model, lock, store=store)
    assert found.steps.replace == ("math",)
    assert skillpack.status(model).skills[0].label == "math@2"
    # Back again, under another name for the same content: the folder has what it needs.
    (math,) = lock.skills
    renamed = Lock((type(math)("sums", math.digest, 7, math.size, math.base, 1.0),))
    found = skillpack.sync(model, renamed, store=tmp_path / "no store")
    assert (found.steps.install, found.steps.remove) == (("sums",), ("math",))
    assert installed(model) == {"sums": 1.0}


def test_check_changes_nothing_and_says_what_would(shelf, locked, model, tmp_path):
    want = locked("math")
    before = models.whole(model)
    found = skillpack.sync(model, want, check=True, store=tmp_path / "no store")
    assert (found.in_sync, found.report, found.steps.install) == (False, None, ("math",))
    assert models.whole(model) == before
    skillpack.sync(model, want, store=shelf.store)
    assert skillpack.sync(model, want, check=True).in_sync
    path = model / "model-00001-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    found = skillpack.sync(model, want, check=True)
    assert (found.in_sync, [difference.path for difference in found.differences]) == (False, [path.name])
    with pytest.raises(ModifiedFolderError):
        skillpack.sync(model, want, store=shelf.store)


def test_a_dry_run_changes_nothing(shelf, locked, model):
    before = models.whole(model)
    found = skillpack.sync(model, locked("math"), store=shelf.store, dry_run=True)
    assert found.report.dry_run
    assert found.report.written
    assert models.whole(model) == before


def test_all_missing_skills_are_named_at_once(shelf, locked, model, tmp_path):
    want = locked("math", "code", "chat", remotes=["s3://bucket/skills"])
    skillpack.install("chat", model, store=shelf.store)
    empty = skillpack.summaries.open_or_create(tmp_path / "empty")
    for store in (tmp_path / "no store", empty):
        with pytest.raises(NotFoundError) as caught:
            skillpack.sync(model, want, store=store)
        assert "2 of the 3 locked skills" in caught.value.message
        assert caught.value.hint == "Get them: skillpack pull s3://bucket/skills code math"
    assert installed(model) == {"chat": 1.0}
    with pytest.raises(NotFoundError) as caught:
        skillpack.sync(model, Lock(want.skills), store=empty)
    assert "names no remote" in caught.value.hint


def test_the_wrong_base_is_refused_as_a_whole(shelf, locked, tmp_path):
    other = models.write_model(tmp_path / "other", models.base_tensors(5))
    before = models.whole(other)
    with pytest.raises(WrongBaseError):
        skillpack.sync(other, locked("math", "code"), store=shelf.store)
    assert models.model_files(other) == {name: text for name, text in before.items() if ".skillpack" not in name}


def test_force_is_recorded_and_stays(shelf, locked, model):
    skillpack.sync(model, locked("math"), store=shelf.store, force=True)
    skillpack.sync(model, locked("math=0.5", "code"), store=shelf.store)
    assert {skill.name: skill.forced for skill in skillpack.status(model).skills} == {"math": True, "code": False}


def test_a_crash_leaves_one_set_or_the_other(shelf, locked, model, tmp_path):
    # In one folder, because bytes of the store are linked into the model.
    store = shutil.copytree(shelf.store, tmp_path / "all" / "store")
    model = model.rename(tmp_path / "all" / "model")
    skillpack.install(["math", "chat"], model, store=store)
    states = [installed(model)]
    want = locked("math=0.5", "code")
    with crash.record(tmp_path / "all") as recording:
        skillpack.sync(model, want, store=store)
    states.append(installed(model))
    final, reached = models.model_files(model), set()

    def check(folder):
        assert not skillpack.status(folder / "model", verify=True).differences
        reached.add(states.index(installed(folder / "model")))
        skillpack.sync(folder / "model", want, store=folder / "store")
        assert models.model_files(folder / "model") == final

    assert crash.check_every_crash(recording, check, variants=["lost", "persisted"]) > 20
    assert reached == {0, 1}


def test_no_lock_file(model, tmp_path):
    with pytest.raises(LockFileError) as caught:
        skillpack.sync(model, tmp_path / "skills.lock")
    assert "skillpack lock" in caught.value.hint
    with pytest.raises(NoStoreError):
        skillpack.lock(store=tmp_path / "none")


GOOD = {"format": 1, "remotes": ["s3://a"], "skills": [
    {"name": "math", "digest": "sha256:" + "0" * 64, "version": 1, "size": 5, "base": "sha256:" + "1" * 64,
     "weight": 1.0}
]}  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "../x"),
        ("name", None),
        ("digest", "sha256:0"),
        ("base", 3),
        ("version", -1),
        ("version", "1"),
        ("version", True),
        ("size", None),
        ("size", 1 << 63),
        ("weight", "1"),
        ("weight", None),
        ("weight", True),
    ],
)
def test_damaged_locks_are_refused(tmp_path, key, value):
    path = tmp_path / "skills.lock"
    path.write_text(json.dumps(GOOD))
    assert Lock.load(path).skills[0].name == "math"
    for skills in ([{**GOOD["skills"][0], key: value}], [{k: v for k, v in GOOD["skills"][0].items() if k != key}]):
        path.write_text(json.dumps({**GOOD, "skills": skills}))
        with pytest.raises(LockFileError):
            Lock.load(path)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"format": 2}', '{"format": 1, "skills": 3, "remotes": []}', "\x00", "[" * 10000,
     json.dumps({**GOOD, "remotes": [3]}), json.dumps({**GOOD, "skills": GOOD["skills"] * 2})],
)  # fmt: skip
def test_other_files_are_refused(tmp_path, text):
    (tmp_path / "skills.lock").write_text(text)
    with pytest.raises(LockFileError):
        Lock.load(tmp_path / "skills.lock")


@given(st.binary(max_size=200) | st.recursive(st.none() | st.text(), st.lists).map(lambda v: json.dumps(v).encode()))
@settings(max_examples=200, deadline=None)
def test_anything_is_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.lock"
    path.write_bytes(data)
    with pytest.raises(ReportedError):
        Lock.load(path)
