"""Running a fine-tune, a packed model and their base over the same batches."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final

import torch

from skillpack.errors import CheckpointError, DataError, NotFiniteError, listing
from skillpack.evaluating.blame import Blame
from skillpack.evaluating.labels import class_numbers
from skillpack.evaluating.report import EvalReport, TensorShare, make_report
from skillpack.evaluating.scores import divergence, negative_log_likelihood
from skillpack.live.batches import encode, padding_token
from skillpack.live.generation import complete
from skillpack.live.predictions import longest, predict, task_of
from skillpack.live.prefixes import read_prefix

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skillpack.live.batches import Batch
    from skillpack.progress import Progress, Stage
    from skillpack.texts import Sample

ANSWER_TOKENS: Final = 128
"""Most tokens of an answer that a model gives to a prompt."""
_LOGITS: Final = 1 << 26
"""Logits of a batch that are aimed at, 268 MB; a sample that alone has more is not cut for it."""
_BATCH_TOKENS: Final = 8192


class Comparison:
    """A fine-tune, and what is found out about models that should be like it.

    Attributes:
        task: what it predicts.
        remarks: what could not be measured, and why.
    """

    def __init__(self, tuned: Any, tokenizer: Any) -> None:
        self._tuned, self._tokenizer = tuned, tokenizer
        self.task = task_of(tuned)
        self._labels: torch.Tensor | None = None
        self._sample: list[torch.Tensor] = []
        self._columns: dict[str, list[torch.Tensor]] = {}
        self._shares: list[TensorShare] = []
        self.remarks: list[str] = []

    def check_alike(self, packed: Any) -> None:
        """Refuse a model that cannot be compared weight by weight.

        Raises:
            CheckpointError: it has another class, other weights or other shapes.
        """
        hint = "Give the fine-tune that the skill was packed from."
        ours, theirs = _name(packed), _name(self._tuned)
        if ours != theirs:
            raise CheckpointError(f"the skill makes a {ours} of the base, the fine-tune is a {theirs}", hint=hint)
        found, wanted = _shapes(packed), _shapes(self._tuned)
        if other := sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name)):
            raise CheckpointError(
                f"with the skill the base does not have the tensors of the fine-tune: {listing(other)}", hint=hint
            )

    def encode(
        self, samples: Sequence[Sample], max_tokens: int, progress: Progress, most: int | None = None
    ) -> list[Batch]:
        """Batches of all samples that have something to measure; prompts are answered and labels remembered.

        Args:
            samples: texts, chats and prompts.
            max_tokens: what is longer is cut at its end.
            progress: called while prompts are answered.
            most: most samples in a batch.

        Raises:
            DataError: there is none, or labels do not fit the classes.
        """
        classes = self.task == "class"
        if classes:
            self._labels = class_numbers(samples, self._tuned.config)
        else:
            samples = complete(self._tuned, self._tokenizer, samples, ANSWER_TOKENS, progress=progress)
        limit = longest(self._tuned, self._tokenizer, max_tokens)
        batches = encode(samples, self._tokenizer, limit, self._batch_tokens(limit), whole=classes, most=most)
        batches = [batch for batch in batches if len(batch.sample)]
        used = len({place for batch in batches for place in batch.sample.tolist()})
        if not used:
            raise DataError(
                f"nothing in the data can be measured: no answer begins within {limit} tokens",
                hint="Give texts of at least two tokens, chats with answers, or a larger number of tokens.",
            )
        if used < len(samples):
            self.remarks.append(f"{len(samples) - used} samples have nothing to measure within {limit} tokens")
        return batches

    def _batch_tokens(self, limit: int) -> int:
        config = self._tuned.config
        if self.task == "next token":
            return max(limit, min(_BATCH_TOKENS, _LOGITS // config.get_text_config().vocab_size))
        # A classifier on a decoder finds the end of a text by the padding that its configuration names.
        return _BATCH_TOKENS if config.pad_token_id == padding_token(self._tokenizer) else 0

    def compare(self, packed: Any, batches: Sequence[Batch], stage: Stage, *, tensors: bool) -> None:
        """Run the fine-tune and the packed model over all batches, and find out what each tensor costs if asked to.

        Raises:
            NotFiniteError: a model predicts NaN or infinity.
        """
        blame = Blame(packed, self._tuned) if tensors else None
        with torch.no_grad():
            tuned_prefix = read_prefix(self._tuned, batches)
        gradients = blame is not None
        with torch.set_grad_enabled(gradients), nullcontext() if blame is None else blame.watching():
            prefix = read_prefix(packed, batches)
            for batch in batches:
                with torch.no_grad():
                    tuned = predict(self._tuned, batch, tuned_prefix)
                self._compare(predict(packed, batch, prefix), tuned, batch, blame)
                stage.advance(batch.nbytes)
            if gradients and prefix is not None:
                prefix.backward()
        if blame is not None:
            self._shares = blame.shares(sum(len(batch.sample) for batch in batches))

    def _compare(self, packed: torch.Tensor, tuned: torch.Tensor, batch: Batch, blame: Blame | None) -> None:
        found = divergence(packed, tuned)
        if not bool(torch.isfinite(found.kl).all()):
            raise NotFiniteError(
                "the fine-tune or the model with the skill predicts NaN or infinity",
                hint="Check the fine-tune: an exact skill brings its NaN along.",
            )
        self._sample.append(batch.sample)
        self._add("kl", found.kl)
        self._add("agrees", found.agrees)
        self._add_likelihood("packed", packed, batch)
        self._add_likelihood("tuned", tuned, batch)
        if blame is not None:
            blame.add(packed, tuned)

    def measure_base(self, base: Any, batches: Sequence[Batch], stage: Stage) -> None:
        """Run the base over all batches, if it predicts what the fine-tune does."""
        problem = self.incomparable(base, batches)
        if problem is not None:
            self.remark(f"the base is not measured: {problem}")
            return
        with torch.no_grad():
            prefix = read_prefix(base, batches)
            for batch in batches:
                self._add_likelihood("base", predict(base, batch, prefix), batch)
                stage.advance(batch.nbytes)

    def remark(self, text: str) -> None:
        """Say in the report what is missing in it."""
        self.remarks.append(text)

    def report(self, skill: str) -> EvalReport:
        """Sum everything up.

        Args:
            skill: the address that was evaluated.
        """
        columns = {name: torch.cat(pieces).numpy() for name, pieces in self._columns.items()}
        sample = torch.cat(self._sample).numpy()
        return make_report(skill, self.task, sample, columns, tensors=self._shares, remarks=self.remarks)

    def incomparable(self, base: Any, batches: Sequence[Batch]) -> str | None:
        """Why what a base predicts cannot be set against the fine-tune; None if it can."""
        if _name(base) != _name(self._tuned):
            return f"it is a {_name(base)}, the fine-tune a {_name(self._tuned)}"
        if self.task == "class" and base.config.num_labels != self._tuned.config.num_labels:
            return f"it has {base.config.num_labels} classes, the fine-tune {self._tuned.config.num_labels}"
        if self.targets(batches[0]) is None:
            return "the samples have no labels"
        if max(int(batch.input_ids.max()) for batch in batches) >= base.get_input_embeddings().num_embeddings:
            return "the texts have tokens that only the fine-tune knows"
        return None

    def targets(self, batch: Batch) -> torch.Tensor | None:
        """What should be predicted, int64 of shape (scored,); None for texts without labels."""
        if self.task == "next token":
            return batch.targets
        return None if self._labels is None else self._labels[batch.sample]

    def _add_likelihood(self, name: str, logits: torch.Tensor, batch: Batch) -> None:
        targets = self.targets(batch)
        if targets is not None:
            self._add(f"nll {name}", negative_log_likelihood(logits, targets))
            if self.task == "class":
                self._add(f"hit {name}", logits.argmax(-1) == targets)

    def _add(self, column: str, values: torch.Tensor) -> None:
        self._columns.setdefault(column, []).append(values.detach())


def _name(model: Any) -> str:
    return type(model).__name__


def _shapes(model: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in model.named_parameters()}
