"""Garbage collection: what it keeps, what it takes, and the way back."""

from __future__ import annotations

import os
import time

import pytest

from skillpack_store import CorruptStoreError, NotFoundError, Repository, StoreError, digest_of
from skillpack_store.collecting import DAY, collect_garbage, undo_collection
from skillpack_store.descriptors import canonical_json
from skillpack_store.refs import build_entry
from tests.store.skills import WHO, commit_skill, put_skill, verify_everything

CARD = "application/vnd.skillpack.card.v1"
NOW = {"grace": 0.0, "trash_grace": 0.0}


def age(repository, days, *digests):
    """Make blobs (default: all) look as if they had been written days ago."""
    then = time.time() - days * DAY
    for digest in digests or set(repository.blobs):
        os.utime(repository.blobs.path(digest), (then, then))


def age_log(repository, ref, days):
    """Make all entries of a ref look as if they had been written days ago."""
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - days * DAY))
    for entry in repository.refs.log(ref):
        (repository.refs.folder / ref / str(entry.number)).write_bytes(build_entry(entry.digest, moment))


def parts(repository, skill):
    manifest = repository.skill_manifest(skill.digest)
    return {skill.digest, manifest.config.digest, *(layer.digest for layer in manifest.layers)}


@pytest.fixture
def library(repository):
    """Two versions of math on main; a card; a skill that nothing names."""
    commit_skill(repository, "math", "one")
    commit = commit_skill(repository, "math", "two")
    repository.tag("v1", commit)
    repository.attach(commit.skills["math"], CARD, [(b"# Math", "text/markdown", "README.md")])
    return repository


def test_what_refs_name_stays(library):
    before = set(library.blobs)
    age(library, 1000)
    report = collect_garbage(library, **NOW)
    # The list of attachments that the commit's skill had is the only one, so everything is in use.
    assert set(library.blobs) == before
    assert (report.used.number, report.trashed.number, report.deleted.number) == (len(before), 0, 0)
    assert report.used.bytes == sum(library.blobs.size(digest) for digest in before)
    verify_everything(library)


def test_garbage_goes_to_the_trash_and_then_for_good(library):
    lost = put_skill(library, "lost")
    own = parts(library, lost) - parts(library, library.skills()["math"])
    age(library, 15)
    report = collect_garbage(library)
    assert report.trashed.number == report.in_trash.number == len(own) == 3
    assert own & set(library.blobs) == set()
    assert collect_garbage(library).in_trash.number == 3
    report = collect_garbage(library, trash_grace=0)
    assert (report.deleted.number, report.in_trash.number) == (3, 0)
    assert report.deleted.bytes == sum(len(data) for data in (b'{"about":"lost"}', b"lost coded")) + lost.size
    with pytest.raises(NotFoundError):
        library.skill_manifest(lost.digest)
    assert not list((library.path / "trash").iterdir())


def test_grace_keeps_what_is_recent_and_all_it_leads_to(library):
    recent = put_skill(library, "recent")
    age(library, 15)
    old = put_skill(library, "old")
    age(library, 15, *parts(library, old))
    # The layers look old, but the manifest is new: somebody is about to commit it.
    age(library, 13, recent.digest)
    report = collect_garbage(library, grace=14 * DAY, trash_grace=0)
    assert parts(library, recent) <= set(library.blobs)
    assert report.deleted.number == 3
    assert report.recent.number >= 1
    assert not library.blobs.has(old.digest)


def test_a_dry_run_says_what_would_be_done_and_changes_nothing(library):
    put_skill(library, "lost")
    age(library, 15)
    before = snapshot(library.path)
    dry = collect_garbage(library, dry_run=True)
    assert snapshot(library.path) == before
    wet = collect_garbage(library)
    assert (dry.trashed, dry.used, dry.in_trash) == (wet.trashed, wet.used, wet.in_trash)
    before = snapshot(library.path)
    dry = collect_garbage(library, trash_grace=0, dry_run=True)
    assert snapshot(library.path) == before
    assert dry.deleted == collect_garbage(library, trash_grace=0).deleted
    assert dry.deleted.number == 3


def snapshot(folder):
    return {str(path): path.lstat().st_mtime_ns for path in folder.rglob("*")}


def test_undo_brings_everything_back(library):
    lost = put_skill(library, "lost")
    before = set(library.blobs)
    age(library, 15)
    collect_garbage(library)
    assert set(library.blobs) < before
    assert undo_collection(library).number == 3
    assert set(library.blobs) == before
    for digest in parts(library, lost):
        library.blobs.verify(digest)
    # It is as if it had been written just now.
    assert collect_garbage(library).trashed.number == 0


