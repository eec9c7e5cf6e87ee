"""Skills beside one another: will they clash, and which of a library belong together?"""

from __future__ import annotations

from skillpack.comparing.clustering import ClusterReport, Duplicate, Group, cluster
from skillpack.comparing.comparison import CompareReport, Pair, Place, compare

__all__ = ["ClusterReport", "CompareReport", "Duplicate", "Group", "Pair", "Place", "cluster", "compare"]
