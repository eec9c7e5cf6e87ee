"""Opening a model folder as a live module whose weights stay in their file."""

from __future__ import annotations

import copy
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.modules.module import register_module_parameter_registration_hook

from skillpack.checkpoint import locate, open_checkpoint
from skillpack.errors import CheckpointError, UnsupportedCheckpointError, listing
from skillpack.live.precision import compute_in_fp32

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from skillpack.checkpoint import Checkpoint

_FLAT = (torch.nn.RNNBase,)
"""Modules that keep their weights in a list beside their attributes."""


def open_model(source: str | Path) -> torch.nn.Module:
    """Open a model of transformers, of the class that its config.json names; no code of the model's own is run.

    Weights stay in their dtype and are mapped from their files where the model has them under the names of the
    checkpoint; all that is computed is fp32 (see `skillpack.live.precision`). Otherwise, such as for experts that
    transformers fuses, weights are loaded as fp32. They want no gradients; tied weights are one parameter.

    Args:
        source: a model folder as written by ``save_pretrained``, or a Hub id.

    Returns:
        The model in evaluation mode, on the CPU.

    Raises:
        CheckpointError: the folder is no model that transformers can open, or weights are missing.
        UnsupportedCheckpointError: pickled or quantised weights, or a class that transformers does not have.
    """
    checkpoint = open_checkpoint(source)
    folder = checkpoint.folder
    if folder is None or not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{source} has no config.json, so what kind of model it is cannot be known",
            hint="Give the model's folder, as save_pretrained writes it.",
        )
    config = _read_config(folder)
    model_class = _model_class(folder, config)
    model = _mapped(model_class, config, checkpoint)
    if model is None:
        model = _loaded(model_class, config, folder)
    _read_generation_config(model, folder)
    model.requires_grad_(requires_grad=False).eval()
    compute_in_fp32(model)
    return model


def bare_model(folder: Path) -> torch.nn.Module:
    """The model that a folder's config.json names, its weights without values (on the meta device), tied as usual.

    Raises:
        CheckpointError: config.json does not name the model's class.
        UnsupportedCheckpointError: a kind of model or a class that transformers does not have.
    """
    config = _read_config(folder)
    with _weights_on_meta():
        model: torch.nn.Module = _model_class(folder, config)(copy.deepcopy(config))
    return model


def open_tokenizer(source: str | Path) -> Any:
    """Open the tokenizer of a model folder or a Hub id; no code of its own is run.

    Raises:
        CheckpointError: there is none that transformers can open.
    """
    from transformers import AutoTokenizer

    folder, origin = locate(source)
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # tokenizers raises plain Exception for a damaged file
        raise CheckpointError(
            f"{origin}: its tokenizer cannot be opened: {_first_line(error)}",
            hint="Copy the tokenizer's files from the base into the folder.",
        ) from error


def has_tokenizer(folder: Path) -> bool:
    """Whether a model folder has files of a tokenizer."""
    names = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.txt", "vocab.json", "spiece.model")
    return any((folder / name).is_file() for name in names)


def _read_config(folder: Path) -> Any:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnsupportedCheckpointError(
            f"{folder}: transformers does not know this kind of model: {_first_line(error)}",
            hint="A newer version of transformers may; code that comes with a model is never run.",
        ) from error
    # transformers takes the dtype to compute in from here; its name before version 4.56 was another.
    setattr(config, "dtype" if hasattr(config, "dtype") else "torch_dtype", torch.float32)
    return config


def _model_class(folder: Path, config: Any) -> Any:
    import transformers

    names = config.architectures or []
    found = getattr(transformers, names[0], None) if names else None
    if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
        return found
    if not names:
        raise CheckpointError(
            f"{folder}: config.json does not name the model's class",
            hint='Add its name, such as "architectures": ["LlamaForCausalLM"].',
        )
    raise UnsupportedCheckpointError(
        f"{folder}: transformers {transformers.__version__} has no model class {names[0]!a}",
        hint="A newer version of transformers may; code that comes with a model is never run.",
    )


