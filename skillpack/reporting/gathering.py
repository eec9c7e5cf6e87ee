"""What a page says of a library, gathered from the store."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skillpack.comparing.clustering import ClusterReport, cluster
from skillpack.comparing.profiles import Profiles, similarity
from skillpack.kinds import kind_names
from skillpack.manifest import block_of
from skillpack.signing.policy import show_policy
from skillpack.signing.skills import signers_of
from skillpack.skill import open_skill
from skillpack.summaries import list_skills, open_existing
from skillpack_store import number_versions

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from skillpack.manifest import Manifest
    from skillpack.progress import Progress
    from skillpack.signing import Policy
    from skillpack.skill import Skill
    from skillpack.summaries import SkillSummary, StoreLike
    from skillpack_store import Repository, SkillVersion


@dataclass(frozen=True)
class HeatMap:
    """A quantity along the layers and over the kinds of modules.

    Attributes:
        layers: numbers of the columns.
        rows: kind of module -> share of the whole for each layer; None where there is no such tensor.
        rest: kind of module -> share, of what is in no layer.
        total: the whole, in units of the quantity.
    """

    layers: tuple[int, ...]
    rows: tuple[tuple[str, tuple[float | None, ...]], ...]
    rest: tuple[tuple[str, float], ...]
    total: float

    @property
    def largest(self) -> float:
        """The largest share of a cell in a layer."""
        return max((share for _, row in self.rows for share in row if share is not None), default=0.0)


@dataclass(frozen=True)
class Version:
    """A version of a skill.

    Attributes:
        number: its number on the branch.
        digest: its identity.
        size: bytes on disk.
        time: when it was committed, RFC 3339 in UTC.
        author: who committed it.
        message: why.
    """

    number: int
    digest: str
    size: int
    time: str
    author: str
    message: str


@dataclass(frozen=True)
class SkillView:
    """A skill, as a page shows it.

    Attributes:
        summary: name, version, size and who committed it.
        versions: newest first.
        base: fingerprint of its base.
        tuned: fingerprint of its fine-tune.
        tensors: how many it changes.
        codecs: how they are coded.
        files: paths of the files that it changes.
        signers: whose signatures count.
        bytes_map: where its bytes are.
        energy_map: where its change is: squared norms; None if that is not known.
    """

    summary: SkillSummary
    versions: tuple[Version, ...]
    base: str
    tuned: str
    tensors: int
    codecs: tuple[str, ...]
    files: tuple[str, ...]
    signers: tuple[str, ...]
    bytes_map: HeatMap
    energy_map: HeatMap | None

    @property
    def length(self) -> float | None:
        """Norm of what it adds to the weights; None if that is not known."""
        return None if self.energy_map is None else math.sqrt(self.energy_map.total)

    @property
    def versions_count(self) -> int:
        """How many versions there are."""
        return len(self.versions)


@dataclass(frozen=True)
class LibraryView:
    """A library, as a page shows it.

    Attributes:
        branch: of the library.
        commit: digest of its newest commit; None if there is none yet.
        time: of that commit, RFC 3339 in UTC.
        skills: sorted by name.
        disk: bytes on disk of all versions of them, each content counted once.
        clusters: which of them belong together.
        policy: whose skills are accepted.
    """

    branch: str
    commit: str | None
    time: str
    skills: tuple[SkillView, ...]
    disk: int
    clusters: ClusterReport
    policy: Policy

    def signed_by(self, signer: str) -> int:
        """How many skills have a signature of this signer that counts."""
        return sum(signer in skill.signers for skill in self.skills)

    @property
    def bases(self) -> tuple[str, ...]:
        """Fingerprints of the bases, the one with most skills first."""
        counted: dict[str, int] = defaultdict(int)
        for skill in self.skills:
            counted[skill.base] += 1
        return tuple(sorted(counted, key=lambda base: (-counted[base], base)))


def gather(*, base: str | Path | None, store: StoreLike, branch: str, progress: Progress) -> LibraryView:
    """Look at all skills of a branch.

    Args:
        base: the model that the skills go on; what comes back bit for bit has no energies without it.
        store: where they are.
        branch: branch of the library.
        progress: called during the work.

    Raises:
        NoStoreError: there is no store.
        WrongBaseError: a skill goes on another base than `base`.
        CorruptStoreError, DamagedSkillError: a skill is damaged.
    """
    repository = open_existing(store)
    summaries = list_skills(store=repository, branch=branch)
    clusters = ClusterReport((), (), (), (), (), {})
    if summaries:
        clusters = cluster(base=base, store=repository, branch=branch, progress=progress)
    head = repository.head(branch)
    numbered = number_versions(repository, None if head is None else head.digest)
    # Decoded just now, or before.
    profiles = Profiles(repository)
    views = tuple(_view(repository, profiles, summary, numbered.get(summary.name, {})) for summary in summaries)
    return LibraryView(
        branch=branch,
        commit=None if head is None else head.digest,
        time="" if head is None else head.time,
        skills=views,
        disk=sum({version.digest: version.size for view in views for version in view.versions}.values()),
        clusters=clusters,
        policy=show_policy(),
    )


def _view(
    repository: Repository, profiles: Profiles, summary: SkillSummary, versions: Mapping[str, SkillVersion]
) -> SkillView:
    skill = open_skill(repository, summary.digest, summary.name)
    manifest = skill.manifest
    return SkillView(
        summary=summary,
        versions=_versions(repository, versions),
        base=manifest.base_fingerprint,
        tuned=manifest.tuned_fingerprint,
        tensors=len(manifest.tensors),
        codecs=tuple(sorted({part.codec for entry in manifest.tensors for part in entry.parts})),
        files=tuple(file.path for file in manifest.files),
        signers=tuple(signers_of(summary, store=repository)),
        bytes_map=_bytes_map(manifest),
        energy_map=_energy_map(skill, profiles),
    )


def _versions(repository: Repository, versions: Mapping[str, SkillVersion]) -> tuple[Version, ...]:
    found = [
        Version(
            version.number,
            digest,
            repository.skill_manifest(digest).size,
            version.commit.time,
            version.commit.author,
            version.commit.message,
        )
        for digest, version in versions.items()
    ]
    return tuple(sorted(found, key=lambda version: -version.number))


def _bytes_map(manifest: Manifest) -> HeatMap:
    return heat_map({entry.name: float(entry.nbytes) for entry in manifest.tensors if entry.same_as is None})


def _energy_map(skill: Skill, profiles: Profiles) -> HeatMap | None:
    profile = profiles.get(skill)
    return heat_map(profile.energies) if similarity(profile, profile) is not None else None


def heat_map(amounts: Mapping[str, float]) -> HeatMap:
    """Lay the amounts of tensors out by layer and kind of module.

    Args:
        amounts: tensor -> amount, not negative.
    """
    kinds = kind_names(amounts)
    total = sum(amounts.values())
    cells: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    rest: dict[str, float] = defaultdict(float)
    for name, amount in amounts.items():
        layer = block_of(name).rpartition(".")[2]
        share = amount / total if total else 0.0
        if layer.isdecimal():
            cells[kinds[name]][int(layer)] += share
        else:
            rest[kinds[name]] += share
    layers = tuple(sorted({layer for row in cells.values() for layer in row}))
    order = sorted(cells, key=lambda kind: (-sum(cells[kind].values()), kind))
    return HeatMap(
        layers=layers,
        rows=tuple((kind, tuple(cells[kind].get(layer) for layer in layers)) for kind in order),
        rest=tuple(sorted(rest.items(), key=lambda item: (-item[1], item[0]))),
        total=total,
    )
