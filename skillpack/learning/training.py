"""Fine-tuning the frozen base on one task: every weight, or a LoRA adapter of PEFT."""

from __future__ import annotations

import math
import shutil
import warnings
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, Literal

import torch

from skillpack.checkpoint import locate, open_checkpoint
from skillpack.errors import CheckpointError, DataError, UsageError
from skillpack.evaluating.labels import class_numbers
from skillpack.live.autocast import autocast
from skillpack.live.batches import Batch, encode
from skillpack.live.models import is_converted, open_tokenizer, quiet
from skillpack.live.predictions import longest, predict
from skillpack.progress import Progress, Stage, silent
from skillpack.safetensors_file import write_safetensors

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from skillpack.checkpoint import Checkpoint
    from skillpack.texts import Sample

_RATES: Final = {"full": 1e-4, "lora": 1e-3}
"""Learning rates where none is asked for."""
_LARGEST: Final = 1 << 40
_INSTALL: Final = "python -m pip install peft"


@dataclass(frozen=True)
class Training:
    """How a task is learned: AdamW without weight decay, gradients clipped at norm 1, bf16 where devices have it.

    Attributes:
        method: "full" trains every weight, "lora" an adapter beside the linear layers.
        epochs: how often every sample is seen.
        steps: of the optimiser; in the place of `epochs`.
        batch: samples for a step.
        learning_rate: reached after ten steps or a tenth of all, then falling to zero in a line; by default 1e-4, and
            1e-3 for "lora".
        max_tokens: longer samples are cut.
        rank: of the adapter's factors.
        alpha: what they are scaled with, divided by the rank; by default twice the rank.
        seed: of the samples' order and of new weights.
        device: torch device that trains.

    Raises:
        UsageError: a number is impossible, or PEFT is not installed.
    """

    method: Literal["full", "lora"] = "full"
    epochs: int = 3
    steps: int | None = None
    batch: int = 16
    learning_rate: float | None = None
    max_tokens: int = 512
    rank: int = 16
    alpha: float | None = None
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.method not in _RATES:
            raise UsageError(f"there is no training {self.method!a}", hint='Choose "full" or "lora".')
        least = min(self.epochs, self.batch, self.rank, self.max_tokens - 1, 1 if self.steps is None else self.steps)
        if least < 1 or not self.rate > 0:
            raise UsageError("a training needs at least one epoch or step, sample, rank and token, and a rate above 0")
        if self.method == "lora" and find_spec("peft") is None:
            raise UsageError("peft, which trains adapters, is not installed", hint=_INSTALL)

    @property
    def rate(self) -> float:
        """The learning rate."""
        return _RATES[self.method] if self.learning_rate is None else self.learning_rate

    def steps_for(self, samples: int) -> int:
        """Steps that so many samples take."""
        return self.steps or self.epochs * math.ceil(samples / self.batch)

    def order(self, samples: int) -> list[int]:
        """Places of so many samples as steps see them: all of them once, shuffled, before any comes again."""
        count = self.steps_for(samples) * self.batch
        random = torch.Generator().manual_seed(self.seed)
        found: list[int] = []
        while len(found) < count:
            found += torch.randperm(samples, generator=random).tolist()
        return found[:count]


class FineTune:
    """A model that learns, step by step.

    Args:
        base: folder or Hub id of the model that it starts from.
        labels: labels of a classifier's samples, by number or by name; None for a language model.
        training: how.

    Raises:
        CheckpointError: the base cannot be opened.
        DataError: labels of both kinds.
    """

    def __init__(self, base: str | Path, labels: Sequence[int | str] | None, training: Training) -> None:
        self._training = training
        self._base = open_checkpoint(base)
        self._classes = labels is not None
        self.tokenizer = open_tokenizer(base)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(training.seed)
            model = _opened(base, None if labels is None else _class_names(labels))
            self.model: Any = (_adapted(model, training) if training.method == "lora" else model).to(training.device)
        self.model.train()
        trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        self._optimiser = torch.optim.AdamW(trained, lr=training.rate, weight_decay=0.0, fused=True)
        self._trained = trained

    def encode(self, samples: Sequence[Sample]) -> Batch:
        """Samples as one batch."""
        limit = longest(self.model, self.tokenizer, self._training.max_tokens)
        (batch,) = encode(samples, self.tokenizer, limit, _LARGEST, whole=self._classes)
        device = self._training.device
        return replace(
            batch,
            **{name: getattr(batch, name).to(device) for name in ("input_ids", "attention_mask", "scored", "sample")},
        )

    def loss(self, samples: Sequence[Sample]) -> torch.Tensor:
        """Mean cross entropy of what is to be learned from samples, nats; 0-dimensional.

        Raises:
            DataError: there is nothing to learn from them.
        """
        batch = self.encode(samples)
        with autocast(self._training.device):
            logits = predict(self.model, batch)
        if not len(logits):
            raise DataError("samples have nothing to learn within the tokens that are read", hint="Raise max_tokens.")
        labels = class_numbers(samples, self.model.config) if self._classes else None
        targets = batch.targets if labels is None else labels.to(batch.sample.device)[batch.sample]
        return torch.nn.functional.cross_entropy(logits, targets)

    def step(self, loss: torch.Tensor, share: float = 1.0) -> float:
        """Learn from a loss; returns it.

        Args:
            loss: as `loss` gives it.
            share: of the learning rate.
        """
        for group in self._optimiser.param_groups:
            group["lr"] = share * self._training.rate
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._trained, 1.0)
        self._optimiser.step()
        self._optimiser.zero_grad()
        return float(loss.detach())

    def save(self, folder: Path) -> None:
        """Write the fine-tune into a new folder, as `skillpack.pack` takes it: a whole model, or a PEFT adapter."""
        folder.mkdir()
        model = self.model.cpu().eval()
        if self._training.method == "lora" and not self._classes:
            with quiet():
                model.save_pretrained(folder)
            return
        # An adapter cannot say that the model has become a classifier.
        _write_model(model.merge_and_unload() if self._training.method == "lora" else model, self._base, folder)


