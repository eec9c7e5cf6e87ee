"""Singular vectors are found on the device that was asked for, or the pack says why not."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from skillpack import pack
from skillpack.cli.root import root
from skillpack.codecs import gram
from skillpack.codecs.gram import in_coordinates, principal
from skillpack.errors import SkillPackError, UsageError
from skillpack.packing.device import check_device
from tests.packing.models import base_values, normal, tuned_values, write

BASE = base_values(blocks=1) | {"model.experts.weight": normal(6, 20, 16)}
TUNED = {**tuned_values({name: values for name, values in BASE.items() if values.ndim < 3})}
TUNED["model.experts.weight"] = BASE["model.experts.weight"] + normal(6, 1, 1) * normal(1, 20, 16, seed=1)


@pytest.fixture
def models(tmp_path):
    return write(tmp_path / "base", BASE), write(tmp_path / "tuned", TUNED)


def test_the_device_reaches_the_codecs(models, monkeypatch):
    """The CPU under a name of its own, so that what is left out would be found."""
    whole = pack(*models, "s", dry_run=True)
    used = []

    def spied(function):
        def call(blocks, other, device="cpu"):
            used.append((function.__name__, device))
            return function(blocks, other, device)

        return call

    for name, function in {"principal": principal, "in_coordinates": in_coordinates}.items():
        for module in ("lowrank", "multilinear"):
            monkeypatch.setattr(f"skillpack.codecs.{module}.{name}", spied(function), raising=False)
    found = pack(*models, "s", device="cpu:0", dry_run=True)
    assert set(used) == {("principal", "cpu:0"), ("in_coordinates", "cpu:0")}
    # Two uses for each of the four matrices, the sample and the stack of experts, and three axes of the latter.
    assert len(used) > 2 * 4
    assert found.manifest.dump() == whole.manifest.dump()


@pytest.mark.parametrize(
    "device", ["quantum", "meta", "cpu:x", "", "xpu", *(["cuda"] * (not torch.cuda.is_available()))]
)
def test_a_device_that_is_not_there_is_refused(models, device):
    with pytest.raises(UsageError, match="cannot be used") as caught:
        pack(*models, "s", device=device, dry_run=True)
    assert "\n" not in caught.value.message
    result = CliRunner().invoke(root, ["pack", *map(str, models), "--device", device, "--dry-run"])
    assert result.exit_code == 2
    assert "hint: Choose cpu" in result.stderr


def test_the_cpu_is_there():
    check_device("cpu")


@pytest.mark.parametrize("workers", [0, -1])
def test_no_workers_are_refused(models, workers):
    with pytest.raises(UsageError, match="do nothing"):
        pack(*models, "s", workers=workers)


def test_devices_without_float64_find_nearly_the_same(monkeypatch):
    matrix = normal(300, 40) * np.float32(0.8) ** np.arange(40, dtype=np.float32)
    values, vectors = principal([matrix[:100], matrix[100:]], 40)
    monkeypatch.setattr(gram, "_WITHOUT_FLOAT64", ("cpu",))
    single, directions = principal([matrix[:100], matrix[100:]], 40)
    assert single.dtype == directions.dtype == np.float64
    np.testing.assert_allclose(single, values, rtol=1e-3)
    np.testing.assert_allclose(np.abs((directions * vectors).sum(axis=0)), 1, atol=1e-3)


def test_a_pack_without_float64_is_as_large_and_as_good(models, monkeypatch):
    double = pack(*models, "s", dry_run=True)
    monkeypatch.setattr(gram, "_WITHOUT_FLOAT64", ("cpu",))
    single = pack(*models, "s", dry_run=True)
    assert single.size == pytest.approx(double.size, rel=0.01)
    errors = [np.mean([entry.error for entry in report.manifest.tensors]) for report in (single, double)]
    assert errors[0] == pytest.approx(errors[1], rel=0.01)


def test_too_little_memory_is_said(monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "zeros", full)
    with pytest.raises(SkillPackError, match="too little memory"):
        principal([normal(5, 4)], 4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_size_and_quality_and_its_own_bytes_again(models):
    cpu, gpu, again = (
        pack(*models, "s", device=device, workers=workers, dry_run=True)
        for device, workers in (("cpu", 1), ("cuda", 4), ("cuda", 1))
    )
    assert gpu.manifest.dump() == again.manifest.dump()
    assert gpu.size == pytest.approx(cpu.size, rel=0.01)
    for one, other in zip(gpu.manifest.tensors, cpu.manifest.tensors, strict=True):
        assert one.error == pytest.approx(other.error, rel=0.01)
