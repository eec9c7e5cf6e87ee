"""Opening a module for a task, and taking a live model's bias off with it."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from skillpack.composing.surgery.attaching import Facts, find_surgery, read_surgery
from skillpack.composing.surgery.head import head_of
from skillpack.errors import DataError, NotTrustedError, TrustWarning, UnsupportedModelError, UsageError
from skillpack.grafting.wrappers import unwrap
from skillpack.signing.checking import require_trusted
from skillpack.signing.policy import show_policy
from skillpack.skill import open_skill
from skillpack.summaries import open_existing

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from skillpack.composing.surgery.module import Bias
    from skillpack.summaries import StoreLike


@dataclass(frozen=True, eq=False)
class Surgery:
    """A module for one task of a skill. Made by `skillpack.open_surgery`.

    Attributes:
        name: of the skill.
        digest: of the skill.
        bias: what is taken off; `bias.taken_off` is the formula.
        facts: what it was learned from, and how near it comes to the expert.
        attachment: digest of the attachment that holds it.
    """

    name: str
    digest: str
    bias: Bias
    facts: Facts
    attachment: str

    @contextmanager
    def applied(self, model: torch.nn.Module) -> Iterator[None]:
        """Within this, the head of a model reads z' in place of z, in all its forward passes and in `generate`.

        Only texts of the task are served by it, so rows of a batch that are of other tasks should go alone. The weights
        stay as they are; at the end, and after exceptions, the hook is gone.

        Args:
            model: loaded by transformers, in any floating dtype, with the skill on it: grafted or installed. Not
                compiled: torch.compile would go on with the pass that it has recorded.

        Raises:
            UnsupportedModelError: its head reads something of another width, or it predicts something else, is
                compiled, or has no head that is a linear layer.
            UsageError: a module is applied to it already.
        """
        inner = unwrap(model)
        if any(is_compiled(module) for module in (model, *inner.modules())):
            raise UnsupportedModelError(
                "The model is compiled, and would pass a module before its head by",
                hint="Apply it to the model as it was before torch.compile.",
            )
        head = head_of(inner)
        if (head.width, head.predicts) != (self.bias.width, self.facts.predicts):
            raise UnsupportedModelError(
                f"The module corrects representations of {self.bias.width} numbers that predict a "
                f"{self.facts.predicts}; the head of this {type(inner).__name__} reads {head.width} that predict a "
                f"{head.predicts}",
                hint=f"Apply it to a model with the skill {self.name} on it.",
            )
        if any(isinstance(hook, _TakingOff) for hook in vars(head.module)["_forward_pre_hooks"].values()):
            raise UsageError("A module is applied to this model already", hint="Apply one at a time, each to its task.")
        handle = head.module.register_forward_pre_hook(_TakingOff(self.bias))
        try:
            yield
        finally:
            handle.remove()


class _TakingOff:
    """The hook: what a head is about to read, corrected, wherever it is computed."""

    def __init__(self, bias: Bias) -> None:
        self._bias = bias

    def __call__(self, _: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        states = inputs[0]
        if self._bias.down.device != states.device:
            self._bias = self._bias.to(states.device)
        return (self._bias.taken_off(states), *inputs[1:])


def open_surgery(
    skill: str, task: str, *, attachment: str | None = None, store: StoreLike = None, branch: str = "main"
) -> Surgery:
    """Open the module that `learn_surgery` has learned for a task.

    Signatures are of skills and do not cover modules, which change what a model says. So where the policy requires
    signatures, the module has to be named by its digest.

    Args:
        skill: address of the skill that it is attached to.
        task: name of the expert that it was learned from.
        attachment: digest of the module's attachment, as `SurgeryReport` gives it; by default the newest of the task.
        store: where the skill is.
        branch: branch of the library.

    Raises:
        DataError: what is attached for the task cannot be used.
        NotFoundError: there is no such skill, or it has no module for the task.
        NotTrustedError: the policy requires a signature of the skill that is missing, or the module's digest.

    Example:
        >>> with open_surgery("both", "math").applied(model):  # doctest: +SKIP
        ...     model.generate(**inputs)
    """
    repository = open_existing(store)
    found = repository.resolve(skill, branch)
    digest = found.descriptor.digest
    require_trusted(repository, digest, found.name)
    base = open_skill(repository, digest, found.name).manifest.base_fingerprint
    if attachment is None:
        module = find_surgery(repository, digest, base, task)
        _require_pinned(found.name, module.facts.task, module.digest)
    else:
        try:
            module = read_surgery(repository, attachment, digest, base)
        except ValueError as error:
            raise DataError(f"The attachment {attachment[:19]} is no module of {found.name}: {error}") from error
        if module.facts.task != task:
            raise DataError(
                f"The attachment {attachment[:19]} was learned for {module.facts.task}, not {task}",
                hint="Name the task that it is for.",
            )
    return Surgery(found.name, digest, module.bias, module.facts, module.digest)


def is_compiled(module: torch.nn.Module) -> bool:
    """Whether torch.compile is around a module, or in it."""
    own = vars(module)
    return own.get("_compiled_call_impl") is not None or "_orig_mod" in own.get("_modules", {})


def _require_pinned(name: str, task: str, digest: str) -> None:
    mode = show_policy().mode
    message = f"The module of {name} for {task} is not covered by the skill's signatures"
    if mode == "require":
        raise NotTrustedError(message, hint=f'If you know that it is the right one: attachment="{digest}".')
    if mode == "warn":
        warnings.warn(message, TrustWarning, stacklevel=3)
