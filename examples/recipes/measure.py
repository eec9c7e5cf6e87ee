"""What a model does with held-out prompts: negative log-likelihood, divergence from the fine-tune, answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from recipes.finetune import IGNORED, REVIEW_TOKENS, answer_labels, answer_states, encode_chat
from recipes.models import minilm, smollm2
from recipes.tasks import Exchange, drug_reviews

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

_BATCH = 30
_PROJECTED = 1024
"""Answer tokens whose 49,152 logits are in memory at a time."""


@dataclass(frozen=True)
class Fidelity:
    """How a model compares with the fine-tune on held-out answers.

    Attributes:
        nll: its mean negative log-likelihood, nats per answer token.
        kl: mean KL(fine-tune || model), nats per answer token.
        agreement: share of answer tokens whose most likely prediction is the fine-tune's.
        kept: share of the fine-tune's gain in negative log-likelihood over the base that is kept.
    """

    nll: float
    kl: float
    agreement: float
    kept: float


class Scores(NamedTuple):
    """What a model gives each held-out answer token; each of shape (tokens,).

    Attributes:
        nll: negative log-likelihood, nats, fp32.
        kl: KL(fine-tune || model), nats, fp32.
        agrees: whether the most likely prediction is the fine-tune's, bool.
    """

    nll: torch.Tensor
    kl: torch.Tensor
    agrees: torch.Tensor


class HeldOut:
    """Compares models with a fine-tune on exchanges that were held out of its training.

    Attributes:
        answer: which exchange each answer token belongs to, int64 of shape (tokens,).
        base: scores of the base.
        tuned: scores of the fine-tune itself.
    """

    def __init__(self, base: Path, tuned: Path, exchanges: Sequence[Exchange]) -> None:
        import torch
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(smollm2())
        self._batches = [encode_chat(tokenizer, exchanges[at : at + _BATCH]) for at in range(0, len(exchanges), _BATCH)]
        lengths = torch.cat([(batch["labels"] != IGNORED).sum(1) for batch in self._batches])
        self.answer = torch.arange(len(exchanges)).repeat_interleave(lengths)
        model = load(tuned)
        self._tuned_states = [_states(model, batch) for batch in self._batches]
        self._tuned_head = model.lm_head
        self.tuned = self.score(model)
        self.base = self.score(base)

    @property
    def tokens(self) -> int:
        """Number of held-out answer tokens."""
        return len(self.answer)

    @property
    def base_nll(self) -> float:
        """Mean negative log-likelihood of the base, nats per answer token."""
        return float(self.base.nll.mean())

    @property
    def tuned_nll(self) -> float:
        """Mean negative log-likelihood of the fine-tune, nats per answer token."""
        return float(self.tuned.nll.mean())

    def compare(self, model: Any) -> Fidelity:
        """Compare a loaded model, or the folder of one, with the fine-tune."""
        return self.summary(self.score(model))

    def score(self, model: Any) -> Scores:
        """Score a loaded model, or the folder of one, token by token."""
        import torch

        loaded = load(model) if isinstance(model, Path) else model
        parts = []
        for batch, tuned in zip(self._batches, self._tuned_states, strict=True):
            columns = (_states(loaded, batch), tuned, answer_labels(batch))
            pieces = zip(*(column.split(_PROJECTED) for column in columns), strict=True)
            parts += [self._score(loaded.lm_head, *piece) for piece in pieces]
        return Scores(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def summary(self, scores: Scores) -> Fidelity:
        """What the scores of a model come to."""
        nll = float(scores.nll.mean())
        kept = (self.base_nll - nll) / (self.base_nll - self.tuned_nll)
        return Fidelity(nll, float(scores.kl.mean()), float(scores.agrees.float().mean()), kept)

    def _score(self, head: Any, states: torch.Tensor, tuned_states: torch.Tensor, labels: torch.Tensor) -> Scores:
        import torch

        with torch.inference_mode():
            found = head(states).float().log_softmax(-1)
            tuned = self._tuned_head(tuned_states).float().log_softmax(-1)
            return Scores(
                torch.nn.functional.nll_loss(found, labels, reduction="none"),
                (tuned.exp() * (tuned - found)).sum(-1),
                found.argmax(-1) == tuned.argmax(-1),
            )


def _states(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    import torch

    with torch.inference_mode():
        return answer_states(model, batch)


def load(folder: Path) -> Any:
    """The language model of a folder, computing in fp32."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def answers(folder: Path, prompts: Sequence[str], longest: int = 32) -> list[str]:
    """Greedy answers of a chat model, at most ``longest`` tokens each."""
    import torch
    from transformers import AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), load(folder)
    replies = []
    for prompt in prompts:
        encoded = encode_chat(tokenizer, [Exchange(prompt, "")])
        length = int((encoded["labels"] == IGNORED).sum())
        with torch.inference_mode():
            tokens = model.generate(
                encoded["input_ids"][:, :length],
                attention_mask=encoded["attention_mask"][:, :length],
                max_new_tokens=longest,
                do_sample=False,
                pad_token_id=tokenizer.pad_token_id,
            )
        replies.append(tokenizer.decode(tokens[0, length:], skip_special_tokens=True).strip())
    return replies


def predicted_labels(folder: Path) -> list[int]:
    """The labels that a classifier gives to the held-out drug reviews."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(minilm())
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    reviews = drug_reviews("Test")
    labels: list[int] = []
    for at in range(0, len(reviews), _BATCH):
        texts = [review.text for review in reviews[at : at + _BATCH]]
        encoded = tokenizer(texts, padding=True, truncation=True, max_length=REVIEW_TOKENS, return_tensors="pt")
        with torch.inference_mode():
            labels += model(**encoded).logits.argmax(-1).tolist()
    return labels
