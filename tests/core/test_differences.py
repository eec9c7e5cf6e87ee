"""What `diff` says of two versions of a skill, against figures computed from the models themselves."""

import numpy as np
import pytest

import skillpack
from skillpack.checkpoint import open_checkpoint
from skillpack.errors import NotFoundError, WrongBaseError
from tests.installing import models

CHANGED = ("layers.0.up.weight", "layers.1.norm.weight", "embed.weight")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """A base, three fine-tunes, and a store: code, then math 1 and 2 bit for bit, then math 3 approximated."""
    root = tmp_path_factory.mktemp("differences")
    base = models.base_tensors()
    folder = models.write_model(root / "base", base)
    tuned = [models.moved(base, 1, *CHANGED), models.moved(base, 2, *CHANGED[:2]), models.moved(base, 3, *CHANGED[:2])]
    names = ("code", "math", "math", "math")
    for name, tensors, exact in zip(names, [tuned[0], *tuned], (True, True, True, False), strict=True):
        models.make_skill(root / "store", folder, tensors, name, exact=exact)
    return root, folder, base, tuned


def diff(library, *revisions, **options):
    return skillpack.diff(*revisions, store=library[0] / "store", **options)


def deltas(library, index, name):
    return (library[3][index][name].float32() - library[2][name].float32()).astype(np.float64).ravel()


def figures(first, second):
    norms = np.linalg.norm(first) * np.linalg.norm(second)
    return np.linalg.norm(second - first) / np.linalg.norm(first), first @ second / norms


def test_added_removed_and_changed(library):
    found = diff(library, "main~2", "main")
    assert [(skill.name, skill.kind) for skill in found.skills] == [("math", "changed")]
    (math,) = found.skills
    assert (math.before.version, math.after.version) == (1, 3)
    assert math.after.size == skillpack.show("math", store=library[0] / "store").summary.size
    assert (math.tensors, math.moved) == ((), None)
    assert [(skill.name, skill.kind) for skill in diff(library, "main~3").skills] == [("math", "added")]
    assert [(skill.name, skill.kind) for skill in diff(library, "main", "main~3").skills] == [("math", "removed")]
    assert diff(library, "main", "main").skills == ()


def test_tensors_of_exact_versions_are_compared_with_the_base(library):
    (math,) = diff(library, "main~2", "main~1", tensors=True, base=library[1]).skills
    assert [item.tensor for item in math.tensors] == sorted(CHANGED)
    by_name = {item.tensor: item for item in math.tensors}
    for name in CHANGED[:2]:
        moved, overlap = figures(deltas(library, 0, name), deltas(library, 1, name))
        assert by_name[name].moved == pytest.approx(moved, rel=1e-9)
        assert by_name[name].overlap == pytest.approx(overlap, rel=1e-9)
        assert by_name[name].codecs_before == by_name[name].codecs_after == ("exact",)
    gone = by_name["embed.weight"]
    assert (gone.moved, gone.overlap, gone.bytes_after, gone.codecs_after) == (1.0, None, None, ())
    older = np.concatenate([deltas(library, 0, name) for name in CHANGED])
    newer = np.concatenate([deltas(library, 1, name) for name in CHANGED])
    assert (math.moved, math.overlap) == pytest.approx(figures(older, newer), rel=1e-9)
    # The other way round there is no older delta.
    (math,) = diff(library, "main~1", "main~2", tensors=True, base=library[1]).skills
    assert {item.tensor: item.moved for item in math.tensors}["embed.weight"] is None


def test_approximated_versions_need_a_base_only_for_what_is_exact(library, tmp_path):
    (math,) = diff(library, "main~1", "main", tensors=True).skills
    by_name = {item.tensor: item for item in math.tensors}
    assert "without the base" in by_name["layers.0.up.weight"].reason
    assert by_name["layers.0.up.weight"].moved is None
    (math,) = diff(library, "main~1", "main", tensors=True, base=library[1]).skills
    item = {item.tensor: item for item in math.tensors}["layers.0.up.weight"]
    assert (item.reason, "exact" in item.codecs_after) == ("", False)
    # What an install makes of the approximated one, to the precision of BF16.
    skillpack.install("math", library[1], output=tmp_path / "model", store=library[0] / "store")
    written = open_checkpoint(tmp_path / "model").read(item.tensor).float32().astype(np.float64).ravel()
    newer = written - library[2][item.tensor].float32().astype(np.float64).ravel()
    moved, overlap = figures(deltas(library, 1, item.tensor), newer)
    assert item.moved == pytest.approx(moved, rel=0.02)
    assert item.overlap == pytest.approx(overlap, abs=0.02)


def test_another_base_is_refused(library, tmp_path):
    other = models.write_model(tmp_path / "other", models.base_tensors(7))
    with pytest.raises(WrongBaseError):
        diff(library, "main~2", "main~1", tensors=True, base=other)


def test_one_skill(library):
    assert diff(library, "main~3", skills=["code"]).skills == ()
    assert len(diff(library, "main~3", skills="math").skills) == 1
    with pytest.raises(NotFoundError) as caught:
        diff(library, "main~3", skills=["maht"])
    assert "Did you mean math?" in caught.value.hint


def test_grown_rows_and_new_tensors_are_compared(tmp_path):
    base = models.base_tensors()
    folder = models.write_model(tmp_path / "base", base)
    random = np.random.default_rng(5)
    tuned = []
    for _ in range(2):
        tensors = models.moved(base, 1, "layers.0.up.weight")
        rows = np.concatenate([base["embed.weight"].float32(), random.normal(size=(2, 8)).astype(np.float32)])
        head = random.normal(size=(3, 8)).astype(np.float32)
        tensors |= {
            "embed.weight": models.Tensor.from_float32(rows, "BF16"),
            "score.weight": models.Tensor.from_float32(head, "F32"),
            "steps": models.Tensor.of(random.integers(0, 9, 4)),
        }
        tuned.append(tensors)
        models.make_skill(tmp_path / "store", folder, tensors, "grown", config={"vocab_size": 14})
    (skill,) = skillpack.diff("main~1", tensors=True, base=folder, store=tmp_path / "store").skills
    by_name = {item.tensor: item for item in skill.tensors}
    heads = [tensors["score.weight"].float32().astype(np.float64).ravel() for tensors in tuned]
    assert by_name["score.weight"].moved == pytest.approx(figures(*heads)[0], rel=1e-9)
    grown = [tensors["embed.weight"].float32()[12:].astype(np.float64).ravel() for tensors in tuned]
    assert by_name["embed.weight"].moved == pytest.approx(figures(*grown)[0], rel=1e-9)
    assert "floating-point" in by_name["steps"].reason
    assert by_name["layers.0.up.weight"].moved == 0
    assert by_name["layers.0.up.weight"].overlap == pytest.approx(1)
