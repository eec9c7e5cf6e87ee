"""What the frozen base makes of a prompt: one vector from the middle of the model, for any model of transformers."""

from __future__ import annotations

from functools import cached_property
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final

import torch

from skillpack.errors import DataError, UnsupportedModelError
from skillpack.grafting.wrappers import unwrap
from skillpack.live.batches import padding_token
from skillpack.live.chats import render
from skillpack.live.partial import output_of
from skillpack.routing.calibration import background_texts
from skillpack.routing.remembered import remembered
from skillpack.routing.space import Whitening
from skillpack.texts import Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from skillpack.routing.applying import Applied, Named
    from skillpack.routing.protocol import Tokens

DEPTH: Final = 0.8
"""Share of the layers that a prompt passes before its features are taken."""
MOST_TOKENS: Final = 512
"""Of a prompt; of a longer one, the first half and the second half of so many."""
_ROWS: Final = 8


class Base:
    """A live base as routers see it: how it reads prompts, and what it makes of them.

    Args:
        model: loaded by transformers; it is only read. Skills that are on it would change features.
        tokenizer: of the model.
        applied: lets rows have skills, for methods that ask what a skill makes of a prompt, and no skills otherwise.
        layer: after which features are taken, counted from 1; by default the one at four fifths of the depth.

    Attributes:
        model: without wrappers.
        tokenizer: as it was given.
        applied: as it was given.
        layer: see above.
        probe: features of a text that examples are checked with, once they were; see `skillpack.routing.examples`.

    Raises:
        UnsupportedModelError: the model has no row of layers, or no such layer.
    """

    def __init__(self, model: torch.nn.Module, tokenizer: Any, applied: Applied, layer: int | None = None) -> None:
        self.model: Any = unwrap(model)
        self.tokenizer = tokenizer
        self.applied = applied
        self._layers = _layers(self.model)
        self.layer = max(1, round(DEPTH * len(self._layers))) if layer is None else layer
        if not 1 <= self.layer <= len(self._layers):
            raise UnsupportedModelError(f"There is no layer {self.layer}: the model has {len(self._layers)}")
        self._most = min(MOST_TOKENS, getattr(self.model.config, "max_position_embeddings", MOST_TOKENS))
        self.probe: torch.Tensor | None = None
        self._opening: Tokens = []
        self._opening = self._common("a", "b")

    @cached_property
    def background(self) -> list[Tokens]:
        """The texts of `skillpack.routing.calibration` as the model reads them."""
        return [self.read(text) for text in background_texts()]

    @cached_property
    def background_features(self) -> torch.Tensor:
        """Their features, fp32 of shape (texts, width)."""
        return remembered(self.model, self.layer, self.background, lambda: self.features(self.background))

    @cached_property
    def whitened(self) -> Whitening:
        """Takes features to the space in which they are compared."""
        return Whitening(self.background_features)

    @cached_property
    def background_directions(self) -> torch.Tensor:
        """The background in that space, fp32 of shape (texts, width)."""
        return self.whitened(self.background_features)

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        where: torch.device = self.model.get_input_embeddings().weight.device
        return where

    def read(self, prompt: str | Sample | Tokens) -> Tokens:
        """A prompt as the model reads it: text is what a user says in a chat, if the model knows chats.

        Raises:
            DataError: the prompt is empty, or does not fit the chat template.
        """
        if isinstance(prompt, str):
            chats = getattr(self.tokenizer, "chat_template", None) is not None
            prompt = Sample(messages=({"role": "user", "content": prompt},)) if chats else Sample(text=prompt)
        if isinstance(prompt, Sample):
            # An answer is what the skill is there to give, so there is none yet when a prompt is routed.
            asked = prompt.messages[:-1] if prompt.messages and not prompt.is_prompt else prompt.messages
            text, _, special = render(Sample(messages=asked, text=prompt.text), self.tokenizer)
            tokens: Tokens = self.tokenizer(text, add_special_tokens=special, verbose=False).input_ids
        else:
            tokens = list(prompt)
        if not tokens:
            raise DataError("A prompt is empty, so there is nothing to route")
        half = self._most // 2
        return tokens if len(tokens) <= self._most else tokens[:half] + tokens[-half:]

    def own(self, tokens: Tokens) -> int:
        """Where a prompt's own tokens begin, after what all prompts of the template begin with.

        The first token is left out in any case: many models keep in it what is of no use elsewhere, and a thousand
        times larger.
        """
        common = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(tokens, self._opening, strict=False))))
        return min(max(1, common), len(tokens) - 1)

    def features(self, prompts: Sequence[Tokens]) -> torch.Tensor:
        """One vector for each prompt: what its last token holds after `layer` layers, and the mean of its own tokens.

        Each half is scaled to a mean square of 1. Later layers are not computed.

        Returns:
            fp32 of shape (prompts, 2 x hidden size), on the CPU.
        """
        return self.pooled(prompts, self._forward)

    def features_under(self, prompts: Sequence[Tokens], skills: Sequence[Named | None]) -> torch.Tensor:
        """The same of the base with skills on, one for each prompt; they are loaded."""

        def forward(ids: torch.Tensor, mask: torch.Tensor, places: list[int]) -> torch.Tensor:
            with self.applied.rows([skills[place] for place in places]):
                return self.hidden(ids, mask)

        return self.pooled(prompts, forward)

    def pooled(
        self, prompts: Sequence[Tokens], forward: Callable[[torch.Tensor, torch.Tensor, list[int]], torch.Tensor]
    ) -> torch.Tensor:
        """The same from hidden states that a function computes.

        Args:
            prompts: none is empty.
            forward: makes hidden states (rows, tokens, width) of ids, mask and the places of the rows' prompts.
        """
        found = torch.empty(0)
        for places, ids, mask in self.batches(prompts):
            hidden = forward(ids, mask, places)
            if not len(found):
                found = torch.empty(len(prompts), 2, hidden.shape[-1])
            for row, place in enumerate(places):
                own = hidden[row, self.own(prompts[place]) : len(prompts[place])].float()
                found[place] = torch.stack([own[-1], own.mean(0)]).cpu()
        scaled = torch.nn.functional.normalize(found, dim=-1) * found.shape[-1] ** 0.5
        return scaled.flatten(1)

    def batches(
        self, prompts: Sequence[Tokens], rows: int = _ROWS
    ) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
        """Prompts of similar length together, the shortest first, padded on the right: their places, ids and mask."""
        order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
        for start in range(0, len(order), rows):
            places = order[start : start + rows]
            length = len(prompts[places[-1]])
            ids = torch.full((len(places), length), padding_token(self.tokenizer))
            mask = torch.zeros_like(ids)
            for row, place in enumerate(places):
                ids[row, : len(prompts[place])] = torch.tensor(prompts[place])
                mask[row, : len(prompts[place])] = 1
            yield places, ids.to(self.device), mask.to(self.device)

    @torch.no_grad()
    def run(self, ids: torch.Tensor, mask: torch.Tensor) -> None:
        """A whole forward pass of the layers, for those who watch them."""
        with self._alone():
            self._inner()(input_ids=ids, attention_mask=mask, **_without_cache(self.model))

    @torch.no_grad()
    def hidden(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Hidden states after `layer` layers, (rows, tokens, width), in the model's dtype; of whatever skills apply."""
        inner, options = self._inner(), _without_cache(self.model)
        states = output_of(self._layers[self.layer - 1], lambda: inner(input_ids=ids, attention_mask=mask, **options))
        if states is None:
            raise UnsupportedModelError(f"Layer {self.layer} of a {type(self.model).__name__} is not used")
        return states

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, places: list[int]) -> torch.Tensor:
        del places
        with self._alone():
            return self.hidden(ids, mask)

    def _alone(self) -> AbstractContextManager[object]:
        return self.applied.rows([None])

    def _inner(self) -> Any:
        """The part that has layers, so that an encoder alone is asked in a model with a decoder."""
        inner = getattr(self.model, "base_model", self.model)
        return inner.get_encoder() if getattr(self.model.config, "is_encoder_decoder", False) else inner

    def _common(self, one: str, other: str) -> Tokens:
        pairs = zip(self.read(one), self.read(other), strict=False)
        return [first for first, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]


def _layers(model: Any) -> torch.nn.ModuleList:
    """The longest row of modules of one kind; the first of several."""
    scope = model.get_encoder() if getattr(model.config, "is_encoder_decoder", False) else model
    rows = [
        module
        for module in scope.modules()
        if isinstance(module, torch.nn.ModuleList) and len({type(layer) for layer in module}) == 1
    ]
    if not rows:
        raise UnsupportedModelError(f"A {type(model).__name__} has no row of layers to take features from")
    return max(rows, key=len)


def _without_cache(model: Any) -> dict[str, Any]:
    """Keys and values are of no use here."""
    return {"use_cache": False} if hasattr(model.config, "use_cache") else {}
