from __future__ import annotations

import pytest

from skillpack_store import Address, StoreError, check_skill_name, parse_address

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("math", Address("math")),
        ("math-7b.v2_x", Address("math-7b.v2_x")),
        ("math@3", Address("math", version=3)),
        ("math@v1.0", Address("math", tag="v1.0")),
        ("math@3a", Address("math", tag="3a")),
        ("math@sha256", Address("math", tag="sha256")),
        (f"math@sha256:{HEX}", Address("math", digest=f"sha256:{HEX}")),
        (f"math@sha256:{HEX[:8]}", Address("math", digest=f"sha256:{HEX[:8]}")),
    ],
)
def test_addresses(text, address):
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@",
        "@3",
        "math@",
        "math@0",
        "math@03",
        "math@9999999999",
        "math@-1",
        "math@٣",
        "math@a@b",
        "math@../x",
        "math@sha256:",
        f"math@sha256:{HEX[:7]}",
        f"math@sha256:{HEX}0",
        f"math@sha256:{HEX.upper()}",
        "math@sha512:abc",
        "Math",
        "math ",
        "math/x",
        "mäth",
        "3",
        "math\n",
        "math@v1\n",
        "math=0.5",
    ],
)
def test_what_is_not_an_address(text):
    with pytest.raises(StoreError) as caught:
        parse_address(text)
    assert caught.value.hint


@pytest.mark.parametrize("name", ["a", "a1", "1a", "a.b-c_d", "x" * 100])
def test_names_that_skills_can_have(name):
    assert check_skill_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "A", "1", "123", "-a", "a-", "a--b", "a..b", ".", "..", "a/b", "x" * 101, "é", "a\0"]
)
def test_names_that_skills_cannot_have(name):
    with pytest.raises(StoreError, match="cannot be the name of a skill"):
        check_skill_name(name)
