"""`model="tiny+auto"`: the server chooses, and says what."""

from __future__ import annotations

import json
import shutil

import httpx
import pytest

import skillpack
from skillpack.errors import UsageError
from tests.live.models import CHATML, moved, tokenizer
from tests.routing.conftest import CODE, MATH, MIXED
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


def test_of_two_versions_of_a_skill_the_one_that_was_loaded_last_answers(world, tmp_path):
    store = tmp_path / "store"
    shutil.copytree(world.store, store)
    tuned = moved(world.base, tmp_path / "tuned", scale=0.2, seed=9, names="proj")
    skillpack.pack(world.base, tuned, "math", exact=True, store=store)
    for version in ("math@1", "math@2"):
        skillpack.add_examples(version, MATH[:12], world.base, refined=False, store=store)
    with (
        running(world.base, ["math@1"], store=store, slots=2, router="prototype") as found,
        httpx.Client(base_url=found.url, timeout=60) as client,
    ):
        assert ask(client, MATH[20]).json()["model"] == "tiny+math"
        newer = {"lora_name": "another", "lora_path": "math@2"}
        client.post("/v1/load_lora_adapter", json=newer).raise_for_status()
        assert [ask(client, MATH[20]).json()["model"] for _ in range(3)] == ["tiny+another"] * 3
        client.post("/v1/unload_lora_adapter", json={"lora_name": "another"}).raise_for_status()
        assert ask(client, MATH[20]).json()["model"] == "tiny+math"


@pytest.fixture(scope="module")
def several(world, tmp_path_factory):
    """A server that gives every prompt its best two skills; styled can be loaded, which has a chat template."""
    folder = tmp_path_factory.mktemp("several")
    store = folder / "store"
    shutil.copytree(world.store, store)
    tuned = moved(world.base, folder / "styled", scale=0.2, seed=8, names="proj")
    tokenizer(CHATML.replace("assistant", "helper")).save_pretrained(tuned)
    skillpack.pack(world.base, tuned, "styled", exact=True, store=store)
    for name, prompts in (("math", MATH), ("code", CODE), ("styled", CODE)):
        skillpack.add_examples(name, prompts[:12], world.base, refined=False, store=store)
    options = {"slots": 2, "router": "prototype", "router_top_k": 2, "router_threshold": -1e6}
    with (
        running(world.base, ["math", "code"], store=store, **options) as found,
        httpx.Client(base_url=found.url, timeout=60) as client,
    ):
        yield client


@pytest.mark.parametrize(
    ("prompt", "model"), [(MATH[20], "tiny+math=0.5+code=0.5"), (CODE[20], "tiny+code=0.5+math=0.5")]
)
def test_several_skills_have_equal_shares_and_are_all_named(several, prompt, model):
    found, expected = ask(several, prompt), ask(several, prompt, model=model)
    assert found.status_code == 200, found.text
    assert found.json()["model"] == found.headers["x-skillpack-model"] == model
    assert found.json()["choices"] == expected.json()["choices"]
    assert found.json()["system_fingerprint"] == expected.json()["system_fingerprint"]


def test_of_skills_that_do_not_go_together_the_best_answers(several):
    several.post("/v1/unload_lora_adapter", json={"lora_name": "code"}).raise_for_status()
    several.post("/v1/load_lora_adapter", json={"lora_name": "styled"}).raise_for_status()
    assert ask(several, "x", model="tiny+math=0.5+styled=0.5").json()["error"]["code"] == "conflict"
    assert ask(several, MATH[20]).json()["model"] == "tiny+math"
    assert ask(several, CODE[20]).json()["model"] == "tiny+styled"


def test_a_threshold_that_nothing_reaches_leaves_prompts_to_the_base(world, tmp_path):
    store = tmp_path / "store"
    shutil.copytree(world.store, store)
    skillpack.add_examples("math", MATH[:12], world.base, refined=False, store=store)
    with (
        running(world.base, ["math"], store=store, slots=1, router="prototype", router_threshold=1e6) as found,
        httpx.Client(base_url=found.url, timeout=60) as client,
    ):
        assert ask(client, MATH[20]).json()["model"] == "tiny"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"router_top_k": 2}, "there is none"),
        ({"router_threshold": 0.5}, "there is none"),
        ({"router": "prototype", "router_top_k": 0}, "top_k cannot be 0"),
        ({"router": "prototype", "router_top_k": 17}, "at most 16"),
        ({"router": "prototype", "router_threshold": float("nan")}, "no threshold"),
        ({"router": "prototype", "router_threshold": "high"}, "no threshold"),
    ],
)
def test_how_it_chooses_is_checked_before_anything_is_opened(options, says, tmp_path):
    settings = skillpack.ServeSettings(port=0, log="quiet", **options)
    with pytest.raises(UsageError, match=says):
        skillpack.serve(tmp_path / "nothing", settings=settings)


def test_without_a_router_there_is_no_such_model(http):
    assert ask(http, "Hello").status_code == 404


def test_an_unknown_method_is_refused(world):
    with pytest.raises(UsageError, match="no method"):
        skillpack.serve(
            world.base, store=world.store, settings=skillpack.ServeSettings(port=0, log="quiet", router="guess")
        )
