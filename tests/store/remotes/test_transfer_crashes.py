"""A process that dies at any step of a transfer leaves both sides whole, with refs that are old or new.

A state is whole if everything that any ref names, at any distance, is there and has its digest; so these tests fail
if anything is written before what it refers to, on either side.
"""

from __future__ import annotations

import json

import pytest

from skillpack_store import Repository
from skillpack_store.blobs import BlobStore
from skillpack_store.fsck import check_store
from skillpack_store.remotes.folder import FolderRemote
from skillpack_store.remotes.listing import RemoteList
from skillpack_store.transfer import fetch, ls_remote, pull, pull_skills, push
from tests import crash
from tests.store.remotes.wrapping import Death, Dying, Wrapped
from tests.store.skills import WHO, commit_skill

CARD = "application/vnd.skillpack.card.v1"


def whole(repository):
    """Hash everything that any ref names, at any distance, and everything else that has a digest for a name.

    And once more by the product's own full check, which must find nothing wrong.
    """
    found = refs(repository)
    waiting = [digest for ref, digest in found.items() if not ref.startswith("referrers/")]
    seen, skills = set(waiting), set()
    while waiting:
        commit = repository.read_commit(waiting.pop())
        waiting.extend(set(commit.parents) - seen)
        seen.update(commit.parents)
        skills.update(skill.digest for skill in commit.skills.values())
    needed = set(seen)
    for digest in skills:
        manifest = repository.skill_manifest(digest)
        needed.update(blob.digest for blob in (manifest.config, *manifest.layers))
    for subject in (ref.removeprefix("referrers/").replace("-", ":", 1) for ref in found if "referrers/" in ref):
        for entry in repository.referrers(subject):
            needed.update(file.digest for file in repository.attachment(entry.digest).files)
    there = set(repository.blobs)
    assert needed <= there
    for digest in there:
        repository.blobs.verify(digest)
    checked = check_store(repository, level="full")
    assert checked.errors == []
    assert checked.hashed == sum(repository.blobs.size(digest) for digest in there)


def refs(repository):
    kinds = ("heads", "tags", "referrers", "remotes")
    return {f"{kind}/{name}": value.digest for kind in kinds for name, value in repository.refs.list(kind).items()}


def between(found, old, new):
    """Every ref is as it was or as it shall be."""
    for ref, digest in found.items():
        assert digest in {old.get(ref), new.get(ref)}, ref
    assert found.keys() >= old.keys() & new.keys()


@pytest.fixture
def both(tmp_path):
    """A folder with a library, a stick with the version before, and a clone of that."""
    folder = tmp_path / "both"
    folder.mkdir()
    ada = Repository.create(folder / "ada")
    first = commit_skill(ada, "math", "one")
    ada.attach(first.skills["math"], CARD, [(b"one", "text/plain", "x")])
    push(ada, FolderRemote(folder / "stick"), "origin", jobs=1)
    pull(Repository.create(folder / "bob"), FolderRemote(folder / "stick"), "origin", jobs=1)
    second = commit_skill(ada, "math", "two")
    commit_skill(ada, "code", "three")
    ada.tag("v2", second)
    ada.attach(first.skills["math"], CARD, [(b"two", "text/plain", "x")])
    ada.attach(second.skills["math"], CARD, [(b"three", "text/plain", "x")])
    return folder


def do_push(folder):
    push(Repository.open(folder / "ada"), FolderRemote(folder / "stick"), "origin", all_tags=True, jobs=1)


def do_pull(folder):
    pull(Repository.open(folder / "bob"), FolderRemote(folder / "stick"), "origin", jobs=1)


def do_pull_skills(folder):
    pull_skills(Repository.open(folder / "bob"), FolderRemote(folder / "stick"), ["code"], jobs=1, **WHO)


