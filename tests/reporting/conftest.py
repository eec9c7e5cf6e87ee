from __future__ import annotations

import json
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

import skillpack
from skillpack.learning.report import LearnedTask, LearnReport, Transfer
from tests.reporting import models
from tests.store.servers import require

TASKS = ["spanish-numbers", "city-facts", "word-problems"]
LEARNED = LearnReport(
    tasks=tuple(
        LearnedTask(name, 1, "sha256:0", size, 0.02, "exact", 100, base, tuned, "")
        for name, size, base, tuned in zip(
            TASKS, (2_000_000, 1_990_000, 2_010_000), (0.01, None, 0.02), (0.93, 0.89, 0.61), strict=True
        )
    ),
    named=Transfer(((0.93, 0.02, 0.01), (0.93, 0.88, 0.01), (0.93, 0.88, 0.61)), 0.806, 0.0, -0.012),
    routed=Transfer(((0.93, None, None), (0.92, 0.88, None), (0.90, 0.87, 0.6)), 0.79, -0.02, None),
    routing=(0.98, 0.97, 0.99),
    router="prototype",
    written=(),
).to_json()
CURVE = {
    "tuned_size": 269_000_000,
    "points": [
        {
            "size": size,
            "error": 1e6 / size,
            "bound": size // 2,
            "kl": 5e4 / size,
            "kl_interval": [4e4 / size, 1],
        }
        for size in (800_000, 2_000_000, 9_000_000, 30_000_000)
    ],
}
EVALUATED = {"skill": "haiku@1", "kl": 0.0123, "agreement": 0.981, "kept": 0.991, "samples": 150}


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Files that other commands wrote."""
    folder = tmp_path_factory.mktemp("written")
    found = {}
    for name, document in (("learn", LEARNED), ("curve", CURVE), ("eval", EVALUATED)):
        found[name] = folder / name / f"{name}.json"
        found[name].parent.mkdir()
        found[name].write_text(json.dumps(document))
    return SimpleNamespace(**found)


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """A store with 30 skills, one of them in two versions, one twice, one bit for bit; not to be changed."""
    room = tmp_path_factory.mktemp("library")
    store = room / "store"
    for name in models.NAMES:
        models.pack(room, store, name, models.parts_of(name), message=f"All about {name}")
    models.pack(room, store, "haiku", [*models.parts_of("haiku"), (999, 0.2)], message="More poems")
    models.pack(room, store, "emails", models.parts_of("emails"), exact=True, message="Bit for bit")
    assert len(skillpack.list(store=store)) == 30
    return store


@pytest.fixture(scope="session")
def page(library, files, tmp_path_factory):
    """The page of that library, with everything that can be on it."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    return skillpack.report(
        path, learn=[files.learn], sweeps=[files.curve], evals=[files.eval], title="Our skills", store=library
    ).path


@pytest.fixture(scope="module")
def chromium():
    """Debian's browser, without a window; gone with the module, since playwright keeps an event loop running."""
    require("chromium", "chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium")
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium):
    """Function: context with a file opened in the browser; fails on messages, errors and requests for anything else."""

    @contextmanager
    def opened(path, **options):
        options = {"viewport": {"width": 1440, "height": 900}, **options}
        context = chromium.new_context(**options)
        tab = context.new_page()
        tab.set_default_timeout(20_000)
        said, asked = [], []
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("dialog", lambda dialog: (said.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        tab.on("request", lambda request: asked.append(request.url))
        try:
            tab.goto(path.as_uri())
            yield tab
            assert said == []
            assert {url.partition("#")[0] for url in asked} - {"data:,"} == {path.as_uri()}
        finally:
            context.close()

    return opened


MARKUP = "<img src=x onerror='stolen=1'>\"'></td><td>evil<script>stolen=1</script>{{7*7}}"
HOSTILE = f"{MARKUP}\x1b[2J\u202ejavascript:alert(1)"


@pytest.fixture(scope="session")
def hostile(tmp_path_factory):
    """The page of a library all of whose names, messages and files were written by somebody who means harm."""
    import numpy as np

    from skillpack.safetensors_file import write_safetensors
    from skillpack.tensors import Tensor

    room = tmp_path_factory.mktemp("hostile")
    name = f"model.layers.0.{MARKUP}.weight".replace("/", "")
    random = np.random.default_rng(0)
    for folder in ("base", "tuned"):
        (room / folder).mkdir()
        value = Tensor.from_float32(random.normal(size=(16, 16)).astype(np.float32), "F32")
        write_safetensors(room / folder / "model.safetensors", {name: ("F32", (16, 16))}, {name: value}.__getitem__)
        (room / folder / "config.json").write_text("{}")
    for skill in ("one", "two"):
        skillpack.pack(
            room / "base", room / "tuned", skill, quality=0.9, store=room / "store", author=HOSTILE, message=HOSTILE
        )
    learned, curve, evaluated = room / "l.json", room / "c.json", room / "e.json"
    learned.write_text(json.dumps({**LEARNED, "tasks": [HOSTILE, "b", "c"]}))
    curve = room / "curve<img src=x onerror='stolen=1'>.json"
    curve.write_text(json.dumps(CURVE))
    evaluated.write_text(json.dumps({**EVALUATED, "skill": f"one@{HOSTILE}"}))
    return skillpack.report(
        room / "page.html", learn=[learned], sweeps=[curve], evals=[evaluated], title=HOSTILE, store=room / "store"
    ).path


@pytest.fixture(scope="session")
def empty(tmp_path_factory):
    """The page of a library without skills."""
    from skillpack_store import Repository

    room = tmp_path_factory.mktemp("empty")
    Repository.open_or_create(room / "store")
    return skillpack.report(room / "page.html", store=room / "store").path
