"""Learning a module for a task from texts, with the models that skills in a store make of their base."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from skillpack.composing.learned.examples import digest_of_samples
from skillpack.composing.learned.learning import ANSWER_TOKENS, MAX_TOKENS, split
from skillpack.composing.surgery.attaching import SURGERY_LIMIT, Facts, attach_surgery
from skillpack.composing.surgery.fitting import Fitting, Pairs, distance, fit
from skillpack.composing.surgery.head import head_of
from skillpack.composing.surgery.representing import batches_of, check_tokens, representations
from skillpack.errors import CheckpointError, DataError, UsageError, WrongBaseError
from skillpack.library import install, parse_weight
from skillpack.live.generation import complete
from skillpack.live.models import open_model, open_tokenizer
from skillpack.packing.device import check_device
from skillpack.progress import Progress, Stage, silent
from skillpack.signing.checking import require_trusted
from skillpack.skill import open_skill
from skillpack.summaries import open_existing
from skillpack.texts import Sample, read_samples
from skillpack_store.documents import rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from skillpack.composing.surgery.attaching import Attached
    from skillpack.live.batches import Batch
    from skillpack.skill import Skill
    from skillpack.summaries import StoreLike
    from skillpack_store import Descriptor, Repository

RANK: Final = 16
STEPS: Final = 1000
BATCH: Final = 16
RATE: Final = 1e-3
_STATES: Final = 1 << 28
"""Numbers of representations of one model that are kept to learn from, 1 GiB; a third as many to measure with."""


@dataclass(frozen=True)
class SurgeryReport:
    """A module that was learned and attached to a skill.

    Attributes:
        name: of the skill.
        digest: of the skill, which is the same as before.
        task: what the module is opened by: the expert's name.
        expert: digest of the expert.
        predicts: "next token" or "class".
        rank: of the module.
        width: numbers of a representation.
        texts: how many were learned from.
        held_out: how many were measured on; where there are fewer than eight, the same ones.
        positions: representations that were learned from.
        before: mean distance |z - z of the expert| of a number of a representation, on the held-out texts.
        after: the same with the module, as it is stored.
        nbytes: bytes of the module.
        attachment: digest of the attachment that holds it.
    """

    name: str
    digest: str
    task: str
    expert: str
    predicts: str
    rank: int
    width: int
    texts: int
    held_out: int
    positions: int
    before: float
    after: float
    nbytes: int
    attachment: str


def learn_surgery(
    skill: str,
    expert: str,
    data: str | Path | Sequence[Sample],
    base: str | Path,
    *,
    rank: int = RANK,
    steps: int = STEPS,
    batch: int = BATCH,
    rate: float = RATE,
    max_tokens: int = MAX_TOKENS,
    seed: int = 0,
    device: str = "cpu",
    store: StoreLike = None,
    branch: str = "main",
    progress: Progress = silent,
) -> SurgeryReport:
    """Learn what a skill's representations of a task have too much of, compared with the task's expert, and attach it.

    Both models are made of the base and read the texts once; only the module is learned, of 2 x rank x width numbers.
    No labels are needed: where a language model is to read prompts without answers, the expert answers them first. The
    skill stays as it is; the module goes wherever it goes. A module that brings held-out texts no nearer to the expert
    is not attached.

    What differs from the paper: its classifiers of images have one representation each, of which there is one for each
    predicted token here, all of the same weight; every fourth text is held out, where the paper learns from the test
    set itself, without its labels; and of texts with many tokens no more positions are drawn than fit into 1 GiB.

    Args:
        skill: address of a skill that was composed of several, the expert among them; any other of the base does too.
        expert: address of the skill of the task.
        data: texts of the task, as `skillpack.texts.read_samples` reads them, or samples.
        base: folder or Hub id of the base of both.
        rank: of the module; the default is the paper's.
        steps: of Adam.
        batch: texts that a step goes over.
        rate: of Adam.
        max_tokens: texts that are longer are cut.
        seed: of what is drawn.
        device: torch device to compute on.
        store: folder of the store; by default the user's own.
        branch: branch of the library.
        progress: called during the work.

    Raises:
        CheckpointError, UnsupportedCheckpointError: a model cannot be opened, or the two are not of one kind.
        DataError: the texts cannot be read or used, or the module brings them no nearer to the expert.
        NotFiniteError: representations are NaN or infinite.
        NotFoundError: there is no such skill.
        NotTrustedError: the policy requires a signature that is missing.
        UnsupportedModelError: there is no representation before the head of such a model.
        UsageError: the arguments make no sense.
        WrongBaseError: a skill is of another base.

    Example:
        >>> learn_surgery("both", "math", "math.jsonl", "org/base").after  # doctest: +SKIP
    """
    _check(rank, steps, batch, rate, max_tokens)
    check_device(device)
    repository = open_existing(store)
    merged, descriptor = _opened(repository, skill, branch)
    task, _ = _opened(repository, expert, branch)
    _check_pair(merged, task)
    samples = read_samples(data) if isinstance(data, str | Path) else list(data)
    if not samples:
        raise DataError("There are no texts to learn from", hint="Give some of the task: prompts, chats or texts.")
    both = _Both(repository, branch, base, torch.device(device), progress)
    read = both.read(merged, task, samples, max_tokens=max_tokens, seed=seed, rank=rank)
    bias = fit(read.train, Fitting(rank, steps, batch, rate, seed, device), progress).rounded()
    before, after = distance(read.held_out), distance(read.held_out, bias)
    _check_gain(before, after)
    facts = Facts(
        task.name,
        task.digest,
        merged.manifest.base_fingerprint,
        read.predicts,
        digest_of_samples([samples]),
        steps,
        batch,
        rate,
        max_tokens,
        seed,
        _rounded(before),
        _rounded(after),
    )
    attached = attach_surgery(repository, descriptor, bias, facts, rfc3339(None))
    return _report(merged, read, attached)


@dataclass(frozen=True, eq=False)
class _Read:
    """What both models make of the texts."""

    predicts: str
    train: Pairs
    held_out: Pairs


@dataclass(frozen=True)
class _Both:
    """The base on which the merged skill and the expert are put, one after the other."""

    repository: Repository
    branch: str
    base: str | Path
    device: torch.device
    progress: Progress

    def read(
        self, merged: Skill, expert: Skill, samples: Sequence[Sample], *, max_tokens: int, seed: int, rank: int
    ) -> _Read:
        """Representations of both models, of texts to learn from and of others to measure with."""
        with self._installed(merged) as folder, self._installed(expert) as expert_folder:
            tokenizer = open_tokenizer(folder)
            model = self._opened(expert_folder)
            width, predicts = head_of(model)[1:]
            kind = (type(model).__name__, width)
            _check_rank(rank, width)
            if predicts == "next token":
                # Where a prompt has no answer, the task's predictions are along the expert's.
                samples = complete(model, tokenizer, samples, ANSWER_TOKENS, progress=self.progress)
            groups = []
            for (group,), share in zip(split([samples]), (1, 3), strict=True):
                most = _STATES // (share * width)
                groups.append(batches_of(group, model, tokenizer, max_tokens=max_tokens, most=most, seed=seed))
            theirs = self._representations(model, groups, "reading with the expert")
            del model
            model = self._opened(folder)
            _check_alike(kind, (type(model).__name__, head_of(model).width), expert.name, merged.name)
            ours = self._representations(model, groups, "reading with the merged skill")
        pairs = [
            Pairs(one, another, torch.cat([batch.sample for batch in batches]))
            for one, another, batches in zip(ours, theirs, groups, strict=True)
        ]
        return _Read(predicts, pairs[0], pairs[1])

    def _representations(self, model: Any, groups: Sequence[Sequence[Batch]], what: str) -> list[torch.Tensor]:
        stage = Stage(self.progress, what, sum(batch.nbytes for batches in groups for batch in batches))
        for batches in groups:
            check_tokens(batches, model)
        return [representations(model, batches, self.device, stage) for batches in groups]

    def _opened(self, folder: Path) -> Any:
        return open_model(folder).to(self.device)

    @contextmanager
    def _installed(self, skill: Skill) -> Iterator[Path]:
        """What a skill makes of the base, in a folder that is there for as long as it is needed."""
        with tempfile.TemporaryDirectory(prefix="skillpack-surgery-") as room:
            folder = Path(room) / "model"
            # By digest: the library may move on meanwhile.
            address = f"{skill.name}@{skill.digest}"
            install(
                address,
                self.base,
                output=folder,
                store=self.repository,
                branch=self.branch,
                progress=self.progress,
            )
            yield folder


def _opened(repository: Repository, address: str, branch: str) -> tuple[Skill, Descriptor]:
    bare, weight = parse_weight(address)
    if weight != 1:
        raise UsageError(
            f"{address} comes with a weight, and a module is for a skill as it is", hint=f"Write {bare}, or compose it."
        )
    found = repository.resolve(bare, branch)
    require_trusted(repository, found.descriptor.digest, found.name)
    return open_skill(repository, found.descriptor.digest, found.name), found.descriptor


def _check(rank: int, steps: int, batch: int, rate: float, max_tokens: int) -> None:
    for name, value in (("rank", rank), ("steps", steps), ("batch", batch), ("max_tokens", max_tokens - 1)):
        if value < 1:
            raise UsageError(f"{name} is too small", hint="A text has two tokens or more, anything else is 1 or more.")
    if not 0 < rate < 1:
        raise UsageError(f"rate cannot be {rate}", hint="It is between 0 and 1; the paper's is 0.001.")


def _check_rank(rank: int, width: int) -> None:
    most = min(width, SURGERY_LIMIT // (8 * width))
    if rank > most:
        raise UsageError(
            f"rank cannot be {rank} where a representation has {width} numbers", hint=f"It is at most {most}."
        )


def _check_pair(merged: Skill, expert: Skill) -> None:
    if merged.digest == expert.digest:
        raise UsageError(
            f"{merged.name} and {expert.name} are the same skill, which needs no module",
            hint="Name a composed skill, and one of those that it was composed of.",
        )
    if merged.manifest.base_fingerprint != expert.manifest.base_fingerprint:
        raise WrongBaseError(
            f"{merged.name} and {expert.name} are skills of different bases",
            hint="Name an expert of the same base; skillpack show says which that is.",
        )


def _check_alike(expert: tuple[str, int], merged: tuple[str, int], *names: str) -> None:
    if expert != merged:
        raise CheckpointError(
            f"the expert {names[0]} makes a {expert[0]} of width {expert[1]} of the base, and {names[1]} a {merged[0]} "
            f"of width {merged[1]}",
            hint="Name an expert that the skill was composed of.",
        )


def _check_gain(before: float, after: float) -> None:
    if before == 0:
        raise DataError("Both skills represent the held-out texts alike, so there is nothing to learn")
    if not after < before:
        raise DataError(
            f"The module brings held-out texts no nearer to the expert: {before:.4g} before, {after:.4g} with it",
            hint="Nothing was attached. Give more texts of the task, take fewer steps, or a smaller rank or rate.",
        )


def _report(merged: Skill, read: _Read, attached: Attached) -> SurgeryReport:
    facts = attached.facts
    texts, held_out = (int(pairs.sample.bincount().count_nonzero()) for pairs in (read.train, read.held_out))
    return SurgeryReport(
        merged.name,
        merged.digest,
        facts.task,
        facts.expert,
        facts.predicts,
        attached.bias.rank,
        attached.bias.width,
        texts,
        held_out,
        len(read.train.sample),
        facts.before,
        facts.after,
        attached.nbytes,
        attached.digest,
    )


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
