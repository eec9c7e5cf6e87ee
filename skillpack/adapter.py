"""A PEFT LoRA adapter folder, read as the checkpoint that merging it into its base would give.

LoRA: https://arxiv.org/abs/2106.09685, rsLoRA: https://arxiv.org/abs/2312.03732, DoRA: https://arxiv.org/abs/2402.09353.
Names and rules are those of peft's ``LoraConfig`` and ``merge_and_unload``. Products are computed so that they are the
same on every machine (`skillpack.codecs.products`) and rounded once.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from skillpack.checkpoint import TensorInfo, read_json
from skillpack.codecs.factors import LoraFactors
from skillpack.codecs.products import pieces, product
from skillpack.companions import find_companions
from skillpack.delta import Renaming, find_renaming, is_embedding, is_head
from skillpack.errors import CheckpointError, DamagedCheckpointError, UnsupportedCheckpointError, listing
from skillpack.safetensors_file import Header, open_tensor, read_header
from skillpack.tensors import DTYPE_BYTES, FLOAT_DTYPES, Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from skillpack.checkpoint import Checkpoint
    from skillpack.tensors import Doubles, Factors, Floats

_FILE: Final = "adapter_model.safetensors"
_PART: Final = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_embedding_A|lora_embedding_B|lora_A|lora_B|lora_magnitude_vector|"
    r"token_adapter\.trainable_tokens_delta)(?P<bias>\.bias)?(?:\.weight)?"
)
_TOKENS: Final = "token_adapter.trainable_tokens_delta"
_REFUSED_SETTINGS: Final = (
    "layer_replication",
    "use_qalora",
    "alora_invocation_tokens",
    "kasa_config",
    "monteclora_config",
    "use_bdlora",
    "arrow_config",
    "megatron_config",
    "target_parameters",
)
_BASE_CHANGING_INITS: Final = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True, eq=False)
class AdapterCheckpoint:
    """The base with an adapter merged into it, computed tensor by tensor; see `skillpack.checkpoint.Checkpoint`."""

    origin: str
    folder: Path
    tensors: Mapping[str, TensorInfo]
    companions: Mapping[str, Path]
    code_files: tuple[str, ...]
    base: Checkpoint
    _base_names: Mapping[str, str] = field(repr=False)
    _parts: Mapping[str, _Parts] = field(repr=False)

    def inherits(self, name: str) -> str | None:
        """The base tensor's name where the adapter does not touch it."""
        return None if name in self._parts else self._base_names[name]

    def update(self, name: str) -> Floats | None:
        """The fp32 delta where LoRA makes it; None for untouched tensors and those saved whole or by rows."""
        parts = self._parts.get(name)
        if parts is None or parts.saved is not None or parts.low_rank is None:
            return None
        return parts.low_rank.update(self.base.read(self._base_names[name]))

    def factors(self, name: str) -> Factors | None:
        """Scaled B and A, [rows, rank] and [rank, columns], where their product alone is the delta.

        Not so for DoRA, which rescales the base's weights.
        """
        parts = self._parts.get(name)
        if parts is None or parts.saved is not None or parts.low_rank is None:
            return None
        return parts.low_rank.factors(self.tensors[name].shape)

    def lora(self, name: str) -> LoraFactors | None:
        """The factors as the adapter's file has them, where their product alone is the delta."""
        parts = self._parts.get(name)
        if parts is None or parts.saved is not None or parts.rows is not None or parts.low_rank is None:
            return None
        return parts.low_rank.stored(self.tensors[name].shape)

    def read(self, name: str) -> Tensor:
        """What ``merge_and_unload`` would write, in the base's dtype, rounded once.

        Raises:
            KeyError: no such tensor.
        """
        parts = self._parts.get(name)
        if parts is None:
            return self.base.read(self._base_names[name])
        dtype = self.tensors[name].dtype
        tensor = self.base.read(self._base_names[name]) if parts.saved is None else _cast(parts.saved.read(), dtype)
        if parts.low_rank is not None:
            tensor = _add(tensor, parts.low_rank.update(tensor))
        return tensor if parts.rows is None else parts.rows.replace(tensor)


