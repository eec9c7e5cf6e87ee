"""An interrupted pack goes on where it was, and gives the same skill as one that was not interrupted."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from click.testing import CliRunner
from filelock import FileLock

from skillpack import pack
from skillpack.cli.root import root
from skillpack.codecs import lowrank
from skillpack.codecs.lowrank import LowRank
from skillpack.errors import NotFiniteError, UsageError
from skillpack.packing import unfinished
from skillpack.packing.planning import LosslessPlan, LossyPlan
from skillpack.packing.unfinished import STALE, Unfinished, unfinished_work
from skillpack.settings import HOME_VARIABLE, unfinished_folder
from tests.packing.models import EMBED, base_values, normal, tuned_values, write

BASE = base_values(blocks=6) | {"model.experts.weight": normal(6, 20, 16)}
TUNED = tuned_values(BASE | {"model.experts.weight": normal(6, 320)})
TUNED["model.experts.weight"] = BASE["model.experts.weight"] + normal(6, 1, 1) * normal(1, 20, 16, seed=1)
TUNED[EMBED] = BASE[EMBED].copy()
TUNED[EMBED][::50] += 1
MATRICES = 14
SAMPLE = 7


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def models(tmp_path):
    return write(tmp_path / "base", BASE), write(tmp_path / "tuned", TUNED)


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def analysed(monkeypatch):
    """Grows with each analysis of a matrix."""
    calls = []
    analyse = LowRank.analyse

    def counted(self, delta, finest):
        calls.append(finest)
        return analyse(self, delta, finest)

    monkeypatch.setattr(LowRank, "analyse", counted)
    return calls


KILLED = """
import os, signal, sys
from skillpack import pack


base, tuned, store, stage, share = sys.argv[1:]

def progress(done, total, what):
    if what == stage and done >= float(share) * total:
        os.kill(os.getpid(), signal.SIGKILL)

