"""The remote for OCI registries, on Debian's docker-registry with a password."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

import pytest

from skillpack_store import (
    AuthenticationError,
    BusyError,
    Descriptor,
    NotFoundError,
    RemoteError,
    Repository,
    StoreError,
    digest_of,
    export_archive,
)
from skillpack_store.documents import COMMIT_TYPE, INDEX, build_index
from skillpack_store.remotes.oci.credentials import Credentials
from skillpack_store.remotes.oci.repository import _DELETED
from skillpack_store.remotes.oci.tags import commit_tag
from skillpack_store.remotes.protocol import WritableRemote
from skillpack_store.remotes.registry import open_remote
from tests.store.remote_contents import blob_of, library_blobs, local_refs, noise, parts, pull, push, send
from tests.store.servers import PASSWORD, USER, CuttingProxy, DockerRegistry, make_certificate, require
from tests.store.skills import LAYER_TYPE, WHO, commit_skill, put_skill, verify_everything

ADA = Credentials(USER, PASSWORD)
MIB = 1 << 20


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    registry = DockerRegistry.with_password(tmp_path_factory.mktemp("registry") / "own")
    yield registry
    registry.stop()


@pytest.fixture
def remote(registry):
    return open_remote(registry.url(), credentials=ADA, pause=0.01)


def test_a_library_goes_there_and_comes_back(library, remote, tmp_path):
    assert isinstance(remote, WritableRemote)
    assert remote.refs() == {}
    assert remote.sizes(library_blobs(library)) == {}
    assert len(push(library, remote)) == len(library_blobs(library))
    assert remote.refs() == local_refs(library)
    assert remote.sizes(library_blobs(library)) == {blob.digest: blob.size for blob in library_blobs(library)}
    assert push(library, remote) == []

    other = Repository.create(tmp_path / "other")
    pull(remote, other)
    assert local_refs(other) == local_refs(library)
    assert set(other.blobs) == {blob.digest for blob in library_blobs(library)}
    verify_everything(other)


def test_every_commit_keeps_a_tag_of_its_own(library, remote):
    push(library, remote)
    commits = {commit.digest for branch in ("main", "draft") for commit in library.history(branch)}
    assert {commit_tag(digest) for digest in commits} <= set(remote._tags())
    assert set(remote._tags()) - {commit_tag(digest) for digest in commits} == {
        "main", "draft--branch", "v1", "main--tag", library.refs.list("referrers").popitem()[0],
    }  # fmt: skip


def test_a_blob_is_read_from_anywhere(remote):
    data = noise(300_000)
    blob = send(remote, data)
    for start in (0, 1, 150_000, 299_999, 300_000):
        assert b"".join(remote.read(blob, start)) == data[start:]
    empty = send(remote, b"")
    assert b"".join(remote.read(empty)) == b""
    manifest = send(remote, build_index([]), INDEX)
    assert b"".join(remote.read(manifest, 5)) == build_index([])[5:]


def test_what_is_not_there_is_said(remote):
    for media_type in (LAYER_TYPE, INDEX):
        with pytest.raises(NotFoundError, match="does not have it"):
            list(remote.read(blob_of(b"nothing", media_type)))
    with pytest.raises(NotFoundError, match="heads/main cannot name it"):
        remote.update_ref("heads/main", digest_of(b"nothing"), expected=None)


@pytest.mark.parametrize("part", [MIB, 64 * MIB])
def test_content_that_is_not_what_it_says_is_refused_by_the_registry(registry, part):
    remote = open_remote(registry.url(), credentials=ADA, part=part, pause=0.01)
    blob = blob_of(noise(3 * MIB))
    with pytest.raises(RemoteError, match="was not taken"):
        remote.write(blob, parts(noise(3 * MIB, seed=1)))
    assert remote.sizes([blob]) == {}
    with pytest.raises(RemoteError, match="another digest"):
        remote.write(blob_of(build_index([]), INDEX), lambda: iter([b"{}"]))


def test_the_reader_of_a_damaged_blob_is_heard(remote):
    def chunks():
        yield b"a"
        raise StoreError("The blob is damaged.")

    with pytest.raises(StoreError, match=r"^The blob is damaged.$"):
        remote.write(blob_of(b"ab"), chunks)


def test_a_manifest_longer_than_registries_take_is_refused(remote):
    blob = Descriptor(digest_of(b"x"), 5 * MIB, INDEX)
    with pytest.raises(RemoteError, match="longer than the 4194304 bytes"):
        remote.write(blob, lambda: iter([b" " * MIB] * 5))


def test_refs_move_only_from_what_the_caller_saw(library, remote):
    push(library, remote)
    head, first = library.head().digest, library.tags()["v1"]
    for wrong in (None, first):
        with pytest.raises(BusyError, match="moved by somebody else"):
            remote.update_ref("heads/main", first, expected=wrong)
    with pytest.raises(BusyError):
        remote.update_ref("heads/new", first, expected=head)
    remote.update_ref("heads/main", first, expected=head)
    assert remote.refs()["heads/main"] == first


def test_a_deleted_ref_is_gone_and_nothing_else(library, remote):
    push(library, remote)
    before = remote.refs()
    with pytest.raises(BusyError):
        remote.update_ref("tags/v1", None, expected=before["heads/main"])
    # It names the same commit as the tag "main", which stays.
    remote.update_ref("tags/v1", None, expected=before["tags/v1"])
    del before["tags/v1"]
    assert remote.refs() == before
    assert remote.sizes(library_blobs(library)).keys() == {blob.digest for blob in library_blobs(library)}
    remote.update_ref("tags/v1", before["heads/main"], expected=None)
    assert remote.refs()["tags/v1"] == before["heads/main"]


def test_a_registry_that_forbids_deletion_says_so(library, tmp_path):
    registry = DockerRegistry.with_password(tmp_path / "registry", delete=False)
    try:
        remote = open_remote(registry.url(), credentials=ADA, pause=0.01)
        push(library, remote)
        with pytest.raises(RemoteError, match=r"does not let anybody delete: the tag v1 stays") as caught:
            remote.update_ref("tags/v1", None, expected=library.tags()["v1"])
        assert "storage.delete.enabled" in caught.value.hint
        assert remote.refs() == local_refs(library)
    finally:
        registry.stop()


def test_this_registry_has_no_compare_and_swap(library, remote):
    """What the module says about races rests on this; a registry that honours conditions makes it safer."""
    push(library, remote)
    document = library.blobs.read(library.tags()["v1"], limit=MIB)
    for condition in ({"If-Match": '"sha256:0"'}, {"If-None-Match": "*"}):
        assert remote._send("main", document, INDEX, condition).status == 201


def test_of_many_writers_one_wins_and_no_commit_is_lost(registry, tmp_path):
    url = registry.url()
    commits, outcomes = [], []

    def work(number):
        repository = Repository.create(tmp_path / str(number))
        commit = commit_skill(repository, "math", f"by {number}")
        commits.append(commit.digest)
        try:
            push(repository, open_remote(url, credentials=ADA, pause=0.01))
        except BusyError:
            outcomes.append("busy")
        else:
            outcomes.append("done")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    remote = open_remote(url, credentials=ADA)
    assert len(outcomes) == 6
    assert "done" in outcomes
    assert remote.refs()["heads/main"] in commits
    assert {commit_tag(digest) for digest in commits} <= set(remote._tags())


def test_a_deletion_that_stopped_half_way_is_a_deletion(library, remote):
    """The tag names the marker, which was to be deleted next."""
    push(library, remote)
    remote._send("v2", _DELETED, INDEX, {})
    assert remote.refs() == local_refs(library)
    remote.update_ref("tags/v2", library.tags()["v1"], expected=None)
    assert remote.refs()["tags/v2"] == library.tags()["v1"]


def test_tags_of_others_are_passed_over(library, remote):
    push(library, remote)
    skill = library.skills()["math"]
    image = b"".join(remote.read(skill))
    remote._send("an-image", image, skill.media_type, {})
    remote._send("an-index", build_index([]), INDEX, {})
    assert remote.refs() == local_refs(library)


def test_a_large_blob_goes_in_parts(registry):
    remote = open_remote(registry.url(), credentials=ADA, part=MIB, pause=0.01)
    data = noise(5 * MIB + 123)
    blob = send(remote, data)
    assert b"".join(remote.read(blob)) == data


def test_memory_does_not_grow_with_a_blob(registry, tmp_path):
    """128 MiB go there and back in a process that may not grow by 40."""
    code = """
