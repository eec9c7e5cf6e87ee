"""Errors as OpenAI's servers write them: ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from skillpack.errors import (
    BusyError,
    ConflictError,
    DataError,
    NotFoundError,
    NotTrustedError,
    ReportedError,
    UsageError,
    WrongBaseError,
)
from skillpack.serving.protocol import UNSUPPORTED
from skillpack.serving.sequences import TooSlowError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fastapi import FastAPI
    from starlette.requests import Request

_logger = logging.getLogger(__name__)
_INVALID: Final = "invalid_request_error"
_SERVER: Final = "server_error"
_PHRASES: Final = {404: "Invalid URL ({method} {path})", 405: "Not allowed to {method} on {path}"}
_CODES: Final[tuple[tuple[type[BaseException], int, str], ...]] = (
    (NotFoundError, 404, "model_not_found"),
    (NotTrustedError, 403, "not_trusted"),
    (WrongBaseError, 400, "wrong_base"),
    (ConflictError, 400, "conflict"),
    (UsageError, 400, "invalid_value"),
    (DataError, 400, "invalid_value"),
    (BusyError, 503, "busy"),
    (TooSlowError, 504, "timeout"),
)


class RequestError(Exception):
    """A request that is answered with an error.

    Attributes:
        status: of HTTP.
        message: for people.
        param: the parameter that it is about.
        code: for programs.
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = headers

    @property
    def document(self) -> dict[str, Any]:
        """The body of the answer."""
        kind = _SERVER if self.status >= 500 else _INVALID
        if self.status == 429:
            kind = "rate_limit_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def response(self) -> JSONResponse:
        """The answer."""
        return JSONResponse(self.document, self.status, dict(self.headers or {}))


def explain(error: BaseException) -> RequestError:
    """What a client is told about an error; of one in the server itself nothing but that it is one."""
    if isinstance(error, RequestError):
        return error
    for kind, status, code in _CODES:
        if isinstance(error, kind):
            hint = getattr(error, "hint", "")
            return RequestError(status, f"{error}. {hint}".removesuffix(". ") if hint else str(error), code=code)
    if isinstance(error, ReportedError):
        return RequestError(500, str(error), code="failed")
    return RequestError(500, "The server had an error while processing your request", code="internal_error")


def install(app: FastAPI) -> None:
    """Let an application answer with such errors, whatever goes wrong."""
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestError, _explained)
    app.add_exception_handler(ReportedError, _explained)
    app.add_exception_handler(Exception, _unexpected)


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    problems: Any = error.errors() if isinstance(error, RequestValidationError) else []
    return invalid_body(problems).response


def invalid_body(problems: Sequence[Mapping[str, Any]]) -> RequestError:
    """What a client is told about a body that is not as it must be: the first problem."""
    problem: Mapping[str, Any] = problems[0] if problems else {"type": "", "loc": (), "msg": "Invalid request"}
    place = [str(part) for part in problem["loc"] if part != "body"]
    if problem["type"] == "json_invalid":
        reason = problem.get("ctx", {}).get("error", "")
        return RequestError(400, f"The body is not valid JSON: {reason}", code="invalid_json")
    if place:
        return _invalid_parameter(problem["type"], place, problem["msg"])
    if problem["type"] in {"missing", "model_attributes_type"}:
        return RequestError(400, "The body must be a JSON object", code="invalid_json")
    return RequestError(400, problem["msg"].removeprefix("Value error, "), code="invalid_value")


def _invalid_parameter(kind: str, place: list[str], reason: str) -> RequestError:
    name = ".".join(place)
    if place[0] in UNSUPPORTED:
        message, code = f"This server cannot do what {place[0]!a} asks for", "unsupported_parameter"
    elif kind == "extra_forbidden":
        message, code = f"Unknown parameter: {name!a}", "unknown_parameter"
    elif kind == "missing":
        message, code = f"Missing required parameter: {name!a}", "missing_required_parameter"
    else:
        message, code = f"Invalid value for {name!a}: {reason}", "invalid_value"
    return RequestError(400, message, param=place[0], code=code)


async def _http(request: Request, error: Exception) -> JSONResponse:
    status = error.status_code if isinstance(error, HTTPException) else 500
    detail = str(getattr(error, "detail", error))
    message = _PHRASES.get(status, detail).format(method=request.method, path=request.url.path)
    code = {404: "unknown_url", 405: "method_not_allowed"}.get(status)
    headers = getattr(error, "headers", None)
    return RequestError(status, message, code=code, headers=headers).response


async def _explained(_: Request, error: Exception) -> JSONResponse:
    return explain(error).response


async def _unexpected(_: Request, error: Exception) -> JSONResponse:
    _logger.error("A request failed", exc_info=error)
    return explain(error).response
