"""Pack a fine-tune and commit it to a library."""

from __future__ import annotations

import re
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from skillpack.errors import UsageError
from skillpack.fingerprint import fingerprint
from skillpack.library import commit_skills
from skillpack.model_card import CARD_TYPE, CardFacts, base_license, base_name, card_files, write_card
from skillpack.packing.opening import Hands, checkpoint_bytes, opened
from skillpack.packing.packer import Goal
from skillpack.packing.payload import put_skill
from skillpack.packing.statistics import Weighing
from skillpack.progress import Progress, silent
from skillpack.summaries import open_or_create
from skillpack_store import check_skill_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skillpack.checkpoint import Checkpoint
    from skillpack.evaluating.trials import Measured
    from skillpack.manifest import Manifest
    from skillpack.packing.metric import Metric
    from skillpack.packing.opening import Opened
    from skillpack.packing.packer import Packed
    from skillpack.summaries import StoreLike
    from skillpack.texts import Sample
    from skillpack_store import Descriptor, Repository

    Texts = str | Path | Sequence[Sample] | None


@dataclass(frozen=True)
class _Calibration:
    """Texts, and what they are to tell.

    Attributes:
        texts: None if none are given.
        weighing: how tensors are weighed.
    """

    texts: Texts
    weighing: Weighing


@dataclass(frozen=True)
class PackReport:
    """What was packed.

    Attributes:
        name: of the skill.
        version: its number in the library; None after a dry run.
        digest: its identity; empty after a dry run.
        size: bytes on disk of everything that the digest covers.
        tuned_size: bytes of the fine-tune's tensors.
        manifest: what the skill changes.
        unchanged: how many tensors are the same in base and fine-tune.
        code_files: Python files of the fine-tune, which are never carried.
        measured: how far it is from the fine-tune on texts; None if that was not asked for.
        resumed: how many tensors an interrupted run of the same pack had already analysed.
    """

    name: str
    version: int | None
    digest: str
    size: int
    tuned_size: int
    manifest: Manifest
    unchanged: int
    code_files: tuple[str, ...]
    measured: Measured | None = None
    resumed: int = 0

    @property
    def bound(self) -> int | None:
        """Least bytes of any code for Gaussians like the approximated deltas; see `Manifest.bound`."""
        return self.manifest.bound

    @property
    def over_bound(self) -> float | None:
        """How many times the bound what is approximated takes; see `Manifest.over_bound`."""
        return self.manifest.over_bound(self.size)

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        from skillpack.notebook import pack_html

        return pack_html(self)


