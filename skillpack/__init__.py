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
    from skillpack.branching import LibraryChange, RefSummary, branch, merge, restore, revert, tag, undelete
    from skillpack.checkpoint import Checkpoint, open_checkpoint
    from skillpack.comparing import ClusterReport, CompareReport, cluster, compare
    from skillpack.composing.learned.composing import learned_compose
    from skillpack.composing.logits import LogitFusion
    from skillpack.composing.methods.twin import twin_addresses
    from skillpack.composing.report import ComposeReport
    from skillpack.composing.skills import compose, recompose
    from skillpack.composing.surgery.learning import SurgeryReport, learn_surgery
    from skillpack.composing.surgery.opening import Surgery, open_surgery
    from skillpack.composing.tinting.fitting import Tinting
    from skillpack.composing.tinting.learning import Tint, TintReport, learn_tints
    from skillpack.differences import LibraryDiff, diff
    from skillpack.errors import NotAppliedWarning, NotTrustedError, ReportedError, SkillPackError, TrustWarning
    from skillpack.evaluating import EvalReport, evaluate
    from skillpack.grafting.host import Host, host
    from skillpack.grafting.loading import from_pretrained
    from skillpack.history import LogEntry, RefLogEntry, log, reflog
    from skillpack.installing import FolderStatus, InstallReport, remove, status
    from skillpack.interop import AdapterExport, MergedExport, export_adapter, export_merged, import_adapter
    from skillpack.interop.auto import AutoSkill
    from skillpack.interop.callback import SkillPackCallback
    from skillpack.learning import (
        ContinualLearner,
        LearnReport,
        Segment,
        Task,
        Training,
        learn,
        learn_stream,
        prefer,
        read_tasks,
    )
    from skillpack.library import (
        SkillDetails,
        delete,
        export,
        import_skill,
        install,
        show,
        verify,
    )
    from skillpack.locked_skills import Lock, SyncReport, lock, sync
    from skillpack.packing import PackReport, SweepReport, pack, sweep
    from skillpack.rebasing import RebaseReport, rebase
    from skillpack.remotes import (
        RemoteSkill,
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
        show_remote,
    )
    from skillpack.reporting import LibraryPage, report
    from skillpack.routing.adding import ExamplesReport, add_examples
    from skillpack.routing.opening import open_router, route
    from skillpack.routing.protocol import Route, Router
    from skillpack.serving.server import ServeSettings, Serving, serve
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
    from skillpack.summaries import SkillSummary, list_skills
    from skillpack.upkeep import fsck, gc, stats

    list = list_skills  # noqa: A001 - the twin of the command

__all__ = [
    "AdapterExport",
    "AutoSkill",
    "Checkpoint",
    "ClusterReport",
    "CompareReport",
    "ComposeReport",
    "ContinualLearner",
    "EvalReport",
    "ExamplesReport",
    "FolderStatus",
    "Host",
    "InstallReport",
    "KeyInfo",
    "LearnReport",
    "LibraryChange",
    "LibraryDiff",
    "LibraryPage",
    "Lock",
    "LogEntry",
    "LogitFusion",
    "MergedExport",
    "NotAppliedWarning",
    "NotTrustedError",
    "PackReport",
    "Policy",
    "RebaseReport",
    "RefLogEntry",
    "RefSummary",
    "RemoteSkill",
    "RemoteSummary",
    "ReportedError",
    "Route",
    "Router",
    "Segment",
    "ServeSettings",
    "Serving",
    "Signature",
    "Skill",
    "SkillDetails",
    "SkillPackCallback",
    "SkillPackError",
    "SkillSummary",
    "Surgery",
    "SurgeryReport",
    "SweepReport",
    "SyncReport",
    "Task",
    "Tint",
    "TintReport",
    "Tinting",
    "Training",
    "TransferReport",
    "TrustWarning",
    "TrustedKey",
    "add_examples",
    "add_remote",
    "branch",
    "clone",
    "cluster",
    "compare",
    "compose",
    "delete",
    "diff",
    "evaluate",
    "export",
    "export_adapter",
    "export_merged",
    "fetch",
    "from_pretrained",
    "fsck",
    "gc",
    "host",
    "import_adapter",
    "import_skill",
    "install",
    "learn",
    "learn_stream",
    "learn_surgery",
    "learn_tints",
    "learned_compose",
    "list",
    "list_keys",
    "list_remotes",
    "lock",
    "log",
    "ls_remote",
    "merge",
    "new_key",
    "open_checkpoint",
    "open_router",
    "open_surgery",
    "pack",
    "prefer",
    "pull",
    "push",
    "read_tasks",
    "rebase",
    "recompose",
    "reflog",
    "remove",
    "remove_remote",
    "report",
    "restore",
    "revert",
    "route",
    "serve",
    "set_policy",
    "set_remote_url",
    "show",
    "show_key",
    "show_policy",
    "show_remote",
    "sign",
    "signatures",
    "stats",
    "status",
    "sweep",
    "sync",
    "tag",
    "trust",
    "twin_addresses",
    "undelete",
    "untrust",
    "verify",
]

