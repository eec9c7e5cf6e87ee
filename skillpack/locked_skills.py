"""`skills.lock`: which skills a model shall have, to the last bit; and making a model folder match it.

The file is JSON with sorted keys, two spaces of indentation and one skill after the other by name, so that equal
content has equal bytes and a change of one skill is a change of a few lines.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from skillpack.errors import LockFileError, NoStoreError, NotFoundError, UsageError, listing
from skillpack.progress import silent
from skillpack.summaries import open_existing
from skillpack_store import StoreError, check_skill_name, disk, parse_digest, parse_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from skillpack.installing import Declared, Difference, InstallReport, SkillRecord, Steps, Wanted
    from skillpack.progress import Progress
    from skillpack.summaries import StoreLike
    from skillpack_store import Repository

FORMAT: Final = 1
DEFAULT_NAME: Final = "skills.lock"
_LIMIT: Final = 16 << 20


@dataclass(frozen=True)
class LockedSkill:
    """A skill of a lock file.

    Attributes:
        name: of the skill.
        digest: its identity.
        version: its number on the branch when it was locked; None if it had none. Only for people to read.
        size: bytes on disk of everything that the digest covers.
        base: fingerprint of the base that it was packed from.
        weight: factor of its delta.
    """

    name: str
    digest: str
    version: int | None
    size: int
    base: str
    weight: float = 1.0

    @property
    def label(self) -> str:
        """As a user addresses it."""
        return self.name if self.version is None else f"{self.name}@{self.version}"


@dataclass(frozen=True)
class Lock:
    """The content of a lock file.

    Attributes:
        skills: sorted by name.
        remotes: addresses of the stores that have the skills, sorted.
    """

    skills: tuple[LockedSkill, ...]
    remotes: tuple[str, ...] = ()

    def dump(self) -> bytes:
        """The file's content; equal locks give equal bytes."""
        document = {
            "format": FORMAT,
            "remotes": list(self.remotes),
            "skills": [asdict(skill) for skill in self.skills],
        }
        return (json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()

    @classmethod
    def load(cls, path: str | Path) -> Lock:
        """Read a lock file; nothing in it is trusted.

        Raises:
            LockFileError: it cannot be used.
        """
        try:
            with Path(path).open("rb") as file:
                document = parse_json(file.read(_LIMIT + 1), limit=_LIMIT)
            found = document["format"]
            if found != FORMAT:
                raise LockFileError(
                    f"{path} has format {found!r}; this version reads format {FORMAT}", hint="Upgrade skillpack."
                )
            skills = [_skill(entry) for entry in document["skills"]]
            remotes = [_text(remote) for remote in document["remotes"]]
        except FileNotFoundError:
            raise LockFileError(f"There is no {path}", hint=f"Make it: skillpack lock -o {path}") from None
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError, StoreError) as error:
            raise LockFileError(f"{path} is no file of locked skills: {error!s:.200}") from error
        if len({skill.name for skill in skills}) < len(skills):
            raise LockFileError(f"{path} names a skill twice")
        return cls(tuple(sorted(skills, key=lambda skill: skill.name)), tuple(sorted(set(remotes))))


@dataclass(frozen=True)
class SyncReport:
    """What a sync did to a model folder, or would do.

    Attributes:
        folder: the model folder.
        steps: what was between the folder and the lock.
        skills: the locked skills.
        differences: files that are not as the last install left them; only of a check, otherwise it is refused.
        report: what was written; None for a check.
        in_sync: nothing had to be done.
    """

    folder: Path
    steps: Steps
    skills: tuple[LockedSkill, ...]
    differences: tuple[Difference, ...]
    report: InstallReport | None
    in_sync: bool


def lock(
    skills: Sequence[str] | str = (),
    *,
    output: str | Path | None = None,
    remotes: Iterable[str] | None = None,
    store: StoreLike = None,
    branch: str = "main",
) -> Lock:
    """Write down which skills a model shall have, by their digests.

    Args:
        skills: addresses, each with an optional weight, as for `install`; by default all at the head of the branch.
        output: file to write; None for none.
        remotes: addresses of stores that have the skills; by default those of the store's remotes.
        store: where the skills are.
        branch: branch of the library.

    Raises:
        NotFoundError: there is no such skill, or none at all.
        UsageError: a weight is no number, or a skill is named twice.
        CorruptStoreError, DamagedSkillError: a skill is damaged.
    """
    from skillpack.library import parse_weight
    from skillpack.summing import check_weight
    from skillpack_store.remotes.listing import RemoteList

    repository = open_existing(store)
    wanted = [skills] if isinstance(skills, str) else list(skills) or list(repository.skills(branch))
    if not wanted:
        raise NotFoundError(f"Branch {branch} has no skill to lock", hint="skillpack branch lists the branches.")
    found = []
    for text in wanted:
        address, weight = parse_weight(text)
        resolved = repository.resolve(address, branch)
        size, base = _facts(repository, resolved.descriptor.digest)
        found.append(
            LockedSkill(
                resolved.name,
                resolved.descriptor.digest,
                resolved.version,
                size,
                base,
                check_weight(resolved.name, weight),
            )
        )
    if len({skill.name for skill in found}) < len(found):
        raise UsageError("A lock holds one version of each skill", hint="Name each skill once.")
    if remotes is None:
        remotes = [remote.url for remote in RemoteList(repository).all().values()]
    locked = Lock(tuple(sorted(found, key=lambda skill: skill.name)), tuple(sorted(set(remotes))))
    if output is not None:
        disk.replace(Path(output), [locked.dump()])
    return locked


