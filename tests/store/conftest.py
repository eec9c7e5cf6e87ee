from __future__ import annotations

import pytest

from skillpack_store import Repository
from tests.store.remote_contents import fill


@pytest.fixture
def repository(tmp_path):
    return Repository.create(tmp_path / "store")


@pytest.fixture
def library(repository):
    """A store with some of everything."""
    return fill(repository)
