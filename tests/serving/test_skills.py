"""Requests that choose their skills, while skills come and go."""

from __future__ import annotations

import concurrent.futures
import random
import time

import httpx
import pytest
import torch

import skillpack
from skillpack.grafting.overlay import engine
from skillpack.serving import server
from skillpack.serving.slots import Slots
from tests.live.models import llama, mixtral, moved
from tests.serving.conftest import metric, running
from tests.serving.references import Reference

MOST = 24
SKILLS = {
    "tiny": (),
    "tiny+math": ("math",),
    "math": ("math",),
    "tiny+code": ("code",),
    "tiny+math=0.5": ("math=0.5",),
    "tiny+math+code": ("math", "code"),
    "tiny+code=0.25+math=-1": ("code=0.25", "math=-1"),
}


def ask(client, model, content, most=MOST, **more):
    turns = [{"role": "user", "content": content}]
    body = {"model": model, "messages": turns, "max_tokens": most, "temperature": 0, **more}
    return client.post("/v1/chat/completions", json=body)


def text_of(response):
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize("model", SKILLS)
def test_each_model_answers_as_if_its_skills_were_installed(http, reference, model):
    text = text_of(ask(http, model, "What is this?"))
    assert reference.agrees(text, SKILLS[model], reference.chat("What is this?"), MOST)


def test_the_models_answer_differently(http):
    assert len({text_of(ask(http, model, "What is this?")) for model in SKILLS if model != "math"}) == len(SKILLS) - 1


def test_many_clients_with_mixed_skills_get_the_answers_of_their_own(http, reference):
    """Not one wrong answer, and rows of different skills did run together."""
    draw = random.Random(0)
    before = metric(http, "skillpack_step_rows_count"), metric(http, "skillpack_step_rows_sum")
    asked = [(draw.choice(list(SKILLS)), "x" * draw.randrange(30) + "?", draw.randrange(4, 20)) for _ in range(60)]

    def get(question):
        model, content, most = question
        return text_of(ask(http, model, content, most))

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        texts = list(pool.map(get, asked))
    wrong = [
        (question, text)
        for question, text in zip(asked, texts, strict=True)
        if not reference.agrees(text, SKILLS[question[0]], reference.chat(question[1]), question[2])
    ]
    assert wrong == []
    steps, rows = metric(http, "skillpack_step_rows_count"), metric(http, "skillpack_step_rows_sum")
    assert (rows - before[1]) / (steps - before[0]) > 1.5


def test_skills_come_and_go_while_answers_are_written(world, reference):
    versions = {"math@1": ("math@1",), "math@2": ("math@2",)}
    with (
        running(world.base, ["code"], store=world.store, slots=4) as serving,
        httpx.Client(base_url=serving.url, timeout=60) as http,
        concurrent.futures.ThreadPoolExecutor(4) as pool,
    ):

        def load(address, **more):
            body = {"lora_name": "math", "lora_path": address, **more}
            assert http.post("/v1/load_lora_adapter", json=body).status_code == 200

        load("math@1")
        for turn in range(6):
            current, following = list(versions)[turn % 2], list(versions)[1 - turn % 2]
            content = f"Question {turn}?"
            running_now = pool.submit(ask, http, "tiny+math", content, 60)
            others = pool.submit(ask, http, "tiny+code", content, 30)
            while metric(http, "skillpack_rows") < 2 and not running_now.done():
                time.sleep(0.001)
            load(following, load_inplace=True)
            later = text_of(ask(http, "tiny+math", content, 60))
            prompt = reference.chat(content)
            assert reference.agrees(text_of(running_now.result()), versions[current], prompt, 60)
            assert reference.agrees(later, versions[following], prompt, 60)
            assert reference.agrees(text_of(others.result()), ("code",), prompt, 30)
        assert metric(http, "skillpack_skills") == 2
        assert metric(http, "skillpack_retired") == 0


