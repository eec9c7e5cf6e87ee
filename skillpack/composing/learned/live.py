"""The base with weighted skills on it, live, so that derivatives for what is learned about them can be taken.

Weights are set in place before a pass. In the backward pass each weight's gradient is handed over as soon as it is
there, multiplied with the deltas of that weight, and forgotten: what is held besides the model is one gradient.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import torch

from skillpack.checkpoint import open_checkpoint
from skillpack.composing.learned.deltas import delta_of
from skillpack.errors import ConflictError, UsageError
from skillpack.grafting.base import LiveBase
from skillpack.grafting.places import find_places
from skillpack.grafting.planning import make_plan
from skillpack.installing.claims import Active
from skillpack.live.models import open_model
from skillpack.live.precision import weight_gradients
from skillpack.packing.device import check_device
from skillpack.summing import unaddable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from skillpack.checkpoint import Checkpoint
    from skillpack.composing.learned.deltas import Delta
    from skillpack.grafting.places import Place
    from skillpack.grafting.planning import Step
    from skillpack.skill import Skill

Value = TypeVar("Value")


@dataclass(frozen=True, eq=False)
class Spot:
    """A tensor of the base that at least one of the skills changes.

    Attributes:
        name: in the base's checkpoint.
        place: where it is in the live model.
        base: its values without skills, as they are stored.
        deltas: what each skill adds to it, in the order of the skills; None for one that leaves it alone.
    """

    name: str
    place: Place
    base: torch.Tensor
    deltas: tuple[Delta | None, ...]

    def gradient(self, whole: torch.Tensor) -> torch.Tensor:
        """This spot's part of the gradient of the live tensor that it is in."""
        part = self.place.part
        return whole if part is None else whole.contiguous().as_strided(part.shape, part.stride, part.offset)


