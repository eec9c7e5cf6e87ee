"""Verdicts in plain words."""

import pytest

from skillpack.comparing.measures import Figures
from skillpack.comparing.verdicts import judge


def figures(cosine, conflict=0.5):
    return Figures(cosine, conflict, conflict, 0.1, 0.1, 0.05)


@pytest.mark.parametrize(
    ("found", "norms", "kind", "text"),
    [
        (figures(None, None), (0.0, 1.0), "nothing in common", "no weight in common"),
        (figures(0.0, None), (1.0, 1.0), "nothing in common", "as they are"),
        (figures(0.02), (1.0, 1.9), "apart", "no reason for a clash"),
        (figures(-0.02), (1.0, 1.0), "apart", "measure the sum"),
        (figures(0.3), (1.0, 1.0), "related", "in common"),
        (figures(0.95), (1.0, 9.0), "alike", "nearly the same"),
        (figures(-0.5), (1.0, 1.0), "opposed", "opposite"),
        (figures(0.02), (1.0, 2.5), "drowned", "2.5 times as long"),
        (figures(0.02), (1.0, 20.0), "drowned", "the change of code is 20.0 times as long"),
        (figures(0.05), (20.0, 1.0), "drowned", "may drown code: give math a smaller weight"),
        (figures(0.3), (20.0, 1.0), "related", "in common"),
    ],
)
def test_verdicts(found, norms, kind, text):
    verdict = judge(found, norms, ("math", "code"))
    assert verdict.kind == kind
    assert text in verdict.text
