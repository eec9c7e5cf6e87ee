"""A small model that reads along while another one generates: with each of several skills, in one forward pass."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch

from skillpack.errors import UnsupportedModelError, UsageError

if TYPE_CHECKING:
    from contextlib import ContextDecorator


class Follower:
    """Logits of a model for the texts that another one writes, for the base and for each skill.

    Rows are those of the texts, once for every variant, in blocks: first all texts for the base, then all for the first
    skill. Keys and values are kept. Each new step has to lengthen texts of the step before by one token; which one a
    text goes on from is found by comparing tokens, so that beams may be reordered. Anything else is read anew.

    Args:
        model: the small model, in evaluation mode.
        applied: the context within which its rows have their skills, used once per forward pass.
        variants: the base and the skills.
        use_cache: keep keys and values.

    Raises:
        UnsupportedModelError: the model cannot keep them.
    """

    def __init__(self, model: Any, applied: ContextDecorator, variants: int, *, use_cache: bool) -> None:
        self._model = model
        self._variants = variants
        self._use_cache = use_cache
        self._run = applied(self._forward)
        self._known = inspect.signature(model.forward).parameters
        if use_cache and "past_key_values" not in self._known:
            raise UnsupportedModelError(
                f"{type(model).__name__} keeps no keys and values", hint="Give use_cache=False to read texts anew."
            )
        self._longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.reset()

    def reset(self) -> None:
        """Forget the texts, with their keys and values."""
        self._ids: torch.Tensor | None = None
        self._mask: torch.Tensor | None = None
        self._cache: Any = None

    def logits(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Of the next token.

        Args:
            ids: the texts so far, int64 of shape (rows, length); on any device, as the mask.
            mask: 0 for padding, which is at the left, and 1 elsewhere; int64 of the same shape.

        Returns:
            fp32 of shape (variants, rows, tokens), on the model's device.

        Raises:
            UsageError: the texts are empty, or too long for the model.
        """
        self._check_length(ids.shape[1])
        ids, mask = ids.to(self._model.device), mask.to(self._model.device)
        origin = self._origin(ids, mask)
        new = 1 if origin is not None else ids.shape[1]
        if origin is None:
            self._cache = None
        else:
            self._reorder(origin)
        found = self._run(ids, mask, new)
        self._ids, self._mask = ids, mask
        return found.float().view(self._variants, ids.shape[0], -1)

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, new: int) -> torch.Tensor:
        """Logits of the last token, computed from so many new ones."""
        options: dict[str, Any] = {"use_cache": self._use_cache}
        if self._cache is not None:
            options["past_key_values"] = self._cache
        if "position_ids" in self._known:
            positions = (mask.cumsum(-1) - 1).clamp(min=0)
            options["position_ids"] = positions[:, -new:].repeat(self._variants, 1)
        if "logits_to_keep" in self._known:
            options["logits_to_keep"] = 1
        output = self._model(
            input_ids=ids[:, -new:].repeat(self._variants, 1),
            attention_mask=mask.repeat(self._variants, 1),
            **options,
        )
        if self._use_cache:
            self._cache = self._checked(output.past_key_values)
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def _origin(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor | None:
        """For each row the row of the step before that it goes on from; None if there is no such step."""
        before, known = self._ids, self._mask
        if self._cache is None or before is None or known is None or ids.shape[1] != before.shape[1] + 1:
            return None
        prefix = ids[:, :-1]
        if torch.equal(prefix, before) and torch.equal(mask[:, :-1], known):
            return torch.arange(len(ids), device=ids.device)
        pairs = zip(prefix, mask[:, :-1], strict=True)
        same = torch.stack([((row == before) & (seen == known)).all(-1) for row, seen in pairs])
        return same.long().argmax(-1) if bool(same.any(-1).all()) else None

    def _reorder(self, origin: torch.Tensor) -> None:
        rows = 0 if self._ids is None else len(self._ids)
        if len(origin) == rows and torch.equal(origin, torch.arange(rows, device=origin.device)):
            return
        self._cache.reorder_cache(torch.cat([origin + rows * variant for variant in range(self._variants)]))

    def _check_length(self, length: int) -> None:
        if not length:
            raise UsageError("The prompts are empty", hint="Give token ids; embeddings mean nothing to another model.")
        if self._longest is not None and length > self._longest:
            raise UsageError(
                f"The text has {length} tokens, and the small model takes {self._longest}",
                hint="Ask for fewer new tokens, or give a shorter prompt.",
            )

    def _checked(self, cache: Any) -> Any:
        if not hasattr(cache, "reorder_cache"):
            raise UnsupportedModelError(
                f"{type(self._model).__name__} keeps something else than keys and values",
                hint="Give use_cache=False to read texts anew.",
            )
        return cache
