"""The skills that are offered: names that clients use, the digests behind them, and who still needs them.

A name can get another digest at any time. Answers keep the digests that they began with, so a skill that is no longer
offered is unloaded only when its last answer is finished.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from skillpack.errors import ConflictError, NotFoundError, UsageError
from skillpack.installing.claims import Active
from skillpack.serving.choices import parse_model
from skillpack.signing.checking import require_trusted
from skillpack.skill import open_skill
from skillpack.summaries import label_of
from skillpack_store import StoreError, check_skill_name, parse_address

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from skillpack.serving.choices import Choice
    from skillpack.serving.stepping import Resident
    from skillpack.serving.voices import Voice, Voices
    from skillpack.skill import Skill
    from skillpack_store import Repository

_logger = logging.getLogger(__name__)
_MOST_CHECKED = 10_000
"""Choices that are known to work; there are as many as there are weights."""


@dataclass(frozen=True)
class Offered:
    """A skill that clients can choose.

    Attributes:
        name: under which they do.
        label: its version in the library, such as math@3.
        digest: its identity.
        since: when it was loaded, in seconds since 1970.
    """

    name: str
    label: str
    digest: str
    since: float = field(default_factory=time.time)


@dataclass(frozen=True)
class Selection:
    """What a request has chosen; held until it is released.

    Attributes:
        model: the name of the model, as the client wrote it.
        choice: digests and weights.
        skills: names, for metrics.
        voice: its tokenizer.
    """

    model: str
    choice: Choice
    skills: tuple[str, ...]
    voice: Voice


class Shelf:
    """Skills by name; used from any thread.

    Args:
        base: name of the base.
        repository: where skills come from; None if there is no store.
        branch: of the library.
        resident: the model's skills.
        between_steps: runs something in the thread of the model, while no forward pass runs.
        voices: tokenizers.
        most: skills that are loaded at the same time at most.
    """

    def __init__(
        self,
        base: str,
        repository: Repository | None,
        branch: str,
        *,
        resident: Resident,
        between_steps: Callable[[Callable[[], None]], Future[None]],
        voices: Voices,
        most: int,
    ) -> None:
        self.base = base
        self._repository = repository
        self._branch = branch
        self._resident = resident
        self._between_steps = between_steps
        self._voices = voices
        self._most = most
        self._changing = threading.Lock()
        self._lock = threading.Lock()
        self._offered: dict[str, Offered] = {}
        self._skills: dict[str, Skill] = {}
        self._users: Counter[str] = Counter()
        self._checked: set[Choice] = set()

    def offered(self) -> list[Offered]:
        """What clients can choose, by name."""
        with self._lock:
            return [self._offered[name] for name in sorted(self._offered)]

    @property
    def retired(self) -> int:
        """How many skills are loaded only for answers that began with them."""
        with self._lock:
            return len(self._skills.keys() - self._wanted())

    def load(self, address: str, name: str | None = None, *, replace: bool = False) -> Offered:
        """Offer a skill of the library; the model goes on meanwhile, but for the moment in which it takes the skill in.

        Args:
            address: such as ``math@3``.
            name: under which clients choose it; by default its own.
            replace: another one may have the name; answers that began with that keep it.

        Raises:
            ConflictError: another one has the name, or too many are loaded.
            NotFoundError: there is no such skill.
            NotTrustedError: the policy requires a signature and none counts.
            UsageError: what is given is no address or no name.
            WrongBaseError: it was packed from another base.
        """
        if self._repository is None:
            raise NotFoundError("There is no store to take skills from")
        _check_words(address, name)
        with self._changing:
            found = self._repository.resolve(address, self._branch)
            new = Offered(name or found.name, label_of(found), found.descriptor.digest)
            self._check_name(new, replace=replace)
            require_trusted(self._repository, new.digest, found.name)
            # As long as it is in use, nobody unloads it.
            with self._lock:
                self._users[new.digest] += 1
                skill = self._skills.get(new.digest)
            try:
                skill = skill or self._take_in(open_skill(self._repository, new.digest, found.name))
                with self._lock:
                    self._skills[new.digest] = skill
                    self._offered[new.name] = new
            finally:
                self.release(((new.digest, 1.0),))
            return new

    def unload(self, name: str) -> Offered:
        """Offer a skill no more; answers that began with it are finished with it.

        Raises:
            NotFoundError: none has this name.
        """
        with self._changing:
            with self._lock:
                gone = self._offered.pop(name, None)
            if gone is None:
                raise NotFoundError(f"No skill {name!a} is loaded")
            self._unload_unwanted()
            return gone

    def select(self, model: str) -> Selection:
        """What the name of a model means now, held until `release`.

        Raises:
            NotFoundError: there is no such model.
            UsageError: a weight makes no sense.
            ConflictError: the skills do not go together.
        """
        with self._lock:
            named = parse_model(model, self.base)
            missing = [skill.name for skill in named if skill.name not in self._offered]
            if missing:
                raise NotFoundError(f"The model {model!a} does not exist: no skill {missing[0]!a} is loaded")
            chosen = [(self._offered[skill.name].digest, skill.weight) for skill in named]
            active = [Active(self._skills[digest], weight) for digest, weight in chosen]
            if len({skill.skill.name for skill in active}) < len(active):
                raise UsageError(f"The model {model!a} has two versions of one skill")
            self._users.update(digest for digest, _ in chosen)
        choice = tuple(sorted(chosen))
        try:
            self._check_choice(choice)
            return Selection(model, choice, tuple(skill.name for skill in named), self._voices.of(active))
        except BaseException:
            self.release(choice)
            raise

    def release(self, choice: Choice) -> None:
        """An answer with these skills is finished."""
        with self._lock:
            for digest, _ in choice:
                self._users[digest] -= 1
                if not self._users[digest]:
                    del self._users[digest]
            idle = any(digest not in self._users for digest in self._skills.keys() - self._wanted())
        if idle:
            self._unload_unwanted()

    def _check_choice(self, choice: Choice) -> None:
        """Check once that skills go together, so that no forward pass with others fails because of them.

        Raises:
            ConflictError: they do not.
        """
        if not choice or choice in self._checked:
            return
        self._between_steps(lambda: self._resident.check(choice)).result()
        with self._lock:
            if len(self._checked) >= _MOST_CHECKED:
                self._checked.clear()
            self._checked.add(choice)

    def _check_name(self, new: Offered, *, replace: bool) -> None:
        with self._lock:
            if new.name == self.base:
                raise ConflictError(f"{new.name} is the name of the base")
            if new.name in self._offered and not replace:
                raise ConflictError(
                    f"A skill {new.name} is loaded already", hint='Say "load_inplace": true, or unload it first.'
                )
            if new.digest not in self._skills and len(self._skills) >= self._most:
                raise ConflictError(f"{self._most} skills are loaded, and this server takes no more")

    def _take_in(self, skill: Skill) -> Skill:
        self._voices.of([Active(skill)])
        self._between_steps(self._resident.prepare(skill)).result()
        return skill

    def _wanted(self) -> set[str]:
        return {offered.digest for offered in self._offered.values()}

    def _unload_unwanted(self) -> None:
        """Unload what nobody can choose and no answer uses."""
        with self._lock:
            idle = [digest for digest in self._skills.keys() - self._wanted() if digest not in self._users]
            for digest in idle:
                del self._skills[digest]
        for digest in idle:
            self._voices.forget(digest)
            future = self._between_steps(lambda digest=digest: self._resident.unload(digest))  # type: ignore[misc]
            future.add_done_callback(_log_failure)


def _check_words(address: str, name: str | None) -> None:
    try:
        parse_address(address)
        if name is not None:
            check_skill_name(name)
    except StoreError as error:
        raise UsageError(str(error), hint=error.hint) from error


def _log_failure(future: Future[None]) -> None:
    error = future.exception()
    if error is not None:
        _logger.error("A skill could not be unloaded", exc_info=error)