class LiveSum:
    """A base on which several skills have weights that are being learned.

    Args:
        base: folder or Hub id of the skills' base.
        skills: opened; at least one.
        device: where to compute.

    Attributes:
        model: the live model; fp32 where skills change it, otherwise as it is stored.
        spots: what the skills change, in the order of the names.

    Raises:
        WrongBaseError: a skill is of another base.
        ConflictError: a skill changes what cannot be weighted, or a buffer, which gets no gradient.
        CheckpointError, UnsupportedCheckpointError: see `skillpack.live.models.open_model`.
        UsageError: there is no such device.
    """

    def __init__(self, base: str | Path, skills: Sequence[Skill], device: str = "cpu") -> None:
        check_device(device)
        self.checkpoint = open_checkpoint(base)
        self.model: Any = open_model(base)
        self.device = torch.device(device)
        self._places = find_places(self.model)
        steps = self._steps(skills)
        self.model.to(self.device)
        by_digest = {skill.digest: place for place, skill in enumerate(skills)}
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        self._by_weight: dict[str, list[int]] = defaultdict(list)
        kept: dict[int, torch.Tensor] = {}
        spots = []
        for step in steps:
            tensor = step.place.tensor
            values = step.place.values
            if id(tensor) not in kept:
                kept[id(tensor)] = tensor.data
            spots.append(self._spot(step, values, skills, by_digest))
            self._by_weight[names[id(tensor)]].append(len(spots) - 1)
        for step in steps:
            tensor = step.place.tensor
            if tensor.data.data_ptr() == kept[id(tensor)].data_ptr():
                tensor.data = tensor.data.to(torch.float32, copy=True)
        self.spots = tuple(spots)

    @property
    def names(self) -> list[str]:
        """Names of the tensors that the skills change."""
        return [spot.name for spot in self.spots]

    @property
    def nbytes(self) -> int:
        """Bytes of the base's tensors that the skills change; what a step of learning goes through."""
        return sum(spot.base.nbytes for spot in self.spots)

    def by_name(self, values: Sequence[Value]) -> dict[str, Value]:
        """What belongs to each spot, by every name that the base's checkpoint has for it: tied tensors have several."""
        extents = {spot.place.extent: value for spot, value in zip(self.spots, values, strict=True)}
        found = {}
        for name in self.checkpoint.tensors:
            extent = self._places[name].extent if name in self._places else None
            if extent in extents:
                found[name] = extents[extent]
        return found

    def alone(self, place: int) -> torch.Tensor:
        """Weights with which the model is the base with one of the skills, fp32 of shape (spots, skills)."""
        skills = len(self.spots[0].deltas)
        return torch.eye(skills)[place].expand(len(self.spots), skills)

    @torch.no_grad()
    def set(self, weights: torch.Tensor) -> None:
        """Let the model be the base plus weighted deltas.

        Args:
            weights: fp32 of shape (spots, skills).
        """
        for spot, row in zip(self.spots, weights.tolist(), strict=True):
            live = spot.place.values
            live.copy_(spot.base)
            for delta, weight in zip(spot.deltas, row, strict=True):
                if delta is not None:
                    delta.add_to(live, weight)

    @torch.no_grad()
    def write(self, number: int, delta: torch.Tensor) -> None:
        """Let one tensor be the base's plus something, fp32 in its shape."""
        spot = self.spots[number]
        torch.add(spot.base, delta, out=spot.place.values)

    @contextmanager
    def gradients(self, take: Callable[[int, torch.Tensor], None]) -> Iterator[None]:
        """While this lasts, backward passes through the model hand over the gradients of what skills change.

        Args:
            take: called with the number of a spot and its gradient, fp32 in its shape; several times in a pass if its
                weight is used so, and the sum is the gradient.
        """

        def sink(name: str, whole: torch.Tensor) -> None:
            for number in self._by_weight.get(name, ()):
                take(number, self.spots[number].gradient(whole))

        with weight_gradients(self.model, sink):
            yield

    def weight_gradient(self) -> tuple[torch.Tensor, Callable[[int, torch.Tensor], None]]:
        """Derivatives for all weights, of shape (spots, skills), and what adds to them; see `backward`."""
        found = torch.zeros(len(self.spots), len(self.spots[0].deltas))

        def take(number: int, gradient: torch.Tensor) -> None:
            for place, delta in enumerate(self.spots[number].deltas):
                if delta is not None:
                    found[number, place] += delta.dot(gradient)

        return found, take

    def _steps(self, skills: Sequence[Skill]) -> list[Step]:
        base = LiveBase(self._places, checkpoint=self.checkpoint)
        plan = make_plan([Active(skill) for skill in skills], base)
        steps = sorted(plan.steps.values(), key=lambda step: step.reference)
        parameters = {id(parameter) for parameter in self.model.parameters()}
        for step in steps:
            _check_addable(step, self.checkpoint)
            if id(step.place.tensor) not in parameters:
                _refuse_buffer(step)
        if not steps:
            raise UsageError("The skills change no tensor of the base, so there is nothing to learn about them")
        return steps

    def _spot(self, step: Step, values: torch.Tensor, skills: Sequence[Skill], places: dict[str, int]) -> Spot:
        base = self.checkpoint.read(step.reference)
        deltas: list[Delta | None] = [None] * len(skills)
        for claim in step.target.claims:
            place = places[claim.digest]
            deltas[place] = delta_of(skills[place], claim, base, self.device)
        return Spot(step.reference, step.place, values, tuple(deltas))


def _check_addable(step: Step, checkpoint: Checkpoint) -> None:
    base = checkpoint.read(step.reference)
    reason = unaddable(base, [claim.entry for claim in step.target.claims])
    if reason is not None:
        skill = step.target.claims[0].skill
        raise ConflictError(
            f"Skill {skill} changes {step.reference}, which cannot be weighted, because {reason}",
            hint="Leave the skill out.",
        )


def _refuse_buffer(step: Step) -> NoReturn:
    skill = step.target.claims[0].skill
    raise ConflictError(
        f"Skill {skill} changes {step.reference}, a buffer of the model, and nothing can be learned about buffers",
        hint="Leave the skill out, or choose a method that needs no data, such as --method sum.",
    )
