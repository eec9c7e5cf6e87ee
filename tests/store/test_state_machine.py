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

WANTED = {
    *{"merge done", "restore done", "revert done", "undelete skill done", "undelete ref done", "bases 2"},
    *{"collected", "collected nothing dry", "trash emptied", "collection undone", "log pruned", "checked"},
    *{"pushed", "push refused", "push forced", "pulled", "pull diverged", "pull forced", "merged what was fetched"},
    *{"attachments moved", "imported", "cloned"},
}


def test_the_stores_do_what_the_models_do():
    taken.clear()
    options = settings(
        max_examples=max(1, min(20, STEPS // RUN)),
        stateful_step_count=RUN,
        deadline=None,
        database=None,
        # Where CI is set, Hypothesis would draw the same steps again in every turn of the loop below.
        derandomize=False,
        # To shorten a failing run takes long; its steps are printed as they were.
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    # Chance may leave out what is rare: a few more runs then.
    while taken["steps"] < STEPS or (missing() and taken["steps"] < 4 * STEPS):
        run_state_machine_as_test(SharingMachine, settings=options)
    assert missing() == [], taken


def missing():
    """What should have happened more often."""
    return [name for name in sorted(WANTED) if taken[name] < max(1, STEPS // 1000)]
