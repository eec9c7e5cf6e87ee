"""The remote for the Hugging Face Hub, on a small Hub that runs as a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

import pytest
from huggingface_hub import HfApi, ModelCard, constants

from skillpack_store import (
    AuthenticationError,
    BusyError,
    Descriptor,
    NotFoundError,
    RemoteError,
    Repository,
    StoreError,
    digest_of,
)
from skillpack_store.remotes.hf.state import State, blob_path
from skillpack_store.remotes.hub import open_remote
from skillpack_store.remotes.protocol import WritableRemote
from tests.store.remote_contents import blob_of, library_blobs, local_refs, noise, parts, pull, push, send
from tests.store.servers import HTTPServer, HubServer
from tests.store.skills import CONFIG_TYPE, WHO, commit_skill, verify_everything

# httpx's advice to huggingface_hub.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")

MIB = 1 << 20
CARD = b"---\nbase_model: org/base\nlicense: mit\nlibrary_name: skillpack\n---\n# Math\n"


@pytest.fixture(scope="module")
def hub():
    server = HubServer()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def _plain_uploads(monkeypatch):
    # The other way of uploading, Xet, is a protocol of its own that only the real Hub speaks.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


@pytest.fixture
def at(hub):
    """Open a repository on the server."""

    def open_at(url=None, **options):
        options = {"token": "hf_write", "pause": 0.01, **options}
        return open_remote(url or hub.url(), endpoint=hub.endpoint, **options)

    return open_at


@pytest.fixture
def remote(at):
    return at()


def shown(remote, path, revision="main"):
    """What people see at a path; None if there is nothing."""
    answer = remote._fetch("GET", remote._file_url(path, revision), 16 * MIB)
    return answer.data if answer.status == 200 else None


def state_of(remote):
    return State.parse(shown(remote, "skillpack.json"))


def test_a_library_goes_there_and_comes_back(library, remote, at, tmp_path):
    assert isinstance(remote, WritableRemote)
    assert remote.refs() == {}
    assert remote.sizes(library_blobs(library)) == {}
    assert len(push(library, remote)) == len(library_blobs(library))

    fresh = at(remote.url)
    assert fresh.refs() == local_refs(library)
    assert fresh.sizes(library_blobs(library)) == {blob.digest: blob.size for blob in library_blobs(library)}
    assert push(library, fresh) == []
    other = Repository.create(tmp_path / "other")
    pull(at(remote.url, token="hf_read"), other)
    assert local_refs(other) == local_refs(library)
    assert set(other.blobs) == {blob.digest for blob in library_blobs(library)}
    verify_everything(other)


def test_nothing_counts_before_a_ref_moves(library, remote, at):
    for blob in library_blobs(library):
        remote.write(blob, lambda blob=blob: library.blobs.stream(blob.digest))
    fresh = at(remote.url)
    assert fresh.refs() == {}
    assert fresh.sizes(library_blobs(library)) == {}
    # The one that wrote knows what it wrote.
    assert remote.sizes(library_blobs(library)) == {blob.digest: blob.size for blob in library_blobs(library)}
    head = library.head()
    assert b"".join(remote.read(Descriptor(head.digest, 10_000, "application/vnd.oci.image.index.v1+json")))
    remote.update_ref("heads/main", head.digest, expected=None)
    assert fresh.refs() == {"heads/main": head.digest}
    assert fresh.sizes(library_blobs(library)) == {blob.digest: blob.size for blob in library_blobs(library)}


class TestWhatPeopleSee:
    @pytest.fixture
    def skill(self, repository):
        """A skill as skillpack packs it, with a card and a layer that the Hub calls large."""
        config = (b"\x28\xb5\x2f\xfd\0manifest", "application/vnd.skillpack.manifest.v1+json+zstd")
        layer_type = "application/vnd.skillpack.streams.v1+safetensors"
        layers = [([noise(MIB + 5, seed)], layer_type) for seed in range(2)]
        skill = repository.put_skill(*config, layers)
        repository.commit("main", lambda skills: {**skills, "math": skill}, message="Add math", **WHO)
        repository.attach(skill, "application/vnd.skillpack.card.v1", [(CARD, "text/markdown", "README.md")])
        return skill

    def test_files_by_name(self, repository, skill, remote):
        push(repository, remote)
        manifest = repository.skill_manifest(skill.digest)
        expected = {
            "skills/math/manifest.json": repository.blobs.read(skill.digest, limit=MIB),
            "skills/math/config.json.zst": b"\x28\xb5\x2f\xfd\0manifest",
            "skills/math/layer-1.safetensors": noise(MIB + 5, 0),
            "skills/math/layer-2.safetensors": noise(MIB + 5, 1),
            "skills/math/README.md": CARD,
        }
        assert {path: shown(remote, path) for path in expected} == expected
        files = state_of(remote).skills["math"].files
        assert {path: file.digest for path, file in files.items()} == {
            path: digest_of(data) for path, data in expected.items()
        }
        assert manifest.layers[0].digest in {file.digest for file in files.values()}

    def test_the_card_of_the_repository(self, repository, skill, remote):
        push(repository, remote)
        card = ModelCard(shown(remote, "README.md").decode())
        assert card.data.library_name == "skillpack"
        assert card.data.base_model == ["org/base"]
        assert card.data.license == "mit"
        assert card.data.tags == ["skillpack"]
        assert "| [math](skills/math) | org/base |" in card.text

    @pytest.mark.parametrize(
        ("base", "license_name", "license_shown"),
        [("a-folder", "Apache-2.0", "apache-2.0"), ("org/base", "my-own", None)],
    )
    def test_what_the_hub_would_refuse_is_left_out(self, repository, remote, base, license_name, license_shown):
        card = f"---\nbase_model: {base}\nlicense: {license_name}\n---\n# Math\n".encode()
        skill = repository.put_skill(b"{}", CONFIG_TYPE, [])
        repository.commit("main", lambda _: {"math": skill}, message="Add math", **WHO)
        repository.attach(skill, "application/vnd.skillpack.card.v1", [(card, "text/markdown", "README.md")])
        push(repository, remote)
        data = ModelCard(shown(remote, "README.md").decode()).data
        assert (data.base_model, data.license) == (None, license_shown)
        assert f"| {base} |" in shown(remote, "README.md").decode()
        assert shown(remote, "skills/math/README.md") == card

    def test_a_card_that_somebody_wrote_stays(self, repository, skill, remote, at, hub):

        push(repository, remote)
        api = HfApi(endpoint=hub.endpoint, token="hf_write")
        own = b"---\nlibrary_name: skillpack\n---\n# Mine\n"
        api.upload_file(path_or_fileobj=own, path_in_repo="README.md", repo_id=remote.url.removeprefix("hf://"))
        commit_skill(repository, "code", "one")
        push(repository, at(remote.url))
        assert shown(remote, "README.md") == own
        assert "skills/code/manifest.json" in state_of(remote).skills["code"].files

    def test_a_skill_that_is_deleted_is_not_shown_and_still_there(self, repository, skill, remote):
        commit_skill(repository, "code", "one")
        push(repository, remote)
        before = remote.refs()["heads/main"]
        repository.delete("math", author="Ada", tools={})
        push(repository, remote)
        assert state_of(remote).skills.keys() == {"code"}
        assert shown(remote, "skills/math/layer-1.safetensors") is None
        assert shown(remote, "skills/code/manifest.json")
        # What was deleted is shown again from what the repository has, without an upload.
        remote.update_ref("heads/main", before, expected=remote.refs()["heads/main"])
        assert shown(remote, "skills/math/layer-1.safetensors") == noise(MIB + 5, 0)

    def test_a_file_that_somebody_deleted_by_hand(self, repository, skill, remote, hub, at):

        push(repository, remote)
        api = HfApi(endpoint=hub.endpoint, token="hf_write")
        api.delete_file("skills/math/README.md", remote.url.removeprefix("hf://"))
        repository.delete("math", author="Ada", tools={})
        push(repository, at(remote.url))
        assert state_of(remote).skills == {}

    def test_a_new_version_takes_the_place_of_the_old(self, repository, remote):
        commit_skill(repository, "math", "one")
        push(repository, remote)
        commit_skill(repository, "math", "two")
        push(repository, remote)
        assert shown(remote, "skills/math/config.json") == b'{"about":"two"}'

    def test_large_files_are_sent_once(self, repository, remote, at, hub):
        layers = [([os.urandom(2 * MIB)], "application/vnd.skillpack.streams.v1+safetensors") for _ in range(2)]
        skill = repository.put_skill(b"{}", CONFIG_TYPE, layers)
        repository.commit("main", lambda _: {"math": skill}, message="Add math", **WHO)
        before = len(hub.log())
        # A first try that ends before anything counts.
        for blob in library_blobs(repository)[:2]:
            remote.write(blob, lambda blob=blob: repository.blobs.stream(blob.digest))
        push(repository, at(remote.url))
        assert shown(remote, "skills/math/layer-2.safetensors")
        assert len([line for line in hub.log()[before:] if line.startswith("PUT /storage")]) == 2

    def test_huggingface_hub_downloads_it(self, repository, skill, remote, hub, tmp_path):
        push(repository, remote)
        code = (
            "import sys, huggingface_hub as hub\nprint(hub.snapshot_download(sys.argv[1], allow_patterns='skills/*'))"
        )
        environment = {
            **os.environ,
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_TOKEN": "hf_read",
            "HF_HUB_DISABLE_XET": "1",
        }
        command = [sys.executable, "-c", code, remote.url.removeprefix("hf://")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        folder = os.path.join(done.stdout.strip().splitlines()[-1], "skills", "math")
        with open(os.path.join(folder, "layer-1.safetensors"), "rb") as file:
            assert file.read() == noise(MIB + 5, 0)

    def test_a_hostile_card_harms_nothing(self, repository, remote):
        skill = repository.put_skill(b"{}", CONFIG_TYPE, [])
        repository.commit("main", lambda _: {"math": skill}, message="Add math", **WHO)
        for card in (
            b"---\nbase_model: [a\n---\n",
            b"---\na: &a [x]\nb: *a\n---\n",
            b"\xff\xfe",
            b"---\n- 7\n---\n",
            b"",
        ):
            repository.attach(skill, "application/vnd.skillpack.card.v1", [(card, "text/markdown", "README.md")])
        push(repository, remote)
        assert state_of(remote).skills["math"].base_model == ""


def test_a_large_blob_goes_in_parts_and_is_read_from_anywhere(repository, remote, at):
    commit_skill(repository, "math", "one")
    data = noise(13 * MIB)
    blob = send(remote, data)
    push(repository, remote)
    fresh = at(remote.url)
    for start in (0, 1, 7 * MIB, 13 * MIB - 1, 13 * MIB):
        assert b"".join(fresh.read(blob, start)) == data[start:]
    empty = send(remote, b"")
    assert b"".join(remote.read(empty)) == b""


def test_refs_move_only_from_what_the_caller_saw(library, remote):
    push(library, remote)
    head, first = library.head().digest, library.tags()["v1"]
    for wrong in (None, first):
        with pytest.raises(BusyError, match="moved by somebody else"):
            remote.update_ref("heads/main", first, expected=wrong)
    remote.update_ref("heads/main", first, expected=head)
    remote.update_ref("tags/v1", None, expected=first)
    assert remote.refs()["heads/main"] == first
    assert "tags/v1" not in remote.refs()


def test_somebody_elses_commit_in_between_is_built_upon(library, remote, hub):
    push(library, remote)
    first = library.tags()["v1"]
    hub.fail("overtake", "overtake")
    remote.update_ref("tags/v2", first, expected=None)
    assert remote.refs()["tags/v2"] == first
    assert shown(remote, "somebody-else.txt")


def test_a_lost_answer_to_a_commit_that_was_made(library, remote, hub):
    push(library, remote)
    hub.fail("lose the answer")
    remote.update_ref("tags/v2", library.tags()["v1"], expected=None)
    assert remote.refs()["tags/v2"] == library.tags()["v1"]


def test_a_commit_that_was_not_made(library, remote, hub):
    push(library, remote)
    before = remote.refs()
    hub.fail("refuse")
    with pytest.raises(RemoteError, match="answered with 500"):
        remote.update_ref("tags/v2", library.tags()["v1"], expected=None)
    assert remote.refs() == before
    remote.update_ref("tags/v2", library.tags()["v1"], expected=None)


def test_of_many_writers_one_wins_for_each_branch(at, hub, tmp_path):
    url = hub.url()
    at(url)._require_repository()
    outcomes = []

    def work(number):
        repository, remote = Repository.create(tmp_path / str(number)), at(url)
        commit = commit_skill(repository, "math", f"by {number}", branch=f"branch-{number % 3}")
        for blob in library_blobs(repository):
            remote.write(blob, lambda blob=blob: repository.blobs.stream(blob.digest))
        try:
            remote.update_ref(f"heads/branch-{number % 3}", commit.digest, expected=None)
        except BusyError:
            outcomes.append((number, None))
        else:
            outcomes.append((number, commit.digest))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refs = at(url).refs()
    assert len(outcomes) == 6
    won = [(number, digest) for number, digest in outcomes if digest]
    assert {f"heads/branch-{number % 3}": digest for number, digest in won} == refs
    assert len(won) == 3


def test_another_branch_of_the_hub(library, at):
    main = at()
    push(library, main)
    draft = at(f"{main.url}@draft/one")
    assert draft.refs() == {}
    draft.update_ref("heads/main", library.tags()["v1"], expected=library.head().digest)
    assert draft.refs()["heads/main"] == library.tags()["v1"]
    assert main.refs() == local_refs(library)


def test_small_blobs_do_not_pile_up_in_memory(remote, monkeypatch, at):
    from skillpack_store.remotes.hf import remote as module

    monkeypatch.setattr(module, "_HELD", 100_000)
    blobs = [send(remote, b"text " * 6000 + b"%d" % number) for number in range(10)]
    assert remote._pending.in_memory() < 200_000
    fresh = at(remote.url)
    assert len(fresh.sizes(blobs)) >= 6
    assert fresh.refs() == {}


def test_content_that_is_not_what_it_says(remote):
    for data in (b"abc", noise(2 * MIB)):
        with pytest.raises(RemoteError, match="another digest"):
            remote.write(blob_of(data), parts(data + b"x"))
    assert remote.sizes([blob_of(b"abc")]) == {}


def test_what_is_not_there_is_said(remote, at, library):
    push(library, remote)
    with pytest.raises(NotFoundError, match="does not have it"):
        list(remote.read(blob_of(b"nothing")))
    for ref, expected in (("heads/main", library.head().digest), ("tags/new", None)):
        with pytest.raises(NotFoundError, match=f"so {ref} cannot name it"):
            remote.update_ref(ref, digest_of(b"nothing"), expected=expected)
    with pytest.raises(NotFoundError):
        list(at("hf://tests/nothing").read(blob_of(b"nothing")))


class TestWho:
    def test_nobody(self, at, monkeypatch):
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
        with pytest.raises(AuthenticationError, match="does not allow this to you") as caught:
            at("hf://tests/nothing", token=None).refs()
        assert "hf auth login" in caught.value.hint

    def test_a_wrong_token(self, at):
        with pytest.raises(AuthenticationError):
            at(token="hf_wrong").refs()

    def test_a_token_that_may_not_write(self, at, repository):
        commit_skill(repository, "math", "one")
        with pytest.raises(AuthenticationError, match="the repository could not be made"):
            push(repository, at(token="hf_read"))

    def test_offline(self, at, monkeypatch, repository):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        commit_skill(repository, "math", "one")
        for attempt in (lambda: at().refs(), lambda: send(at(), b"abc")):
            with pytest.raises(RemoteError, match="HF_HUB_OFFLINE is set"):
                attempt()


def test_it_draws_nothing(repository, at, hub, capfd):
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, enable_progress_bars

    # Other tests may have disabled them.
    enable_progress_bars()
    remote = at()
    send(remote, noise(3 * MIB))
    commit_skill(repository, "math", "one")
    push(repository, remote)
    assert capfd.readouterr() == ("", "")
    assert not are_progress_bars_disabled()


@pytest.fixture
def hostile():
    """Answer every request in one way; return a remote on that server."""
    servers = []

    def start(answer):
        servers.append(HTTPServer(answer))
        endpoint = f"http://{servers[-1].host}"
        return open_remote("hf://a/b", endpoint=endpoint, token="hf_x", timeout=20, pause=0.001)

    yield start
    for server in servers:
        server.stop()


STATE = {"format": 1, "refs": {}, "skills": {}, "card": ""}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{",
        b"[" * 10_000,
        b'{"format":1}',
        json.dumps({**STATE, "format": 2}).encode(),
        json.dumps({**STATE, "refs": {"heads/main": "x"}}).encode(),
        json.dumps({**STATE, "refs": {"heads/../x": "sha256:" + "0" * 64}}).encode(),
        json.dumps({**STATE, "refs": {"other/x": "sha256:" + "0" * 64}}).encode(),
        json.dumps({**STATE, "refs": []}).encode(),
        json.dumps({**STATE, "skills": {"x": {"digest": "sha256:" + "0" * 64, "files": {"README.md": {}}}}}).encode(),
        json.dumps({**STATE, "skills": {"x": {"files": {"skills/a/../../b": {}}}}}).encode(),
        json.dumps({**STATE, "skills": {"x": 7}}).encode(),
    ],
    ids=lambda data: data[:60].decode(),
)
def test_a_state_that_cannot_be_used(hostile, data):
    with pytest.raises(RemoteError, match=r"skillpack.json of hf://a/b cannot be used"):
        hostile(lambda handler: handler.reply(200, data)).refs()


def test_an_answer_without_an_end(hostile):
    def answer(handler):
        handler.close_connection = True
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        while True:
            handler.wfile.write(b"x" * MIB)

    remote = hostile(answer)
    with pytest.raises(RemoteError, match="more than the"):
        remote.refs()
    with pytest.raises(RemoteError, match="more than the"):
        b"".join(remote.read(blob_of(b"abc")))


@pytest.mark.parametrize("data", [b"", b"{}", b"[7]", b'[{"path":7}]', b'[{"path":"x","size":"y"}]'])
def test_sizes_that_are_none(hostile, data):
    remote = hostile(lambda handler: handler.reply(200, data))
    if data.startswith(b"["):
        assert remote.sizes([blob_of(b"abc")]) == {}
    else:
        with pytest.raises(RemoteError, match="cannot be read"):
            remote.sizes([blob_of(b"abc")])


@pytest.mark.parametrize("status", [400, 404, 418, 500])
def test_writes_to_a_server_that_is_no_hub(hostile, status):
    with pytest.raises(RemoteError) if status != 404 else pytest.raises(NotFoundError):
        send(hostile(lambda handler: (handler.body(), handler.reply(status, b"<html>"))), b"abc")


def test_writes_to_a_server_that_answers_nonsense(hostile):
    with pytest.raises(RemoteError):
        send(hostile(lambda handler: (handler.body(), handler.reply(200, b"[]"))), b"abc")


def test_a_redirect_keeps_the_token_from_another_server(hostile):
    seen = []
    other = HTTPServer(lambda handler: (seen.append(dict(handler.headers)), handler.reply(200, b"abc")))
    try:
        remote = hostile(lambda handler: handler.reply(302, Location=f"http://{other.host}/x"))
        assert b"".join(remote.read(blob_of(b"abc"))) == b"abc"
        assert "Authorization" not in seen[0]
    finally:
        other.stop()


def test_addresses():
    assert open_remote("hf://org/name").url == "hf://org/name"
    assert open_remote("hf://org/name@main").url == "hf://org/name"
    assert open_remote("hf://org/name@v1").url == "hf://org/name@v1"
    for wrong in (
        "hf://name",
        "hf://org/name/more",
        "hf://org/..",
        "hf://org/a--b",
        "hf://u:p@org/x",
        "hf://org/n@",
        "oci://a/b",
    ):
        with pytest.raises(StoreError, match="not the address"):
            open_remote(wrong)
    with pytest.raises(RemoteError, match="plain HTTP"):
        open_remote("hf://org/name", endpoint="http://hub.example")
    assert blob_path("sha256:" + "0" * 64) == ".skillpack/blobs/" + "0" * 64
