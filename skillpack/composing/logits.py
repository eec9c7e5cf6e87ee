"""Dynamic logit fusion: a small model's skills steer a larger model of the same vocabulary while it generates.

With the logits L of the large model, S of the small base and S_t of the small model with skill t, a token is drawn from

    P_a = softmax(L + sum over t of a_t (S_t - S)).

Proxy-tuning (Liu et al., "Tuning Language Models by Proxy", 2024, arXiv 2401.08565) is a_t = 1. Here a_t is chosen at
every step, so that the skill moves the large model as far as it moves the small one (Fan et al., 2024; see
`skillpack.composing.fusing`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import LogitsProcessor, LogitsProcessorList

from skillpack.composing.following import Follower
from skillpack.composing.fusing import fuse, fusion_weights
from skillpack.errors import ConflictError, UnsupportedModelError, UsageError, listing
from skillpack.grafting.host import host
from skillpack.grafting.wrappers import unwrap
from skillpack.live.models import open_tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import ContextDecorator
    from types import TracebackType

    from typing_extensions import Self

    from skillpack.summaries import StoreLike


class LogitFusion(LogitsProcessor):
    """Skills of a small model for a large one with the same tokens, while it generates.

    Base and skills of the small model are run in one batched forward pass per step, with their keys and values kept.
    The large model is not changed; the small one is the host of the skills in overlay mode. Sampling, beams and several
    answers to a prompt work. A step that does not go on from the one before (assisted decoding) reads its text again.

    Args:
        large: the model that generates.
        small: a base of the skills, in evaluation mode.
        skills: addresses, each with an optional weight: ``math``, ``math@3``, ``code=0.5``.
        alpha: how much of the skills' shifts is taken over; by default as `fusion_weights` says, at each step. 1.0 is
            proxy-tuning.
        tokenizers: of the large and of the small model; by default those of the folders the models came from.
        use_cache: keep keys and values of the small model between steps.
        store: where the skills are.
        branch: branch of the library.

    Attributes:
        alpha: as given.
        weights: of the skills at the last step, fp32 of shape (skills, rows), on the device of the scores.

    Raises:
        ConflictError: the models have different tokens, or rows of the small one cannot have different skills.
        UnsupportedModelError: a model with an encoder, or a small one that keeps no keys and values.
        UsageError: no skills; models that are one and the same; or a small one in training mode.
        see `Host.load`.

    Example:
        >>> with skillpack.LogitFusion(large, small, ["math"]) as fusion:  # doctest: +SKIP
        ...     fusion.generate(**inputs, max_new_tokens=100)
    """

    def __init__(
        self,
        large: Any,
        small: Any,
        skills: Sequence[str] | str,
        *,
        alpha: float | None = None,
        tokenizers: tuple[Any, Any] | None = None,
        use_cache: bool = True,
        store: StoreLike = None,
        branch: str = "main",
    ) -> None:
        addresses = [skills] if isinstance(skills, str) else list(skills)
        _check_models(large, small, addresses)
        tokens = tokenizers or (open_tokenizer(large.name_or_path), open_tokenizer(small.name_or_path))
        self._common = _common_tokens(tokens, _rows(large), _rows(small))
        self._large = large
        self._host = host(small, mode="overlay", store=store, branch=branch)
        before = {each.name for each in self._host.resident}
        try:
            rows = [None, *([address] for address in addresses)]
            # A context that is used as a decorator: what the names mean later does not matter.
            applied = cast("ContextDecorator", self._host.rows(rows))
            with self._host.rows(rows):
                self._follower = Follower(unwrap(small), applied, len(rows), use_cache=use_cache)
        finally:
            self._loaded = [each.name for each in self._host.resident if each.name not in before]
            if not hasattr(self, "_follower"):
                self._unload()
        self._prompt_mask: torch.Tensor | None = None
        self._padding = tokens[0].pad_token_id, tokens[0].eos_token_id
        self.alpha = alpha
        self.weights: torch.Tensor | None = None

    def generate(self, inputs: torch.Tensor | None = None, **options: Any) -> Any:
        """The large model's `generate`, with the skills; what was kept for it is freed at the end.

        Args:
            inputs: token ids of the prompts, padded on the left.
            options: as for `generate`; `attention_mask` tells padding from prompts for both models.
        """
        processors = LogitsProcessorList([*(options.pop("logits_processor", None) or []), self])
        self.reset()
        self._prompt_mask = options.get("attention_mask")
        try:
            return self._large.generate(inputs, logits_processor=processors, **options)
        finally:
            self.reset()

    @torch.no_grad()
    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of the next token of each row.

        Args:
            input_ids: the text so far, int64 of shape (rows, length). Outside of `generate`, padding tokens at the
                left count as padding, as for transformers if they are no end tokens as well.
            scores: logits or log-probabilities of the large model, of shape (rows, tokens).

        Returns:
            In the dtype of the scores and of their shape; -inf for rows of the head that belong to no token.

        Raises:
            UsageError: the text is too long for the small model, or what is padding cannot be told.
        """
        if self._prompt_mask is None:
            mask = _guessed_mask(input_ids, *self._padding)
        else:
            mask = _lengthened(self._prompt_mask, input_ids)
        found = self._follower.logits(input_ids, mask)[..., : self._common].to(scores.device)
        known, base, tuned = scores[:, : self._common], found[0], found[1:]
        if self.alpha is None:
            self.weights = fusion_weights(known, base, tuned)
        else:
            self.weights = torch.full(tuned.shape[:2], self.alpha, device=scores.device)
        fused = torch.full_like(scores, -torch.inf)
        fused[:, : self._common] = fuse(known, base, tuned, self.weights).to(scores.dtype)
        return fused

    def reset(self) -> None:
        """Forget the text so far, and free the keys and values of the small model."""
        self._follower.reset()
        self._prompt_mask = None

    def close(self) -> None:
        """Free everything, and unload the skills that were loaded for this."""
        self.reset()
        self._unload()

    def _unload(self) -> None:
        if self._loaded:
            self._host.unload(*self._loaded)
            self._loaded = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check_models(large: Any, small: Any, addresses: Sequence[str]) -> None:
    if not addresses:
        raise UsageError("There is nothing to fuse", hint="Name at least one skill of the small model.")
    if unwrap(large) is unwrap(small):
        raise UsageError("Large and small are the same model", hint="Graft the skill on it: skillpack.host(model).")
    if small.training:
        raise UsageError("The small model is in training mode", hint="Call small.eval() first.")
    for model in (large, small):
        if model.config.is_encoder_decoder:
            raise UnsupportedModelError(
                f"{type(unwrap(model)).__name__} has an encoder", hint="Logits are fused for decoders alone."
            )


