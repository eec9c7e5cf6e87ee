"""Answers as server-sent events."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from skillpack.serving.failures import explain
from skillpack.serving.jobs import GoneError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.types import Receive, Scope, Send

    from skillpack.serving.answers import Form
    from skillpack.serving.jobs import Job

_logger = logging.getLogger(__name__)


class EventStream(Response):
    """Sends the answers of a job piece by piece, and lets go of it in the end.

    Args:
        job: has been submitted.
        form: how pieces are written.
        usage: what it cost, once it is finished.
        with_usage: the client wants to know.
        every: the client wants to know every token, also where no text is certain yet.
        finished: is called with what came of it, for the log.
        headers: of the answer, beside those of any stream.
    """

    def __init__(
        self,
        job: Job,
        form: Form,
        usage: Callable[[], dict[str, Any]],
        finished: Callable[[str], None],
        *,
        with_usage: bool,
        every: bool,
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **headers})
        del self.headers["content-length"]
        self.headers["content-type"] = "text/event-stream; charset=utf-8"
        self._job = job
        self._form = form
        self._usage = usage
        self._with_usage = with_usage
        self._every = every
        self._finished = finished

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything."""
        del scope
        outcome = "stopped"
        try:
            outcome = await self._send_all(receive, send)
        except GoneError:
            outcome = "disconnected"
        finally:
            self._job.close()
            self._finished(outcome)

    async def _send_all(self, receive: Receive, send: Send) -> str:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            await self._send_answers(receive, send)
        except (GoneError, asyncio.CancelledError):
            raise
        except Exception as error:
            reported = explain(error)
            if reported.status == 500:
                _logger.exception("A stream failed")
            await _event(send, reported.document)
            await send({"type": "http.response.body", "body": b""})
            return str(reported.code)
        await _body(send, b"data: [DONE]\n\n")
        await send({"type": "http.response.body", "body": b""})
        return "finished"

    async def _send_answers(self, receive: Receive, send: Send) -> None:
        for sequence in self._job.sequences:
            first = self._form.begin(sequence.number)
            if first is not None:
                await _event(send, first)
        async with aclosing(self._job.updates(receive)) as updates:
            async for update in updates:
                if update.error is not None:
                    raise update.error
                if update.text or update.reason or self._every:
                    await _event(send, self._form.piece(update))
        if self._with_usage:
            await _event(send, self._form.end(self._usage()))


async def _event(send: Send, document: dict[str, Any]) -> None:
    await _body(send, b"data: " + json.dumps(document, ensure_ascii=False).encode() + b"\n\n")


async def _body(send: Send, content: bytes) -> None:
    await send({"type": "http.response.body", "body": content, "more_body": True})