def sync(
    model_dir: str | Path,
    locked: Lock | str | Path = DEFAULT_NAME,
    *,
    check: bool = False,
    force: bool = False,
    dry_run: bool = False,
    store: StoreLike = None,
    progress: Progress = silent,
) -> SyncReport:
    """Make the skills of a model folder exactly those of a lock, in one step that is done whole or not at all.

    Args:
        model_dir: the model folder.
        locked: the lock, or the file that it is in.
        check: only compare; neither the folder nor the store is touched.
        force: install a skill also on another base than its own; it is recorded.
        dry_run: check and compute everything, change nothing.
        store: where the skills are that the folder does not have.
        progress: called during the work.

    Raises:
        LockFileError: the file cannot be used.
        NotFoundError: skills are not in the store; all of them are named.
        NotTrustedError: your policy asks for a signature and none of a skill counts.
        ModifiedFolderError, WrongBaseError and others: as for `install`.
    """
    from skillpack.installing import Declared, Wanted, match, plan_steps, status
    from skillpack.signing.checking import require_trusted
    from skillpack.skill import open_skill

    wanted = locked if isinstance(locked, Lock) else Lock.load(locked)
    declared = [Declared(skill.name, skill.digest, skill.weight, skill.label) for skill in wanted.skills]
    found = status(model_dir)
    steps = plan_steps(found.skills, declared)
    if check:
        same = not (steps.changed or found.differences or found.unfinished)
        return SyncReport(found.folder, steps, wanted.skills, found.differences, None, same)
    repository = _store_with(wanted, found.skills, store)

    def find(skill: Declared) -> Wanted:
        if repository is None:
            raise NotFoundError(f"The skill {skill.name} was removed from {model_dir} meanwhile")
        require_trusted(repository, skill.digest, skill.name)
        return Wanted(open_skill(repository, skill.digest, skill.name), repository, skill.weight, skill.label)

    report = match(declared, model_dir, find, force=force, dry_run=dry_run, progress=progress)
    return SyncReport(found.folder, steps, wanted.skills, (), report, not steps.changed)


def _store_with(wanted: Lock, kept: Sequence[SkillRecord], store: StoreLike) -> Repository | None:
    """The store, if it has every skill that the folder does not keep; None if none is needed and there is none."""
    needed = [skill for skill in wanted.skills if skill.digest not in {record.digest for record in kept}]
    try:
        repository = open_existing(store)
    except NoStoreError:
        if not needed:
            return None
        repository = None
    missing = [skill for skill in needed if repository is None or not repository.blobs.has(skill.digest)]
    if not missing:
        return repository
    names = listing((f"{skill.label} ({skill.digest[:19]})" for skill in missing), 20)
    pull = " ".join(skill.name for skill in missing)
    sources = "; ".join(f"skillpack pull {remote} {pull}" for remote in wanted.remotes)
    raise NotFoundError(
        f"{len(missing)} of the {len(wanted.skills)} locked skills are not in the store: {names}",
        hint=f"Get them: {sources}" if sources else "Pull or import them; the lock names no remote.",
    )


def _facts(repository: Repository, digest: str) -> tuple[int, str]:
    """Bytes of a skill on disk, and the fingerprint of its base."""
    from skillpack.errors import DamagedSkillError
    from skillpack.manifest import MEDIA_TYPE, Manifest

    listed = repository.skill_manifest(digest)
    if listed.config.media_type != MEDIA_TYPE:
        raise DamagedSkillError(f"{digest} has a manifest of unknown type {listed.config.media_type}")
    manifest = Manifest.load(repository.blobs.read(listed.config.digest, limit=256 << 20))
    return listed.size, manifest.base_fingerprint


def _skill(document: Any) -> LockedSkill:
    version, size, weight = document["version"], document["size"], document["weight"]
    for number in (size, *([] if version is None else [version])):
        if type(number) is not int or not 0 <= number < 1 << 63:
            raise ValueError(f"{number!r} is not a count")
    if type(weight) not in {int, float} or not math.isfinite(weight):
        raise ValueError(f"{weight!r} is not a weight")
    name = check_skill_name(_text(document["name"]))
    base = parse_digest(document["base"])
    return LockedSkill(name, parse_digest(document["digest"]), version, size, base, float(weight))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value
