from __future__ import annotations

import threading
from contextlib import contextmanager
from types import SimpleNamespace

import httpx
import pytest

import skillpack
from tests.live.models import llama, moved
from tests.serving.references import Reference

KEY = "sk-secret"


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A tiny base in fp32, and a store with math@1, math@2, code@1 and facts@1; not to be changed."""
    import torch

    folder = tmp_path_factory.mktemp("serving")
    base, store = llama(folder / "base", dtype=torch.float32), folder / "store"
    changed = (("math", "proj"), ("code", ""), ("facts", "embed"), ("math", "mlp"))
    for seed, (name, names) in enumerate(changed, start=1):
        tuned = moved(base, folder / f"{name}-{seed}", scale=0.5, seed=seed, names=names)
        skillpack.pack(base, tuned, name, store=store, exact=name == "facts")
    return SimpleNamespace(base=base, store=store, folder=folder)


@pytest.fixture(scope="session")
def reference(world):
    """The same models computed alone, by transformers, from folders in which the skills are installed."""
    return Reference(world.base, world.store, world.folder / "installed")


@contextmanager
def running(base, skills=(), **options):
    """A server in a thread of its own; gives its `Serving`."""
    ready, found = threading.Event(), []
    store = options.pop("store", None)
    settings = skillpack.ServeSettings(**{"port": 0, "log": "quiet", "max_tokens": 100, "name": "tiny", **options})

    def run():
        try:
            skillpack.serve(base, skills, store=store, settings=settings, ready=tell)
        except BaseException as error:
            found.append(error)
            raise
        finally:
            ready.set()

    def tell(serving):
        found.append(serving)
        ready.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(600)
    try:
        yield found[0]
    finally:
        found[0].stop()
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def serving(world):
    """A server with math@2 and code@1 that asks for no key."""
    with running(world.base, ["math", "code"], store=world.store, slots=4, queue=6) as found:
        yield found


@pytest.fixture
def http(serving):
    """A client of it."""
    with httpx.Client(base_url=serving.url, timeout=60) as client:
        yield client


def metric(client, name):
    """The sum of a metric over its labels."""
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))
