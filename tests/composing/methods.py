"""Methods on arrays, without any skill."""

from __future__ import annotations

import numpy as np

from skillpack.composing.protocol import Deltas, Source, Surveying


def merged(method, tensors, weights=None, layers=0):
    """Name -> merged delta, with all surveys that the method asks for.

    Args:
        method: the method.
        tensors: name -> one list or array for each skill.
        weights: factors; 1 by default.
        layers: see `Deltas`.
    """
    count = len(next(iter(tensors.values())))
    weights = [1.0] * count if weights is None else weights
    sources = tuple(Source(f"skill-{at}", f"sha256:{at:064}") for at in range(count))
    deltas = {
        name: Deltas(sources, tuple(np.asarray(array, np.float32) for array in arrays), layers)
        for name, arrays in tensors.items()
    }
    while isinstance(method, Surveying) and (survey := method.survey(sources)) is not None:
        for name, found in deltas.items():
            survey.observe(name, found, weights)
        method = survey.settled()
    return {name: method.merge(name, found, weights) for name, found in deltas.items()}


def alone(method, *arrays, weights=None):
    """The same for a model of one tensor."""
    return merged(method, {"w": arrays}, weights)["w"]