def test_a_skill_that_is_unloaded_finishes_its_answers(world, reference):
    with (
        running(world.base, ["math"], store=world.store) as serving,
        httpx.Client(base_url=serving.url, timeout=60) as http,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
        answer = pool.submit(ask, http, "math", "Tell me all.", 90, ignore_eos=True)
        while metric(http, "skillpack_generated_tokens_total") < 3:
            time.sleep(0.001)
        assert http.post("/v1/unload_lora_adapter", json={"lora_name": "math"}).status_code == 200
        assert ask(http, "math", "And me?").status_code == 404
        retired = metric(http, "skillpack_retired")
        assert retired == (not answer.done())
        text = text_of(answer.result())
        assert reference.agrees(text, ("math",), reference.chat("Tell me all."), 90)
        while metric(http, "skillpack_retired"):
            time.sleep(0.001)
        base = text_of(ask(http, "tiny", "Tell me all."))
        assert reference.agrees(base, (), reference.chat("Tell me all."), MOST)


def test_what_is_kept_of_a_prompt_is_kept_for_a_digest_and_not_for_a_name(world, reference, monkeypatch):
    monkeypatch.setattr(server, "_PIECE", {"cpu": 8})
    long = "Please say at length what this is. "
    prompt = reference.chat(long)
    with (
        running(world.base, ["math@1"], store=world.store, prefix_cache=1 << 24) as serving,
        httpx.Client(base_url=serving.url, timeout=60) as http,
    ):
        first = text_of(ask(http, "math", long))
        assert metric(http, "skillpack_prompt_tokens_cached_total") == 0
        again = text_of(ask(http, "math", long))
        known = metric(http, "skillpack_prompt_tokens_cached_total")
        assert known == len(prompt) // 8 * 8 - (len(prompt) % 8 == 0) * 8
        body = {"lora_name": "math", "lora_path": "math@2", "load_inplace": True}
        assert http.post("/v1/load_lora_adapter", json=body).status_code == 200
        other = text_of(ask(http, "math", long))
        assert metric(http, "skillpack_prompt_tokens_cached_total") == known
        assert first == again != other
        assert reference.agrees(other, ("math@2",), prompt, MOST)


def test_loading_what_cannot_be_loaded(http, world):
    def load(**body):
        response = http.post("/v1/load_lora_adapter", json=body)
        return response.status_code, response.json()["error"]["code"]

    assert load(lora_name="math") == (400, "conflict")
    assert load(lora_name="nothing") == (404, "model_not_found")
    assert load(lora_name="tiny", lora_path="facts") == (400, "conflict")
    assert load(lora_name="Bad+Name", lora_path="facts")[0] == 400
    assert load(lora_name="new", lora_path="math@77") == (404, "model_not_found")
    assert load(lora_name="new", lora_path="../../etc/passwd")[0] in {400, 404}
    assert load(lora_path="math")[0] == 400
    response = http.post("/v1/unload_lora_adapter", json={"lora_name": "facts"})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


def test_a_skill_that_nobody_trusted_has_signed_is_refused(http, tmp_path, monkeypatch):
    monkeypatch.setenv("SKILLPACK_HOME", str(tmp_path))
    skillpack.set_policy("require")
    response = http.post("/v1/load_lora_adapter", json={"lora_name": "facts"})
    assert (response.status_code, response.json()["error"]["code"]) == (403, "not_trusted")


def test_two_versions_under_two_names(http, reference):
    body = {"lora_name": "old-math", "lora_path": "math@1"}
    assert http.post("/v1/load_lora_adapter", json=body).text.startswith("Success: LoRA adapter 'old-math' added")
    try:
        text = text_of(ask(http, "tiny+old-math", "What?"))
        assert reference.agrees(text, ("math@1",), reference.chat("What?"), MOST)
        both = ask(http, "tiny+old-math+math", "What?")
        assert (both.status_code, both.json()["error"]["code"]) == (400, "invalid_value")
    finally:
        assert http.post("/v1/unload_lora_adapter", json={"lora_name": "old-math"}).status_code == 200


@pytest.mark.parametrize(
    ("model", "status"),
    [
        ("tiny+nothing", 404),
        ("math@1", 404),
        ("tiny+math+math=0.5", 400),
        ("tiny+math=", 400),
        ("tiny+math=nan", 400),
        ("tiny+math=0", 400),
        ("tiny+", 404),
        ("+", 400),
        ("Tiny", 404),
        ("+".join(["tiny", *(f"s{number}" for number in range(40))]), 400),
    ],
)
def test_models_that_there_are_not(http, model, status):
    response = ask(http, model, "What?")
    assert response.status_code == status
    assert response.json()["error"]["message"]


def test_a_skill_for_another_base_is_refused(world, tmp_path):
    other = llama(tmp_path / "other", seed=9, dtype=torch.float32)
    with pytest.raises(skillpack.SkillPackError, match="another base"):
        skillpack.serve(other, ["math"], store=world.store, settings=skillpack.ServeSettings(port=0, log="quiet"))


def test_a_model_whose_rows_cannot_have_different_skills_runs_them_apart(world, reference, monkeypatch):
    """Still among the same answers, each with its own."""
    monkeypatch.setattr(engine, "rows_reason", lambda *_: "it is so")
    apart = []
    continued = Slots.continue_rows
    monkeypatch.setattr(
        Slots, "continue_rows", lambda slots, places, rows=None: apart.append(rows) or continued(slots, places, rows)
    )
    check_side_by_side(world.base, world.store, reference)
    assert any(rows is not None and len(rows) > 1 for rows in apart)


def test_experts(tmp_path):
    base, store = mixtral(tmp_path / "base", dtype=torch.float32), tmp_path / "store"
    skillpack.pack(base, moved(base, tmp_path / "math", scale=0.5), "math", store=store)
    check_side_by_side(base, store, Reference(base, store, tmp_path / "installed"))


def check_side_by_side(base, store, reference):
    """Nine answers with three choices of skills, four at a time."""
    questions = [(model, f"{number}?") for number in range(3) for model in ("tiny", "tiny+math", "tiny+math=0.5")]
    with (
        running(base, ["math"], store=store, slots=4, queue=9) as serving,
        httpx.Client(base_url=serving.url, timeout=60) as http,
        concurrent.futures.ThreadPoolExecutor(9) as pool,
    ):
        texts = list(pool.map(lambda asked: text_of(ask(http, *asked, 12)), questions))
        assert metric(http, "skillpack_step_failures_total") == 0
        assert metric(http, "skillpack_step_rows_sum") > metric(http, "skillpack_step_rows_count")
    for (model, content), text in zip(questions, texts, strict=True):
        assert reference.agrees(text, SKILLS[model], reference.chat(content), 12)
