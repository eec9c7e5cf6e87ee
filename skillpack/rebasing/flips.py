"""What a skill does on two bases, on the same texts: gain kept, and answers that flip."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from skillpack.errors import CheckpointError, DataError, NotFiniteError
from skillpack.evaluating.comparison import ANSWER_TOKENS, Comparison
from skillpack.evaluating.intervals import percentile_interval, resampled_totals
from skillpack.evaluating.scores import divergence, negative_log_likelihood
from skillpack.live.generation import complete
from skillpack.live.models import has_tokenizer, open_model, open_tokenizer
from skillpack.live.predictions import predict
from skillpack.progress import Stage, silent
from skillpack.rebasing.report import ByBase, Flips

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from skillpack.evaluating.intervals import Interval
    from skillpack.live.batches import Batch
    from skillpack.progress import Progress
    from skillpack.rebasing.report import Folders
    from skillpack.texts import Sample

    Columns = Mapping[str, npt.NDArray[Any]]


def measure_flips(folders: Folders, texts: Sequence[Sample], max_tokens: int, progress: Progress) -> Flips:
    """Run four models over texts.

    Prompts without answers are answered by the old base with the skill.

    Args:
        folders: where the models are.
        texts: texts and chats.
        max_tokens: samples that are longer are cut.
        progress: called during the work.

    Raises:
        CheckpointError: a model cannot be opened, or the two with the skill are not of one kind.
        DataError: nothing in the texts can be measured, or the two tokenizers cut them differently.
        NotFiniteError: a model predicts NaN.
        UnsupportedCheckpointError: a model that predicts neither next tokens nor classes of texts.
    """
    old, new = open_model(folders.old), open_model(folders.new)
    if type(old) is not type(new):
        raise CheckpointError(
            f"with the skill the old base is a {type(old).__name__} and the new one a {type(new).__name__}"
        )
    tokenizer = open_tokenizer(folders.old if has_tokenizer(folders.old) else folders.old_base)
    comparison = Comparison(old, tokenizer)
    if comparison.task == "next token":
        texts = complete(old, tokenizer, texts, ANSWER_TOKENS, progress=progress)
    batches = comparison.encode(texts, max_tokens, progress)
    if has_tokenizer(folders.new):
        _check_tokens(Comparison(new, open_tokenizer(folders.new)), texts, max_tokens, batches)
    run = _Run(comparison, batches)
    size = sum(batch.nbytes for batch in batches)
    run.compare(old, new, Stage(progress, "comparing old and new", size))
    for name, folder in (("old_base", folders.old_base), ("new_base", folders.new_base)):
        run.measure(name, folder, Stage(progress, f"measuring the {name.replace('_', ' ')}", size))
    return run.report(texts)


def _check_tokens(theirs: Comparison, texts: Sequence[Sample], max_tokens: int, batches: Sequence[Batch]) -> None:
    """What the two models predict can be compared only where their tokens are the same."""
    others = theirs.encode(texts, max_tokens, silent)
    same = len(others) == len(batches) and all(
        torch.equal(mine.input_ids, other.input_ids) for mine, other in zip(batches, others, strict=True)
    )
    if not same:
        raise DataError(
            "the new base cuts these texts into other tokens than the old one, so that what the two predict cannot be "
            "compared",
            hint="Leave out --data, and compare the answers of the two models yourself.",
        )


class _Run:
    """Figures of each prediction, model by model."""

    def __init__(self, comparison: Comparison, batches: Sequence[Batch]) -> None:
        self._comparison, self._batches = comparison, batches
        self._columns: dict[str, list[torch.Tensor]] = {}

    def compare(self, old: Any, new: Any, stage: Stage) -> None:
        for batch in self._batches:
            with torch.no_grad():
                before, after = predict(old, batch), predict(new, batch)
            found = divergence(after, before)
            if not bool(torch.isfinite(found.kl).all()):
                raise NotFiniteError("a base with the skill predicts NaN or infinity")
            self._add("kl", found.kl)
            self._add("agrees", found.agrees)
            self._score("old", before, batch)
            self._score("new", after, batch)
            stage.advance(batch.nbytes)

    def measure(self, name: str, folder: str | Path, stage: Stage) -> None:
        base = open_model(folder)
        problem = self._comparison.incomparable(base, self._batches)
        if problem is not None:
            self._comparison.remark(f"the {name.replace('_', ' ')} is not measured: {problem}")
            return
        for batch in self._batches:
            with torch.no_grad():
                self._score(name, predict(base, batch), batch)
            stage.advance(batch.nbytes)

    def report(self, texts: Sequence[Sample]) -> Flips:
        """Sum everything up."""
        columns = {name: torch.cat(pieces).numpy() for name, pieces in self._columns.items()}
        sample = torch.cat([batch.sample for batch in self._batches]).numpy()
        mean = {name: float(np.asarray(values, np.float64).mean()) for name, values in columns.items()}
        names = {name for name in columns if name.startswith("nll")} | {"kl"}
        totals = resampled_totals(sample, {name: columns[name] for name in names})
        remarks = list(self._comparison.remarks)
        kept, kept_interval = _kept(mean, totals, remarks)
        right = self._right(sample, columns, texts, remarks)
        negative, positive = (_flips(right, *pair) for pair in (("old", "new"), ("new", "old")))
        return Flips(
            task=self._comparison.task,
            samples=len(np.unique(sample)),
            tokens=len(sample),
            kl=mean["kl"],
            kl_interval=percentile_interval(totals["kl"] / totals["count"]),
            agreement=mean["agrees"],
            nll=_by_base({name[4:]: value for name, value in mean.items() if name.startswith("nll")}),
            kept=kept,
            kept_interval=kept_interval,
            right=_by_base({name: float(values.mean()) for name, values in right.items()}),
            negative=negative[0],
            negative_interval=negative[1],
            positive=positive[0],
            positive_interval=positive[1],
            remarks=tuple(remarks),
        )

    def _right(
        self, sample: npt.NDArray[np.int64], columns: Columns, texts: Sequence[Sample], remarks: list[str]
    ) -> dict[str, npt.NDArray[np.bool_]]:
        """Whether each sample that can be is right, by model."""
        present, place = np.unique(sample, return_inverse=True)
        counts = np.ones(len(present), np.bool_)
        if self._comparison.task == "next token":
            counts = np.array([bool(texts[at].messages) for at in present.tolist()])
        missed = {name[5:]: values for name, values in columns.items() if name.startswith("miss ")}
        if not missed or not counts.any():
            remarks.append("there are no answers or labels, so nothing can be right or wrong and flip")
            return {}
        if not counts.all():
            remarks.append(
                f"{int((~counts).sum())} plain texts have no answer that could be right; flips leave them out"
            )
        return {name: np.bincount(place, values, len(present))[counts] == 0 for name, values in missed.items()}

    def _score(self, name: str, logits: torch.Tensor, batch: Batch) -> None:
        targets = self._comparison.targets(batch)
        if targets is not None:
            self._add(f"nll {name}", negative_log_likelihood(logits, targets))
            self._add(f"miss {name}", logits.argmax(-1) != targets)

    def _add(self, column: str, values: torch.Tensor) -> None:
        self._columns.setdefault(column, []).append(values.detach())


def _kept(
    mean: Mapping[str, float], totals: Mapping[str, npt.NDArray[np.float64]], remarks: list[str]
) -> tuple[float | None, Interval | None]:
    """Gain over the new base as a share of the gain over the old one."""
    if not {"nll old_base", "nll new_base"} <= mean.keys():
        return None, None
    before, after = (mean[f"nll {side}_base"] - mean[f"nll {side}"] for side in ("old", "new"))
    if before <= 0:
        remarks.append("the skill predicts this data no better than the old base, so there is no gain to keep")
        return None, None
    gains, others = (totals[f"nll {side}_base"] - totals[f"nll {side}"] for side in ("old", "new"))
    if gains.min() <= 0:
        remarks.append("the skill's gain over the old base is not certain on this data; more samples would tell")
        return after / before, None
    return after / before, percentile_interval(others / gains)


def _flips(right: Mapping[str, npt.NDArray[np.bool_]], first: str, second: str) -> tuple[float | None, Interval | None]:
    """Share of samples that are right with the first model and wrong with the second, and its interval."""
    if not right:
        return None, None
    flipped = right[first] & ~right[second]
    totals = resampled_totals(np.arange(len(flipped)), {"flips": flipped})
    return float(flipped.mean()), percentile_interval(totals["flips"] / totals["count"])


def _by_base(figures: Mapping[str, float]) -> ByBase | None:
    if "old" not in figures:
        return None
    return ByBase(figures.get("old_base"), figures["old"], figures.get("new_base"), figures["new"])
