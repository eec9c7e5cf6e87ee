"""Mixed batches: each row of a batch has its own choice of skills, in one forward pass.

The first dimension of whatever a layer is given is that of the batch, as it is or repeated row by row (beams, several
answers to a prompt) or flattened with the tokens of a row side by side: of n, the i-th belongs to row i * rows // n.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import torch

from skillpack.errors import UsageError
from skillpack.grafting.overlay.layer import Uniform, first_input
from skillpack.grafting.overlay.parts import Factors, Use, with_added, with_gradient, writable
from skillpack.grafting.overlay.stacks import Seats

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skillpack.grafting.overlay.layer import Layer
    from skillpack.grafting.overlay.stacks import Group, Stack

Choice = tuple[tuple[str, float], ...]
"""Digest and weight of each skill; empty for the base alone."""

_FEW_TOKENS: Final = 64
"""Up to so many tokens the factors of all choices are one batch."""


class Spread:
    """Which rows have which choice.

    Attributes:
        choices: the distinct choices.
        rows: how many rows were given.
        size: rows of the batch that is running, repeats included, once known; for what all rows share.
    """

    def __init__(self, choices: Sequence[Choice]) -> None:
        self.choices = tuple(dict.fromkeys(choices))
        self.rows = len(choices)
        self.size = self.rows
        self._of_row = torch.tensor([self.choices.index(choice) for choice in choices])
        self._known: dict[tuple[int, torch.device], list[slice | torch.Tensor]] = {}

    def of(self, count: int, device: torch.device) -> list[slice | torch.Tensor]:
        """Where the rows of each choice are along a dimension of this length.

        Raises:
            UsageError: it is no multiple of the rows.
        """
        key = count, device
        if key not in self._known:
            if count % self.rows:
                raise UsageError(
                    f"Skills were named for {self.rows} rows, and the batch has {count}",
                    hint="Name skills or None for each row.",
                )
            belongs = self.expanded(count)
            if len(self._known) > _FEW_TOKENS:
                self._known.clear()
            self._known[key] = [
                _as_slice((belongs == choice).nonzero()[:, 0], device) for choice in range(len(self.choices))
            ]
        return self._known[key]

    def expanded(self, count: int) -> torch.Tensor:
        """Number of the choice of each row; int64 of shape (count,)."""
        return self._of_row.repeat_interleave(count // self.rows)


@dataclass(eq=False)
class RowWise:
    """What a layer does for a mixed batch.

    Attributes:
        spread: which rows have which choice.
        choices: what each choice makes of the layer; None where it leaves it alone.
        stacked: the module takes weights with a row for each row of the batch.
    """

    spread: Spread
    choices: list[Uniform | None]
    stacked: bool = False
    _cached: dict[Any, Any] = field(default_factory=dict)

    @property
    def is_apart(self) -> bool:
        """The whole module is run for the rows of each choice, one after another."""
        return self._blends and not self.stacked

    @cached_property
    def _blends(self) -> bool:
        return any(choice is not None and bool(choice.blends) for choice in self.choices)

    def run(self, layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """See `Action`."""
        if torch.compiler.is_compiling():
            return self._outside(layer, args, kwargs)
        return self._run(layer, args, kwargs)

    # A compiled model leaves its graph for this: which rows go where is no part of one.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _outside(self, layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._run(layer, args, kwargs)

    def _run(self, layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        x = first_input(args, kwargs)
        if layer.use is Use.LOOKUP and x.shape[0] == 1 < self.spread.size:
            # Positions are looked up once for all rows.
            x = x.expand(self.spread.size, *x.shape[1:])
            args, kwargs = (x, *args[1:]), kwargs if args else {}
        if layer.use is Use.LOOKUP:
            self.spread.size = x.shape[0]
        if self.is_apart:
            return self._apart(layer, x.shape[0], args, kwargs)
        if self._blends:
            return layer.with_weights(self._stack(layer, x), args, kwargs)
        return self._added(layer, x, layer.base(*args, **kwargs))

    def _added(self, layer: Layer, x: torch.Tensor, y: torch.Tensor) -> Any:
        use = layer.use
        tokens = x.numel() if use is Use.LOOKUP else x.numel() // max(1, x.shape[-1])
        if (
            use is not Use.LOOKUP
            and tokens <= _FEW_TOKENS
            and self._are_factors
            and self._distinct
            and not with_gradient(x)
        ):
            out = writable(y)
            stack, seats = self._stacked(layer, x.shape[0], x.device)
            rows = x.reshape(x.shape[0], -1, x.shape[-1]).float()
            stack.add_to(out.view(x.shape[0], -1, out.shape[-1]), rows, seats)
            return out
        places = self.spread.of(x.shape[0], x.device)
        each = tokens // x.shape[0]

        def add(out: torch.Tensor, flat: torch.Tensor) -> None:
            for place, choice in zip(places, self.choices, strict=True):
                if choice is not None:
                    _add_to_rows(layer, choice, place, out, flat, each=each)

        return with_added(y, x, use, add)  # type: ignore[arg-type]

    @cached_property
    def _groups(self) -> list[Group | None]:
        """What each choice adds; None where nothing."""
        return [None if choice is None else tuple(choice.added) or None for choice in self.choices]  # type: ignore[arg-type]

    @cached_property
    def _distinct(self) -> list[Group]:
        return list(dict.fromkeys(group for group in self._groups if group is not None))

    @cached_property
    def _are_factors(self) -> bool:
        return all(isinstance(part, Factors) for group in self._distinct for part, _ in group)

    def _stacked(self, layer: Layer, count: int, device: torch.device) -> tuple[Stack, Seats]:
        """The factors of all choices, and which row of a batch meets which."""
        key = "seats", count, device
        stack = layer.stack
        if stack is None or key not in self._cached or self._cached[key][0]() is not stack:
            stack = layer.stacked(self._distinct, device)
            places = {group: place for place, group in enumerate(stack.groups)}
            of_choice = torch.tensor([-1 if group is None else places[group] for group in self._groups])
            seats = Seats.of_groups(of_choice[self.spread.expanded(count)], len(places), device)
            # The layer alone decides how long a stack is held: it is as large as the factors of all choices.
            self._cached[key] = weakref.ref(stack), seats
        return stack, self._cached[key][1]

    def _stack(self, layer: Layer, x: torch.Tensor) -> dict[str, torch.Tensor]:
        names = sorted({name for choice in self.choices if choice is not None for name in choice.blends})
        key = "stack", x.shape[0], x.ndim, x.device, x.dtype
        if key not in self._cached:
            self.spread.of(x.shape[0], x.device)
            with torch.inference_mode(False), torch.no_grad():
                belongs = self.spread.expanded(x.shape[0]).to(x.device)
                shape = x.shape[0], *[1] * (x.ndim - 2), -1
                self._cached[key] = {name: self._variants(layer, name)[belongs].view(shape) for name in names}
        found: dict[str, torch.Tensor] = self._cached[key]
        return found

    def _variants(self, layer: Layer, name: str) -> torch.Tensor:
        live = layer.live(name)
        return torch.stack(
            [
                choice.blends[name].get(live) if choice is not None and name in choice.blends else live.detach()
                for choice in self.choices
            ]
        )

    def _apart(self, layer: Layer, count: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The forward pass of the module for the rows of each choice, put together again."""
        places = self.spread.of(count, first_input(args, kwargs).device)
        outputs = []
        for place, choice in zip(places, self.choices, strict=True):
            part_args = tuple(_taken(value, place, count) for value in args)
            part_kwargs = {name: _taken(value, place, count) for name, value in kwargs.items()}
            action = choice or Uniform()
            outputs.append(action.run(layer, part_args, part_kwargs))
        return _together(outputs, places, count, layer)