def fine_tune(
    base: str | Path,
    samples: Sequence[Sample],
    folder: Path,
    training: Training,
    *,
    classes: bool = False,
    progress: Progress = silent,
) -> None:
    """Train the base on samples, in another random order in every epoch, and write what comes of it.

    Args:
        base: folder or Hub id; it is only read.
        samples: texts and chats with answers.
        folder: to be made.
        training: how.
        classes: learn the samples' labels.
        progress: called during the work; counts bytes of text.

    Raises:
        CheckpointError: the base cannot be opened.
        DataError: nothing can be learned from a sample, or a label is missing.
    """
    tuner = FineTune(base, _labels(samples) if classes else None, training)
    steps = training.steps_for(len(samples))
    order = training.order(len(samples))
    warm_up = min(10, max(1, steps // 10))
    sizes = [text_bytes(sample) for sample in samples]
    stage = Stage(progress, "training", sum(sizes[place] for place in order))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        for step in range(steps):
            places = order[step * training.batch : (step + 1) * training.batch]
            share = min((step + 1) / warm_up, (steps - step) / max(1, steps - warm_up))
            tuner.step(tuner.loss([samples[place] for place in places]), share)
            stage.advance(sum(sizes[place] for place in places))
    tuner.save(folder)


def text_bytes(sample: Sample) -> int:
    """Bytes of all that a sample says, UTF-8."""
    return sum(len(text.encode()) for text in (sample.text, *(message["content"] for message in sample.messages)))


def _labels(samples: Sequence[Sample]) -> list[int | str]:
    labels = [sample.label for sample in samples if sample.label is not None]
    if len(labels) < len(samples):
        raise DataError(
            f"{len(samples) - len(labels)} of {len(samples)} training samples have no label",
            hint="Give a label to every sample, or choose another score.",
        )
    return labels


def _class_names(labels: Sequence[int | str]) -> list[str]:
    """Names of classes in their order: labels that are names are sorted, numbers are called as transformers does."""
    if all(isinstance(label, str) for label in labels):
        return sorted({str(label) for label in labels})
    if not all(isinstance(label, int) and label >= 0 for label in labels):
        raise DataError("some labels are names and some numbers, or one is below 0", hint="Use one kind of label.")
    return [f"LABEL_{number}" for number in range(max(2, 1 + max(int(label) for label in labels)))]


def _opened(base: str | Path, classes: Sequence[str] | None) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    folder, origin = locate(base)
    options: dict[str, Any] = {"dtype": torch.float32, "local_files_only": True, "use_safetensors": True}
    if classes is not None:
        names = dict(enumerate(classes))
        options |= {"id2label": names, "label2id": {name: number for number, name in names.items()}}
    kind = AutoModelForCausalLM if classes is None else AutoModelForSequenceClassification
    try:
        with quiet():
            return kind.from_pretrained(folder, trust_remote_code=False, **options)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{origin} cannot be trained: {first}") from error


def _adapted(model: Any, training: Training) -> Any:
    import peft

    alpha: Any = 2 * training.rank if training.alpha is None else training.alpha
    config = peft.LoraConfig(
        r=training.rank,
        lora_alpha=alpha,
        target_modules="all-linear",
        task_type="CAUSAL_LM" if model.can_generate() else "SEQ_CLS",
    )
    with warnings.catch_warnings():
        # PEFT asks models in a way that newer versions of transformers warn of.
        warnings.simplefilter("ignore", FutureWarning)
        return peft.get_peft_model(model, config)


def _write_model(model: Any, base: Checkpoint, folder: Path) -> None:
    """Weights in the base's dtypes, and the base's own files beside them; of a classifier its new config."""
    from skillpack.interop.trained import trained_checkpoint, write_settings

    write_settings(model, None, base, folder)
    own = () if not model.can_generate() else ("config.json", "generation_config.json")
    for name, file in base.companions.items():
        if "/" not in name and (name in own or not (folder / name).exists()):
            shutil.copyfile(file, folder / name)
    if is_converted(model):
        model.save_pretrained(folder)
        return
    trained = trained_checkpoint(model, base, folder)
    forms = {name: (info.dtype, info.shape) for name, info in trained.tensors.items()}
    write_safetensors(folder / "model.safetensors", forms, trained.read, {"format": "pt"})