@pytest.mark.parametrize(
    ("action", "changed"), [(do_push, "stick"), (do_pull, "bob"), (do_pull_skills, "bob")], ids=["push", "pull", "some"]
)
def test_a_crash_at_any_file_operation(action, changed, both):
    if action is not do_push:
        do_push(both)
    old = refs(Repository.open(both / changed))
    with crash.record(both) as recording:
        action(both)
    new = refs(Repository.open(both / changed))
    assert old != new
    reached = []

    def check(folder):
        for name in ("ada", "bob", "stick"):
            whole(Repository.open(folder / name))
        found = refs(Repository.open(folder / changed))
        if action is do_pull_skills:
            reached.append(found["heads/main"] != old["heads/main"])
        else:
            between(found, old, new)
            reached.append(found.get("heads/main") == new["heads/main"])
        action(folder)
        again = Repository.open(folder / changed)
        whole(again)
        if action is not do_pull_skills:
            assert refs(again) == new
            assert not list((folder / changed / "incoming").glob("*"))
        assert "code" in again.skills()

    assert crash.check_every_crash(recording, check) > len(recording) // 3
    assert {True, False} == set(reached)


def test_a_crash_at_any_file_operation_of_a_first_push(tmp_path):
    folder = tmp_path / "both"
    folder.mkdir()
    commit_skill(Repository.create(folder / "ada"), "math", "one")

    def action(folder):
        push(Repository.open(folder / "ada"), FolderRemote(folder / "stick"), None, jobs=1)

    with crash.record(folder) as recording:
        action(folder)

    def check(folder):
        before = ls_remote(FolderRemote(folder / "stick"))
        assert before in ({}, ls_remote(FolderRemote(folder / "ada")))
        action(folder)
        whole(Repository.open(folder / "stick"))
        assert ls_remote(FolderRemote(folder / "stick")) == ls_remote(FolderRemote(folder / "ada"))

    crash.check_every_crash(recording, check)


def children(data):
    """What a document refers to."""
    document = json.loads(data)
    parents = document.get("annotations", {}).get("org.skillpack.parents", "").split()
    named = [*document.get("manifests", []), *document.get("layers", [])]
    named += [document[key] for key in ("config", "subject") if key in document]
    return {entry["digest"] for entry in named} | set(parents)


def is_document(data):
    return data.startswith(b"{") and b'"schemaVersion":2' in data


def test_a_push_writes_what_is_referred_to_first(writable, ada):
    """Of every document that is written, everything that it refers to is there."""

    class Checking(Wrapped):
        checked = 0

        def write(self, blob, chunks):
            data = b"".join(chunks())
            for digest in children(data) if is_document(data) else ():
                assert digest in written, f"{digest} was not written before {blob.digest}"
                self.checked += 1
            super().write(blob, chunks)
            written.add(blob.digest)

        def update_ref(self, ref, digest, *, expected):
            assert digest in written
            super().update_ref(ref, digest, expected=expected)

    written = set()
    first = commit_skill(ada, "math", "one")
    commit_skill(ada, "code", "two")
    card = ada.attach(first.skills["math"], CARD, [(b"one", "text/plain", "x")])
    ada.attach(card, CARD, [(b"about the card", "text/plain", "x")])
    ada.tag("v1", first)
    remote = Checking(writable.open())
    push(ada, remote, None, all_tags=True)
    assert remote.checked > 15


def test_a_pull_names_what_is_referred_to_first(place, ada, bob, monkeypatch):
    """Of every document that gets its name in the store, everything that it refers to has its name already."""
    first = commit_skill(ada, "math", "one")
    commit_skill(ada, "code", "two")
    card = ada.attach(first.skills["math"], CARD, [(b"one", "text/plain", "x")])
    ada.attach(card, CARD, [(b"about the card", "text/plain", "x")])
    push(ada, place.writer(), None)
    settle = BlobStore.settle
    checked = []

    def checking(self, temporary, digest):
        data = temporary.read_bytes()
        for child in children(data) if is_document(data) else ():
            assert self.has(child), f"{child} was not there before {digest}"
            checked.append(child)
        settle(self, temporary, digest)

    monkeypatch.setattr(BlobStore, "settle", checking)
    pull(bob, place.open(), None)
    assert len(checked) > 15
    whole(bob)


def test_a_crash_while_remotes_are_edited(tmp_path):
    store = Repository.create(tmp_path / "store")
    RemoteList(store).add("origin", "/a")
    with crash.record(store.path) as recording:
        RemoteList(store).set_url("origin", "/b")

    def check(folder):
        assert RemoteList(Repository.open(folder)).get("origin").url in {"/a", "/b"}

    crash.check_every_crash(recording, check)


