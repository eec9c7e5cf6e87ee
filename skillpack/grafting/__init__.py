"""Skills on live models: grafted onto the weights of a running module, swapped, and taken off without a trace.

torch is needed here, so nothing of this is imported before it is used.
"""

from __future__ import annotations
