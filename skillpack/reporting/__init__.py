"""A library as one page of HTML: everything in the file, nothing from the network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from skillpack.progress import Progress, silent
from skillpack.reporting.gathering import gather
from skillpack.reporting.inputs import read_curve, read_evaluated, read_learned
from skillpack.reporting.rendering import rendered
from skillpack_store import disk

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skillpack.summaries import StoreLike

__all__ = ["LibraryPage", "report"]


@dataclass(frozen=True)
class LibraryPage:
    """A page that was written.

    Attributes:
        path: the file.
        size: its bytes.
        skills: how many skills it shows.
        commit: digest of the commit that it shows; None if the branch has no skill yet.
    """

    path: Path
    size: int
    skills: int
    commit: str | None


def report(
    output: str | Path = "report.html",
    *,
    learn: Sequence[str | Path] = (),
    sweeps: Sequence[str | Path] = (),
    evals: Sequence[str | Path] = (),
    title: str = "Skill library",
    base: str | Path | None = None,
    store: StoreLike = None,
    branch: str = "main",
    progress: Progress = silent,
) -> LibraryPage:
    """Write a page about a library: one HTML file that needs no network and no server.

    Equal libraries and files give equal bytes. What is found out about a skill's deltas is remembered in the store, so
    that only new skills are decoded.

    Args:
        output: the file; replaced if it is there.
        learn: files that `skillpack learn` wrote, ``learn.json``.
        sweeps: files that `skillpack pack --sweep` wrote, ``curve.json``.
        evals: files with what `skillpack eval --json` printed.
        title: of the page.
        base: the model that the skills go on: folder, ``.safetensors`` file or hub id. Without it the page does not say
            where a skill changes what comes back bit for bit.
        store: where the skills are.
        branch: branch of the library.
        progress: called during the work.

    Raises:
        NoStoreError: there is no store.
        UsageError: a file is not what it should be.
        WrongBaseError: a skill goes on another base than `base`.
        CorruptStoreError, DamagedSkillError: a skill is damaged.
        OSError: the page cannot be written.

    Example:
        >>> report("library.html", sweeps=["math-curve/curve.json"]).size  # doctest: +SKIP
        214503
    """
    learned = [read_learned(path) for path in learn]
    curves = [read_curve(path) for path in sweeps]
    evaluated = [read_evaluated(path) for path in evals]
    library = gather(base=base, store=store, branch=branch, progress=progress)
    content = rendered(library, title, learned, curves, evaluated).encode()
    disk.replace(Path(output), [content])
    return LibraryPage(Path(output), len(content), len(library.skills), library.commit)
