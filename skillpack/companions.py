"""The files beside the weights: which of them a skill carries, and how a change to one is written down.

JSON files are compared by what they mean, and a change is the least JSON Patch (RFC 6902; only the operations add,
replace and remove) that makes the base's file mean what the tuned one does. Other files are compared by their bytes.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from skillpack.errors import ConflictError, DamagedSkillError, WrongBaseError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

_CARRIED: Final = re.compile(r".+\.(json|jinja|model|tiktoken|spm)|vocab\.txt|merges\.txt|tokenizer\.model\.v\d+")
_NOT_CARRIED: Final = re.compile(
    r".*\.index\.json|adapter_config\.json|trainer_state\.json|(all|train|eval|predict|test)_results\.json"
)
_RESERVED: Final = re.compile(r"(?i)con|prn|aux|nul|com[0-9]|lpt[0-9]")
_SAFE_PART: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9 ._+@=-]{0,199}")
# What the libraries note about the run that wrote a file; no model or tokenizer behaves differently for it.
_SILENT_KEYS: Final = frozenset(
    {"transformers_version", "_name_or_path", "name_or_path", "_commit_hash", "is_local", "local_files_only"}
)
# `tokenizers` fills these in when it writes a file that lacks them (tokenizers/src, serde defaults).
_TOKENIZER_DEFAULTS: Final[Mapping[str, Any]] = {
    "fuse_unk": False,
    "byte_fallback": False,
    "ignore_merges": False,
    "use_regex": True,
    "split": True,
    "single_word": False,
    "lstrip": False,
    "rstrip": False,
    "special": False,
}
_MAX_DEPTH: Final = 100
_SMALL_PATCH: Final = 4096


@dataclass(frozen=True)
class FileChange:
    """How one file of the tuned model differs from the base's.

    Attributes:
        path: relative, with forward slashes.
        kind: "whole": `content` is the file. "patch": `content` is a JSON Patch for the base's file.
        content: UTF-8 for a patch.

    Raises:
        DamagedSkillError: a path that a skill may not write to.
    """

    path: str
    kind: Literal["patch", "whole"]
    content: bytes

    def __post_init__(self) -> None:
        if self.kind not in {"patch", "whole"}:
            raise DamagedSkillError(f"{self.path!a}: unknown kind of file change {self.kind!a}")
        parts = self.path.split("/")
        if not all(map(_is_safe, parts)) or not carries(self.path):
            raise DamagedSkillError(
                f"A skill may not change the file {self.path!a}",
                hint="Only tokenizer, template and config files with plain names are carried.",
            )


def _is_safe(part: str) -> bool:
    # A device name stays one with any extension on Windows.
    reserved = _RESERVED.fullmatch(part.partition(".")[0].rstrip())
    return _SAFE_PART.fullmatch(part) is not None and part[-1] not in " ." and reserved is None


def carries(path: str) -> bool:
    """Whether a skill carries this file: tokenizer, template and config files; no weights, code or training state.

    >>> [carries(name) for name in ("tokenizer.json", "1_Pooling/config.json", "model.safetensors.index.json")]
    [True, True, False]
    """
    name = PurePosixPath(path).name
    return bool(_CARRIED.fullmatch(name)) and not _NOT_CARRIED.fullmatch(name)


def find_companions(folder: Path, nested: Sequence[str] = ()) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Files of a model folder that a skill may carry, and its code files, which it never does.

    Args:
        folder: the model.
        nested: sub-folders that belong to the model, such as ``1_Pooling``.

    Returns:
        Relative path -> file, sorted; and the relative paths of ``.py`` files.
    """
    found = {}
    for place in ("", *nested):
        for file in (folder / place).iterdir():
            if file.is_file():
                found[(PurePosixPath(place) / file.name).as_posix()] = file
    carried = {path: found[path] for path in sorted(found) if carries(path)}
    return carried, tuple(path for path in sorted(found) if path.endswith(".py"))


def difference(base: Mapping[str, Path], tuned: Mapping[str, Path]) -> list[FileChange]:
    """What turns the base's files into the tuned model's. Files that only the base has stay as they are.

    Args:
        base: relative path -> file.
        tuned: the same for the tuned model.

    Returns:
        Changes sorted by path; none for files that mean the same.
    """
    changes = []
    for path in sorted(tuned):
        content = tuned[path].read_bytes()
        current = base[path].read_bytes() if path in base else None
        change = FileChange(path, "whole", content) if current is None else change_between(path, current, content)
        if change is not None:
            changes.append(change)
    return changes


