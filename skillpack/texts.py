"""Texts to measure or calibrate a model on: plain text, chats in JSON Lines, or a Hugging Face dataset."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from skillpack.errors import DataError, UsageError, listing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Message = dict[str, str]
"""One turn of a chat: ``{"role": …, "content": …}``."""

_ANSWERS: Final = ("completion", "answer", "response")
_FORMS: Final = (
    'one of {"messages": [{"role": …, "content": …}, …]}, {"prompt": …, "completion": …} '
    '(also "answer" or "response"), {"prompt": …}, {"text": …} and {"text": …, "label": …}'
)
_DATASET: Final = re.compile(r"(?P<name>.+?)(?::(?P<split>[\w.-]+))?")
_HUB_ID: Final = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:/(?P<config>[\w.-]+))?(?:@(?P<revision>[\w./-]+))?", re.ASCII)
_INSTALL: Final = 'python -m pip install "skillpack[data]"'


@dataclass(frozen=True)
class Sample:
    """A text or a chat.

    Attributes:
        messages: turns of a chat; empty for plain text. A last turn that is not the assistant's waits for an answer.
        text: plain text; empty for a chat.
        label: the class that the text belongs to, by number or by name; None if unknown.
        cut: the last answer was cut off, so that its end says nothing.
    """

    messages: tuple[Message, ...] = ()
    text: str = ""
    label: int | str | None = None
    cut: bool = False

    @property
    def is_prompt(self) -> bool:
        """Whether this is a chat that waits for an answer.

        >>> Sample(messages=({"role": "user", "content": "Hi"},)).is_prompt, Sample(text="Hi").is_prompt
        (True, False)
        """
        return bool(self.messages) and self.messages[-1]["role"] != "assistant"


def read_samples(source: str | Path, limit: int | None = None) -> list[Sample]:
    """Read texts and chats.

    Args:
        source: a ``.txt`` file (paragraphs between blank lines are samples); a ``.jsonl`` file with an object a line;
            the folder of a dataset; or a dataset of the Hub as ``org/name``, ``org/name/config`` or
            ``org/name@revision``. ``:split`` after a dataset chooses one of several splits. Objects and rows hold
            ``messages``, ``prompt`` with ``completion``, ``answer`` or ``response``, ``prompt`` alone, or ``text``,
            which may have a ``label``.
        limit: read at most so many samples, the first ones.

    Raises:
        DataError: the source is not found or is none of these; with the line that is at fault.
        UsageError: the limit is not positive.

    Example:
        >>> read_samples("held_out.jsonl", limit=100)  # doctest: +SKIP
    """
    if limit is not None and limit < 1:
        raise UsageError(f"{limit} samples cannot be read", hint="Ask for one or more.")
    path = Path(source).expanduser()
    found = _file_samples(path) if path.is_file() else _dataset_samples(str(source), limit)
    samples = list(islice(found, limit))
    if not samples:
        raise DataError(f"{source} holds no text", hint="Give a file or a dataset with at least one sample.")
    return samples


def _file_samples(path: Path) -> Iterator[Sample]:
    readers = {".txt": _paragraphs, ".jsonl": _json_lines}
    if path.suffix not in readers:
        raise DataError(
            f"{path}: texts are read from files that end in {' or '.join(readers)}",
            hint="Rename the file, or write one JSON object a line: " + _FORMS + ".",
        )
    try:
        yield from readers[path.suffix](path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error.reason}", hint="Save the file as UTF-8.") from error


def _paragraphs(path: Path) -> Iterator[Sample]:
    lines: list[str] = []
    with path.open(encoding="utf-8-sig") as file:
        for line in file:
            if line.strip():
                lines.append(line)
            elif lines:
                yield Sample(text="".join(lines).rstrip("\n"))
                lines = []
    if lines:
        yield Sample(text="".join(lines).rstrip("\n"))


def _json_lines(path: Path) -> Iterator[Sample]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            place = f"{path}, line {number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{place} is not JSON: {error}", hint=f"A line is {_FORMS}.") from error
            yield _sample(row, place)


def _sample(row: Any, place: str) -> Sample:
    if not isinstance(row, dict):
        raise _unfit(place, f"holds {_kind(row)} where an object is expected")
    if row.get("messages") is not None:
        return Sample(messages=_turns(row["messages"], f"{place}: messages"))
    if row.get("prompt") is not None:
        return Sample(messages=_exchange(row, place))
    if row.get("text") is not None:
        return Sample(text=_text(row["text"], f"{place}: text"), label=_label(row.get("label"), place))
    raise _unfit(place, f"has only {listing(sorted(map(str, row))) or 'no keys'}")


def _exchange(row: Mapping[str, Any], place: str) -> tuple[Message, ...]:
    answer = next((key for key in _ANSWERS if row.get(key) is not None), None)
    prompt = _part(row["prompt"], "user", f"{place}: prompt")
    return prompt if answer is None else prompt + _part(row[answer], "assistant", f"{place}: {answer}")


def _part(value: Any, role: str, place: str) -> tuple[Message, ...]:
    """Turns of a prompt or an answer: text of one role, or a list of turns as a chat has."""
    return _turns(value, place) if isinstance(value, list) else ({"role": role, "content": _text(value, place)},)


def _turns(value: Any, place: str) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise _unfit(place, f"{_kind(value)} where a list of turns is expected")
    turns = []
    for number, turn in enumerate(value, start=1):
        if not isinstance(turn, dict) or not all(isinstance(turn.get(key), str) for key in ("role", "content")):
            raise _unfit(place, f'turn {number} is not {{"role": text, "content": text}}')
        turns.append({"role": turn["role"], "content": turn["content"]})
    return tuple(turns)


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise _unfit(place, f"{_kind(value)} where text is expected")
    return value


def _label(value: Any, place: str) -> int | str | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, str))):
        raise _unfit(place, f"label: {_kind(value)} where the number or the name of a class is expected")
    return value


def _unfit(place: str, problem: str) -> DataError:
    return DataError(f"{place}: {problem}", hint=f"Expected is {_FORMS}.")


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "an empty list" if value == [] else "a list", str: "text", bool: "true or false"}
    return names.get(type(value), "nothing" if value is None else f"the {type(value).__name__} {value!a:.40}")


def _dataset_samples(source: str, limit: int | None) -> Iterator[Sample]:
    parts = _DATASET.fullmatch(source)
    folder = Path(source).expanduser()
    split = None
    if not folder.is_dir() and parts is not None:
        folder, split = Path(parts["name"]).expanduser(), parts["split"]
    hub_id = None if folder.is_dir() or parts is None else _HUB_ID.fullmatch(parts["name"])
    if not folder.is_dir() and hub_id is None:
        raise DataError(
            f"{source}: no such file or folder",
            hint="Give a .txt or .jsonl file, the folder of a dataset, or a dataset of the Hub such as org/name:test.",
        )
    rows = _rows(source, folder if hub_id is None else hub_id, split, limit)
    for number, row in enumerate(rows, start=1):
        yield _sample(row, f"{source}, row {number}")


def _rows(source: str, place: Path | re.Match[str], split: str | None, limit: int | None) -> Iterator[Any]:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"{source}: reading a dataset needs the library datasets, which is not installed", hint=_INSTALL
        ) from error
    try:
        yield from _one_split(source, _open_dataset(datasets, place, limit), split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"{source}: the dataset cannot be read: {error}") from error


def _open_dataset(datasets: Any, place: Path | re.Match[str], limit: int | None) -> Any:
    if not isinstance(place, Path):
        # Without a network only what was downloaded whole is there; with one, a few samples need no whole download.
        streaming = limit is not None and not datasets.config.HF_HUB_OFFLINE
        return datasets.load_dataset(place["repo"], place["config"], revision=place["revision"], streaming=streaming)
    if any((place / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return datasets.load_from_disk(str(place))
    return datasets.load_dataset(str(place), streaming=True)


def _one_split(source: str, dataset: Any, split: str | None) -> Sequence[Any] | Any:
    """The split that is asked for, or the only one there is."""
    if not isinstance(dataset, dict):
        if split is not None:
            raise DataError(f"{source}: the dataset has no splits", hint="Leave out what follows the colon.")
        return dataset
    if split is None and len(dataset) == 1:
        return next(iter(dataset.values()))
    if split not in dataset:
        name = source.removesuffix(f":{split}")
        problem = "several splits" if split is None else f"no split {split}"
        raise DataError(
            f"{source}: the dataset has {problem}; there are {listing(dataset)}",
            hint=f"Choose one: {name}:{next(iter(dataset))}",
        )
    return dataset[split]
