"""Move a skill of a library to a newer base."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from skillpack.errors import UsageError
from skillpack.installing import Wanted, install
from skillpack.library import commit_skills
from skillpack.model_card import (
    CARD_TYPE,
    UNKNOWN_LICENSE,
    CardFacts,
    base_license,
    base_name,
    card_files,
    card_license,
    read_card,
    write_card,
)
from skillpack.packing.opening import checkpoint_bytes
from skillpack.packing.payload import put_skill
from skillpack.progress import Progress, silent
from skillpack.rebasing.bases import open_bases
from skillpack.rebasing.moves import remarks
from skillpack.rebasing.recoding import rebased
from skillpack.rebasing.report import Folders, RebaseReport
from skillpack.signing.checking import require_trusted
from skillpack.skill import open_skill
from skillpack.summaries import label_of, open_existing
from skillpack.texts import read_samples
from skillpack_store import Repository, check_skill_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from skillpack.rebasing.bases import Bases
    from skillpack.rebasing.recoding import Rebased
    from skillpack.rebasing.report import Flips
    from skillpack.skill import Skill
    from skillpack.summaries import StoreLike
    from skillpack.texts import Sample
    from skillpack_store import Descriptor

MAX_TOKENS: Final = 512
"""Tokens of a sample that are read unless another number is asked for."""


def rebase(
    skill: str,
    onto: str | Path,
    *,
    base: str | Path | None = None,
    name: str | None = None,
    data: str | Path | Sequence[Sample] | None = None,
    max_tokens: int = MAX_TOKENS,
    samples: int | None = None,
    store: StoreLike = None,
    branch: str = "main",
    message: str = "",
    author: str | None = None,
    license: str | None = None,  # noqa: A002 - the field's name in a model card
    dry_run: bool = False,
    progress: Progress = silent,
) -> RebaseReport:
    """Move a skill to a newer base with the same tensors, and commit it as the next version of its name.

    What was approximated says what to add, and is kept byte for byte. What came back bit for bit says what to be, so it
    is decoded on the old base and coded anew: the new base plus the difference, in fp32 and with one cast. Memory is
    bounded by the largest tensor. Nothing is stored before everything is whole.

    Args:
        skill: its address.
        onto: folder or hub id of the new base.
        base: the same of the base that the skill was packed from. It is needed where tensors were packed bit for bit
            that the new base changed, for the skill's files, for figures of conflict, and for `data`.
        name: of the moved skill; by default its own.
        data: texts to measure with, as `skillpack.texts.read_samples` reads them, or samples.
        max_tokens: samples that are longer are cut.
        samples: use at most so many, the first ones.
        store: folder of the store; by default the user's own.
        branch: branch of the library.
        message: why, for the history.
        author: who, for the history; by default the user's login.
        license: SPDX identifier for the model card; by default that of the skill's card.
        dry_run: do all the work but store nothing.
        progress: called during the work.

    Raises:
        CheckpointError: a base cannot be read.
        ConflictError: skill and new base changed the same thing, and the two cannot be added.
        DataError: the data cannot be read, or nothing in it can be measured.
        NotFiniteError: a tensor holds NaN or infinity, and its change cannot be moved.
        NotFoundError: there is no such skill.
        NotTrustedError: the policy requires a signature and none of the skill's counts.
        UsageError: the old base has to be given, or skills are installed on the new one.
        WrongBaseError: `base` is not the skill's, or the new one does not have the same tensors.

    Example:
        >>> rebase("math", "org/base-v2", base="org/base")  # doctest: +SKIP
    """
    if data is not None and base is None:
        raise UsageError(
            "What is kept on the new base is measured beside the old one",
            hint="Give the base that the skill was packed from: --from OLD_BASE",
        )
    texts = read_samples(data, samples) if isinstance(data, (str, Path)) else data and data[:samples]
    repository = open_existing(store)
    found = repository.resolve(skill, branch)
    target = check_skill_name(name or found.name)
    require_trusted(repository, found.descriptor.digest, found.name)
    opened = open_skill(repository, found.descriptor.digest, found.name)
    with ExitStack() as stack:
        bases = open_bases(opened, onto, base, progress)
        moved = rebased(opened, bases, progress)
        stack.callback(moved.payload.close)
        flips = None
        if texts is not None and base is not None:
            room = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="skillpack-rebase-")))
            folders = _installed(Wanted(opened, repository), moved, (base, onto), room, progress)
            # Only here, since transformers takes seconds to load.
            from skillpack.rebasing.flips import measure_flips

            flips = measure_flips(folders, texts, max_tokens, progress)
        report = _report((target, label_of(found)), opened, moved, flips, remarks(bases))
        if dry_run:
            return report
        # The fine-tune need not be there; it takes about as many bytes as its base.
        facts = CardFacts(
            target,
            base_name(bases.new),
            license or _license(read_card(repository, opened.digest), bases),
            moved.size,
            checkpoint_bytes(bases.new),
            tuple(_provenance(report, bases)),
        )
        with repository.writing():
            stored = put_skill(repository, target, moved.manifest, moved.payload)
            if stored.digest != opened.digest:
                repository.attach(stored, CARD_TYPE, card_files(write_card(facts, moved.manifest)))
            what = message or f"Rebase {report.source} onto {base_name(bases.new)}"
            _commit(repository, target, stored, branch=branch, author=author, message=what)
    kept = repository.resolve(f"{target}@{stored.digest}", branch)
    return replace(report, version=kept.version, digest=stored.digest)


def _license(card: str, bases: Bases) -> str:
    """That of the skill, as its card says; else the new base's."""
    known = card_license(card)
    return base_license(bases.new) if known == UNKNOWN_LICENSE else known


