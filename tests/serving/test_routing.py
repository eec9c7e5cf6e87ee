"""`model="tiny+auto"`: the server chooses, and says what."""

from __future__ import annotations

import json
import shutil

import httpx
import pytest

import skillpack
from skillpack.errors import UsageError
from tests.routing.conftest import MATH, MIXED
from tests.serving.conftest import running

OPTIONS = {"model": "tiny+auto", "max_tokens": 5, "temperature": 0}


@pytest.fixture(scope="module")
def routed(world, tmp_path_factory):
    """A server whose skill math has examples, and code has none."""
    store = tmp_path_factory.mktemp("routed") / "store"
    shutil.copytree(world.store, store)
    skillpack.add_examples("math", MATH[:12], world.base, refined=False, store=store)
    with (
        running(world.base, ["math", "code"], store=store, slots=2, router="prototype") as found,
        httpx.Client(base_url=found.url, timeout=60) as client,
    ):
        yield client


def ask(client, prompt, **options):
    body = {**OPTIONS, "messages": [{"role": "user", "content": prompt}], **options}
    return client.post("/v1/chat/completions", json=body)


@pytest.mark.parametrize(("prompt", "model"), [(MATH[20], "tiny+math"), (MIXED[0], "tiny")])
def test_the_answer_is_that_of_the_skill_and_names_it(routed, prompt, model):
    found, expected = ask(routed, prompt), ask(routed, prompt, model=model)
    assert found.status_code == 200, found.text
    assert found.json()["model"] == found.headers["x-skillpack-model"] == model
    assert found.json()["choices"] == expected.json()["choices"]
    assert found.json()["system_fingerprint"] == expected.json()["system_fingerprint"]
    plain = routed.post("/v1/completions", json={**OPTIONS, "prompt": "q"})
    assert plain.headers["x-skillpack-model"].startswith("tiny")


def test_streams_name_it_too(routed):
    with routed.stream(
        "POST",
        "/v1/chat/completions",
        json={**OPTIONS, "stream": True, "messages": [{"role": "user", "content": MATH[20]}]},
    ) as answer:
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert answer.headers["x-skillpack-model"] == "tiny+math"
    assert {json.loads(line)["model"] for line in lines[:-1]} == {"tiny+math"}


def test_it_is_listed(routed):
    assert "tiny+auto" in {model["id"] for model in routed.get("/v1/models").json()["data"]}
    assert routed.get("/v1/models/tiny+auto").json()["id"] == "tiny+auto"


def test_several_prompts_at_once_are_refused(routed):
    found = routed.post("/v1/completions", json={**OPTIONS, "prompt": ["a", "b"]})
    assert found.status_code == 400
    assert "one prompt at a time" in found.json()["error"]["message"]
    assert routed.post("/v1/completions", json={**OPTIONS, "prompt": []}).status_code == 400


def test_skills_come_and_go(routed):
    routed.post("/v1/unload_lora_adapter", json={"lora_name": "math"}).raise_for_status()
    assert ask(routed, MATH[20]).json()["model"] == "tiny"
    routed.post("/v1/load_lora_adapter", json={"lora_name": "sums", "lora_path": "math"}).raise_for_status()
    assert ask(routed, MATH[20]).json()["model"] == "tiny+sums"


def test_without_a_router_there_is_no_such_model(http):
    assert ask(http, "Hello").status_code == 404


def test_an_unknown_method_is_refused(world):
    with pytest.raises(UsageError, match="no method"):
        skillpack.serve(
            world.base, store=world.store, settings=skillpack.ServeSettings(port=0, log="quiet", router="guess")
        )
