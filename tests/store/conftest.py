from __future__ import annotations

import pytest

from skillpack_store import Repository


@pytest.fixture
def repository(tmp_path):
    return Repository.create(tmp_path / "store")
