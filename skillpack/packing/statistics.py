"""What texts have shown about a fine-tune, kept in a file to pack it again without them."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Final

from skillpack.errors import DataError
from skillpack_store import disk, parse_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_SCHEMA: Final = 1
_LIMIT: Final = 64 << 20


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
