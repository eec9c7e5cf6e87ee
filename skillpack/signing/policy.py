"""The policy: whose skills are accepted. One JSON file in the user's own folder.

It is not kept in a store, because whoever can write a store could then say that they are trusted. JSON rather than
TOML: it is written by commands, and read by the same strict parser as everything else that decides something.

    {"format": 1, "mode": "require", "keys": [
      {"name": "ada", "key": "<SubjectPublicKeyInfo, base64>", "skills": ["math-*"], "expires": "2027-01-01",
       "revoked": false}]}
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from dataclasses import dataclass, replace
from datetime import date, datetime, timezone
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from skillpack.errors import SkillPackError, UsageError, listing
from skillpack.settings import config_folder, policy_file
from skillpack.signing.keys import PublicKey, find_public_key
from skillpack_store import disk, parse_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Mode = Literal["off", "warn", "require"]
MODES: Final = ("off", "warn", "require")
_FORMAT: Final = 1
_LIMIT: Final = 4 << 20  # bytes
_PATTERN: Final = re.compile(r"[a-z0-9._*?-]{1,100}")
_WHO: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 @._+-]{0,99}")
_WRITABLE: Final = 0o022


@dataclass(frozen=True)
class TrustedKey:
    """A key whose signatures are accepted, unless it has expired or was revoked.

    Attributes:
        name: whose it is.
        key: the key.
        skills: patterns of names of skills that it may sign: ``*`` stands for any text, ``?`` for one character.
        expires: from this day on (UTC, ``2027-01-01``) none of its signatures counts; None for never.
        revoked: none of its signatures counts.
    """

    name: str
    key: PublicKey
    skills: tuple[str, ...] = ("*",)
    expires: str | None = None
    revoked: bool = False

    def objection(self, skill: str, today: str) -> str:
        """Why the key's signature of a skill does not count; empty if it does.

        Args:
            skill: its name.
            today: the day in UTC, ``2026-01-02``.
        """
        if self.revoked:
            return f"the key of {self.name} was revoked"
        if self.expires is not None and today >= self.expires:
            return f"the key of {self.name} expired on {self.expires}"
        if not any(fnmatchcase(skill, pattern) for pattern in self.skills):
            return f"{self.name} is trusted for {listing(self.skills)}, not for {skill}"
        return ""


@dataclass(frozen=True)
class Policy:
    """Whose skills are accepted.

    Attributes:
        mode: "off": nobody looks at signatures. "warn": a skill that nobody trusted has signed is taken with a warning.
            "require": it is refused.
        keys: the keys, sorted by name.
    """

    mode: Mode = "off"
    keys: tuple[TrustedKey, ...] = ()

    def key(self, key_id: str) -> TrustedKey | None:
        """The key with an id."""
        return next((trusted for trusted in self.keys if trusted.key.id == key_id), None)

    def signers(self, skill: str) -> list[str]:
        """Whose signature of a skill would count today."""
        return [trusted.name for trusted in self.keys if not trusted.objection(skill, today())]

    def dump(self) -> bytes:
        """As in the file."""
        keys = [
            {
                "name": trusted.name,
                "key": base64.b64encode(trusted.key.der).decode(),
                "skills": list(trusted.skills),
                "expires": trusted.expires,
                "revoked": trusted.revoked,
            }
            for trusted in self.keys
        ]
        return (json.dumps({"format": _FORMAT, "mode": self.mode, "keys": keys}, indent=2) + "\n").encode()

    @classmethod
    def load(cls, data: bytes, source: str = "the policy") -> Policy:
        """Inverse of `dump`.

        Raises:
            SkillPackError: it is not a policy. None is assumed in its place.
        """
        try:
            return cls._parse(parse_json(data, limit=_LIMIT))
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise SkillPackError(
                f"{source} is damaged: {error}", hint="Correct it, or delete it and trust the keys again."
            ) from error

    @classmethod
    def _parse(cls, document: Any) -> Policy:
        unknown = document.keys() - {"format", "mode", "keys"} if isinstance(document, dict) else {"it is no object"}
        if unknown:
            raise ValueError(f"unexpected {listing(sorted(unknown))}")
        if document["format"] != _FORMAT or document["mode"] not in MODES or not isinstance(document["keys"], list):
            raise ValueError(f"format must be {_FORMAT}, mode one of {', '.join(MODES)}, and keys a list")
        keys = tuple(sorted((_trusted(key) for key in document["keys"]), key=lambda trusted: trusted.name))
        for values in ([trusted.name for trusted in keys], [trusted.key.id for trusted in keys]):
            if len(set(values)) < len(values):
                raise ValueError("a name or a key is there twice")
        return cls(cast("Mode", document["mode"]), keys)


def show_policy() -> Policy:
    """Your policy; one that looks at nothing if there is no file.

    Raises:
        SkillPackError: the file is damaged, or others may write it.
    """
    path = policy_file()
    try:
        with path.open("rb") as file:
            writable = os.name == "posix" and os.fstat(file.fileno()).st_mode & _WRITABLE
            data = file.read(_LIMIT + 1)
    except FileNotFoundError:
        return Policy()
    if writable:
        raise SkillPackError(f"Others may write your policy, {path}", hint=f"Look at it, then: chmod 644 {path}")
    return Policy.load(data, str(path))


def set_policy(mode: str) -> Policy:
    """Say what happens to skills that nobody trusted has signed: "off", "warn" or "require".

    Raises:
        UsageError: it is none of these.
    """
    if mode not in MODES:
        raise UsageError(f"{mode!r} is no mode of a policy", hint=f"One of {', '.join(MODES)}.")
    return _save(replace(show_policy(), mode=cast("Mode", mode)))


def trust(key: str | Path, name: str, *, skills: Sequence[str] = ("*",), expires: str | None = None) -> TrustedKey:
    """Accept what a key has signed.

    Args:
        key: the file of the public key, or the name of one of your own.
        name: whose it is. If the same key is there under this name, its patterns and its expiry are replaced.
        skills: patterns of names of skills that it may sign.
        expires: day (UTC, ``2027-01-01``) from which on nothing that it has signed is accepted.

    Raises:
        UsageError: there is no such key, or another argument makes no sense.
        SkillPackError: the key was revoked, or the name is another key's.
    """
    found = find_public_key(key)
    policy = show_policy()
    try:
        trusted = _checked(TrustedKey(name, found, tuple(skills), expires))
    except ValueError as error:
        raise UsageError(f"The key cannot be trusted like this: {error}") from error
    for other in policy.keys:
        if other.key == found and other.revoked:
            raise SkillPackError(
                f"The key {found.id[:16]} of {other.name} was revoked",
                hint=f"If that was a mistake: skillpack policy untrust {_quoted(other.name)}, then trust it again.",
            )
        if (other.name == name) != (other.key == found):
            raise SkillPackError(
                f"{other.name} is trusted with the key {other.key.id[:16]} already",
                hint=f"First: skillpack policy untrust {_quoted(other.name)}",
            )
    others = tuple(other for other in policy.keys if other.key != found)
    _save(replace(policy, keys=tuple(sorted((*others, trusted), key=lambda one: one.name))))
    return trusted


def untrust(name: str, *, revoke: bool = False) -> TrustedKey:
    """Accept no longer what a key has signed.

    Args:
        name: whose key, or the start of its key id (at least 8 digits).
        revoke: keep the key as revoked, so that it is refused by name and cannot be trusted again by mistake.

    Raises:
        UsageError: nobody of that name is in the policy.
    """
    policy = show_policy()
    by_id = [key for key in policy.keys if len(name) >= 8 and key.key.id.startswith(name)]
    found = [key for key in policy.keys if key.name == name] or by_id
    if len(found) != 1:
        known = listing(key.name for key in policy.keys) or "nobody"
        raise UsageError(f"{name!r} is not in your policy", hint=f"It knows {known}.")
    changed = replace(found[0], revoked=True)
    kept = [key for key in policy.keys if key is not found[0]] + ([changed] if revoke else [])
    _save(replace(policy, keys=tuple(sorted(kept, key=lambda one: one.name))))
    return changed if revoke else found[0]


def today() -> str:
    """The day in UTC, ``2026-01-02``."""
    return datetime.now(timezone.utc).date().isoformat()


def _save(policy: Policy) -> Policy:
    disk.make_directory(config_folder())
    disk.replace(policy_file(), [policy.dump()])
    return policy


def _trusted(document: Any) -> TrustedKey:
    if not isinstance(document, dict) or document.keys() != {"name", "key", "skills", "expires", "revoked"}:
        raise ValueError("a key must have name, key, skills, expires and revoked")
    name, skills, revoked, text = (document[field] for field in ("name", "skills", "revoked", "key"))
    if not isinstance(skills, list) or not isinstance(revoked, bool) or not isinstance(text, str):
        raise ValueError("a key has a field of the wrong kind")  # noqa: TRY004  a document's value
    key = PublicKey.from_der(base64.b64decode(text.encode(), validate=True))
    return _checked(TrustedKey(name, key, tuple(skills), document["expires"], revoked))


def _checked(trusted: TrustedKey) -> TrustedKey:
    if not isinstance(trusted.name, str) or not _WHO.fullmatch(trusted.name):
        raise ValueError(
            f"{str(trusted.name)[:80]!a} cannot be whose key it is: plain letters, digits and @ . _ + - only"
        )
    if not trusted.skills or not all(isinstance(one, str) and _PATTERN.fullmatch(one) for one in trusted.skills):
        raise ValueError("patterns of skills are lowercase letters, digits, dots, dashes, underscores, * and ?")
    if trusted.expires is not None and not _is_day(trusted.expires):
        raise ValueError("the day from which on it counts no longer must look like 2027-01-31")
    return trusted


def _is_day(text: Any) -> bool:
    try:
        return isinstance(text, str) and date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _quoted(name: str) -> str:
    return f"'{name}'" if " " in name else name
