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
    from skillpack.errors import NotTrustedError, ReportedError, SkillPackError, TrustWarning
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
    from skillpack.signing import (
        KeyInfo,
        Policy,
        Signature,
        TrustedKey,
        list_keys,
        new_key,
        set_policy,
        show_key,
        show_policy,
        trust,
        untrust,
    )
    from skillpack.signing.skills import sign, signatures
    from skillpack.skill import Skill

    list = list_skills  # noqa: A001 - the twin of the command

__all__ = [
    "Checkpoint",
    "EvalReport",
    "FolderStatus",
    "InstallReport",
    "KeyInfo",
    "NotTrustedError",
    "PackReport",
    "Policy",
    "ReportedError",
    "Signature",
    "Skill",
    "SkillDetails",
    "SkillPackError",
    "SkillSummary",
    "SweepReport",
    "TrustWarning",
    "TrustedKey",
    "delete",
    "evaluate",
    "export",
    "import_skill",
    "install",
    "list",
    "list_keys",
    "new_key",
    "open_checkpoint",
    "pack",
    "remove",
    "set_policy",
    "show",
    "show_key",
    "show_policy",
    "sign",
    "signatures",
    "status",
    "sweep",
    "trust",
    "untrust",
    "verify",
]

# Where each name lives. Modules are imported at first use, so that `import skillpack` and the command line start fast.
_HOMES = {
    "Checkpoint": "checkpoint",
    "EvalReport": "evaluating",
    "FolderStatus": "installing",
    "InstallReport": "installing",
    "KeyInfo": "signing",
    "NotTrustedError": "errors",
    "PackReport": "packing",
    "Policy": "signing",
    "ReportedError": "errors",
    "Signature": "signing",
    "Skill": "skill",
    "SkillDetails": "library",
    "SkillPackError": "errors",
    "SkillSummary": "library",
    "SweepReport": "packing",
    "TrustWarning": "errors",
    "TrustedKey": "signing",
    "delete": "library",
    "evaluate": "evaluating",
    "export": "library",
    "import_skill": "library",
    "install": "library",
    "list": "library.list_skills",
    "list_keys": "signing",
    "new_key": "signing",
    "open_checkpoint": "checkpoint",
    "pack": "packing",
    "remove": "installing",
    "set_policy": "signing",
    "show": "library",
    "show_key": "signing",
    "show_policy": "signing",
    "sign": "signing.skills.sign",
    "signatures": "signing.skills.signatures",
    "status": "installing",
    "sweep": "packing",
    "trust": "signing",
    "untrust": "signing",
    "verify": "library",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'skillpack' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].rpartition(".")
    return getattr(import_module(f"skillpack.{module or attribute}"), attribute if module else name)


def __dir__() -> list[str]:  # type: ignore[valid-type]
    return sorted(__all__)
