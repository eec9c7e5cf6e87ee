"""The endpoints."""

from __future__ import annotations

import hashlib
import logging
import time
import urllib.parse
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, PlainTextResponse, Response

from skillpack.serving.answers import Chat, Completion, Result, usage_of
from skillpack.serving.failures import RequestError
from skillpack.serving.jobs import GoneError, Job
from skillpack.serving.protocol import (  # FastAPI reads the annotations of endpoints
    ChatRequest,  # noqa: TC001
    CompletionRequest,  # noqa: TC001
    LoadRequest,  # noqa: TC001
    UnloadRequest,  # noqa: TC001
)
from skillpack.serving.sequences import Sequence
from skillpack.serving.streams import EventStream
from skillpack.serving.texts import Text

if TYPE_CHECKING:
    from skillpack.serving.answers import Form
    from skillpack.serving.metrics import Metrics
    from skillpack.serving.protocol import Generation
    from skillpack.serving.routing import AutoRoute
    from skillpack.serving.scheduler import Scheduler
    from skillpack.serving.shelf import Offered, Selection, Shelf

_logger = logging.getLogger(__name__)
ENDPOINTS: Final = frozenset(
    {
        "/health",
        "/metrics",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/load_lora_adapter",
        "/v1/models",
        "/v1/unload_lora_adapter",
        "/version",
    }
)
_DEFAULT_COMPLETION: Final = 16
"""Tokens of a completion for which no number is given, as at OpenAI's."""
MODEL_HEADER: Final = "x-skillpack-model"
"""Header of an answer: the model that gave it, with the skills that were chosen for ``NAME+auto``."""
_GONE_STATUS: Final = 499
"""What nginx calls a request whose client went away; nobody gets it."""


@dataclass(frozen=True)
class Service:
    """What the endpoints work with.

    Attributes:
        shelf: the skills.
        scheduler: writes answers.
        metrics: counts them.
        base_digest: fingerprint of the base.
        context: most tokens of a prompt with its answer.
        vocabulary: tokens that the model knows.
        most_tokens: of an answer.
        timeout: seconds that an answer may take, waiting included.
        can_load: clients may load and unload skills.
        auto: chooses skills for prompts; None if clients always do.
        version: of the program.
        started: in seconds since 1970.
    """

    shelf: Shelf
    scheduler: Scheduler
    metrics: Metrics
    base_digest: str
    context: int
    vocabulary: int
    most_tokens: int
    timeout: float
    can_load: bool
    auto: AutoRoute | None
    version: str
    started: int


def routes(service: Service) -> APIRouter:
    """The endpoints of a service."""
    router = APIRouter()
    _add_generation(router, service)
    _add_skills(router, service)
    _add_watching(router, service)
    return router


def _add_generation(router: APIRouter, service: Service) -> None:
    @router.post("/v1/chat/completions", response_model=None)
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        """Answer a chat."""

        def prompts(selection: Selection) -> list[list[int]]:
            return [selection.voice.chat([message.plain() for message in body.messages])]

        return await _Generating(service, body, Chat, body.likely, body.most).run(request, prompts)

    @router.post("/v1/completions", response_model=None)
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """Continue texts."""

        def prompts(selection: Selection) -> list[list[int]]:
            return [selection.voice.text(prompt) if isinstance(prompt, str) else prompt for prompt in body.prompts]

        most = _DEFAULT_COMPLETION if body.max_tokens is None else body.max_tokens
        return await _Generating(service, body, Completion, body.logprobs, most).run(request, prompts)


