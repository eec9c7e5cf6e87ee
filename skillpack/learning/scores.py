"""How well a model does a task: one outcome for each held-out sample, and a score between 0 and 1 from all of them.

exact       share of samples whose answer is the reference, word for word. The answer is the greedy one, without writing
            it: as long as each most likely token is that of the reference, the next one is predicted behind the same
            text, so that one forward pass over the references decides it.
number      share of samples whose answer, written greedily, ends with the same number as the reference.
label       share of texts whose most likely class is their label.
likelihood  geometric mean of the probabilities of the references' tokens, exp(-mean negative log-likelihood).
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch

from skillpack.errors import DataError, UnsupportedCheckpointError
from skillpack.evaluating.labels import class_numbers
from skillpack.evaluating.scores import negative_log_likelihood
from skillpack.live.batches import encode, padding_token
from skillpack.live.generation import complete
from skillpack.live.predictions import longest, predict, task_of
from skillpack.progress import Progress, Stage, silent
from skillpack.texts import Sample

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MAX_TOKENS: Final = 512
"""Held-out samples that are longer are cut."""
_ANSWER_TOKENS: Final = 320
"""Most tokens of an answer that is written to find its number."""
_BATCH_TOKENS: Final = 4096
_LOGITS: Final = 1 << 26
_NUMBER: Final = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


class Outcome(NamedTuple):
    """What a model did with one sample.

    Attributes:
        total: 1 if it was right and 0 if not; for the likelihood, negative log-likelihood in nats.
        tokens: 1; for the likelihood, how many tokens that is of.
    """

    total: float
    tokens: int


WRONG: Final = Outcome(0.0, 1)


def score(outcomes: Iterable[Outcome], measure: str) -> float:
    """One score from the outcomes of all samples, between 0 and 1; more is better.

    >>> score([Outcome(1.0, 1), WRONG], "exact")
    0.5
    >>> round(score([Outcome(0.7, 1), Outcome(2.0, 3)], "likelihood"), 3)
    0.509
    """
    totals, counts = zip(*outcomes, strict=True)
    mean = math.fsum(totals) / sum(counts)
    return math.exp(-mean) if measure == "likelihood" else mean


def measure_samples(
    model: Any, tokenizer: Any, samples: Sequence[Sample], measure: str, *, progress: Progress = silent
) -> list[Outcome]:
    """Let a model do samples.

    Args:
        model: as `skillpack.live.models.open_model` gives it.
        tokenizer: its tokenizer.
        samples: that fit the score.
        measure: name of the score.
        progress: called during the work; counts bytes of token ids.

    Raises:
        DataError: a sample has nothing to measure within the tokens that are read, or a label is no class of the model.
        UnsupportedCheckpointError: the model does not do this kind of task.
    """
    needed = "class" if measure == "label" else "next token"
    if task_of(model) != needed:
        raise UnsupportedCheckpointError(f"a {type(model).__name__} has no score {measure}: it predicts another thing")
    if measure == "number":
        return _numbers(model, tokenizer, samples, progress)
    return _forward(model, tokenizer, samples, measure, progress)


def _forward(model: Any, tokenizer: Any, samples: Sequence[Sample], measure: str, progress: Progress) -> list[Outcome]:
    classes = measure == "label"
    limit = longest(model, tokenizer, MAX_TOKENS)
    size = _batch_tokens(model, tokenizer, limit, classes=classes)
    batches = encode(samples, tokenizer, limit, size, whole=classes)
    labels = class_numbers(samples, model.config) if classes else None
    totals, counts = torch.zeros(len(samples), dtype=torch.float64), torch.zeros(len(samples), dtype=torch.int64)
    stage = Stage(progress, "measuring", sum(batch.nbytes for batch in batches))
    for batch in batches:
        with torch.no_grad():
            logits = predict(model, batch)
        targets = batch.targets if labels is None else labels[batch.sample]
        values = negative_log_likelihood(logits, targets) if measure == "likelihood" else logits.argmax(-1) == targets
        totals.index_add_(0, batch.sample, values.double())
        counts.index_add_(0, batch.sample, torch.ones_like(batch.sample))
        stage.advance(batch.nbytes)
    if not bool(counts.all()):
        raise DataError(
            f"held-out sample {int((counts == 0).nonzero()[0, 0]) + 1} has nothing to measure within {limit} tokens",
            hint="Give shorter prompts, or texts of at least two tokens.",
        )
    if measure == "likelihood":
        return [Outcome(total, count) for total, count in zip(totals.tolist(), counts.tolist(), strict=True)]
    return [Outcome(float(right), 1) for right in (totals == counts).tolist()]


def _batch_tokens(model: Any, tokenizer: Any, limit: int, *, classes: bool) -> int:
    if not classes:
        return max(limit, min(_BATCH_TOKENS, _LOGITS // model.config.get_text_config().vocab_size))
    # A classifier on a decoder finds the end of a text by the padding that its configuration names.
    return _BATCH_TOKENS if model.config.pad_token_id == padding_token(tokenizer) else 0


def _numbers(model: Any, tokenizer: Any, samples: Sequence[Sample], progress: Progress) -> list[Outcome]:
    prompts = [Sample(messages=sample.messages[:-1]) for sample in samples]
    answered = complete(model, tokenizer, prompts, _ANSWER_TOKENS, progress=progress)
    return [
        Outcome(float(last_number(_answer(found)) == last_number(_answer(wanted)) is not None), 1)
        for found, wanted in zip(answered, samples, strict=True)
    ]


def _answer(sample: Sample) -> str:
    return sample.messages[-1]["content"]


def last_number(text: str) -> float | None:
    """The last number in a text; None if there is none.

    >>> last_number("3 boxes of 1,250.50 make #### 3,751.5"), last_number("none")
    (3751.5, None)
    """
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None
