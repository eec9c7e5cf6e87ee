"""The texts that something about skills is learned from, drawn in small batches."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from skillpack.errors import DataError, UsageError
from skillpack.evaluating.labels import class_numbers
from skillpack.live.batches import Batch, encode, padding_token
from skillpack.live.predictions import longest, task_of
from skillpack.texts import Sample, read_samples

Source = str | Path | Sequence[Sample] | Sequence[str | Path] | Sequence[Sequence[Sample]]
"""What `skillpack.texts.read_samples` reads, or samples; or several of either, one for each task."""


class Piece(NamedTuple):
    """Texts that go through the model together.

    Attributes:
        batch: with the predictions that count.
        shares: of each prediction in the loss, fp32; those of a task in one draw sum to 1.
        targets: what is right for each of these, int64; None where nothing is known.
    """

    batch: Batch
    shares: torch.Tensor
    targets: torch.Tensor | None

    def to(self, device: torch.device) -> Piece:
        """The same on another device."""
        batch = self.batch
        ids, mask, scored = (each.to(device) for each in (batch.input_ids, batch.attention_mask, batch.scored))
        targets = None if self.targets is None else self.targets.to(device)
        return Piece(Batch(ids, mask, scored, batch.sample), self.shares.to(device), targets)


def read_groups(data: Source) -> list[list[Sample]]:
    """Read one source, or one for each task.

    Args:
        data: a source; of several, each step of learning draws from all.

    Raises:
        DataError: see `skillpack.texts.read_samples`.
    """
    if isinstance(data, (str, Path)):
        return [read_samples(data)]
    samples = [each for each in data if isinstance(each, Sample)]
    groups = [read_samples(each) for each in data if isinstance(each, (str, Path))]
    groups += [list(each) for each in data if isinstance(each, (list, tuple))]
    if samples:
        groups.append(samples)
    if not groups or not all(groups):
        raise UsageError("There are no texts to learn from", hint="Give a file of prompts: --data prompts.jsonl")
    return groups


def digest_of_samples(groups: Sequence[Sequence[Sample]]) -> str:
    """SHA-256 of what the texts say, hex, for the recipe; where they came from does not matter."""
    document = [[asdict(sample) for sample in group] for group in groups]
    return hashlib.sha256(json.dumps(document, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


@dataclass(frozen=True)
class _Group:
    """The texts of one task, those with something to predict."""

    samples: tuple[Sample, ...]
    numbers: torch.Tensor | None


class Examples:
    """Texts of one or several tasks, of which each step draws a few, without repeating one before all had their turn.

    Args:
        groups: texts of each task.
        model: the live model.
        tokenizer: of the model.
        batch: texts of each task that a step draws.
        max_tokens: texts that are longer are cut.
        seed: of the order in which they are drawn.
        labelled: answers or classes are learned from, so that every text needs one.

    Raises:
        DataError: nothing in a task's texts can be predicted, or a label or an answer is missing.
        UsageError: the batch or the number of tokens is not positive.
    """

    def __init__(
        self,
        groups: Sequence[Sequence[Sample]],
        model: Any,
        tokenizer: Any,
        *,
        batch: int,
        max_tokens: int,
        seed: int,
        labelled: bool,
    ) -> None:
        if batch < 1 or max_tokens < 2:
            raise UsageError("A batch has at least one text, and a text at least two tokens")
        self._tokenizer, self._batch = tokenizer, batch
        self._classes = task_of(model) == "class"
        self._limit = longest(model, tokenizer, max_tokens)
        # A classifier on a decoder finds the end of a text by the padding that its configuration names.
        self._alone = self._classes and model.config.pad_token_id != padding_token(tokenizer)
        self._labelled = labelled
        self._groups = [self._usable(group, model) for group in groups]
        draws = torch.Generator().manual_seed(seed)
        self._turns = [in_turn(len(group.samples), batch, draws) for group in self._groups]

    @property
    def tasks(self) -> int:
        """Number of tasks."""
        return len(self._groups)

    def draw(self) -> list[Piece]:
        """The next texts of all tasks, in pieces that fit the model."""
        return self._encoded([(group, next(turns)) for group, turns in zip(self._groups, self._turns, strict=True)])

    def all(self) -> list[Piece]:
        """All texts of all tasks, a few at a time."""
        whole = [(group, range(len(group.samples))) for group in self._groups]
        return self._encoded(whole, self._limit * self._batch)

    def _usable(self, samples: Sequence[Sample], model: Any) -> _Group:
        numbers = None
        if self._classes:
            numbers = class_numbers(samples, model.config) if self._labelled else None
            if self._labelled and numbers is None:
                raise DataError("the texts have no labels, which this method learns from", hint="Add a label to each.")
        elif self._labelled:
            _check_answered(samples)
        batches = encode(samples, self._tokenizer, self._limit, 0, whole=self._classes)
        used = sorted({place for batch in batches for place in batch.sample.tolist()})
        if not used:
            raise DataError(
                f"nothing in the data can be learned from: no answer begins within {self._limit} tokens",
                hint="Give texts of at least two tokens, chats with answers, or a larger number of tokens.",
            )
        return _Group(tuple(samples[place] for place in used), None if numbers is None else numbers[used])

    def _encoded(self, chosen: Sequence[tuple[_Group, Sequence[int]]], tokens: int | None = None) -> list[Piece]:
        samples = [group.samples[place] for group, places in chosen for place in places]
        task = torch.tensor([number for number, (_, places) in enumerate(chosen) for _ in places])
        limit = self._limit * len(samples) if tokens is None else tokens
        batches = encode(samples, self._tokenizer, self._limit, 0 if self._alone else limit, whole=self._classes)
        counts = torch.zeros(len(chosen), dtype=torch.int64)
        for batch in batches:
            counts += torch.bincount(task[batch.sample], minlength=len(chosen))
        numbers = [group.numbers[list(places)] for group, places in chosen if group.numbers is not None]
        labels = torch.cat(numbers) if numbers else None
        return [self._piece(batch, counts[task[batch.sample]], labels) for batch in batches]

    def _piece(self, batch: Batch, counts: torch.Tensor, labels: torch.Tensor | None) -> Piece:
        targets = batch.targets if self._labelled else None
        return Piece(batch, 1 / counts.float(), targets if labels is None else labels[batch.sample])


def in_turn(number: int, batch: int, draws: torch.Generator) -> Iterator[list[int]]:
    """Draw places of a few of so many texts, without end; none comes again before all had their turn.

    Args:
        number: of texts.
        batch: that are drawn at a time; all of them where there are fewer.
        draws: decides the order.
    """
    queue: list[int] = []
    while True:
        found: list[int] = []
        while len(found) < min(batch, number):
            queue = queue or torch.randperm(number, generator=draws).tolist()
            found.append(queue.pop())
        yield found


def _check_answered(samples: Sequence[Sample]) -> None:
    waiting = sum(sample.is_prompt for sample in samples)
    if waiting:
        raise DataError(
            f"{waiting} of {len(samples)} prompts have no answer, and this method learns from answers",
            hint='Add them: {"prompt": …, "completion": …}.',
        )
