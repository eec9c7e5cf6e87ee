"""From addresses to remotes, and the list of those with names."""

from __future__ import annotations

import json
import sys
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest

from skillpack_store import CorruptStoreError, NotFoundError, Repository, StoreError
from skillpack_store.errors import RefusedError
from skillpack_store.remotes import opening
from skillpack_store.remotes.bucket import BucketRemote
from skillpack_store.remotes.folder import FolderRemote
from skillpack_store.remotes.listing import RemoteList
from skillpack_store.remotes.memory import MemoryRemote
from skillpack_store.remotes.opening import check_url, open_remote, open_writable
from skillpack_store.remotes.protocol import FinishingRemote, Remote, WritableRemote
from skillpack_store.remotes.tarball import ArchiveRemote
from skillpack_store.remotes.web import WebRemote


@pytest.mark.parametrize(
    ("url", "kind", "kept"),
    [
        ("/a/b", FolderRemote, "/a/b"),
        ("a", FolderRemote, "a"),
        ("file:///a/b%20c", FolderRemote, "/a/b c"),
        ("file:///a/b.tar", ArchiveRemote, "/a/b.tar"),
        ("x.tar", ArchiveRemote, "x.tar"),
        ("memory://x", MemoryRemote, "memory://x"),
        ("s3://bucket/a/b", BucketRemote, "s3://bucket/a/b"),
        ("https://example.org/skills/", WebRemote, "https://example.org/skills"),
        ("http://127.0.0.1:1/x", WebRemote, "http://127.0.0.1:1/x"),
    ],
)
def test_addresses(url, kind, kept, monkeypatch):
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    remote = open_remote(url)
    assert type(remote) is kind
    assert remote.url == kept
    assert isinstance(remote, Remote)
    assert isinstance(remote, WritableRemote) == (kind is not WebRemote)


def test_what_is_finished():
    assert isinstance(FolderRemote("x"), FinishingRemote)
    assert not isinstance(MemoryRemote(), FinishingRemote)


def test_one_cannot_push_to_a_web_address():
    with pytest.raises(RefusedError, match="can only be read"):
        open_writable("https://example.org/x")


def test_a_folder_that_ends_in_tar_is_a_folder(tmp_path):
    Repository.create(tmp_path / "x.tar")
    assert type(open_remote(str(tmp_path / "x.tar"))) is FolderRemote


@pytest.mark.parametrize("url", ["ftp://x/y", "S3://bucket", "nothing:x", "file://other/x"])
def test_addresses_of_no_kind(url):
    if url == "S3://bucket":
        assert type(open_remote(url)) is FolderRemote
    else:
        with pytest.raises(StoreError) as caught:
            open_remote(url)
        assert caught.value.hint


@pytest.mark.parametrize(
    "url",
    [
        "https://ada:hunter2@example.org/x",
        "https://hunter2@example.org/x",
        "s3://hunter2:x@bucket/a",
        "az://container/x?sig=hunter2",
        "https://example.org/x?token=hunter2",
        "https://example.org/x#hunter2",
        "mine://ada:hunter2@place/x",
    ],
)
def test_secrets_in_addresses(url):
    with pytest.raises(RefusedError) as caught:
        check_url(url)
    assert "hunter2" not in caught.value.message + caught.value.hint
    with pytest.raises(RefusedError):
        open_remote(url)


def test_an_address_of_somebody_elses_kind(monkeypatch):
    module = ModuleType("somebodys_remote")
    module.open_remote = lambda url, **options: MemoryRemote(f"{url} {options}")
    monkeypatch.setitem(sys.modules, "somebodys_remote", module)
    entry = EntryPoint("carrier-pigeon", "somebodys_remote:open_remote", opening.ENTRY_POINTS)
    monkeypatch.setattr(opening, "entry_points", lambda group: [entry] if group == opening.ENTRY_POINTS else [])
    assert open_remote("carrier-pigeon://loft", seeds=3).url == "memory://carrier-pigeon://loft {'seeds': 3}"
    with pytest.raises(StoreError, match="carrier-pidgin") as caught:
        open_remote("carrier-pidgin://loft")
    assert "Did you mean carrier-pigeon?" in caught.value.hint


@pytest.mark.parametrize("url", ["s3://bucket/x", "https://example.org/x"])
def test_without_obstore(url, monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(StoreError) as caught:
        open_remote(url)
    assert caught.value.hint == 'Run: pip install "skillpack[remotes]"'


def test_plain_http():
    with pytest.raises(RefusedError, match="plain HTTP"):
        open_remote("http://example.org/x")
    assert open_remote("http://example.org/x", insecure=True).url == "http://example.org/x"
    for host in ("localhost", "127.8.8.8", "[::1]"):
        assert open_remote(f"http://{host}:80/x").url == f"http://{host}:80/x"
    with pytest.raises(RefusedError):
        open_remote("http://127.0.0.1.example.org/x")


def test_named_remotes(repository):
    remotes = RemoteList(repository)
    assert remotes.all() == {}
    remotes.add("origin", "s3://bucket/x")
    remotes.add("stick", "/media/stick", insecure=True)
    assert [(remote.name, remote.url, remote.insecure) for remote in remotes.all().values()] == [
        ("origin", "s3://bucket/x", False),
        ("stick", "/media/stick", True),
    ]
    with pytest.raises(StoreError, match="There is a remote origin already: s3://bucket/x"):
        remotes.add("origin", "/other")
    for name in ("../x", "a/b", "", "head", "7"):
        with pytest.raises(StoreError, match="cannot be the name"):
            remotes.add(name, "/x")
    with pytest.raises(NotFoundError, match="no remote 'orign'"):
        remotes.set_url("orign", "/x")
    remotes.set_url("origin", "/x")
    remotes.remove("stick")
    assert remotes.get("origin").url == "/x"
    assert list(remotes.all()) == ["origin"]
    with pytest.raises(RefusedError):
        remotes.set_url("origin", "https://a:b@c/d")
    assert remotes.get("origin").url == "/x"


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"remotes":[]}', '{"remotes":{"a":{}}}', '{"remotes":{"../a":{"url":"/x"}}}',
     '{"remotes":{"a":{"url":"https://a:b@c"}}}', '{"remotes":{"a":{"url":"/x"},"a":{"url":"/y"}}}'],
)  # fmt: skip
def test_a_damaged_list(content, repository):
    (repository.path / "remotes.json").write_text(content)
    with pytest.raises(CorruptStoreError, match=r"remotes\.json is damaged"):
        RemoteList(repository).all()


def test_what_the_file_looks_like(repository):
    RemoteList(repository).add("origin", "s3://bucket/x")
    data = (repository.path / "remotes.json").read_bytes()
    assert json.loads(data) == {"remotes": {"origin": {"url": "s3://bucket/x"}}}
    Repository.open(repository.path)
