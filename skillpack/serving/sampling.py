"""The next token: the most likely one, or one that is drawn."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_SEEDS: Final = 1 << 63
_COLD: Final = 1e-5
"""Below this temperature logits that are divided by it could overflow; the most likely token is taken."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen; the defaults are OpenAI's.

    Attributes:
        temperature: 0 takes the most likely token, whatever else is asked.
        top_p: least probability of the tokens that are drawn from.
        top_k: most tokens that are drawn from; 0 for no limit.
        presence_penalty: is taken from the logit of a token that was generated before.
        frequency_penalty: likewise, for each time.
        bias: token -> what is added to its logit.
        logprobs: how many of the most likely tokens are reported with each; None for no report.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None

    @property
    def is_greedy(self) -> bool:
        """No random number is needed."""
        return self.temperature < _COLD

    @property
    def is_plain(self) -> bool:
        """The token with the greatest logit is taken, and nothing is reported."""
        adjusted = self.presence_penalty or self.frequency_penalty or self.bias
        return self.is_greedy and not adjusted and self.logprobs is None


class Likely(NamedTuple):
    """A token with its log-probability (nats) before temperature, penalties and biases."""

    token: int
    logprob: float


class Chosen(NamedTuple):
    """A token that was chosen.

    Attributes:
        token: its number.
        logprob: of itself; None if no report was asked for.
        likely: the most likely tokens, the first the most likely.
    """

    token: int
    logprob: float | None = None
    likely: tuple[Likely, ...] = ()


def generator(seed: int, number: int) -> torch.Generator:
    """The random numbers of one answer.

    Args:
        seed: of the request; any integer.
        number: of the answer among those of the request; each has other random numbers.
    """
    return torch.Generator().manual_seed((seed + number * 0x9E3779B97F4A7C15) % _SEEDS)


def choose(logits: torch.Tensor, sampling: Sampling, before: Sequence[int], random: torch.Generator | None) -> Chosen:
    """Choose a token.

    Args:
        logits: fp32 of shape (vocabulary,), on the CPU.
        sampling: how.
        before: tokens that this answer has already.
        random: needed unless the choice is greedy.
    """
    adjusted = _adjusted(logits, sampling, before)
    if sampling.is_greedy or random is None:
        token = int(adjusted.argmax())
    else:
        token = _draw(adjusted / sampling.temperature, sampling, random)
    if sampling.logprobs is None:
        return Chosen(token)
    logprobs = torch.log_softmax(logits, dim=-1)
    values, places = logprobs.topk(min(sampling.logprobs, len(logits)))
    likely = tuple(map(Likely, places.tolist(), values.tolist()))
    return Chosen(token, float(logprobs[token]), likely)


def _adjusted(logits: torch.Tensor, sampling: Sampling, before: Sequence[int]) -> torch.Tensor:
    if not (sampling.bias or sampling.presence_penalty or sampling.frequency_penalty):
        return logits
    adjusted = logits.clone()
    if before and (sampling.presence_penalty or sampling.frequency_penalty):
        tokens, counts = torch.unique(torch.tensor(list(before)), return_counts=True)
        adjusted[tokens] -= sampling.presence_penalty + sampling.frequency_penalty * counts
    for token, bias in sampling.bias.items():
        adjusted[token] += bias
    return adjusted


def _draw(logits: torch.Tensor, sampling: Sampling, random: torch.Generator) -> int:
    if not (sampling.top_k or sampling.top_p < 1):
        return int(torch.multinomial(torch.softmax(logits, dim=-1), 1, generator=random))
    most = min(sampling.top_k, len(logits)) if sampling.top_k else len(logits)
    values, tokens = logits.topk(most)
    probabilities = torch.softmax(values, dim=-1)
    # A token counts if those before it do not reach top_p; the first always does.
    before = probabilities.cumsum(-1) - probabilities
    probabilities = probabilities.masked_fill(before >= sampling.top_p, 0.0)
    probabilities[0] = max(float(probabilities[0]), torch.finfo(torch.float32).tiny)
    return int(tokens[torch.multinomial(probabilities, 1, generator=random)])
