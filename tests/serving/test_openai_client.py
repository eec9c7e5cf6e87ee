"""OpenAI's own client for Python against the server."""

from __future__ import annotations

import asyncio

import openai
import pytest

from tests.serving.conftest import KEY, running

TURNS = [{"role": "user", "content": "What is this?"}]


@pytest.fixture
def client(serving):
    with openai.OpenAI(base_url=f"{serving.url}/v1", api_key="none", max_retries=0) as found:
        yield found


def test_models(client, world):
    found = list(client.models.list())
    assert [model.id for model in found] == ["tiny", "tiny+code", "tiny+math"]
    assert all(model.object == "model" for model in found)
    one = client.models.retrieve("tiny+math")
    assert (one.id, one.parent) == ("tiny+math", "tiny")
    assert one.digest == found[2].digest
    assert client.models.retrieve("tiny+math=0.5+code").skillpack["skills"][0]["weight"] in {0.5, 1.0}
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("tiny+nothing")


@pytest.mark.parametrize("model", ["tiny", "tiny+math", "tiny+code=0.5"])
def test_a_stream_says_the_same_as_a_whole_answer(client, model):
    asked = {"model": model, "messages": TURNS, "max_tokens": 30, "temperature": 0}
    whole = client.chat.completions.create(**asked)
    pieces = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert pieces[0].choices[0].delta.role == "assistant"
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces[:-1]) == whole.choices[0].message.content
    assert pieces[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert (pieces[-1].choices, pieces[-1].usage.total_tokens) == ([], whole.usage.total_tokens)
    assert {piece.system_fingerprint for piece in pieces} == {whole.system_fingerprint}
    assert {piece.id for piece in pieces} == {pieces[0].id} != {whole.id}


def test_the_fingerprint_is_that_of_the_weights(client):
    def fingerprint(model):
        asked = {"model": model, "messages": TURNS, "max_tokens": 1}
        return client.chat.completions.create(**asked).system_fingerprint

    assert fingerprint("tiny+math") == fingerprint("math") == fingerprint("tiny+math=1.0")
    assert len({fingerprint(model) for model in ("tiny", "tiny+math", "tiny+math=0.5", "tiny+code")}) == 4


def test_several_answers_with_a_seed(client):
    asked = {"model": "tiny+math", "messages": TURNS, "max_tokens": 12, "seed": 5, "n": 3, "temperature": 1.5}
    first, second = client.chat.completions.create(**asked), client.chat.completions.create(**asked)
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in second.choices]
    assert len(set(texts)) == 3
    assert [choice.index for choice in first.choices] == [0, 1, 2]
    pieces = {0: "", 1: "", 2: ""}
    for piece in client.chat.completions.create(**asked, stream=True):
        pieces[piece.choices[0].index] += piece.choices[0].delta.content or ""
    assert list(pieces.values()) == texts
    assert client.chat.completions.create(**{**asked, "seed": 6}).choices[0].message.content != texts[0]


def test_probabilities(client):
    asked = {"model": "tiny", "messages": TURNS, "max_tokens": 8, "temperature": 0, "logprobs": True}
    choice = client.chat.completions.create(**asked, top_logprobs=3).choices[0]
    assert len(choice.logprobs.content) == 8
    for token in choice.logprobs.content:
        assert token.logprob == max(other.logprob for other in token.top_logprobs) <= 0
        assert token.top_logprobs[0].token == token.token
        assert token.bytes is None or bytes(token.bytes).decode() == token.token
    streamed = client.chat.completions.create(**asked, top_logprobs=3, stream=True)
    parts = [token for piece in streamed if piece.choices[0].logprobs for token in piece.choices[0].logprobs.content]
    assert [part.logprob for part in parts] == pytest.approx([token.logprob for token in choice.logprobs.content])


def test_completions(client, reference):
    prompts = ["One two", "three"]
    found = client.completions.create(model="tiny+code", prompt=prompts, max_tokens=9, temperature=0, n=2, logprobs=2)
    assert [choice.index for choice in found.choices] == [0, 1, 2, 3]
    for place, choice in enumerate(found.choices):
        tokens = reference.tokenizer(prompts[place // 2]).input_ids
        assert reference.agrees(choice.text, ("code",), tokens, 9)
        assert len(choice.logprobs.tokens) == len(choice.logprobs.token_logprobs) == 9
    assert found.usage.prompt_tokens == sum(len(reference.tokenizer(prompt).input_ids) for prompt in prompts)
    by_tokens = client.completions.create(
        model="tiny+code", prompt=reference.tokenizer(prompts[0]).input_ids, max_tokens=9, temperature=0
    )
    assert by_tokens.choices[0].text == found.choices[0].text
    assert client.completions.create(model="tiny", prompt="a").usage.completion_tokens <= 16
    streamed = client.completions.create(model="tiny+code", prompt=prompts, max_tokens=9, temperature=0, stream=True)
    texts = ["", ""]
    for piece in streamed:
        texts[piece.choices[0].index] += piece.choices[0].text
    assert texts == [found.choices[0].text, found.choices[2].text]


def test_errors_are_the_clients_own(client, world):
    asked = {"messages": TURNS, "max_tokens": 1}
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-4", **asked)
    assert caught.value.code == "model_not_found"
    assert caught.value.request_id.startswith("req_")
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", **asked, temperature=3)
    assert (caught.value.param, caught.value.code) == ("temperature", "invalid_value")
    with running(world.base, store=world.store, api_key=KEY) as guarded:
        url = f"{guarded.url}/v1"
        with (
            openai.OpenAI(base_url=url, api_key="wrong", max_retries=0) as other,
            pytest.raises(openai.AuthenticationError),
        ):
            other.models.list()
        with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0) as other:
            assert other.models.list().data[0].id == "tiny"


def test_many_clients_at_once(serving, client):
    """An asynchronous client with more requests than there are slots; each waits as the server tells it to."""
    models = ["tiny", "tiny+math", "tiny+code", "tiny+math+code"]
    asked = {"messages": TURNS, "max_tokens": 10, "temperature": 0}
    alone = {model: client.chat.completions.create(model=model, **asked).choices[0].message.content for model in models}

    async def ask_all():
        async with openai.AsyncOpenAI(base_url=f"{serving.url}/v1", api_key="none", max_retries=20) as many:
            answers = await asyncio.gather(
                *(many.chat.completions.create(model=models[number % 4], **asked) for number in range(24))
            )
        return [answer.choices[0].message.content for answer in answers]

    assert asyncio.run(ask_all()) == [alone[models[number % 4]] for number in range(24)]
