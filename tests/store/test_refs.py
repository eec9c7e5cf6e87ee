from __future__ import annotations

import pytest

from skillpack_store import BusyError, CorruptStoreError, StoreError, digest_of
from skillpack_store.refs import RefStore, check_ref

A, B, C = (digest_of(text) for text in (b"a", b"b", b"c"))


@pytest.fixture
def refs(tmp_path):
    return RefStore(tmp_path / "refs")


def test_update_moves_a_ref_and_keeps_its_log(refs):
    assert refs.read("heads/main") is None
    assert refs.list("heads") == {}
    refs.update("heads/main", A, expected=None)
    refs.update("heads/main", B, expected=A)
    refs.update("tags/v1", A, expected=None)
    assert refs.read("heads/main").digest == B
    assert [(value.number, value.digest) for value in refs.log("heads/main")] == [(2, B), (1, A)]
    assert refs.log("heads/main")[0].time.endswith("Z")
    assert {name: value.digest for name, value in refs.list("heads").items()} == {"main": B}
    assert list(refs.list("tags")) == ["v1"]


@pytest.mark.parametrize("expected", [None, B, C])
def test_update_from_another_value_is_refused(refs, expected):
    refs.update("heads/main", A, expected=None)
    with pytest.raises(BusyError, match="moved by somebody else"):
        refs.update("heads/main", C, expected=expected)
    assert len(refs.log("heads/main")) == 1


def test_update_loses_to_whoever_took_the_next_number(refs, monkeypatch):
    refs.update("heads/main", A, expected=None)
    stale = refs.log("heads/main")[0]
    refs.update("heads/main", B, expected=A)
    monkeypatch.setattr(refs, "_newest", lambda name: stale)
    with pytest.raises(BusyError):
        refs.update("heads/main", C, expected=A)
    assert RefStore(refs.folder).read("heads/main").digest == B


def test_delete_is_an_entry_and_the_ref_can_come_back(refs):
    refs.update("tags/v1", A, expected=None)
    with pytest.raises(BusyError):
        refs.delete("tags/v1", expected=B)
    refs.delete("tags/v1", expected=A)
    assert refs.read("tags/v1") is None
    assert refs.list("tags") == {}
    refs.update("tags/v1", B, expected=None)
    assert [value.digest for value in refs.log("tags/v1")] == [B, None, A]


def test_numbers_are_compared_as_numbers(refs):
    before = None
    for number in range(12):
        digest = digest_of(str(number).encode())
        refs.update("heads/main", digest, expected=before)
        before = digest
    assert refs.read("heads/main") == refs.log("heads/main")[0]
    assert refs.read("heads/main").number == 12


def test_files_that_are_not_entries_are_passed_over(refs):
    refs.update("heads/main", A, expected=None)
    for name in (".2.abcdef.tmp", "02", "2.bak", "9999999999", "x"):
        (refs.folder / "heads" / "main" / name).write_text("junk")
    (refs.folder / "heads" / ".hidden").mkdir()
    (refs.folder / "heads" / "file").touch()
    assert refs.read("heads/main").digest == A
    assert list(refs.list("heads")) == ["main"]


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"digest":"sha256:../x","time":""}', "x" * 5000, '{"digest":1}'])
def test_a_damaged_entry_is_reported_with_its_file(refs, content):
    refs.update("heads/main", A, expected=None)
    path = refs.folder / "heads" / "main" / "2"
    path.write_text(content)
    with pytest.raises(CorruptStoreError, match=str(path)):
        refs.read("heads/main")


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "a\\b",
        ".hidden",
        "a..b",
        "a.",
        "-a",
        "a-",
        "a b",
        "a\n",
        "a\0b",
        "ä",
        "ⅷ",
        "123",
        "HEAD",
        "head",
        "CON",
        "nul.txt",
        "com1",
        "x" * 101,
        "a:b",
        "a@b",
        "~",
        "*",
    ],
)
def test_names_that_are_refused(refs, name):
    for call in (lambda: check_ref(name), lambda: refs.read(f"heads/{name}"), lambda: refs.log(f"tags/{name}")):
        with pytest.raises(StoreError, match="cannot be the name"):
            call()
    with pytest.raises(StoreError):
        refs.update(f"heads/{name}", A, expected=None)
    assert not refs.folder.exists()


@pytest.mark.parametrize("name", ["main", "Main", "v1.0", "release-1_2", "a", "1a", "x" * 100])
def test_names_that_are_taken(name):
    assert check_ref(name) == name


@pytest.mark.parametrize("name", ["main", "other/main", "heads", "/heads/main", "../heads/main"])
def test_only_known_kinds_are_refs(refs, name):
    with pytest.raises(StoreError):
        refs.read(name)


def test_only_digests_are_stored(refs):
    with pytest.raises(ValueError, match="not a digest"):
        refs.update("heads/main", "main", expected=None)


def test_what_remotes_named_is_kept_by_remote_and_branch(refs):
    refs.update("remotes/origin/main", A, expected=None)
    refs.update("remotes/stick/main", B, expected=None)
    refs.update("remotes/origin/side", C, expected=None)
    assert {name: value.digest for name, value in refs.list("remotes").items()} == {
        "origin/main": A,
        "origin/side": C,
        "stick/main": B,
    }
    with pytest.raises(BusyError):
        refs.update("remotes/origin/main", B, expected=C)
    refs.delete("remotes/origin/main", expected=A)
    assert list(refs.list("remotes")) == ["origin/side", "stick/main"]
    assert (refs.folder / "remotes" / "origin" / "main" / "2").is_file()


@pytest.mark.parametrize(
    "name", ["remotes/origin", "remotes/origin/", "remotes//main", "remotes/a/b/c", "remotes/../x/y"]
)
def test_names_of_what_remotes_named(name, refs):
    with pytest.raises(StoreError):
        refs.update(name, A, expected=None)
    assert refs.list("remotes") == {}
