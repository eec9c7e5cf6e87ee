"""Samples as padded batches of tokens, with the predictions in them that count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from skillpack.live.chats import render

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from skillpack.texts import Sample


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples that go through a model together, padded on the right.

    Attributes:
        input_ids: int64 of shape (rows, length).
        attention_mask: int64 of the same shape; 0 where a row is padded.
        scored: bool of the same shape; where the model's prediction counts. It is that of the next token, or for
            a classifier the one of the whole sample, at its last token.
        sample: which of the samples each scored prediction belongs to, row by row; int64 of shape (scored,).
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    scored: torch.Tensor
    sample: torch.Tensor

    @property
    def targets(self) -> torch.Tensor:
        """The tokens that the scored predictions are about, int64 of shape (scored,)."""
        return self.input_ids[:, 1:][self.scored[:, :-1]]

    @property
    def nbytes(self) -> int:
        """Bytes of the token ids, padding included."""
        return self.input_ids.nbytes


@dataclass(frozen=True)
class _Row:
    sample: int
    ids: list[int]
    scored: list[bool]


def encode(
    samples: Sequence[Sample],
    tokenizer: Any,
    max_tokens: int,
    batch_tokens: int,
    *,
    whole: bool = False,
    most: int | None = None,
) -> list[Batch]:
    """Turn samples into batches, those of similar length together.

    Of a chat, the tokens of the assistant's answers count with their end tokens, and none if it waits for an answer.
    Of plain text all tokens but the first count.

    Args:
        samples: texts and chats.
        tokenizer: of the model.
        max_tokens: what is longer is cut at its end.
        batch_tokens: most tokens in a batch, padding included; a longer sample has a batch of its own, with 0 each has.
        whole: each sample has one prediction, as a classifier makes it.
        most: most samples in a batch.

    Returns:
        Batches with the longest samples first.

    Raises:
        DataError: a chat does not fit the tokenizer's chat template.
    """
    rows = [_row(place, sample, tokenizer, max_tokens, whole=whole) for place, sample in enumerate(samples)]
    rows = sorted((row for row in rows if row.ids), key=lambda row: -len(row.ids))
    return [_batch(group, padding_token(tokenizer)) for group in _groups(rows, batch_tokens, most)]


def padding_token(tokenizer: Any) -> int:
    """A token to pad with; which one does not matter where the attention mask is heeded."""
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(token for token in known if token is not None)


def _groups(rows: Sequence[_Row], batch_tokens: int, most: int | None) -> Iterator[list[_Row]]:
    group: list[_Row] = []
    for row in rows:
        if group and (len(group) == most or (len(group) + 1) * len(group[0].ids) > batch_tokens):
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def _batch(rows: Sequence[_Row], padding: int) -> Batch:
    length = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), length), padding)
    mask, scored = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
    for place, row in enumerate(rows):
        ids[place, : len(row.ids)] = torch.tensor(row.ids)
        mask[place, : len(row.ids)] = 1
        scored[place, : len(row.ids)] = torch.tensor(row.scored)
    sample = torch.tensor([row.sample for row in rows]).repeat_interleave(scored.sum(1))
    return Batch(ids, mask, scored, sample)


def _row(place: int, sample: Sample, tokenizer: Any, max_tokens: int, *, whole: bool) -> _Row:
    text, answers, special = render(sample, tokenizer)
    if answers is None or whole:
        # The tokenizer cuts, since it keeps the end token that an encoder expects.
        ids = tokenizer(text, add_special_tokens=special, truncation=True, max_length=max_tokens).input_ids
        return _Row(place, ids, [whole is (at == len(ids) - 1) for at in range(len(ids))])
    ids, belongs = _answer_tokens(text, answers, tokenizer, special=special)
    return _Row(place, ids[:max_tokens], [*belongs[1:max_tokens], False])


def _answer_tokens(
    text: str, answers: tuple[tuple[int, int], ...], tokenizer: Any, *, special: bool
) -> tuple[list[int], list[bool]]:
    """Tokens of a text, and whether each belongs to an answer."""
    if not tokenizer.is_fast:
        return _tokens_by_piece(text, answers, tokenizer, special=special)
    encoded = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True, verbose=False)
    belongs = [
        any(start <= first and last <= end for start, end in answers) and first < last
        for first, last in encoded.offset_mapping
    ]
    return encoded.input_ids, belongs


def _tokens_by_piece(
    text: str, answers: tuple[tuple[int, int], ...], tokenizer: Any, *, special: bool
) -> tuple[list[int], list[bool]]:
    """The same for a tokenizer that does not say where its tokens come from: each piece is encoded alone."""
    ids: list[int] = []
    belongs: list[bool] = []
    position = 0
    for start, end in (*answers, (len(text), len(text))):
        for piece, answer in ((text[position:start], False), (text[start:end], True)):
            new = tokenizer(piece, add_special_tokens=special and not ids, verbose=False).input_ids if piece else []
            ids += new
            belongs += [answer] * len(new)
        position = end
    return ids, belongs
