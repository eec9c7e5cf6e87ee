"""A live model as the host of skills: graft, swap and take off, by name."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from skillpack.checkpoint import open_checkpoint
from skillpack.errors import NotFoundError, UsageError, listing
from skillpack.grafting.addresses import Shelf, check_distinct, grafted
from skillpack.grafting.base import LiveBase
from skillpack.grafting.files import Settings, warn_of_files
from skillpack.grafting.merged import Merged
from skillpack.grafting.originals import HostCopies, Mapped
from skillpack.grafting.overlay.generating import AUTO, wrap_generate
from skillpack.grafting.places import find_places
from skillpack.grafting.wrappers import unwrap

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    import torch

    from skillpack.grafting.addresses import Grafted
    from skillpack.installing.claims import Active
    from skillpack.routing.protocol import Route, Router
    from skillpack.summaries import StoreLike

Mode = Literal["merged", "overlay"]
_ATTRIBUTE = "_skillpack_host"
_CACHE = 2 << 30


def host(
    model: torch.nn.Module,
    *,
    mode: Mode = "merged",
    base: str | Path = "copy",
    store: StoreLike = None,
    branch: str = "main",
    cache_bytes: int | None = None,
) -> Host:
    """Make a live model the host of skills. Nothing is written before a skill is grafted.

    Args:
        model: loaded from the base that the skills were packed from, in its dtype or another; torch.compile and
            DistributedDataParallel around it are fine.
        mode: "merged" writes into the weights, in place; "overlay" leaves them alone and adds in the forward pass.
        base: where the base comes back from in merged mode: "copy", from a copy in the CPU's memory of the weights
            that skills touch; "pinned", the same in pinned memory; or the checkpoint itself, a folder or a Hub id,
            which takes no memory, and also proves the base of a model that was loaded as fp16.
        store: where the skills are.
        branch: branch of the library.
        cache_bytes: memory for whole weights that skills make, 0 for none: in merged mode for those that were on
            lately, by default 2 GiB; in overlay mode for blended ones, by default four thirds of the model's own.

    Returns:
        The host. A model with skills on it keeps the one that it has.

    Raises:
        UnsupportedModelError: a model that cannot take skills; says why.
        UsageError: the model has skills on it in the other mode.
    """
    inner = unwrap(model)
    present = vars(inner).get(_ATTRIBUTE)
    if isinstance(present, Host) and (present.installed or present.resident):
        if present.mode != mode:
            raise UsageError(
                f"The model has skills on it in {present.mode} mode", hint="Take them off first: host.ungraft()."
            )
        return present
    made = Host(model, mode=mode, base=base, store=store, branch=branch, cache_bytes=cache_bytes)
    vars(inner)[_ATTRIBUTE] = made
    return made


class Host:
    """Skills on a live model. Made by `skillpack.host`.

    All calls may come from any thread, one of them at a time does its work. A forward pass that runs while weights
    are written sees some of each; keeping them apart is up to the caller.

    Attributes:
        model: as it was given.
        mode: "merged" or "overlay".
        router: chooses the skills of ``generate(skills="auto")`` and `routing`; set it to what `skillpack.open_router`
            gives.
        routed: what it chose last.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        *,
        mode: Mode,
        base: str | Path,
        store: StoreLike,
        branch: str,
        cache_bytes: int | None,
    ) -> None:
        if mode not in {"merged", "overlay"}:
            raise UsageError(f"There is no mode {mode!r}", hint='Modes are "merged" and "overlay".')
        if cache_bytes is not None and cache_bytes < 0:
            raise UsageError(f"cache_bytes cannot be {cache_bytes}", hint="0 keeps no weights that skills make.")
        self.model = model
        self.mode = mode
        self._lock = threading.RLock()
        self._shelf = Shelf(store, branch)
        inner = unwrap(model)
        places = find_places(inner)
        copies = str(base) in {"copy", "pinned"}
        checkpoint = None if copies else open_checkpoint(base)
        self._base = LiveBase(
            places, Mapped(checkpoint) if checkpoint else HostCopies(pinned=base == "pinned"), checkpoint
        )
        self._settings = Settings(inner, self._base.companions.get("generation_config.json"))
        self._told: set[str] = set()
        self.router: Router | None = None
        self.routed: tuple[Route, ...] = ()
        wrap_generate(inner, self.rows if mode == "overlay" else None, self._routed)
        if mode == "overlay":
            from skillpack.grafting.overlaid import Overlaid

            self._engine: Any = Overlaid(inner, places, self._base, cache_bytes)
        else:
            self._engine = Merged(self._base, _CACHE if cache_bytes is None else cache_bytes, pinned=base == "pinned")

    @property
    def installed(self) -> tuple[Grafted, ...]:
        """The skills that apply to every row now, sorted by name."""
        return tuple(grafted(active) for active in self._engine.active)

    @property
    def resident(self) -> tuple[Grafted, ...]:
        """The skills that are loaded, whether applied or not; in merged mode those that are installed."""
        if self.mode == "merged":
            return self.installed
        return tuple(
            grafted(active)._replace(nbytes=self._engine.nbytes(active.skill.digest))
            for active in self._engine.resident
        )

    def graft(self, *addresses: str) -> None:
        """Put skills on the model, beside those that are on it; another version or weight of one replaces it.

        Everything is checked before anything is written, and an error or an interrupt leaves the model as it was.

        Args:
            addresses: ``math``, ``math@3``, with a weight ``code=0.5`` or ``code:0.5``.

        Raises:
            NotFoundError: there is no such skill.
            NotTrustedError: the policy requires a signature and none of a skill's counts.
            WrongBaseError: the model was not loaded from the base of a skill.
            ConflictError: skills do not go together, or not on a live model; says why.
            ModifiedModelError: somebody else has changed weights that skills have touched.
            UsageError: a weight is no number, or a skill is named twice.
        """
        with self._lock:
            found = self._find(addresses)
            names = {each.skill.name for each in found}
            self._select([*(each for each in self._engine.active if each.skill.name not in names), *found])

    def swap(self, *addresses: str) -> None:
        """Put exactly these skills on the model, in one step, whatever is on it.

        Raises:
            see `graft`.
        """
        with self._lock:
            self._select(self._find(addresses))

    def ungraft(self, *names: str) -> None:
        """Take skills off the model; with no name, all of them. Without skills, the base is back bit for bit.

        Raises:
            NotFoundError: a skill is not on the model.
            ModifiedModelError: as for `graft`.
        """
        with self._lock:
            present = {each.skill.name: each for each in self._engine.active}
            _check_known(names, present, "on the model")
            self._select([each for name, each in present.items() if names and name not in names])

    def load(self, *addresses: str) -> None:
        """Make skills ready without applying them: in merged mode, compute their weights as far as the cache has room.

        Raises:
            see `graft`.
        """
        with self._lock:
            for each in self._find(addresses):
                self._engine.load(self._engine.plan([each]))

    def unload(self, *names: str) -> None:
        """Forget skills that are loaded and not applied; with no name, all of those. Only in overlay mode.

        Args:
            names: of skills, with all versions that are loaded; or ``name@digest``, as `resident` has it, for one.

        Raises:
            NotFoundError: a skill is not loaded.
            UsageError: it is applied, or the mode is "merged".
        """
        with self._lock:
            self._overlaid("unload").unload(names)

    @contextmanager
    def using(self, *addresses: str) -> Iterator[Host]:
        """Within this, exactly these skills are on the model; then what was on it before, also after exceptions.

        Args:
            addresses: as for `graft`. Those that a router has chosen for a prompt are ``*route.addresses``, in both
                modes, and none if the base serves it.

        Raises:
            see `graft`.
        """
        before = self._engine.active
        try:
            self.swap(*addresses)
            yield self
        finally:
            with self._lock:
                self._select(before)

    def rows(self, skills: Sequence[Any]) -> AbstractContextManager[None]:
        """Within this, each row of the batch has its own skills. Only in overlay mode.

        Args:
            skills: for each row None, an address, or a sequence of addresses.

        Raises:
            NotFoundError: there is no such skill.
            UsageError: the mode is "merged".
        """
        engine = self._overlaid("rows")
        with self._lock:
            return engine.rows([self._find(_addresses(row)) for row in skills])

    @contextmanager
    def routing(self, prompts: Sequence[Any]) -> Iterator[tuple[Route, ...]]:
        """Within this, each row of a batch has the skills that the router chooses for its prompt. Only in overlay mode.

        Args:
            prompts: see `skillpack.routing.protocol.Router.route`.

        Yields:
            Where each prompt goes.

        Raises:
            UsageError: there is no router, or the mode is "merged".
            DataError: a prompt is empty.
        """
        with self.rows(self._routed(prompts)):
            yield self.routed

    def verify(self) -> None:
        """Compare every weight that skills have touched with what base and skills say, computed anew.

        Raises:
            ModifiedModelError: names the tensors that differ.
        """
        with self._lock:
            self._engine.verify()

    def _find(self, addresses: Sequence[str]) -> list[Active]:
        """Open skills. A user who writes "auto" means no skill, unless there is one of this name."""
        if AUTO in addresses:
            try:
                self._shelf.find([AUTO])
            except NotFoundError as error:
                raise UsageError(
                    'There is no skill "auto", and a router can choose skills only where it is given prompts',
                    hint='Write host.routing(prompts), generate(skills="auto"), or host.using(*route.addresses), where '
                    "route is what a router found for a prompt.",
                ) from error
        return self._shelf.find(addresses)

    def _select(self, active: Sequence[Active]) -> None:
        check_distinct(active)
        settle, left = self._settings.with_skills(active)
        plan = self._engine.plan(active)
        new = {
            each.skill.digest: each.skill.name
            for each in active
            if each.skill.digest not in self._told and any(file.path in left for file in each.skill.manifest.files)
        }
        # Before anything is written: a warning may be an error.
        warn_of_files(list(new.values()), left, 4)
        self._engine.apply(plan, settle)
        self._told.update(new)

    def _routed(self, prompts: Sequence[Any]) -> list[list[str]]:
        if self.router is None:
            raise UsageError(
                "The host has no router to choose skills",
                hint="Give it one: host.router = skillpack.open_router(model, tokenizer, store=…).",
            )
        self._overlaid("routing")
        self.routed = tuple(self.router.route(prompts))
        return [route.addresses for route in self.routed]

    def _overlaid(self, what: str) -> Any:
        if self.mode != "overlay":
            raise UsageError(
                f"{what} needs overlay mode", hint='Make the host with mode="overlay", or use graft and ungraft.'
            )
        return self._engine

    def __deepcopy__(self, memo: object) -> None:
        """A copy of the model is another model, which has no host."""

    def __reduce__(self) -> tuple[Any, ...]:
        """A model that is saved with pickle leaves its host behind."""
        return type(None), ()

    def __repr__(self) -> str:
        skills = ", ".join(f"{each.label}={each.weight:g}" for each in self.installed) or "no skills"
        return f"<Host of {type(unwrap(self.model)).__name__}, {self.mode}: {skills}>"


def _check_known(names: Sequence[str], known: Any, where: str) -> None:
    if missing := [name for name in names if name not in known]:
        raise NotFoundError(
            f"{listing(missing)} is not {where}",
            hint=f"There are: {listing(sorted(known))}." if known else "There are none.",
        )


def _addresses(row: str | Sequence[str] | None) -> list[str]:
    if row is None:
        return []
    return [row] if isinstance(row, str) else list(row)
