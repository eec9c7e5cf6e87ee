"""From a delta to coded streams: goals are met, nothing is lost, and numbers are not made up."""

import math
from contextlib import closing, suppress
from dataclasses import replace

import numpy as np
import pytest

from skillpack.checkpoint import open_checkpoint
from skillpack.codecs.lowrank import LowRank
from skillpack.delta import find_delta
from skillpack.errors import NotFiniteError, UsageError
from skillpack.packing import planning
from skillpack.packing.packer import DEFAULT_QUALITY, Goal, Packer
from skillpack.tensors import Tensor
from tests.packing.models import EMBED, base_values, drift, normal, stored, tensor, tuned_values, write


@pytest.fixture
def packed(tmp_path):
    """Packs a pair of models given as mappings; returns what was packed, closed."""
    count = iter(range(1000))

    def run(base, tuned, progress=lambda *_: None, **goal):
        folder = tmp_path / str(next(count))
        write(folder / "base", base)
        write(folder / "tuned", tuned)
        delta = find_delta(open_checkpoint(folder / "base"), open_checkpoint(folder / "tuned"))
        result = Packer(delta, Goal(**goal), progress).pack()
        result.payload.close()
        return result

    return run


def entries(packed):
    return {entry.name: entry for entry in packed.manifest.tensors}


@pytest.mark.parametrize(
    ("goal", "reason"),
    [
        ({"exact": True, "size": 5}, "exclude"),
        ({"exact": True, "quality": 0.5}, "exclude"),
        ({"size": 5, "quality": 0.5}, "exclude"),
        ({"quality": 0.0}, "not between"),
        ({"quality": 1.0}, "not between"),
        ({"quality": -3.0}, "not between"),
        ({"quality": math.nan}, "not between"),
        ({"size": 0}, "not possible"),
        ({"size": -5}, "not possible"),
    ],
)
def test_senseless_goals_are_refused(goal, reason):
    with pytest.raises(UsageError, match=reason):
        Goal(**goal)


BASE = base_values()
TUNED = tuned_values(BASE)


def test_each_kind_of_tensor_gets_its_codec(packed):
    found = {name: entry.main.codec for name, entry in entries(packed(BASE, TUNED)).items()}
    for name in BASE:
        assert found[name] == ("lowrank" if BASE[name].ndim == 2 else "exact"), name
    exact = {entry.main.codec for entry in packed(BASE, TUNED, exact=True).manifest.tensors}
    assert exact == {"exact"}


def test_an_embedding_with_few_changed_rows_is_sparse(packed):
    base = {EMBED: normal(4000, 64), "model.layers.0.w.weight": normal(64, 64)}
    tuned = {EMBED: base[EMBED].copy(), "model.layers.0.w.weight": base["model.layers.0.w.weight"] + drift((64, 64), 1)}
    tuned[EMBED][::500] += normal(8, 64, scale=0.05)
    entry = entries(packed(base, tuned))[EMBED]
    assert entry.main.codec == "sparse"
    assert entry.nbytes < 1000
    assert entry.error < 0.5


def test_quality_goes_from_bad_to_good_and_from_small_to_large(packed):
    results = [packed(BASE, TUNED, quality=quality) for quality in (0.01, 0.5, 0.9, 0.99, 0.999)]
    sizes = [result.size for result in results]
    errors = [entries(result)["model.layers.0.q_proj.weight"].error for result in results]
    assert sizes == sorted(sizes)
    # Nothing at all is kept at first; what is kept a little later is unbiased, so its noise exceeds the change.
    assert errors[0] == 1.0
    assert errors[1:] == sorted(errors[1:], reverse=True)
    assert errors[-1] < 0.05
    assert packed(BASE, TUNED).size == packed(BASE, TUNED, quality=DEFAULT_QUALITY).size


def test_exact_is_larger_than_any_usual_quality(packed):
    assert packed(BASE, TUNED, exact=True).size > packed(BASE, TUNED, quality=0.95).size


@pytest.mark.parametrize("size", [3000, 5000, 10_000, 20_000, 40_000])
def test_a_size_is_met_and_never_exceeded(packed, size):
    found = packed(BASE, TUNED, size=size).size
    assert found <= size
    assert found >= 0.97 * size


def test_every_size_just_above_the_smallest_is_met_or_refused(packed):
    with pytest.raises(UsageError, match="not possible") as caught:
        packed(BASE, TUNED, size=10)
    least = int(caught.value.message.split(":")[1].split()[0].replace(",", ""))
    # Estimates leave out the padding of streams, so that a little above the least a refusal is right as well.
    for size in (least - 3, least + 1, least + 25):
        with suppress(UsageError):
            assert packed(BASE, TUNED, size=size).size <= size
    for size in (least + 110, least + 111):
        assert packed(BASE, TUNED, size=size).size <= size
    assert packed(BASE, TUNED, size=least + 200).size > least - 100


def test_an_exact_part_that_does_not_fit_is_refused(packed):
    new = {"classifier.weight": normal(100, 64)}
    with pytest.raises(UsageError, match="takes 9,"):
        packed(BASE, BASE | new, size=5000)
    with pytest.raises(UsageError, match="not possible"):
        packed(BASE, TUNED | new, size=5000)


