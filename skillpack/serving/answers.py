"""The JSON that clients get: chats and completions, whole or piece by piece."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Sequence as Many

    from skillpack.serving.sampling import Chosen
    from skillpack.serving.sequences import Sequence, Update
    from skillpack.serving.voices import Voice


class Form(Protocol):
    """How answers of one endpoint are written."""

    def whole(self, results: Many[Result], usage: dict[str, Any]) -> dict[str, Any]:
        """All answers of a request."""

    def begin(self, number: int) -> dict[str, Any] | None:
        """The first piece of a stream of an answer, before any text."""

    def piece(self, update: Update) -> dict[str, Any]:
        """What is new of an answer."""

    def end(self, usage: dict[str, Any]) -> dict[str, Any]:
        """The last piece of a stream whose client wants to know what it cost."""


class Result:
    """An answer that is being collected."""

    def __init__(self) -> None:
        self.text = ""
        self.chosen: list[Chosen] = []
        self.reason: str | None = None

    def add(self, update: Update) -> None:
        """Take what is new.

        Raises:
            whatever the answer failed with.
        """
        if update.error is not None:
            raise update.error
        self.text += update.text
        self.chosen += update.chosen
        self.reason = update.reason


class Chat:
    """The form of /v1/chat/completions.

    Args:
        model: as the client named it.
        digest: of base and skills; a client can see by it that the weights have changed.
        voice: turns tokens into text for the report of probabilities.
        report: the client wants that report.
    """

    def __init__(self, model: str, digest: str, voice: Voice, *, report: bool) -> None:
        self._voice = voice
        self._report = report
        self.id = f"chatcmpl-{secrets.token_hex(12)}"
        self._head = {"id": self.id, "created": int(time.time()), "model": model, "system_fingerprint": digest}

    def whole(self, results: Many[Result], usage: dict[str, Any]) -> dict[str, Any]:
        """All answers of a request."""
        choices = [
            {
                "index": number,
                "message": {"role": "assistant", "content": result.text, "refusal": None},
                "logprobs": self._probabilities(result.chosen),
                "finish_reason": result.reason,
            }
            for number, result in enumerate(results)
        ]
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": usage}

    def begin(self, number: int) -> dict[str, Any] | None:
        """The piece that says whose turn it is."""
        return self._chunk(number, {"role": "assistant", "content": "", "refusal": None}, None, None)

    def piece(self, update: Update) -> dict[str, Any]:
        """What is new of an answer."""
        delta = {"content": update.text} if update.text or not update.reason else {}
        return self._chunk(update.number, delta, self._probabilities(update.chosen), update.reason)

    def end(self, usage: dict[str, Any]) -> dict[str, Any]:
        """What it cost."""
        return {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage}

    def _chunk(self, number: int, delta: dict[str, Any], probabilities: Any, reason: str | None) -> dict[str, Any]:
        choice = {"index": number, "delta": delta, "logprobs": probabilities, "finish_reason": reason}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}

    def _probabilities(self, chosen: Iterable[Chosen]) -> dict[str, Any] | None:
        if not self._report:
            return None
        content = [
            {
                **self._token(token.token, token.logprob),
                "top_logprobs": [self._token(likely.token, likely.logprob) for likely in token.likely],
            }
            for token in chosen
        ]
        return {"content": content, "refusal": None}

    def _token(self, token: int, logprob: float | None) -> dict[str, Any]:
        text, content = self._voice.token(token)
        return {"token": text, "logprob": logprob, "bytes": content}


class Completion:
    """The form of /v1/completions; see `Chat`."""

    def __init__(self, model: str, digest: str, voice: Voice, *, report: bool) -> None:
        self._voice = voice
        self._report = report
        self._offsets: dict[int, int] = {}
        self.id = f"cmpl-{secrets.token_hex(12)}"
        self._head = {
            "id": self.id,
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": digest,
        }

    def whole(self, results: Many[Result], usage: dict[str, Any]) -> dict[str, Any]:
        """All answers of a request."""
        choices = [
            self._choice(number, result.text, result.chosen, result.reason) for number, result in enumerate(results)
        ]
        return {**self._head, "choices": choices, "usage": usage}

    def begin(self, number: int) -> dict[str, Any] | None:
        """There is nothing before the text."""
        del number
        return None

    def piece(self, update: Update) -> dict[str, Any]:
        """What is new of an answer."""
        return {**self._head, "choices": [self._choice(update.number, update.text, update.chosen, update.reason)]}

    def end(self, usage: dict[str, Any]) -> dict[str, Any]:
        """What it cost."""
        return {**self._head, "choices": [], "usage": usage}

    def _choice(self, number: int, text: str, chosen: Iterable[Chosen], reason: str | None) -> dict[str, Any]:
        return {
            "index": number,
            "text": text,
            "logprobs": self._probabilities(number, chosen),
            "finish_reason": reason,
        }

    def _probabilities(self, number: int, chosen: Iterable[Chosen]) -> dict[str, Any] | None:
        if not self._report:
            return None
        tokens, logprobs, likely, offsets = [], [], [], []
        for token in chosen:
            text = self._voice.token(token.token)[0]
            offsets.append(self._offsets.get(number, 0))
            self._offsets[number] = offsets[-1] + len(text)
            tokens.append(text)
            logprobs.append(token.logprob)
            likely.append({self._voice.token(other.token)[0]: other.logprob for other in token.likely})
        return {"tokens": tokens, "token_logprobs": logprobs, "top_logprobs": likely, "text_offset": offsets}


def usage_of(sequences: Many[Sequence], prompts: int) -> dict[str, Any]:
    """What a request cost, in tokens.

    Args:
        sequences: its answers.
        prompts: how many different prompts they have; each is counted once.
    """
    firsts = sequences[:: len(sequences) // prompts]
    read, written = sum(len(first.prompt) for first in firsts), sum(len(each.tokens) for each in sequences)
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": {"cached_tokens": sum(first.cached for first in firsts)},
    }
