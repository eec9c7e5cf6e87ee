"""Forward passes: pieces of prompts, and one more token for many rows with different skills."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final, Protocol

import torch

from skillpack.errors import ConflictError, UnsupportedCheckpointError
from skillpack.serving.slots import STAGE, Slots

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from skillpack.serving.choices import Choice
    from skillpack.skill import Skill

_LAYERS: Final = {"DynamicLayer", "DynamicSlidingWindowLayer"}
"""Layers of transformers' caches whose content `Slots` can keep."""

_DISTURBED: Final = 0.1
"""Relative difference of logits that no rounding makes."""


class Resident(Protocol):
    """Skills that are loaded into a model, of which each row of a forward pass uses some."""

    def prepare(self, skill: Skill) -> Callable[[], None]:
        """Check a skill while forward passes may run; returns what makes it usable, to be called while none does."""

    def unload(self, digest: str) -> None:
        """Forget a skill."""

    def check(self, choice: Choice) -> None:
        """Check that skills go together; while no forward pass runs.

        Raises:
            ConflictError: they do not.
        """

    def rows(self, choices: Sequence[Choice]) -> AbstractContextManager[object]:
        """Within it, each row of a forward pass uses the skills of its own choice."""


class Stepper:
    """Runs a model on the sequences in its slots; used by one thread.

    Args:
        model: of transformers, in evaluation mode.
        skills: the skills that its rows can use; None for the base alone.
        rows: most sequences that are continued together.
        piece: tokens of a prompt that are read in one forward pass.

    Attributes:
        context: most tokens of a sequence.
        vocabulary: how many tokens there are.

    Raises:
        UnsupportedCheckpointError: the model keeps something else than keys and values of attention.
    """

    def __init__(self, model: Any, skills: Resident | None, *, rows: int, piece: int) -> None:
        self._model = model
        self._skills = skills
        config = model.config.get_text_config(decoder=True)
        self.vocabulary = int(model.get_output_embeddings().weight.shape[0])
        self.device = model.get_input_embeddings().weight.device
        self.piece = piece
        self.slots = Slots(_attention_layers(model, config), rows)
        self.context = _context(model, config)

    def read(self, choice: Choice, prompt: Sequence[int], start: int) -> tuple[int, torch.Tensor]:
        """Read the next piece of the prompt in the stage.

        Returns:
            Where the next piece begins, and the logits after this one, fp32 of shape (vocabulary,), on the CPU.
        """
        stop = min(start + self.piece, len(prompt))
        self.slots.read_prompt(start)
        ids = torch.tensor([prompt[start:stop]], device=self.device)
        places = torch.arange(start, stop, device=self.device)[None]
        return stop, self._forward([choice], ids, places, None)[0]

    def next(self, choices: Sequence[Choice], tokens: Sequence[int], places: Sequence[int]) -> torch.Tensor:
        """Continue rows by a token.

        Args:
            choices: skills of each row.
            tokens: last token of each row.
            places: where in its sequence each token stands.

        Returns:
            Logits of the tokens after these, fp32 of shape (rows, vocabulary), on the CPU.
        """
        try:
            return self._next(choices, tokens, places)
        except ConflictError:
            # What one row has was checked before, so it is their difference that this model cannot take.
            groups: dict[Choice, list[int]] = {}
            for row, choice in enumerate(choices):
                groups.setdefault(choice, []).append(row)
            if len(groups) < 2:
                raise
        logits = torch.empty(len(choices), self.vocabulary)
        for rows in groups.values():
            own = [tokens[row] for row in rows], [places[row] for row in rows]
            logits[rows] = self._next([choices[rows[0]]] * len(rows), *own, rows)
        return logits

    def _next(
        self, choices: Sequence[Choice], tokens: Sequence[int], places: Sequence[int], rows: list[int] | None = None
    ) -> torch.Tensor:
        where = torch.tensor(list(places), device=self.device)
        self.slots.continue_rows(where, rows)
        mask = torch.arange(int(where.max()) + 1, device=self.device)[None] <= where[:, None]
        ids = torch.tensor(list(tokens), device=self.device)[:, None]
        return self._forward(choices, ids, where[:, None], mask.long())

    def start_row(self, row: int, tokens: int) -> None:
        """Make the sequence in the stage a row."""
        self.slots.move(STAGE, 1 + row, tokens)

    def end_row(self, row: int, tokens: int, last: int, last_tokens: int) -> None:
        """Forget a row of this many tokens; the last row takes its place."""
        self.slots.clear(1 + row, tokens)
        if row != last:
            self.slots.move(1 + last, 1 + row, last_tokens)

    def check(self) -> None:
        """Check that rows do not disturb each other: each must have the logits of its sequence alone.

        Raises:
            UnsupportedCheckpointError: they do, or the model takes its input in another way.
        """
        try:
            self._check_rows([[1, 2, 3, 4, 5], [6, 7]])
        except (TypeError, RuntimeError, IndexError) as error:
            raise self._unfit(f"it cannot continue several texts at once ({error})") from error
        finally:
            self.slots.shrink()

    def _check_rows(self, texts: list[list[int]]) -> None:
        for row, text in enumerate(texts):
            start = 0
            while start < len(text) - 1:
                start, _ = self.read((), text[:-1], start)
            self.start_row(row, len(text) - 1)
        choices: list[Choice] = [() for _ in texts]
        found = self.next(choices, [text[-1] for text in texts], [len(text) - 1 for text in texts])
        for text, logits in zip(texts, found, strict=True):
            alone = self._alone(text)
            if not float((logits - alone).norm()) <= _DISTURBED * float(alone.norm()):
                raise self._unfit("texts that it continues together disturb each other")

    @torch.no_grad()
    def _alone(self, text: list[int]) -> torch.Tensor:
        ids = torch.tensor([text], device=self.device)
        logits: torch.Tensor = self._model(input_ids=ids).logits[0, -1].float().cpu()
        return logits

    def _unfit(self, reason: str) -> UnsupportedCheckpointError:
        return UnsupportedCheckpointError(f"A {type(self._model).__name__} cannot be served: {reason}")

    @torch.no_grad()
    def _forward(
        self, choices: Sequence[Choice], ids: torch.Tensor, places: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        with self._skills.rows(choices) if self._skills is not None else nullcontext():
            found = self._model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=places,
                past_key_values=self.slots,
                use_cache=True,
                logits_to_keep=1,
            )
        logits: torch.Tensor = found.logits[:, -1].float().cpu()
        return logits


def _attention_layers(model: Any, config: Any) -> int:
    """Number of layers of attention.

    Raises:
        UnsupportedCheckpointError: there are others.
    """
    from transformers import DynamicCache

    if model.config.is_encoder_decoder or not model.can_generate():
        raise UnsupportedCheckpointError(f"A {type(model).__name__} does not continue texts, so it cannot be served")
    layers = DynamicCache(config=config).layers
    others = sorted({type(layer).__name__ for layer in layers} - _LAYERS)
    if others:
        raise UnsupportedCheckpointError(
            f"A {type(model).__name__} cannot be served: it keeps more than keys and values ({', '.join(others)})"
        )
    return len(layers) or int(config.num_hidden_layers)


def _context(model: Any, config: Any) -> int:
    """Most tokens of a sequence: as many as the model can tell apart, all of which every layer can look at."""
    known = (getattr(config, name, None) for name in ("max_position_embeddings", "sliding_window"))
    lengths = [int(length) for length in known if length]
    if not lengths:
        raise UnsupportedCheckpointError(
            f"The config of this {type(model).__name__} does not say how long texts can be"
        )
    return min(lengths)
