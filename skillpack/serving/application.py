"""The application: endpoints, what guards them, and how errors are written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import FastAPI

from skillpack.serving.failures import install
from skillpack.serving.guards import Guard
from skillpack.serving.routes import ENDPOINTS, routes

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from skillpack.serving.guards import Limits
    from skillpack.serving.routes import Service


def application(service: Service, key: str | None, limits: Limits) -> ASGIApp:
    """The ASGI application of a service.

    Args:
        service: what it offers.
        key: that clients must show; None for no key.
        limits: of requests.
    """
    # No pages of documentation: they would load scripts from elsewhere.
    app = FastAPI(title="SkillPack", version=service.version, docs_url=None, redoc_url=None, redirect_slashes=False)
    install(app)
    app.include_router(routes(service))
    return Guard(app, key, limits, service.metrics, ENDPOINTS)
