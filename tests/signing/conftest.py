from __future__ import annotations

import pytest

from skillpack.signing import new_key, show_policy
from skillpack.signing.bundles import BUNDLE_TYPE
from skillpack_store import Repository
from tests.store.skills import put_skill


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """The user's own folder is a fresh one."""
    monkeypatch.setenv("SKILLPACK_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def ada():
    return new_key("ada")


@pytest.fixture
def bob():
    return new_key("bob")


@pytest.fixture
def repository(tmp_path):
    return Repository.create(tmp_path / "store")


@pytest.fixture
def skill(repository):
    return put_skill(repository, "math")


@pytest.fixture
def attach(repository, skill):
    """Attach bytes as a signature; returns the only problem that is then found, by the user's policy."""
    from skillpack.signing import find_signatures

    def attach(bundle, subject=skill, *, name="math", **more):
        repository.attach(subject, BUNDLE_TYPE, [(bundle, BUNDLE_TYPE, "x.sigstore.json")], more)
        found = find_signatures(repository, subject.digest, name, show_policy())
        return found[-1].problem

    return attach