def open_adapter(folder: Path, origin: str, base: Checkpoint) -> AdapterCheckpoint:
    """Open a LoRA adapter as a fine-tune of `base`.

    Raises:
        UnsupportedCheckpointError: the adapter is pickled, or of a kind that is not LoRA on the plain base.
        DamagedCheckpointError: its files are damaged or do not fit each other.
        CheckpointError: it does not fit the base.
    """
    config = read_json(folder / "adapter_config.json")
    _refuse_other_kinds(folder, config)
    header = _adapter_header(folder)
    stored = {_bare(key): _Stored(folder / _FILE, header, key) for key in header.entries}
    parts = _collect(folder, config, stored)
    needed = {name for name, part in parts.items() if part.saved is None}
    renaming = _renaming(folder, base, needed or parts.keys())
    base_names = {renaming.apply(name): name for name in base.tensors}
    base_names |= _tied_heads(needed - base_names.keys(), base_names)
    if missing := sorted(needed - base_names.keys()):
        raise CheckpointError(
            f"{folder} changes tensors that the base {base.origin} does not have: {listing(missing)}",
            hint="Check that the adapter was trained on this base.",
        )
    if renaming.strip and not renaming.add:
        # Trained on the inner model of what the base holds: the base's own, longer names are kept.
        parts = {base_names.get(name, renaming.strip + name): part for name, part in parts.items()}
        base_names = {name: name for name in base.tensors}
    tensors = {name: _info(name, base_names, base, parts.get(name)) for name in sorted({*base_names, *parts})}
    carried, code_files = find_companions(folder)
    companions = dict(sorted({**base.companions, **carried}.items()))
    return AdapterCheckpoint(origin, folder, tensors, companions, code_files, base, base_names, parts)


class _Stored(NamedTuple):
    """A tensor of the adapter's file."""

    file: Path
    header: Header
    key: str

    @property
    def dtype(self) -> str:
        return self.header.entries[self.key].dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.header.entries[self.key].shape

    def read(self) -> Tensor:
        return open_tensor(self.file, self.header, self.key)

    def matrix(self) -> Doubles:
        """As fp64 [first dimension, all others]."""
        return self.read().float32().astype(np.float64).reshape(self.shape[0], -1)


class _Scale(NamedTuple):
    """Factor of a product: alpha / rank, or alpha / sqrt(rank) if `rooted`."""

    alpha: float
    rank: int
    rooted: bool

    @property
    def factor(self) -> float:
        return self.alpha / math.sqrt(self.rank) if self.rooted else self.alpha / self.rank


