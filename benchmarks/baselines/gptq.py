"""GPTQ: round the entries of a matrix one input at a time, and let those that follow make up for the error.

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", 2023. The inputs
are taken in the order of their strength; the grids are fixed before, so that the order need not be stored.
"""

from __future__ import annotations

import torch

from benchmarks.baselines.grids import nearest

DAMPING = 0.01
"""Added to the diagonal of the second moment, relative to its mean."""

_BLOCK = 128


def gptq(
    values: torch.Tensor, step: torch.Tensor, low: torch.Tensor, top: int | torch.Tensor, moment: torch.Tensor
) -> torch.Tensor:
    """Codes that make ``tr(E moment E^T)`` small, E being the error; rows are independent of each other.

    Args:
        values: fp32 (rows, inputs).
        step: distance of two points of each entry's grid, fp32 (rows, inputs).
        low: first point of each entry's grid, fp32 (rows, inputs).
        top: greatest code, one for all or int of shape (rows,).
        moment: second moment of the inputs, (inputs, inputs), symmetric and not negative.

    Returns:
        uint8 of shape (rows, inputs).
    """
    order = moment.diagonal().argsort(descending=True)
    factor = _factor(moment[order][:, order])
    # Transposed, since one input of all rows is what is worked on at a time.
    rest, step, low = (one.T[order].contiguous() for one in (values, step, low))
    codes = torch.empty_like(rest)
    for first in range(0, len(order), _BLOCK):
        last = min(first + _BLOCK, len(order))
        errors = torch.empty_like(rest[first:last])
        for at in range(first, last):
            codes[at] = nearest(rest[at], step[at], low[at], top)
            errors[at - first] = (rest[at] - low[at] - codes[at] * step[at]) / factor[at, at]
            rest[at + 1 : last].addr_(factor[at, at + 1 : last], errors[at - first], alpha=-1)
        rest[last:].addmm_(factor[first:last, last:].T, errors, alpha=-1)
    found = torch.empty(values.shape, dtype=torch.uint8)
    found[:, order] = codes.T.to(torch.uint8)
    return found


def _factor(moment: torch.Tensor) -> torch.Tensor:
    """Upper triangular R with R^T R the inverse of the damped moment, fp32."""
    damped = moment.double()
    mean = damped.diagonal().mean().clamp(min=torch.finfo(torch.float32).tiny)
    damped = damped + DAMPING * mean * torch.eye(len(damped), dtype=torch.float64)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True).float()
