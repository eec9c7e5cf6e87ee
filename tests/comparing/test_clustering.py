"""Groups of skills and near-duplicates, and what is remembered of skills."""

import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import skillpack
from skillpack.comparing.profiles import SIDE, Profile, Profiles, profile_of, similarity
from skillpack.errors import UsageError, WrongBaseError
from skillpack_store import Repository

NAMES = ["math", "code", "head", "again"]


@pytest.fixture
def store(library, tmp_path):
    """A copy of the library, with nothing remembered."""
    copy = shutil.copytree(library.store, tmp_path / "store")
    shutil.rmtree(copy / "cache", ignore_errors=True)
    return copy


@pytest.fixture
def profiles(library, store):
    """Function: names -> profiles, of the base's own skills."""

    def profiles(*names):
        return [profile_of(skillpack.show(name, store=store).skill, open_base(library)) for name in names]

    return profiles


def open_base(library):
    return skillpack.open_checkpoint(library.base)


def test_groups_and_duplicates(library, store):
    found = skillpack.cluster(NAMES, base=library.base, store=store)
    assert [group.names for group in found.groups] == [("again", "math"), ("code",), ("head",)] or [
        group.names for group in found.groups
    ] == [("again", "math"), ("code", "head")]
    assert found.groups[0].cosine > 0.9
    assert [(pair.first, pair.second) for pair in found.duplicates] == [("math", "again")]
    assert found.left_out == {}
    assert found.names == tuple(NAMES)


def test_a_number_of_groups(library, store):
    found = skillpack.cluster(NAMES, groups=2, base=library.base, store=store)
    assert len(found.groups) == 2
    assert {"again", "math"} <= set(found.groups[0].names)
    assert len(skillpack.cluster(NAMES, groups=4, base=library.base, store=store).groups) == 4
    for wrong in (5, 100):
        with pytest.raises(UsageError, match="cannot make"):
            skillpack.cluster(NAMES, groups=wrong, base=library.base, store=store)


def test_skills_of_different_bases_are_apart(lossy, library, tmp_path):
    store = shutil.copytree(lossy, tmp_path / "store")
    tuned = skillpack.open_checkpoint(library.base)
    assert tuned.tensors
    from tests.comparing.conftest import MATRICES
    from tests.installing import models

    other = models.moved(models.base_tensors(7), 8, *MATRICES)
    folder = models.write_model(tmp_path / "elsewhere", other, sharded=False)
    skillpack.pack(library.other, folder, "elsewhere", quality=0.95, store=store)
    found = skillpack.cluster(store=store, threshold=-1)
    assert [group.names for group in found.groups] == [("code", "math"), ("elsewhere",)]
    assert found.cosine[found.names.index("math")][found.names.index("elsewhere")] is None
    with pytest.raises(UsageError, match="2 bases"):
        skillpack.cluster(store=store, groups=1)


def test_what_is_not_known_is_in_no_group(library, store):
    found = skillpack.cluster(["math", "code"], store=store)
    assert found.groups == ()
    assert set(found.left_out) == {"math", "code"}
    assert found.cosine == ((None, None), (None, None))
    # Once the base is there, it is looked at again.
    assert skillpack.cluster(["math", "code"], base=library.base, store=store).left_out == {}
    # And what was found out then is still known without it.
    assert skillpack.cluster(["math", "code"], store=store).left_out == {}


def test_an_empty_library(tmp_path):
    Repository.open_or_create(tmp_path / "store")
    found = skillpack.cluster(store=tmp_path / "store")
    assert (found.names, found.groups, found.duplicates) == ((), (), ())


def test_wrong_inputs(library, store):
    with pytest.raises(UsageError, match="no cosine"):
        skillpack.cluster(threshold=1.5, store=store)
    with pytest.raises(WrongBaseError):
        skillpack.cluster(["math"], base=library.other, store=store)


