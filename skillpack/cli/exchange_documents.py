"""The JSON that `export` prints; see `skillpack.cli.documents`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from skillpack.interop import AdapterExport, ExportedTensor, MergedExport
    from skillpack.summaries import SkillSummary

EXPORT_KEYS: Final = {
    "file": "what was written: the archive, or the new folder",
    "format": "archive, peft, vllm or merged",
    "bytes": "size of the archive, of the adapter's weights, or of all files of the model",
    "rank": "largest rank of an adapter's factors; null for other formats",
    "tensors[].tensor": "name of a tensor that an adapter carries; none for other formats",
    "tensors[].how": "factors, truncated (factors that leave something out), whole, rows or bias",
    "tensors[].rank": "of its factors; 0 without",
    "tensors[].error": "Frobenius norm of what was left out, relative to that of what the skill adds",
    "lost[].name": "a tensor or a file that the skill changes and the adapter does not",
    "lost[].reason": "why",
    "written[]": "relative paths of the files of a merged model that differ from the base's",
}


def archive_document(skills: Iterable[SkillSummary], file: Path, size: int) -> dict[str, Any]:
    """What `export` prints of an archive."""
    return {**_document("archive", file, size), "skills": [asdict(skill) for skill in skills]}


def adapter_document(export: AdapterExport) -> dict[str, Any]:
    """What `export` prints of an adapter."""
    return {
        **_document(export.format, export.folder, export.nbytes),
        "rank": export.rank,
        "tensors": [_tensor(own) for own in export.tensors],
        "lost": [lost._asdict() for lost in export.lost],
        "skills": [asdict(export.skill)],
    }


def merged_document(export: MergedExport, skills: Iterable[SkillSummary]) -> dict[str, Any]:
    """What `export` prints of a merged model."""
    document = _document("merged", export.folder, export.nbytes)
    return {**document, "written": list(export.written), "skills": [asdict(skill) for skill in skills]}


def _document(kind: str, file: Path, size: int) -> dict[str, Any]:
    return {
        "file": str(file),
        "format": kind,
        "bytes": size,
        "rank": None,
        "tensors": [],
        "lost": [],
        "written": [],
    }


def _tensor(exported: ExportedTensor) -> dict[str, Any]:
    return {"tensor": exported.name, "how": exported.how, "rank": exported.rank, "error": exported.error}
