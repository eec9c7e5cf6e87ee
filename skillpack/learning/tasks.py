"""Tasks: what is to be learned, what it is measured on, and how; and files and folders that list them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from skillpack.errors import DataError, UsageError, listing
from skillpack.texts import Sample, read_samples
from skillpack_store import check_skill_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SCORES: Final = ("exact", "number", "label", "likelihood")
"""Names of the scores, see `skillpack.learning.scores`."""
_KEYS: Final = ("name", "train", "held_out", "score", "examples", "prompts")
_TRAIN: Final = ("train.jsonl", "train.txt")
_HELD_OUT: Final = ("held_out.jsonl", "held-out.jsonl", "test.jsonl", "held_out.txt", "held-out.txt", "test.txt")
_PROMPTS: Final = ("prompts.jsonl", "prompts.txt")
_FORM: Final = 'a task is {"name": …, "train": FILE, "held_out": FILE, "score": …}'


@dataclass(frozen=True, eq=False)
class Task:
    """Something to learn.

    Attributes:
        name: of the task and of its skill.
        train: texts to learn from, as `skillpack.texts.read_samples` reads them, or samples.
        held_out: the same, to measure with; never trained on.
        score: "exact", "number", "label" or "likelihood", see `skillpack.learning.scores`; None for "label" if the
            texts have labels, else "likelihood".
        examples: how many prompts a router is shown.
        prompts: these, with or without answers, where the task is asked for in other words than it is trained with; by
            default the training texts.

    Raises:
        StoreError: the name cannot be that of a skill.
        UsageError: there is no such score.
    """

    name: str
    train: str | Path | Sequence[Sample]
    held_out: str | Path | Sequence[Sample]
    score: str | None = None
    examples: int = 32
    prompts: str | Path | Sequence[Sample] | None = None

    def __post_init__(self) -> None:
        check_skill_name(self.name)
        if self.score is not None and self.score not in SCORES:
            raise UsageError(f"{self.name}: there is no score {self.score!a}", hint=f"Choose {listing(SCORES)}.")
        if self.examples < 1:
            raise UsageError(f"{self.name}: {self.examples} examples show a router nothing", hint="32 are usual.")

    @cached_property
    def training(self) -> list[Sample]:
        """The texts to learn from.

        Raises:
            DataError: they cannot be read, or none of them has an answer, a label or a text.
        """
        return self._samples(self.train, "train")

    @cached_property
    def shown(self) -> list[Sample]:
        """What a router is shown.

        Raises:
            DataError: they cannot be read, or there are none.
        """
        found = self.training if self.prompts is None else self._samples(self.prompts, "prompts")
        return found[: self.examples]

    @cached_property
    def measured(self) -> list[Sample]:
        """The texts to measure with.

        Raises:
            DataError: they cannot be read, or do not fit the score.
        """
        found = self._samples(self.held_out, "held_out")
        wrong = [place for place, sample in enumerate(found, start=1) if not _fits(sample, self.measure)]
        if wrong:
            needed = {"label": "a text with a label", "likelihood": "a text or an answer"}
            raise DataError(
                f"{self.name}: held-out samples {listing(map(str, wrong))} do not fit the score {self.measure}",
                hint=f"Each needs {needed.get(self.measure, 'a prompt with one answer')}.",
            )
        return found

    @cached_property
    def measure(self) -> str:
        """The score's name, also where none was given."""
        labelled = any(sample.label is not None for sample in self.training)
        return self.score or ("label" if labelled else "likelihood")

    @cached_property
    def key(self) -> str:
        """Digest of all that decides the task: its name, every sample, and the score; hexadecimal."""
        content: dict[str, Any] = {"name": self.name, "score": self.measure, "examples": self.examples}
        decisive = ["training", "measured", *([] if self.prompts is None else ["shown"])]
        content |= {what: [asdict(each) for each in getattr(self, what)] for what in decisive}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def _samples(self, source: str | Path | Sequence[Sample], what: str) -> list[Sample]:
        samples = read_samples(source) if isinstance(source, str | Path) else list(source)
        if not samples:
            raise DataError(f"{self.name}: {what} holds no sample")
        if what == "train" and (prompts := sum(sample.is_prompt for sample in samples)):
            raise DataError(
                f"{self.name}: {prompts} of {len(samples)} training samples wait for an answer",
                hint="Give every prompt an answer to learn.",
            )
        return samples


