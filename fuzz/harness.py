"""What all fuzz targets share: a scratch folder in memory, and how a target is started."""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import atheris

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Case = Callable[[bytes], None]


def scratch() -> Path:
    """An empty folder within TMPDIR. libFuzzer ends the process at once, so whoever starts it clears up (run.py)."""
    return Path(tempfile.mkdtemp(prefix="skillpack-fuzz-"))


def run(cases: Mapping[str, Case]) -> None:
    """Fuzz: the first byte of an input chooses the case (modulo their number), the rest is the case's own.

    A warning counts as a crash, since it would be printed on a user's terminal.
    """
    warnings.simplefilter("error")
    listed = list(cases.values())

    def one_input(data: bytes) -> None:
        if data:
            listed[data[0] % len(listed)](data[1:])

    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
