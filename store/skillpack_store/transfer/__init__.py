"""Moving libraries between stores and remotes: objects first, refs last, every byte hashed on arrival."""

from __future__ import annotations

from skillpack_store.transfer.fetching import fetch
from skillpack_store.transfer.looking import SeenSkill, look_at, look_at_attachment
from skillpack_store.transfer.pulling import pull, pull_skills
from skillpack_store.transfer.pushing import push
from skillpack_store.transfer.reports import RefChange, TransferReport, ls_remote

__all__ = [
    "RefChange",
    "SeenSkill",
    "TransferReport",
    "fetch",
    "look_at",
    "look_at_attachment",
    "ls_remote",
    "pull",
    "pull_skills",
    "push",
]