def test_a_size_that_is_mostly_lossless_is_still_met(packed):
    new = {"classifier.weight": normal(400, 64)}
    least = packed(BASE, BASE | new).size
    size = int(1.07 * least)
    found = packed(BASE, TUNED | new, size=size).size
    assert 0.97 * size <= found <= size


def test_more_bytes_than_are_of_any_use(packed):
    result = packed(BASE, TUNED, size=50_000_000)
    assert result.size < 200_000
    assert max(entry.error for entry in result.manifest.tensors) < 1e-3


def test_a_quality_near_one_is_possible(packed):
    result = packed(BASE, TUNED, quality=1 - 1e-12)
    assert max(entry.error for entry in result.manifest.tensors) < 1e-3


def test_an_fp32_fine_tune_of_a_bf16_base(packed):
    base = stored(BASE)
    tuned = {
        name: tensor(found.float32() + drift(found.shape, at), "F32") for at, (name, found) in enumerate(base.items())
    }
    result = entries(packed(base, tuned, quality=0.99))
    assert {entry.dtype for entry in result.values()} == {"F32"}
    assert result["model.norm.weight"].main.codec == "sparse"
    assert result["model.norm.weight"].error < 0.05
    exact = packed(base, tuned, exact=True)
    assert {entry.main.codec for entry in exact.manifest.tensors} == {"exact"}


@pytest.mark.parametrize("goal", [{}, {"size": 8000}, {"quality": 0.99}])
def test_only_the_dtype_of_most_tensors_differs(packed, goal):
    base = stored(BASE)
    tuned = {name: tensor(found.float32(), "F32") for name, found in base.items()}
    changed = "model.layers.1.q_proj.weight"
    tuned[changed] = tensor(base[changed].float32() + drift((64, 64), 1), "F32")
    result = packed(base, tuned, **goal)
    assert entries(result)[changed].error < 0.9
    assert {entry.error for name, entry in entries(result).items() if name != changed} == {0}


@pytest.mark.parametrize("goal", [{}, {"size": 8000}, {"quality": 0.99}, {"exact": True}])
def test_only_the_dtype_differs(packed, goal):
    base = stored(BASE)
    result = packed(base, {name: tensor(found.float32(), "F32") for name, found in base.items()}, **goal)
    assert {entry.error for entry in result.manifest.tensors} == {0}
    assert result.size < 1800


@pytest.mark.parametrize("goal", [{}, {"size": 1500}, {"size": 100_000}, {"quality": 0.2}])
def test_only_fp32_vectors_changed(packed, goal):
    base = {"a.bias": normal(64), "b.bias": normal(32, seed=1), "w": normal(64, 64)}
    tuned = base | {
        name: base[name] + np.float32(0.01) * normal(*base[name].shape, seed=9) for name in ("a.bias", "b.bias")
    }
    result = packed(
        {name: tensor(found, "F32") for name, found in base.items()},
        {name: tensor(found, "F32") for name, found in tuned.items()},
        **goal,
    )
    assert [entry.main.codec for entry in result.manifest.tensors] == ["sparse", "sparse"]
    assert max(entry.error for entry in result.manifest.tensors) < 0.05
    assert result.size <= goal.get("size", 1500)


@pytest.mark.parametrize(
    "shape", [(), (1,), (0,), (0, 16), (1, 64), (64, 1), (3, 3), (8, 8), (4, 8, 3, 3), (2, 16, 16)]
)
@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32", "F64"])
def test_tensors_of_any_shape_and_dtype(packed, shape, dtype):
    base, tuned = normal(*shape), normal(*shape, seed=5)
    if dtype == "F64":
        before, after = Tensor.of(np.asarray(base, np.float64)), Tensor.of(np.asarray(tuned, np.float64))
    else:
        before, after = tensor(base, dtype), tensor(tuned, dtype)
    if 0 in shape:
        before = tensor(base, "F32" if dtype == "BF16" else "BF16")
    for goal in ({"exact": True}, {"quality": 0.9}):
        (entry,) = packed({"a.0.w": before}, {"a.0.w": after}, **goal).manifest.tensors
        assert (entry.shape, entry.dtype) == (shape, dtype)
        assert entry.error == 0 or "quality" in goal


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("goal", [{}, {"size": 20_000}])
def test_numbers_that_are_not_finite_are_refused_with_the_name(packed, value, goal):
    name = "model.layers.1.up_proj.weight"
    tuned = TUNED | {name: TUNED[name].copy()}
    tuned[name][3, 5] = value
    with pytest.raises(NotFiniteError, match=r"model\.layers\.1\.up_proj\.weight") as caught:
        packed(BASE, tuned, **goal)
    assert "--exact" in caught.value.hint
    packed(BASE, tuned, exact=True)


def test_progress_of_each_stage_rises_to_its_total(packed):
    seen = {}
    packed(BASE, TUNED, size=10_000, progress=lambda done, total, what: seen.setdefault(what, []).append((done, total)))
    assert list(seen) == ["analysing tensors", "counting symbols", "coding"]
    for reports in seen.values():
        assert reports[-1][0] == reports[-1][1] > 0