def _mapped(model_class: Any, config: Any, checkpoint: Checkpoint) -> Any | None:
    """The model with its weights mapped from their files; None if they are not the module's own, one for one."""
    with _weights_on_meta():
        model = model_class(copy.deepcopy(config))
    if is_converted(model) or any(isinstance(module, _FLAT) for module in model.modules()):
        return None
    groups: dict[torch.nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(parameter, []).append(name)
    stored = {name: info.shape for name, info in checkpoint.tensors.items()}
    for parameter, names in groups.items():
        if not any(stored.get(name) == tuple(parameter.shape) for name in names):
            return None
        if any(stored.get(name, tuple(parameter.shape)) != tuple(parameter.shape) for name in names):
            return None
    weights = _open_weights(checkpoint, [name for names in groups.values() for name in names if name in stored])
    for names in groups.values():
        _assign(model, names, weights, checkpoint)
    _fill_buffers(model, checkpoint)
    return model


def _assign(model: torch.nn.Module, names: list[str], weights: Mapping[str, torch.Tensor], stored: Checkpoint) -> None:
    """Put a weight at all its places; a tied weight that was stored twice with different values is no longer tied."""
    present = [name for name in names if name in weights]
    tied = len(present) == 1 or len({stored.read(name).digest() for name in present}) == 1
    shared = torch.nn.Parameter(weights[present[0]], requires_grad=False)
    for name in names:
        own = shared if tied or name not in weights else torch.nn.Parameter(weights[name], requires_grad=False)
        place, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(place), attribute, own)


def _fill_buffers(model: torch.nn.Module, checkpoint: Checkpoint) -> None:
    buffers = {name: buffer for name, buffer in model.state_dict(keep_vars=True).items() if buffer is not None}
    found = {
        name: buffer
        for name, buffer in buffers.items()
        if not isinstance(buffer, torch.nn.Parameter)
        and name in checkpoint.tensors
        and checkpoint.tensors[name].shape == tuple(buffer.shape)
    }
    for name, values in _open_weights(checkpoint, found).items():
        found[name].copy_(values)


def _open_weights(checkpoint: Checkpoint, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """Weights as private maps of their files: unchanged pages belong to the file, not to the process."""
    from safetensors import safe_open

    files: dict[Path, list[str]] = {}
    for name in names:
        files.setdefault(checkpoint.tensors[name].file, []).append(name)
    weights = {}
    for file, own in files.items():
        with safe_open(file, "pt") as opened:
            weights.update({name: opened.get_tensor(name) for name in own})
    return weights


@contextmanager
def _weights_on_meta() -> Iterator[None]:
    """While this lasts, what becomes a parameter loses its memory; buffers are computed as ever."""
    thread = threading.get_ident()

    def replace(_: torch.nn.Module, __: str, parameter: Any) -> Any:
        if parameter is None or parameter.is_meta or threading.get_ident() != thread:
            return None
        return torch.nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)

    handle = register_module_parameter_registration_hook(replace)
    try:
        yield
    finally:
        handle.remove()


def is_converted(model: Any) -> bool:
    """Whether transformers computes weights from those in the file, be it under the same names."""
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
    except ImportError:  # transformers before version 5 renames weights at most
        return False
    return any(
        getattr(transform, "operations", None) for transform in get_model_conversion_mapping(model, add_legacy=False)
    )


def _loaded(model_class: Any, config: Any, folder: Path) -> Any:
    """The model as transformers itself loads it, in fp32."""
    try:
        with quiet():
            model, found = model_class.from_pretrained(
                folder,
                config=config,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise CheckpointError(f"{folder}: transformers cannot load it: {_first_line(error)}") from error
    missing = {name for name in found["missing_keys"] if not _may_be_missing(model, name)}
    if missing:
        raise CheckpointError(
            f"{folder}: a {model_class.__name__} needs weights that are not there: {listing(sorted(missing))}",
            hint='Check "architectures" in config.json.',
        )
    return model.float()


def _may_be_missing(model: Any, name: str) -> bool:
    # Encoders are often saved without the pooler that their class has; nothing but its own output depends on it.
    return model.base_model is model and "pooler" in name.split(".")


@contextmanager
def quiet() -> Iterator[None]:
    """Without the bars and the reports that transformers prints; what matters in them is raised."""
    from transformers.utils import logging as library

    logging: Any = library
    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()


def _read_generation_config(model: Any, folder: Path) -> None:
    from transformers import GenerationConfig

    if model.can_generate() and (folder / "generation_config.json").is_file():
        try:
            model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{folder}: generation_config.json cannot be read: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
