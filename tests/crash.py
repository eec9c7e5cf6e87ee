"""What a crash leaves behind, for every point at which it can happen.

``record`` wraps the primitives of ``skillpack_store.disk`` during a real run. ``check_every_crash`` then rebuilds the
folder as it would be after each prefix of the recorded calls, in three variants:

* ``persisted``: everything that was done is there (the process was killed).
* ``lost``: file data that was not synced is gone, and so is every change of a name that was not followed by a sync
  of its folder (power loss; the most that POSIX permits).
* ``emptied``: names are there, file data that was not synced is not (power loss; what file systems do with delayed
  allocation).

``run_until_killed`` runs a snippet in a process of its own that kills itself before its n-th primitive call.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skillpack_store import disk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

VARIANTS = ("persisted", "lost", "emptied")


class File:
    """A file's content now and as it was last synced; two names may share one."""

    def __init__(self, data: bytes, mode: int) -> None:
        self.data = data
        self.synced = data
        self.mode = mode


class Symlink:
    def __init__(self, target: str) -> None:
        self.target = target


class Folder:
    """A folder's names now and as they were last synced."""

    def __init__(self) -> None:
        self.names: dict[str, Node] = {}
        self.synced: dict[str, Node] = {}


Node = File | Symlink | Folder


@dataclass
class Operation:
    """One primitive call: paths are relative to the recorded folder; ``fd`` is a number of our own."""

    name: str
    paths: tuple[str, ...] = ()
    fd: int = -1
    data: bytes = b""
    mode: int = 0

    def __str__(self) -> str:
        detail = ", ".join(self.paths) or f"file {self.fd}"
        return f"{self.name}({detail}{f', {len(self.data)} bytes' if self.name == 'write' else ''})"


@dataclass
class Recording:
    """A run: the folder before it, and what was done to it.

    Attributes:
        root: The folder.
        before: Its content when the recording started.
        operations: The calls that changed something in it and succeeded, in order.
    """

    root: Path
    before: Folder
    operations: list[Operation] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.operations)


@contextlib.contextmanager
def record(root: Path, *, ignore: Sequence[str] = ("*.lock",)) -> Iterator[Recording]:
    """Record every primitive call that touches something below ``root``.

    On leaving, the recorded calls are replayed and compared with the folder: a difference means that something changed
    the folder without going through ``disk``, and fails. Names that match ``ignore`` are left out of that comparison.
    """
    root = Path(os.path.realpath(root))
    recording = Recording(root, _snapshot(root))
    originals = {name: getattr(disk, name) for name in disk.PRIMITIVES}
    recorder = _Recorder(recording, originals)
    for name in disk.PRIMITIVES:
        setattr(disk, name, recorder.wrapper(name))
    try:
        yield recording
    finally:
        for name, original in originals.items():
            setattr(disk, name, original)
    model = _Model(recording.before)
    for operation in recording.operations:
        model.apply(operation)
    expected, found = (_listing(folder, "persisted", ignore) for folder in (model.root, _snapshot(root)))
    bypassed = {name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)}
    assert not bypassed, f"changed without skillpack_store.disk: {sorted(bypassed)}"


def check_every_crash(
    recording: Recording,
    check: Callable[[Path], Any],
    *,
    variants: Sequence[str] = VARIANTS,
) -> int:
    """Call ``check`` with the folder as a crash would leave it, for every prefix of the recording and each variant.

    Args:
        recording: What ``record`` gave.
        check: Raises if the folder is not as it should be; may change it. States that are equal are checked once.
        variants: Which of ``VARIANTS`` to build.

    Returns:
        The number of different states that were checked.

    Raises:
        AssertionError: ``check`` raised; says after which call and in which variant.
    """
    seen: set[str] = set()
    with _scratch() as scratch:
        for count, model in enumerate(_prefixes(recording)):
            for variant in variants:
                key = repr(sorted(_listing(model.root, variant, ()).items()))
                key = hashlib.sha256(key.encode()).hexdigest()
                if key not in seen:
                    seen.add(key)
                    folder = scratch / f"{count}-{variant}"
                    _build(model.root, variant, folder)
                    _check_one(recording, count, variant, folder, check)
    return len(seen)


def rebuild(recording: Recording, count: int, variant: str, folder: Path) -> None:
    """Build in ``folder`` (which must not exist) what a crash after ``count`` calls would leave."""
    for reached, model in enumerate(_prefixes(recording)):
        if reached == count:
            _build(model.root, variant, folder)


