"""Runs fuzz targets for a fixed number of inputs each: ``python fuzz/run.py RUNS [TARGET...]``, by default all.

Options of libFuzzer, such as ``-seed=1``, are passed on. Memory is bounded to 2 GiB and an input to 10 seconds. What a
run finds out is not kept, except for an input that crashes, hangs or takes too much memory: it is written beside the
target, libFuzzer's last lines name its file, and ``python fuzz/TARGET.py FILE`` repeats it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
TARGETS = ("store_documents", "skill_streams", "model_folders", "signatures")
NO_ATHERIS = "Fuzzing needs atheris, which has no wheel for this Python: use CPython 3.10 to 3.14 on Linux, x86-64."


def main(arguments: list[str]) -> int:
    runs, *rest = arguments
    chosen = [target for target in rest if not target.startswith("-")]
    try:
        import atheris  # noqa: F401
    except ImportError:
        sys.exit(NO_ATHERIS)
    more = [option for option in rest if option.startswith("-")]
    return max(fuzz(target, int(runs), more) for target in chosen or TARGETS)


def fuzz(target: str, runs: int, more: list[str]) -> int:
    """Run one target, print what came of it, and return its exit code."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="skillpack-fuzz-", dir=memory if memory.is_dir() else None) as scratch:
        grown = Path(scratch) / "corpus"
        grown.mkdir()
        options = [f"-runs={runs}", "-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1", *more]
        files = [f"-dict={HERE / 'words.dict'}", f"-artifact_prefix={HERE / target}-", grown, HERE / "corpus" / target]
        command = [sys.executable, HERE / f"{target}.py", *options, *files]
        environment = {**os.environ, "TMPDIR": scratch}
        done = subprocess.run(
            command, cwd=HERE.parent, env=environment, capture_output=True, text=True, errors="replace", check=False
        )
    found = dict(re.findall(r"stat::(\w+): +(\d+)", done.stderr))
    print(
        f"{target}: {found.get('number_of_executed_units', 0)} runs, {found.get('average_exec_per_sec', 0)} a second, "
        f"slowest {found.get('slowest_unit_time_sec', '?')} s, peak {found.get('peak_rss_mb', '?')} MiB",
        flush=True,
    )
    if done.returncode:
        print(done.stderr[-8000:], flush=True)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
