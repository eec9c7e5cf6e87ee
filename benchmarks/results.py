"""Where figures are kept: one JSON file per benchmark, the same bytes for the same figures."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "results"
_PACKAGES = ("skillpack", "torch", "numpy", "constriction", "zstandard", "safetensors", "transformers", "peft")


def save(
    name: str,
    figures: dict[str, Any],
    *,
    module: str = "",
    arguments: str = "",
    machine: bool = False,
    quiet: bool = False,
) -> None:
    """Write the figures of a benchmark and print them.

    Args:
        name: of the file, without its ending.
        figures: what was measured; plain JSON values.
        module: of the benchmark, if its name is another one.
        arguments: what followed the command, if that changes the figures.
        machine: note the processor, for figures that depend on it.
        quiet: do not print them.
    """
    document: dict[str, Any] = {
        "command": f"python -m benchmarks.{module or name} {arguments}".rstrip(),
        "versions": _versions(),
    }
    if machine:
        document["machine"] = _machine()
    document["figures"] = figures
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.json").write_text(text, encoding="utf-8")
    if not quiet:
        print(text, end="")


def load(name: str) -> dict[str, Any]:
    """What `save` wrote.

    Raises:
        FileNotFoundError: the benchmark has not been run.
    """
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {"processor": models[0] if models else platform.machine(), "cores": len(os.sched_getaffinity(0))}
