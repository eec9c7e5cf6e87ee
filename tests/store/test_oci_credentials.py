from __future__ import annotations

import base64
import json
import os

import pytest

from skillpack_store import AuthenticationError
from skillpack_store.remotes.oci.credentials import Credentials, default_config_files, find_credentials

ADA = Credentials("ada", "se:cret")
AUTH = {"auth": base64.b64encode(b"ada:se:cret").decode()}


@pytest.fixture
def config(tmp_path):
    def write(document, name="config.json"):
        path = tmp_path / name
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        return path

    return write


@pytest.fixture
def helper(tmp_path, monkeypatch):
    """Install a program ``docker-credential-tests`` with this script; what it was asked is in ``asked``."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    def write(script):
        path = tmp_path / "docker-credential-tests"
        path.write_text(f'#!/bin/sh\necho "$1 $(cat)" >> {tmp_path}/asked\n{script}\n')
        path.chmod(0o755)

    return write


def found(config, host="ghcr.io", name="team/skills"):
    return find_credentials(host, name, [config])


@pytest.mark.parametrize(
    ("key", "host"),
    [
        ("ghcr.io", "ghcr.io"),
        ("https://ghcr.io", "ghcr.io"),
        ("https://ghcr.io/v2/", "ghcr.io"),
        ("localhost:5000", "localhost:5000"),
        ("https://index.docker.io/v1/", "docker.io"),
        ("docker.io", "docker.io"),
        ("ghcr.io/team", "ghcr.io"),
        ("ghcr.io/team/skills", "ghcr.io"),
    ],
)
def test_a_password_in_the_file(config, key, host):
    assert found(config({"auths": {key: AUTH}}), host) == ADA


def test_other_registries_and_repositories_get_nothing(config):
    path = config({"auths": {"ghcr.io.evil.example": AUTH, "ghcr.io/other": AUTH, "ghcr.io:8080": AUTH}})
    assert found(path) is None
    assert find_credentials("ghcr.io", "a/b", []) is None
    assert find_credentials("ghcr.io", "a/b", [path.parent / "none.json"]) is None


def test_the_most_specific_and_the_first_file_win(config):
    other = {"username": "other", "password": "x"}
    first = config({"auths": {"ghcr.io": other, "ghcr.io/team": AUTH}})
    second = config({"auths": {"quay.io": AUTH, "ghcr.io": other}}, "second.json")
    assert found(first) == ADA
    assert found(first, name="elsewhere/x").username == "other"
    assert find_credentials("quay.io", "a/b", [first, second]) == ADA


def test_other_forms(config):
    assert found(config({"auths": {"ghcr.io": {"username": "ada", "password": "se:cret"}}})) == ADA
    assert found(config({"auths": {"ghcr.io": {"identitytoken": "t"}}})) == Credentials(identity_token="t")
    assert found(config({"auths": {"ghcr.io": {"registrytoken": "t"}}})) == Credentials(registry_token="t")
    assert found(config({"auths": {"ghcr.io": {}}})) is None
    assert found(config({"auths": 7, "credHelpers": 7})) is None


@pytest.mark.parametrize(
    "document",
    ["", "{", "[]", '{"auths":{"ghcr.io":{"auth":"%"}}}', '{"credsStore":"../x"}', '{"credsStore":7}', "x" * 2**21],
)
def test_a_file_that_cannot_be_used(config, document):
    with pytest.raises(AuthenticationError, match=r"cannot be (read|:)|credential helper that cannot be"):
        found(config(document))


class TestHelpers:
    def test_a_password(self, config, helper, tmp_path):
        helper('echo \'{"ServerURL":"x","Username":"ada","Secret":"se:cret"}\'')
        assert found(config({"credHelpers": {"ghcr.io": "tests"}})) == ADA
        assert found(config({"credsStore": "tests"}), "docker.io") == ADA
        assert (tmp_path / "asked").read_text() == "get ghcr.io\nget https://index.docker.io/v1/\n"

    def test_a_token(self, config, helper):
        helper('echo \'{"ServerURL":"x","Username":"<token>","Secret":"t"}\'')
        assert found(config({"credsStore": "tests"})) == Credentials(identity_token="t")

    def test_nothing_is_known(self, config, helper):
        helper("echo credentials not found in native keychain; exit 1")
        assert found(config({"credsStore": "tests"})) is None
        assert found(config({"credsStore": "tests", "auths": {"ghcr.io": AUTH}})) == ADA

    def test_a_helper_for_another_registry_is_not_asked(self, config, helper, tmp_path):
        helper("exit 1")
        assert found(config({"credHelpers": {"quay.io": "tests"}, "auths": {"ghcr.io": AUTH}})) == ADA
        assert not (tmp_path / "asked").exists()

    @pytest.mark.parametrize(
        "script", ["echo locked; exit 3", "echo {", "echo '[]'", 'echo \'{"Username":7,"Secret":"x"}\'']
    )
    def test_a_helper_that_fails(self, config, helper, script):
        helper(script)
        with pytest.raises(AuthenticationError, match=r"docker-credential-tests"):
            found(config({"credsStore": "tests"}))

    def test_a_helper_that_is_not_installed(self, config):
        with pytest.raises(AuthenticationError, match="cannot be used: FileNotFoundError") as caught:
            found(config({"credsStore": "not-there"}))
        assert "Install docker-credential-not-there" in caught.value.hint


def test_secrets_do_not_show():
    assert "secret" not in repr(Credentials("ada", "secret", "secret", "secret"))


def test_where_they_are_looked_for(tmp_path):
    assert default_config_files(tmp_path) == [
        tmp_path / ".docker" / "config.json",
        tmp_path / ".config" / "containers" / "auth.json",
    ]
