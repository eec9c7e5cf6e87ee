"""Measuring one model after the other against the same fine-tune, on the same texts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from skillpack.evaluating.comparison import ANSWER_TOKENS, Comparison
from skillpack.evaluating.evaluation import MAX_TOKENS
from skillpack.evaluating.report import far_from_tuned
from skillpack.live.generation import complete, self_samples
from skillpack.live.models import has_tokenizer, open_model, open_tokenizer
from skillpack.live.whole import whole_folder
from skillpack.progress import Progress, Stage, silent
from skillpack.texts import Sample, read_samples

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from skillpack.live.batches import Batch

SELF: Final = "self"
"""In place of texts: what the fine-tune writes itself."""
_SELF_SAMPLES: Final = 32
_SELF_TOKENS: Final = 64
LEAST_TO_LEARN: Final = 8
"""Samples below which there are none to learn from."""
_MEASURED_OF: Final = 4
"""One sample of so many is measured with and not learned from."""
_LESSON: Final = 8
"""Samples that are learned from together."""
_SORTED: Final = 64
"""Samples of which those of similar length come together; what follows them is of all lengths again."""


class Measured(NamedTuple):
    """How far a model is from the fine-tune.

    Attributes:
        kl: mean KL(tuned || model), nats per prediction.
        upper: upper end of its 95 % bootstrap interval.
        samples: texts that were measured.
        tokens: predictions that were measured.
        lower: lower end of the interval.
    """

    kl: float
    upper: float
    samples: int
    tokens: int
    lower: float

    @property
    def remarks(self) -> list[str]:
        """What these figures mean, for people."""
        return far_from_tuned(self.lower)


class Trials:
    """A fine-tune and texts.

    Args:
        tuned: the fine-tune, opened.
        tokenizer: of the fine-tune.
        samples: what to measure with; in random order.
        learn: keep most of the samples to learn from, and measure with the rest.
        progress: called during the work.

    Attributes:
        tuned: the fine-tune.
        samples: all of them; prompts with the fine-tune's answers.
        lessons: batches to learn from; empty unless that was asked for and there are texts enough.

    Raises:
        DataError: nothing in the texts can be measured.
        UnsupportedCheckpointError: a model that predicts neither next tokens nor classes.
    """

    def __init__(
        self, tuned: Any, tokenizer: Any, samples: Sequence[Sample], *, learn: bool = False, progress: Progress = silent
    ) -> None:
        self.tuned, self._tokenizer, self._progress = tuned, tokenizer, progress
        if Comparison(tuned, tokenizer).task == "next token":
            samples = complete(tuned, tokenizer, samples, ANSWER_TOKENS, progress=progress)
        self.samples = samples
        self.lessons: list[Batch] = []
        if learn and len(samples) >= LEAST_TO_LEARN:
            self.lessons = self._small(self._others)
            samples = samples[::_MEASURED_OF]
        self._batches = Comparison(tuned, tokenizer).encode(samples, MAX_TOKENS, progress)

    def some(self, count: int) -> list[Batch]:
        """Small batches of so many samples, of those that may be learned from, whether or not they are."""
        pool = self._others if len(self.samples) >= LEAST_TO_LEARN else self.samples
        return self._small(pool[:: -(-len(pool) // count)])

    @property
    def _others(self) -> list[Sample]:
        """Samples that are not measured where something is learned."""
        return [sample for at, sample in enumerate(self.samples) if at % _MEASURED_OF]

    def _small(self, samples: Sequence[Sample]) -> list[Batch]:
        """All of them, those of similar length together."""
        comparison = Comparison(self.tuned, self._tokenizer)
        found = [
            comparison.encode(samples[at : at + _SORTED], MAX_TOKENS, self._progress, _LESSON)
            for at in range(0, len(samples), _SORTED)
        ]
        return [batch for batches in found for batch in batches]

    def measure(self, packed: torch.nn.Module) -> Measured:
        """Measure a model, as `open_model` gives it.

        Raises:
            CheckpointError: it is not a model like the fine-tune.
            NotFiniteError: it predicts NaN or infinity.
        """
        comparison = Comparison(self.tuned, self._tokenizer)
        comparison.check_alike(packed)
        stage = Stage(self._progress, "measuring", sum(batch.nbytes for batch in self._batches))
        comparison.compare(packed, self._batches, stage, tensors=False)
        report = comparison.report("candidate")
        lower, upper = report.kl_interval
        return Measured(report.kl, upper, report.samples, report.tokens, lower)


def open_trials(
    base: str | Path,
    tuned: str | Path,
    data: str | Path | Sequence[Sample],
    room: Path,
    *,
    learn: bool = False,
    progress: Progress = silent,
) -> Trials:
    """Open a fine-tune to measure models against it.

    Args:
        base: folder or hub id of the model that the fine-tune started from.
        tuned: the same for the fine-tune; or the folder of a PEFT LoRA adapter.
        data: what `skillpack.texts.read_samples` reads, samples, or `SELF`.
        room: a folder that an adapter may be merged in.
        learn: see `Trials`.
        progress: called during the work.

    Raises:
        CheckpointError: the fine-tune cannot be opened.
        DataError: the data cannot be read, or nothing in it can be measured.
        UnsupportedCheckpointError: a model that predicts neither next tokens nor classes, or that cannot write.
    """
    folder = whole_folder(tuned, base, room / "tuned")
    model, tokenizer = open_model(folder), open_tokenizer(folder if has_tokenizer(folder) else base)
    if data == SELF:
        samples: Sequence[Sample] = self_samples(
            model, tokenizer, _SELF_SAMPLES, seed=0, max_new_tokens=_SELF_TOKENS, progress=progress
        )
    else:
        samples = read_samples(data) if isinstance(data, (str, Path)) else data
    return Trials(model, tokenizer, samples, learn=learn, progress=progress)
