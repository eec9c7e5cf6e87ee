"""What a folder of a learner says of its router, also where an older version wrote it."""

from __future__ import annotations

import json

import pytest

from skillpack.errors import UsageError
from skillpack.learning.report import LearnedTask
from skillpack.learning.state import State, read_state, write_state

BASE = "sha256:base"
TASKS = [LearnedTask(name, 1, f"sha256:{name}", 9, 0.1, "exact", 4, 0.0, 1.0, "key") for name in "abc"]
SQUARE = [[0.5] * 3] * 3


@pytest.mark.parametrize("router", [None, "prototype"])
def test_a_folder_keeps_its_router(tmp_path, router):
    assert read_state(tmp_path, BASE, router) == State(BASE, router=router)
    state = State(BASE, TASKS, SQUARE, SQUARE if router else [], [1.0] * 3 if router else [], router)
    write_state(tmp_path, state)
    assert read_state(tmp_path, BASE, router) == state
    for other in {None, "prototype", "linear"} - {router}:
        with pytest.raises(UsageError, match="were measured with"):
            read_state(tmp_path, BASE, other)


def old(folder, routed):
    """A folder as versions wrote it that kept no router."""
    write_state(folder, State(BASE, TASKS, SQUARE, routed, [1.0] * 3 if routed else []))
    document = json.loads((folder / "progress.json").read_text())
    del document["router"]
    (folder / "progress.json").write_text(json.dumps(document))


@pytest.mark.parametrize(
    "routed", [[], [[0.1, 0.2, 0.9]], [[0.1, None], [0.2, 0.9]]], ids=["never", "late", "not to the end"]
)
def test_old_folders_that_were_not_routed_throughout(tmp_path, routed):
    old(tmp_path, routed)
    assert read_state(tmp_path, BASE, None) == State(BASE, TASKS, SQUARE)
    with pytest.raises(UsageError, match="with no router"):
        read_state(tmp_path, BASE, "prototype")


def test_old_folders_that_were_routed(tmp_path):
    old(tmp_path, SQUARE)
    assert read_state(tmp_path, BASE, "linear") == State(BASE, TASKS, SQUARE, SQUARE, [1.0] * 3, "linear")
    with pytest.raises(UsageError, match="with a router") as refused:
        read_state(tmp_path, BASE, None)
    assert "--route METHOD" in refused.value.hint
