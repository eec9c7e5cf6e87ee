from __future__ import annotations

import pytest
from huggingface_hub import constants

from skillpack_store import Repository
from skillpack_store.transfer import trying
from tests.store.remotes.kinds import KINDS


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(trying, "FIRST_PAUSE", 0.001)
    # The server of the tests takes files as the Hub took them before.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def place(request, tmp_path):
    """An empty remote of each kind."""
    kind = request.param(tmp_path)
    yield kind
    kind.close()


@pytest.fixture(params=[kind for kind in KINDS if kind.writable], ids=lambda kind: kind.name)
def writable(request, tmp_path):
    """An empty remote of each kind that is pushed to."""
    kind = request.param(tmp_path)
    yield kind
    kind.close()


@pytest.fixture
def ada(tmp_path):
    return Repository.create(tmp_path / "ada")


@pytest.fixture
def bob(tmp_path):
    return Repository.create(tmp_path / "bob")
