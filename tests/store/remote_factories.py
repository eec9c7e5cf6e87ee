"""Remotes on real servers, one factory a kind: for suites that run on every remote.

A factory is a context manager that starts the server and gives a function; each call of the function opens the same
empty place anew, as another process would.
"""

from __future__ import annotations

import contextlib

from skillpack_store.remotes import hub, registry
from skillpack_store.remotes.oci.credentials import Credentials
from tests.store.servers import PASSWORD, USER, DockerRegistry, HubServer, TokenServer

__all__ = ["FACTORIES"]


@contextlib.contextmanager
def password_registry(folder):
    server = DockerRegistry.with_password(folder / "registry")
    try:
        url = server.url()
        yield lambda: registry.open_remote(url, credentials=Credentials(USER, PASSWORD), pause=0.01)
    finally:
        server.stop()


@contextlib.contextmanager
def token_registry(folder):
    tokens = TokenServer(folder / "tokens")
    try:
        server = DockerRegistry(folder / "registry", tokens.auth)
        try:
            url = server.url()
            yield lambda: registry.open_remote(url, credentials=Credentials(USER, PASSWORD), pause=0.01)
        finally:
            server.stop()
    finally:
        tokens.stop()


@contextlib.contextmanager
def hugging_face(folder):
    server = HubServer()
    try:
        url = server.url()
        yield lambda: hub.open_remote(url, endpoint=server.endpoint, token="hf_write", pause=0.01)
    finally:
        server.stop()


FACTORIES = {"registry": password_registry, "registry with tokens": token_registry, "hub": hugging_face}
