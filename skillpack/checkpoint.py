"""Where weights come from: a Hugging Face folder (sharded or not), one safetensors file, or a repository of the Hub.

Tensors are memory maps: nothing is read until it is used, and a tensor that is dropped gives its pages back.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from skillpack.companions import find_companions
from skillpack.errors import CheckpointError, DamagedCheckpointError, UnsupportedCheckpointError, listing
from skillpack.safetensors_file import Header, open_tensor, read_header
from skillpack.tensors import DTYPE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from skillpack.tensors import Factors, Floats, Tensor

PICKLE_SUFFIXES: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack")
_TEMPLATES: Final = "additional_chat_templates"
_HUB_ID: Final = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?", re.ASCII)
_HUB_FILES: Final = [
    "*.safetensors",
    "*.json",
    "*.jinja",
    "*.model",
    "*.model.v*",
    "*.txt",
    "*.tiktoken",
    "*.spm",
    "*.py",
]
_HUB_SKIPPED: Final = ["original/*", "consolidated*", "onnx/*", "openvino/*", "checkpoint-*"]
_QUANTISED_NAMES: Final = (".qweight", ".SCB", ".absmax", ".quant_state.bitsandbytes__nf4")


class TensorInfo(NamedTuple):
    """What is known of a tensor without reading it.

    Attributes:
        name: full name; tensors of nested folders start with the folder, ``2_Dense/linear.weight``.
        dtype: safetensors name, a key of `DTYPE_BYTES`.
        shape: dimensions.
        file: the safetensors file it lies in.
        nbytes: size in bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    nbytes: int


class Checkpoint(Protocol):
    """A model's weights and the files beside them, for reading only.

    Attributes:
        origin: what the user typed, or ``org/name@<commit>`` once a Hub id is resolved.
        folder: where the files are; None for a lone file.
        tensors: name -> info, sorted by name.
        companions: relative path -> file, those that a skill may carry.
        code_files: relative paths of ``.py`` files, which are never carried.
    """

    @property
    def origin(self) -> str: ...  # noqa: D102
    @property
    def folder(self) -> Path | None: ...  # noqa: D102
    @property
    def tensors(self) -> Mapping[str, TensorInfo]: ...  # noqa: D102
    @property
    def companions(self) -> Mapping[str, Path]: ...  # noqa: D102
    @property
    def code_files(self) -> tuple[str, ...]: ...  # noqa: D102

    def read(self, name: str) -> Tensor:
        """The tensor `name`, usually as a memory map. Raises KeyError for an unknown name."""
        ...

    def update(self, name: str) -> Floats | None:
        """The fp32 delta to the base where it is known better than by subtraction (adapters), in the tensor's shape."""
        ...

    def factors(self, name: str) -> Factors | None:
        """Two matrices whose product is `update`, the tensor being seen as a matrix; None where there are none."""
        ...

    def inherits(self, name: str) -> str | None:
        """Name of the base tensor that this one is byte for byte, where that is certain without reading."""
        ...


@dataclass(frozen=True, eq=False)
class StoredCheckpoint:
    """A checkpoint that lies in safetensors files; see `Checkpoint`."""

    origin: str
    folder: Path | None
    tensors: Mapping[str, TensorInfo]
    companions: Mapping[str, Path]
    code_files: tuple[str, ...]
    _places: Mapping[str, tuple[Path, Header, str]] = field(repr=False)

    def read(self, name: str) -> Tensor:
        """The tensor as a read-only memory map."""
        return open_tensor(*self._places[name])

    def update(self, name: str) -> Floats | None:  # noqa: ARG002
        """None: files hold values, not updates."""
        return None

    def factors(self, name: str) -> Factors | None:  # noqa: ARG002
        """None: files hold values, not factors."""
        return None

    def inherits(self, name: str) -> str | None:  # noqa: ARG002
        """None: nothing is known about a base."""
        return None


