"""Tokenizers: a skill may bring a chat template, tokens or end tokens of its own."""

from __future__ import annotations

import json
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skillpack.companions import find_companions
from skillpack.errors import CheckpointError, DataError
from skillpack.installing.companion_files import changed_files
from skillpack.live.models import open_tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from skillpack.installing.claims import Active


class Voice:
    """How texts become tokens and tokens become texts.

    Args:
        folder: with the files of a tokenizer; not needed afterwards.

    Attributes:
        decoder: a tokenizer for the scheduler's thread alone.
        ends: tokens that end an answer.

    Raises:
        CheckpointError: the tokenizer cannot be opened.
    """

    def __init__(self, folder: Path) -> None:
        # A tokenizer may not be used from two threads at once.
        self._encoder, self.decoder = open_tokenizer(folder), open_tokenizer(folder)
        self._lock = threading.Lock()
        self.ends = _end_tokens(folder, self.decoder)
        self.size = len(self.decoder)

    def chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Tokens of a chat, up to where the answer begins.

        Raises:
            DataError: there is no chat template, or the chat does not fit it.
        """
        from jinja2 import TemplateError

        if getattr(self._encoder, "chat_template", None) is None:
            raise DataError("This model has no chat template", hint="Use /v1/completions.")
        try:
            with self._lock:
                text = self._encoder.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        except (TemplateError, TypeError, ValueError) as error:
            raise DataError(f"The chat does not fit the model's chat template: {error}") from error
        return self.text(str(text), special=False)

    def text(self, text: str, *, special: bool = True) -> list[int]:
        """Tokens of a text; `special` adds what the tokenizer begins or ends texts with."""
        with self._lock:
            ids: list[int] = self._encoder(text, add_special_tokens=special, verbose=False).input_ids
        return ids

    def token(self, token: int) -> tuple[str, list[int] | None]:
        """A token as text, and its bytes; None where it is not made of whole characters."""
        with self._lock:
            text: str = self._encoder.decode([token])
        return text, None if "\ufffd" in text else list(text.encode())


class Voices:
    """The base's voice and those of skills that change something about it.

    Args:
        folder: of the base.
    """

    def __init__(self, folder: Path) -> None:
        self._files = _Files(find_companions(folder)[0])
        self._lock = threading.Lock()
        self._known: dict[tuple[str, ...], Voice] = {}

    def of(self, skills: Sequence[Active]) -> Voice:
        """The voice of the base with skills.

        Raises:
            ConflictError: skills change the same file differently, or have a weight and change the tokenizer.
            WrongBaseError: a change does not fit the base's file.
        """
        changes = changed_files(self._files, skills)
        key = tuple(sorted(active.skill.digest for active in skills)) if changes else ()
        with self._lock:
            if key not in self._known:
                self._known[key] = self._open(changes)
            return self._known[key]

    def forget(self, digest: str) -> None:
        """Let go of the voices of a skill."""
        with self._lock:
            self._known = {key: voice for key, voice in self._known.items() if digest not in key}

    def _open(self, changes: Mapping[str, bytes]) -> Voice:
        with tempfile.TemporaryDirectory(prefix="skillpack-serve-") as room:
            for path, content in self._files.content(changes):
                target = Path(room) / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
            return Voice(Path(room))


class _Files:
    """Files of the base that skills may change."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files

    def read(self, path: str) -> bytes | None:
        """Content of a file; None if there is none."""
        return self._files[path].read_bytes() if path in self._files else None

    def content(self, changes: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
        """All files with what was changed."""
        for path in sorted(self._files.keys() | changes.keys()):
            yield path, changes[path] if path in changes else self._files[path].read_bytes()


def _end_tokens(folder: Path, tokenizer: Any) -> frozenset[int]:
    for name in ("generation_config.json", "config.json"):
        file = folder / name
        if file.is_file():
            ends = _ends_in(file)
            if ends is not None:
                break
    else:
        ends = []
    return frozenset(token for token in (*ends, tokenizer.eos_token_id) if token is not None)


def _ends_in(file: Path) -> list[int] | None:
    try:
        found = json.loads(file.read_bytes()).get("eos_token_id")
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"{file.name} cannot be read: {error}") from error
    return found if isinstance(found, list) or found is None else [found]
