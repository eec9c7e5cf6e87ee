"""Lets a method look at all tensors, as often as it asks for; what it has seen outlives an interruption."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from skillpack.composing.protocol import Surveying
from skillpack.progress import Stage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skillpack.composing.composition import Composition
    from skillpack.composing.protocol import Method, Survey
    from skillpack.packing.unfinished import Unfinished
    from skillpack.progress import Progress

_DONE = "tensors done"


def surveyed(composition: Composition, method: Method, unfinished: Unfinished, progress: Progress) -> Method:
    """The method, once it knows all that it has to know of the tensors together."""
    rounds = 0
    while isinstance(method, Surveying) and (survey := method.survey(composition.sources())) is not None:
        rounds += 1
        _look(composition, survey, f"{composition.recipe.digest} survey {rounds}", unfinished, progress)
        method = survey.settled()
    return method


def _look(composition: Composition, survey: Survey, about: str, unfinished: Unfinished, progress: Progress) -> None:
    key = hashlib.sha256(about.encode()).hexdigest()
    targets = composition.addable()
    done = _restored(survey, unfinished, key)
    stage = Stage(progress, "looking at all tensors", sum(4 * math.prod(target.form[1]) for target in targets))
    for at, target in enumerate(targets):
        if at >= done:
            survey.observe(str(target.reference), composition.deltas(target), composition.weights(target))
            if unfinished.kept:
                unfinished.keep(key, math.inf, [_as_floats({_DONE: np.array([at + 1]), **survey.found()})])
        stage.advance(4 * math.prod(target.form[1]))


def _restored(survey: Survey, unfinished: Unfinished, key: str) -> int:
    """How many tensors an earlier run has looked at; the survey goes on from there."""
    found = unfinished.find(key, math.inf)
    if found is None:
        return 0
    kept = found[0]
    state = {name: kept[name].view(array.dtype).reshape(array.shape) for name, array in survey.found().items()}
    survey.restore(state)
    return int(kept[_DONE].view(np.int64)[0])


def _as_floats(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[np.float32]]:
    """The same bits: fp32 is what unfinished work is kept as."""
    return {name: np.ascontiguousarray(array).reshape(-1).view(np.float32) for name, array in arrays.items()}
