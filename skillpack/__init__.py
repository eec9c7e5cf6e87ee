"""SkillPack: turn a fine-tune into a skill, keep it in a library, install it on its base, remove it without a trace.

>>> import skillpack
>>> skillpack.pack("org/base", "./math-tuned", "math", size=5_000_000)  # doctest: +SKIP
>>> skillpack.install("math", "./model")  # doctest: +SKIP
>>> skillpack.remove("math", "./model")  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skillpack.checkpoint import Checkpoint, open_checkpoint
    from skillpack.errors import ReportedError, SkillPackError
    from skillpack.evaluating import EvalReport, evaluate
    from skillpack.installing import FolderStatus, InstallReport, remove, status
    from skillpack.library import (
        SkillDetails,
        SkillSummary,
        delete,
        export,
        import_skill,
        install,
        list_skills,
        show,
        verify,
    )
    from skillpack.packing import PackReport, SweepReport, pack, sweep
    from skillpack.remotes import (
        RemoteSummary,
        TransferReport,
        add_remote,
        clone,
        fetch,
        list_remotes,
        ls_remote,
        pull,
        push,
        remove_remote,
        set_remote_url,
    )
    from skillpack.skill import Skill

    list = list_skills  # noqa: A001 - the twin of the command

__all__ = [
    "Checkpoint",
    "EvalReport",
    "FolderStatus",
    "InstallReport",
    "PackReport",
    "RemoteSummary",
    "ReportedError",
    "Skill",
    "SkillDetails",
    "SkillPackError",
    "SkillSummary",
    "SweepReport",
    "TransferReport",
    "add_remote",
    "clone",
    "delete",
    "evaluate",
    "export",
    "fetch",
    "import_skill",
    "install",
    "list",
    "list_remotes",
    "ls_remote",
    "open_checkpoint",
    "pack",
    "pull",
    "push",
    "remove",
    "remove_remote",
    "set_remote_url",
    "show",
    "status",
    "sweep",
    "verify",
]

# Where each name lives. Modules are imported at first use, so that `import skillpack` and the command line start fast.
_HOMES = {
    "Checkpoint": "checkpoint",
    "EvalReport": "evaluating",
    "FolderStatus": "installing",
    "InstallReport": "installing",
    "PackReport": "packing",
    "RemoteSummary": "remotes",
    "ReportedError": "errors",
    "Skill": "skill",
    "SkillDetails": "library",
    "SkillPackError": "errors",
    "SkillSummary": "library",
    "SweepReport": "packing",
    "TransferReport": "remotes",
    "add_remote": "remotes",
    "clone": "remotes",
    "delete": "library",
    "evaluate": "evaluating",
    "export": "library",
    "fetch": "remotes",
    "import_skill": "library",
    "install": "library",
    "list": "library.list_skills",
    "list_remotes": "remotes",
    "ls_remote": "remotes",
    "open_checkpoint": "checkpoint",
    "pack": "packing",
    "pull": "remotes",
    "push": "remotes",
    "remove": "installing",
    "remove_remote": "remotes",
    "set_remote_url": "remotes",
    "show": "library",
    "status": "installing",
    "sweep": "packing",
    "verify": "library",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'skillpack' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(".")
    return getattr(import_module(f"skillpack.{module}"), attribute or name)


def __dir__() -> list[str]:  # type: ignore[valid-type]
    return sorted(__all__)
