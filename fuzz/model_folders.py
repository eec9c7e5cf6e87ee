"""Fuzzes what model folders and their neighbours hold: receipts, journals, statistics.

``python fuzz/model_folders.py -runs=20000``.
"""

from __future__ import annotations

import contextlib
import math
import sys
from pathlib import Path, PurePosixPath

import atheris

with atheris.instrument_imports(include=["skillpack", "skillpack_store"]):
    from skillpack.errors import ReportedError
    from skillpack.installing.journal import Journal
    from skillpack.installing.receipt import Receipt
    from skillpack.packing.statistics import read_statistics

sys.path.insert(0, str(Path(__file__).parent))
from harness import run, scratch

FOLDER = scratch()
FILE = FOLDER / "statistics.json"
TUNED = "sha256:" + "0" * 64


def receipt(data: bytes) -> None:
    with contextlib.suppress(ReportedError):
        found = Receipt.load(data, FILE)
        for path in (*found.weights, *found.originals, *found.written, *found.folders):
            assert within(path)
        assert all(math.isfinite(skill.weight) for skill in found.skills)
        assert Receipt.load(found.dump(), FILE) == found


def journal(data: bytes) -> None:
    with contextlib.suppress(ReportedError):
        found = Journal.load(data, FILE)
        for path in (*(move.path for move in found.moves), *found.leave, found.staging):
            assert within(path)
        assert Journal.load(found.dump(), FILE) == found


def statistics(data: bytes) -> None:
    FILE.write_bytes(data)
    with contextlib.suppress(ReportedError):
        found = read_statistics(FILE, TUNED, "fisher")
        assert found is not None
        assert all(value > 0 for value in found.values())


def within(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return bool(parts) and ".." not in parts and not path.startswith("/") and parts[0].lower() != ".skillpack"


CASES = {case.__name__: case for case in (receipt, journal, statistics)}

if __name__ == "__main__":
    run(CASES)
