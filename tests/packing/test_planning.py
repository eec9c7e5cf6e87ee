"""Which codec may write which tensor, and what is measured before a step is known."""

import math

import numpy as np
import pytest

from skillpack.checkpoint import open_checkpoint
from skillpack.codecs.entropy import count_all
from skillpack.delta import find_delta
from skillpack.packing import planning
from skillpack.packing.planning import LosslessPlan, LossyPlan, common_shape, plan_change
from skillpack.packing.spool import spool, spooled
from skillpack.tensors import Tensor
from tests.packing.models import EMBED, drift, normal, tensor, write


@pytest.fixture
def plans(tmp_path):
    """Plans of the only change between two one-tensor models."""

    def run(base, tuned, *, exact=False, name="layers.0.w.weight"):
        write(tmp_path / "base", {name: base, "other": normal(4)})
        write(tmp_path / "tuned", {name: tuned, "other": normal(4)})
        delta = find_delta(open_checkpoint(tmp_path / "base"), open_checkpoint(tmp_path / "tuned"))
        (change,) = delta.changes
        return plan_change(delta, change, exact=exact)

    return run


def codecs(plan):
    return [codec.name for codec, _, _ in plan.analyses]


@pytest.mark.parametrize(
    ("shape", "dtype", "exact", "wanted"),
    [
        ((64, 64), "BF16", False, (LossyPlan, None)),
        ((64, 64), "F32", False, (LossyPlan, None)),
        ((64, 64), "BF16", True, (LosslessPlan, "exact")),
        ((64, 64), "F16", True, (LosslessPlan, "exact")),
        ((64, 64), "F32", True, (LosslessPlan, "exact")),
        ((64, 7), "BF16", False, (LosslessPlan, "exact")),
        ((64,), "BF16", False, (LosslessPlan, "exact")),
        ((64,), "F16", False, (LosslessPlan, "exact")),
        ((64,), "F32", False, (LossyPlan, None)),
        ((7, 64), "F32", False, (LossyPlan, None)),
    ],
)
def test_the_kind_of_plan(plans, shape, dtype, exact, wanted):
    kind, codec = wanted
    (plan,) = plans(tensor(normal(*shape), dtype), tensor(normal(*shape, seed=1), dtype), exact=exact)
    assert isinstance(plan, kind)
    assert codec is None or plan.codec.name == codec


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("dtype", [np.int64, np.bool_, np.uint8])
def test_integers_are_stored_as_they_are(plans, dtype, exact):
    base = np.zeros(100, dtype)
    (plan,) = plans(Tensor.of(base), Tensor.of(np.ones(100, dtype)), exact=exact)
    assert plan.codec.name == "raw"


def test_float64_is_stored_as_it_is_when_exact(plans):
    (plan,) = plans(Tensor.of(np.zeros(9)), Tensor.of(np.ones(9)), exact=True)
    assert plan.codec.name == "raw"


def test_new_rows_have_a_plan_of_their_own(plans):
    main, rows = plans(normal(20, 16), normal(25, 16, seed=1))
    assert isinstance(main, LossyPlan)
    assert main.operands()[1].shape == (20, 16)
    assert rows.codec.name == "raw"
    reference, new = rows.operands()
    assert reference is None
    assert new.data.tobytes() == tensor(normal(25, 16, seed=1)[20:]).data.tobytes()


def test_lost_rows_need_no_second_plan(plans):
    (plan,) = plans(normal(25, 16), normal(20, 16, seed=1))
    before, after = plan.operands()
    assert before.shape == after.shape == (20, 16)
    assert common_shape(plan.change) == (20, 16)


def test_the_scale_of_a_matrix_is_its_strength_per_coefficient(plans):
    delta = normal(60, 40, scale=0.5)
    (plan,) = plans(tensor(np.zeros((60, 40)), "F32"), tensor(delta, "F32"))
    plan.analyse(math.inf)
    mean_square = float(np.square(delta).mean())
    assert plan.scale == pytest.approx(math.sqrt(mean_square * 60) / 2400**0.25, rel=1e-5)
    assert plan.is_matrix


