"""Merged models are what an install writes, and nothing manages them."""

from __future__ import annotations

import pytest

import skillpack
from skillpack.errors import UsageError, WrongBaseError
from tests.interop.conftest import changed, outputs
from tests.interop.conftest import opened as opened_model
from tests.live.models import llama


@pytest.fixture
def two(library, tiny):
    for seed, name in enumerate(("math", "code")):
        library.skill(tiny, changed(tiny, library.room / name, seed=seed), name, quality=0.9)
    return library


def files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".skillpack" not in path.parts
    }


def test_the_files_of_an_install_and_no_more(two, tiny):
    skills = ["math", "code=0.5"]
    done = skillpack.export_merged(skills, two.room / "merged", tiny, store=two.store)
    skillpack.install(skills, tiny, output=two.room / "installed", store=two.store)
    assert files(two.room / "merged") == files(two.room / "installed")
    assert not (two.room / "merged" / ".skillpack").exists()
    assert not skillpack.status(two.room / "merged").managed
    assert done.skills == (("math@1", 1.0), ("code@1", 0.5))
    assert done.written == ("model.safetensors",)
    assert done.nbytes == sum(map(len, files(two.room / "merged").values()))
    assert outputs(opened_model(two.room / "merged")).isfinite().all()


def test_what_is_installed_on_the_source_is_in_it(two, tiny):
    skillpack.install("math", tiny, output=two.room / "with-math", store=two.store)
    skillpack.export_merged("code", two.room / "merged", two.room / "with-math", store=two.store)
    skillpack.install(["math", "code"], tiny, output=two.room / "both", store=two.store)
    assert files(two.room / "merged") == files(two.room / "both")


def test_wrong_places_and_bases_are_refused(two, tiny):
    with pytest.raises(UsageError, match="within"):
        skillpack.export_merged("math", tiny / "merged", tiny, store=two.store)
    with pytest.raises(UsageError, match="not an empty folder"):
        skillpack.export_merged("math", two.room, tiny, store=two.store)
    other = llama(two.room / "other", seed=9)
    with pytest.raises(WrongBaseError):
        skillpack.export_merged("math", two.room / "merged", other, store=two.store)
    assert not [path for path in two.room.iterdir() if "merged" in path.name]