def open_checkpoint(source: str | Path) -> Checkpoint:
    """Open a model for reading.

    Args:
        source: a folder as written by ``save_pretrained``, a ``.safetensors`` file, or a Hub id ``org/name`` or
            ``org/name@revision``.

    Raises:
        CheckpointError: not found, or several files could be the weights.
        DamagedCheckpointError: a shard is missing, truncated or does not fit the index.
        UnsupportedCheckpointError: pickled or quantised weights, or an adapter without its base.
    """
    path, origin = locate(source)
    if path.is_dir() and adapter_config(path) is not None:
        raise UnsupportedCheckpointError(
            f"{origin} is a PEFT adapter, not a whole model",
            hint="Give the base first and the adapter as the tuned model.",
        )
    return _open_stored(path, origin)


def open_tuned(source: str | Path, base: Checkpoint) -> Checkpoint:
    """Open a fine-tune of `base`: everything that `open_checkpoint` reads, and a PEFT LoRA adapter folder.

    Raises:
        CheckpointError: as for `open_checkpoint`, or the adapter does not fit the base.
        UnsupportedCheckpointError: also adapters of a kind other than LoRA.
    """
    from skillpack.adapter import open_adapter

    path, origin = locate(source)
    if path.is_dir() and adapter_config(path) is not None:
        return open_adapter(path, origin, base)
    return _open_stored(path, origin)


def locate(source: str | Path) -> tuple[Path, str]:
    """Path of a model that is on this machine or is downloaded now, and what to call it.

    Raises:
        CheckpointError: neither a path nor a Hub id that can be had.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path, str(source)
    hub_id = _HUB_ID.fullmatch(str(source))
    if hub_id is None or isinstance(source, Path):
        raise CheckpointError(
            f"{source}: no such file or folder",
            hint="Give a model folder, a .safetensors file, or a Hub id such as org/name or org/name@revision.",
        )
    folder = _download(hub_id["repo"], hub_id["revision"])
    return folder, f"{hub_id['repo']}@{folder.name}"


def adapter_config(folder: Path) -> Path | None:
    """The adapter's configuration where a folder holds a PEFT adapter, else None.

    Raises:
        CheckpointError: the folder holds an adapter and a whole model.
    """
    config = folder / "adapter_config.json"
    if not config.is_file():
        return None
    if any((folder / name).exists() for name in ("model.safetensors", "model.safetensors.index.json")):
        raise CheckpointError(
            f"{folder} holds both a whole model and a PEFT adapter", hint="Move one of them to a folder of its own."
        )
    return config


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        DamagedCheckpointError: the file is not a JSON object.
        CheckpointError: it cannot be read.
    """
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise DamagedCheckpointError(f"{path} is not valid JSON ({error})") from error
    if not isinstance(document, dict):
        raise DamagedCheckpointError(f"{path} does not hold a JSON object")
    return document


def _download(repo: str, revision: str | None) -> Path:
    try:
        import huggingface_hub
    except ImportError as error:
        raise CheckpointError(
            f"{repo}: no such folder, and reading from the Hugging Face Hub needs huggingface_hub",
            hint="pip install 'skillpack[hub]'",
        ) from error
    try:
        folder = huggingface_hub.snapshot_download(
            repo, revision=revision, allow_patterns=_HUB_FILES, ignore_patterns=_HUB_SKIPPED
        )
    except Exception as error:  # the library lets through the errors of its HTTP client, which varies
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise CheckpointError(
            f"{repo}: no such folder, and the Hub did not give it: {reason}",
            hint="Check the name and revision, your connection (HF_HUB_OFFLINE) and, for a private model, your login.",
        ) from error
    return Path(folder)


def _open_stored(path: Path, origin: str) -> StoredCheckpoint:
    try:
        return _open_readable(path, origin)
    except OSError as error:
        raise CheckpointError(f"{error.filename or path}: cannot be read: {error.strerror or error}") from error


