"""`model.generate(..., skills=[...])`: each prompt of a batch answered with skills of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from skillpack.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager


class Generate:
    """Stands in the place of a model's method `generate` and knows one argument more.

    Attributes:
        model: whose method it is.
        rows: makes the skills of each row apply within a context.
        shadowed: what was there before, if the model had an attribute of its own.
    """

    def __init__(self, model: torch.nn.Module, rows: Callable[[Sequence[Any]], AbstractContextManager[None]]) -> None:
        self.model = model
        self.rows = rows
        self.shadowed: Any = vars(model).get("generate")

    def __call__(self, *args: Any, skills: Sequence[Any] | None = None, **kwargs: Any) -> Any:
        """Generate, with skills by row or with those that are on the model.

        Args:
            args: as for the model's own method.
            skills: for each prompt None, an address, or a sequence of addresses; one answer or several (beams,
                num_return_sequences) are all written with the skills of their prompt.
            kwargs: as for the model's own method.

        Raises:
            UsageError: there are more or fewer prompts than entries in `skills`.
            NotFoundError: there is no such skill; nothing has been generated then.
        """
        if skills is None:
            return self._own(*args, **kwargs)
        prompts = _prompts(args, kwargs)
        if isinstance(skills, str) or len(skills) != prompts:
            raise UsageError(
                f"skills names {skills if isinstance(skills, str) else len(skills)} for a batch of {prompts}",
                hint='Give a list with an entry for each prompt, such as ["math", None, "code=0.5"].',
            )
        with self.rows(skills):
            return self._own(*args, **kwargs)

    def _own(self, *args: Any, **kwargs: Any) -> Any:
        if self.shadowed is not None:
            return self.shadowed(*args, **kwargs)
        return type(self.model).generate(self.model, *args, **kwargs)  # type: ignore[attr-defined]

    def __getstate__(self) -> dict[str, Any]:
        """A copy of the model, by deepcopy or by pickle, is another model, without a host that knows names."""
        return vars(self) | {"rows": _without_host}


def _without_host(skills: Sequence[Any]) -> AbstractContextManager[None]:
    raise UsageError(
        f"skills={list(skills)!r} means nothing to a copied model, which has no host",
        hint='Make it one: skillpack.host(model, mode="overlay").',
    )


def wrap_generate(model: torch.nn.Module, rows: Callable[[Sequence[Any]], AbstractContextManager[None]] | None) -> None:
    """Give a model that can generate a `generate` that knows `skills`; without `rows`, take it back."""
    own = vars(model)
    present = own.get("generate")
    if isinstance(present, Generate):
        del own["generate"]
        if present.shadowed is not None:
            own["generate"] = present.shadowed
    if rows is not None and callable(getattr(type(model), "generate", None)):
        own["generate"] = Generate(model, rows)


def _prompts(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Rows of the batch that generation starts from."""
    names = "inputs", "input_ids", "inputs_embeds", "input_features", "input_values", "pixel_values"
    given = [*args[:1], *(kwargs.get(name) for name in names)]
    for value in given:
        if isinstance(value, torch.Tensor):
            return int(value.shape[0])
    raise UsageError("skills needs prompts to belong to", hint="Give input_ids or other inputs.")