import hashlib, resource, sys
from skillpack_store import Descriptor
from skillpack_store.remotes.registry import open_remote
from skillpack_store.remotes.oci.credentials import Credentials
url, user, password = sys.argv[1:]
chunks, piece = 128, bytes(range(256)) * 4096
digest = hashlib.sha256()
for _ in range(chunks):
    digest.update(piece)
blob = Descriptor("sha256:" + digest.hexdigest(), chunks * len(piece), "application/octet-stream")
remote = open_remote(url, credentials=Credentials(user, password))
list(remote.sizes([blob]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
remote.write(blob, lambda: (piece for _ in range(chunks)))
back = hashlib.sha256()
for chunk in remote.read(blob):
    back.update(chunk)
assert back.digest() == digest.digest()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, registry.url(), USER, PASSWORD], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 40_000  # KiB


def test_a_blob_is_mounted_from_another_repository(registry):
    data = noise(200_000)
    first = open_remote(registry.url(), credentials=ADA)
    blob = send(first, data)
    name = first.url.partition("/tests")[2]
    second = open_remote(registry.url(), credentials=ADA, mount_from=["elsewhere/not-there", f"tests{name}"])
    second.write(blob, lambda: pytest.fail("the content was sent"))
    assert b"".join(second.read(blob)) == data
    other = send(second, noise(1000, seed=1))
    assert second.sizes([other]) == {other.digest: 1000}


class Cut:
    """Cuts the n-th PATCH: before the registry sees any of it, or in the middle of its content."""

    def __init__(self, number, *, inside):
        self.number, self.inside, self.seen = number, inside, 0

    def __call__(self, piece, before):
        if b"PATCH /v2/" in piece:
            self.seen += 1
            return self.seen == self.number and not self.inside
        return self.inside and self.seen == self.number and self._once()

    def _once(self):
        self.number = -1
        return True


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("number", [1, 3])
def test_an_upload_goes_on_after_a_broken_connection(registry, number, inside):
    sent = []
    cut = Cut(number, inside=inside)

    def counted(piece, before):
        hangs_up = cut(piece, before)
        sent.append(0 if hangs_up else len(piece))
        return hangs_up

    proxy = CuttingProxy(registry.port, counted)
    try:
        name = registry.url().partition("/tests")[2]
        direct = open_remote(f"oci://{registry.host}/tests{name}", credentials=ADA)
        remote = open_remote(f"oci://{proxy.host}/tests{name}", credentials=ADA, part=MIB, pause=0.01)
        # The registry puts the address that it was asked under into locations, so all goes through the proxy.
        data = noise(4 * MIB)
        blob = send(remote, data)
        assert proxy.cuts == 1
        assert b"".join(direct.read(blob)) == data
        if not inside:
            # What had arrived is not sent again.
            assert sum(sent) < 4 * MIB + 200_000
    finally:
        proxy.stop()


def test_a_registry_that_is_restarted_in_the_middle(tmp_path):
    registry = DockerRegistry.with_password(tmp_path / "registry")
    try:
        remote = open_remote(registry.url(), credentials=ADA, part=MIB, pause=0.3)
        data = noise(4 * MIB)
        given = []

        def chunks():
            for start in range(0, len(data), MIB):
                if start == 2 * MIB and not given:
                    given.append(start)
                    registry.stop()
                    registry.start()
                yield data[start : start + MIB]

        remote.write(blob_of(data), chunks)
        assert given
        assert b"".join(remote.read(blob_of(data))) == data
    finally:
        registry.stop()


def test_a_registry_that_is_not_there():
    remote = open_remote("oci://localhost:1/a/b", credentials=ADA, pause=0.01)
    with pytest.raises(RemoteError, match="cannot be reached") as caught:
        remote.refs()
    assert caught.value.hint


def test_a_registry_behind_tls(repository, tmp_path, monkeypatch):
    key, certificate = make_certificate(tmp_path / "tls")
    registry = DockerRegistry.with_password(tmp_path / "registry", tls=(key, certificate))
    try:
        url = registry.url()
        commit_skill(repository, "math", "one")
        with pytest.raises(RemoteError, match="certificate verify failed"):
            open_remote(url, insecure=False, credentials=ADA, pause=0.01).refs()
        with pytest.raises(RemoteError, match="answered with 400"):
            open_remote(url, credentials=ADA, pause=0.01).refs()  # plain HTTP
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        remote = open_remote(url, insecure=False, credentials=ADA, pause=0.01)
        push(repository, remote)
        assert remote.refs() == local_refs(repository)
    finally:
        registry.stop()


class TestCredentials:
    def test_without_any(self, registry, tmp_path):
        remote = open_remote(registry.url(), config_files=[tmp_path / "none.json"])
        with pytest.raises(AuthenticationError, match="wants to know who you are") as caught:
            remote.refs()
        assert f"docker login {registry.host}" in caught.value.hint

    def test_wrong_ones(self, registry):
        remote = open_remote(registry.url(), credentials=Credentials(USER, "wrong"))
        with pytest.raises(AuthenticationError, match="does not allow this to ada"):
            remote.refs()

    def test_from_a_helper_program(self, registry, repository, tmp_path, monkeypatch):
        helper = tmp_path / "docker-credential-tests"
        answer = json.dumps({"ServerURL": registry.host, "Username": USER, "Secret": PASSWORD})
        helper.write_text(f"#!/bin/sh\nread server\n[ \"$server\" = '{registry.host}' ] && echo '{answer}'\n")
        helper.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        config = tmp_path / "config.json"
        config.write_text(json.dumps({"credHelpers": {registry.host: "tests"}}))
        remote = open_remote(registry.url(), config_files=[config])
        commit_skill(repository, "math", "one")
        push(repository, remote)
        assert remote.refs() == local_refs(repository)


class TestSkopeo:
    """Another program copies what is ours, digests unchanged."""

    @pytest.fixture(autouse=True)
    def _skopeo(self):
        require("skopeo", "skopeo")

    def copy(self, source, target, registry, *more):
        where = "src" if source.startswith("docker://") else "dest"
        options = [f"--{where}-tls-verify=false", f"--{where}-creds={USER}:{PASSWORD}"]
        command = ["skopeo", "--insecure-policy", "copy", "--preserve-digests", *more, *options, source, target]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def test_from_our_layout_to_the_registry(self, repository, registry, tmp_path):
        commit_skill(repository, "code", "zero", branch="other")
        commit = commit_skill(repository, "math", "one")
        remote = open_remote(registry.url(), credentials=ADA)
        target = f"docker://{remote.url.removeprefix('oci://')}:main"
        self.copy(f"oci:{repository.path}:main", target, registry, "--all")
        assert remote.refs() == {"heads/main": commit.digest}
        other = Repository.create(tmp_path / "other")
        pull(remote, other)
        assert other.skills() == repository.skills()
        verify_everything(other)

    def test_from_our_archive_to_the_registry(self, repository, registry, tmp_path):
        skill = put_skill(repository, "one")
        export_archive(repository, {"math": skill}, tmp_path / "math.tar")
        remote = open_remote(registry.url(), credentials=ADA)
        target = f"docker://{remote.url.removeprefix('oci://')}:math"
        self.copy(f"oci-archive:{tmp_path / 'math.tar'}:math", target, registry)
        manifest = repository.skill_manifest(skill.digest)
        blobs = [skill, manifest.config, *manifest.layers]
        assert remote.sizes(blobs) == {blob.digest: blob.size for blob in blobs}
        for blob in blobs:
            assert digest_of(b"".join(remote.read(blob))) == blob.digest

    def test_from_the_registry_to_a_layout(self, library, registry, tmp_path):
        remote = open_remote(registry.url(), credentials=ADA)
        push(library, remote)
        source = remote.url.removeprefix("oci://")
        for tag, ref in (("main", "heads/main"), ("draft--branch", "heads/draft"), ("v1", "tags/v1")):
            self.copy(f"docker://{source}:{tag}", f"oci:{tmp_path / 'layout'}:{tag}", registry, "--all")
            index = json.loads((tmp_path / "layout" / "index.json").read_text())
            names = {
                entry["annotations"]["org.opencontainers.image.ref.name"]: entry["digest"]
                for entry in index["manifests"]
            }
            assert names[tag] == local_refs(library)[ref]
        copied = Repository.open(tmp_path / "layout")
        commit = copied.read_commit(library.head().digest)
        assert commit.skills == library.skills()
        for skill in commit.skills.values():
            manifest = copied.skill_manifest(skill.digest)
            for blob in (skill, manifest.config, *manifest.layers):
                copied.blobs.verify(blob.digest)
        assert COMMIT_TYPE in (copied.path / "blobs" / "sha256" / commit.digest[7:]).read_text()


def test_addresses():
    assert open_remote("oci://ghcr.io/team/skills").url == "oci://ghcr.io/team/skills"
    assert open_remote("oci://docker.io/skills").url == "oci://docker.io/library/skills"
    for wrong in (
        "oci://ghcr.io",
        "oci://ghcr.io/",
        "oci://ghcr.io/Team/skills",
        "oci://ghcr.io/team/skills:v1",
        "oci://ada:secret@ghcr.io/team",
        "oci://ghcr.io/../team",
        "oci://ghcr.io/a//b",
        "oci://gh cr/a",
        "https://ghcr.io/team",
        "oci://ghcr.io/" + "a" * 300,
    ):
        with pytest.raises(StoreError, match="not the address of a repository") as caught:
            open_remote(wrong)
        assert "secret" not in caught.value.message
    with pytest.raises(StoreError, match="not the address"):
        open_remote("oci://ghcr.io/team/skills", mount_from=["../x"])


def test_plain_http_is_only_spoken_when_asked_for():
    assert open_remote("oci://ghcr.io/a/b")._session.client.home == "https://ghcr.io"
    assert open_remote("oci://ghcr.io/a/b", insecure=True)._session.client.home == "http://ghcr.io"
    assert open_remote("oci://[::1]:5000/a/b")._session.client.home == "http://[::1]:5000"
    assert open_remote("oci://docker.io/a/b")._session.client.home == "https://registry-1.docker.io"


def test_a_commit_is_made_again_from_its_tag(library, remote, tmp_path):
    """A branch that was lost, or overwritten by somebody else, leads nowhere; the tags of commits still do."""
    push(library, remote)
    head = library.head().digest
    remote.update_ref("heads/main", None, expected=head)
    assert "heads/main" not in remote.refs()
    remote.update_ref("heads/main", head, expected=None)
    other = Repository.create(tmp_path / "other")
    pull(remote, other)
    assert other.head().digest == head
    other.commit("main", lambda skills: {**skills, "more": put_skill(other, "more")}, message="More", **WHO)
    push(other, remote)
    assert remote.refs()["heads/main"] == other.head().digest
