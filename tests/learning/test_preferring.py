"""Preferences are a convex combination, or they are refused."""

from __future__ import annotations

import pytest

from skillpack.errors import UsageError
from skillpack.learning.preferring import check_preferences, parse_preferences


def test_what_people_type():
    assert parse_preferences("math=0.7,code=0.3") == {"math": 0.7, "code": 0.3}
    assert parse_preferences(" math@3 = 1 ") == {"math@3": 1.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("math", "'math' is no preference"),
        ("math=x", "no preference"),
        ("math=nan", "no preference"),
        ("math=0.5,math=0.5", "math has two preferences"),
        ("math=1.5,code=-0.5", "that of code is not"),
        ("math=inf,code=0", "that of math is not"),
    ],
)
def test_what_is_refused(text, message):
    with pytest.raises(UsageError, match=message):
        parse_preferences(text)


def test_what_does_not_add_up_is_told_in_the_same_relation():
    with pytest.raises(UsageError, match=r"add up to 0\.8, not to 1") as error:
        check_preferences({"math": 0.6, "code": 0.2})
    assert error.value.hint == "In the same relation: math=0.75,code=0.25."
    with pytest.raises(UsageError, match="add up to 0"):
        check_preferences({})
