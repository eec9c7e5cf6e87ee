"""The same tensors merged by mergekit, which is installed into a folder of its own.

mergekit asks for older versions of what skillpack uses, so that it is installed without its dependencies and used by a
process of its own; what is called of it needs torch alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import platformdirs
import pytest
from filelock import FileLock

from skillpack.composing.methods.average import Average
from skillpack.composing.methods.breadcrumbs import Breadcrumbs
from skillpack.composing.methods.dare import Dare
from skillpack.composing.methods.sum import Sum
from skillpack.composing.methods.ties import Ties
from tests.composing.methods import merged

HERE = Path(__file__).parent
WEIGHTS = [0.5, 1.25, 0.75]


@pytest.fixture(scope="session")
def mergekit():
    """Folder with mergekit; it stays in the user's cache."""
    pinned = (HERE / "requirements.txt").read_text().strip()
    folder = platformdirs.user_cache_path("skillpack-tests") / pinned.replace("==", "-")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / "mergekit").is_dir():
            command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder)]
            installed = subprocess.run([*command, "-r", HERE / "requirements.txt"], check=False, capture_output=True)
            if installed.returncode and not os.environ.get("CI"):
                pytest.skip(f"{pinned} cannot be installed here: {installed.stderr[-200:]!r}")
            assert installed.returncode == 0, installed.stderr.decode()
    return folder


@pytest.fixture
def deltas():
    random = np.random.default_rng(5)
    return {name: random.normal(size=(3, size)).astype(np.float32) for name, size in (("a", 1000), ("b", 333))}


def peer(folder, tmp_path, deltas, *arguments):
    np.savez(tmp_path / "in.npz", **deltas)
    command = [sys.executable, HERE / "mergekit_merge.py", tmp_path / "in.npz", tmp_path / "out.npz", *arguments]
    given = [str(each) for each in (*command, *WEIGHTS)]
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    subprocess.run(given, check=True, env={**os.environ, "PYTHONPATH": path})
    return dict(np.load(tmp_path / "out.npz"))


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        (Sum(), ("none", "none", "no", 1, 0)),
        (Average(), ("none", "none", "yes", 1, 0)),
        (Ties(density=0.3, scope="tensor"), ("sum", "magnitude", "yes", 0.3, 0)),
        (Breadcrumbs(density=0.4, gamma=0.05), ("none", "magnitude_outliers", "no", 0.4, 0.05)),
        (Breadcrumbs(density=0.9, gamma=0.2), ("none", "magnitude_outliers", "no", 0.9, 0.2)),
        (Dare(density=1, elect="ties"), ("sum", "random", "yes", 1, 0)),
        (Dare(density=1, elect="ties", normalize=False), ("sum", "random", "no", 1, 0)),
    ],
    ids=["sum", "average", "ties", "breadcrumbs", "breadcrumbs, too much", "dare-ties", "dare-ties, not normalized"],
)
def test_the_same_comes_out(mergekit, tmp_path, deltas, method, arguments):
    found, expected = merged(method, deltas, WEIGHTS), peer(mergekit, tmp_path, deltas, *arguments)
    for name in deltas:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("elect", "consensus", "normalize"), [("sum", "none", "no"), ("ties", "sum", "yes")])
def test_dare_with_its_own_masks(mergekit, tmp_path, deltas, monkeypatch, elect, consensus, normalize):  # noqa: PLR0917
    """mergekit draws other numbers and rescales to the same L1 norm; so both get what our masks leave."""
    taken = {name: np.random.default_rng(1).random(values.shape) < 0.4 for name, values in deltas.items()}

    class Given:
        def __init__(self, seed, tensor, digest):
            self.mask, self.at = taken[tensor][int(digest[-1])], 0

        def take(self, count, density):
            assert density == 0.4
            self.at += count
            return self.mask[self.at - count : self.at]

    monkeypatch.setattr("skillpack.composing.methods.dare.RandomMask", Given)
    found = merged(Dare(density=0.4, elect=elect), deltas, WEIGHTS)
    left = {name: np.where(taken[name], values / np.float32(0.4), 0) for name, values in deltas.items()}
    left = {name: values.astype(np.float32) for name, values in left.items()}
    expected = peer(mergekit, tmp_path, left, consensus, "none", normalize, 1, 0)
    for name in deltas:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-6)
