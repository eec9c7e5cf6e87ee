"""The JSON that commands print, and what its keys mean.

Keys are only ever added. `KEYS` documents all of them for `docs/cli.md`; a test compares it with what commands print.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from skillpack.cli.comparing_documents import COMPARING_KEYS
from skillpack.cli.compose_documents import COMPOSE_KEYS, RECIPE_KEYS, recipe_document
from skillpack.cli.exchange_documents import EXPORT_KEYS
from skillpack.cli.history_documents import HISTORY_KEYS
from skillpack.cli.learning_documents import LEARNING_KEYS
from skillpack.cli.rebase_documents import REBASE_KEYS
from skillpack.cli.remote_documents import REMOTE_KEYS
from skillpack.cli.routing_documents import ROUTING_KEYS
from skillpack.cli.serving_documents import SERVING_KEYS
from skillpack.cli.surgery_documents import SURGERY_KEYS
from skillpack.cli.tinting_documents import TINTING_KEYS
from skillpack.cli.trust_documents import TRUST_KEYS
from skillpack.cli.upkeep_documents import UPKEEP_KEYS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from skillpack.evaluating import ByModel, EvalReport
    from skillpack.installing import FileRecord, FolderStatus, InstallReport
    from skillpack.kinds import Kind
    from skillpack.library import SkillDetails
    from skillpack.manifest import TensorEntry
    from skillpack.packing import PackReport, SweepReport
    from skillpack.remotes import RemoteSkill
    from skillpack.summaries import SkillSummary

_SKILL: Final = {
    "name": "name of the skill",
    "version": "its number in the history of the branch; null if it was never on it",
    "digest": "its identity",
    "size": "bytes on disk of all that the digest covers",
    "time": "when it was committed, RFC 3339 in UTC",
    "author": "who committed it",
    "message": "why",
}
_INSTALLED: Final = {
    "skills[].name": "name of an installed skill",
    "skills[].label": "its version as it was addressed, such as math@3",
    "skills[].digest": "its identity",
    "skills[].weight": "factor of its delta",
    "skills[].forced": "it was put on another base than its own",
}
_CHANGED: Final = {
    "folder": "the model folder",
    **_INSTALLED,
    "changed[]": "names of the skills that were put on or taken off",
    "replaced[]": "names of those that were there with another version or weight",
    "written[]": "relative paths of the files that were written",
    "restored[]": "relative paths of the base's files that are back in place",
    "bytes": "bytes of the written files",
    "dry_run": "nothing was changed",
}
_FIGURES: Final = {
    "bytes": "coded bytes",
    "codecs[]": "names of the codecs",
    "rank": "least and largest rank of low-rank parts, and of Tucker parts along their axes; null without such",
    "bits_per_weight": "coded bits for each number",
    "error": "least and largest relative Frobenius error",
    "bound": "least bytes of any code for Gaussians like the approximated deltas at this error; null if not known",
    "over_bound": "coded bytes of the approximated deltas, divided by bound; null if that is null or 0",
}
_PACK_BOUND: Final = {
    "bound": "least bytes of any code for Gaussians like the approximated deltas at this error; null if not known",
    "over_bound": "bytes of all but lossless tensors and files, divided by bound; null if that is null or 0",
}


_BY_MODEL: Final = {
    "base": "of the base; null if it cannot be measured",
    "packed": "of the base with the skill; null where the task or the data do not allow it",
    "tuned": "of the fine-tune; likewise",
}


def _within(prefix: str, keys: Mapping[str, str]) -> dict[str, str]:
    return {f"{prefix}.{key}": meaning for key, meaning in keys.items()}


KEYS: Final[Mapping[str, Mapping[str, str]]] = {
    "pack": {
        "name": "name of the skill",
        "version": "its number in the history of the branch; null after a dry run",
        "digest": "its identity; empty after a dry run",
        "size": "bytes on disk of all that the digest covers",
        "tuned_size": "bytes of the fine-tune's tensors",
        "exact": "the fine-tune comes back bit for bit",
        "error": "largest relative Frobenius error of a tensor's delta",
        **_PACK_BOUND,
        "changed": "how many tensors differ",
        "unchanged": "how many do not",
        "gone[]": "names of base tensors that the fine-tune does not have",
        "files[]": "relative paths of changed files",
        "code_files[]": "Python files of the fine-tune, which are left out",
        "kl": "mean KL(tuned || packed) on the calibration texts, nats per prediction; null if it was not measured",
        "kl_upper": "upper end of its 95 % interval; likewise",
        "samples": "texts it was measured on; likewise",
        "tokens": "predictions it was measured on; likewise",
        "remarks[]": "what these figures mean, where they are bad",
        "resumed": "tensors that an earlier pack had worked on before it was interrupted",
        "dry_run": "nothing was stored",
        "points[].step": "quantisation step; points[] and written[] are for --sweep, which prints no more than these, "
        "tuned_size, samples and tokens",
        "points[].size": "bytes on disk that a skill would take",
        "points[].share": "size in relation to tuned_size",
        "points[].error": "relative Frobenius error over all approximated tensors",
        "points[].bound": "least bytes of any code at this error; null if not known",
        "points[].kl": "mean KL(tuned || packed), nats per prediction; null without --calibration",
        "points[].kl_interval[]": "ends of its 95 % interval; none without --calibration",
        "written[]": "paths of the files with the curve",
    },
    "install": _CHANGED,
    "remove": _CHANGED,
    "status": {
        "folder": "the model folder",
        "managed": "skills are installed",
        **_INSTALLED,
        "written[].path": "relative path of a file that an install wrote",
        "written[].size": "its bytes",
        "written[].sha256": "its digest",
        "written_bytes": "bytes of all of them",
        "originals[].path": "relative path of a file of the base that is put aside",
        "originals[].size": "its bytes",
        "originals[].sha256": "its digest",
        "kept_bytes": "bytes of all of them",
        "kept_in": "relative folder in which they are",
        "base_fingerprint": "of the base; empty if no skill is installed",
        "tool": "program and version that installed",
        "verified": "every file was hashed",
        "differences[].path": "a file that is not as it was after the install, or the name of a damaged skill",
        "differences[].problem": "changed, missing or damaged skill",
        "unfinished": "another command is at work, or was interrupted and could not be finished or undone",
        "recovered": "an interrupted command was finished or undone now",
    },
    "list": {"branch": "the branch", **_within("skills[]", _SKILL)},
    "show": {
        **_SKILL,
        "base_fingerprint": "of the base",
        "tuned_fingerprint": "of the fine-tune",
        **_PACK_BOUND,
        "prefix.strip": "what base names start with and the fine-tune's do not",
        "prefix.add": "what the fine-tune's names start with and the base's do not",
        "gone[]": "names of base tensors that an install leaves out",
        "files[].path": "relative path of a changed file",
        "files[].kind": "patch or whole",
        "files[].bytes": "coded bytes",
        "kinds[].kind": "kind of module",
        "kinds[].tensors": "how many tensors of the kind change",
        **_within("kinds[]", _FIGURES),
        "tensors[].tensor": "name, as an install writes it; so are dtype and shape",
        "tensors[].dtype": "as in safetensors",
        "tensors[].shape[]": "dimensions",
        "tensors[].reference": "the base tensor that it is relative to; null if it is new",
        "tensors[].same_as": "the tensor that it is tied to, or null",
        **_within("tensors[]", _FIGURES),
        "card": "the model card, Markdown",
        **RECIPE_KEYS,
    },
    "delete": {**_within("skill", _SKILL), "dry_run": "nothing was changed"},
    "export": {**EXPORT_KEYS, **_within("skills[]", _SKILL)},
    "import": _within("skills[]", _SKILL),
    "verify": {
        **_within("skills[]", _SKILL),
        "skills[].signers[]": "whose signatures of it hold, as the policy or --key names them",
    },
    **UPKEEP_KEYS,
    "eval": {
        "skill": "address that was evaluated",
        "task": "next token or class: what the model predicts",
        "samples": "texts and chats that were measured",
        "tokens": "predictions that were measured",
        "kl": "mean KL(tuned || packed), nats for each prediction",
        "kl_interval[]": "ends of its 95 % interval; all intervals are bootstrap intervals over samples",
        "agreement": "share of predictions whose most likely outcome is the fine-tune's",
        "agreement_interval[]": "ends of its interval",
        **_within("perplexity", _BY_MODEL),
        **_within("accuracy", _BY_MODEL),
        "kept": "share of the fine-tune's gain in negative log-likelihood over the base that is kept; null if unknown",
        "kept_interval[]": "ends of its interval; empty if the gain is not certain",
        "tensors[].tensor": "name of a tensor in the live model, the one that hurts most first",
        "tensors[].kl": "its part of the KL, to first order, in nats",
        "remarks[]": "what could not be measured, and why; what the figures mean",
    },
    **REBASE_KEYS,
    **LEARNING_KEYS,
    **COMPOSE_KEYS,
    **COMPARING_KEYS,
    **HISTORY_KEYS,
    **REMOTE_KEYS,
    **ROUTING_KEYS,
    **SERVING_KEYS,
    **SURGERY_KEYS,
    **TINTING_KEYS,
    **TRUST_KEYS,
}
"""Command -> path of a key -> its meaning. `[]` stands for every item of a list."""


def pack_document(report: PackReport, *, dry_run: bool) -> dict[str, Any]:
    """What `pack` prints."""
    manifest, measured = report.manifest, report.measured
    error = max((entry.error for entry in manifest.tensors), default=0.0)
    return {
        "name": report.name,
        "version": report.version,
        "digest": report.digest,
        "size": report.size,
        "tuned_size": report.tuned_size,
        "exact": error == 0,
        "error": error,
        "bound": report.bound,
        "over_bound": report.over_bound,
        "changed": len(manifest.tensors),
        "unchanged": report.unchanged,
        "gone": [name for name, _ in manifest.gone],
        "files": [file.path for file in manifest.files],
        "code_files": list(report.code_files),
        "kl": None if measured is None else measured.kl,
        "kl_upper": None if measured is None else measured.upper,
        "samples": None if measured is None else measured.samples,
        "tokens": None if measured is None else measured.tokens,
        "remarks": [] if measured is None else measured.remarks,
        "resumed": report.resumed,
        "dry_run": dry_run,
        "points": [],
        "written": [],
    }


def sweep_document(report: SweepReport) -> dict[str, Any]:
    """What `pack --sweep` prints."""
    return {
        "tuned_size": report.tuned_size,
        "samples": report.samples,
        "tokens": report.tokens,
        "points": [{**asdict(point), "kl_interval": list(point.kl_interval or ())} for point in report.points],
        "written": [str(path) for path in report.written],
    }


def install_document(report: InstallReport) -> dict[str, Any]:
    """What `install` and `remove` print."""
    return {
        "folder": str(report.folder),
        "skills": [asdict(skill) for skill in report.skills],
        "changed": list(report.changed),
        "replaced": list(report.replaced),
        "written": list(report.written),
        "restored": list(report.restored),
        "bytes": report.nbytes,
        "dry_run": report.dry_run,
    }


def status_document(found: FolderStatus) -> dict[str, Any]:
    """What `status` prints."""
    return {
        "folder": str(found.folder),
        "managed": found.managed,
        "skills": [asdict(skill) for skill in found.skills],
        "written": _files(found.written),
        "written_bytes": found.written_bytes,
        "originals": _files(found.originals),
        "kept_bytes": found.kept_bytes,
        "kept_in": found.kept_in,
        "base_fingerprint": found.base_fingerprint,
        "tool": found.tool,
        "verified": found.verified,
        "differences": [difference._asdict() for difference in found.differences],
        "unfinished": found.unfinished,
        "recovered": found.recovered,
    }


def list_document(skills: Iterable[SkillSummary], branch: str) -> dict[str, Any]:
    """What `list` prints."""
    return {"branch": branch, "skills": _skills(skills)}


def show_document(found: SkillDetails | RemoteSkill) -> dict[str, Any]:
    """What `show` prints."""
    from skillpack.kinds import Kind, by_kind

    manifest = found.manifest
    return {
        **asdict(found.summary),
        "base_fingerprint": manifest.base_fingerprint,
        "tuned_fingerprint": manifest.tuned_fingerprint,
        "bound": manifest.bound,
        "over_bound": manifest.over_bound(found.summary.size),
        "prefix": manifest.renaming._asdict(),
        "gone": [name for name, _ in manifest.gone],
        "files": [{"path": file.path, "kind": file.kind, "bytes": file.coded} for file in manifest.files],
        "kinds": [{"kind": kind.name, "tensors": kind.tensors, **_figures(kind)} for kind in by_kind(manifest.tensors)],
        "tensors": [_tensor(entry, Kind.of(entry.name, [entry])) for entry in manifest.tensors],
        "card": found.card,
        "recipe": recipe_document(manifest.recipe),
    }


def delete_document(skill: SkillSummary, *, dry_run: bool) -> dict[str, Any]:
    """What `delete` prints."""
    return {"skill": asdict(skill), "dry_run": dry_run}


def import_document(skills: Iterable[SkillSummary]) -> dict[str, Any]:
    """What `import` prints."""
    return {"skills": _skills(skills)}


def verify_document(skills: Iterable[SkillSummary], signers: Mapping[str, list[str]]) -> dict[str, Any]:
    """What `verify` prints; `signers` are names by the digest of a skill."""
    return {"skills": [{**asdict(skill), "signers": signers[skill.digest]} for skill in skills]}


def eval_document(report: EvalReport) -> dict[str, Any]:
    """What `eval` prints."""
    return {
        **asdict(report),
        "perplexity": _by_model(report.perplexity),
        "accuracy": _by_model(report.accuracy),
        "kept_interval": report.kept_interval or [],
        "tensors": [{"tensor": tensor.name, "kl": tensor.kl} for tensor in report.tensors],
    }


def _by_model(figures: ByModel | None) -> dict[str, float | None]:
    return dict.fromkeys(("base", "packed", "tuned")) if figures is None else figures._asdict()


def _skills(skills: Iterable[SkillSummary]) -> list[dict[str, Any]]:
    return [asdict(skill) for skill in skills]


def _files(records: Iterable[tuple[str, FileRecord]]) -> list[dict[str, Any]]:
    return [{"path": path, "size": record.size, "sha256": record.sha256} for path, record in records]


def _tensor(entry: TensorEntry, alone: Kind) -> dict[str, Any]:
    return {
        "tensor": entry.name,
        "dtype": entry.dtype,
        "shape": list(entry.shape),
        "reference": entry.reference,
        "same_as": entry.same_as,
        **_figures(alone),
    }


def _figures(kind: Kind) -> dict[str, Any]:
    return {
        "bytes": kind.nbytes,
        "codecs": list(kind.codecs),
        "rank": None if kind.ranks is None else list(kind.ranks),
        "bits_per_weight": kind.bits_per_weight,
        "error": list(kind.errors),
        "bound": kind.bound,
        "over_bound": kind.over_bound,
    }
