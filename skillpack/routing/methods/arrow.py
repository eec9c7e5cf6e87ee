"""Arrow: the skill in whose directions a prompt moves the base's layers; no data at all.

Ostapenko et al., "Towards Modular LLMs by Building and Reusing a Library of LoRAs" (2024): the prototype of an expert
in a linear layer is the first right singular vector ``v`` of its delta, the direction of the input that the delta makes
most of; its sign means nothing, so a token's hidden state ``h`` fits the expert by ``|h v|``. There each token of each
layer chooses experts anew. Here a prompt chooses once, so what counts is the mean over its own tokens, of states at
length 1, over all layers in which the skill has a matrix. That a direction is one that all states share says nothing,
so each layer's mean is first compared with what it is on the background.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
import torch

from skillpack.errors import DataError
from skillpack.grafting.base import LiveBase
from skillpack.grafting.places import find_places
from skillpack.routing.calibration import Background

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skillpack.manifest import TensorEntry
    from skillpack.routing.examples import Examples
    from skillpack.routing.features import Base
    from skillpack.routing.protocol import Tokens
    from skillpack.skill import Skill

_STEPS: Final = 30
"""Of the power method; directions closer than a few per cent in strength are one direction for this purpose."""
_TINY: Final = 1e-6


class Arrow:
    """See the module; a `skillpack.routing.protocol.Method`.

    Args:
        base: whose layers see the prompts.
    """

    needs_examples: ClassVar[bool] = False

    def __init__(self, base: Base) -> None:
        self._base = base
        self._directions: dict[str, dict[str, torch.Tensor]] = {}
        self._layers: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self._background = Background()

    def add(self, skill: Skill, examples: Examples | None) -> float:
        """Find the directions of a skill's matrices."""
        del examples
        found = directions(skill, self._base)
        if not found:
            raise DataError(
                f"The skill {skill.name} changes no linear layer, so it has no directions",
                hint="Choose another method: prototype.",
            )
        self._directions[skill.digest] = found
        (seen,) = self._strengths(self._base.background, [skill.digest])
        self._layers[skill.digest] = seen.mean(0), seen.std(0).clamp_min(_TINY)
        return self._background.add(skill.digest, self._standardised(seen, skill.digest))

    def remove(self, digest: str) -> None:
        """Forget a skill."""
        self._background.remove(digest)
        del self._directions[digest], self._layers[digest]

    def scores(self, prompts: Sequence[Tokens], digests: Sequence[str]) -> torch.Tensor:
        """How far prompts go in the directions of skills, in standard deviations on the background."""
        return self._background.standardised(self._fits(prompts, digests), digests)

    def _fits(self, prompts: Sequence[Tokens], digests: Sequence[str]) -> torch.Tensor:
        strengths = self._strengths(prompts, digests)
        columns = [self._standardised(found, digest) for found, digest in zip(strengths, digests, strict=True)]
        return torch.stack(columns, 1) if columns else torch.empty(len(prompts), 0)

    def _standardised(self, strengths: torch.Tensor, digest: str) -> torch.Tensor:
        """Mean over layers, each compared with the background."""
        mean, deviation = self._layers[digest]
        return ((strengths - mean) / deviation).mean(1)

    def _strengths(self, prompts: Sequence[Tokens], digests: Sequence[str]) -> list[torch.Tensor]:
        """For each skill the mean of ``|h v|`` by prompt and layer, (prompts, layers)."""
        found = [torch.zeros(len(prompts), len(self._directions[digest])) for digest in digests]
        wanted: dict[str, list[tuple[int, int, torch.Tensor]]] = {}
        for skill, digest in enumerate(digests):
            for layer, (name, direction) in enumerate(self._directions[digest].items()):
                wanted.setdefault(name, []).append((skill, layer, direction))
        for places, ids, mask in self._base.batches(prompts):
            spans = [(self._base.own(prompts[place]), len(prompts[place])) for place in places]
            with ExitStack() as stack:
                for name, uses in wanted.items():
                    hook = _Watch(found, places, spans, uses)
                    handle = self._base.model.get_submodule(name).register_forward_pre_hook(hook)
                    stack.callback(handle.remove)
                self._base.run(ids, mask)
        return found


class _Watch:
    """Sees what goes into a layer, and keeps of it only how far it goes in some directions."""

    def __init__(
        self,
        found: list[torch.Tensor],
        places: list[int],
        spans: list[tuple[int, int]],
        uses: list[tuple[int, int, torch.Tensor]],
    ) -> None:
        self._found = found
        self._places = places
        self._spans = spans
        self._uses = uses
        self._directions = torch.stack([direction for _, _, direction in uses], 1)

    def __call__(self, _: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        states = torch.nn.functional.normalize(inputs[0].float(), dim=-1)
        strengths = (states @ self._directions.to(states.device)).abs()
        for row, (place, (start, end)) in enumerate(zip(self._places, self._spans, strict=True)):
            means = strengths[row, start:end].mean(0).cpu()
            for use, (skill, layer, _direction) in enumerate(self._uses):
                self._found[skill][place, layer] = means[use]


def directions(skill: Skill, base: Base) -> dict[str, torch.Tensor]:
    """The direction of the input that each of a skill's matrices makes most of, by the name of the linear module.

    Args:
        skill: opened.
        base: that the skill was packed from.

    Returns:
        Unit vectors, fp32 of shape (inputs,), on the CPU.

    Raises:
        WrongBaseError: it was packed from another base.
    """
    places = find_places(base.model)
    live = LiveBase(places)
    live.check(skill)
    names = {id(module): name for name, module in base.model.named_modules() if isinstance(module, torch.nn.Linear)}
    found = {}
    for entry in skill.manifest.tensors:
        matrix = entry.reference is not None and entry.reference in places and len(entry.shape) == 2
        owners = places[str(entry.reference)].owners if matrix else ()
        linear = [names[id(module)] for module, attribute in owners if attribute == "weight" and id(module) in names]
        if linear and (direction := _direction(skill, entry, live)) is not None:
            found[linear[0]] = direction
    return found


def _direction(skill: Skill, entry: TensorEntry, live: LiveBase) -> torch.Tensor | None:
    if entry.main is None or entry.common_rows is not None or entry.reference is None:
        return None
    factors = skill.factors(entry)
    if factors is not None:
        return first_right(factors.left, factors.right)
    reference = live.read(entry.reference)
    delta = skill.decode(entry, reference).difference(entry.name, reference)
    return first_right(delta, np.eye(delta.shape[1], dtype=np.float32))


def first_right(left: Any, right: Any) -> torch.Tensor | None:
    """The first right singular vector of ``left @ right.T``, by the power method; None if that is zero.

    >>> first_right(np.array([[3.0], [4.0]]), np.array([[0.0], [2.0]])).tolist()
    [0.0, 1.0]

    Args:
        left: of shape (rows, rank).
        right: of shape (columns, rank).
    """
    far, near = np.asarray(left, np.float64), np.asarray(right, np.float64)
    gram = far.T @ far
    # The image of the largest column is never orthogonal to all that counts.
    vector = near @ gram[:, np.argmax(np.diag(gram))]
    for _ in range(_STEPS):
        norm = float(np.linalg.norm(vector))
        if not norm:
            return None
        vector = near @ (gram @ (near.T @ (vector / norm)))
    norm = float(np.linalg.norm(vector))
    return torch.from_numpy((vector / norm).astype(np.float32)) if norm else None
