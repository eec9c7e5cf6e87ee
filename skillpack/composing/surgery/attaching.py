"""Modules as attachments of a skill, as examples for routers are: the skill stays as it is, and they go where it goes.

An attachment is an OCI referrer of the type `SURGERY_TYPE` with one safetensors file, in which are ``down``, bf16 of
shape (rank, width), and ``up``, bf16 of shape (width, rank); its metadata say under `_FACTS`, in JSON, what they were
learned from. The attachment's annotations name the task and when it was made, so that the right one is found without
reading the others. Of several for one task the newest that can be read counts.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from skillpack.composing.surgery.module import Bias
from skillpack.errors import DataError, NotFoundError, StoreError, listing
from skillpack_store import canonical_json, check_skill_name, parse_digest, parse_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skillpack_store import Descriptor, Repository

SURGERY_TYPE: Final = "application/vnd.skillpack.surgery.v1+safetensors"
SURGERY_LIMIT: Final = 32 << 20
"""Bytes of one attachment."""
_TITLE: Final = "surgery.safetensors"
_FACTS: Final = "surgery"
_TASK: Final = "org.skillpack.surgery.task"
_CREATED: Final = "org.opencontainers.image.created"
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)
_KINDS: Final = ("next token", "class")
_NUMBERS: Final[Mapping[str, tuple[type, ...]]] = {"int": (int,), "float": (int, float), "str": (str,)}


@dataclass(frozen=True)
class Facts:
    """What a module was learned from.

    Attributes:
        task: name of the expert when it was learned.
        expert: digest of the expert.
        base: fingerprint of the base of both skills.
        predicts: "next token" or "class".
        texts: SHA-256 of what the texts say, hex.
        steps: of Adam.
        batch: texts that a step went over.
        rate: of Adam.
        max_tokens: where texts were cut.
        seed: of all that was drawn.
        before: distance of the representations on texts that were not learned from, see `SurgeryReport`.
        after: the same with the module.
    """

    task: str
    expert: str
    base: str
    predicts: str
    texts: str
    steps: int
    batch: int
    rate: float
    max_tokens: int
    seed: int
    before: float
    after: float

    def to_json(self) -> str:
        """As it is noted with the module."""
        return canonical_json(asdict(self)).decode()

    @classmethod
    def parse(cls, text: str) -> Facts:
        """Read it; raises ValueError with what is wrong with it."""
        document = parse_json(text.encode())
        known = {field.name: field.type for field in fields(cls)}
        if not isinstance(document, dict) or document.keys() != known.keys():
            raise ValueError("they are damaged: what they were learned from is not noted as it should be")
        for name, kind in known.items():
            value = document[name]
            if not isinstance(value, _NUMBERS[str(kind)]) or isinstance(value, bool):
                raise ValueError(f"they are damaged: {name} cannot be what it is")  # noqa: TRY004  of a document
        return cls(**document).checked()

    def checked(self) -> Facts:
        """Itself; raises ValueError if a text is none that it can be."""
        try:
            check_skill_name(self.task)
        except StoreError as error:
            raise ValueError(f"they are damaged: {error.message}") from error
        parse_digest(self.expert), parse_digest(self.base), parse_digest(f"sha256:{self.texts}")
        if self.predicts not in _KINDS:
            raise ValueError("they are damaged: what they are for is not known")
        return self


@dataclass(frozen=True, eq=False)
class Attached:
    """A module that is attached to a skill.

    Attributes:
        bias: the module.
        facts: what it was learned from.
        digest: of the attachment.
        nbytes: of its file.
    """

    bias: Bias
    facts: Facts
    digest: str
    nbytes: int


def attach_surgery(repository: Repository, skill: Descriptor, bias: Bias, facts: Facts, created: str) -> Attached:
    """Attach a module to a skill.

    Args:
        repository: the store.
        skill: as the store knows it.
        bias: the module; it is stored in bf16.
        facts: what it was learned from.
        created: when, RFC 3339 in UTC with seconds.

    Returns:
        The module as it will be read.
    """
    tensors = {"down": bias.down.bfloat16().contiguous(), "up": bias.up.bfloat16().contiguous()}
    content = save(tensors, {_FACTS: facts.to_json()})
    annotations = {_TASK: facts.task, _CREATED: created}
    entry = repository.attach(skill, SURGERY_TYPE, [(content, SURGERY_TYPE, _TITLE)], annotations)
    return Attached(bias.rounded(), facts, entry.digest, len(content))


def find_surgery(repository: Repository, skill: str, base: str, task: str) -> Attached:
    """The newest module of a skill for a task.

    Args:
        repository: the store.
        skill: digest of the skill.
        base: fingerprint of the skill's base.
        task: see `Facts`.

    Raises:
        DataError: there are some, but none that can be read.
        NotFoundError: there is none.
    """
    entries = [entry for entry in repository.referrers(skill) if entry.artifact_type == SURGERY_TYPE]
    notes = [(entry, *_noted(repository, entry)) for entry in entries]
    # Sorting is stable: of those made within a second, the one that was attached last.
    own = sorted((note for note in notes if note[1] == task), key=lambda note: note[2])
    problems: list[Exception] = []
    for entry, _, _ in reversed(own):
        found = _tried(repository, entry, skill, base, task)
        if isinstance(found, Attached):
            return found
        problems.append(found)
    if problems:
        raise DataError(
            f"The module for {task} of the skill {skill[:19]} cannot be used: {problems[0]}",
            hint=f"Learn it anew: skillpack surgery SKILL --expert {task} --data DATA --base BASE",
        )
    tasks = sorted({known for _, known, _ in notes if known})
    raise NotFoundError(
        f"The skill {skill[:19]} has no module for the task {task}"
        + (f"; it has some for {listing(tasks)}" if tasks else ""),
        hint=f"Learn one: skillpack surgery SKILL --expert {task} --data DATA --base BASE",
    )


def read_surgery(repository: Repository, digest: str, skill: str, base: str) -> Attached:
    """One attachment; anybody who can write to the store can attach one, so nothing about it is believed.

    Args:
        repository: the store.
        digest: of the attachment.
        skill: digest of the skill that it should be attached to.
        base: fingerprint of the skill's base.

    Raises:
        StoreError: it is not there, or damaged.
        ValueError: it is no module of this skill; says what is wrong.
    """
    attachment = repository.attachment(digest)
    if attachment.subject.digest != skill or attachment.artifact_type != SURGERY_TYPE or len(attachment.files) != 1:
        raise ValueError("it is attached in another way")
    content = repository.blobs.read(attachment.files[0].digest, limit=SURGERY_LIMIT)
    bias, facts = _loaded(content)
    if facts.base != base:
        raise ValueError("it was learned on another base")
    return Attached(bias, facts, digest, len(content))


def _tried(repository: Repository, entry: Descriptor, skill: str, base: str, task: str) -> Attached | Exception:
    try:
        found = read_surgery(repository, entry.digest, skill, base)
    except (ValueError, StoreError) as error:
        return error
    return found if found.facts.task == task else ValueError(f"it was learned for {found.facts.task}")


def _noted(repository: Repository, entry: Descriptor) -> tuple[str, str]:
    """Task and time of an attachment; empty if they cannot be read."""
    try:
        annotations = repository.attachment(entry.digest).annotations
        task, created = check_skill_name(annotations.get(_TASK, "")), annotations.get(_CREATED, "")
    except (ValueError, StoreError):
        return "", ""
    return task, created if _TIME.fullmatch(created) else ""


def _loaded(content: bytes) -> tuple[Bias, Facts]:
    try:
        tensors = load(content)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise ValueError(f"it is damaged: {error}") from error
    if tensors.keys() != {"down", "up"}:
        raise ValueError("it is damaged: tensors are missing")
    down, up = tensors["down"], tensors["up"]
    if down.dim() != 2 or not down.numel() or up.shape != down.shape[::-1]:
        raise ValueError("it is damaged: its matrices do not go together")
    if any(found.dtype != torch.bfloat16 or not bool(found.isfinite().all()) for found in (down, up)):
        raise ValueError("it is damaged: values are no numbers in bf16")
    return Bias(down.float(), up.float()), Facts.parse(_metadata(content))


def _metadata(content: bytes) -> str:
    """What the header says of the facts; the file has been read, so that its header is sound."""
    length = int.from_bytes(content[:8], "little")
    document: Any = parse_json(content[8 : 8 + length])
    found = (document.get("__metadata__") or {}).get(_FACTS)
    if not isinstance(found, str):
        raise ValueError("it is damaged: what it was learned from is not noted")  # noqa: TRY004  of a document
    return found