def test_a_skill_is_decoded_once(library, store, monkeypatch):
    first = skillpack.cluster(NAMES, base=library.base, store=store)
    files = sorted((store / "cache" / "profiles").iterdir())
    assert len(files) == len(NAMES)
    monkeypatch.setattr(skillpack.Skill, "decode", None)
    monkeypatch.setattr(skillpack.Skill, "factors", None)
    assert skillpack.cluster(NAMES, base=library.base, store=store) == first


@pytest.mark.parametrize("damage", [b"", b"skillpack profile 1 0\nx", None])
def test_a_damaged_profile_is_made_again(library, store, damage):
    first = skillpack.cluster(NAMES, base=library.base, store=store)
    for path in (store / "cache" / "profiles").iterdir():
        content = path.read_bytes()
        path.write_bytes(content[:-4] if damage is None else damage)
    assert skillpack.cluster(NAMES, base=library.base, store=store) == first
    assert skillpack.fsck(store=store).findings == []


def test_profiles_of_skills_that_are_gone_are_dropped(library, store):
    skillpack.cluster(NAMES, base=library.base, store=store)
    skillpack.delete("again", store=store)
    folder = store / "cache" / "profiles"
    (folder / ("0" * 64)).write_bytes(b"of a skill that was here once")
    skillpack.cluster(["math"], base=library.base, store=store)
    # One that is only deleted may come back.
    assert len(list(folder.iterdir())) == len(NAMES)


def test_a_folder_that_cannot_be_written_does_no_harm(library, store):
    (store / "cache").mkdir(exist_ok=True)
    (store / "cache" / "profiles").write_text("no folder")
    assert skillpack.cluster(NAMES, base=library.base, store=store).left_out == {}


def test_estimates_are_close(library, profiles):
    exact = skillpack.compare(NAMES, base=library.base, store=library.store).cosine
    found = profiles(*NAMES)
    for row, one in enumerate(found):
        for column, other in enumerate(found):
            assert similarity(one, other) == pytest.approx(exact[row][column], abs=0.15)


def test_the_error_of_estimates_is_that_of_random_projections():
    """Over many names, which decide about the signs, estimates are unbiased, and off by about 1 / SIDE at most."""
    from skillpack.comparing.changes import Change
    from skillpack.comparing.profiles import _sketch

    random = np.random.default_rng(0)
    first, second = (random.normal(size=(60, 40)).astype(np.float32) for _ in range(2))
    second += 0.3 * first
    exact = float((first * second).sum())
    scale = float(np.linalg.norm(first) * np.linalg.norm(second))
    one, other = Change.of_dense(first), Change.of_dense(second)
    errors = [
        (float((_sketch(str(name), one) * _sketch(str(name), other)).sum()) - exact) / scale for name in range(200)
    ]
    assert abs(np.mean(errors)) < 4 * np.std(errors) / np.sqrt(200)
    assert np.std(errors) < 1.5 / SIDE


def test_a_profile_survives_its_file(profiles):
    (profile,) = profiles("math")
    again = Profile.load(profile.dump())
    assert (again.energies, again.left_out) == (profile.energies, profile.left_out)
    assert np.array_equal(again.sketch, profile.sketch)
    assert again.energy == pytest.approx(sum(profile.energies.values()))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_damage_is_noticed(profiles_once, data):
    content = bytearray(profiles_once)
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises((ValueError, TypeError, KeyError, AttributeError)):
        Profile.load(bytes(content))


@pytest.fixture(scope="module")
def profiles_once():
    return Profile({"a": 1.0}, np.ones((1, SIDE * SIDE), np.float32), {}).dump()


def test_known_without_decoding(library, store):
    repository = Repository.open(store)
    digest = skillpack.show("math", store=store).skill.digest
    assert Profiles(repository).known(digest) is None
    skillpack.cluster(["math"], base=library.base, store=store)
    assert Profiles(repository).known(digest) is not None
