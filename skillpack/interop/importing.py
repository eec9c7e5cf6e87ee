"""Taking an adapter of PEFT, or one that mergekit extracted, into the library without losing a bit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from skillpack.checkpoint import adapter_config, locate
from skillpack.errors import UsageError
from skillpack.progress import Progress, silent

if TYPE_CHECKING:
    from skillpack.packing import PackReport
    from skillpack.summaries import StoreLike


def import_adapter(
    adapter: str | Path,
    base: str | Path,
    name: str | None = None,
    *,
    store: StoreLike = None,
    branch: str = "main",
    message: str = "",
    author: str | None = None,
    license: str | None = None,  # noqa: A002 - the field's name in a model card
    progress: Progress = silent,
) -> PackReport:
    """Make a skill of a LoRA adapter that installs as the very model that merging the adapter gives.

    Factors are kept as the adapter has them, so the skill is no larger than the adapter, and `export_adapter` gives
    them back bit for bit. Modules that the adapter holds whole, trained rows, biases and DoRA are kept by the exact
    values that merging gives. It is an exact `pack` of the adapter.

    Args:
        adapter: folder or Hub id of the adapter: adapter_config.json and adapter_model.safetensors.
        base: model folder or Hub id that it belongs to.
        name: of the skill; by default that of the adapter's folder.
        store: where to; made if it is not there.
        branch: branch of the library.
        message: why, for the history.
        author: who, for the history; by default the user's login.
        license: SPDX identifier for the model card; by default the base's, as its model card says.
        progress: called during the work.

    Raises:
        UsageError: it is no adapter, or it changes nothing.
        CheckpointError: adapter or base cannot be read, or they do not fit each other.
        UnsupportedCheckpointError: an adapter of another kind than LoRA.
    """
    from skillpack.packing import pack

    folder, origin = locate(adapter)
    if not folder.is_dir() or adapter_config(folder) is None:
        raise UsageError(f"{origin} has no adapter_config.json", hint="Give the folder of a PEFT LoRA adapter.")
    return pack(
        base,
        adapter,
        name,
        exact=True,
        store=store,
        branch=branch,
        message=message or f"Import {_label(origin, folder)}",
        author=author,
        license=license,
        progress=progress,
    )


def _label(origin: str, folder: Path) -> str:
    """What to call an adapter in the history: its Hub id or the name of its folder, never a path of this machine."""
    return folder.resolve().name if Path(origin).expanduser().exists() else origin