def _add_skills(router: APIRouter, service: Service) -> None:
    @router.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The base, and each skill on it."""
        offered = [_model(service, found) for found in service.shelf.offered()]
        auto = [] if service.auto is None else [{**_model(service, None), "id": service.auto.model}]
        return {"object": "list", "data": [_model(service, None), *auto, *offered]}

    @router.get("/v1/models/{model:path}")
    async def model(model: str) -> dict[str, Any]:
        """One of them, or any other way to choose skills."""
        if service.auto is not None and model == service.auto.model:
            return {**_model(service, None), "id": model}
        selection = await run_in_threadpool(service.shelf.select, model)
        service.shelf.release(selection.choice)
        known = {found.name: found for found in service.shelf.offered()}
        found = known.get(selection.skills[0]) if len(selection.skills) == 1 else None
        return {**_model(service, found), "id": model, "skillpack": _skills(selection)}

    @router.post("/v1/load_lora_adapter")
    async def load_lora_adapter(body: LoadRequest) -> PlainTextResponse:
        """Load a skill of the library."""
        _check_loading(service)
        address = body.lora_path or body.lora_name
        found = await run_in_threadpool(service.shelf.load, address, body.lora_name, replace=body.load_inplace)
        _logger.info("Loaded %s as %s (%s)", found.label, found.name, found.digest)
        return PlainTextResponse(f"Success: LoRA adapter '{found.name}' added successfully.")

    @router.post("/v1/unload_lora_adapter")
    async def unload_lora_adapter(body: UnloadRequest) -> PlainTextResponse:
        """Offer a skill no more."""
        _check_loading(service)
        found = await run_in_threadpool(service.shelf.unload, body.lora_name)
        _logger.info("Unloaded %s (%s)", found.name, found.digest)
        return PlainTextResponse(f"Success: LoRA adapter '{found.name}' removed successfully.")


def _add_watching(router: APIRouter, service: Service) -> None:
    @router.get("/health")
    async def health() -> JSONResponse:
        """Whether answers can be had."""
        alive = service.scheduler.is_alive
        return JSONResponse({"status": "ok" if alive else "failed"}, 200 if alive else 503)

    @router.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Measurements for Prometheus."""
        return Response(service.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @router.get("/version")
    async def version() -> dict[str, str]:
        """Version of the program."""
        return {"version": service.version}


class _Generating:
    """One request for answers."""

    def __init__(
        self,
        service: Service,
        body: Generation,
        form: type[Chat | Completion],
        likely: int | None,
        most: int | None,
    ) -> None:
        self._service = service
        self._body = body
        self._form = form
        self._likely = likely
        self._most = most
        self._start = time.perf_counter()

    async def run(self, request: Request, prompts: Any) -> Response:
        """Answer it."""
        selection = await run_in_threadpool(self._select, prompts)
        job = Job(self._service.scheduler, self._service.metrics, lambda: self._service.shelf.release(selection.choice))
        try:
            tokens = await run_in_threadpool(prompts, selection)
            job.sequences = self._sequences(tokens, selection, job)
            job.submit()
        except BaseException:
            job.close()
            raise
        digest = _fingerprint(self._service.base_digest, selection)
        form = self._form(self._named(selection), digest, selection.voice, report=self._likely is not None)
        if self._body.stream:
            return self._stream(job, form, len(tokens), selection)
        return await self._whole(job, form, len(tokens), selection, request)

    def _select(self, prompts: Any) -> Selection:
        """The skills that the client names, or those that its prompt is routed to."""
        shelf, auto = self._service.shelf, self._service.auto
        if auto is None or self._body.model != auto.model:
            return shelf.select(self._body.model)
        plain = shelf.select(shelf.base)
        try:
            asked = prompts(plain)
        finally:
            shelf.release(plain.choice)
        if len(asked) != 1:
            message = f"{auto.model} takes one prompt at a time, and there are {len(asked)}"
            raise RequestError(400, message, param="prompt", code="invalid_value")
        self._room(asked[0])
        return auto.select(asked[0])

    def _named(self, selection: Selection) -> str:
        """The model as the answer names it: as the client did, or what has been chosen for it."""
        auto = self._service.auto
        return selection.model if auto is not None and self._body.model == auto.model else self._body.model

    def _headers(self, selection: Selection) -> dict[str, str]:
        """Says which model answers; what no header can hold is written with per cent signs."""
        return {MODEL_HEADER: urllib.parse.quote(self._named(selection), safe="+=/.:@")}

    def _stream(self, job: Job, form: Form, prompts: int, selection: Selection) -> EventStream:
        return EventStream(
            job,
            form,
            lambda: usage_of(job.sequences, prompts),
            lambda outcome: self._log(job, selection, prompts, outcome),
            headers=self._headers(selection),
            with_usage=self._body.with_usage,
            every=self._likely is not None,
        )

    async def _whole(self, job: Job, form: Form, prompts: int, selection: Selection, request: Request) -> Response:
        results = [Result() for _ in job.sequences]
        outcome = "stopped"
        try:
            async with aclosing(job.updates(request.receive)) as updates:
                async for update in updates:
                    results[update.number].add(update)
            outcome = "finished"
        except GoneError:
            outcome = "disconnected"
            return Response(status_code=_GONE_STATUS)
        except Exception:
            outcome = "failed"
            raise
        finally:
            job.close()
            self._log(job, selection, prompts, outcome)
        answer = form.whole(results, usage_of(job.sequences, prompts))
        return JSONResponse(answer, headers=self._headers(selection))

    def _sequences(self, prompts: list[list[int]], selection: Selection, job: Job) -> list[Sequence]:
        """The answers to write, those to the first prompt first."""
        sampling, seed = self._body.sampling(self._likely), self._body.seed_or_random()
        if any(token >= self._service.vocabulary for token in sampling.bias):
            raise RequestError(400, "logit_bias names a token that there is not", param="logit_bias")
        ends = frozenset() if self._body.ignore_eos else selection.voice.ends
        deadline, each = time.monotonic() + self._service.timeout, self._body.n or 1
        return [
            Sequence(
                number=place * each + copy,
                prompt=prompt,
                choice=selection.choice,
                skills=selection.skills,
                sampling=sampling,
                seed=seed,
                most=self._room(prompt),
                ends=ends,
                text=Text(selection.voice.decoder, self._body.stops),
                deliver=job.deliver,
                deadline=deadline,
            )
            for place, prompt in enumerate(prompts)
            for copy in range(each)
        ]

    def _room(self, prompt: list[int]) -> int:
        """How many tokens an answer to a prompt may have."""
        service = self._service
        if not prompt:
            raise RequestError(400, "The prompt is empty", param="prompt", code="invalid_value")
        if max(prompt) >= service.vocabulary:
            raise RequestError(400, "The prompt has a token that there is not", param="prompt", code="invalid_value")
        if self._most is not None and self._most > service.most_tokens:
            message = f"This server gives {service.most_tokens} tokens at most, and {self._most} were asked for"
            raise RequestError(400, message, param="max_tokens", code="invalid_value")
        room = service.context - len(prompt)
        if room < (self._most or 1):
            wanted = f", and {self._most} were asked for" if self._most else ""
            raise RequestError(
                400,
                f"The model's context has {service.context} tokens; the prompt takes {len(prompt)} of them{wanted}",
                param="messages" if self._form is Chat else "prompt",
                code="context_length_exceeded",
            )
        return min(self._most or service.most_tokens, room)

    def _log(self, job: Job, selection: Selection, prompts: int, outcome: str) -> None:
        usage = usage_of(job.sequences, prompts)
        _logger.info(
            "%s %s: %d tokens for %d in %.2f s, skills %s",
            selection.model,
            outcome,
            usage["completion_tokens"],
            usage["prompt_tokens"],
            time.perf_counter() - self._start,
            ", ".join(f"{digest[:19]}={weight:g}" for digest, weight in selection.choice) or "none",
        )


def _check_loading(service: Service) -> None:
    if not service.can_load:
        raise RequestError(403, "This server was started with fixed skills", code="loading_disabled")


def _model(service: Service, found: Offered | None) -> dict[str, Any]:
    """A model as OpenAI lists it, with what vLLM adds to adapters and the digest that tells versions apart."""
    base = service.shelf.base
    return {
        "id": base if found is None else f"{base}+{found.name}",
        "object": "model",
        "created": service.started if found is None else int(found.since),
        "owned_by": "skillpack",
        "root": base if found is None else found.label,
        "parent": None if found is None else base,
        "max_model_len": service.context,
        "digest": service.base_digest if found is None else found.digest,
    }


def _skills(selection: Selection) -> dict[str, Any]:
    return {"skills": [{"digest": digest, "weight": weight} for digest, weight in selection.choice]}


def _fingerprint(base: str, selection: Selection) -> str:
    """The same for the same weights, and only for those."""
    return f"fp_{hashlib.sha256(repr((base, selection.choice)).encode()).hexdigest()[:16]}"
