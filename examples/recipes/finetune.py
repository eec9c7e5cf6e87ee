"""Full fine-tunes on a CPU, cached by their recipe so that each is trained once per machine."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from recipes.models import minilm, smollm2
from recipes.sibling import SIBLING, sibling
from recipes.tasks import TASKS, Exchange, drug_reviews
from recipes.wheels import cache_dir

if TYPE_CHECKING:
    import torch

Progress = Callable[[int, int, float], None]
"""Called after each step with (step, steps, loss in nats)."""

WARM_UP = 10
"""Steps over which the learning rate rises to its full value."""

IGNORED = -100
"""Label of the tokens that carry no loss, the value that torch's cross entropy skips."""

REVIEW_TOKENS = 96
"""The classifier reads this many tokens of a review."""

CLASSIFIER = "drug-reviews"
"""The one task of the encoder; all others are in ``TASKS`` and belong to the language model."""


@dataclass(frozen=True)
class Recipe:
    """What decides the weights of a fine-tune; equal recipes share one cached folder.

    Attributes:
        task: a name in ``TASKS``, or ``CLASSIFIER``.
        steps: of the optimiser.
        batch: examples per step.
        learning_rate: of AdamW, once it is warm.
        seed: of the draw of the examples and of new weights.
        schedule: ``"linear"``, down to zero at the last step, or ``"constant"``.
        base: ``SIBLING`` of `recipes.sibling`, or nothing for the usual base of the task.
    """

    task: str
    steps: int
    batch: int
    learning_rate: float = 1e-4
    seed: int = 0
    schedule: str = "linear"
    base: str = ""

    @property
    def folder(self) -> Path:
        """Where the fine-tune is cached."""
        # What came later must not rename the fine-tunes that do without it.
        decisive = {name: value for name, value in asdict(self).items() if name != "base" or value}
        key = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
        return cache_dir() / "tuned" / f"{self.task}-{self.steps}-{key[:10]}"

    def rate(self, step: int) -> float:
        """Share of the learning rate at a step, counted from 0: ten steps up, then as the schedule has it."""
        left = (self.steps - step) / (self.steps - WARM_UP)
        return min((step + 1) / WARM_UP, left if self.schedule == "linear" else 1.0)


SPANISH_NUMBERS = Recipe("spanish-numbers", steps=200, batch=16)
SPANISH_NUMBERS_SHORT = Recipe("spanish-numbers", steps=30, batch=8)
FRENCH_NUMBERS_SHORT = Recipe("french-numbers", steps=15, batch=8)
DRUG_REVIEWS = Recipe(CLASSIFIER, steps=100, batch=16, learning_rate=3e-4)


def fine_tune(recipe: Recipe, progress: Progress | None = None) -> Path:
    """Return the folder of the fine-tune, training it when this machine has not done so yet.

    Every weight is trained in fp32 with AdamW; language models are saved in bf16, the encoder in fp32.
    """
    folder = recipe.folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=folder.parent) as work:
                train = _train_classifier if recipe.task == CLASSIFIER else _train_chat
                train(recipe, Path(work) / "model", progress or (lambda *_: None))
                (Path(work) / "model").rename(folder)
    return folder


def chat_base(recipe: Recipe) -> Path:
    """Folder of the model that a fine-tune of a chat model starts from."""
    return sibling() if recipe.base == SIBLING else smollm2()


def _train_chat(recipe: Recipe, target: Path, progress: Progress) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(recipe.seed)
    base = chat_base(recipe)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    examples = TASKS[recipe.task].train(recipe.steps * recipe.batch, recipe.seed)
    batches = list(_chunks(examples, recipe.batch))

    def loss(step: int) -> torch.Tensor:
        batch = encode_chat(tokenizer, batches[step])
        return answer_loss(model, batch, torch.nn.functional.cross_entropy)

    _optimise(model, loss, recipe, progress)
    model.to(torch.bfloat16).save_pretrained(target)
    tokenizer.save_pretrained(target)


def _train_classifier(recipe: Recipe, target: Path, progress: Progress) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(recipe.seed)
    tokenizer = AutoTokenizer.from_pretrained(minilm())
    model = AutoModelForSequenceClassification.from_pretrained(minilm(), num_labels=2)
    reviews = drug_reviews("Train")
    order = torch.randint(len(reviews), (recipe.steps, recipe.batch)).tolist()

    def loss(step: int) -> torch.Tensor:
        batch = [reviews[index] for index in order[step]]
        texts = [review.text for review in batch]
        encoded = tokenizer(texts, padding=True, truncation=True, max_length=REVIEW_TOKENS, return_tensors="pt")
        return model(**encoded, labels=torch.tensor([r.label for r in batch])).loss

    _optimise(model, loss, recipe, progress)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _optimise(model: torch.nn.Module, loss: Callable[[int], torch.Tensor], recipe: Recipe, progress: Progress) -> None:
    """AdamW without weight decay; gradients are clipped at norm 1."""
    import torch

    from skillpack.live.autocast import autocast

    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, recipe.rate)
    model.train()
    for step in range(recipe.steps):
        with autocast("cpu"):
            value = loss(step)
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        progress(step + 1, recipe.steps, value.item())
    model.eval()


def encode_chat(tokenizer: Any, exchanges: Sequence[Exchange]) -> dict[str, torch.Tensor]:
    """Token ids, attention mask and labels, each int64 of shape (batch, length); only answers carry labels."""
    import torch

    end = tokenizer.eos_token
    rows = []
    for exchange in exchanges:
        turns = [{"role": "user", "content": exchange.prompt}]
        prompt = tokenizer(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)).input_ids
        rows.append((prompt, tokenizer(exchange.answer + end).input_ids))
    length = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.full((len(rows), length), tokenizer.pad_token_id)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for row, (prompt, answer) in enumerate(rows):
        used = len(prompt) + len(answer)
        ids[row, :used] = torch.tensor(prompt + answer)
        mask[row, :used] = 1
        labels[row, len(prompt) : used] = torch.tensor(answer)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def answer_states(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Last hidden states (answer tokens, width), from which the head predicts the labelled tokens."""
    hidden = model.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    return hidden[:, :-1][batch["labels"][:, 1:] != IGNORED]


def answer_labels(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The labelled tokens, int64 of shape (answer tokens,)."""
    labels = batch["labels"][:, 1:]
    return labels[labels != IGNORED]


def answer_loss(model: Any, batch: dict[str, torch.Tensor], criterion: Callable[..., torch.Tensor]) -> torch.Tensor:
    """``criterion(logits, labels)`` over the answer tokens of ``batch``; only these are projected."""
    return criterion(model.lm_head(answer_states(model, batch)).float(), answer_labels(batch))


def _chunks(items: Sequence[Exchange], size: int) -> Iterator[Sequence[Exchange]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
