from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skillpack_store import StoreError
from skillpack_store.remotes.oci.tags import commit_tag, ref_of, tag_of

HEX = "0123456789abcdef" * 4
OCI_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
NAMES = st.from_regex(r"[A-Za-z0-9]{1,6}(?:[._-][A-Za-z0-9]{1,6}){0,3}", fullmatch=True) | st.sampled_from(
    ["main", "tag", "branch", "main-tag", f"commit-{HEX}", f"sha256-{HEX}", "x" * 100]
)
REFS = st.builds("{}/{}".format, st.sampled_from(["heads", "tags"]), NAMES) | st.just(f"referrers/sha256-{HEX}")


@given(REFS)
def test_every_ref_has_a_tag_that_leads_back(ref):
    try:
        tag = tag_of(ref)
    except StoreError:
        return  # Not a name that a ref can have.
    assert OCI_TAG.fullmatch(tag)
    assert ref_of(tag) == ref
    assert tag != commit_tag(f"sha256:{HEX}")


@given(st.lists(REFS, unique=True, min_size=2, max_size=2))
def test_no_two_refs_share_a_tag(refs):
    try:
        first, second = map(tag_of, refs)
    except StoreError:
        return
    assert first != second


@given(st.from_regex(OCI_TAG, fullmatch=True) | st.sampled_from(["main--branch", "v1--tag", "main--tag", "HEAD", "7"]))
def test_a_tag_leads_to_a_ref_that_has_it_or_to_none(tag):
    ref = ref_of(tag)
    assert ref is None or tag_of(ref) == tag


def test_the_table():
    for ref, tag in {
        "heads/main": "main",
        "heads/dev": "dev--branch",
        "tags/v1.0": "v1.0",
        "tags/main": "main--tag",
        f"tags/commit-{HEX}": f"commit-{HEX}--tag",
        f"tags/sha256-{HEX}": f"sha256-{HEX}--tag",
        f"heads/sha256-{HEX}": f"sha256-{HEX}--branch",
        f"referrers/sha256-{HEX}": f"sha256-{HEX}",
    }.items():
        assert (tag_of(ref), ref_of(tag)) == (tag, ref)
    assert ref_of(commit_tag(f"sha256:{HEX}")) is None
    for foreign in ("main--branch", "v1--tag", "latest_", "7", "HEAD", "--branch", "--tag", f"sha256-{HEX}.sig--x"):
        assert ref_of(foreign) is None


@pytest.mark.parametrize("ref", ["main", "heads/", "heads/../x", "other/x", "referrers/x", "tags/7", ""])
def test_what_is_no_ref(ref):
    with pytest.raises(StoreError):
        tag_of(ref)
