"""Libraries of skills: show, delete, export, import, verify; and the way from an address to an open skill."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from skillpack.errors import UsageError
from skillpack.model_card import read_card
from skillpack.parts import parse_subset
from skillpack.progress import Progress, Stage, silent
from skillpack.signing.checking import policy_of_keys, require_trusted
from skillpack.skill import Skill, open_skill
from skillpack.summaries import SkillSummary, StoreLike, label_of, open_existing, open_or_create, signed, summary_of
from skillpack_store import check_skill_name, export_archive, import_archive, import_referrers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skillpack.installing import InstallReport, Wanted
    from skillpack.manifest import Manifest
    from skillpack_store import Commit, Descriptor, Repository


@dataclass(frozen=True)
class SkillDetails:
    """A skill in a library, opened.

    Attributes:
        summary: its place in the library.
        skill: the skill itself.
        card: its model card, Markdown; empty if it has none.
    """

    summary: SkillSummary
    skill: Skill
    card: str

    @property
    def manifest(self) -> Manifest:
        """What the skill changes."""
        return self.skill.manifest


def show(address: str, *, store: StoreLike = None, branch: str = "main") -> SkillDetails:
    """Everything about one skill.

    Args:
        address: ``name``, ``name@3``, ``name@tag`` or ``name@sha256:…``.
        store: where.
        branch: branch of the library.

    Raises:
        NotFoundError: there is no such skill.
        CorruptStoreError: it is damaged.
    """
    repository = open_existing(store)
    found = repository.resolve(address, branch)
    skill = open_skill(repository, found.descriptor.digest, found.name)
    return SkillDetails(summary_of(repository, found, branch), skill, read_card(repository, found.descriptor.digest))


def delete(
    name: str,
    *,
    store: StoreLike = None,
    branch: str = "main",
    message: str = "",
    author: str | None = None,
    dry_run: bool = False,
) -> SkillSummary:
    """Take a skill out of the library; its versions stay in the history.

    Returns:
        The version that was current.

    Raises:
        NotFoundError: there is no such skill.
    """
    repository = open_existing(store)
    summary = summary_of(repository, repository.resolve(check_skill_name(name), branch), branch)
    if not dry_run:
        repository.delete(name, branch, message=message or f"Delete {name}", **signed(author))
    return summary


def export(
    addresses: Sequence[str] | str,
    target: str | Path,
    *,
    store: StoreLike = None,
    branch: str = "main",
    overwrite: bool = False,
) -> list[SkillSummary]:
    """Write skills with their model cards to one file, an OCI archive; equal skills give equal bytes.

    Args:
        addresses: one or several.
        target: the file.
        store: where the skills are.
        branch: branch of the library.
        overwrite: replace a file that is there.

    Raises:
        NotFoundError: there is no such skill.
        UsageError: the file is there, or two addresses have the same name.
    """
    repository = open_existing(store)
    if Path(target).exists() and not overwrite:
        raise UsageError(f"{target} exists", hint="Choose another name, or ask to overwrite it.")
    wanted = [addresses] if isinstance(addresses, str) else addresses
    found = [repository.resolve(address, branch) for address in wanted]
    if len({skill.name for skill in found}) < len(found):
        raise UsageError("an archive holds one version of each skill", hint="Export the versions one by one.")
    for skill in found:
        open_skill(repository, skill.descriptor.digest, skill.name)
    export_archive(repository, {skill.name: skill.descriptor for skill in found}, target)
    return [summary_of(repository, skill, branch) for skill in found]


def import_skill(
    archive: str | Path,
    name: str | None = None,
    *,
    store: StoreLike = None,
    branch: str = "main",
    message: str = "",
    author: str | None = None,
) -> list[SkillSummary]:
    """Take the skills of an archive into the library, every byte checked against its digest.

    Args:
        archive: an OCI archive, as `export` writes it.
        name: another name for the skill, if the archive holds one.
        store: where to; made if it is not there.
        branch: branch of the library.
        message: why, for the history.
        author: who, for the history.

    Raises:
        CorruptStoreError: the archive is damaged; the library stays as it was.
        DamagedSkillError: what it holds is no skill.
        NotTrustedError: the policy requires a signature and none counts; the library stays as it was.
        UsageError: a name is given for several skills.
    """
    repository = open_or_create(store)
    with repository.writing():
        return _import(repository, archive, name, branch=branch, message=message, author=author)


def _import(
    repository: Repository, archive: str | Path, name: str | None, *, branch: str, message: str, author: str | None
) -> list[SkillSummary]:
    found = import_archive(repository, archive)
    if name is not None and len(found) > 1:
        raise UsageError(f"{archive} holds {len(found)} skills, which cannot all be called {name}")
    taken = {check_skill_name(name or own): descriptor for own, descriptor in found}
    for own, descriptor in taken.items():
        open_skill(repository, descriptor.digest, own)
    import_referrers(repository, archive)
    for own, descriptor in taken.items():
        require_trusted(repository, descriptor.digest, own)
    commit_skills(
        repository, taken, branch=branch, author=author, message=message or f"Import {', '.join(sorted(taken))}"
    )
    return [summary_of(repository, repository.resolve(own, branch), branch) for own in sorted(taken)]


def verify(
    addresses: Sequence[str] | str = (),
    *,
    keys: Sequence[str | Path] = (),
    store: StoreLike = None,
    branch: str = "main",
    subset: str | None = None,
    progress: Progress = silent,
) -> list[SkillSummary]:
    """Re-hash every byte of skills and check that their manifests and streams fit together, and their signatures.

    Args:
        addresses: which; by default all at the head of the branch.
        keys: public keys (files, or names of your own); each skill must be signed by one of them. Without any, your
            policy decides.
        store: where.
        branch: branch of the library.
        subset: ``1/5``: only the first of five parts of them, by digest; all parts together are everything.
        progress: called during the work.

    Raises:
        CorruptStoreError: a blob is not what its digest says.
        DamagedSkillError: the content makes no sense.
        UsageError: `subset` makes no sense.
        NotTrustedError: no signature of a skill counts.
    """
    policy = policy_of_keys(keys) if keys else None
    repository = open_existing(store)
    wanted = [addresses] if isinstance(addresses, str) else list(addresses) or list(repository.skills(branch))
    found = [repository.resolve(address, branch) for address in wanted]
    part = None if subset is None else parse_subset(subset)
    found = [skill for skill in found if part is None or part.has(skill.descriptor.digest)]
    summaries = [summary_of(repository, skill, branch) for skill in found]
    stage = Stage(progress, "verifying skills", sum(summary.size for summary in summaries))
    for skill, summary in zip(found, summaries, strict=True):
        open_skill(repository, skill.descriptor.digest, skill.name)
        require_trusted(repository, skill.descriptor.digest, skill.name, policy)
        stage.advance(summary.size)
    return summaries


def install(
    skills: Sequence[str] | str,
    model_dir: str | Path,
    *,
    output: str | Path | None = None,
    store: StoreLike = None,
    branch: str = "main",
    force: bool = False,
    hard_links: bool = False,
    dry_run: bool = False,
    progress: Progress = silent,
) -> InstallReport:
    """Install skills of a library on a model: `skillpack.installing.install` by address.

    Args:
        skills: one or several addresses, each with an optional weight: ``math``, ``math@3=0.7``.
        model_dir: see there, also for `output`, `force`, `hard_links` and the errors raised.
        output: see `model_dir`.
        store: where the skills are.
        branch: branch of the library.
        force: see `model_dir`.
        hard_links: see `model_dir`.
        dry_run: check and compute everything, change nothing.
        progress: called during the work.

    Raises:
        NotFoundError: there is no such skill.
        NotTrustedError: the policy requires a signature and none of a skill's counts; `force` is about the base only.
        UsageError: a weight is no number, or a skill is named twice.
    """
    from skillpack.installing import install as install_opened

    return install_opened(
        open_wanted(skills, store=store, branch=branch),
        model_dir,
        output=output,
        force=force,
        hard_links=hard_links,
        dry_run=dry_run,
        progress=progress,
    )


def open_wanted(skills: Sequence[str] | str, *, store: StoreLike = None, branch: str = "main") -> list[Wanted]:
    """Open the skills of addresses with weights, if they are trusted; see `install`."""
    from skillpack.installing import Wanted

    repository = open_existing(store)
    wanted = []
    for text in [skills] if isinstance(skills, str) else skills:
        address, weight = parse_weight(text)
        found = repository.resolve(address, branch)
        # Before anything of it is read: what nobody trusted has signed need not be parsed.
        require_trusted(repository, found.descriptor.digest, found.name)
        skill = open_skill(repository, found.descriptor.digest, found.name)
        wanted.append(Wanted(skill, repository, weight, label_of(found)))
    return wanted


def commit_skills(
    repository: Repository, skills: dict[str, Descriptor], *, branch: str, author: str | None, message: str
) -> Commit:
    """Make stored skills the newest of their names on a branch."""
    return repository.commit(
        branch,
        lambda before: {**before, **skills},
        message=message,
        **signed(author),
    )


def parse_weight(text: str) -> tuple[str, float]:
    """Split ``math@3=0.7`` into an address and a weight.

    >>> parse_weight("math@3=0.7"), parse_weight("code")
    (('math@3', 0.7), ('code', 1.0))

    Raises:
        UsageError: the weight is no number.
    """
    address, sign, weight = text.partition("=")
    try:
        return address, float(weight) if sign else 1.0
    except ValueError:
        raise UsageError(f"{weight!r} is no weight", hint=f"Write {address}=0.5, for example.") from None