def run_until_killed(number: int, snippet: str, *arguments: str) -> bool:
    """Run Python code in a process that kills itself (SIGKILL) before its ``number``-th primitive call, from 1.

    Args:
        number: Which call.
        snippet: The code; ``sys.argv[1:]`` are the arguments.
        arguments: Text for it.

    Returns:
        True if it was killed, False if it finished with fewer calls.

    Raises:
        AssertionError: It ended otherwise; shows what it wrote.
    """
    done = subprocess.run(
        [sys.executable, __file__, str(number), snippet, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode in {0, -signal.SIGKILL}, done.stdout + done.stderr
    return done.returncode != 0


class _Recorder:
    def __init__(self, recording: Recording, originals: dict[str, Callable[..., Any]]) -> None:
        self.recording = recording
        self.originals = originals
        self.open_files: dict[int, int] = {}
        self.opened = 0
        self.lock = threading.RLock()

    def wrapper(self, name: str) -> Callable[..., Any]:
        def call(first: Any, *rest: Any, **named: Any) -> Any:
            with self.lock:
                result = self.originals[name](first, *rest, **named)
                if name == "create":
                    self.created(first, result, *rest, **named)
                elif name in {"write", "sync", "close"}:
                    self.changed(name, first, *rest, **named)
                else:
                    self.named(name, first, *rest, *named.values())
                return result

        return call

    def created(self, path: Path, fd: int, mode: int = 0o644) -> None:
        relative = self.relative(path)
        if relative is not None:
            self.opened += 1
            self.open_files[fd] = self.opened
            self.recording.operations.append(Operation("create", (relative,), self.opened, mode=mode))

    def changed(self, name: str, fd: int, data: Any = b"") -> None:
        if fd in self.open_files:
            number = self.open_files.pop(fd) if name == "close" else self.open_files[fd]
            self.recording.operations.append(Operation(name, (), number, bytes(data)))

    def named(self, name: str, *arguments: Any) -> None:
        paths = [self.relative(path) for path in arguments[: 2 if name in {"rename", "link"} else 1]]
        inside = tuple(path for path in paths if path is not None)
        if not inside:
            return
        assert len(inside) == len(paths), f"{name} goes across the edge of the recorded folder: {arguments}"
        mode = arguments[1] if name == "set_mode" else 0
        self.recording.operations.append(Operation(name, inside, mode=mode))

    def relative(self, path: Path) -> str | None:
        # The last part is not resolved: it may be a link, and it is the link that is renamed or removed.
        absolute = Path.cwd() / path
        resolved = Path(os.path.realpath(absolute.parent)) / absolute.name
        if resolved == self.recording.root:
            return "."
        return (
            resolved.relative_to(self.recording.root).as_posix()
            if resolved.is_relative_to(self.recording.root)
            else None
        )


class _Model:
    """The folder as memory and disk see it."""

    def __init__(self, before: Folder) -> None:
        self.root = _snapshot_again(before)
        self.files: dict[int, File] = {}

    def apply(self, operation: Operation) -> None:
        getattr(self, f"do_{operation.name}")(operation)

    def parent(self, path: str) -> tuple[Folder, str]:
        *parts, name = path.split("/")
        return self.folder(parts), name

    def folder(self, parts: Sequence[str]) -> Folder:
        folder = self.root
        for part in parts:
            found = folder.names[part]
            assert isinstance(found, Folder)
            folder = found
        return folder

    def do_create(self, operation: Operation) -> None:
        folder, name = self.parent(operation.paths[0])
        file = File(b"", operation.mode)
        self.files[operation.fd] = folder.names[name] = file

    def do_write(self, operation: Operation) -> None:
        self.files[operation.fd].data += operation.data

    def do_sync(self, operation: Operation) -> None:
        file = self.files[operation.fd]
        file.synced = file.data

    def do_close(self, operation: Operation) -> None:
        del self.files[operation.fd]

    def do_rename(self, operation: Operation) -> None:
        (source, old), (target, new) = map(self.parent, operation.paths)
        node = source.names[old]
        # POSIX: renaming a file onto another name of itself does nothing.
        if target.names.get(new) is not node:
            del source.names[old]
            target.names[new] = node

    def do_link(self, operation: Operation) -> None:
        (source, old), (target, new) = map(self.parent, operation.paths)
        target.names[new] = source.names[old]

    def do_unlink(self, operation: Operation) -> None:
        folder, name = self.parent(operation.paths[0])
        del folder.names[name]

    do_rmdir = do_unlink

    def do_mkdir(self, operation: Operation) -> None:
        folder, name = self.parent(operation.paths[0])
        folder.names[name] = Folder()

    def do_sync_directory(self, operation: Operation) -> None:
        path = operation.paths[0]
        folder = self.folder([] if path == "." else path.split("/"))
        folder.synced = dict(folder.names)

    def do_set_mode(self, operation: Operation) -> None:
        folder, name = self.parent(operation.paths[0])
        node = folder.names[name]
        if isinstance(node, File):
            node.mode = operation.mode

    def do_touch(self, operation: Operation) -> None:
        """Times are not modelled."""


def _prefixes(recording: Recording) -> Iterator[_Model]:
    model = _Model(recording.before)
    yield model
    for operation in recording.operations:
        model.apply(operation)
        yield model


def _view(folder: Folder, variant: str) -> dict[str, Node]:
    return folder.synced if variant == "lost" else folder.names


def _content(file: File, variant: str) -> bytes:
    return file.data if variant == "persisted" else file.synced


def _listing(folder: Folder, variant: str, ignore: Sequence[str], prefix: str = "") -> dict[str, str]:
    listed = {}
    for name, node in _view(folder, variant).items():
        path = prefix + name
        if any(fnmatch.fnmatch(name, pattern) for pattern in ignore):
            continue
        if isinstance(node, Folder):
            listed[path] = "folder"
            listed.update(_listing(node, variant, ignore, f"{path}/"))
        elif isinstance(node, Symlink):
            listed[path] = f"link to {node.target}"
        else:
            listed[path] = hashlib.sha256(_content(node, variant)).hexdigest()
    return listed


def _build(folder: Folder, variant: str, target: Path, built: dict[int, Path] | None = None) -> None:
    built = {} if built is None else built
    target.mkdir()
    for name, node in _view(folder, variant).items():
        path = target / name
        if isinstance(node, Folder):
            _build(node, variant, path, built)
        elif isinstance(node, Symlink):
            path.symlink_to(node.target)
        elif id(node) in built:
            path.hardlink_to(built[id(node)])
        else:
            path.write_bytes(_content(node, variant))
            path.chmod(node.mode)
            built[id(node)] = path


def _snapshot(path: Path, seen: dict[tuple[int, int], File] | None = None) -> Folder:
    seen = {} if seen is None else seen
    folder = Folder()
    for entry in sorted(path.iterdir()):
        status = entry.lstat()
        identity = (status.st_dev, status.st_ino)
        if stat.S_ISDIR(status.st_mode):
            folder.names[entry.name] = _snapshot(entry, seen)
        elif stat.S_ISLNK(status.st_mode):
            folder.names[entry.name] = Symlink(str(entry.readlink()))
        else:
            if identity not in seen:
                seen[identity] = File(entry.read_bytes(), stat.S_IMODE(status.st_mode))
            folder.names[entry.name] = seen[identity]
    folder.synced = dict(folder.names)
    return folder


def _snapshot_again(folder: Folder, seen: dict[int, File] | None = None) -> Folder:
    """Copy a snapshot, in which everything is synced; hard links stay hard links."""
    seen = {} if seen is None else seen
    copy = Folder()
    for name, node in folder.names.items():
        if isinstance(node, Folder):
            copy.names[name] = _snapshot_again(node, seen)
        elif isinstance(node, File):
            copy.names[name] = seen.setdefault(id(node), File(node.data, node.mode))
        else:
            copy.names[name] = node
    copy.synced = dict(copy.names)
    return copy


def _check_one(recording: Recording, count: int, variant: str, folder: Path, check: Callable[[Path], Any]) -> None:
    try:
        check(folder)
    except Exception as error:
        last = recording.operations[count - 1] if count else "nothing"
        message = f"crash after {count} of {len(recording)} calls, the last one {last}, variant {variant}: {error!r}"
        raise AssertionError(message) from error
    shutil.rmtree(folder)


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    memory = Path("/dev/shm")
    base = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=base) as folder:
        yield Path(folder)


def _arm(number: int) -> None:
    left = [number]

    def armed(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **named)

        return call

    for name in disk.PRIMITIVES:
        setattr(disk, name, armed(getattr(disk, name)))


if __name__ == "__main__":
    _arm(int(sys.argv[1]))
    code = sys.argv[2]
    sys.argv[1:] = sys.argv[3:]
    exec(code, {"__name__": "__main__"})