def test_a_death_at_any_network_operation_of_a_push(writable, ada, bob, tmp_path):
    """Each death meets a push with news of its own; the next push completes it."""
    commit_skill(ada, "math", "start")
    push(ada, writable.open(), None, jobs=1)
    number, died, reached = 1 - writable.stride, True, []
    watcher = Repository.create(tmp_path / "watcher")
    while died:
        number += writable.stride
        old = ls_remote(writable.open())
        commit = commit_skill(ada, "math", f"text {number}")
        if number % 10 == 1:
            ada.tag(f"v{number}", commit)
        ada.attach(commit.skills["math"], CARD, [(b"card %d" % number, "text/plain", "x")])
        try:
            push(ada, Dying(writable.open(), number), None, all_tags=True, jobs=1)
            died = False
        except Death:
            found = ls_remote(writable.open())
            reached.append(found["heads/main"] != old["heads/main"])
            between(found, old, {f"heads/{n}": d for n, d in ada.branches().items()} | _tags_and_lists(ada))
            pull(watcher, writable.open(), None, jobs=1)
            whole(watcher)
        push(ada, writable.open(), None, all_tags=True, jobs=1)
    assert number > 8
    # Where only some steps are tried, those after the branch moved may not be among them.
    assert set(reached) == {True, False} or (writable.stride > 1 and reached)
    pull(bob, writable.open(), None)
    assert (bob.branches(), bob.tags()) == (ada.branches(), ada.tags())
    assert refs(bob) == refs(ada)
    whole(bob)


def _tags_and_lists(repository):
    return {ref: digest for ref, digest in refs(repository).items() if ref.startswith(("tags/", "referrers/"))}


def test_a_death_at_any_network_operation_of_a_pull(place, ada, tmp_path):
    first = commit_skill(ada, "math", "one")
    ada.attach(first.skills["math"], CARD, [(b"one", "text/plain", "x")])
    commit_skill(ada, "code", "two")
    push(ada, place.writer(), None, jobs=1)
    number, died = 1 - place.stride, True
    while died:
        number += place.stride
        bob = Repository.create(tmp_path / f"bob-{number}")
        try:
            pull(bob, Dying(place.open(), number), "origin", jobs=1)
            died = False
        except Death:
            assert refs(bob) == {}
            whole(bob)
            pull(bob, place.open(), "origin", jobs=1)
        assert bob.branches() == ada.branches()
        whole(bob)
        assert not list((bob.path / "incoming").glob("*"))
    assert number > 20


def test_pieces_of_a_dead_pull_are_used(place, ada, bob):
    """Deaths in a row, at each next step of the same pull: in the end nothing was read twice but the refs."""
    commit_skill(ada, "math", "one")
    commit_skill(ada, "code", "two")
    push(ada, place.writer(), None, jobs=1)
    read = []
    for number in range(2, 60):
        dying = Dying(place.open(), number)
        try:
            pull(bob, dying, None, jobs=1)
            break
        except Death:
            read += [digest for digest, start in dying.starts if start == 0]
    assert bob.branches() == ada.branches()
    whole(bob)
    # A document that had just arrived when the process died was not written yet.
    assert len(read) <= 2 * len(set(read)) + 2


def test_a_kill_between_the_writes_of_a_pull(both):
    """A real process that kills itself, at a sample of its file operations."""
    do_push(both)
    snippet = """
import sys
from skillpack_store import Repository
from skillpack_store.remotes.folder import FolderRemote
from skillpack_store.transfer import pull
pull(Repository.open(sys.argv[1]), FolderRemote(sys.argv[2]), "origin", jobs=1)
"""
    number, killed, deaths = 5, True, 0
    while killed:
        killed = crash.run_until_killed(number, snippet, str(both / "bob"), str(both / "stick"))
        deaths += killed
        whole(Repository.open(both / "bob"))
        number += 17
    assert deaths > 2
    assert Repository.open(both / "bob").branches() == Repository.open(both / "ada").branches()


def test_two_processes_pull_into_the_same_store(place, ada, bob):
    import threading

    for text in ("one", "two", "three"):
        commit_skill(ada, "math", text)
    push(ada, place.writer(), None)
    errors = []

    def work():
        try:
            fetch(Repository.open(bob.path), place.open(), "origin")
        except Exception as error:  # noqa: BLE001 - shown below
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    whole(bob)
    assert bob.refs.read("remotes/origin/main").digest == ada.branches()["main"]
