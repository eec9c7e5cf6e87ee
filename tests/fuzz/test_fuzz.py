"""A short slice of `make fuzz`, and that a target would notice."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[2] / "fuzz"
RUNS = {"store_documents": "20000", "skill_streams": "20000", "model_folders": "5000", "signatures": "5000"}
TARGETS = list(RUNS)
HAS_WHEEL = (
    sys.platform == "linux"
    and platform.machine() == "x86_64"
    and platform.python_implementation() == "CPython"
    and sys.version_info < (3, 15)
)
pytestmark = pytest.mark.skipif(not HAS_WHEEL, reason="atheris has no wheel for this Python or machine")


def test_atheris_is_there():
    """Where there is a wheel a skipped fuzz test would be a gap that nobody sees."""
    assert importlib.util.find_spec("atheris") is not None, "pip install 'skillpack[fuzz]'"


@pytest.mark.parametrize("target", TARGETS)
def test_no_input_of_a_short_run_crashes(target):
    done = subprocess.run(
        [sys.executable, FUZZ / "run.py", RUNS[target], "-seed=1", target],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    runs, peak = map(int, re.search(r": (\d+) runs.* peak (\d+) MiB", done.stdout).groups())
    assert str(runs) == RUNS[target]
    assert peak < 1024


@pytest.mark.parametrize("target", TARGETS)
def test_there_is_a_seed_for_every_case(target):
    listed = re.search(r"for case in \(([^)]*)\)", (FUZZ / f"{target}.py").read_text())
    cases = [name for name in re.split(r"[\s,]+", listed.group(1)) if name]
    seeds = {path.read_bytes()[0] for path in (FUZZ / "corpus" / target).iterdir()}
    assert seeds == set(range(len(cases)))


def test_a_crash_is_noticed(tmp_path):
    """A parser that lets one error through, fuzzed from a sound input, is found out."""
    guarded = "    with contextlib.suppress(ValueError):\n        found = Bundle.parse(data)"
    broken = (FUZZ / "signatures.py").read_text().replace(guarded, "    if True:\n        found = Bundle.parse(data)")
    assert "if True:" in broken
    (tmp_path / "signatures.py").write_text(broken)
    (tmp_path / "harness.py").write_text((FUZZ / "harness.py").read_text())
    # New inputs are written into the first folder.
    (tmp_path / "grown").mkdir()
    corpora = [tmp_path / "grown", FUZZ / "corpus" / "signatures"]
    done = subprocess.run(
        [sys.executable, tmp_path / "signatures.py", "-runs=20000", *corpora],
        cwd=tmp_path, env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True, text=True, errors="replace", check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode != 0
    assert "Uncaught Python exception" in done.stderr + done.stdout
