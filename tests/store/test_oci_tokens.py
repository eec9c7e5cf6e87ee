"""The remote for OCI registries, on docker-registry with a token server."""

from __future__ import annotations

import pytest

from skillpack_store import AuthenticationError, Repository
from skillpack_store.remotes.oci.credentials import Credentials
from skillpack_store.remotes.registry import open_remote
from tests.store.remote_contents import local_refs, noise, pull, push, send
from tests.store.servers import PASSWORD, USER, DockerRegistry, TokenServer
from tests.store.skills import commit_skill

ADA = Credentials(USER, PASSWORD)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    server = TokenServer(tmp_path_factory.mktemp("tokens") / "own")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def registry(tokens, tmp_path_factory):
    registry = DockerRegistry(tmp_path_factory.mktemp("registry") / "tokens", tokens.auth)
    yield registry
    registry.stop()


def test_one_token_serves_many_requests(tokens, registry, library, tmp_path):
    tokens.given.clear()
    url = registry.url()
    push(library, open_remote(url, credentials=ADA))
    # One to pull and one to push.
    assert len(tokens.given) == 2
    other = Repository.create(tmp_path / "other")
    pull(open_remote(url, config_files=[]), other)
    assert local_refs(other) == local_refs(library)


def test_a_ref_is_deleted_with_a_token_for_that(registry, library):
    remote = open_remote(registry.url(), credentials=ADA)
    push(library, remote)
    remote.update_ref("tags/v1", None, expected=library.tags()["v1"])
    assert "tags/v1" not in remote.refs()


def test_a_stored_token_is_exchanged(registry, repository):
    commit_skill(repository, "math", "one")
    remote = open_remote(registry.url(), credentials=Credentials(identity_token="kept"))
    push(repository, remote)
    assert remote.refs() == local_refs(repository)


def test_a_token_that_ran_out_is_renewed(tokens, registry, repository, monkeypatch):
    commit_skill(repository, "math", "one")
    remote = open_remote(registry.url(), credentials=ADA)
    monkeypatch.setattr(tokens, "life", 0.001)
    tokens.given.clear()
    push(repository, remote)
    assert remote.refs() == local_refs(repository)
    assert len(tokens.given) > 5


def test_who_may_not_push_is_told(registry, repository):
    commit_skill(repository, "math", "one")
    with pytest.raises(AuthenticationError, match="who you are; it keeps asking for authorization to pull,push"):
        push(repository, open_remote(registry.url(), config_files=[]))


def test_wrong_credentials(registry):
    remote = open_remote(registry.url(), credentials=Credentials(USER, "wrong"))
    with pytest.raises(AuthenticationError, match="token server answered with 401"):
        remote.refs()


def test_a_mount_asks_for_both_repositories(registry):
    first = open_remote(registry.url(), credentials=ADA)
    blob = send(first, noise(1000))
    name = first.url.partition(f"{registry.host}/")[2]
    second = open_remote(registry.url(), credentials=ADA, mount_from=[name])
    second.write(blob, lambda: pytest.fail("the content was sent"))
    assert second.sizes([blob]) == {blob.digest: 1000}