@pytest.mark.parametrize(
    ("name", "keep"),
    [
        (EMBED, 0.25),
        ("lm_head.weight", 0.25),
        ("bert.embeddings.word_embeddings.weight", 0.25),
        ("layers.0.q.weight", 0.15),
    ],
)
def test_embeddings_are_rounded_plainly_and_more_finely(plans, name, keep):
    (plan,) = plans(normal(40, 30), normal(40, 30) + drift((40, 30), 1), name=name)
    plan.analyse(math.inf)
    assert codecs(plan) == ["lowrank"]
    codec = plan.analyses[0][0]
    assert codec.keep == keep
    assert (codec.dead_zone is None, plan.fineness) == ((True, 1.0) if keep == 0.15 else (False, 0.5))


def test_a_flat_delta_is_written_by_its_entries(plans):
    delta = 0.01 * normal(200, 150, seed=1)
    (plan,) = plans(tensor(normal(200, 150), "F32"), tensor(normal(200, 150) + delta, "F32"))
    plan.analyse(0.002)
    assert plan.entries is not None
    assert plan.encode(0.005)[0] == "direct"
    assert plan.factors(0.005) is None


def test_strong_directions_over_a_flat_floor_are_written_by_both(plans):
    delta = 0.01 * (normal(200, 4, seed=1) @ normal(4, 150, seed=2) + 0.5 * normal(200, 150, seed=3))
    (plan,) = plans(tensor(np.zeros((200, 150)), "F32"), tensor(delta, "F32"))
    plan.analyse(0.002)
    assert plan.encode(0.005)[0] == "lowrank+direct"


@pytest.mark.parametrize("finest", [1e-2, 1e-4])
def test_entries_are_not_even_looked_at_where_a_few_directions_are_all(plans, finest):
    delta = 0.01 * normal(200, 3, seed=1) @ normal(3, 150, seed=2)
    (plan,) = plans(tensor(np.zeros((200, 150)), "F32"), tensor(delta, "F32"))
    plan.analyse(finest)
    assert codecs(plan) == ["lowrank"]
    assert plan.entries is None


def test_coarse_steps_are_left_to_low_rank(plans):
    """What is right on average, entry by entry, has more noise than signal there."""
    delta = 0.01 * (normal(200, 150, seed=1) * 2.0 ** -np.arange(150))
    (plan,) = plans(tensor(np.zeros((200, 150)), "F32"), tensor(delta, "F32"))
    plan.analyse(0.001)
    assert plan.encode(0.05)[0] == "lowrank"


def test_sparse_is_offered_where_few_entries_differ(plans):
    base = normal(200, 60)
    tuned = base.copy()
    tuned[::10] += normal(20, 60)
    (plan,) = plans(base, tuned)
    plan.analyse(1e-3)
    assert {"lowrank", "sparse"} <= {*codecs(plan)}
    name, encoding = plan.encode(0.05)
    assert name in {"lowrank", "sparse", "lowrank+direct", "direct"}
    assert encoding.distortion > 0


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        ((4, 20, 16), ["lowrank", "tucker"]),
        ((20, 16, 3, 3), ["lowrank", "tucker"]),
        ((1, 4, 20, 16), ["lowrank", "tucker"]),
        ((20, 16, 1, 1), ["lowrank"]),
        ((200, 3, 5), ["lowrank"]),
        ((4, 3, 2), ["sparse"]),
    ],
)
def test_tucker_is_offered_for_three_and_four_axes(plans, shape, wanted):
    (plan,) = plans(tensor(normal(*shape), "F32"), tensor(normal(*shape, seed=1), "F32"))
    plan.analyse(1e9)
    assert codecs(plan) == wanted
    plan.analyse(1e-3)
    assert codecs(plan) == wanted