def test_an_estimate_is_off_by_no_more_than_the_padding_of_each_stream(tmp_path):
    write(tmp_path / "base", BASE)
    write(tmp_path / "tuned", TUNED)
    packer = Packer(find_delta(open_checkpoint(tmp_path / "base"), open_checkpoint(tmp_path / "tuned")), Goal())
    packed = packer.pack()
    packed.payload.close()
    step = packer._counted[0]
    assert abs(packer._estimated_size(step) - packed.size) < 16 * len(BASE)


def test_a_draft_is_the_pack_but_for_what_only_decoding_tells(tmp_path):
    write(tmp_path / "base", BASE)
    write(tmp_path / "tuned", TUNED)
    delta = find_delta(open_checkpoint(tmp_path / "base"), open_checkpoint(tmp_path / "tuned"))
    packer = Packer(delta, Goal(size=20_000))
    draft = packer.pack(checked=False)
    real = packer.coded_at(draft.step)
    with closing(draft.payload), closing(real.payload):
        found, expected = ([b"".join(layer) for layer in one.payload.layers()] for one in (draft, real))
    assert found == expected
    assert draft.size == pytest.approx(real.size, rel=0.02)
    for one, other in zip(draft.manifest.tensors, real.manifest.tensors, strict=True):
        assert replace(one, error=other.error, bound=other.bound) == other
        assert bool(one.error) == bool(other.error)


def test_approximated_tensors_have_a_bound_that_they_exceed(packed):
    bounds = []
    for quality in (0.9, 0.99, 0.999):
        result = packed(BASE, TUNED, quality=quality)
        for entry in result.manifest.tensors:
            assert (entry.bound is None) == (entry.error == 0), entry.name
            if entry.bound is not None:
                assert entry.bound <= entry.main.nbytes
                assert entry.bound == float(f"{entry.bound:.3g}")
        over = result.manifest.over_bound(result.size)
        rough = sum(entry.nbytes for entry in result.manifest.tensors if entry.error)
        assert over * result.manifest.bound > rough
        bounds.append(result.manifest.bound)
    assert bounds == sorted(bounds)
    assert packed(BASE, TUNED, exact=True).manifest.bound is None


def test_rows_of_a_grown_vocabulary_are_not_held_against_the_bound(packed):
    grown = np.concatenate([TUNED[EMBED], normal(7, 64, seed=50)])
    entry = entries(packed(BASE, TUNED | {EMBED: grown}))[EMBED]
    assert entry.bounded_bytes == entry.main.nbytes == entry.nbytes - entry.rows.nbytes


def test_a_pack_knows_its_error_over_all_that_it_approximates(packed):
    result = packed(BASE, TUNED, quality=0.99)
    energies = {name: float(np.square(TUNED[name] - BASE[name], dtype=float).sum()) for name in BASE}
    rough = {name: entry.error for name, entry in entries(result).items() if entry.error}
    missed = sum(rough[name] ** 2 * energies[name] for name in rough)
    assert result.error == pytest.approx(math.sqrt(missed / sum(energies[name] for name in rough)), rel=0.02)
    assert packed(BASE, TUNED, exact=True).error == 0


def test_columns_are_kept_as_far_down_as_was_asked_for(tmp_path, monkeypatch):
    name = "model.layers.0.q_proj.weight"
    tuned = TUNED | {name: TUNED[name] + normal(*TUNED[name].shape, scale=1e-3)}
    write(tmp_path / "base", BASE)
    write(tmp_path / "tuned", tuned)
    delta = find_delta(open_checkpoint(tmp_path / "base"), open_checkpoint(tmp_path / "tuned"))

    def manifest(packer, *keeps):
        for keep in keeps:
            packer.keep(keep)
            result = packer.pack()
            result.payload.close()
        return result.manifest

    usual = manifest(Packer(delta, Goal(quality=0.95)), None)
    reaching = Packer(delta, Goal(quality=0.95))
    reaching.reach(0.05)
    assert manifest(reaching, None) == usual
    farther = manifest(reaching, 0.05)
    columns = [
        sum(entry.main.parameters["columns"])
        for found in (usual, farther)
        for entry in found.tensors
        if entry.name == name
    ]
    assert columns[0] < columns[1]
    assert manifest(reaching, None) == usual
    monkeypatch.setattr(planning, "_LINEAR", LowRank(keep=0.05))
    assert manifest(Packer(delta, Goal(quality=0.95)), None) == farther


def test_another_size_than_the_goal_says_is_met(tmp_path):
    write(tmp_path / "base", BASE)
    write(tmp_path / "tuned", TUNED)
    delta = find_delta(open_checkpoint(tmp_path / "base"), open_checkpoint(tmp_path / "tuned"))
    packer = Packer(delta, Goal(quality=0.95))
    for size in (20_000, 10_000):
        result = packer.pack(size=size)
        result.payload.close()
        assert 0.97 * size <= result.size <= size