def apply(change: FileChange, current: bytes | None) -> bytes:
    """The content of a file once `change` is made.

    Args:
        change: what to do.
        current: the base's content; None when the base has no such file.

    Returns:
        New content; a patched JSON file is written with two spaces of indentation and a line break at the end.

    Raises:
        WrongBaseError: the patch does not fit `current`.
        DamagedSkillError: the patch itself is malformed.
    """
    if change.kind == "whole":
        return change.content
    operations = _read_patch(change)
    document = None if current is None else _load(current)
    if document is None:
        raise WrongBaseError(f"{change.path}: the skill changes this file, but the base has none that is valid JSON")
    try:
        for operation in operations:
            document = operation.apply(document)
        return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        raise WrongBaseError(
            f"{change.path}: the skill's change does not fit this file ({error})",
            hint="The file differs from the one that the skill was packed from.",
        ) from error


def combine(skills: Mapping[str, Sequence[FileChange]]) -> list[FileChange]:
    """The file changes of several skills as one; saying the same thing twice is no conflict.

    Args:
        skills: name of a skill, for messages -> its changes.

    Returns:
        One change a path, sorted; independent of the order of `skills`.

    Raises:
        ConflictError: two skills set the same file, or the same place in it, to different content.
    """
    claims: dict[str, dict[str, FileChange]] = {}
    for skill in sorted(skills):
        for change in skills[skill]:
            claims.setdefault(change.path, {})[skill] = change
    return [_combine_file(path, claims[path]) for path in sorted(claims)]


class _Operation(NamedTuple):
    """One step of a patch: `op` at the place `keys`; a last key of "-" appends to a list."""

    op: str
    keys: tuple[str, ...]
    value: Any

    def to_json(self) -> dict[str, Any]:
        pointer = "".join("/" + key.replace("~", "~0").replace("/", "~1") for key in self.keys)
        written = {"op": self.op, "path": pointer}
        return written if self.op == "remove" else {**written, "value": self.value}

    def apply(self, document: Any) -> Any:
        if not self.keys:
            return self.value
        parent = document
        for key in self.keys[:-1]:
            parent = parent[key]
        last = self.keys[-1]
        if isinstance(parent, list):
            if (self.op, last) != ("add", "-"):
                raise LookupError(f"no {self.op} within the list at {self.keys}")
            parent.append(self.value)
        elif (last in parent) == (self.op == "add"):
            raise LookupError(f"{'already' if self.op == 'add' else 'not'} there: {self.to_json()['path']}")
        elif self.op == "remove":
            del parent[last]
        else:
            parent[last] = self.value
        return document


def change_between(path: str, current: bytes, content: bytes) -> FileChange | None:
    """What turns one content of a file into another; None if they mean the same."""
    if current == content:
        return None
    whole = FileChange(path, "whole", content)
    before, after = _load(current), _load(content)
    if not path.endswith(".json") or not isinstance(before, dict) or not isinstance(after, dict):
        return whole
    steps = list(_steps(before, _as_base_says_it(PurePosixPath(path).name, before, after), ()))
    if not steps:
        return None
    try:
        patch = FileChange(path, "patch", _write_patch(steps))
    except UnicodeEncodeError:
        return whole
    # In a small file the few bytes matter less than that another skill can change the rest of it.
    return patch if len(patch.content) <= max(len(content), _SMALL_PATCH) else whole


def _steps(before: Any, after: Any, keys: tuple[str, ...]) -> Iterator[_Operation]:
    """Least operations from `before` to `after`: objects by key, lists by what was appended, all else replaced."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted(before.keys() | after.keys()):
            if key not in after:
                yield _Operation("remove", (*keys, key), None)
            elif key not in before:
                yield _Operation("add", (*keys, key), after[key])
            else:
                yield from _steps(before[key], after[key], (*keys, key))
    elif _same(before, after):
        return
    elif isinstance(before, list) and isinstance(after, list) and _same(before, after[: len(before)]):
        for value in after[len(before) :]:
            yield _Operation("add", (*keys, "-"), value)
    else:
        yield _Operation("replace", keys, after)


def _same(left: Any, right: Any) -> bool:
    """Equality of JSON values; 1 equals 1.0, but neither equals true."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    return isinstance(left, bool) == isinstance(right, bool) and bool(left == right)


def _as_base_says_it(name: str, base: dict[str, Any], tuned: dict[str, Any]) -> dict[str, Any]:
    """The tuned document, with everything that only its writer chose taken from the base's document."""
    silent = _SILENT_KEYS
    if name == "tokenizer.json":
        # transformers sets both for every call from the call's arguments; the file keeps the last call's.
        silent = silent | {"padding", "truncation"}
    tuned = {key: value for key, value in tuned.items() if key not in silent}
    tuned |= {key: base[key] for key in silent & base.keys()}
    if name == "config.json" and "torch_dtype" in base and "dtype" in tuned and "torch_dtype" not in tuned:
        # transformers 5 writes the former name of the same setting anew.
        tuned["torch_dtype"] = tuned.pop("dtype")
    if name == "tokenizer.json":
        _merges_as_base_writes(base.get("model"), tuned.get("model"))
        _defaults_as_base_writes(base, tuned)
    return tuned


