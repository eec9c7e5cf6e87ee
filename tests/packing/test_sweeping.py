"""The curve of size against quality: real packs, in files that open."""

import json
import tempfile
from dataclasses import replace
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from matplotlib.image import imread

import skillpack
from skillpack.checkpoint import open_checkpoint
from skillpack.delta import find_delta
from skillpack.errors import NotFiniteError, UsageError
from skillpack.manifest import LAYER_TYPE, MEDIA_TYPE
from skillpack.packing import drawing
from skillpack.packing.drawing import drawn
from skillpack.packing.packer import Goal, Packer
from skillpack.packing.planning import LossyPlan
from skillpack.packing.sweeping import SweepPoint
from skillpack_store import Repository
from tests.packing.models import base_values, bytes_on_disk, normal, tensor, tuned_values, write

BASE = base_values()
TUNED = tuned_values(BASE)


@pytest.fixture
def models(tmp_path):
    def run(base=BASE, tuned=TUNED, dtype="BF16"):
        return write(tmp_path / "base", base, dtype), write(tmp_path / "tuned", tuned, dtype)

    return run


def test_each_point_is_a_real_pack_and_larger_ones_follow(models, tmp_path):
    base, tuned = models()
    report = skillpack.sweep(base, tuned, tmp_path / "new" / "curve")
    assert len(report.points) == 9
    assert [point.size for point in report.points] == sorted({point.size for point in report.points})
    assert report.points[0].size < 0.05 * report.tuned_size < 0.12 * report.tuned_size < report.points[-1].size
    assert report.points[-1].error < 0.25 * report.points[0].error
    packer = Packer(find_delta(open_checkpoint(base), open_checkpoint(tuned)), Goal())
    for at, point in enumerate(report.points[::4]):
        packed = packer.coded_at(point.step)
        repository = Repository.create(tmp_path / f"store{at}")
        layers = [(layer, LAYER_TYPE) for layer in packed.payload.layers()]
        skill = repository.put_skill(packed.manifest.dump(), MEDIA_TYPE, layers)
        packed.payload.close()
        assert bytes_on_disk(tmp_path / f"store{at}", skill.digest) == point.size
        assert (packed.error, packed.manifest.bound) == (point.error, point.bound)


def test_steps_are_a_geometric_ladder(models, tmp_path):
    report = skillpack.sweep(*models(), tmp_path / "curve", points=5)
    ratios = [one.step / other.step for one, other in zip(report.points, report.points[1:], strict=False)]
    assert ratios == pytest.approx([ratios[0]] * 4)
    assert ratios[0] > 1


def test_the_files_say_what_the_report_says(models, tmp_path):
    report = skillpack.sweep(*models(), tmp_path, points=3)
    assert [path.name for path in report.written] == ["curve.json", "curve.png", "curve.svg"]
    document = json.loads((tmp_path / "curve.json").read_text())
    assert [SweepPoint(**point) for point in document["points"]] == list(report.points)
    assert (document["tuned_size"], document["samples"]) == (report.tuned_size, None)
    assert str(tmp_path) not in (tmp_path / "curve.json").read_text()
    assert imread(tmp_path / "curve.png").shape[1] == 1050
    picture = ET.parse(tmp_path / "curve.svg").getroot()
    assert picture.tag == "{http://www.w3.org/2000/svg}svg"
    assert "date" not in (tmp_path / "curve.svg").read_text().lower().partition("<style")[0]


def test_the_same_models_give_the_same_files(models, tmp_path):
    folders = models()
    one, other = (skillpack.sweep(*folders, tmp_path / name, points=2).written for name in "ab")
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]
    # And files of an earlier curve give way.
    assert skillpack.sweep(*folders, tmp_path / "a", points=3).written == one
    assert len(json.loads(one[0].read_text())["points"]) == 3


def test_tensors_are_analysed_once(models, tmp_path, monkeypatch):
    seen = []
    analyse = LossyPlan.analyse
    monkeypatch.setattr(
        LossyPlan,
        "analyse",
        lambda plan, finest, *rest: (seen.append((plan.change.name, finest)), analyse(plan, finest, *rest))[1],
    )
    skillpack.sweep(*models(), tmp_path / "curve", points=4)
    full = [name for name, finest in seen if finest < float("inf")]
    assert len(full) == len(set(full)) == 5


def test_progress_says_which_point(models, tmp_path):
    seen = []
    skillpack.sweep(*models(), tmp_path / "c", points=2, progress=lambda done, total, what: seen.append(what))
    assert list(dict.fromkeys(seen)) == [
        "comparing models",
        "analysing tensors",
        *("counting symbols, point 1 of 2", "coding, point 1 of 2"),
        *("counting symbols, point 2 of 2", "coding, point 2 of 2"),
    ]


def test_small_tensors_alone_have_a_curve_too(models, tmp_path):
    base = {"a.bias": normal(300), "w": normal(64, 64)}
    tuned = base | {"a.bias": base["a.bias"] + normal(300, seed=1, scale=0.01)}
    points = skillpack.sweep(*models(base, tuned, "F32"), tmp_path / "c").points
    assert len(points) > 5
    assert points[-1].error < 0.01 * points[0].error


def test_points_that_are_no_larger_are_left_out(models, tmp_path):
    base = {name: tensor(values) for name, values in BASE.items()}
    points = skillpack.sweep(*models(base, {n: tensor(t.float32(), "F32") for n, t in base.items()}), tmp_path).points
    assert len(points) == 1
    assert (points[0].error, points[0].bound) == (0, 0)


def test_what_has_no_curve(models, tmp_path):
    with pytest.raises(UsageError, match="bit for bit"):
        skillpack.sweep(*models(BASE, BASE | {"new.weight": normal(9, 9)}), tmp_path / "curve")
    with pytest.raises(UsageError, match="1 points"):
        skillpack.sweep("nowhere", "nowhere", tmp_path / "curve", points=1)


def test_a_failure_leaves_no_files(models, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    broken = TUNED | {"model.layers.0.q_proj.weight": np.full((64, 64), np.nan, np.float32)}
    with pytest.raises(NotFiniteError):
        skillpack.sweep(*models(BASE, broken), tmp_path / "curve")
    assert list((tmp_path / "curve").iterdir()) == list((tmp_path / "temporary").iterdir()) == []


def test_without_matplotlib_nothing_is_begun(tmp_path, monkeypatch):
    monkeypatch.setattr(drawing, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="matplotlib") as caught:
        skillpack.sweep("nowhere", "nowhere", tmp_path / "curve")
    assert caught.value.hint == 'python -m pip install "skillpack[plot]"'
    assert not (tmp_path / "curve").exists()


def test_a_file_in_the_place_of_the_folder(models, tmp_path):
    (tmp_path / "curve").touch()
    with pytest.raises(NotADirectoryError):
        skillpack.sweep("nowhere", "nowhere", tmp_path / "curve")


POINT = SweepPoint(0.1, 1000, 0.01, 0.5, 100, 0.02, (0.01, 0.03))


@pytest.mark.parametrize("kind", ["png", "svg"])
@pytest.mark.parametrize(
    "points",
    [
        [POINT, replace(POINT, size=5000, error=0.0, bound=None, kl=0.0, kl_interval=(0.0, 0.0))],
        [replace(POINT, error=0.0, bound=0, kl=0.0, kl_interval=(0.0, 0.0))],
        [replace(POINT, kl=None, kl_interval=None)],
    ],
)
def test_any_curve_can_be_drawn(points, kind):
    assert len(drawn(points, kind)) > 1000