def _commit(
    repository: Repository, name: str, skill: Descriptor, *, branch: str, author: str | None, message: str
) -> None:
    """Commit, unless the head of the branch has this very skill."""
    head = repository.head(branch)
    if head is None or name not in head.skills or head.skills[name].digest != skill.digest:
        commit_skills(repository, {name: skill}, branch=branch, author=author, message=message)


def _installed(
    before: Wanted, moved: Rebased, bases: tuple[str | Path, str | Path], room: Path, progress: Progress
) -> Folders:
    """Install the skill on copies of both bases, before it is in any library."""
    stage = Repository.open_or_create(room / "store")
    after = put_skill(stage, before.skill.name, moved.manifest, moved.payload)
    moved_skill = open_skill(stage, after.digest, before.skill.name)
    install([before], bases[0], output=room / "old", progress=progress)
    install([Wanted(moved_skill, stage)], bases[1], output=room / "new", progress=progress)
    return Folders(bases[0], room / "old", bases[1], room / "new")


def _report(
    names: tuple[str, str], skill: Skill, moved: Rebased, flips: Flips | None, noted: Sequence[str]
) -> RebaseReport:
    tensors = moved.conflicts.tensors
    return RebaseReport(
        name=names[0],
        version=None,
        digest="",
        size=moved.size,
        source=names[1],
        source_digest=skill.digest,
        old_fingerprint=skill.manifest.base_fingerprint,
        new_fingerprint=moved.manifest.base_fingerprint,
        tensors=len(tensors),
        moved=sum(tensor.changed for tensor in tensors),
        recoded=sum(tensor.recoded for tensor in tensors),
        files=tuple(file.path for file in moved.manifest.files),
        same=moved.manifest.dump() == skill.manifest.dump(),
        conflicts=moved.conflicts,
        flips=flips,
        remarks=tuple(noted),
    )


def _provenance(report: RebaseReport, bases: Bases) -> Iterator[str]:
    """What the model card says about where the skill comes from."""
    old = "" if bases.old is None else f" `{base_name(bases.old)}`"
    yield (
        f"rebased from `{report.source}`, `{report.source_digest}`, which is for the base{old} "
        f"`{report.old_fingerprint}`; the fine-tune was one of the first base"
    )
    yield f"{report.moved} of {report.tensors} tensors have another base now, {report.recoded} were coded anew"
    conflicts, flips = report.conflicts, report.flips
    if conflicts.moved is not None and conflicts.cosine is not None:
        yield (
            f"the new base moved {conflicts.moved:.2f} times as far as the skill does, with cosine "
            f"{conflicts.cosine:.3f}"
        )
    if flips is not None:
        kept = "" if flips.kept is None else f"{flips.kept:.1%} of the gain in negative log-likelihood is kept; "
        flipped = (
            "" if flips.negative is None else f"negative flips {flips.negative:.1%}, positive {flips.positive:.1%}; "
        )
        yield f"on {flips.samples} samples: {kept}{flipped}KL from the old base with the skill {flips.kl:.3g} nats"