# Where each name lives. Modules are imported at first use, so that `import skillpack` and the command line start fast.
_HOMES = {
    "AdapterExport": "interop",
    "AutoSkill": "interop.auto.AutoSkill",
    "Checkpoint": "checkpoint",
    "ComposeReport": "composing.report.ComposeReport",
    "ClusterReport": "comparing",
    "CompareReport": "comparing",
    "ContinualLearner": "learning",
    "EvalReport": "evaluating",
    "ExamplesReport": "routing.adding.ExamplesReport",
    "FolderStatus": "installing",
    "Host": "grafting.host.Host",
    "InstallReport": "installing",
    "KeyInfo": "signing",
    "LearnReport": "learning",
    "LibraryChange": "branching",
    "LibraryDiff": "differences",
    "LibraryPage": "reporting",
    "Lock": "locked_skills",
    "LogEntry": "history",
    "LogitFusion": "composing.logits.LogitFusion",
    "MergedExport": "interop",
    "NotAppliedWarning": "errors",
    "NotTrustedError": "errors",
    "PackReport": "packing",
    "Policy": "signing",
    "RebaseReport": "rebasing",
    "RefLogEntry": "history",
    "RefSummary": "branching",
    "RemoteSkill": "remotes",
    "RemoteSummary": "remotes",
    "ReportedError": "errors",
    "Route": "routing.protocol.Route",
    "Router": "routing.protocol.Router",
    "Segment": "learning",
    "ServeSettings": "serving.server.ServeSettings",
    "Serving": "serving.server.Serving",
    "Signature": "signing",
    "Skill": "skill",
    "SkillDetails": "library",
    "SkillPackCallback": "interop.callback.SkillPackCallback",
    "SkillPackError": "errors",
    "SkillSummary": "summaries",
    "Surgery": "composing.surgery.opening.Surgery",
    "SurgeryReport": "composing.surgery.learning.SurgeryReport",
    "SweepReport": "packing",
    "Tint": "composing.tinting.learning.Tint",
    "TintReport": "composing.tinting.learning.TintReport",
    "Tinting": "composing.tinting.fitting.Tinting",
    "SyncReport": "locked_skills",
    "Task": "learning",
    "Training": "learning",
    "TransferReport": "remotes",
    "TrustWarning": "errors",
    "TrustedKey": "signing",
    "add_examples": "routing.adding.add_examples",
    "add_remote": "remotes",
    "branch": "branching",
    "clone": "remotes",
    "compose": "composing.skills.compose",
    "cluster": "comparing",
    "compare": "comparing",
    "delete": "library",
    "diff": "differences",
    "evaluate": "evaluating",
    "export": "library",
    "export_adapter": "interop",
    "export_merged": "interop",
    "fetch": "remotes",
    "from_pretrained": "grafting.loading.from_pretrained",
    "fsck": "upkeep",
    "gc": "upkeep",
    "import_adapter": "interop",
    "host": "grafting.host.host",
    "import_skill": "library",
    "install": "library",
    "learned_compose": "composing.learned.composing.learned_compose",
    "learn": "learning",
    "learn_stream": "learning",
    "learn_surgery": "composing.surgery.learning.learn_surgery",
    "learn_tints": "composing.tinting.learning.learn_tints",
    "list": "summaries.list_skills",
    "list_keys": "signing",
    "list_remotes": "remotes",
    "lock": "locked_skills",
    "log": "history",
    "ls_remote": "remotes",
    "merge": "branching",
    "new_key": "signing",
    "open_checkpoint": "checkpoint",
    "open_router": "routing.opening.open_router",
    "open_surgery": "composing.surgery.opening.open_surgery",
    "pack": "packing",
    "prefer": "learning",
    "pull": "remotes",
    "push": "remotes",
    "read_tasks": "learning",
    "rebase": "rebasing",
    "recompose": "composing.skills.recompose",
    "reflog": "history",
    "remove": "installing",
    "remove_remote": "remotes",
    "report": "reporting",
    "restore": "branching",
    "revert": "branching",
    "route": "routing.opening.route",
    "serve": "serving.server.serve",
    "set_policy": "signing",
    "set_remote_url": "remotes",
    "show": "library",
    "show_key": "signing",
    "show_policy": "signing",
    "show_remote": "remotes",
    "sign": "signing.skills.sign",
    "signatures": "signing.skills.signatures",
    "stats": "upkeep",
    "status": "installing",
    "sweep": "packing",
    "sync": "locked_skills",
    "tag": "branching",
    "trust": "signing",
    "twin_addresses": "composing.methods.twin.twin_addresses",
    "undelete": "branching",
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