@dataclass(frozen=True)
class _LowRank:
    """Scaled B·A for one weight, or a scaled bias; for DoRA also the magnitudes.

    Attributes:
        down: A, [rank, in] (embeddings: [rank, rows]; convolutions: [rank, in, kernel…]); None for a bias.
        up: B, [out, rank] (embeddings: [columns, rank]), or the bias [out].
        scale: what B·A, or the bias, is multiplied by.
        transposed: preference where a square weight leaves it open; embeddings are always stored transposed.
        magnitude: DoRA's norms [out].
        key: for messages.
    """

    down: _Stored | None
    up: _Stored
    scale: _Scale
    transposed: bool
    magnitude: _Stored | None
    key: str

    @np.errstate(over="ignore", divide="ignore", invalid="ignore")
    def update(self, weight: Tensor) -> Floats:
        """The fp32 delta to `weight`, in its shape; what is not finite is the caller's to find."""
        if self.down is None:
            return (self.up.read().float32().astype(np.float64) * self.scale.factor).astype(np.float32)
        turned = bool(self._fits(weight.shape))
        left, right = self._factors(self.down, turned=turned)
        rows = weight.float32().reshape(left.shape[0], right.shape[1])
        delta = np.empty(rows.shape, np.float32)
        factors = None if self.magnitude is None else self._magnitude_factors(rows, left, right, axis=1 - turned)
        for piece in pieces(rows.shape):
            change = product(left[piece], right)
            if factors is not None:
                original = rows[piece].astype(np.float64)
                change = (original + change) * np.broadcast_to(factors, rows.shape)[piece] - original
            delta[piece] = change
        return delta.reshape(weight.shape)

    def factors(self, shape: tuple[int, ...]) -> Factors | None:
        """Factors of the delta of a weight of this shape; what is not finite is the caller's to find."""
        if self.down is None or self.magnitude is not None:
            return None
        return self._factors(self.down, turned=bool(self._fits(shape)))

    def stored(self, shape: tuple[int, ...]) -> LoraFactors | None:
        """A and B as the file has them, for a weight of this shape; None for a bias and for DoRA."""
        if self.down is None or self.magnitude is not None:
            return None
        down, up = (
            Tensor(tensor.dtype, (tensor.shape[0], math.prod(tensor.shape[1:])), tensor.data)
            for tensor in (self.down.read(), self.up.read())
        )
        return LoraFactors(down, up, self.scale.alpha, self.scale.rooted, bool(self._fits(shape)))

    def check(self, shape: tuple[int, ...], dtype: str) -> None:
        """Raise CheckpointError unless the factors fit a weight of this shape and dtype."""
        is_bias = self.down is None
        if (self.up.shape != shape if is_bias else self._fits(shape) is None) or dtype not in FLOAT_DTYPES:
            raise CheckpointError(
                f"{self.key}: the adapter's factors do not fit the base's {dtype} tensor of shape {list(shape)}",
                hint="Check that the adapter was trained on this base.",
            )

    def _fits(self, shape: tuple[int, ...]) -> bool | None:
        """Whether the weight is stored transposed, or None where the factors do not fit it."""
        if self.down is None or len(shape) < 2 or any(size != 1 for size in self.up.shape[2:]):
            return None
        rank = self.down.shape[:1]
        straight = (*self.up.shape[:1], *self.down.shape[1:]) == shape
        turned = len(self.down.shape) == 2 and (self.down.shape[1], *self.up.shape[:1]) == shape
        if self.up.shape[1:2] != rank or not (straight or turned):
            return None
        return turned if straight != turned else self.transposed

    def _factors(self, down: _Stored, *, turned: bool) -> tuple[Doubles, Doubles]:
        """[rows, rank] and [rank, columns] whose product is the delta of the weight as it is stored."""
        left, right = self.up.matrix() * self.scale.factor, down.matrix()
        return (right.T, left.T) if turned else (left, right)

    def _magnitude_factors(self, rows: Floats, left: Doubles, right: Doubles, axis: int) -> Doubles:
        """What DoRA multiplies the merged weight by: magnitude over norm (along `axis`), to broadcast over `rows`."""
        assert self.magnitude is not None
        squares = np.zeros((rows.shape[0], 1) if axis else (1, rows.shape[1]))
        for piece in pieces(rows.shape):
            merged = rows[piece].astype(np.float64) + product(left[piece], right)
            squares[piece if axis else slice(None)] += np.square(merged, out=merged).sum(axis=axis, keepdims=True)
        return self.magnitude.matrix().reshape(squares.shape) / np.sqrt(squares)


class _Rows(NamedTuple):
    """Embedding rows that were trained on their own: [len(indices), columns]."""

    values: _Stored
    indices: tuple[int, ...]

    def replace(self, tensor: Tensor) -> Tensor:
        bits = tensor.bits().copy()
        bits[list(self.indices)] = _cast(self.values.read(), tensor.dtype).bits()
        return Tensor(tensor.dtype, tensor.shape, bits.reshape(-1).view(np.uint8))


class _Parts(NamedTuple):
    """All that an adapter holds for one tensor of the model."""

    saved: _Stored | None = None
    low_rank: _LowRank | None = None
    rows: _Rows | None = None


