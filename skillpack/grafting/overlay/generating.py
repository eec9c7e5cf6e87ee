"""`model.generate(..., skills=[...])`: each prompt of a batch answered with skills of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from skillpack.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    Rows = Callable[[Sequence[Any]], AbstractContextManager[None]]
    Routed = Callable[[list[list[int]]], list[list[str]]]

AUTO: Final = "auto"
"""Stands for the skills that a router chooses."""


class Generate:
    """Stands in the place of a model's method `generate` and knows one argument more.

    Attributes:
        model: whose method it is.
        rows: makes the skills of each row apply within a context.
        routed: finds skills for prompts, given as tokens.
        shadowed: what was there before, if the model had an attribute of its own.
    """

    def __init__(self, model: torch.nn.Module, rows: Rows, routed: Routed) -> None:
        self.model = model
        self.rows = rows
        self.routed = routed
        self.shadowed: Any = vars(model).get("generate")

    def __call__(self, *args: Any, skills: Sequence[Any] | str | None = None, **kwargs: Any) -> Any:
        """Generate, with skills by row or with those that are on the model.

        Args:
            args: as for the model's own method.
            skills: for each prompt None, an address, a sequence of addresses, or "auto" for those that the host's
                router chooses; "auto" alone is that for all prompts. One answer or several (beams,
                num_return_sequences) are all written with the skills of their prompt.
            kwargs: as for the model's own method.

        Raises:
            UsageError: there are more or fewer prompts than entries in `skills`, or no router to choose some.
            NotFoundError: there is no such skill; nothing has been generated then.
        """
        if skills is None:
            return self._own(*args, **kwargs)
        prompts = _prompts(args, kwargs)
        if skills == AUTO:
            skills = [AUTO] * prompts
        if isinstance(skills, str) or len(skills) != prompts:
            raise UsageError(
                f"skills names {skills if isinstance(skills, str) else len(skills)} for a batch of {prompts}",
                hint='Give a list with an entry for each prompt, such as ["math", None, "code=0.5"].',
            )
        with self.rows(self._chosen(list(skills), args, kwargs)):
            return self._own(*args, **kwargs)

    def _chosen(self, skills: list[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        """Skills by row, with those that the router chooses."""
        places = [place for place, row in enumerate(skills) if isinstance(row, str) and row == AUTO]
        if places:
            tokens = _tokens(args, kwargs)
            for place, found in zip(places, self.routed([tokens[place] for place in places]), strict=True):
                skills[place] = found
        return skills

    def _own(self, *args: Any, **kwargs: Any) -> Any:
        if self.shadowed is not None:
            return self.shadowed(*args, **kwargs)
        return type(self.model).generate(self.model, *args, **kwargs)  # type: ignore[attr-defined]

    def __getstate__(self) -> dict[str, Any]:
        """A copy of the model, by deepcopy or by pickle, is another model, without a host that knows names."""
        return vars(self) | {"rows": _without_host, "routed": _without_host}


def _without_host(skills: Sequence[Any]) -> Any:
    raise UsageError(
        f"skills={list(skills)!r} means nothing to a copied model, which has no host",
        hint='Make it one: skillpack.host(model, mode="overlay").',
    )


def wrap_generate(model: torch.nn.Module, rows: Rows | None, routed: Routed | None = None) -> None:
    """Give a model that can generate a `generate` that knows `skills`; without `rows`, take it back."""
    own = vars(model)
    present = own.get("generate")
    if isinstance(present, Generate):
        del own["generate"]
        if present.shadowed is not None:
            own["generate"] = present.shadowed
    if rows is not None and callable(getattr(type(model), "generate", None)):
        own["generate"] = Generate(model, rows, routed or _without_host)


def _prompts(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Rows of the batch that generation starts from."""
    names = "inputs", "input_ids", "inputs_embeds", "input_features", "input_values", "pixel_values"
    given = [*args[:1], *(kwargs.get(name) for name in names)]
    for value in given:
        if isinstance(value, torch.Tensor):
            return int(value.shape[0])
    raise UsageError("skills needs prompts to belong to", hint="Give input_ids or other inputs.")


def _tokens(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[list[int]]:
    """Prompts without their padding."""
    given = [*args[:1], kwargs.get("inputs"), kwargs.get("input_ids")]
    ids = next((value for value in given if isinstance(value, torch.Tensor) and value.dim() == 2), None)
    if ids is None or ids.is_floating_point():
        raise UsageError('skills="auto" needs prompts of tokens', hint="Give input_ids, or name the skills.")
    mask = kwargs.get("attention_mask")
    kept = torch.ones_like(ids) if mask is None else mask
    return [row[keep.bool()].tolist() for row, keep in zip(ids, kept, strict=True)]
