"""What a rebase found and did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

    from skillpack.evaluating.intervals import Interval
    from skillpack.live.predictions import Task
    from skillpack.rebasing.conflicts import Conflicts


class Folders(NamedTuple):
    """Where the four models are: each base, and each with the skill."""

    old_base: str | Path
    old: Path
    new_base: str | Path
    new: Path


class ByBase(NamedTuple):
    """One figure of four models: each base alone, and with the skill; None where a base cannot be measured."""

    old_base: float | None
    old: float
    new_base: float | None
    new: float


@dataclass(frozen=True)
class Flips:
    """What a skill does on its new base, beside what it did on the old one, on texts.

    Intervals are 95 % bootstrap intervals over samples. A sample is right if all of its predictions that count are the
    model's most likely ones: of a chat, if the model would answer word for word so, of a classifier's text, if it finds
    the label.

    Attributes:
        task: "next token" for language models, "class" for classifiers.
        samples: texts and chats with at least one prediction that counts.
        tokens: predictions that count.
        kl: mean KL(old base with skill || new base with skill), nats per prediction.
        kl_interval: of it.
        agreement: share of predictions whose most likely outcome is the same.
        nll: mean negative log-likelihood, nats per prediction; None without labels.
        kept: gain of the skill in negative log-likelihood on the new base, as a share of its gain on the old one;
            None where there is none.
        kept_interval: of it; None too where the gain is not certain.
        right: share of samples that are right; None where nothing can be right, as in plain texts.
        negative: share of all samples that were right on the old base and are wrong on the new one: the negative flip
            rate (Yan et al., arXiv:2011.09161; Echterhoff et al., arXiv:2407.09435).
        negative_interval: of it.
        positive: share of all samples that were wrong and are right.
        positive_interval: of it.
        remarks: what could not be measured, and why, for people.
    """

    task: Task
    samples: int
    tokens: int
    kl: float
    kl_interval: Interval
    agreement: float
    nll: ByBase | None
    kept: float | None
    kept_interval: Interval | None
    right: ByBase | None
    negative: float | None
    negative_interval: Interval | None
    positive: float | None
    positive_interval: Interval | None
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class RebaseReport:
    """A skill on its new base.

    Attributes:
        name: under which it is in the library.
        version: its number; None after a dry run, and where that left the library as it was.
        digest: its identity; empty after a dry run.
        size: bytes on disk of everything that the digest covers.
        source: the version that was moved, such as ``math@1``.
        source_digest: its identity.
        old_fingerprint: of the base that it came from.
        new_fingerprint: of the base that it goes on now.
        tensors: how many it changes.
        moved: how many of these the new base changed too.
        recoded: how many of these were coded anew, since they had been coded by the old base's values.
        files: relative paths of the files that it changes.
        same: it is the same skill as before, since nothing that it builds on differs.
        conflicts: how far the new base moved where the skill changes it; figures need the old base.
        flips: what it does on texts; None if that was not asked for.
        remarks: what a person should know beside, in sentences.
    """

    name: str
    version: int | None
    digest: str
    size: int
    source: str
    source_digest: str
    old_fingerprint: str
    new_fingerprint: str
    tensors: int
    moved: int
    recoded: int
    files: tuple[str, ...]
    same: bool
    conflicts: Conflicts
    flips: Flips | None
    remarks: tuple[str, ...]