@pytest.mark.parametrize(("experts", "wanted"), [(1, "tucker"), (4, "lowrank")])
def test_the_codec_that_costs_less_writes_a_stack(plans, experts, wanted):
    """Experts that change alike, and experts that have nothing but the space of their inputs in common."""
    inputs = normal(2, 16, seed=3)
    delta = np.concatenate([normal(20, 2, seed=at % experts) @ inputs for at in range(4)]).reshape(4, 20, 16)
    (plan,) = plans(tensor(np.zeros(delta.shape), "F32"), tensor(delta, "F32"))
    plan.analyse(0.01)
    assert plan.encode(0.02)[0] == wanted


def test_entries_compete_with_what_else_a_stack_is_offered_to(plans):
    """Experts that change in no way alike, and not along few directions."""
    shape = (4, 20, 16)
    (plan,) = plans(tensor(np.zeros(shape), "F32"), tensor(normal(*shape, seed=1), "F32"))
    plan.analyse(0.01)
    assert codecs(plan) == ["lowrank", "tucker"]
    name, encoding = plan.encode(0.2)
    assert name == "direct"
    others = [codec.encode(analysis, 0.2, plan.seed) for codec, analysis, _ in plan.analyses]
    assert all(encoding.distortion <= other.distortion for other in others)
    assert all(count_all(encoding.chunks()).size() < count_all(other.chunks()).size() for other in others)


@pytest.mark.parametrize("name", ["bn.running_mean", "layers.0.running_var"])
def test_running_statistics_come_back_bit_for_bit(plans, name):
    """A variance that comes out a little below zero makes a whole model give NaN."""
    (plan,) = plans(tensor(np.ones(64), "F32"), tensor(normal(64), "F32"), name=name)
    assert plan.codec.name == "exact"


def test_small_tensors_are_coded_finely_whatever_the_step(plans):
    base = normal(300)
    (plan,) = plans(tensor(base, "F32"), tensor(base + normal(300, seed=1), "F32"))
    plan.analyse(math.inf)
    name, coarse = plan.encode(1e9)
    assert name == "sparse"
    assert coarse.parameters["step"] == pytest.approx(1 / 16, rel=0.1)
    assert plan.encode(1e-3)[1].parameters["step"] == 1e-3


@pytest.mark.parametrize("block", [64, 1000, 1 << 22])
def test_the_error_is_relative_to_the_delta(plans, monkeypatch, block):
    monkeypatch.setattr(planning, "_BLOCK", block)
    base, delta = normal(50, 40), normal(50, 40, seed=1)
    (plan,) = plans(tensor(base, "F32"), tensor(base + delta, "F32"))
    met = tensor(base + delta, "F32").float32() - base
    assert plan.error(met) == 0
    assert plan.error(np.zeros((50, 40), np.float32)) == pytest.approx(1)
    assert plan.error(1.5 * met) == pytest.approx(0.5)


def test_noise_depends_on_base_tuned_and_name(plans, tmp_path):
    seeds = []
    for at, (base, tuned, name) in enumerate([(0, 1, "a"), (0, 2, "a"), (3, 1, "a"), (0, 1, "b"), (0, 1, "a")]):
        write(tmp_path / f"{at}b", {name: normal(16, 16, seed=base), "other": normal(4)})
        write(tmp_path / f"{at}t", {name: normal(16, 16, seed=tuned), "other": normal(4)})
        delta = find_delta(open_checkpoint(tmp_path / f"{at}b"), open_checkpoint(tmp_path / f"{at}t"))
        (plan,) = plan_change(delta, delta.changes[0], exact=False)
        seeds.append(plan.seed)
    assert seeds[0] == seeds[4]
    assert len(set(seeds)) == 4


def test_spooled_arrays_are_files_that_leave_no_name(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    array = spooled((3, 4), np.float32)
    array[1] = 7
    copies = spool({"a": array, "b": np.arange(5), "empty": np.empty((0, 3), np.float32)})
    assert copies["a"] is array
    assert isinstance(copies["b"], np.memmap)
    assert copies["b"].tolist() == [0, 1, 2, 3, 4]
    assert copies["empty"].shape == (0, 3)
    assert list(tmp_path.iterdir()) == []