def _open_readable(path: Path, origin: str) -> StoredCheckpoint:
    if path.is_file():
        _refuse_file(path)
        return _build(origin, None, [("", path, read_header(path))], {}, ())
    nested = _nested_folders(path)
    files = [(place, file, header) for place in ("", *nested) for file, header in _weights(path / place)]
    if not files:
        _refuse_weightless(path, origin)
    _refuse_quantised_config(path)
    templates = [_TEMPLATES] if (path / _TEMPLATES).is_dir() else []
    companions, code_files = find_companions(path, [*nested, *templates])
    return _build(origin, path, files, companions, code_files)


def _build(
    origin: str,
    folder: Path | None,
    files: list[tuple[str, Path, Header]],
    companions: Mapping[str, Path],
    code_files: tuple[str, ...],
) -> StoredCheckpoint:
    places: dict[str, tuple[Path, Header, str]] = {}
    infos: dict[str, TensorInfo] = {}
    for place, file, header in files:
        for own_name, entry in header.entries.items():
            name = f"{place}/{own_name}" if place else own_name
            if name in places:
                raise DamagedCheckpointError(f"Tensor {name} is in two files: {places[name][0]} and {file}")
            _refuse_quantised_tensor(file, name, entry.dtype)
            places[name] = (file, header, own_name)
            infos[name] = TensorInfo(name, entry.dtype, entry.shape, file, entry.end - entry.start)
    tensors = {name: infos[name] for name in sorted(infos)}
    return StoredCheckpoint(origin, folder, tensors, companions, code_files, places)


def _nested_folders(folder: Path) -> list[str]:
    """Sub-folders that belong to the model: sentence-transformers modules and parts of a diffusers pipeline."""
    named: set[str] = set()
    if (folder / "modules.json").is_file():
        try:
            modules = json.loads((folder / "modules.json").read_bytes())
        except (ValueError, RecursionError) as error:
            raise DamagedCheckpointError(f"{folder / 'modules.json'} is not valid JSON ({error})") from error
        if not isinstance(modules, list):
            raise DamagedCheckpointError(f"{folder / 'modules.json'} does not hold a list of modules")
        named |= {str(module.get("path", "")) for module in modules if isinstance(module, dict)}
    if (folder / "model_index.json").is_file():
        named |= {name for name, value in read_json(folder / "model_index.json").items() if isinstance(value, list)}
    numbered = {entry.name for entry in folder.iterdir() if re.match(r"\d+_\w", entry.name)}
    # A name with a slash or a dot first could point out of the folder.
    plain = {name for name in named | numbered if re.fullmatch(r"\w[\w.-]*", name)}
    return sorted(name for name in plain if (folder / name).is_dir())


def _weights(folder: Path) -> Iterator[tuple[Path, Header]]:
    """Weight files of one folder, chosen as transformers does: one file, else an index, else the only file there."""
    if (folder / "model.safetensors").is_file():
        files = [folder / "model.safetensors"]
    elif indexes := sorted(folder.glob("*.safetensors.index.json")):
        preferred = folder / "model.safetensors.index.json"
        if preferred not in indexes and len(indexes) > 1:
            _ambiguous(folder, indexes)
        yield from _shards(preferred if preferred in indexes else indexes[0])
        return
    else:
        files = sorted(folder.glob("*.safetensors"))
        if len(files) > 1:
            _ambiguous(folder, files)
    for file in files:
        yield file, read_header(file)


def _shards(index: Path) -> Iterator[tuple[Path, Header]]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(_is_plain_file(name) for name in weight_map.values()):
        raise DamagedCheckpointError(f"{index} has no usable weight_map from tensor to file")
    listed: dict[str, set[str]] = {}
    for tensor, shard in weight_map.items():
        listed.setdefault(shard, set()).add(tensor)
    for shard in sorted(listed):
        if not (index.parent / shard).is_file():
            raise DamagedCheckpointError(
                f"{index} names the file {shard}, which is missing",
                hint="Download the checkpoint again, or copy the missing shard into the folder.",
            )
        header = read_header(index.parent / shard)
        if absent := sorted(listed[shard] - header.entries.keys()):
            raise DamagedCheckpointError(f"{index} places {listing(absent)} in {shard}, which does not hold it")
        yield index.parent / shard, header


