"""A fine-tune as one model folder, also where it is only an adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skillpack.checkpoint import adapter_config, locate, open_checkpoint, open_tuned
from skillpack.safetensors_file import write_safetensors

if TYPE_CHECKING:
    from pathlib import Path


def whole_folder(tuned: str | Path, base: str | Path, room: Path) -> Path:
    """The folder of a fine-tune that transformers can open by itself.

    Args:
        tuned: a model folder or a Hub id, or the folder of a PEFT LoRA adapter.
        base: the model that an adapter belongs to.
        room: a folder to make for a model with the adapter merged in.
    """
    path, _ = locate(tuned)
    if not path.is_dir() or adapter_config(path) is None:
        return path
    checkpoint = open_tuned(tuned, open_checkpoint(base))
    room.mkdir()
    forms = {name: (info.dtype, info.shape) for name, info in checkpoint.tensors.items() if "/" not in name}
    write_safetensors(room / "model.safetensors", forms, checkpoint.read, {"format": "pt"})
    for name, file in checkpoint.companions.items():
        if "/" not in name:
            (room / name).write_bytes(file.read_bytes())
    return room