def _collect(folder: Path, config: Mapping[str, Any], stored: Mapping[str, _Stored]) -> dict[str, _Parts]:
    """Parts by the names of the tensors they change, as the adapted model names them."""
    modules: dict[str, dict[str, _Stored]] = {}
    parts: dict[str, _Parts] = {}
    for key, tensor in stored.items():
        if match := _PART.fullmatch(key):
            if tensor.dtype not in FLOAT_DTYPES:
                raise DamagedCheckpointError(f"{folder / _FILE}: {key} has dtype {tensor.dtype}")
            modules.setdefault(match["module"], {})[match["part"] + (match["bias"] or "")] = tensor
        elif "lora_" in key or "token_adapter" in key:
            raise UnsupportedCheckpointError(f"{folder / _FILE}: unknown kind of adapter tensor: {key}")
        else:
            parts[key] = _Parts(saved=tensor)
    for module, found in modules.items():
        for suffix, part in _module_parts(folder, config, module, found):
            name = f"{module}.{suffix}"
            parts[name] = part._replace(saved=parts.get(name, part).saved)
    return parts


def _module_parts(
    folder: Path, config: Mapping[str, Any], module: str, found: dict[str, _Stored]
) -> Iterator[tuple[str, _Parts]]:
    rows = found.pop(_TOKENS, None)
    if rows is not None:
        yield "weight", _Parts(rows=_Rows(rows, _token_indices(folder, config, module, rows.shape)))
    if not found:
        return
    kind = "lora_embedding_" if "lora_embedding_A" in found else "lora_"
    up, down = found.pop(f"{kind}B", None), found.pop(f"{kind}A", None)
    bias, magnitude = found.pop("lora_B.bias", None), found.pop("lora_magnitude_vector", None)
    if (
        up is None
        or down is None
        or found
        or rows is not None
        or bool(config.get("use_dora")) != (magnitude is not None)
    ):
        raise DamagedCheckpointError(f"{folder / _FILE}: the parts for {module} are not complete")
    scale = _scale(folder, config, module, down.shape[0] if down.shape else 0)
    turned = kind == "lora_embedding_" or bool(config.get("fan_in_fan_out"))
    yield "weight", _Parts(low_rank=_LowRank(down, up, scale, turned, magnitude, f"{folder}: {module}"))
    if bias is not None:
        yield "bias", _Parts(low_rank=_LowRank(None, bias, scale, turned, None, f"{folder}: {module}"))


def _scale(folder: Path, config: Mapping[str, Any], module: str, rank: int) -> _Scale:
    expected = _setting(config, "rank_pattern", "r", module)
    alpha = _setting(config, "alpha_pattern", "lora_alpha", module)
    if not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise DamagedCheckpointError(f"{folder}: adapter_config.json gives {module} the alpha {alpha!a}")
    if expected != rank or not rank:
        raise DamagedCheckpointError(f"{folder}: {module} has rank {rank}, adapter_config.json says {expected}")
    return _Scale(alpha, rank, bool(config.get("use_rslora")))


def _setting(config: Mapping[str, Any], patterns: str, default: str, module: str) -> Any:
    """The value of the first pattern that matches the end of a module's name, as peft matches them."""
    try:
        return next(
            (value for pattern, value in (config.get(patterns) or {}).items() if _ends_like(pattern, module)),
            config.get(default, 8),
        )
    except (re.error, AttributeError) as error:
        raise DamagedCheckpointError(f"adapter_config.json: {patterns} cannot be used ({error})") from error


def _ends_like(pattern: str, module: str) -> bool:
    return re.match(rf"(.*\.)?({pattern})$", module) is not None


