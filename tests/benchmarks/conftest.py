from __future__ import annotations

import pytest
import torch

from tests.benchmarks import models


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """Folders of a tiny base and of its fine-tune; not to be changed."""
    return models.write_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture
def random():
    return torch.Generator().manual_seed(7)
