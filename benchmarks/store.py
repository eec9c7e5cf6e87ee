"""A large store: time and memory of gc, fsck, list and log; throughput of put and get; what a second version adds.

    python -m benchmarks.store [--commits 2000] [--skills 200] [--size 256MB]

The store is synthetic: every commit gives one skill a new version of seven layers, of which it shares none with others.
Commands are measured whole, as a user would see them. Put and get are measured against `sha256sum` and then `cp` of the
same file, one after the other in the same run; the best of several rounds counts, on both sides.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from benchmarks import results
from benchmarks.folders import scratch
from benchmarks.process import run
from skillpack.cli.options import parse_size
from skillpack_store import Repository

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_CHUNK = 1 << 20
_LAYERS = 7
_ROUNDS = 5
_PATIENCE = 60  # seconds
LIMITS = {"gc": 20, "fsck --quick": 20, "list": 0.5, "log -n 20": 0.5}
"""Seconds that commands may take on the store of the usual size."""
_WHO = {"author": "Ada", "tools": {"skillpack": "0"}}


def main() -> None:
    """Measure and save; fails if something is slower than it may be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commits", type=int, default=2000)
    parser.add_argument("--skills", type=int, default=200)
    parser.add_argument("--size", default="256MB", help="of the file for put and get")
    given = parser.parse_args()
    with scratch() as work:
        figures = {
            "scale": scale(work / "store", given.commits, given.skills),
            "throughput": throughput(work, parse_size(given.size)),
            "second_version": second_version(work / "versions"),
        }
    arguments = f"--commits {given.commits} --skills {given.skills} --size {given.size}"
    results.save("store", figures, arguments=arguments, machine=True)
    commands = figures["scale"]["commands"]
    slow = [name for name, limit in LIMITS.items() if (commands[name]["seconds"] or _PATIENCE) > limit]
    slow += [name for name, share in figures["throughput"]["shares"].items() if share < 0.6]
    if slow:
        raise SystemExit(f"too slow: {', '.join(slow)}")


def scale(folder: Path, commits: int, skills: int) -> dict[str, Any]:
    """Time and memory of commands on a store of this many commits and skills."""
    repository = Repository.create(folder)
    started = time.perf_counter()
    _fill(repository, commits, skills)
    built = time.perf_counter() - started
    for number in range(commits // 10):
        repository.blobs.put([f"garbage {number}".encode()])
    blobs = sum(1 for _ in repository.blobs)
    then = time.time() - 30 * 86400
    for digest in repository.blobs:
        os.utime(repository.blobs.path(digest), (then, then))
    commands = {
        "gc --dry-run": ["gc", "--dry-run"],
        "gc": ["gc"],
        "gc --now": ["gc", "--now", "-y"],
        "fsck --quick": ["fsck", "--quick"],
        "fsck": ["fsck"],
        "fsck --full": ["fsck", "--full"],
        "stats": ["stats"],
        "list": ["list"],
        "log -n 20": ["log", "-n", "20"],
    }
    found = {}
    for name, arguments in commands.items():
        found[name] = _measured([sys.executable, "-m", "skillpack.cli", *arguments, "--store", str(folder)])
        print(name, found[name], flush=True)
    return {
        "commits": commits,
        "skills": skills,
        "blobs": blobs,
        "seconds_per_commit": round(built / commits, 4),
        "commands": found,
    }


def throughput(work: Path, size: int) -> dict[str, Any]:
    """Bytes per second of put and get, in relation to `sha256sum` and then `cp` of the same file."""
    source, copy = work / "file", work / "copy"
    with source.open("wb") as file:
        for _ in range(size // _CHUNK):
            file.write(os.urandom(_CHUNK))
    repository = Repository.create(work / "throughput")
    digest = repository.blobs.put(_chunks(source)).digest
    seconds: dict[str, float] = {}

    def best(name: str, action: Callable[[], object]) -> None:
        started = time.perf_counter()
        action()
        taken = time.perf_counter() - started
        seconds[name] = min(taken, seconds.get(name, taken))

    def remove() -> None:
        repository.blobs.path(digest).unlink(missing_ok=True)
        copy.unlink(missing_ok=True)

    for _ in range(_ROUNDS):
        remove()
        best("sha256sum", lambda: subprocess.run(["sha256sum", source], check=True, stdout=subprocess.DEVNULL))  # noqa: S603, S607
        best("cp", lambda: subprocess.run(["cp", "--reflink=never", source, copy], check=True))  # noqa: S603, S607
        remove()
        best("put", lambda: repository.blobs.put(_chunks(source)))
        best("put, there already", lambda: repository.blobs.put(_chunks(source)))
        best("get", lambda: _write(copy, repository.blobs.stream(digest)))
    remove()
    source.unlink()
    both = seconds["sha256sum"] + seconds["cp"]
    return {
        "bytes": size // _CHUNK * _CHUNK,
        "seconds": {name: round(taken, 3) for name, taken in seconds.items()},
        "shares": {name: round(both / seconds[name], 3) for name in ("put", "get")},
        "share_put_there_already": round(both / seconds["put, there already"], 3),
    }


def second_version(folder: Path) -> dict[str, Any]:
    """Bytes that a second version of a skill adds which changes one block of sixteen."""
    repository = Repository.create(folder)
    blocks = [os.urandom(1 << 20) for _ in range(16)]
    _commit(repository, "math", blocks, 0)
    before = _bytes_of(repository)
    _commit(repository, "math", [os.urandom(1 << 20), *blocks[1:]], 1)
    return {"first_bytes": before, "second_adds_bytes": _bytes_of(repository) - before}


def _fill(repository: Repository, commits: int, skills: int) -> None:
    for number in range(commits):
        layers = [f"layer {number} {layer}".encode() * 10 for layer in range(_LAYERS)]
        _commit(repository, f"skill-{number % skills}", layers, number)


def _commit(repository: Repository, name: str, layers: list[bytes], number: int) -> None:
    config = f'{{"number":{number}}}'.encode()
    skill = repository.put_skill(config, "application/json", [([layer], "a/layer") for layer in layers])
    moment = datetime(2026, 1, 1, tzinfo=timezone.utc) + timedelta(minutes=number)
    repository.commit("main", lambda found: {**found, name: skill}, message=f"Version {number}", time=moment, **_WHO)


def _measured(command: list[str]) -> dict[str, float | int | None]:
    """Seconds and bytes of memory of a command; nothing where it fails or takes more than a minute."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        usage = run(["timeout", str(_PATIENCE), *command])
    except RuntimeError:
        return {"seconds": None, "processor_seconds": None, "peak_anonymous_bytes": None}
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "seconds": round(usage.seconds, 2),
        "processor_seconds": round(processor, 2),
        "peak_anonymous_bytes": usage.anonymous,
    }


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _write(path: Path, chunks: Iterator[bytes]) -> None:
    path.unlink(missing_ok=True)
    with path.open("wb", buffering=0) as file:
        for chunk in chunks:
            file.write(chunk)


def _bytes_of(repository: Repository) -> int:
    return sum(repository.blobs.size(digest) for digest in repository.blobs)


if __name__ == "__main__":
    main()