def _is_plain_file(name: Any) -> bool:
    return isinstance(name, str) and bool(re.fullmatch(r"\w[\w. -]*", name))


def _ambiguous(folder: Path, files: list[Path]) -> None:
    raise CheckpointError(
        f"{folder}: several files could be the weights: {listing(file.name for file in files)}",
        hint="Give the file itself, or a folder with one of them.",
    )


def _refuse_file(path: Path) -> None:
    if path.suffix == ".gguf":
        _refuse_gguf(path)
    if path.suffix in PICKLE_SUFFIXES:
        raise UnsupportedCheckpointError(
            f"{path} is a pickle, which can run code when it is opened, or not safetensors",
            hint='Convert it: python -c "import torch, safetensors.torch as s; '
            f"s.save_file(torch.load('{path}', weights_only=True), '{path.with_suffix('.safetensors')}')\"",
        )
    if path.name.endswith(".index.json"):
        raise CheckpointError(f"{path} is an index of shards", hint=f"Give the folder: {path.parent}")


def _refuse_weightless(folder: Path, origin: str) -> None:
    files = [file for file in folder.iterdir() if file.is_file()]
    if any(file.suffix == ".gguf" for file in files):
        _refuse_gguf(folder)
    pickles = sorted(file.name for file in files if file.suffix in PICKLE_SUFFIXES and "training_args" not in file.name)
    if pickles:
        raise UnsupportedCheckpointError(
            f"{folder} has only pickled weights ({listing(pickles)}), which can run code when they are opened",
            hint=f"Convert them: {conversion_command(folder)}",
        )
    if "@" in origin and not Path(origin).exists():
        raise CheckpointError(
            f"{origin} has no .safetensors file",
            hint="If it has pickled weights, convert them: "
            + conversion_command(folder, source=origin.partition("@")[0], target="model"),
        )
    raise CheckpointError(f"{folder} holds no model: no .safetensors file in it")


def conversion_command(folder: Path, source: str = "", target: str = "") -> str:
    """The command that rewrites pickled weights as safetensors, in the same folder unless told otherwise."""
    config = folder / "config.json"
    architectures = read_json(config).get("architectures") if config.is_file() else None
    known = isinstance(architectures, list) and architectures and re.fullmatch(r"\w+", str(architectures[0]))
    model_class = architectures[0] if known and architectures else "AutoModel"
    load = f"transformers.{model_class}.from_pretrained('{source or folder}', dtype='auto')"
    return f"python -c \"import transformers; {load}.save_pretrained('{target or folder}')\""


def _refuse_gguf(path: Path) -> None:
    raise UnsupportedCheckpointError(
        f"{path}: GGUF weights are quantised or laid out for llama.cpp",
        hint="Use the checkpoint that the GGUF file was made from.",
    )


def _refuse_quantised_config(folder: Path) -> None:
    method = None
    if (folder / "config.json").is_file():
        settings = read_json(folder / "config.json").get("quantization_config")
        method = settings.get("quant_method") or "unknown method" if isinstance(settings, dict) and settings else None
    if method is None and any((folder / name).is_file() for name in ("quantize_config.json", "quant_config.json")):
        method = "GPTQ or AWQ"
    if method is not None:
        _refuse_quantised(folder, f"its weights are quantised ({method})")


def _refuse_quantised_tensor(file: Path, name: str, dtype: str) -> None:
    if dtype.startswith(("F8_", "F6_")) or dtype == "F4":
        _refuse_quantised(file, f"tensor {name} has the quantised dtype {dtype}")
    if name.endswith(_QUANTISED_NAMES):
        _refuse_quantised(file, f"tensor {name} holds quantised weights")
    if dtype not in DTYPE_BYTES:
        raise UnsupportedCheckpointError(f"{file}: tensor {name} has dtype {dtype}, which is not supported")


def _refuse_quantised(path: Path, reason: str) -> None:
    raise UnsupportedCheckpointError(
        f"{path}: {reason}, and a difference of quantised codes means nothing",
        hint="Use the bf16, fp16 or fp32 checkpoint that it was quantised from.",
    )
