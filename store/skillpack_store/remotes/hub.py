"""The Hugging Face Hub as a remote: ``hf://org/name[@revision]``, a model repository that its users can read.

One layout serves one skill and many, so that adding a second moves no file:

    README.md                      card: base models, tags, a table of the skills; yours, once you edited it
    skillpack.json                 refs, and for each skill of the branch main its digest and its files with theirs
    skills/<name>/manifest.json    the skill's OCI manifest
    skills/<name>/config.json.zst  what the manifest calls config; the ending follows its media type
    skills/<name>/layer-1.safetensors
    skills/<name>/README.md        the card that is attached to it
    .skillpack/blobs/<hex>         every blob of the library, byte for byte, named by its SHA-256

The Hub keeps large content once, however many paths have it. ``.skillpack`` is what is read and what reproduces every
commit bit for bit; ``skills`` and ``README.md`` are a view for people and for tools that download files by name.

**Writes.** The Hub commits in batches. A blob that is written is uploaded at once if the Hub wants it as a large file,
and kept in memory if it does not; the commit on the Hub is made when a ref moves, with the blobs, ``skillpack.json``
and the view together. Before that nothing counts, and a process that ends loses what was not committed (large files
that were uploaded are recognised the next time).

**Races.** ``parent_commit`` makes the Hub refuse a commit if another one was made since ``skillpack.json`` was read:
a true compare-and-swap. If it was another ref that moved, the commit is tried again on top of it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from skillpack_store.errors import RemoteError, StoreError

if TYPE_CHECKING:
    from skillpack_store.remotes.hf.remote import HubRemote

__all__ = ["open_remote"]

_WORD = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?"
_URL = re.compile(rf"hf://({_WORD}/{_WORD})(?:@([A-Za-z0-9][A-Za-z0-9._/-]{{0,199}}))?")


def open_remote(
    url: str,
    *,
    token: str | None = None,
    private: bool | None = None,
    endpoint: str | None = None,
    insecure: bool = False,
    timeout: float = 60.0,
    pause: float = 0.5,
) -> HubRemote:
    """Open a model repository; nothing is sent yet.

    Args:
        url: ``hf://org/name``, with ``@`` and a branch of the repository for another one than ``main``. A tag or a
            commit can be read and not written.
        token: The access token; by default the one that huggingface_hub finds.
        private: Whether a repository that is made by the first write is private; default as the account has it.
        endpoint: The Hub; by default what huggingface_hub uses (``HF_ENDPOINT``).
        insecure: Speak plain HTTP to an endpoint on another machine.
        timeout: Seconds to wait for a connection, and for an answer to begin or go on, when reading.
        pause: Seconds before the first new try of a request, when reading.

    Raises:
        StoreError: ``url`` is not the address of a repository.
        RemoteError: The package that this needs is not installed.
    """
    found = _URL.fullmatch(url)
    if found is None or "--" in found[1] or ".." in url:
        raise StoreError(
            f"{url[:200]!r} is not the address of a repository on the Hugging Face Hub.",
            hint="Write hf://organisation/name, or hf://organisation/name@branch.",
        )
    try:
        from skillpack_store.remotes.hf.remote import HubRemote
    except ModuleNotFoundError as error:
        raise RemoteError(
            f"The Hugging Face Hub needs the package {error.name}, which is not installed.",
            hint='Install it with: pip install "skillpack[remotes]"',
        ) from error
    return HubRemote(
        found[1],
        found[2] or "main",
        token=token,
        private=private,
        endpoint=endpoint,
        insecure=insecure,
        timeout=timeout,
        pause=pause,
    )
