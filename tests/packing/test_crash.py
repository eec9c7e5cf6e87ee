"""A crash at any point of a whole pack leaves the library as it was or with the new skill in it."""

from __future__ import annotations

import pytest

import skillpack
from skillpack_store import Repository
from tests import crash
from tests.packing.models import base_values, tuned_values, write

BASE = base_values(width=16, blocks=1, vocabulary=40)


@pytest.mark.parametrize("first", [True, False])
def test_a_crash_while_a_fine_tune_is_packed(tmp_path, first):
    base = write(tmp_path / "base", BASE, "BF16")
    tuned = write(tmp_path / "tuned", tuned_values(BASE), "BF16")
    store = tmp_path / "store"
    old = {} if first else {"old": skillpack.pack(base, tuned, "old", exact=True, store=store).digest}
    store.mkdir(exist_ok=True)
    with crash.record(store) as recording:
        new = {**old, "new": skillpack.pack(base, tuned, "new", store=store).digest}
    reached, sample = [], 0

    def check(folder):
        nonlocal sample
        opened = (folder / "oci-layout").exists() or not first
        found = {name: skill.digest for name, skill in Repository.open(folder).skills().items()} if opened else {}
        assert found in (old, new)
        reached.append(found == new)
        if found:
            skillpack.verify(store=folder)
        sample += 1
        if sample % 9 == 0:
            assert skillpack.pack(base, tuned, "new", store=folder).digest == new["new"]
            skillpack.verify(store=folder)

    assert crash.check_every_crash(recording, check) > len(recording) // 3
    assert set(reached) == {True, False}
