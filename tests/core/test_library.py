"""A library of skills: list, show, delete, export, import, verify."""

import shutil

import pytest

import skillpack
from skillpack import library
from skillpack.errors import (
    CorruptStoreError,
    DamagedSkillError,
    NoStoreError,
    NotFoundError,
    ReportedError,
    StoreError,
    UsageError,
)
from skillpack_store import Repository
from tests.packing.models import base_values, tuned_values, write

BASE = base_values(width=32, blocks=1, vocabulary=40)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A store with two versions of math and one of code."""
    folder = tmp_path_factory.mktemp("library")
    base = write(folder / "base", BASE)
    (base / "README.md").write_text("---\nlicense: mit\n---\n# Base\n")
    for seed in range(3):
        write(folder / f"tuned{seed}", tuned_values(BASE, seed=1000 * seed))
    for name, seed, message in (("math", 0, "first"), ("code", 1, ""), ("math", 2, "second")):
        skillpack.pack(base, folder / f"tuned{seed}", name, store=folder / "store", message=message, author="Ada")
    return folder / "store"


@pytest.fixture
def store(packed, tmp_path):
    shutil.copytree(packed, tmp_path / "store")
    return tmp_path / "store"


def heads(store):
    return {summary.name: summary.digest for summary in skillpack.list(store=store)}


def test_list_is_sorted_and_says_who_when_and_why(store):
    code, math = skillpack.list(store=store)
    assert [(item.name, item.version, item.author, item.message) for item in (code, math)] == [
        ("code", 1, "Ada", "Pack code"),
        ("math", 2, "Ada", "second"),
    ]
    assert code.time <= math.time
    assert code.time.endswith("Z")
    assert skillpack.list(store=Repository.open(store)) == [code, math]


def test_show_opens_any_version(store):
    newest, first = skillpack.show("math", store=store), skillpack.show("math@1", store=store)
    assert (newest.summary.version, first.summary.version) == (2, 1)
    assert (newest.summary.message, first.summary.message) == ("second", "first")
    assert newest.skill.digest == newest.summary.digest != first.summary.digest
    assert newest.skill.size == newest.summary.size
    assert newest.card.startswith("---\n")
    assert skillpack.show(f"math@{first.summary.digest[:19]}", store=store).summary == first.summary


def test_show_by_tag(store):
    repository = Repository.open(store)
    digest = heads(store)["math"]
    repository.tag("release", repository.head())
    assert skillpack.show("math@release", store=store).summary.digest == digest


@pytest.mark.parametrize("address", ["mth", "math@3", "math@sha256:00000000", "math@nothing"])
def test_an_unknown_skill_is_not_found_and_there_is_a_hint(store, address):
    for act in (skillpack.show, skillpack.verify, lambda text, store: skillpack.export(text, store / "x", store=store)):
        with pytest.raises(NotFoundError) as caught:
            act(address, store=store)
        assert caught.value.hint


@pytest.mark.parametrize("address", ["Math", "math@", "math@sha256:xyz", "../x", "math@01"])
def test_what_is_no_address_is_refused(store, address):
    with pytest.raises(StoreError):
        skillpack.show(address, store=store)


@pytest.mark.parametrize(
    "act",
    [
        skillpack.list,
        lambda store: skillpack.show("a", store=store),
        lambda store: skillpack.verify(store=store),
        lambda store: skillpack.delete("a", store=store),
    ],
)
def test_without_a_store_there_is_an_error_and_none_is_made(tmp_path, act):
    with pytest.raises(NoStoreError):
        act(store=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_the_default_store_is_the_users_own(store, tmp_path, monkeypatch):
    monkeypatch.setenv("SKILLPACK_HOME", str(tmp_path))
    assert [item.name for item in skillpack.list()] == ["code", "math"]


def test_delete_keeps_the_history(store):
    digest = heads(store)["math"]
    assert skillpack.delete("math", store=store, dry_run=True).digest == digest
    assert heads(store).keys() == {"code", "math"}
    assert skillpack.delete("math", store=store).digest == digest
    assert heads(store).keys() == {"code"}
    with pytest.raises(NotFoundError, match="math"):
        skillpack.show("math", store=store)
    assert skillpack.show("math@2", store=store).summary.digest == digest
    with pytest.raises(NotFoundError):
        skillpack.delete("math", store=store)


def test_an_address_cannot_be_deleted(store):
    with pytest.raises(StoreError):
        skillpack.delete("math@1", store=store)


def test_export_and_import_keep_digest_and_card(store, tmp_path):
    exported = skillpack.export("math", tmp_path / "math.skill", store=store)
    imported = skillpack.import_skill(tmp_path / "math.skill", store=tmp_path / "other")
    assert [item.digest for item in imported] == [item.digest for item in exported] == [heads(store)["math"]]
    assert [item.version for item in imported] == [1]
    before, after = (skillpack.show("math", store=where) for where in (store, tmp_path / "other"))
    assert after.card == before.card != ""
    assert after.skill.manifest == before.skill.manifest
    assert after.summary.message == "Import math"


def test_exports_of_equal_skills_are_equal(store, tmp_path):
    skillpack.export(["math", "code"], tmp_path / "a", store=store)
    skillpack.import_skill(tmp_path / "a", store=tmp_path / "other")
    skillpack.export(["code", "math"], tmp_path / "b", store=tmp_path / "other")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert heads(tmp_path / "other") == heads(store)


def test_import_under_another_name(store, tmp_path):
    skillpack.export("math@1", tmp_path / "a", store=store)
    (item,) = skillpack.import_skill(tmp_path / "a", "sums", store=store, message="renamed", author="Bea")
    assert (item.name, item.message, item.author) == ("sums", "renamed", "Bea")
    assert heads(store)["sums"] == skillpack.show("math@1", store=store).summary.digest


def test_several_skills_cannot_have_one_name(store, tmp_path):
    skillpack.export(["math", "code"], tmp_path / "a", store=store)
    before = heads(store)
    with pytest.raises(UsageError, match="2 skills"):
        skillpack.import_skill(tmp_path / "a", "one", store=store)
    assert heads(store) == before


def test_importing_twice_changes_nothing(store, tmp_path):
    skillpack.export("math", tmp_path / "a", store=store)
    before = heads(store)
    (item,) = skillpack.import_skill(tmp_path / "a", store=store)
    assert item.version == 2
    assert heads(store) == before


def test_export_does_not_overwrite_unless_asked(store, tmp_path):
    (tmp_path / "a").write_text("mine")
    with pytest.raises(UsageError, match="exists"):
        skillpack.export("math", tmp_path / "a", store=store)
    assert (tmp_path / "a").read_text() == "mine"
    skillpack.export("math", tmp_path / "a", store=store, overwrite=True)
    assert skillpack.import_skill(tmp_path / "a", store=tmp_path / "other")


def test_an_archive_holds_one_version_of_a_skill(store, tmp_path):
    with pytest.raises(UsageError, match="one version"):
        skillpack.export(["math", "math@1"], tmp_path / "a", store=store)
    assert not (tmp_path / "a").exists()


def test_a_damaged_archive_leaves_the_library_as_it_was(store, tmp_path):
    target = tmp_path / "other"
    skillpack.export("math", tmp_path / "a", store=store)
    skillpack.export("code", tmp_path / "c", store=store)
    skillpack.import_skill(tmp_path / "c", store=target)
    before = [heads(target), Repository.open(target).branches()]
    data = (tmp_path / "a").read_bytes()
    damage = [data[: len(data) // 2], b"", b"no archive", data[:600]]
    for at in range(0, len(data), len(data) // 25):
        flipped = bytearray(data)
        flipped[at] ^= 0x10
        damage.append(bytes(flipped))
    refused = 0
    for number, damaged in enumerate(damage):
        path = tmp_path / f"damaged{number}"
        path.write_bytes(damaged)
        try:
            skillpack.import_skill(path, store=target)
        except ReportedError:
            refused += 1
            assert [heads(target), Repository.open(target).branches()] == before, number
        else:
            # The flipped bit is in the padding of the archive; what was imported is whole.
            assert heads(target)["math"] == heads(store)["math"]
            skillpack.verify(store=target)
            skillpack.delete("math", store=target)
            before = [heads(target), Repository.open(target).branches()]
    assert refused > 15


def test_import_of_what_is_no_skill_is_refused(tmp_path):
    repository = Repository.create(tmp_path / "foreign")
    foreign = repository.put_skill(b"{}", "application/json", [([b"x"], "text/plain")])
    repository.commit("main", lambda _: {"x": foreign}, author="a", message="m", tools={})
    library.export_archive(repository, {"x": foreign}, tmp_path / "a")
    with pytest.raises(DamagedSkillError):
        skillpack.import_skill(tmp_path / "a", store=tmp_path / "store")
    assert Repository.open(tmp_path / "store").skills() == {}


def test_verify_reads_every_byte(store):
    seen = []
    names = [item.name for item in skillpack.verify(store=store, progress=lambda *report: seen.append(report))]
    assert names == ["code", "math"]
    assert seen[-1][0] == seen[-1][1] == sum(item.size for item in skillpack.list(store=store))
    assert [item.name for item in skillpack.verify("math@1", store=store)] == ["math"]


def test_verify_finds_damage(store):
    repository = Repository.open(store)
    (layer,) = repository.skill_manifest(heads(store)["math"]).layers
    path = repository.blobs.path(layer.digest)
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptStoreError) as caught:
        skillpack.verify(store=store)
    assert caught.value.exit_code == 13
    assert [item.name for item in skillpack.verify("code", store=store)] == ["code"]
    with pytest.raises(CorruptStoreError):
        skillpack.export("math", store.parent / "a", store=store)
    assert not (store.parent / "a").exists()


def test_tools_are_noted_with_every_commit(store):
    (commit, *_) = list(Repository.open(store).history("main"))
    assert commit.tools.keys() >= {"python", "numpy", "torch", "constriction", "zstandard"}


@pytest.mark.parametrize("text", ["math=", "math=x", "math=0.5=1"])
def test_weights_that_are_no_numbers_are_refused(text):
    with pytest.raises(UsageError, match="weight"):
        library.parse_weight(text)
