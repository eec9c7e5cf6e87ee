from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skillpack_store import Descriptor, canonical_json, digest_of, parse_digest, parse_json

DIGEST = "sha256:" + "ab" * 32
TYPE = "application/vnd.example+json"

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=10,
)


@given(values)
def test_canonical_json_comes_back_and_is_stable(value):
    data = canonical_json(value)
    assert parse_json(data) == value
    assert canonical_json(parse_json(data)) == data
    assert json.loads(data) == value


def test_canonical_json_does_not_depend_on_the_order_of_keys():
    assert canonical_json({"b": 1, "a": {"d": 2, "c": 3}}) == canonical_json({"a": {"c": 3, "d": 2}, "b": 1})


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], {1: "a"}, {"a": {None: 1}}, "\ud800"])
def test_canonical_json_refuses_what_has_no_single_form(value):
    with pytest.raises(ValueError, match=r"."):
        canonical_json(value)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"a":1,"a":1}', "twice"),
        (b'{"x":{"a":1,"\\u0061":2}}', "twice"),
        (b"NaN", "NaN"),
        (b"[-Infinity]", "Infinity"),
        (b"1e999", "large"),
        (b"1" * 41, "long"),
        (b"[" * 100_000, "deep"),
        (b"[" * 40 + b"]" * 40, "deep"),
        (b'{"a":' * 40 + b"1" + b"}" * 40, "deep"),
        (b'"\\ud800"', "surrogates"),
        (b"\xff", "decode"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b"{} {}", "Extra data"),
        (b"", "Expecting value"),
    ],
)
def test_parse_json_refuses(data, reason):
    with pytest.raises(ValueError, match=reason):
        parse_json(data)


def test_parse_json_refuses_a_document_over_the_limit():
    assert parse_json(b"[1,2]", limit=5) == [1, 2]
    with pytest.raises(ValueError, match="5 bytes, more than the 4"):
        parse_json(b"[1,2]", limit=4)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256:",
        DIGEST.upper(),
        "sha256:" + "AB" * 32,
        DIGEST[:-1],
        DIGEST + "a",
        DIGEST + "\n",
        " " + DIGEST,
        "sha512:" + "ab" * 64,
        "sha256:" + "../" * 21 + "a",
        "sha256:" + "٣" * 64,
        None,
        5,
    ],
)
def test_parse_digest_refuses(text):
    with pytest.raises(ValueError, match="not a digest"):
        parse_digest(text)


def test_descriptor_is_an_oci_descriptor():
    full = Descriptor(DIGEST, 7, TYPE, "application/x", {"k": "v"})
    assert full.to_json() == {
        "mediaType": TYPE,
        "digest": DIGEST,
        "size": 7,
        "artifactType": "application/x",
        "annotations": {"k": "v"},
    }
    assert Descriptor.from_json(full.to_json()) == full
    assert set(Descriptor(DIGEST, 7, TYPE).to_json()) == {"mediaType", "digest", "size"}
    assert len({full, Descriptor.from_json(full.to_json())}) == 1
    assert Descriptor.from_json({**full.to_json(), "platform": {"os": "linux"}}) == full


@pytest.mark.parametrize(
    "change",
    [
        {"size": -1},
        {"size": True},
        {"size": 1.0},
        {"size": "1"},
        {"size": 1 << 63},
        {"size": None},
        {"digest": "sha256:abc"},
        {"digest": None},
        {"mediaType": None},
        {"mediaType": "no slash"},
        {"artifactType": 5},
        {"annotations": {"a": 1}},
        {"annotations": []},
    ],
)
def test_descriptor_refuses(change):
    with pytest.raises(ValueError, match=r"."):
        Descriptor.from_json({"mediaType": TYPE, "digest": DIGEST, "size": 7, **change})


def test_digest_of_is_sha256():
    assert digest_of(b"") == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