def read_tasks(source: str | Path | Iterable[Task]) -> list[Task]:
    """Read a list of tasks, in the order in which they are to be learned.

    Args:
        source: a ``.yaml`` or ``.json`` file with a list of tasks, or with the key ``tasks`` that holds it; paths in it
            are relative to the file. Or a folder with a folder for each task, learned in the order of their names, each
            with ``train.jsonl`` and ``held_out.jsonl`` and, if wanted, ``prompts.jsonl``, and ``task.json`` with a
            score and examples. Or tasks.

    Raises:
        DataError: it is none of these, or a task is incomplete.
        UsageError: two tasks have one name, or there is none.
    """
    if not isinstance(source, str | Path):
        tasks = list(source)
    else:
        path = Path(source).expanduser()
        tasks = list(_folder_tasks(path) if path.is_dir() else _file_tasks(path))
    names = [task.name for task in tasks]
    if not tasks:
        raise UsageError(f"{source} holds no task" if isinstance(source, str | Path) else "there is no task to learn")
    if len(set(names)) < len(names):
        twice = listing(sorted({name for name in names if names.count(name) > 1}))
        raise UsageError(f"two tasks have the name {twice}", hint="A task's name is that of its skill.")
    return tasks


def _fits(sample: Sample, measure: str) -> bool:
    if measure == "label":
        return sample.label is not None
    if measure == "likelihood":
        return not sample.is_prompt
    return len(sample.messages) > 1 and sample.messages[-1]["role"] == "assistant"


def _file_tasks(path: Path) -> Iterable[Task]:
    document = _document(path)
    rows = document.get("tasks") if isinstance(document, dict) else document
    if not isinstance(rows, list):
        raise DataError(f"{path} holds no list of tasks", hint=f"Expected is a list; {_FORM}.")
    for number, row in enumerate(rows, start=1):
        yield _task(row, f"{path}, task {number}", path.parent)


def _folder_tasks(path: Path) -> Iterable[Task]:
    for folder in sorted(each for each in path.iterdir() if each.is_dir() and not each.name.startswith(".")):
        settings = _document(folder / "task.json") if (folder / "task.json").is_file() else {}
        if not isinstance(settings, dict):
            raise DataError(f"{folder / 'task.json'} holds no object", hint='Such as {"score": "exact"}.')
        files = {"train": _first(folder, _TRAIN), "held_out": _first(folder, _HELD_OUT)}
        if (prompts := _present(folder, _PROMPTS)) is not None:
            files["prompts"] = prompts
        # Numbers in front of a name put folders into order and are no part of it.
        name = folder.name.lstrip("0123456789").lstrip("-_. ") or folder.name
        yield _task({"name": name, **files, **settings}, str(folder), folder)


def _first(folder: Path, names: Sequence[str]) -> str:
    found = _present(folder, names)
    if found is None:
        raise DataError(f"{folder} has no {names[0]}", hint="A task's folder holds train.jsonl and held_out.jsonl.")
    return found


def _present(folder: Path, names: Sequence[str]) -> str | None:
    """The first of these files that is there."""
    return next((name for name in names if (folder / name).is_file()), None)


def _document(path: Path) -> Any:
    import yaml

    if path.suffix not in {".yaml", ".yml", ".json"}:
        raise DataError(f"{path}: tasks are read from a .yaml or .json file, or from a folder")
    try:
        text = path.read_text("utf-8-sig")
        return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise DataError(f"{path} cannot be understood: {error}", hint=_FORM[0].upper() + _FORM[1:] + ".") from error


def _task(row: Any, place: str, folder: Path) -> Task:
    if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("name", "train", "held_out")):
        raise DataError(f"{place} is incomplete", hint=_FORM[0].upper() + _FORM[1:] + ".")
    if unknown := sorted(str(key) for key in row.keys() - set(_KEYS)):
        raise DataError(f"{place} has the unknown {listing(unknown)}", hint=f"Known are {listing(_KEYS)}.")
    if not isinstance(row.get("examples", 1), int) or isinstance(row.get("examples"), bool):
        raise DataError(f"{place}: examples is no number")
    if not isinstance(row.get("prompts", ""), str):
        raise DataError(f"{place}: prompts is no file")
    paths = {key: _path(row[key], folder) for key in ("train", "held_out", "prompts") if key in row}
    return Task(**{**row, **paths})


def _path(text: str, folder: Path) -> str | Path:
    """A file beside the list; what is not there may be a dataset of the Hub."""
    path = folder / Path(text).expanduser()
    return path if path.exists() else text
