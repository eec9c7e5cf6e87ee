from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

import skillpack
from recipes.finetune import FRENCH_NUMBERS_SHORT, SPANISH_NUMBERS_SHORT, fine_tune
from recipes.models import smollm2


@pytest.fixture
def room():
    """A folder for models: too large to be kept after the test, or for memory, where `make test` puts other files."""
    with tempfile.TemporaryDirectory(prefix="skillpack-test-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def smol(tmp_path_factory):
    """SmolLM2, two fine-tunes of it, and their skills in one store; not to be changed."""
    store = tmp_path_factory.mktemp("smollm2") / "store"
    base, spanish, french = smollm2(), fine_tune(SPANISH_NUMBERS_SHORT), fine_tune(FRENCH_NUMBERS_SHORT)
    skillpack.pack(base, spanish, "spanish", size=4_000_000, store=store)
    skillpack.pack(base, french, "french", store=store)
    yield SimpleNamespace(base=base, spanish=spanish, french=french, store=store)
    shutil.rmtree(store)


@pytest.fixture(scope="session")
def contents():
    """Function: relative path -> digest, of every file of a model folder but SkillPack's own."""

    def contents(folder):
        return {
            str(path.relative_to(folder)): _digest(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.relative_to(folder).parts[0] != ".skillpack"
        }

    return contents


def _digest(path):
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()
