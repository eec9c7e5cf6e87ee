from __future__ import annotations

from types import SimpleNamespace

import pytest

import skillpack
from tests.packing.models import base_values, tuned_values, write


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """A base and three fine-tunes of it in bf16, with their skills in one store; not to be changed."""
    folder = tmp_path_factory.mktemp("compose")
    base = base_values()
    write(folder / "base", base, config={"layers": 2})
    for at, name in enumerate(("ada", "bob", "cat")):
        write(folder / name, tuned_values(base, seed=100 + 100 * at), config={"layers": 2, name: at})
        skillpack.pack(folder / "base", folder / name, name, size=30_000, store=folder / "store")
    return SimpleNamespace(folder=folder, base=folder / "base", store=folder / "store")


@pytest.fixture
def compose(library, tmp_path):
    """Function: compose skills of the library into a store of its own."""
    import shutil

    store = shutil.copytree(library.store, tmp_path / "store")

    def compose(*addresses, **options):
        options = {"base": library.base, "store": store, **options}
        return skillpack.compose(list(addresses), options.pop("name", "all"), **options)

    compose.store = store
    return compose
