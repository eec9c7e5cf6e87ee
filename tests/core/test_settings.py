from __future__ import annotations

from pathlib import Path

from skillpack.settings import registry_config_files


def test_where_credentials_for_registries_are_looked_for(monkeypatch):
    for name in ("REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/ada")
    podman = Path("/home/ada/.config/containers/auth.json")
    assert registry_config_files() == [Path("/home/ada/.docker/config.json"), podman]
    monkeypatch.setenv("REGISTRY_AUTH_FILE", "/a/auth.json")
    monkeypatch.setenv("DOCKER_CONFIG", "/b")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1")
    assert registry_config_files() == [
        Path("/a/auth.json"),
        Path("/b/config.json"),
        Path("/run/user/1/containers/auth.json"),
        podman,
    ]
