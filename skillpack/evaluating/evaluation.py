"""Measuring a skill against the fine-tune it was packed from, on texts."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from skillpack.errors import CheckpointError
from skillpack.evaluating.comparison import Comparison
from skillpack.library import install
from skillpack.live.models import has_tokenizer, open_model, open_tokenizer
from skillpack.live.whole import whole_folder
from skillpack.progress import Progress, Stage, silent
from skillpack.texts import Sample, read_samples

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skillpack.evaluating.report import EvalReport
    from skillpack.summaries import StoreLike

MAX_TOKENS: Final = 512
"""Tokens of a sample that are read unless another number is asked for."""


def evaluate(
    skill: str,
    base: str | Path,
    tuned: str | Path,
    data: str | Path | Sequence[Sample],
    *,
    store: StoreLike = None,
    branch: str = "main",
    max_tokens: int = MAX_TOKENS,
    samples: int | None = None,
    tensors: bool = True,
    progress: Progress = silent,
) -> EvalReport:
    """Install a skill on a copy of its base, and compare what the result predicts with what the fine-tune does.

    Of chats the answers count, of plain texts every token but the first. Prompts without answers are answered by the
    fine-tune first, with its most likely tokens. Classifiers are compared by their distribution over classes.

    Args:
        skill: address of the skill, with a weight if it is not 1.
        base: folder or hub id of the model that the fine-tune started from.
        tuned: the same for the fine-tune; or the folder of a PEFT LoRA adapter.
        data: what `skillpack.texts.read_samples` reads, or samples; best texts that the fine-tune was not trained on.
        store: folder of the store; by default the user's own.
        branch: branch of the library.
        max_tokens: samples that are longer are cut.
        samples: use at most so many, the first ones.
        tensors: find out what the error of each tensor costs, which takes a backward pass.
        progress: called during the work.

    Raises:
        CheckpointError: a model cannot be opened, or the skill does not give a model like the fine-tune.
        DataError: the data cannot be read, or nothing in it can be measured.
        NotFiniteError: a model predicts NaN.
        UnsupportedCheckpointError: a model that predicts neither next tokens nor classes of texts.
        WrongBaseError: the skill is not for this base.

    Example:
        >>> evaluate("math", "org/base", "./math-tuned", "held_out.jsonl").kept  # doctest: +SKIP
    """
    texts = read_samples(data, samples) if isinstance(data, (str, Path)) else data[:samples]
    with tempfile.TemporaryDirectory(prefix="skillpack-eval-") as room:
        folder, tuned_folder = Path(room) / "packed", whole_folder(tuned, base, Path(room) / "tuned")
        install(skill, base, output=folder, store=store, branch=branch, progress=progress)
        tokenizer = open_tokenizer(tuned_folder if has_tokenizer(tuned_folder) else base)
        comparison = Comparison(open_model(tuned_folder), tokenizer)
        packed = open_model(folder)
        comparison.check_alike(packed)
        batches = comparison.encode(texts, max_tokens, progress)
        size = sum(batch.nbytes for batch in batches)
        comparison.compare(packed, batches, Stage(progress, "comparing", size), tensors=tensors)
        del packed
        try:
            comparison.measure_base(open_model(base), batches, Stage(progress, "measuring the base", size))
        except CheckpointError as error:
            comparison.remark(f"the base is not measured: {error.message}")
        return comparison.report(skill)
