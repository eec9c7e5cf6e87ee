"""What a model writes itself: answers to prompts, and texts of its own to calibrate on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import torch

from skillpack.errors import UnsupportedCheckpointError
from skillpack.live.batches import padding_token
from skillpack.live.chats import render
from skillpack.progress import Progress, Stage, silent
from skillpack.texts import Sample

if TYPE_CHECKING:
    from collections.abc import Sequence

_ROWS: Final = 16
"""Texts that are written side by side."""


def complete(
    model: Any, tokenizer: Any, samples: Sequence[Sample], max_new_tokens: int, *, progress: Progress = silent
) -> list[Sample]:
    """Let a model answer the chats that wait for an answer, with its most likely tokens.

    Args:
        model: a language model.
        tokenizer: its tokenizer.
        samples: those that are no prompts are given back as they are.
        max_new_tokens: most tokens of an answer; a longer one is `Sample.cut`.
        progress: called during the work; counts bytes of the prompts' token ids.

    Returns:
        The samples in their order.

    Raises:
        DataError: a prompt does not fit the tokenizer's chat template.
        UnsupportedCheckpointError: the model cannot generate.
    """
    _check_can_generate(model)
    prompts = {place: _prompt(sample, tokenizer) for place, sample in enumerate(samples) if sample.is_prompt}
    if not prompts:
        return list(samples)
    stage = Stage(progress, "answering prompts", 8 * sum(map(len, prompts.values())))
    completed = list(samples)
    order = sorted(prompts, key=lambda place: len(prompts[place]))
    for start in range(0, len(order), _ROWS):
        places = order[start : start + _ROWS]
        rows = [prompts[place] for place in places]
        answers = _generate(model, tokenizer, rows, max_new_tokens, sample=False)
        for place, (answer, cut) in zip(places, answers, strict=True):
            turns = (*samples[place].messages, {"role": "assistant", "content": answer})
            completed[place] = replace(samples[place], messages=turns, cut=cut)
        stage.advance(8 * sum(map(len, rows)))
    return completed


def self_samples(
    model: Any, tokenizer: Any, count: int, seed: int, *, max_new_tokens: int = 256, progress: Progress = silent
) -> list[Sample]:
    """Texts that a model writes when nothing is asked of it, drawn from its own distribution.

    With a chat template they are answers to an empty question, otherwise texts from the token of a beginning on.

    Args:
        model: a language model.
        tokenizer: its tokenizer.
        count: how many.
        seed: of the draws; the same on one machine gives the same texts.
        max_new_tokens: most tokens of a text.
        progress: called during the work; counts bytes of token ids.

    Raises:
        UnsupportedCheckpointError: the model cannot generate, or the tokenizer has no token to begin with.
    """
    _check_can_generate(model)
    empty = Sample(messages=({"role": "user", "content": ""},))
    chat = getattr(tokenizer, "chat_template", None) is not None
    row = _prompt(empty, tokenizer) if chat else [_first_token(tokenizer)]
    stage = Stage(progress, "writing texts", 8 * count * max_new_tokens)
    samples: list[Sample] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        while len(samples) < count:
            rows = [row] * min(_ROWS, count - len(samples))
            for text, cut in _generate(model, tokenizer, rows, max_new_tokens, sample=True):
                turns = (*empty.messages, {"role": "assistant", "content": text})
                samples.append(Sample(messages=turns, cut=cut) if chat else Sample(text=text))
            stage.advance(8 * len(rows) * max_new_tokens)
    return samples


def _check_can_generate(model: Any) -> None:
    if model.config.is_encoder_decoder or not model.can_generate():
        raise UnsupportedCheckpointError(
            f"a {type(model).__name__} cannot write texts", hint="Give texts with answers, or plain texts."
        )


def _first_token(tokenizer: Any) -> int:
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise UnsupportedCheckpointError(
        "the tokenizer has no token to begin a text with", hint="Give texts instead of the model's own."
    )


def _prompt(sample: Sample, tokenizer: Any) -> list[int]:
    text, _, special = render(sample, tokenizer)
    ids: list[int] = tokenizer(text, add_special_tokens=special, verbose=False).input_ids
    return ids


def _generate(
    model: Any, tokenizer: Any, rows: Sequence[Sequence[int]], max_new_tokens: int, *, sample: bool
) -> list[tuple[str, bool]]:
    """For each row the text that follows it, and whether it was cut off."""
    from transformers import GenerationConfig

    padding, length = padding_token(tokenizer), max(map(len, rows))
    ids = torch.tensor([[padding] * (length - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    ends = _end_tokens(model, tokenizer)
    config = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=max_new_tokens,
        do_sample=sample,
        num_beams=1,
        eos_token_id=ends or None,
        pad_token_id=padding,
        **({"temperature": 1.0, "top_k": 0, "top_p": 1.0} if sample else {}),
    )
    with torch.no_grad():
        new = model.generate(ids, attention_mask=mask, generation_config=config)[:, length:].tolist()
    return [_ended(row, ends, tokenizer) for row in new]


def _end_tokens(model: Any, tokenizer: Any) -> list[int]:
    configured = model.generation_config.eos_token_id
    ends = configured if isinstance(configured, list) else [configured]
    return sorted({token for token in (*ends, tokenizer.eos_token_id) if token is not None})


def _ended(tokens: list[int], ends: Sequence[int], tokenizer: Any) -> tuple[str, bool]:
    end = next((place for place, token in enumerate(tokens) if token in ends), None)
    return tokenizer.decode(tokens[:end], skip_special_tokens=True), end is None