pack(base, tuned, "s", store=store, workers=1, progress=progress)
"""


def killed(*arguments):
    """Run a pack that kills itself once a share of a stage is done."""
    done = subprocess.run([sys.executable, "-c", KILLED, *map(str, arguments)], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


def left():
    return sorted(unfinished_folder().glob("*/*.analysis"))


def tensors_left():
    return len({path.name.partition(".")[0] for path in left()})


@pytest.mark.parametrize(("stage", "share"), [("analysing tensors", 0.5), ("coding", 0.9)])
def test_a_killed_pack_goes_on_with_the_tensors_it_has_not_done(models, store, analysed, stage, share):
    whole = pack(*models, "s", store=store)
    most = len(analysed)
    assert (most, whole.resumed, left()) == (MATRICES + SAMPLE, 0, [])
    killed(*models, store, stage, share)
    kept = tensors_left()
    assert 0 < kept <= MATRICES
    analysed.clear()
    again = pack(*models, "s", store=store)
    assert again.digest == whole.digest
    # Vectors are checked and not analysed.
    assert again.resumed == kept if stage == "analysing tensors" else again.resumed > kept
    assert len(analysed) < MATRICES / 2 + 2 < most
    assert (len(analysed) == 0) == (stage != "analysing tensors")
    assert not unfinished_folder().exists()


@pytest.fixture
def checked(monkeypatch):
    """Grows with each part that is decoded and compared."""
    calls = []
    for plan in (LossyPlan, LosslessPlan):
        monkeypatch.setattr(plan, "check", _counted(calls, plan.check))
    return calls


def _counted(calls, check):
    def counted(self, *arguments):
        calls.append(self)
        return check(self, *arguments)

    return counted


@pytest.mark.parametrize("damage", [None, "cut", "changed"])
def test_what_was_checked_before_a_kill_is_not_checked_again(models, store, checked, damage):
    whole = pack(*models, "s", store=store)
    most = len(checked)
    killed(*models, store, "coding", 0.6)
    (path,) = unfinished_folder().glob("*/checked.txt")
    lines = path.read_text().splitlines(keepends=True)
    assert 2 < len(lines) < most
    if damage == "cut":
        lines[-1] = lines[-1][:-9]
    elif damage == "changed":
        lines[-1] = lines[-1].replace(" 0x1.", " 0x1.1") if " 0x1." in lines[-1] else lines[-1].replace("0x0", "0x1")
    path.write_text("".join(lines))
    checked.clear()
    again = pack(*models, "s", store=store)
    assert again.digest == whole.digest
    assert len(checked) == most - len(lines) + (damage is not None)
    assert not unfinished_folder().exists()


def test_other_bytes_are_checked_again(models, store, checked):
    killed(*models, store, "coding", 0.9)
    checked.clear()
    pack(*models, "s", quality=0.5, store=store)
    lossy = sum(isinstance(plan, LossyPlan) for plan in checked)
    assert lossy >= MATRICES


def interrupt(models, store, **goal):
    """A pack that Ctrl-C ends once all tensors are analysed."""

    def progress(done, total, what):
        if what == "counting symbols":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(*models, "s", store=store, progress=progress, **goal)


def test_large_matrices_whose_spectrum_is_known_in_part_give_the_same_skill(tmp_path, store, monkeypatch):
    monkeypatch.setattr(lowrank, "_LARGE", 64)
    partly = []
    monkeypatch.setattr(lowrank, "strongest", _recorded(partly, lowrank.strongest))
    values = {f"model.layers.{layer}.weight": normal(128, 96, seed=layer) for layer in range(4)}
    delta = normal(128, 6, seed=9) @ normal(6, 96) + 0.05 * normal(128, 96, seed=10)
    models = (
        write(tmp_path / "base", values),
        write(tmp_path / "tuned", {k: value + delta for k, value in values.items()}),
    )
    whole = {size: pack(*models, "s", store=store, size=size).digest for size in (2_000, 20_000)}
    assert any(found is not None for found in partly)
    for size, wanted in whole.items():
        interrupt(models, store, size=2_000)
        again = pack(*models, "s", store=store, size=size)
        assert (again.digest, again.resumed) == (wanted, 4)


def _recorded(calls, function):
    def recorded(*arguments):
        calls.append(function(*arguments))
        return calls[-1]

    return recorded


def command(*arguments):
    done = CliRunner().invoke(root, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done


def test_the_command_says_that_it_resumed(models, store):
    interrupt(models, store)
    leftovers = [(path, path.read_bytes()) for path in left()]
    result = command("pack", *models, "--name", "s", "--store", store)
    assert "resumed: 14 tensors had been worked on before an earlier pack was interrupted" in result.stderr
    assert left() == []
    leftovers[0][0].parent.mkdir(parents=True)
    for path, content in leftovers:
        path.write_bytes(content)
    assert json.loads(command("pack", *models, "--store", store, "--json").stdout)["resumed"] == MATRICES


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:20],
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: content[:-40] + bytes([content[-40] ^ 1]) + content[-39:],
        lambda content: content[:30] + b"?" + content[31:],
        lambda content: b"\0" * len(content),
        lambda content: content + b"\0",
    ],
)
def test_damaged_leftovers_are_analysed_again(models, store, analysed, damage):
    whole = pack(*models, "s", store=store)
    interrupt(models, store)
    for path in left():
        path.write_bytes(damage(path.read_bytes()))
    analysed.clear()
    again = pack(*models, "s", store=store)
    assert (again.digest, again.resumed) == (whole.digest, 0)
    assert len(analysed) == MATRICES + SAMPLE


def test_a_file_of_another_tensor_is_not_taken(models, store):
    whole = pack(*models, "s", store=store)
    interrupt(models, store)
    first, second = left()[:2]
    shutil.copy(first, second)
    again = pack(*models, "s", store=store)
    assert (again.digest, again.resumed) == (whole.digest, MATRICES - 1)


def test_another_goal_takes_only_what_fits(models, store, analysed):
    wanted = pack(*models, "s", store=store, quality=0.97).digest
    interrupt(models, store, quality=0.9)
    analysed.clear()
    report = pack(*models, "s", store=store, quality=0.97)
    assert report.digest == wanted
    # The sample asks for singular values only, of which both goals need the same.
    assert len(analysed) == MATRICES
    assert report.resumed == SAMPLE


@pytest.mark.parametrize("goal", [{"size": 30_000}, {"quality": 0.97}, {"exact": True}])
def test_every_goal_gives_the_same_skill_after_an_interruption(models, store, goal):
    wanted = pack(*models, "s", store=store, **goal).digest
    interrupt(models, store, **goal)
    assert bool(left()) == ("exact" not in goal)
    assert pack(*models, "s", store=store, **goal).digest == wanted
    assert not unfinished_folder().exists()


def test_what_cannot_be_packed_leaves_nothing(models, store, tmp_path):
    with pytest.raises(UsageError):
        pack(*models, "s", store=store, size=100)
    assert not unfinished_folder().exists()
    broken = write(tmp_path / "broken", TUNED | {EMBED: np.full_like(TUNED[EMBED], np.nan)})
    with pytest.raises(NotFiniteError):
        pack(models[0], broken, "s", store=store)
    assert not unfinished_folder().exists()


def test_two_packs_at_once_do_not_disturb_each_other(models, store):
    wanted = pack(*models, "s", store=store).digest
    found = {}

    def second():
        found["second"] = pack(*models, "s", dry_run=True)
        found["still there"] = tensors_left()

    def progress(done, total, what):
        if what == "counting symbols" and "second" not in found:
            thread = threading.Thread(target=second)
            thread.start()
            thread.join()

    first = pack(*models, "s", store=store, progress=progress)
    assert first.digest == wanted
    assert (first.resumed, found["second"].resumed) == (0, 0)
    assert found["second"].size == first.size
    assert found["still there"] == MATRICES


def test_only_stale_leftovers_of_others_are_removed(tmp_path):
    root, now = tmp_path / "unfinished", time.time()
    for name, age in {"old": STALE + 60, "new": STALE - 60, "busy": STALE + 60}.items():
        (root / name).mkdir(parents=True)
        (root / name / "x.analysis").write_bytes(b"x")
        (root / name / "lock").touch()
        os.utime(root / name, (now - age, now - age))
    (root / "file").touch()
    with FileLock(root / "busy" / "lock"), unfinished_work(root, "mine"):
        assert sorted(path.name for path in root.iterdir() if path.is_dir()) == ["busy", "mine", "new"]


def test_half_written_files_of_a_killed_pack_are_removed(tmp_path):
    (tmp_path / "unfinished" / "mine").mkdir(parents=True)
    (tmp_path / "unfinished" / "mine" / "half.tmp").write_bytes(b"x" * 100)
    with unfinished_work(tmp_path / "unfinished", "mine"):
        assert [path.name for path in (tmp_path / "unfinished" / "mine").iterdir()] == ["lock"]
    assert list(tmp_path.iterdir()) == []


def test_without_room_there_a_pack_goes_on_without(models, store, home, monkeypatch):
    wanted = pack(*models, "s", store=store).digest
    home.write_text("a file where the folder should be")
    assert pack(*models, "s", store=store).digest == wanted
    home.unlink()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(unfinished.tempfile, "mkstemp", full)
    assert pack(*models, "s", store=store).digest == wanted


def test_a_failed_write_leaves_no_half_file(tmp_path, monkeypatch):
    kept = Unfinished(tmp_path)
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    (found,) = kept.keep("k", 1.0, [{"left": np.ones((3, 2), np.float32)}])
    assert found["left"].sum() == 6
    assert list(tmp_path.iterdir()) == []


def test_what_is_kept_comes_back_and_takes_no_other_room(tmp_path):
    kept = Unfinished(tmp_path)
    analyses = [{"left": normal(9, 4), "none": np.empty((3, 0), np.float32)}, {}, {"values": normal(5)[::2]}]
    first = kept.keep("k", 0.5, analyses)
    (path,) = tmp_path.iterdir()
    assert path.stat().st_size < sum(array.nbytes for found in analyses for array in found.values()) + 512
    for found in (first, Unfinished(tmp_path).find("k", 0.5)):
        assert [[*analysis] for analysis in found] == [["left", "none"], [], ["values"]]
        for given, back in zip(analyses, found, strict=True):
            for name in given:
                np.testing.assert_array_equal(back[name], given[name])
                assert back[name].dtype == np.float32
        assert isinstance(found[0]["left"], np.memmap)
    assert kept.find("k", 0.4) is None
    assert kept.find("other", 0.5) is None
    assert kept.find("k", math.inf) is None
    kept.keep("k", 0.4, analyses)
    assert len(list(tmp_path.iterdir())) == 1
    assert kept.find("k", 0.5) is None


def test_the_folder_is_in_the_users_cache(monkeypatch, tmp_path):
    assert unfinished_folder() == tmp_path / "home" / "unfinished"
    monkeypatch.delenv(HOME_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert unfinished_folder().name == "unfinished"
    assert "skillpack" in unfinished_folder().parts


@pytest.mark.parametrize("workers", [2, 4])
def test_the_number_of_workers_changes_nothing(models, store, workers):
    assert pack(*models, "s", store=store, workers=workers).digest == pack(*models, "s", store=store, workers=1).digest