def pack(
    base: str | Path,
    tuned: str | Path | Checkpoint,
    name: str | None = None,
    *,
    exact: bool = False,
    size: int | None = None,
    quality: float | None = None,
    max_kl: float | None = None,
    refine: int | None = None,
    calibration: Texts = None,
    examples: Texts = None,
    metric: Metric | None = None,
    statistics: str | Path | None = None,
    store: StoreLike = None,
    branch: str = "main",
    message: str = "",
    author: str | None = None,
    license: str | None = None,  # noqa: A002 - the field's name in a model card
    workers: int | None = None,
    device: str = "cpu",
    ray: str | None = None,
    dry_run: bool = False,
    progress: Progress = silent,
) -> PackReport:
    """Turn a fine-tune into a skill and commit it to a library.

    A pack that was interrupted goes on where it was when it is started again: analyses of tensors are kept in the
    user's cache until then, 14 days at most.

    Args:
        base: folder, ``.safetensors`` file or hub id of the model that the fine-tune started from.
        tuned: the same for the fine-tune; or the folder of a PEFT LoRA adapter; or a `Checkpoint`, with a name and
            without texts.
        name: of the skill; by default that of the fine-tune's folder.
        exact: come back bit for bit.
        size: bytes on disk that the skill may take at most.
        quality: between 0 and 1; the default is 0.9.
        max_kl: mean KL(tuned || packed) in nats per predicted token that the skill may have on the calibration texts,
            the upper end of its 95 % interval being what counts; the smallest skill within it is made.
        refine: steps of learning from the calibration texts that bring the skill closer to the fine-tune at the same
            size, beginning from the better of two ways to keep weak columns. Every fourth text is kept for measuring,
            and the steps are dropped if the skill is no better on these. By default 3 if calibration texts are given,
            at least 8 of them, and no `max_kl`; else 0.
        calibration: texts as `skillpack.texts.read_samples` reads them, or samples; by default, or if "self", texts
            that the fine-tune writes itself. Tensors are coded the more finely the more errors in them matter there.
        examples: prompts of what the skill is for, as `skillpack.add_examples` takes them, to be attached to it; by
            default the calibration texts, if they are given and as many as that needs.
        metric: how that is found out, see `skillpack.packing.metric`; "identity" not to do it. By default "fisher"
            wherever there are texts, for a `max_kl` or to `refine` too.
        statistics: file to keep what is found out in; if it is there, it is taken from there.
        store: folder of the store; by default the user's own.
        branch: branch of the library.
        message: why, for the history.
        author: who, for the history; by default the user's login.
        license: SPDX identifier for the model card; by default the base's, as its model card says.
        workers: tensors that are worked on at a time; by default one for each core. The skill is the same, byte for
            byte, whatever their number.
        device: torch device that finds singular vectors: "cuda", "cuda:1", "mps" or "cpu". Another kind of device
            gives a skill of the same size and quality, within 1 %, but not the same bytes.
        ray: address of a running Ray cluster that finds singular vectors: "HOST:PORT" if this machine is one of its
            nodes, "ray://HOST:PORT" or "auto". The skill is the same as without, on machines of the same kind.
        dry_run: do all the work but store nothing.
        progress: called during the work.

    Raises:
        CheckpointError: a checkpoint cannot be read, or the two do not fit each other.
        NotFiniteError: the fine-tune holds NaN or infinity (exact packs keep them).
        UsageError: nothing differs, the size or the divergence cannot be met, arguments exclude one another, or the
            device or the cluster is not there.
        DataError: the calibration texts cannot be used.
        UnsupportedCheckpointError: the divergence of this kind of model cannot be measured.

    Example:
        >>> pack("org/base", "./math-tuned", "math", size=5_000_000)  # doctest: +SKIP
    """
    if refine is None and (calibration is None or max_kl is not None):
        refine = 0
    goal = Goal(exact=exact, size=size, quality=quality, max_kl=max_kl, refine=refine)
    if exact and not (calibration is None and metric is None and statistics is None):
        raise UsageError("a pack that comes back bit for bit has no use for texts", hint="Leave out --calibration.")
    weighed = statistics is not None or metric not in (None, "identity")
    wanted = max_kl is not None or refine or calibration is not None or weighed
    weighing = Weighing(
        metric or ("fisher" if wanted else "identity"), None if statistics is None else Path(statistics)
    )
    if not isinstance(tuned, str | Path) and (name is None or wanted):
        raise UsageError(
            "a model in memory is packed under a name and without texts", hint="Save it as a folder first."
        )
    name = check_skill_name(name or _name_of(str(tuned)))
    prompts = _prompts(examples, calibration)
    hands = Hands(workers, device, ray)
    with ExitStack() as stack:
        found = stack.enter_context(opened(base, tuned, goal, hands, progress))
        delta = found.delta
        packed, measured = _pack(found, (base, tuned), goal, _Calibration(calibration, weighing), progress)
        stack.callback(packed.payload.close)
        report = PackReport(
            name=name,
            version=None,
            digest="",
            size=packed.size,
            tuned_size=checkpoint_bytes(delta.tuned),
            manifest=packed.manifest,
            unchanged=len(delta.tuned.tensors) - len(delta.changes),
            code_files=delta.code_files,
            measured=measured,
            resumed=found.unfinished.resumed,
        )
        if dry_run:
            return report
        repository = open_or_create(store)
        facts = CardFacts(
            name, base_name(delta.base), license or base_license(delta.base), report.size, report.tuned_size
        )
        with repository.writing():
            skill = put_skill(repository, name, packed.manifest, packed.payload)
            repository.attach(skill, CARD_TYPE, card_files(write_card(facts, packed.manifest)))
            if prompts:
                _attach_examples(repository, skill, name, base, prompts)
            commit_skills(repository, {name: skill}, branch=branch, author=author, message=message or f"Pack {name}")
    kept = repository.resolve(f"{name}@{skill.digest}", branch)
    return replace(report, version=kept.version, digest=skill.digest)


def _prompts(examples: Texts, calibration: Texts) -> list[str | Sample]:
    """Examples of what the skill is for: those that were given, or prompts that the fine-tune is calibrated with."""
    if examples is None and (calibration is None or calibration == "self"):
        return []
    # Only here, since transformers takes seconds to load.
    from skillpack.routing.adding import read_prompts, some_prompts

    return read_prompts(examples) if examples is not None else some_prompts(calibration)  # type: ignore[arg-type]


def _attach_examples(
    repository: Repository, skill: Descriptor, name: str, base: str | Path, prompts: Sequence[str | Sample]
) -> None:
    from skillpack.routing.adding import attach_prompts, open_base
    from skillpack.skill import open_skill

    opened = open_base(base, None, repository, "main")
    attach_prompts(repository, skill, open_skill(repository, skill.digest, name), opened, prompts, refined=False)


def _pack(
    found: Opened,
    models: tuple[str | Path, str | Path | Checkpoint],
    goal: Goal,
    about: _Calibration,
    progress: Progress,
) -> tuple[Packed, Measured | None]:
    packer, of = found.packer, fingerprint(found.delta.tuned_digests)
    known = about.weighing.known(of)
    if about.texts is None and goal.max_kl is None and goal.refine == 0 and known is not None:
        packer.weigh(known)
        return packer.pack(), None
    # Only here, since transformers takes seconds to load.
    from skillpack.packing.divergence import open_candidates
    from skillpack.packing.taught import taught_pack

    base, tuned = models
    assert isinstance(tuned, str | Path)
    with open_candidates(base, tuned, about.texts, progress, learn=goal.refine != 0) as candidates:
        packer.weigh(about.weighing.found(of, candidates, progress) if known is None else known)
        return taught_pack(packer, goal, candidates, progress)


def _name_of(tuned: str | Path) -> str:
    """A skill name from the last part of a path or hub id."""
    last = str(tuned).partition("@")[0].rstrip("/").rpartition("/")[2].removesuffix(".safetensors")
    name = re.sub(r"[^a-z0-9]+", "-", (last if last not in {"", ".", ".."} else Path(tuned).resolve().name).lower())
    return name.strip("-")
