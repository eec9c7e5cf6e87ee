"""The part of a check that is not about blobs: layout, folders, refs, ``index.json``, and what does not belong."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING

from skillpack_store.blob_files import FileProblem, look
from skillpack_store.descriptors import DOCUMENT_LIMIT, Descriptor, parse_json
from skillpack_store.errors import CorruptStoreError, NotFoundError, StoreError
from skillpack_store.findings import Affected, Finding, Problem
from skillpack_store.refs import KINDS, SHARED_KINDS, check_ref, pruned_marks
from skillpack_store.repository import OWN_NAMES
from skillpack_store.view import foreign_entries, index_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from skillpack_store.refs import RefValue
    from skillpack_store.repository import Repository
    from skillpack_store.walking import Walk

__all__ = ["check_folders", "check_foreign", "check_index", "check_layout", "check_names", "check_refs"]

_ENTRY = re.compile(r"[1-9][0-9]{0,8}")
_PRUNED = re.compile(r"[1-9][0-9]{0,8}\.pruned")
_HEX = re.compile(r"[0-9a-f]{64}")
_TEMPORARY = re.compile(r"\..+\.(tmp|partial)")


def check_layout(repository: Repository) -> Iterator[Finding]:
    """Yield what is wrong with ``oci-layout``."""
    path = repository.path / "oci-layout"
    try:
        if look(path) is None:
            yield Finding(Problem.LAYOUT_DAMAGED, path.name, "It is missing, so nothing opens the store.")
            return
        with path.open("rb") as file:
            document = parse_json(file.read(DOCUMENT_LIMIT + 1), limit=DOCUMENT_LIMIT)
    except FileProblem as found:
        yield Finding(Problem.LAYOUT_DAMAGED, path.name, found.detail)
    except (OSError, ValueError) as error:
        yield Finding(Problem.LAYOUT_DAMAGED, path.name, f"It cannot be read: {error}.")
    else:
        if document != {"imageLayoutVersion": "1.0.0"}:
            yield Finding(Problem.LAYOUT_DAMAGED, path.name, "It does not say that this is an image layout 1.0.0.")


def check_folders(repository: Repository) -> Iterator[Finding]:
    """Yield the folders that every store has and this one does not."""
    for name in ("blobs/sha256", *(f"refs/{kind}" for kind in SHARED_KINDS)):
        path = repository.path / name
        links = [part for part in (path, path.parent) if part.is_symlink()]
        if links or not path.is_dir():
            kind = "a symbolic link" if links else "not a folder" if path.exists() else "missing"
            refs = () if name == "blobs/sha256" else (name.removeprefix("refs/"),)
            yield Finding(Problem.FOLDER_DAMAGED, name, f"It is {kind}.", affected=Affected(refs=refs))


def check_refs(repository: Repository, entries: dict[str, list[RefValue]]) -> Iterator[Finding]:
    """Yield what is wrong with the entries of refs.

    Args:
        repository: The store.
        entries: Filled with ref -> its entries that can be read, the newest last.
    """
    for kind in SHARED_KINDS:
        yield from _check_kind(repository, kind, entries)
    remotes = repository.refs.folder / "remotes"
    for folder in sorted(remotes.iterdir()) if remotes.is_dir() else []:
        if problem := _wrong_folder(folder, f"remotes/{folder.name}"):
            yield problem
        else:
            yield from _check_kind(repository, f"remotes/{folder.name}", entries)


def _check_kind(repository: Repository, kind: str, entries: dict[str, list[RefValue]]) -> Iterator[Finding]:
    for folder in sorted((repository.refs.folder / kind).iterdir()):
        ref = f"{kind}/{folder.name}"
        if problem := _wrong_folder(folder, ref):
            yield problem
        else:
            entries[ref] = []
            yield from _check_ref(repository, ref, folder, entries[ref])


def _wrong_folder(folder: Path, ref: str) -> Finding | None:
    if not _is_ref(folder.name):
        return _stray(folder, f"refs/{ref}")
    if folder.is_symlink() or not folder.is_dir():
        what = "a symbolic link" if folder.is_symlink() else "not a folder"
        return Finding(Problem.FOLDER_DAMAGED, f"refs/{ref}", f"It is {what}.", affected=Affected(refs=(ref,)))
    return None


def check_index(repository: Repository, entries: Mapping[str, list[RefValue]], reported: set[str]) -> Iterator[Finding]:
    """Yield what is wrong with ``index.json``, and the refs of which it knows newer entries than there are.

    Args:
        repository: The store.
        entries: Ref -> its entries.
        reported: Refs with which something is wrong anyway; nothing is said about them here.
    """
    path = repository.path / "index.json"
    try:
        foreign_entries(repository)
    except CorruptStoreError as error:
        yield Finding(Problem.INDEX_DAMAGED, path.name, error.message)
        return
    if reported:
        return
    expected, listed = index_bytes(repository)
    found = path.read_bytes() if path.exists() else None
    if found == expected:
        return
    unlisted = {values[-1].digest for ref, values in entries.items() if ref not in listed and values}
    lost = [
        ref
        for ref, digest in sorted(listed.items())
        if _is_lost(repository, ref, digest, entries) and digest not in unlisted
    ]
    for ref in lost:
        detail = "index.json shows a newer entry than the last one that is there."
        yield Finding(Problem.REF_ENTRY_MISSING, f"refs/{ref}", detail, affected=Affected(refs=(ref,)))
    if not lost:
        what = "missing" if found is None else "not what the refs say"
        yield Finding(Problem.INDEX_STALE, path.name, f"It is {what}. The next change of a ref writes it anew.")


def check_foreign(repository: Repository, walk: Walk) -> Iterator[Finding]:
    """Visit what another tool added to ``index.json``, and yield what is wrong with the entries themselves."""
    with contextlib.suppress(CorruptStoreError):
        for entry in foreign_entries(repository):
            try:
                blob = Descriptor.from_json(entry)
            except ValueError as error:
                yield Finding(Problem.INDEX_DAMAGED, "index.json", f"An entry of another program is damaged: {error}.")
                continue
            media_type = walk.foreign(blob)
            if media_type not in {None, blob.media_type}:
                detail = f"It says that {blob.digest} is {blob.media_type}, which says itself that it is {media_type}."
                yield Finding(Problem.INDEX_DAMAGED, "index.json", detail)


def check_names(repository: Repository) -> Iterator[Finding]:
    """Yield the files and folders that do not belong to a store."""
    for path in sorted(repository.path.iterdir()):
        if path.name not in OWN_NAMES:
            yield _stray(path, path.name)
    for path in sorted((repository.path / "blobs").iterdir()):
        if path.name != "sha256":
            yield _stray(path, f"blobs/{path.name}")
    for path in sorted(repository.blobs.folder.iterdir()):
        if not _HEX.fullmatch(path.name):
            yield _stray(path, f"blobs/sha256/{path.name}")
    for path in sorted(repository.refs.folder.iterdir()):
        if path.name not in KINDS:
            yield _stray(path, f"refs/{path.name}")


def _check_ref(repository: Repository, ref: str, folder: Path, readable: list[RefValue]) -> Iterator[Finding]:
    affected = Affected(refs=(ref,))
    for path in sorted(folder.iterdir(), key=lambda path: (len(path.name), path.name)):
        name = f"refs/{ref}/{path.name}"
        if _PRUNED.fullmatch(path.name):
            if problem := _wrong_mark(path):
                yield Finding(Problem.REF_ENTRY_DAMAGED, name, problem, affected=affected)
        elif not _ENTRY.fullmatch(path.name):
            yield _stray(path, name)
        else:
            try:
                if look(path) is not None:
                    readable.append(repository.refs.entry(ref, int(path.name)))
            except NotFoundError:
                continue
            except (CorruptStoreError, FileProblem, OSError) as error:
                detail = getattr(error, "message", None) or str(error)
                yield Finding(Problem.REF_ENTRY_DAMAGED, name, detail, affected=affected)
    yield from _gaps(repository, ref, folder, affected)


def _gaps(repository: Repository, ref: str, folder: Path, affected: Affected) -> Iterator[Finding]:
    # The numbers first: a collection writes its mark before it removes entries.
    numbers = repository.refs.numbers(ref)
    pruned = max(pruned_marks(folder), default=0)
    if not numbers:
        problem = Problem.REF_ENTRY_MISSING if pruned else Problem.REF_EMPTY
        yield Finding(problem, f"refs/{ref}", "It has no entries.", affected=affected if pruned else Affected())
        return
    missing = sorted(set(range(pruned + 1, numbers[-1])) - set(numbers))
    if missing and set(missing) & set(range(max(pruned_marks(folder), default=0) + 1, numbers[-1])):
        detail = f"Entry {missing[0]} is not there, and was not pruned."
        yield Finding(Problem.REF_ENTRY_MISSING, f"refs/{ref}", detail, affected=affected)


def _wrong_mark(path: Path) -> str:
    try:
        found = look(path)
    except FileProblem as problem:
        return problem.detail
    return f"It should be empty, and has {found.size} bytes." if found is not None and found.size else ""


def _is_lost(repository: Repository, ref: str, digest: str, entries: Mapping[str, list[RefValue]]) -> bool:
    """Tell whether ``index.json`` knows an entry of a ref that is not there any more."""
    kind, _, name = ref.partition("/")
    known = {value.digest for value in entries.get(ref, ())}
    if kind not in SHARED_KINDS or not _is_ref(name) or digest in known:
        return False
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if pruned_marks(repository.refs.folder / ref):
            return False
    with contextlib.suppress(ValueError):
        return repository.blobs.peek(digest) is not None
    return False


def _is_ref(name: str) -> bool:
    try:
        check_ref(name)
    except StoreError:
        return False
    return True


def _stray(path: Path, name: str) -> Finding:
    if _TEMPORARY.fullmatch(path.name) and not path.is_dir():
        detail = "Somebody is writing it, or was interrupted; gc removes it when it is old."
        return Finding(Problem.LEFTOVER_FILE, name, detail)
    return Finding(Problem.STRAY_FILE, name, "It does not belong to a store.")
