"""Loading a model of transformers with skills on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skillpack.checkpoint import locate
from skillpack.errors import CheckpointError, UnsupportedModelError
from skillpack.grafting.host import host

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from skillpack.summaries import StoreLike


def from_pretrained(
    base: str | Path,
    skills: Sequence[str] | str = (),
    *,
    auto_class: Any = None,
    store: StoreLike = None,
    branch: str = "main",
    **kwargs: Any,
) -> Any:
    """Load a base with skills on it: `from_pretrained` of transformers, and a graft without a copy of the weights.

    Args:
        base: a model folder, or a Hub id ``org/name`` or ``org/name@revision``.
        skills: addresses, each with an optional weight: ``math``, ``math@3``, ``code=0.5``.
        auto_class: what to load it with: a class with a `from_pretrained`, or the name of one in transformers, such as
            "AutoModelForCausalLM"; by default the class that config.json names.
        store: where the skills are.
        branch: branch of the library.
        kwargs: for the class's `from_pretrained`. The dtype is the checkpoint's unless one is given.

    Returns:
        The model. ``skillpack.host(model)`` is the host that takes skills off and puts others on; the base comes back
        from the checkpoint's files, which must stay where they are.

    Raises:
        CheckpointError: there is no such model.
        UnsupportedModelError: transformers does not have the class, or the model cannot take skills.
        see `Host.graft`.
    """
    folder, origin = locate(base)
    if not {"dtype", "torch_dtype"} & kwargs.keys():
        kwargs[_dtype_option()] = "auto"
    wanted: Any = auto_class if isinstance(auto_class, type) else _class(str(folder), origin, auto_class)
    model = wanted.from_pretrained(folder, **kwargs)
    addresses = [skills] if isinstance(skills, str) else list(skills)
    if addresses:
        host(model, base=folder, store=store, branch=branch, cache_bytes=0).graft(*addresses)
    return model


def _dtype_option() -> str:
    from transformers import PretrainedConfig

    # Its name before version 4.56 was another.
    return "dtype" if hasattr(PretrainedConfig(), "dtype") else "torch_dtype"


def _class(folder: str, origin: str, name: str | None) -> Any:
    import transformers

    if name is None:
        try:
            architectures = transformers.AutoConfig.from_pretrained(folder, local_files_only=True).architectures
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"{origin}: its config.json does not say what kind of model it is", hint="Give auto_class."
            ) from error
        if not architectures:
            raise CheckpointError(f"{origin}: config.json does not name the model's class", hint="Give auto_class.")
        name = str(architectures[0])
    found = getattr(transformers, name, None)
    if found is None or not hasattr(found, "from_pretrained"):
        raise UnsupportedModelError(
            f"transformers {transformers.__version__} has no model class {name!a}", hint="Give auto_class."
        )
    return found
