"""Two stores and models of them in memory go through the same random steps and must say the same after each.

Other operations join as further rules of the machines in ``library_machine`` (one library) and ``sharing_machine``
(upkeep, and transfers between two). ``SKILLPACK_STEPS`` sets how many steps a run takes (``make soak``: 100,000).
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.store.library_machine import taken
from tests.store.sharing_machine import SharingMachine

STEPS = int(os.environ.get("SKILLPACK_STEPS", "2000"))
RUN = 50  # steps on one pair of stores

OFTEN = {
    *{"merge done", "restore done", "revert done", "undelete skill done", "undelete ref done", "bases 2"},
    *{"collected", "trash emptied", "collection undone", "pushed", "push refused", "push forced", "pulled"},
    *{"pull diverged", "pull forced", "merged what was fetched", "attachments moved", "imported", "cloned", "checked"},
}
SELDOM = {"log pruned", "collected nothing dry"}


def test_the_stores_do_what_the_models_do():
    taken.clear()
    options = settings(
        max_examples=max(1, STEPS // RUN),
        stateful_step_count=RUN,
        deadline=None,
        database=None,
        # To shorten a failing run takes long; its steps are printed as they were.
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    while taken["steps"] < STEPS:
        run_state_machine_as_test(SharingMachine, settings=options)
    assert [name for name in sorted(OFTEN) if taken[name] < STEPS // 500] == [], taken
    assert [name for name in sorted(SELDOM) if not taken[name]] == [], taken