def _token_indices(folder: Path, config: Mapping[str, Any], module: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    setting = config.get("trainable_token_indices")
    if isinstance(setting, dict):
        setting = next((value for key, value in setting.items() if _ends_like(re.escape(key), module)), None)
    if not isinstance(setting, list) or len(shape) != 2 or len(setting) != shape[0]:
        raise DamagedCheckpointError(f"{folder}: trainable_token_indices do not fit the rows saved for {module}")
    if not all(isinstance(index, int) and index >= 0 for index in setting):
        raise DamagedCheckpointError(f"{folder}: trainable_token_indices are not row numbers")
    return tuple(setting)


def _renaming(folder: Path, base: Checkpoint, needed: Iterable[str]) -> Renaming:
    if not needed:
        raise CheckpointError(f"{folder / _FILE} holds no tensors")
    try:
        return find_renaming(base.tensors, dict.fromkeys(needed))
    except CheckpointError:
        # An adapter that only adds a new head has no name in common with the base and needs none.
        return Renaming()


def _tied_heads(missing: Iterable[str], base_names: Mapping[str, str]) -> dict[str, str]:
    """Output heads that the base does not hold because they are its embedding, each with the embedding's own name."""
    embeddings = [own for name, own in base_names.items() if is_embedding(name)]
    return {name: embeddings[0] for name in missing if is_head(name) and len(embeddings) == 1}


def _info(name: str, base_names: Mapping[str, str], base: Checkpoint, parts: _Parts | None) -> TensorInfo:
    origin = base.tensors[base_names[name]] if name in base_names else None
    if parts is None or parts.saved is None:
        assert origin is not None
        shape, dtype, file = origin.shape, origin.dtype, origin.file
    else:
        entry = parts.saved.header.entries[parts.saved.key]
        shape, file = entry.shape, parts.saved.file
        dtype = origin.dtype if origin is not None and {origin.dtype, entry.dtype} <= FLOAT_DTYPES else entry.dtype
    if parts is not None and parts.low_rank is not None:
        parts.low_rank.check(shape, dtype)
    if (
        parts is not None
        and parts.rows is not None
        and (shape[1:] != parts.rows.values.shape[1:] or max(parts.rows.indices, default=0) >= shape[0])
    ):
        raise CheckpointError(f"{name}: the adapter's trained rows do not fit a tensor of shape {list(shape)}")
    return TensorInfo(name, dtype, shape, file, math.prod(shape) * DTYPE_BYTES[dtype])


def _adapter_header(folder: Path) -> Header:
    if not (folder / _FILE).is_file():
        if (folder / "adapter_model.bin").is_file():
            raise UnsupportedCheckpointError(
                f"{folder} has a pickled adapter, which can run code when it is opened",
                hint='Convert it: python -c "import torch, safetensors.torch as s; '
                f"s.save_file(torch.load('{folder}/adapter_model.bin', weights_only=True), '{folder / _FILE}')\"",
            )
        raise CheckpointError(f"{folder} has adapter_config.json but no {_FILE}")
    header = read_header(folder / _FILE)
    for key, entry in header.entries.items():
        if entry.dtype not in DTYPE_BYTES:
            raise UnsupportedCheckpointError(f"{folder / _FILE}: tensor {key} has dtype {entry.dtype}")
    return header


def _refuse_other_kinds(folder: Path, config: Mapping[str, Any]) -> None:
    kind = str(config.get("peft_type"))
    if kind != "LORA":
        raise UnsupportedCheckpointError(
            f"{folder} is an adapter of type {kind}; only LORA can be read",
            hint="Merge it into its base with peft (merge_and_unload, save_pretrained) and give the merged model.",
        )
    used = [setting for setting in _REFUSED_SETTINGS if config.get(setting)]
    if used:
        raise UnsupportedCheckpointError(
            f"{folder} uses {listing(used)}, which cannot be read",
            hint="Merge it into its base with peft, if peft can, and give the merged model.",
        )
    start = str(config.get("init_lora_weights")).lower()
    if start.startswith(_BASE_CHANGING_INITS):
        raise UnsupportedCheckpointError(
            f"{folder} was initialised with {start}, which changes the base's own weights",
            hint="Save it with path_initial_model_for_weight_conversion, or merge it and give the merged model.",
        )


def _bare(key: str) -> str:
    key = key.removeprefix("base_model.model.")
    return re.sub(r"\.(base_layer|modules_to_save)(?=\.)", "", key)


def _cast(tensor: Tensor, dtype: str) -> Tensor:
    return tensor if tensor.dtype == dtype else Tensor.from_float32(tensor.float32(), dtype)


@np.errstate(over="ignore", invalid="ignore")
def _add(tensor: Tensor, delta: Floats) -> Tensor:
    if tensor.dtype == "F64":
        return Tensor.of(tensor.array() + delta)
    return Tensor.from_float32(np.add(tensor.float32(), delta, out=delta), tensor.dtype)
