"""The figures of the README, one command each: ``python -m benchmarks.NAME`` from the root of the project.

``make bench`` runs them all and writes the README's table. Results are kept in ``benchmarks/results/NAME.json``.
"""

import sys
from pathlib import Path

_EXAMPLES = str(Path(__file__).parents[1] / "examples")
if _EXAMPLES not in sys.path:
    # The fine-tunes come from examples/recipes, which is no installed package.
    sys.path.insert(0, _EXAMPLES)
