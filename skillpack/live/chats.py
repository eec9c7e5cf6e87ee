"""What a model reads of a sample: the text, and which parts of it are answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from skillpack.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skillpack.texts import Message, Sample


class Rendered(NamedTuple):
    """A sample as one text.

    Attributes:
        text: with the markup of the chat template.
        answers: half-open ranges of characters that are answers of the assistant with their end tokens; None where the
            sample is plain text, which counts as a whole.
        special: the tokenizer adds its own tokens, such as that of a beginning; a chat template brings them along.
    """

    text: str
    answers: tuple[tuple[int, int], ...] | None
    special: bool


def render(sample: Sample, tokenizer: Any) -> Rendered:
    """Write a sample down as the model reads it.

    A chat ends with the end token of its last answer, or with what comes before an answer if it waits for one. Without
    a chat template the answer follows the prompt as it is.

    Raises:
        DataError: the chat does not fit the tokenizer's chat template, or it has none and the chat is a longer one.
    """
    if not sample.messages:
        return Rendered(sample.text, None, special=True)
    if getattr(tokenizer, "chat_template", None) is None:
        return _plain(sample, tokenizer)
    if sample.is_prompt:
        return Rendered(_fill(tokenizer, sample.messages, prompt=True), (), special=False)
    whole, answers = _answered(sample.messages, tokenizer)
    ranges = [(answer.start, answer.end) for answer in answers]
    if sample.cut:
        ranges[-1] = (answers[-1].start, answers[-1].content_end)
    return Rendered(whole, tuple(ranges), special=False)


class _Answer(NamedTuple):
    """Where an answer is: its first character, and the ends of its content and of its end token."""

    start: int
    content_end: int
    end: int


def _answered(messages: Sequence[Message], tokenizer: Any) -> tuple[str, list[_Answer]]:
    """A chat that ends with an answer, and the answers that stand where a model would write them; the last one does."""
    whole = _fill(tokenizer, messages)
    places = [place for place, message in enumerate(messages) if place and message["role"] == "assistant"]
    found = [(place, _find(messages[: place + 1], tokenizer, whole)) for place in places]
    answers = [answer for place, answer in found if answer is not None]
    last = found[-1][1] if places and places[-1] == len(messages) - 1 else None
    if last is not None and last.end > last.content_end:
        return whole, answers
    # Nothing in the template ends the answer, or the template writes what comes before it in another way.
    before = _fill(tokenizer, messages[:-1], prompt=True) if len(messages) > 1 else ""
    content_end = len(before) + len(messages[-1]["content"])
    ended = before + messages[-1]["content"] + _end(tokenizer)
    earlier = [answer for answer in answers if answer is not last and ended.startswith(whole[: answer.end])]
    return ended, [*earlier, _Answer(len(before), content_end, len(ended))]


def _find(messages: Sequence[Message], tokenizer: Any, whole: str) -> _Answer | None:
    before = _fill(tokenizer, messages[:-1], prompt=True)
    text = _fill(tokenizer, messages).rstrip()
    content = messages[-1]["content"].strip()
    start = text.find(content, len(before))
    if not text.startswith(before) or start < 0 or not whole.startswith(text):
        return None
    return _Answer(len(before), start + len(content), len(text))


def _fill(tokenizer: Any, messages: Sequence[Message], *, prompt: bool = False) -> str:
    from jinja2 import TemplateError

    try:
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=prompt))
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise DataError(
            f"a chat with the turns {roles} does not fit the model's chat template: {error}",
            hint="Leave such chats out, or give the texts as the model reads them: {'text': …}.",
        ) from error


def _plain(sample: Sample, tokenizer: Any) -> Rendered:
    roles = [message["role"] for message in sample.messages]
    if roles not in (["user"], ["user", "assistant"]):
        raise DataError(
            f"the tokenizer has no chat template, which a chat with the turns {', '.join(roles)} needs",
            hint="Give a prompt and a completion, or texts.",
        )
    prompt = sample.messages[0]["content"]
    if sample.is_prompt:
        return Rendered(prompt, (), special=True)
    answer = sample.messages[1]["content"] + ("" if sample.cut else _end(tokenizer))
    return Rendered(prompt + answer, ((len(prompt), len(prompt + answer)),), special=True)


def _end(tokenizer: Any) -> str:
    return tokenizer.eos_token or ""
