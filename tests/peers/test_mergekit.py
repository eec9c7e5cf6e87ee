"""The same fine-tunes merged by mergekit, which is installed into a folder of its own.

mergekit asks for older versions of what skillpack uses, so that it is installed without its dependencies and used by a
process of its own; what is called of it, its `merge_state_dicts`, needs torch and pydantic alone. Both get fp32 models,
and merged weights are compared: as these are of order 1, a difference of 1e-6 is some units in the last place.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import platformdirs
import pytest
from filelock import FileLock

from skillpack.composing.methods.average import Average
from skillpack.composing.methods.breadcrumbs import Breadcrumbs
from skillpack.composing.methods.dare import Dare
from skillpack.composing.methods.negation import Negation
from skillpack.composing.methods.sum import Sum
from skillpack.composing.methods.ties import Ties
from skillpack.composing.random_masks import RandomMask
from tests.composing.methods import merged

HERE = Path(__file__).parent
WEIGHTS = [0.5, 1.25, 0.75]
SHAPES = {"a": (40, 25), "b": (333,)}
DENSITY = 0.4
SKILLS = range(len(WEIGHTS))
# mergekit rescales what DARE leaves to the same L1 norm, and we as the paper does, which `lambda` can say as well.
PAPER = {"density": DENSITY, "rescale": False, "lambda": 1 / DENSITY}


class Case(NamedTuple):
    """One of our methods, mergekit's name of it, and parameters of mergekit's."""

    ours: object
    method: str
    parameters: dict


CASES = {
    "sum": Case(Sum(), "task_arithmetic", {}),
    "sum, scaled": Case(Sum(scale=0.6), "task_arithmetic", {"lambda": 0.6}),
    "negation": Case(Negation(scale=0.6), "task_arithmetic", {"lambda": -0.6}),
    "average": Case(Average(), "linear", {}),
    "average of deltas": Case(Average(), "task_arithmetic", {"normalize": True}),
    "ties": Case(Ties(density=0.3, scope="tensor"), "ties", {"density": 0.3}),
    "ties, scaled": Case(Ties(density=0.3, scope="tensor", scale=0.6), "ties", {"density": 0.3, "lambda": 0.6}),
    "breadcrumbs": Case(Breadcrumbs(density=0.4, gamma=0.05), "breadcrumbs", {"density": 0.4, "gamma": 0.05}),
    "breadcrumbs, too much": Case(Breadcrumbs(density=0.9, gamma=0.2), "breadcrumbs", {"density": 0.9, "gamma": 0.2}),
    "dare": Case(Dare(density=DENSITY), "dare_linear", PAPER),
    "dare-ties": Case(Dare(density=DENSITY, elect="ties"), "dare_ties", {**PAPER, "normalize": True}),
    "dare-ties, not normalized": Case(Dare(density=DENSITY, elect="ties", normalize=False), "dare_ties", PAPER),
}
DEFAULT = {"dare": "dare_linear", "dare-ties, not normalized": "dare_ties"}


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
            message = installed.stderr.decode(errors="replace")
            if installed.returncode and "connection broken" in message and not os.environ.get("CI"):
                pytest.skip(f"{pinned} cannot be installed without a network")
            assert installed.returncode == 0, message
    return folder


@pytest.fixture(scope="module")
def models():
    """Name -> tensors, fp32, of a base and the fine-tunes."""
    random = np.random.default_rng(5)
    return {
        name: {tensor: random.normal(size=shape).astype(np.float32) for tensor, shape in SHAPES.items()}
        for name in ("base", *map(str, SKILLS))
    }


@pytest.fixture(scope="module")
def deltas(models):
    """Tensor -> what each fine-tune adds."""
    return {tensor: [models[str(skill)][tensor] - models["base"][tensor] for skill in SKILLS] for tensor in SHAPES}


@pytest.fixture(scope="module")
def peer(mergekit, models, tmp_path_factory):
    """Case -> merged weights of mergekit."""
    folder = tmp_path_factory.mktemp("mergekit")
    arrays = {f"{name}/{tensor}": values for name, found in models.items() for tensor, values in found.items()}
    for tensor, shape in SHAPES.items():
        for skill in SKILLS:
            mask = RandomMask(0, tensor, f"sha256:{skill:064}").take(int(np.prod(shape)), DENSITY)
            arrays[f"masks/{skill}/{tensor}"] = mask.reshape(shape).astype(np.float32)
    np.savez(folder / "in.npz", **arrays)
    asked = {name: (case.method, {"weight": WEIGHTS, **case.parameters}) for name, case in CASES.items()}
    asked |= {f"default {name}": (method, {"weight": WEIGHTS, "density": DENSITY}) for name, method in DEFAULT.items()}
    (folder / "cases.json").write_text(json.dumps(asked))
    command = [sys.executable, HERE / "mergekit_merge.py", folder / "in.npz", folder / "cases.json", folder / "out.npz"]
    path = os.pathsep.join([str(mergekit), os.environ.get("PYTHONPATH", "")])
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": path})
    found = np.load(folder / "out.npz")
    return {name: {tensor: found[f"{name}/{tensor}"] for tensor in SHAPES} for name in asked}


@pytest.mark.parametrize("name", CASES)
def test_the_same_weights_come_out(peer, models, deltas, name):
    ours = merged(CASES[name].ours, deltas, WEIGHTS)
    for tensor in SHAPES:
        assert peer[name][tensor].dtype == np.float32
        np.testing.assert_allclose(models["base"][tensor] + ours[tensor], peer[name][tensor], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", DEFAULT)
def test_dare_as_mergekit_rescales_it_is_close(peer, models, deltas, name):
    """With the same masks, the same L1 norm and 1/density differ by as little as chance makes the norms differ."""
    ours = merged(CASES[name].ours, deltas, WEIGHTS)
    for tensor in SHAPES:
        theirs = peer[f"default {name}"][tensor] - models["base"][tensor]
        assert 0 < np.linalg.norm(ours[tensor] - theirs) < 0.1 * np.linalg.norm(theirs)


def test_methods_differ_from_one_another(peer):
    """So that what is compared is not the same for all of them."""
    distinct = {name: peer[name]["a"] for name in CASES if name != "average of deltas"}
    same = partial(np.allclose, rtol=1e-3, atol=1e-3)
    names = list(distinct)
    assert not any(same(distinct[one], distinct[other]) for at, one in enumerate(names) for other in names[:at])
