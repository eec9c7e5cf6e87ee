"""Skills on checkpoint folders: install, remove, status.

A managed model is a function of its base and of the set of skills with their weights. It is always computed from the
base's untouched files, never from an earlier result, so the order of installs and removals leaves no trace, and with
the last skill everything that is ours goes away. `model_folder` says where things are kept, `journal` what a crash or
a reader in between can see. Neither torch nor transformers is needed.
"""

from __future__ import annotations

from skillpack.installing.changes import Wanted
from skillpack.installing.in_place import InstallReport, install, match, remove
from skillpack.installing.inspecting import Difference, FolderStatus, status
from skillpack.installing.matching import Declared, Steps, plan_steps
from skillpack.installing.receipt import FileRecord, SkillRecord

__all__ = [
    "Declared",
    "Difference",
    "FileRecord",
    "FolderStatus",
    "InstallReport",
    "SkillRecord",
    "Steps",
    "Wanted",
    "install",
    "match",
    "plan_steps",
    "remove",
    "status",
]