def _merges_as_base_writes(base: Any, tuned: Any) -> None:
    """Merges are ``["a", "b"]`` since tokenizers 0.20 and ``"a b"`` before; write the tuned ones like the base's."""
    if not isinstance(base, dict) or not isinstance(tuned, dict):
        return
    first, merges = base.get("merges"), tuned.get("merges")
    if not isinstance(first, list) or not isinstance(merges, list) or not first:
        return
    if isinstance(first[0], str) and all(_is_plain_pair(pair) for pair in merges):
        tuned["merges"] = [" ".join(pair) for pair in merges]
    elif isinstance(first[0], list) and all(isinstance(text, str) and text.count(" ") == 1 for text in merges):
        tuned["merges"] = [text.split(" ") for text in merges]


def _is_plain_pair(pair: Any) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and all(isinstance(s, str) and " " not in s for s in pair)


def _defaults_as_base_writes(base: Any, tuned: Any) -> None:
    """Drop or add keys of `tuned` (in place) where one document leaves out the default that the other spells out."""
    if isinstance(base, list) and isinstance(tuned, list):
        for left, right in zip(base, tuned, strict=False):
            _defaults_as_base_writes(left, right)
    if not isinstance(base, dict) or not isinstance(tuned, dict):
        return
    for key in base.keys() ^ tuned.keys():
        holder = base if key in base else tuned
        if not _same(holder[key], _TOKENIZER_DEFAULTS.get(key)):
            continue
        if holder is base:
            tuned[key] = base[key]
        else:
            del tuned[key]
    for key in base.keys() & tuned.keys() - {"vocab", "merges"}:
        _defaults_as_base_writes(base[key], tuned[key])


def _combine_file(path: str, claims: Mapping[str, FileChange]) -> FileChange:
    distinct = set(claims.values())
    if len(distinct) == 1:
        return distinct.pop()
    if any(change.kind == "whole" for change in distinct):
        _conflict(path, "", claims)
    merged: dict[tuple[str, ...], tuple[str, list[_Operation]]] = {}
    for skill, change in claims.items():
        for place, steps in _by_place(_read_patch(change)).items():
            other, earlier = merged.setdefault(place, (skill, steps))
            if not _same([step.to_json() for step in earlier], [step.to_json() for step in steps]):
                _conflict(path, "/".join(place), (other, skill))
    for place, (skill, _) in merged.items():
        for length in range(len(place)):
            if place[:length] in merged:
                _conflict(path, "/".join(place), (merged[place[:length]][0], skill))
    return FileChange(path, "patch", _write_patch([step for place in sorted(merged) for step in merged[place][1]]))


def _by_place(operations: Sequence[_Operation]) -> dict[tuple[str, ...], list[_Operation]]:
    places: dict[tuple[str, ...], list[_Operation]] = {}
    for operation in operations:
        places.setdefault(operation.keys, []).append(operation)
    return places


def _conflict(path: str, place: str, skills: Mapping[str, FileChange] | tuple[str, str]) -> None:
    where = f"{place} in {path}" if place else path
    raise ConflictError(
        f"The skills {' and '.join(sorted(set(skills)))} set {where} to different content",
        place=where,
        hint="Install one of them, or pack them with the same file.",
    )


def _write_patch(operations: Sequence[_Operation]) -> bytes:
    steps = [operation.to_json() for operation in operations]
    return json.dumps(steps, ensure_ascii=False, separators=(",", ":")).encode()


def _read_patch(change: FileChange) -> list[_Operation]:
    document = _load(change.content, pairs=_no_duplicates)
    if not isinstance(document, list) or not all(_is_step(step) for step in document):
        raise DamagedSkillError(f"The skill's change to {change.path} is not a valid patch")
    return [_Operation(step["op"], _keys(step["path"]), step.get("value")) for step in document]


def _is_step(step: Any) -> bool:
    if not isinstance(step, dict) or not isinstance(step.get("path"), str) or not re.match("/|$", step["path"]):
        return False
    if step.get("op") == "remove":
        return step.keys() == {"op", "path"} and step["path"] != ""
    return step.get("op") in {"add", "replace"} and step.keys() == {"op", "path", "value"}


def _keys(pointer: str) -> tuple[str, ...]:
    return tuple(key.replace("~1", "/").replace("~0", "~") for key in pointer.split("/")[1:])


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        raise ValueError("a key occurs twice")
    return document


def _load(content: bytes, pairs: Callable[[list[tuple[str, Any]]], dict[str, Any]] | None = None) -> Any:
    """The value of a JSON text, or None where it is not valid JSON or nested so deeply that no model's file is it."""
    try:
        document = json.loads(content, object_pairs_hook=pairs)
    except (ValueError, RecursionError):
        return None
    level = [document]
    for _ in range(_MAX_DEPTH):
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return document
    return None