@pytest.mark.parametrize("way", ["put", "commit", "read", "tag", "attach"])
def test_whoever_needs_a_blob_in_the_trash_gets_it_back(library, way):
    lost = put_skill(library, "lost")
    commit = library.commit("side", lambda _: {"lost": lost}, message="", **WHO)
    library.refs.delete("heads/side", expected=commit.digest)
    age_log(library, "heads/side", 100)
    age(library, 15)
    assert collect_garbage(library).trashed.number == 4
    if way == "put":
        assert put_skill(library, "lost") == lost
    elif way == "commit":
        library.commit("main", lambda skills: {**skills, "lost": lost}, message="", **WHO)
    elif way == "tag":
        library.tag("found", commit)
    elif way == "attach":
        library.attach(lost, CARD, [(b"x", "text/plain", "x")])
    assert library.skill_manifest(lost.digest).config.size == 16
    if way in {"commit", "tag"}:
        report = collect_garbage(library, **NOW)
        assert library.blobs.has(lost.digest)
        assert report.deleted.number == (way == "commit")
        verify_everything(library)


def test_a_tag_on_what_is_not_all_there_is_refused(library):
    lost = put_skill(library, "lost")
    commit = library.commit("side", lambda _: {"lost": lost}, message="", **WHO)
    library.refs.delete("heads/side", expected=commit.digest)
    library.blobs.path(digest_of(b"lost coded")).unlink()
    with pytest.raises(NotFoundError, match=digest_of(b"lost coded")):
        library.tag("found", commit)
    assert "found" not in library.tags()


def test_an_old_commit_in_a_history_can_be_tagged(library):
    first = list(library.history())[-1]
    library.tag("first", first)
    assert library.tags()["first"] == first.digest


@pytest.mark.parametrize("way", ["put", "commit", "tag"])
def test_reuse_starts_the_grace_anew(library, way):
    skill = put_skill(library, "one")
    age(library, 1000)
    # Nothing but times: the refs keep all of it anyway.
    if way == "put":
        put_skill(library, "one")
    elif way == "commit":
        library.commit("other", lambda _: {"again": skill}, message="", **WHO)
    else:
        library.refs.delete("heads/main", expected=library.head().digest)
        library.refs.delete("tags/v1", expected=library.tags()["v1"])
        library.tag("kept", library.refs.log("heads/main")[-1].digest)
    for digest in parts(library, skill):
        assert library.blobs.path(digest).stat().st_mtime > time.time() - 100


def test_the_log_of_a_ref_keeps_what_it_named_until_it_expires(library):
    skill = library.skills()["math"]
    first = list(library.history())[-1]
    library.refs.update("tags/moved", first.digest, expected=None)
    library.refs.delete("tags/moved", expected=first.digest)
    for branch in ("heads/main", "tags/v1"):
        library.refs.delete(branch, expected=library.refs.read(branch).digest)
    commit_skill(library, "code", "other", branch="new")
    age(library, 1000)
    collect_garbage(library, **NOW)
    assert library.skill_manifest(skill.digest)
    for ref in ("heads/main", "tags/v1", "tags/moved"):
        age_log(library, ref, 91)
    report = collect_garbage(library, **NOW)
    assert report.pruned == 4
    assert [entry.number for entry in library.refs.log("heads/main")] == [3]
    with pytest.raises(NotFoundError):
        library.skill_manifest(skill.digest)
    # The card went with its skill, and the ref that named it.
    assert library.refs.list("referrers") == {}
    assert library.refs.numbers(f"referrers/{skill.digest.replace(':', '-')}") == [2]
    verify_everything(library)
    # The same skill comes again, and can get a card again.
    again = put_skill(library, "two")
    assert again == skill
    library.attach(again, CARD, [(b"# Again", "text/markdown", "README.md")])
    assert len(library.referrers(again.digest)) == 1
    collect_garbage(library, grace=DAY)


def test_an_entry_expires_when_something_newer_has_been_there_long_enough(library):
    age_log(library, "heads/main", 100)
    commit_skill(library, "math", "three")
    # The second entry is old, but until now it was what the branch named.
    assert collect_garbage(library).pruned == 1
    assert library.refs.numbers("heads/main") == [2, 3]
    assert collect_garbage(library, expiry=0).pruned <= 1
    assert library.refs.read("heads/main").number == 3


def test_what_another_tool_added_stays_with_all_it_leads_to(library):
    manifest = canonical_json(
        {
            "schemaVersion": 2,
            "config": {"digest": library.blobs.put([b"foreign config"]).digest},
            "layers": [{"digest": library.blobs.put([b"foreign layer"]).digest}],
        }
    )
    nested = canonical_json({"schemaVersion": 2, "manifests": [{"digest": library.blobs.put([manifest]).digest}]})
    raw = library.blobs.put([b"no document"])
    added = [(library.blobs.put([nested]).digest, len(nested)), raw]
    index = library.path / "index.json"
    import json

    document = json.loads(index.read_text())
    document["manifests"] += [{"digest": digest, "size": size, "mediaType": "a/b"} for digest, size in added]
    index.write_text(json.dumps(document))
    age(library, 1000)
    assert collect_garbage(library, **NOW).trashed.number == 0
    library.blobs.path(raw.digest).unlink()
    with pytest.raises(CorruptStoreError, match=r"index\.json"):
        collect_garbage(library, **NOW)


