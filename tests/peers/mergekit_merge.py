"""Run by `test_mergekit.py`: merges the tensors of an .npz file with mergekit, and writes what comes out to another.

python mergekit_merge.py IN OUT CONSENSUS SPARSIFICATION NORMALIZE DENSITY GAMMA WEIGHT...
"""

from __future__ import annotations

import sys

import numpy as np
import torch


def main() -> None:
    """What mergekit's generalised task arithmetic does with the deltas of one tensor after the other."""
    from mergekit.merge_methods.generalized_task_arithmetic import get_mask
    from mergekit.sparsify import SparsificationMethod, sparsify

    source, target, consensus, method, normalize, density, gamma, *weights = sys.argv[1:]
    factors = torch.tensor([float(weight) for weight in weights])[:, None]
    found = {}
    for name, values in np.load(source).items():
        deltas = torch.from_numpy(values)
        if method != "none":
            options = {"gamma": float(gamma)} if method == "magnitude_outliers" else {}
            kind = SparsificationMethod[method]
            deltas = torch.stack([sparsify(delta, density=float(density), method=kind, **options) for delta in deltas])
        deltas = deltas * factors
        mask = get_mask(deltas, method=consensus) if consensus != "none" else torch.ones_like(deltas)
        mixed, divisor = (deltas * mask).sum(0), (factors * mask).sum(0)
        divisor[divisor == 0] = 1
        found[name] = (mixed / divisor if normalize == "yes" else mixed).numpy()
    np.savez(target, **found)


if __name__ == "__main__":
    main()
