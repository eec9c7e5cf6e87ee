"""A base, a fine-tune of it, and what every method is measured with on them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.baselines.protocol import replace_tensors
from benchmarks.folders import WEIGHTS
from recipes.finetune import CLASSIFIER, REVIEW_TOKENS, fine_tune
from recipes.models import minilm, smollm2
from recipes.tasks import TASKS, drug_reviews
from skillpack.checkpoint import open_checkpoint
from skillpack.evaluating.scores import divergence
from skillpack.live.batches import encode
from skillpack.live.models import open_tokenizer
from skillpack.live.predictions import predict
from skillpack.safetensors_file import write_safetensors
from skillpack.texts import Sample

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from recipes.finetune import Recipe
    from recipes.tasks import Exchange
    from skillpack.live.batches import Batch

HELD_OUT = 64
"""Prompts that are measured with."""
CALIBRATION = 64
"""Texts to learn from; a classifier is measured with all other held-out reviews."""
_TOKENS = 512
_BATCH_TOKENS = 2048


@dataclass(frozen=True)
class Pair:
    """One fine-tune.

    Attributes:
        task: name of what it was trained for.
        base: folder of the base.
        named_base: the same, or a folder of it with tensors named as in the fine-tune, which other methods need.
        tuned: folder of the fine-tune.
        calibration: texts that are neither trained nor measured.
        yardstick: measures models.
    """

    task: str
    base: Path
    named_base: Path
    tuned: Path
    calibration: Sequence[Sample]
    yardstick: Yardstick


class Yardstick:
    """Divergence of models from the fine-tune on held-out texts.

    Attributes:
        predictions: how many predictions are compared.
    """

    def __init__(self, tuned: Path, samples: Sequence[Sample], *, classes: bool) -> None:
        self._classes = classes
        self._tokenizer = open_tokenizer(tuned)
        self._batches = self.encode(samples)
        model = self.load(tuned)
        with torch.no_grad():
            self._wanted = [predict(model, batch) for batch in self._batches]
        self.predictions = sum(len(wanted) for wanted in self._wanted)

    def encode(self, samples: Sequence[Sample], tokens: int = _BATCH_TOKENS) -> list[Batch]:
        """Texts as batches of at most so many tokens."""
        limit = REVIEW_TOKENS if self._classes else _TOKENS
        return encode(samples, self._tokenizer, limit, tokens, whole=self._classes)

    def load(self, folder: Path) -> Any:
        """The model of a folder, computing in fp32."""
        from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

        kind = AutoModelForSequenceClassification if self._classes else AutoModelForCausalLM
        return kind.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.no_grad()
    def kl(self, model: Any) -> float:
        """Mean KL(tuned || model), nats per prediction."""
        found = [
            divergence(predict(model, batch), wanted).kl
            for batch, wanted in zip(self._batches, self._wanted, strict=True)
        ]
        return float(torch.cat(found).double().mean())

    def kl_with(self, base: Path, tensors: Mapping[str, torch.Tensor]) -> float:
        """Mean KL of the base with some of its tensors replaced, in fp32, so that no rounding is held against it."""
        model = self.load(base)
        replace_tensors(model, tensors)
        return self.kl(model)


def open_pair(recipe: Recipe, work: Path) -> Pair:
    """Train a fine-tune if need be, and prepare what measuring takes.

    Args:
        recipe: of the fine-tune.
        work: folder for a renamed base.
    """
    task, tuned = recipe.task, fine_tune(recipe)
    classes = task == CLASSIFIER
    if classes:
        base = minilm()
        reviews = [Sample(text=review.text) for review in drug_reviews("Test")]
        calibration, held_out = reviews[:CALIBRATION], reviews[CALIBRATION:]
    else:
        base = smollm2()
        calibration = chats(TASKS[task].calibration()[:CALIBRATION])
        held_out = chats(TASKS[task].held_out()[:HELD_OUT])
    return Pair(
        task,
        base,
        renamed(base, tuned, work / "base") if classes else base,
        tuned,
        calibration,
        Yardstick(tuned, held_out, classes=classes),
    )


def chats(exchanges: Sequence[Exchange]) -> list[Sample]:
    """Exchanges as the samples that `skillpack` learns from and measures with."""
    return [
        Sample(messages=({"role": "user", "content": one.prompt}, {"role": "assistant", "content": one.answer}))
        for one in exchanges
    ]


def renamed(base: Path, tuned: Path, folder: Path) -> Path:
    """The base with the fine-tune's configuration and names of tensors, which begin with the name of the encoder."""
    before, after = open_checkpoint(base), open_checkpoint(tuned)
    folder.mkdir(parents=True)
    shutil.copy(tuned / "config.json", folder)
    old = {name: name.partition(".")[2] for name in after.tensors if name.partition(".")[2] in before.tensors}
    entries = {name: (before.tensors[other].dtype, before.tensors[other].shape) for name, other in old.items()}
    write_safetensors(folder / WEIGHTS, entries, lambda name: before.read(old[name]), {"format": "pt"})
    return folder
