from __future__ import annotations

import pytest

from skillpack_store import Address, NotFoundError, StoreError
from tests.store.skills import WHO, commit_skill


@pytest.fixture
def library(repository):
    """math: one, two, one again, three; code in between."""
    for name, text in (("math", "one"), ("math", "two"), ("code", "c"), ("math", "one"), ("math", "three")):
        commit_skill(repository, name, text)
    return repository


def test_a_name_is_the_newest(library):
    found = library.resolve("math")
    assert (found.name, found.version) == ("math", 3)
    assert found.descriptor == library.skills()["math"]
    assert found.commit == library.head()


def test_versions_are_distinct_digests_in_order(library):
    history = list(library.history())[::-1]
    assert library.resolve("math@1").commit == history[0]
    assert library.resolve("math@2").descriptor == history[1].skills["math"]
    assert library.resolve("math@3").descriptor == history[4].skills["math"]
    assert library.resolve(Address("code", version=1)).version == 1
    with pytest.raises(NotFoundError) as caught:
        library.resolve("math@4")
    assert "math@1 to math@3" in caught.value.hint


def test_a_skill_that_went_back_has_its_old_number(library):
    commit_skill(library, "math", "two")
    assert library.resolve("math").version == 2


def test_tags(library):
    second = list(library.history())[-2]
    library.tag("release", second)
    found = library.resolve("math@release")
    assert (found.version, found.commit) == (2, second)
    with pytest.raises(NotFoundError) as caught:
        library.resolve("math@relaese")
    assert "Did you mean release?" in caught.value.hint
    with pytest.raises(NotFoundError, match="no skill 'code' in the commit with tag release"):
        library.resolve("code@release")


def test_a_tag_on_another_branch_has_no_number(library):
    library.tag("other", commit_skill(library, "math", "elsewhere", branch="try"))
    assert library.resolve("math@other").version is None
    assert library.resolve("math@other", branch="try").version == 1


def test_digests(library):
    first = library.resolve("math@1")
    for length in (8, 12, 64):
        assert library.resolve(f"math@{first.descriptor.digest[: 7 + length]}").version == 1
    with pytest.raises(NotFoundError) as caught:
        library.resolve("math@sha256:00000000")
    assert "math@3 is sha256:" in caught.value.hint
    with pytest.raises(NotFoundError):
        library.resolve(f"code@{first.descriptor.digest}")


def test_a_prefix_of_two_digests_is_refused(library):
    from skillpack_store.resolving import _by_digest, _versions

    with pytest.raises(StoreError, match="3 versions"):
        _by_digest(_versions(library, "math", "main")[1], "math", "sha256:", "main")


def test_a_deleted_skill_can_still_be_had(library):
    library.delete("math", **WHO)
    with pytest.raises(NotFoundError, match="was deleted") as caught:
        library.resolve("math")
    assert "math@3" in caught.value.hint
    assert library.resolve("math@3").version == 3


def test_unknown_names_are_answered_with_known_ones(repository, library):
    with pytest.raises(NotFoundError) as caught:
        library.resolve("maths")
    assert caught.value.hint == "Did you mean math? Every skill there is: code, math."
    with pytest.raises(NotFoundError, match="no branch 'man'") as caught:
        library.resolve("math", branch="man")
    assert "Did you mean main?" in caught.value.hint


def test_an_empty_store_says_so(repository):
    with pytest.raises(NotFoundError) as caught:
        repository.resolve("math")
    assert caught.value.hint == "There is no branch yet."
