"""What texts have shown about a fine-tune, kept in a file to pack it again without them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from skillpack.errors import DataError
from skillpack_store import disk, parse_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from skillpack.packing.divergence import Candidates
    from skillpack.packing.metric import Metric
    from skillpack.progress import Progress

_SCHEMA: Final = 1
_LIMIT: Final = 64 << 20


@dataclass(frozen=True)
class Weighing:
    """How tensors are weighed.

    Attributes:
        metric: see `skillpack.packing.metric`.
        file: what is found out is kept in it, and taken from it if it is there; None to keep nothing.
    """

    metric: Metric
    file: Path | None = None

    def known(self, tuned: str) -> dict[str, float] | None:
        """Sensitivities that need no texts; None if texts must tell.

        Args:
            tuned: fingerprint of the fine-tune.

        Raises:
            DataError: the file is damaged, or about another fine-tune or metric.
        """
        if self.metric == "identity":
            return {}
        return None if self.file is None else read_statistics(self.file, tuned, self.metric)

    def found(self, tuned: str, candidates: Candidates, progress: Progress) -> dict[str, float]:
        """What texts tell, which is kept.

        Args:
            tuned: fingerprint of the fine-tune.
            candidates: with the texts.
            progress: called during the work.

        Raises:
            NotFiniteError: the fine-tune predicts NaN or infinity.
            OSError: the file cannot be written.
        """
        sensitivity = candidates.sensitivities(self.metric, progress)
        if self.file is not None:
            write_statistics(self.file, tuned, self.metric, sensitivity)
        return sensitivity


def write_statistics(path: Path, tuned: str, metric: str, sensitivity: Mapping[str, float]) -> None:
    """Write a file, replacing any that is there.

    Args:
        path: of the file.
        tuned: fingerprint of the fine-tune.
        metric: by which tensors were weighed.
        sensitivity: see `skillpack.packing.metric`.

    Raises:
        OSError: it cannot be written.
    """
    document = {"schema": _SCHEMA, "tuned": tuned, "metric": metric, "sensitivity": dict(sensitivity)}
    disk.replace(path, [(json.dumps(document, indent=1) + "\n").encode()])


def read_statistics(path: Path, tuned: str, metric: str) -> dict[str, float] | None:
    """Sensitivities that a file holds; None if there is no such file.

    Args:
        path: of the file.
        tuned: fingerprint of the fine-tune that is to be packed.
        metric: by which tensors are to be weighed.

    Raises:
        DataError: it is damaged, or about another fine-tune or metric.
    """
    try:
        document = parse_json(path.read_bytes(), limit=_LIMIT)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}", hint="Delete it; it will be written again.") from error
    if not isinstance(document, dict) or document.get("schema") != _SCHEMA or not _whole(document.get("sensitivity")):
        raise DataError(
            f"{path} holds no statistics of a fine-tune", hint="Give another file, or one that is not there."
        )
    for what, wanted in (("tuned", tuned), ("metric", metric)):
        if document.get(what) != wanted:
            about = "another fine-tune" if what == "tuned" else f"the metric {document.get(what)!a}, not {metric}"
            raise DataError(f"{path} is about {about}", hint="Give another file, or one that is not there.")
    found: dict[str, float] = document["sensitivity"]
    return found


def _whole(sensitivity: Any) -> bool:
    return isinstance(sensitivity, dict) and all(
        isinstance(value, float) and math.isfinite(value) and value > 0 for value in sensitivity.values()
    )
