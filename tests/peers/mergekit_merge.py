"""Run by `test_mergekit.py`: has mergekit merge fine-tunes, and writes the merged weights.

python mergekit_merge.py IN CASES OUT

IN is an .npz file with the arrays ``base/TENSOR`` and ``SKILL/TENSOR`` for each fine-tune, and ``masks/SKILL/TENSOR``;
CASES a JSON file, name -> [method of mergekit, its parameters]; OUT gets ``CASE/TENSOR``. The only thing that is not
mergekit's are the random numbers of its DARE, for which the masks are put in.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from unittest import mock

import numpy as np
import torch


def main() -> None:
    """Merge the same models in every way that is asked for."""
    from mergekit.merge_methods import BasePolicy, get, merge_state_dicts

    source, cases, target = map(Path, sys.argv[1:])
    models, masks = read(source)
    tuned = {name: tensors for name, tensors in models.items() if name != "base"}
    found = {}
    for case, (method, parameters) in json.loads(cases.read_text()).items():
        based = get(method).spec.contract.base == BasePolicy.REQUIRED
        # mergekit draws for one tensor after the other, and for each from all fine-tunes.
        draws = iter([masks[skill][tensor] for tensor in models["base"] for skill in tuned])
        with mock.patch("torch.bernoulli", lambda shares, left=draws: next(left).to(shares.dtype)):
            merged = merge_state_dicts(
                models if based else tuned, method, parameters=parameters, base="base" if based else None
            )
        found |= {f"{case}/{tensor}": values.numpy() for tensor, values in merged.items()}
    np.savez(target, **found)


def read(source: Path) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, dict[str, torch.Tensor]]]:
    """Models and masks of a file: name -> tensors."""
    models, masks = defaultdict(dict), defaultdict(dict)
    for key, values in np.load(source).items():
        kind, _, rest = key.partition("/")
        skill, _, tensor = rest.partition("/") if kind == "masks" else key.partition("/")
        (masks if kind == "masks" else models)[skill][tensor] = torch.from_numpy(values)
    return dict(models), dict(masks)


if __name__ == "__main__":
    main()
