"""What is particular to one kind of remote."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tarfile
import threading
from pathlib import Path
from typing import ClassVar

import pytest

from skillpack_store import (
    BusyError,
    CorruptStoreError,
    NoStoreError,
    NotFoundError,
    RemoteError,
    Repository,
    digest_of,
    export_archive,
    import_archive,
)
from skillpack_store.collecting import collect_garbage
from skillpack_store.descriptors import Descriptor
from skillpack_store.errors import RefusedError
from skillpack_store.fsck import check_store
from skillpack_store.remotes.folder import FolderRemote
from skillpack_store.remotes.objects import read_object
from skillpack_store.remotes.opening import open_remote
from skillpack_store.remotes.tarball import ArchiveRemote
from skillpack_store.transfer import ls_remote, pull, push
from tests.store.remotes.kinds import Bucket, Handler, Web
from tests.store.remotes.wrapping import Wrapped
from tests.store.skills import WHO, commit_skill, verify_everything

INSTALLABLE = shutil.which("apt-get") is not None and os.geteuid() == 0


@pytest.fixture
def bucket(tmp_path):
    kind = Bucket(tmp_path)
    yield kind
    kind.close()


# Folders


def test_a_folder_with_something_else_is_not_pushed_to(ada, tmp_path):
    commit_skill(ada, "math", "one")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").write_text("x")
    with pytest.raises(NoStoreError):
        push(ada, FolderRemote(tmp_path / "photos"), None)
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["me.jpg"]


def test_a_folder_that_is_a_file(ada, tmp_path):
    commit_skill(ada, "math", "one")
    (tmp_path / "file").write_text("x")
    with pytest.raises((NoStoreError, RefusedError)):
        push(ada, FolderRemote(tmp_path / "file"), None)


def test_what_a_push_relies_on_is_fresh(ada, tmp_path):
    """A blob that is there already is protected from a garbage collection by its time."""
    commit_skill(ada, "math", "one")
    remote = FolderRemote(tmp_path / "stick")
    push(ada, remote, None, branches=["main"])
    shutil.rmtree(tmp_path / "stick" / "refs" / "heads" / "main")
    paths = list((tmp_path / "stick" / "blobs" / "sha256").iterdir())
    for path in paths:
        os.utime(path, (0, 0))
    push(ada, remote, None)
    assert min(path.stat().st_mtime for path in paths) > 1_000_000


def test_a_collection_in_the_folder_during_a_push(ada, tmp_path):
    """Without any grace, right before each ref moves: the ref is refused, and the next push is whole."""
    commit_skill(ada, "math", "one")
    push(ada, FolderRemote(tmp_path / "stick"), None)
    commit_skill(ada, "code", "two")
    for skill in ada.skills().values():
        ada.attach(skill, "application/x-card", [(b"card", "text/plain", "x")])

    class Collected(Wrapped):
        def update_ref(self, ref, digest, *, expected):
            collect_garbage(Repository.open(tmp_path / "stick"), grace=-10, trash_grace=-10)
            super().update_ref(ref, digest, expected=expected)

    with pytest.raises(NotFoundError):
        push(ada, Collected(FolderRemote(tmp_path / "stick")), None)
    assert check_store(tmp_path / "stick", level="full").findings == []
    push(ada, FolderRemote(tmp_path / "stick"), None)
    assert check_store(tmp_path / "stick", level="full").findings == []
    other = Repository.create(tmp_path / "other")
    pull(other, FolderRemote(tmp_path / "stick"), None)
    assert [len(other.referrers(skill.digest)) for skill in other.skills().values()] == [1, 1]


# Archives


def test_skopeo_reads_a_pushed_archive(ada, tmp_path):
    """It finds the commit under the branch's name and copies every skill in it, digests unchanged.

    The index around them it writes anew (1.9 leaves out artifactType), so no --preserve-digests here.
    """
    if shutil.which("skopeo") is None:
        assert not INSTALLABLE, "skopeo is missing: apt-get install skopeo, as .ci/run does"
        pytest.skip("skopeo is not installed, and only root can install it with apt-get")
    commit = commit_skill(ada, "math", "one")
    commit_skill(ada, "code", "two")
    push(ada, ArchiveRemote(tmp_path / "x.tar"), None)
    raw = subprocess.run(
        ["skopeo", "inspect", "--raw", f"oci-archive:{tmp_path}/x.tar:main"], capture_output=True, check=True
    ).stdout
    assert digest_of(raw) == ada.branches()["main"]
    (tmp_path / "policy.json").write_text('{"default":[{"type":"insecureAcceptAnything"}]}')
    subprocess.run(
        [
            *["skopeo", "--policy", str(tmp_path / "policy.json"), "copy", "--all"],
            *[f"oci-archive:{tmp_path}/x.tar:main", f"oci:{tmp_path}/copy:main"],
        ],
        check=True,
        capture_output=True,
    )
    copied = {f"sha256:{path.name}" for path in (tmp_path / "copy" / "blobs" / "sha256").iterdir()}
    for skill in ada.skills().values():
        manifest = ada.skill_manifest(skill.digest)
        assert {skill.digest, manifest.config.digest, *(layer.digest for layer in manifest.layers)} <= copied
    assert commit.digest not in copied


def test_two_pushes_into_one_file(ada, bob, tmp_path):
    commit_skill(ada, "math", "one")
    push(ada, ArchiveRemote(tmp_path / "x.tar"), None)
    pull(bob, ArchiveRemote(tmp_path / "x.tar"), None)
    commit_skill(ada, "math", "two")
    commit_skill(bob, "math", "three")

    class Slow(Wrapped):
        def finish(self):
            push(ada, ArchiveRemote(tmp_path / "x.tar"), None)
            super().finish()

    with pytest.raises(BusyError, match="replaced by somebody else"):
        push(bob, Slow(ArchiveRemote(tmp_path / "x.tar")), None)
    assert ls_remote(ArchiveRemote(tmp_path / "x.tar"))["heads/main"] == ada.branches()["main"]
    assert [path.name for path in tmp_path.glob("*x.tar*")] == ["x.tar"]


def test_pushes_of_two_branches_into_one_file(ada, bob, tmp_path):
    """Between looking and writing nothing is lost; during the writing the file must stay the one that was looked at."""
    path = tmp_path / "x.tar"
    commit_skill(ada, "math", "one")
    push(ada, ArchiveRemote(path), None)
    pull(bob, ArchiveRemote(path), None)
    commit_skill(bob, "code", "two", branch="side")

    class Between(Wrapped):
        def finish(self):
            commit_skill(ada, "math", "three")
            push(ada, ArchiveRemote(path), None)
            super().finish()

    push(bob, Between(ArchiveRemote(path)), None, branches=["side"])
    assert ls_remote(ArchiveRemote(path)) == {
        "heads/main": ada.branches()["main"],
        "heads/side": bob.branches()["side"],
    }
    commit_skill(bob, "code", "four", branch="side")

    class During(ArchiveRemote):
        def write(self, blob, chunks):
            super().write(blob, lambda: self.interrupted(chunks))

        def interrupted(self, chunks):
            if "math-5" not in ada.skills():
                commit_skill(ada, "math-5", "five")
                push(ada, ArchiveRemote(path), None)
            return chunks()

    with pytest.raises(BusyError, match="replaced by somebody else"):
        push(bob, During(path), None, branches=["side"])
    push(bob, ArchiveRemote(path), None, branches=["side"])
    new = Repository.create(tmp_path / "new")
    pull(new, ArchiveRemote(path), None, branches=None)
    assert new.branches() == {"main": ada.branches()["main"], "side": bob.branches()["side"]}


def test_what_others_put_into_an_archive_stays(ada, tmp_path):
    skill = commit_skill(ada, "math", "one").skills["math"]
    export_archive(ada, {"math": skill}, tmp_path / "x.tar")
    push(ada, ArchiveRemote(tmp_path / "x.tar"), None)
    assert import_archive(Repository.create(tmp_path / "other"), tmp_path / "x.tar")[0][1].digest == skill.digest
    assert ls_remote(ArchiveRemote(tmp_path / "x.tar")) == {"heads/main": ada.branches()["main"]}


@pytest.mark.parametrize("content", [b"", b"not a tar file", bytes(10_240)])
def test_a_file_that_is_no_archive(content, ada, tmp_path):
    commit_skill(ada, "math", "one")
    (tmp_path / "x.tar").write_bytes(content)
    if content == bytes(10_240):
        push(ada, ArchiveRemote(tmp_path / "x.tar"), None)
        return
    with pytest.raises(RefusedError, match="not an archive"):
        push(ada, ArchiveRemote(tmp_path / "x.tar"), None)
    assert (tmp_path / "x.tar").read_bytes() == content


def test_names_in_an_archive(ada, tmp_path):
    (tmp_path / "evil").write_text("x")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(tmp_path / "evil", "../evil")
    with pytest.raises(RefusedError, match="not a digest"):
        ls_remote(ArchiveRemote(tmp_path / "x.tar"))


# Buckets


def test_a_bucket_is_laid_out_like_a_folder(bucket, ada, tmp_path):
    """A copy of the objects is a store, and a second push goes on where the copy is."""
    import boto3

    commit = commit_skill(ada, "math", "one")
    ada.tag("v1", commit)
    push(ada, bucket.open(), None, all_tags=True)
    client = boto3.client("s3", endpoint_url=bucket.endpoint)
    for found in client.list_objects_v2(Bucket=bucket.bucket)["Contents"]:
        path = tmp_path / "copy" / found["Key"].removeprefix("my/skills/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(client.get_object(Bucket=bucket.bucket, Key=found["Key"])["Body"].read())
    # Buckets have no empty folders.
    (tmp_path / "copy" / "refs" / "referrers").mkdir(parents=True, exist_ok=True)
    copy = Repository.open(tmp_path / "copy")
    assert (copy.branches(), copy.tags()) == (ada.branches(), ada.tags())
    verify_everything(copy)
    shown = json.loads((tmp_path / "copy" / "index.json").read_bytes())
    assert {entry["annotations"]["org.skillpack.ref"] for entry in shown["manifests"]} == {"heads/main", "tags/v1"}


def test_a_put_that_was_sent_twice_is_not_taken_for_somebody_else(bucket, ada, monkeypatch):
    """The first answer is lost, the second try finds the entry of the first."""
    commit_skill(ada, "math", "one")
    remote = bucket.open()
    create = type(remote)._create

    def twice(self, path, content):
        create(self, path, content)
        return create(self, path, content)

    monkeypatch.setattr(type(remote), "_create", twice)
    push(ada, remote, None)
    first = ada.branches()["main"]
    remote.update_ref("heads/main", None, expected=first)
    remote.update_ref("heads/main", first, expected=None)
    assert remote._numbers("refs") == {"heads/main": 3}
    assert ls_remote(bucket.open())["heads/main"] == first
    with pytest.raises(BusyError):
        remote.update_ref("heads/main", None, expected=digest_of(b"other"))


def test_a_large_blob_goes_in_parts(bucket, ada, bob, monkeypatch):
    from skillpack_store.remotes import bucket as module

    monkeypatch.setattr(module, "PART", 5 << 20)
    content = bytes(range(256)) * (11 << 12)
    skill = ada.put_skill(b"{}", "a/config", [([content], "a/layer")])
    ada.commit("main", lambda _: {"big": skill}, message="", **WHO)
    push(ada, bucket.open(), None)
    pull(bob, bucket.open(), None)
    verify_everything(bob)


def test_a_damaged_large_blob_never_becomes_an_object(bucket, ada, monkeypatch):
    from skillpack_store.remotes import bucket as module

    monkeypatch.setattr(module, "PART", 5 << 20)
    content = bytes(6 << 20)
    layer = ada.blobs.put([content])
    path = ada.blobs.path(layer.digest)
    path.chmod(0o644)
    path.write_bytes(content[:-1] + b"x")
    remote = bucket.open()
    blob = Descriptor(layer.digest, layer.size, "a/layer")
    with pytest.raises(CorruptStoreError):
        remote.write(blob, lambda: ada.blobs.stream(layer.digest))
    assert remote.sizes([blob]) == {}


def test_a_damaged_ref_entry_of_a_bucket(bucket, ada):
    commit_skill(ada, "math", "one")
    push(ada, bucket.open(), None)
    bucket.put("refs/heads/main/1", b"{}")
    with pytest.raises(CorruptStoreError, match="refs/heads/main/1"):
        ls_remote(bucket.open())


def test_a_bucket_that_is_not_there(bucket, ada):
    commit_skill(ada, "math", "one")
    with pytest.raises(RemoteError) as caught:
        push(ada, open_remote("s3://no-such-bucket/x"), None)
    assert "\n" not in caught.value.message


def test_many_pushes_at_once_to_a_bucket(bucket, tmp_path):
    """Four people, each commits until it got in: no commit is lost."""
    start = Repository.create(tmp_path / "start")
    commit_skill(start, "math", "start")
    push(start, bucket.open(), None)
    people = [Repository.create(tmp_path / f"person-{number}") for number in range(4)]
    tries = []

    def work(number):
        mine = people[number]
        for _ in range(30):
            pull(mine, bucket.open(), None, force=True)
            commit_skill(mine, f"skill-{number}", f"text {number}")
            tries.append(number)
            try:
                push(mine, bucket.open(), None)
            except (BusyError, RemoteError):
                continue
            except Exception as error:
                if "does not follow" not in str(error):
                    raise
                continue
            return

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    last = Repository.create(tmp_path / "last")
    pull(last, bucket.open(), None)
    assert set(last.skills()) == {"math", *(f"skill-{number}" for number in range(4))}
    assert len(list(last.history())) == 5
    verify_everything(last)


# Web servers


class WithoutRanges(Handler):
    ranges = False


class PlainWeb(Web):
    handler = WithoutRanges


def test_a_server_without_ranges(ada, tmp_path):
    place = PlainWeb(tmp_path)
    try:
        commit_skill(ada, "math", "one")
        push(ada, place.writer(), None)
        store = place.open()._store
        whole = b"".join(read_object(store, "x", "index.json"))
        assert b"".join(read_object(store, "x", "index.json", 7)) == whole[7:]
    finally:
        place.close()


class Breaking(Handler):
    """Announces all of a blob and hangs up after 40,000 bytes of it."""

    def do_GET(self):
        path = Path(self.translate_path(self.path))
        if "blobs" not in path.parts or path.stat().st_size < 50_000:
            super().do_GET()
            return
        content = path.read_bytes()
        found = re.fullmatch(r"bytes=(\d+)-.*", self.headers.get("Range", ""))
        start = int(found[1]) if found else 0
        self.asked.append(start)
        self.send_response(206 if found else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if found:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        self.wfile.write(content[start : start + 40_000])
        self.wfile.flush()
        self.close_connection = True
        self.connection.close()

    asked: ClassVar[list[int]] = []


class BreakingWeb(Web):
    handler = Breaking


def test_a_server_that_hangs_up(ada, bob, tmp_path):
    place = BreakingWeb(tmp_path)
    try:
        skill = ada.put_skill(b"{}", "a/config", [([os.urandom(150_000)], "a/layer")])
        ada.commit("main", lambda _: {"big": skill}, message="", **WHO)
        push(ada, place.writer(), None)
        Breaking.asked.clear()
        pull(bob, place.open(), None)
        verify_everything(bob)
        assert Breaking.asked[0] == 0
        assert all(start > 0 for start in Breaking.asked[1:])
        assert len(Breaking.asked) == 4
    finally:
        place.close()


def test_a_stale_view_is_only_old(ada, bob, tmp_path):
    place = Web(tmp_path)
    try:
        old = commit_skill(ada, "math", "one")
        push(ada, place.writer(), None)
        index = (tmp_path / "remote" / "index.json").read_bytes()
        commit_skill(ada, "math", "two")
        push(ada, place.writer(), None)
        (tmp_path / "remote" / "index.json").write_bytes(index)
        pull(bob, place.open(), None)
        assert bob.branches() == {"main": old.digest}
        verify_everything(bob)
        # The next push repairs it, even if it has nothing to send.
        push(ada, place.writer(), None)
        pull(bob, place.open(), None)
        assert bob.branches() == ada.branches()
    finally:
        place.close()


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>", b'{"manifests":{}}', b'{"manifests":[{"annotations":{"org.skillpack.ref":"heads/../x"}}]}',
     b'{"manifests":[{"annotations":{"org.skillpack.ref":"remotes/x"},"size":1,"mediaType":"a/b","digest":"sha256:'
     + b"0" * 64 + b'"}]}'],
)  # fmt: skip
def test_an_index_that_is_none(content, bob, tmp_path):
    place = Web(tmp_path)
    try:
        (tmp_path / "remote" / "index.json").write_bytes(content)
        with pytest.raises(RemoteError, match=r"index\.json cannot be used"):
            pull(bob, place.open(), None)
    finally:
        place.close()
