"""What an evaluation found."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from skillpack.evaluating.intervals import Interval, percentile_interval, resampled_totals

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy.typing as npt

    from skillpack.live.predictions import Task

    Column = npt.NDArray[np.generic]

FAR: Final = 0.02
"""Mean KL from the fine-tune, nats per prediction, beyond which a skill is said to be far from it."""


class ByModel(NamedTuple):
    """One figure of each model; None where the base cannot be measured."""

    base: float | None
    packed: float
    tuned: float


class TensorShare(NamedTuple):
    """What the error of one tensor costs.

    Attributes:
        name: of the tensor, as the live model has it.
        kl: its part of the mean KL, in nats, estimated to first order; below zero where errors make up for each other.
    """

    name: str
    kl: float


@dataclass(frozen=True)
class EvalReport:
    """How a model with a skill compares with the fine-tune that the skill was packed from.

    Intervals are 95 % bootstrap intervals over samples.

    Attributes:
        skill: the address that was evaluated.
        task: "next token" for language models, "class" for classifiers.
        samples: texts and chats with at least one prediction that counts.
        tokens: predictions that count: tokens, or samples of a classifier.
        kl: mean KL(tuned || packed), nats per prediction.
        kl_interval: of it.
        agreement: share of predictions whose most likely outcome is the fine-tune's.
        agreement_interval: of it.
        perplexity: exp of the mean negative log-likelihood per token; None for classifiers.
        accuracy: share of samples whose label is predicted; None without labels.
        kept: share of the fine-tune's gain in negative log-likelihood over the base that is kept; None where there is
            no base to compare with, no label, or no gain.
        kept_interval: of it; None too where the gain is not certain.
        tensors: what the error of each tensor costs, the most costly first; empty if that was not asked for.
        remarks: what else to know, for people: what is missing in the report and why, and what the figures mean.
    """

    skill: str
    task: Task
    samples: int
    tokens: int
    kl: float
    kl_interval: Interval
    agreement: float
    agreement_interval: Interval
    perplexity: ByModel | None
    accuracy: ByModel | None
    kept: float | None
    kept_interval: Interval | None
    tensors: tuple[TensorShare, ...]
    remarks: tuple[str, ...]

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        from skillpack.notebook import eval_html

        return eval_html(self)


def make_report(
    skill: str,
    task: Task,
    sample: npt.NDArray[np.int64],
    columns: Mapping[str, Column],
    *,
    tensors: Iterable[TensorShare],
    remarks: Iterable[str],
) -> EvalReport:
    """Sum up predictions.

    Args:
        skill: the address.
        task: what is predicted.
        sample: which sample each prediction belongs to, of shape (predictions,).
        columns: name -> a number for each prediction: "kl" and "agrees"; where they are known also "nll …" and
            "hit …" for "base", "packed" and "tuned".
        tensors: what each costs.
        remarks: see `EvalReport`.
    """
    totals = resampled_totals(sample, columns)
    mean = {name: float(np.asarray(values, np.float64).mean()) for name, values in columns.items()}
    remarks = list(remarks)
    kept, kept_interval = _kept(mean, totals, remarks)
    nll = _by_model(mean, "nll")
    kl_interval = percentile_interval(totals["kl"] / totals["count"])
    remarks += far_from_tuned(kl_interval[0])
    return EvalReport(
        skill=skill,
        task=task,
        samples=len(np.unique(sample)),
        tokens=len(sample),
        kl=mean["kl"],
        kl_interval=kl_interval,
        agreement=mean["agrees"],
        agreement_interval=percentile_interval(totals["agrees"] / totals["count"]),
        perplexity=_perplexity(nll) if nll is not None and task == "next token" else None,
        accuracy=_by_model(mean, "hit"),
        kept=kept,
        kept_interval=kept_interval,
        tensors=tuple(sorted(tensors, key=lambda tensor: (-tensor.kl, tensor.name))),
        remarks=tuple(remarks),
    )


def far_from_tuned(lower: float) -> list[str]:
    """What there is to say where a skill is certain to be far from its fine-tune; nothing otherwise.

    Fine-tunes differ in what a size buys: where a high rate moved every weight far, in directions that mean little,
    each nat takes more bytes.

    Args:
        lower: end of the interval of the mean KL(tuned || packed), nats per prediction.
    """
    if lower <= FAR:
        return []
    far = f"this is far from the fine-tune, more than {FAR:g} nats per prediction: answers will differ"
    return [f"{far}. A larger skill or calibration texts bring it closer; pack --max-kl {FAR:g} finds the size"]


def _kept(
    mean: Mapping[str, float], totals: Mapping[str, npt.NDArray[np.float64]], remarks: list[str]
) -> tuple[float | None, Interval | None]:
    nll = _by_model(mean, "nll")
    if nll is None or nll.base is None:
        return None, None
    if nll.base <= nll.tuned:
        remarks.append("the fine-tune predicts this data no better than the base, so there is no gain to keep")
        return None, None
    kept = (nll.base - nll.packed) / (nll.base - nll.tuned)
    gains = totals["nll base"] - totals["nll tuned"]
    if gains.min() <= 0:
        remarks.append("the fine-tune's gain over the base is not certain on this data; more samples would tell")
        return kept, None
    return kept, percentile_interval((totals["nll base"] - totals["nll packed"]) / gains)


def _by_model(mean: Mapping[str, float], what: str) -> ByModel | None:
    if f"{what} packed" not in mean:
        return None
    return ByModel(mean.get(f"{what} base"), mean[f"{what} packed"], mean[f"{what} tuned"])


def _perplexity(nll: ByModel) -> ByModel:
    base = None if nll.base is None else _exp(nll.base)
    return ByModel(base, _exp(nll.packed), _exp(nll.tuned))


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf
