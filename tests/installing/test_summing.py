"""The rules by which skills make one tensor."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from skillpack.errors import ConflictError, DamagedSkillError, UsageError
from skillpack.manifest import Part, TensorEntry
from skillpack.skill import Decoded
from skillpack.summing import Claim, check_weight, installed_tensor, widest
from skillpack.tensors import Tensor

PART = Part("raw", {}, (1,))
DIGEST = "sha256:" + "0" * 64


def floats(seed, shape, dtype="BF16"):
    return Tensor.from_float32(np.random.default_rng(seed).standard_normal(shape, np.float32), dtype)


def claim(skill, decoded, *, dtype="BF16", shape=(3, 4), weight=1.0, reference="w", common_rows=None):
    entry = TensorEntry("w", dtype, shape, reference, reference and DIGEST, common_rows, None, PART)
    return Claim(f"sha256:{skill}", skill, weight, entry, lambda: decoded)


def exact(skill, tensor, **options):
    return claim(skill, Decoded(tensor, None, None), **{"dtype": tensor.dtype, "shape": tensor.shape, **options})


def lossy(skill, delta, **options):
    return claim(skill, Decoded(None, delta, None), **{"shape": delta.shape, **options})


def test_a_lone_exact_value_at_weight_1_comes_bit_for_bit():
    bits = np.array([0x7FC1, 0xFF80, 0x8000, 0x0001], "<u2")
    strange = Tensor("BF16", (4,), bits.view(np.uint8))
    got = installed_tensor(floats(0, (4,)), [exact("a", strange)])
    assert got.bits().tolist() == bits.tolist()


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_weighted_deltas_are_added_in_fp32_in_the_order_of_digests_and_cast_once(dtype):
    base = floats(0, (3, 4), dtype)
    delta, value = floats(1, (3, 4), "F32").float32(), floats(2, (3, 4), dtype)
    claims = [lossy("b", delta, weight=0.3, dtype=dtype), exact("a", value, weight=-1.7)]
    total = base.float32().copy()
    total += np.float32(-1.7) * (value.float32() - base.float32())
    total += np.float32(0.3) * delta
    expected = Tensor.from_float32(total, dtype)
    for order in itertools.permutations(claims):
        assert installed_tensor(base, order).digest() == expected.digest()


@pytest.mark.parametrize("dtype", ["F16", "F32"])
def test_a_live_model_of_another_precision_gets_the_sum_cast_once(dtype):
    base, delta, value = floats(0, (3, 4)), floats(1, (3, 4), "F32").float32(), floats(2, (3, 4))
    alone = installed_tensor(base, [lossy("a", delta)], dtype)
    assert alone.digest() == Tensor.from_float32(base.float32() + delta, dtype).digest()
    both = installed_tensor(base, [lossy("a", delta, weight=0.5), exact("b", value)], dtype)
    total = base.float32() + np.float32(0.5) * delta
    total += value.float32() - base.float32()
    assert both.digest() == Tensor.from_float32(total, dtype).digest()
    assert installed_tensor(base, [exact("b", value)], dtype).digest() == (
        Tensor.from_float32(value.float32(), dtype).digest()
    )


def test_blocks_leave_no_seam():
    base, delta = floats(0, (1 << 20,)), floats(1, (1 << 20,), "F32").float32()
    got = installed_tensor(base, [lossy("a", delta, shape=(1 << 20,))])
    assert got.digest() == Tensor.from_float32(base.float32() + delta, "BF16").digest()


def test_the_widest_dtype_wins():
    base = floats(0, (3, 4))
    got = installed_tensor(base, [exact("a", floats(1, (3, 4), "F32")), exact("b", floats(2, (3, 4)))])
    assert got.dtype == "F32"
    assert widest(["BF16", "F16"]) == "F32"
    assert widest(["BF16", "BF16"]) == "BF16"
    assert widest(["F16", "BF16", "F64"]) == "F64"


def test_two_skills_with_the_same_change_add_up():
    base, tuned = floats(0, (3, 4)), floats(1, (3, 4))
    got = installed_tensor(base, [exact("a", tuned), exact("b", tuned)])
    delta = tuned.float32() - base.float32()
    assert got.digest() == Tensor.from_float32(base.float32() + delta + delta, "BF16").digest()


def grown(skill, base, seed, **options):
    common, rows = floats(seed, (3, 4)), floats(seed + 1, (2, 4))
    return claim(skill, Decoded(common, None, rows), shape=(5, 4), common_rows=3, **options), [common, rows]


def test_grown_rows_follow_the_common_ones():
    wanted, parts = grown("a", floats(0, (3, 4)), 1)
    got = installed_tensor(floats(0, (3, 4)), [wanted])
    assert got.shape == (5, 4)
    assert got.data.tolist() == np.concatenate([part.data for part in parts]).tolist()


def test_a_lossy_delta_of_common_rows_is_added_to_the_first_rows_of_the_base():
    base, delta = floats(0, (3, 4)), floats(1, (2, 4), "F32").float32()
    got = installed_tensor(base, [claim("a", Decoded(None, delta, None), shape=(2, 4), common_rows=2)])
    assert got.digest() == Tensor.from_float32(base.float32()[:2] + delta, "BF16").digest()


def new_tensor(skill, seed=1, weight=1.0):
    return exact(skill, floats(seed, (3, 4)), reference=None, weight=weight), None


def integers(skill, seed=1, weight=1.0):
    return exact(skill, Tensor.of(np.arange(4) * seed), weight=weight), Tensor.of(np.arange(4))


def more_rows(skill, seed=1, weight=1.0):
    return grown(skill, None, seed, weight=weight)[0], floats(0, (3, 4))


UNADDABLE = {"new": new_tensor, "integers": integers, "rows": more_rows}


@pytest.mark.parametrize("kind", UNADDABLE)
def test_what_cannot_be_added_is_taken_from_two_skills_that_agree(kind):
    first, base = UNADDABLE[kind]("a")
    second, _ = UNADDABLE[kind]("b")
    assert installed_tensor(base, [first, second]).digest() == installed_tensor(base, [first]).digest()


@pytest.mark.parametrize("kind", UNADDABLE)
def test_what_cannot_be_added_must_not_differ(kind):
    first, base = UNADDABLE[kind]("math")
    second, _ = UNADDABLE[kind]("code", seed=2)
    with pytest.raises(ConflictError, match=r"code, math differ in tensor w, which cannot be added, because"):
        installed_tensor(base, [first, second])


@pytest.mark.parametrize("kind", UNADDABLE)
def test_what_cannot_be_scaled_is_refused_at_another_weight(kind):
    wanted, base = UNADDABLE[kind]("math", weight=0.5)
    with pytest.raises(ConflictError, match=r"math cannot have weight 0\.5: tensor w cannot be scaled, because"):
        installed_tensor(base, [wanted])


def test_one_that_grew_and_one_that_did_not_conflict():
    with pytest.raises(ConflictError, match="another number of rows"):
        installed_tensor(floats(0, (3, 4)), [more_rows("a")[0], exact("b", floats(1, (3, 4)))])


@pytest.mark.parametrize("weight", [0.0, float("nan"), float("inf"), -float("inf"), 1e-60, 1e60])
def test_weights_that_make_no_sense(weight):
    with pytest.raises(UsageError, match=r"weight .* of skill math"):
        check_weight("math", weight)


def test_content_of_another_shape_is_a_damaged_skill():
    with pytest.raises(DamagedSkillError, match="shape"):
        installed_tensor(floats(0, (3, 4)), [lossy("a", np.zeros((4, 3), np.float32), shape=(3, 4))])
    with pytest.raises(DamagedSkillError, match="expected"):
        installed_tensor(floats(0, (3, 4)), [exact("a", floats(0, (3, 4), "F16"), dtype="BF16")])


def test_only_one_delta_is_decoded_at_a_time():
    alive = []

    def decode():
        assert not any(reference() is not None for reference in alive)
        delta = np.zeros((3, 4), np.float32)
        import weakref

        alive.append(weakref.ref(delta))
        return Decoded(None, delta, None)

    claims = [lossy(name, np.zeros((3, 4), np.float32))._replace(decode=decode) for name in "ab"]
    installed_tensor(floats(0, (3, 4)), claims)
    assert len(alive) == 2