def _rows(model: Any) -> int:
    """Tokens that a model gives logits to, padding of its head included."""
    return int(unwrap(model).config.get_text_config().vocab_size)  # type: ignore[union-attr, operator]


def _common_tokens(tokenizers: tuple[Any, Any], large: int, small: int) -> int:
    """How many rows of both heads are tokens.

    Raises:
        ConflictError: a token has another id in the other model, is not in it, or has no logits.
    """
    ours, theirs = (tokenizer.get_vocab() for tokenizer in tokenizers)
    if differing := sorted(token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token)):
        raise ConflictError(
            f"The models have different tokens: {listing(map(ascii, differing))}",
            hint="Logits can be fused where each token has the same id in both models.",
        )
    needed, common = 1 + max(ours.values()), min(large, small)
    if needed > common:
        which = "large" if large <= small else "small"
        raise ConflictError(
            f"The {which} model has logits for {common} tokens, and the tokenizer knows {needed}",
            hint="Take models whose heads cover all tokens.",
        )
    return common


def _lengthened(mask: torch.Tensor, input_ids: torch.Tensor) -> torch.Tensor:
    """The mask of prompts, repeated for their beams and answers, and ones for what was written since."""
    rows, length = input_ids.shape
    if rows % len(mask) or length < mask.shape[1]:
        raise UsageError(
            f"attention_mask is for prompts of shape {tuple(mask.shape)}, and the batch has {(rows, length)}",
            hint="Give the mask that belongs to the prompts.",
        )
    found = torch.ones_like(input_ids)
    found[:, : mask.shape[1]] = mask.to(found).repeat_interleave(rows // len(mask), 0)
    return found


def _guessed_mask(input_ids: torch.Tensor, padding: int | None, end: int | None) -> torch.Tensor:
    """Where the texts are, if nobody says so: after the padding tokens at the left.

    Raises:
        UsageError: they are end tokens as well, and could be part of a prompt.
    """
    if padding is None or not bool((input_ids[:, :1] == padding).any()):
        return torch.ones_like(input_ids)
    if padding == end:
        raise UsageError(
            "Some rows begin with a token that pads and also ends texts, so what is padding cannot be told",
            hint="Call fusion.generate(...) with attention_mask in place of the model's own generate.",
        )
    return (input_ids != padding).long().cummax(1).values
