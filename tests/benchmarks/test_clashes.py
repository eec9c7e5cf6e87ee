"""The figures of `benchmarks.clashes` bear out the limits of the verdicts."""

import pytest

from benchmarks.results import load
from skillpack.comparing.measures import Figures
from skillpack.comparing.verdicts import judge

PAIRS = load("clashes")["figures"]["pairs"]


@pytest.mark.parametrize("pair", PAIRS, ids=[" ".join(pair["skills"]) for pair in PAIRS])
def test_what_is_left_of_a_sum(pair):
    figures = Figures(pair["cosine"], pair["conflict"], pair["weighted_conflict"], *pair["overlap"], 0.01)
    kind = judge(figures, (1.0, pair["norm_ratio"]), ("first", "second")).kind
    assert kind == pair["verdict"]
    least, most = sorted(pair["kept"])
    if kind == "related":
        assert least > 0.95
    if kind == "drowned":
        assert least < 0.75
        assert most > 0.99
