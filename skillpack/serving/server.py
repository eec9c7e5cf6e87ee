"""Running a server: open the base, load skills, listen, and stop in good order."""

from __future__ import annotations

import ipaddress
import logging
import socket
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from skillpack.errors import NoStoreError, SkillPackError, UsageError
from skillpack.summaries import StoreLike, open_existing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from skillpack.routing.protocol import Threshold
    from skillpack.serving.logs import Log
    from skillpack.serving.scheduler import Scheduler
    from skillpack.serving.shelf import Offered, Shelf

_logger = logging.getLogger(__name__)
_PIECE: Final = {"cpu": 128}
_LARGE_PIECE: Final = 512
"""Tokens of a prompt in one forward pass; a GPU is idle with few."""
_BACKLOG: Final = 2048


@dataclass(frozen=True)
class ServeSettings:
    """How a server runs.

    Attributes:
        host: address to listen on; 127.0.0.1 is reached from this machine only.
        port: 0 takes any that is free.
        api_key: that clients must show; None lets everybody in.
        allow_anyone: listen on an address that others reach, without a key.
        name: of the base for clients; by default that of its folder or its Hub id.
        loading: clients may load and unload skills.
        slots: answers that are written at the same time.
        queue: answers that wait for a slot; what comes beyond them is turned away.
        max_tokens: of an answer.
        max_skills: that are loaded at the same time.
        max_body: bytes of a request.
        timeout: seconds that an answer may take, waiting included; also how long a stop waits for answers.
        router: method by which skills are chosen for the model NAME+auto; None to offer no such model.
        router_top_k: most skills that are chosen for a prompt; several have equal shares of their deltas.
        router_threshold: least score of a skill that is chosen; "auto" is what the method finds for each skill.
        prefix_cache: bytes of beginnings of prompts that are kept; 0 for none.
        device: of the model; by default a GPU if there is one.
        dtype: that the model computes in: float32, bfloat16 or float16; by default fp32 on a CPU, and the checkpoint's
            elsewhere.
        tls_cert: file of a certificate with its chain, PEM; turns https on.
        tls_key: file of its private key, PEM.
        log: lines for people, lines of JSON, or only what goes wrong.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = field(default=None, repr=False)
    allow_anyone: bool = False
    name: str | None = None
    loading: bool = True
    slots: int = 8
    queue: int = 64
    max_tokens: int = 1024
    max_skills: int = 32
    max_body: int = 4 << 20
    timeout: float = 600.0
    router: str | None = None
    router_top_k: int = 1
    router_threshold: Threshold = "auto"
    prefix_cache: int = 256 << 20
    device: str | None = None
    dtype: str | None = None
    tls_cert: str | Path | None = None
    tls_key: str | Path | None = None
    log: Log = "text"


@dataclass(frozen=True)
class Serving:
    """A server that answers.

    Attributes:
        url: where.
        base: name of the base.
        skills: what is loaded.
        device: on which the model runs.
        context: most tokens of a prompt with its answer.
        stop: ends the server as a signal does: first in good order, and at once when it is called again.
    """

    url: str
    base: str
    skills: tuple[Offered, ...]
    device: str
    context: int
    stop: Callable[[], None]


def serve(
    base: str | Path,
    skills: Sequence[str] | str = (),
    *,
    store: StoreLike = None,
    branch: str = "main",
    settings: ServeSettings | None = None,
    ready: Callable[[Serving], None] | None = None,
) -> None:
    """Answer requests as OpenAI's servers do, each with the skills that it names, until the program is told to stop.

    Several requests with different skills run in the same forward pass. See docs/serving.md.

    Args:
        base: a model folder or a Hub id.
        skills: addresses of those to load at once, without weights; requests choose weights.
        store: where skills are.
        branch: branch of the library.
        settings: how to run.
        ready: is called when the server answers.

    Raises:
        CheckpointError: the base cannot be opened.
        NotFoundError: there is no such skill.
        SkillPackError: the address is taken, a library is missing, or the certificate cannot be used.
        UsageError: others could reach the server without a key.
        UnsupportedCheckpointError: the base cannot be served.
        WrongBaseError: a skill was packed from another base.
    """
    settings = settings or ServeSettings()
    _check(settings)
    _check_libraries()
    with _listen(settings.host, settings.port) as listener:
        opened = _Opened(base, [skills] if isinstance(skills, str) else skills, store, branch, settings)
        try:
            opened.run(listener, ready)
        finally:
            opened.scheduler.close()


class _Opened:
    """A base that is ready to be served."""

    def __init__(
        self, base: str | Path, skills: Sequence[str], store: StoreLike, branch: str, settings: ServeSettings
    ) -> None:
        from skillpack.checkpoint import open_checkpoint
        from skillpack.fingerprint import fingerprint, tensor_digests
        from skillpack.serving.metrics import Metrics
        from skillpack.serving.opening import open_base
        from skillpack.serving.resident import OverlaidSkills
        from skillpack.serving.scheduler import Scheduler
        from skillpack.serving.shelf import Shelf
        from skillpack.serving.stepping import Stepper
        from skillpack.serving.voices import Voices

        self._settings = settings
        self.model, folder = open_base(base, settings.device, settings.dtype)
        self.fingerprint = fingerprint(tensor_digests(open_checkpoint(base)))
        self.metrics = Metrics()
        resident = OverlaidSkills(self.model, base)
        device = self.model.get_input_embeddings().weight.device.type
        self.stepper = Stepper(self.model, resident, rows=settings.slots, piece=_PIECE.get(device, _LARGE_PIECE))
        if settings.slots > 1:
            self.stepper.check()
        self.scheduler: Scheduler = Scheduler(
            self.stepper,
            rows=settings.slots,
            queue=settings.queue,
            prefix_bytes=settings.prefix_cache,
            metrics=self.metrics,
        )
        self.shelf: Shelf = Shelf(
            settings.name or _name(base),
            _store(store, needed=bool(skills)),
            branch,
            resident=resident,
            between_steps=self.scheduler.between_steps,
            voices=Voices(folder),
            most=settings.max_skills,
        )
        self.shelf.release(self.shelf.select(self.shelf.base).choice)
        self.scheduler.start()
        try:
            for address in skills:
                self.shelf.load(address)
            self.auto = self._auto_route(resident, folder, store, branch)
        except BaseException:
            self.scheduler.close()
            raise

    def _auto_route(self, resident: Any, folder: Path, store: StoreLike, branch: str) -> Any:
        if self._settings.router is None:
            return None
        from skillpack.live.models import open_tokenizer
        from skillpack.serving.routing import AutoRoute

        auto = AutoRoute(
            self.model,
            open_tokenizer(folder),
            resident,
            method=self._settings.router,
            top_k=self._settings.router_top_k,
            threshold=self._settings.router_threshold,
            store=store,
            branch=branch,
            shelf=self.shelf,
            between_steps=self.scheduler.between_steps,
        )
        auto.prepare()
        return auto

    def run(self, listener: socket.socket, ready: Callable[[Serving], None] | None) -> None:
        """Answer until the program is told to stop."""
        server = _server(self._application(), self._settings)
        url = _url(self._settings, listener)

        def answering() -> None:
            if ready is not None:
                ready(
                    Serving(
                        url,
                        self.shelf.base,
                        tuple(self.shelf.offered()),
                        str(self.stepper.device),
                        self.stepper.context,
                        server.stop,
                    )
                )

        server.answering = answering
        server.run(sockets=[listener])

    def _application(self) -> Any:
        from skillpack.serving.application import application
        from skillpack.serving.guards import LOOPBACK, Limits
        from skillpack.serving.routes import Service

        settings, shelf = self._settings, self.shelf
        self.metrics.watch(
            slots=lambda: settings.slots, skills=lambda: len(shelf.offered()), retired=lambda: shelf.retired
        )
        service = Service(
            shelf=shelf,
            scheduler=self.scheduler,
            metrics=self.metrics,
            base_digest=self.fingerprint,
            context=self.stepper.context,
            vocabulary=self.stepper.vocabulary,
            most_tokens=settings.max_tokens,
            timeout=settings.timeout,
            can_load=settings.loading,
            auto=self.auto,
            version=version("skillpack"),
            started=int(time.time()),
        )
        trusting = settings.api_key is None and _is_loopback(settings.host)
        limits = Limits(
            body=settings.max_body,
            seconds=min(Limits.seconds, settings.timeout),
            hosts=LOOPBACK if trusting else frozenset(),
        )
        return application(service, settings.api_key, limits)


def _server(app: Any, settings: ServeSettings) -> Any:
    """A server of uvicorn that says when it answers, and for which a signal to stop is no failure."""
    import uvicorn

    from skillpack.serving.logs import logging_config

    class Server(uvicorn.Server):
        answering: Callable[[], None]

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            self.answering()

        def handle_exit(self, sig: int, frame: Any) -> None:
            del sig, frame
            self.stop()

        def stop(self) -> None:
            self.force_exit = self.should_exit
            self.should_exit = True

    try:
        config = uvicorn.Config(
            app,
            log_config=logging_config(settings.log),
            access_log=settings.log != "quiet",
            lifespan="off",
            server_header=False,
            proxy_headers=False,
            backlog=_BACKLOG,
            timeout_graceful_shutdown=max(1, int(settings.timeout)),
            ssl_certfile=settings.tls_cert,
            ssl_keyfile=settings.tls_key,
        )
        config.load()
    except OSError as error:  # ssl.SSLError is one
        raise SkillPackError(f"The certificate cannot be used: {error}", hint="Give PEM files.") from error
    return Server(config)


def _check(settings: ServeSettings) -> None:
    if settings.api_key is not None and not (settings.api_key.isascii() and settings.api_key.strip()):
        raise UsageError("The API key must be of ASCII characters, and not empty")
    if not (settings.api_key or settings.allow_anyone or _is_loopback(settings.host)):
        raise UsageError(
            f"Anybody who reaches {settings.host} could use this server, because no API key is set",
            hint="Set one with --api-key or SKILLPACK_API_KEY, or say --allow-anyone.",
        )
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise UsageError("A certificate and its key are needed together", hint="Give --tls-cert and --tls-key.")
    for name in ("slots", "max_tokens", "max_skills", "max_body", "timeout"):
        if getattr(settings, name) <= 0:
            raise UsageError(f"{name.replace('_', '-')} must be at least 1")
    if settings.queue < 0 or settings.prefix_cache < 0:
        raise UsageError("queue and prefix-cache cannot be negative")
    _check_router(settings)


def _check_router(settings: ServeSettings) -> None:
    if settings.router is None:
        if (settings.router_top_k, settings.router_threshold) != (1, "auto"):
            raise UsageError(
                "router-top-k and router-threshold say how a router chooses, and there is none",
                hint="Give --router, such as --router prototype.",
            )
        return
    from skillpack.routing.router import check_limits
    from skillpack.serving.choices import MOST_SKILLS

    check_limits(settings.router_top_k, settings.router_threshold)
    if settings.router_top_k > MOST_SKILLS:
        raise UsageError(f"router-top-k must be at most {MOST_SKILLS}, as many as a model may have")


def _check_libraries() -> None:
    try:
        import fastapi
        import prometheus_client
        import uvicorn
    except ImportError as error:
        raise SkillPackError(
            f"Serving needs a library that is not installed: {error.name}", hint='pip install "skillpack[serve]"'
        ) from error
    del fastapi, prometheus_client, uvicorn


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listen(host: str, port: int) -> socket.socket:
    """A socket that has the address, and does not answer yet: opening a model takes a while."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise SkillPackError(f"There is no address {host}: {error}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise SkillPackError(
            f"Cannot listen on {host} port {port}: {error.strerror}", hint="Choose another with --port."
        ) from error
    return listener


def _url(settings: ServeSettings, listener: socket.socket) -> str:
    scheme = "http" if settings.tls_cert is None else "https"
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{scheme}://{host}:{listener.getsockname()[1]}"


def _name(base: str | Path) -> str:
    """How clients call a base: a folder by its last name, one of the Hub by its id."""
    path = Path(base)
    return path.resolve().name if path.exists() else str(base)


def _store(store: StoreLike, *, needed: bool) -> Any:
    try:
        return open_existing(store)
    except NoStoreError:
        if needed or store is not None:
            raise
        return None
