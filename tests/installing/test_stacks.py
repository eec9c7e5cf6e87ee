"""Whatever was done before: the same set of skills gives the same bytes, and the empty set the base's."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skillpack.errors import SkillPackError
from skillpack.installing import install, remove, status
from tests.installing.models import model_files

NAMES = ["math", "code", "prose", "chat"]
WEIGHTS = [1.0, 0.7, -0.5, 2.0]
PUT = st.tuples(
    st.just("put"), st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True), st.sampled_from(WEIGHTS)
)
TAKE = st.tuples(st.just("take"), st.lists(st.sampled_from(NAMES), min_size=1, max_size=2, unique=True), st.just(1.0))


@pytest.fixture(scope="module")
def results():
    """The set of skills and weights -> the bytes that it gave the first time."""
    return {}


def put(shelf, folder, weights):
    wanted = [shelf.skills[name]._replace(weight=1.0 if name == "chat" else weight) for name, weight in weights.items()]
    install(wanted, folder)
    return {one.skill.name: one.weight for one in wanted}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.one_of(PUT, PUT, TAKE), min_size=1, max_size=6))
def test_any_order_of_installs_and_removals(shelf, results, steps):
    with tempfile.TemporaryDirectory() as scratch:
        folder = shutil.copytree(shelf.base, Path(scratch) / "model")
        expected = {}
        results.setdefault(frozenset(), model_files(folder))
        for action, names, weight in steps:
            if action == "put":
                with contextlib.suppress(SkillPackError):
                    expected.update(put(shelf, folder, dict.fromkeys(names, weight)))
            else:
                present = [name for name in names if name in expected]
                remove(present, folder) if present else None
                expected = {name: weight for name, weight in expected.items() if name not in present}
            assert {record.name: record.weight for record in status(folder).skills} == expected
            found = model_files(folder)
            assert results.setdefault(frozenset(expected.items()), found) == found
        if expected:
            remove(None, folder)
        assert model_files(folder) == results[frozenset()]
        assert not (folder / ".skillpack").exists()


def test_different_sets_give_different_bytes(shelf, tmp_path):
    found = []
    for number, weights in enumerate([{"math": 1.0}, {"math": 0.7}, {"math": 1.0, "code": 1.0}, {"prose": 1.0}]):
        folder = shutil.copytree(shelf.base, tmp_path / str(number))
        put(shelf, folder, weights)
        found.append(model_files(folder))
    assert all(found.count(files) == 1 for files in found)
