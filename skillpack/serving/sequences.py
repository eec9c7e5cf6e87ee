"""One answer on its way from a prompt to its last token."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from skillpack.errors import SkillPackError
from skillpack.serving.sampling import Chosen, Sampling, generator

if TYPE_CHECKING:
    from collections.abc import Callable

    from skillpack.serving.choices import Choice
    from skillpack.serving.texts import Text

Reason = Literal["stop", "length"]


class TooSlowError(SkillPackError):
    """An answer was not finished in the time that the server allows."""

    exit_code: ClassVar[int] = 1


class BrokenError(SkillPackError):
    """The model could not compute an answer."""


class Update(NamedTuple):
    """What is new of an answer.

    Attributes:
        number: of the answer within its request.
        text: what comes next.
        chosen: the tokens behind it; the text may be a few tokens late.
        reason: why it ended; None while it goes on.
        error: why it failed.
    """

    number: int
    text: str = ""
    chosen: tuple[Chosen, ...] = ()
    reason: Reason | None = None
    error: BaseException | None = None


@dataclass(eq=False)
class Sequence:
    """An answer that is being written; used by the scheduler's thread, but for `is_cancelled`.

    Attributes:
        number: of the answer within its request.
        prompt: its tokens, at least one.
        choice: the skills, fixed from the beginning to the end.
        skills: their names, for metrics.
        sampling: how tokens are chosen.
        seed: of random numbers.
        most: tokens that the answer may have, at least one.
        ends: tokens that end it.
        text: turns its tokens into text.
        deliver: is called with every update, from the scheduler's thread.
        deadline: on the monotonic clock, in seconds.
        tokens: what was chosen.
        read: tokens of the prompt that were read, of which `cached` needed no work.
        keys: of the pieces of the prompt.
        is_cancelled: nobody waits for it.
    """

    number: int
    prompt: list[int]
    choice: Choice
    skills: tuple[str, ...]
    sampling: Sampling
    seed: int
    most: int
    ends: frozenset[int]
    text: Text
    deliver: Callable[[Update], None]
    deadline: float
    tokens: list[int] = field(default_factory=list)
    read: int = 0
    cached: int = 0
    keys: list[bytes] = field(default_factory=list)
    is_cancelled: bool = False
    submitted: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.random: Any = None if self.sampling.is_greedy else generator(self.seed, self.number)

    @property
    def place(self) -> int:
        """Where the last token stands in the sequence."""
        return len(self.prompt) + len(self.tokens) - 1

    def is_over(self, now: float) -> bool:
        """Whether nobody waits for it any more."""
        return self.is_cancelled or now > self.deadline

    def add(self, chosen: Chosen) -> bool:
        """Take the next token; returns whether it was the last."""
        self.tokens.append(chosen.token)
        if chosen.token in self.ends:
            self._deliver(self.text.finish(), chosen, "stop")
            return True
        piece = self.text.push(chosen.token)
        if piece.stopped:
            self._deliver(piece.text, chosen, "stop")
            return True
        if len(self.tokens) == self.most:
            self._deliver(piece.text + self.text.finish(), chosen, "length")
            return True
        self._deliver(piece.text, chosen, None)
        return False

    def end(self, error: BaseException | None) -> None:
        """End it before its time."""
        self.deliver(Update(self.number, error=error))

    def _deliver(self, text: str, chosen: Chosen, reason: Reason | None) -> None:
        if not self.is_cancelled:
            self.deliver(Update(self.number, text, (chosen,), reason))