def takes_stacks(layer: Layer, names: Sequence[str]) -> bool:
    """Whether a module multiplies or adds vectors entry by entry, so that each row can have its own: tried out.

    Args:
        layer: of the module.
        names: of its tensors that differ by row.
    """
    vectors = [layer.live(name) for name in names]
    if layer.use is not None or any(vector.ndim != 1 or not vector.is_floating_point() for vector in vectors):
        return False
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(vectors[0].device, vectors[0].dtype)

    x = random(2, 3, vectors[0].shape[0])
    variants = {name: random(2, vector.shape[0]) for name, vector in zip(names, vectors, strict=True)}
    try:
        with torch.no_grad():
            found = layer.with_weights({name: rows[:, None] for name, rows in variants.items()}, (x,), {})
            one_by_one = [
                layer.with_weights({name: rows[row] for name, rows in variants.items()}, (x[row : row + 1],), {})
                for row in range(2)
            ]
        return isinstance(found, torch.Tensor) and torch.equal(found, torch.cat(one_by_one))
    except (RuntimeError, TypeError, ValueError):
        return False


def _add_to_rows(
    layer: Layer, choice: Uniform, place: slice | torch.Tensor, out: torch.Tensor, flat: torch.Tensor, *, each: int
) -> None:
    """Add what a choice adds to its rows, of `each` tokens."""
    if isinstance(place, slice):
        tokens = slice(place.start * each, place.stop * each)
        choice.add(layer, out[tokens], flat[tokens])
        return
    inside = (place[:, None] * each + torch.arange(each, device=place.device)).reshape(-1)
    some = out[inside].float()
    choice.add(layer, some, flat[inside])
    out[inside] = some.to(out.dtype)


def _as_slice(places: torch.Tensor, device: torch.device) -> slice | torch.Tensor:
    first, last = int(places[0]), int(places[-1])
    return slice(first, last + 1) if last - first + 1 == len(places) else places.to(device)


def _taken(value: Any, place: slice | torch.Tensor, count: int) -> Any:
    if isinstance(value, torch.Tensor) and value.ndim and value.shape[0] == count:
        return value[place]
    return value


def _together(outputs: list[Any], places: list[slice | torch.Tensor], count: int, layer: Layer) -> Any:
    first = outputs[0]
    if isinstance(first, tuple):
        return tuple(_together(list(each), places, count, layer) for each in zip(*outputs, strict=True))
    if not isinstance(first, torch.Tensor):
        raise UsageError(
            f"{layer.path} gives no tensor, so that skills cannot differ by row there", hint="Run one skill at a time."
        )
    whole = first.new_empty((count, *first.shape[1:]))
    if torch.is_grad_enabled() and any(output.requires_grad for output in outputs):
        order = torch.cat([torch.arange(count, device=first.device)[place] for place in places])
        return torch.cat(outputs)[order.argsort()]
    for place, output in zip(places, outputs, strict=True):
        whole[place] = output
    return whole