def break_nothing_else(library):
    put_skill(library, "lost")
    age(library, 15)
    return set(library.blobs)


@pytest.mark.parametrize("what", ["commit", "skill", "entry", "index", "list", "folder", "link"])
def test_one_root_that_cannot_be_read_stops_it(library, what, tmp_path):
    before = break_nothing_else(library)
    head = library.head()
    named = {
        "commit": library.blobs.path(head.parents[0]),
        "skill": library.blobs.path(head.skills["math"].digest),
        "entry": library.refs.folder / "heads" / "main" / "1",
        "index": library.path / "index.json",
        "list": library.blobs.path(next(iter(library.refs.list("referrers").values())).digest),
        "folder": library.refs.folder / "tags",
        "link": library.blobs.path(head.digest),
    }[what]
    if what == "folder":
        named.rename(tmp_path / "tags")
    elif what == "link":
        named.rename(tmp_path / "blob")
        named.symlink_to(tmp_path / "blob")
        before = before - {head.digest}
    else:
        named.chmod(0o644)
        named.write_bytes(named.read_bytes()[:-1] + b"?")
    with pytest.raises(CorruptStoreError) as caught:
        collect_garbage(library, **NOW)
    assert named.name in caught.value.message or (what == "link" and head.digest in caught.value.message)
    assert before <= set(library.blobs)
    assert not (library.path / "trash").exists()


def test_a_store_without_any_ref_is_refused(repository):
    put_skill(repository, "one")
    age(repository, 1000)
    with pytest.raises(StoreError, match="everything in it would be collected"):
        collect_garbage(repository, **NOW)


def test_an_empty_store_has_no_garbage(repository):
    report = collect_garbage(repository, **NOW)
    assert report.used.number == report.trashed.number == 0


def test_who_writes_now_is_waited_for(library):
    age(library, 15)
    with library.writing():
        skill = put_skill(library, "new")
        report = collect_garbage(library, **NOW)
        assert report.writing
        assert parts(library, skill) <= set(library.blobs)
        library.commit("main", lambda skills: {**skills, "new": skill}, message="", **WHO)
    assert not list((library.path / "writers").iterdir())
    verify_everything(library)


def test_a_dead_writer_is_forgotten_after_a_day(library):
    put_skill(library, "new")
    dead = library.path / "writers" / "0123456789abcdef"
    dead.touch()
    assert collect_garbage(library, **NOW).trashed.number == 0
    os.utime(dead, (time.time() - 1.1 * DAY,) * 2)
    assert collect_garbage(library, **NOW).trashed.number == 3
    assert not dead.exists()


def test_what_interrupted_writers_left_is_removed_after_the_grace(library):
    left = [
        library.blobs.folder / ".blob.0123456789abcdef.tmp",
        library.blobs.folder / ".blob.0123456789abcdef.partial",
        library.path / ".index.json.0123456789abcdef.tmp",
        library.refs.folder / "heads" / "main" / ".3.0123456789abcdef.tmp",
    ]
    for path in left:
        path.write_bytes(b"12345")
    assert collect_garbage(library, **NOW).temporary.number == 0
    for path in left:
        os.utime(path, (time.time() - 15 * DAY,) * 2)
    assert collect_garbage(library, grace=16 * DAY).temporary.number == 0
    assert collect_garbage(library, dry_run=True).temporary == (4, 20)
    assert collect_garbage(library).temporary == (4, 20)
    assert not any(path.exists() for path in left)


def test_digests_behind_escapes_are_found(library):
    inner = library.blobs.put([b"inner"]).digest
    outer = b'{"manifests":[{"digest":"\\u0073%s"}]}' % inner[1:].encode()
    document = library.blobs.put([b'{"manifests":[{"digest":"%s"}]}' % library.blobs.put([outer]).digest.encode()])
    (library.path / "index.json").write_bytes(
        canonical_json({"manifests": [{"digest": document.digest, "mediaType": "a/b", "size": 1}]})
    )
    age(library, 1000)
    collect_garbage(library, **NOW)
    assert library.blobs.has(inner)


def test_another_process_sees_the_trash(library):
    lost = put_skill(library, "lost")
    age(library, 15)
    collect_garbage(library)
    assert Repository.open(library.path).skill_manifest(lost.digest).layers
