"""Requests that are not as they must be, and who may ask at all."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import ssl
import threading
import time
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from urllib.parse import urlsplit

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

import skillpack
from tests.serving.conftest import KEY, metric, running

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
TURNS = [{"role": "user", "content": "Hi"}]
GOOD = {"model": "tiny", "messages": TURNS, "max_tokens": 3, "temperature": 0}


def error(response, status):
    """The error of an answer, in OpenAI's form."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"].startswith("req_")
    document = response.json()
    assert list(document) == ["error"]
    assert list(document["error"]) == ["message", "type", "param", "code"]
    assert document["error"]["message"]
    return document["error"]


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"model": None}, "model", "invalid_value"),
        ({"model": 3}, "model", "invalid_value"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": "Hi"}, "messages", "invalid_value"),
        ({"messages": [{"role": "cook", "content": "Hi"}]}, "messages", "invalid_value"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages", "invalid_value"),
        ({"temperature": "0"}, "temperature", "invalid_value"),
        ({"temperature": 2.1}, "temperature", "invalid_value"),
        ({"temperature": -1}, "temperature", "invalid_value"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": 1.5}, "max_tokens", "invalid_value"),
        ({"max_tokens": 101}, "max_tokens", "invalid_value"),
        ({"n": 17}, "n", "invalid_value"),
        ({"n": True}, "n", "invalid_value"),
        ({"seed": 1 << 70}, "seed", "invalid_value"),
        ({"stop": [""]}, "stop", "invalid_value"),
        ({"stop": ["a"] * 5}, "stop", "invalid_value"),
        ({"logit_bias": {"a": 1}}, None, "invalid_value"),
        ({"logit_bias": {"1": 101}}, None, "invalid_value"),
        ({"logit_bias": {"258": 1}}, "logit_bias", None),
        ({"top_logprobs": 3}, None, "invalid_value"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value"),
        ({"stream_options": {"include_usage": True}}, None, "invalid_value"),
        ({"stream": "yes"}, "stream", "invalid_value"),
        ({"tools": [{"type": "function"}]}, "tools", "unsupported_parameter"),
        ({"response_format": {"type": "json_object"}}, "response_format", "unsupported_parameter"),
        ({"audio": {}}, "audio", "unsupported_parameter"),
        ({"beam_width": 4}, "beam_width", "unknown_parameter"),
        ({"messages": [{"role": "user", "content": "x" * 300}]}, "messages", "context_length_exceeded"),
        (
            {"max_tokens": 100, "messages": [{"role": "user", "content": "x" * 50}]},
            "messages",
            "context_length_exceeded",
        ),
    ],
)
def test_parameters_that_make_no_sense(http, change, param, code):
    found = error(http.post(CHAT, json={**GOOD, **change}), 400)
    assert (found["type"], found["param"], found["code"]) == ("invalid_request_error", param, code)


@pytest.mark.parametrize(
    "change",
    [
        {"user": "ada", "metadata": {"a": "b"}, "store": False, "service_tier": "auto"},
        {"tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "modalities": ["text"]},
        {"stream": None, "stop": None, "seed": None, "n": None, "logprobs": None, "logit_bias": None},
        {"messages": [{"role": "developer", "content": "Be brief."}, *TURNS]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]}]},
        {"max_tokens": None, "max_completion_tokens": 3},
        {"temperature": 1, "top_k": 5, "top_p": 0.5, "presence_penalty": -2, "frequency_penalty": 2},
        {"logit_bias": {"65": 100}, "stop": "B", "ignore_eos": True},
    ],
)
def test_parameters_that_do(http, change):
    response = http.post(CHAT, json={**GOOD, **change})
    assert response.status_code == 200, response.text


def test_a_biased_token_and_a_stop(http):
    biased = {**GOOD, "logit_bias": {"33": 100}, "max_tokens": 10, "logprobs": True}
    tokens = [token["token"] for token in http.post(CHAT, json=biased).json()["choices"][0]["logprobs"]["content"]]
    assert len(set(tokens)) == 1
    choice = http.post(CHAT, json={**biased, "stop": tokens[0] * 2}).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("", "stop")


@pytest.mark.parametrize(
    ("body", "code"),
    [(b"{", "invalid_json"), (b"", "invalid_json"), (b"[]", "invalid_json"), (b"3", "invalid_json"), (b"\xff", None)],
)
def test_bodies_that_are_no_object(http, body, code):
    found = error(http.post(CHAT, content=body, headers={"content-type": "application/json"}), 400)
    assert code in {None, found["code"]}


def test_what_is_not_a_number_in_json(http):
    body = json.dumps(GOOD).replace('"temperature": 0', '"temperature": NaN')
    error(http.post(CHAT, content=body, headers={"content-type": "application/json"}), 400)


def test_missing_parameters(http):
    found = error(http.post(CHAT, json={"messages": TURNS}), 400)
    assert (found["param"], found["code"]) == ("model", "missing_required_parameter")
    assert error(http.post(TEXT, json={"model": "tiny"}), 400)["param"] == "prompt"


@pytest.mark.parametrize("prompt", ["", [], [[]], [1, "a"], [258], [-1], [[1, 300]], {"a": 1}, None, [True], "x" * 300])
def test_prompts_that_are_none(http, prompt):
    assert error(http.post(TEXT, json={"model": "tiny", "prompt": prompt}), 400)["param"] == "prompt"


def test_other_paths_and_methods(http):
    assert error(http.get("/v2/models"), 404)["code"] == "unknown_url"
    assert error(http.get("/"), 404)["code"] == "unknown_url"
    assert error(http.get("/docs"), 404)["code"] == "unknown_url"
    assert error(http.get(CHAT), 405)["code"] == "method_not_allowed"
    assert error(http.delete("/v1/models"), 405)["code"] == "method_not_allowed"
    assert error(http.get("/v1/models/none"), 404)["code"] == "model_not_found"


def test_other_types_of_content(http):
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        response = http.post(CHAT, content=json.dumps(GOOD), headers={"content-type": kind})
        assert error(response, 415)["code"] == "unsupported_media_type"


def test_large_bodies(http, serving):
    large = json.dumps({**GOOD, "user": "x" * (5 << 20)})
    headers = {"content-type": "application/json"}
    try:
        assert error(http.post(CHAT, content=large, headers=headers), 413)["code"] == "request_too_large"
    except httpx.WriteError:
        pytest.fail("the answer did not come before the connection was closed")

    # One that does not say how large it is.
    host = urlsplit(serving.url)
    connection = http_connection(host)
    connection.putrequest("POST", CHAT)
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    try:
        for _ in range(9):
            connection.send(b"80000\r\n" + b"x" * 0x80000 + b"\r\n")
    except OSError:
        pass
    assert connection.getresponse().status == 413
    connection.close()


def test_bodies_that_come_too_slowly(world):
    with running(world.base, store=world.store, timeout=0.5) as serving:
        connection = http_connection(urlsplit(serving.url))
        connection.putrequest("POST", CHAT)
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", "100")
        connection.endheaders(b'{"model": ')
        answer = connection.getresponse()
        assert (answer.status, answer.getheader("connection")) == (408, "close")
        assert json.loads(answer.read())["error"]["code"] == "timeout"
        connection.close()
        # Nothing of it is left behind.
        assert httpx.post(f"{serving.url}{CHAT}", json=GOOD, timeout=60).status_code in {200, 504}


def test_a_skill_that_is_damaged_on_disk(world, tmp_path):
    store = shutil.copytree(world.store, tmp_path / "store")
    (digest,) = (each.digest for each in skillpack.list(store=store) if each.name == "code")
    manifest = store / "blobs" / digest.replace(":", "/")
    layer = max(json.loads(manifest.read_text())["layers"], key=lambda each: each["size"])
    blob = store / "blobs" / layer["digest"].replace(":", "/")
    blob.chmod(0o644)
    blob.write_bytes(bytes(byte ^ 1 for byte in blob.read_bytes()))
    with (
        running(world.base, ["math"], store=store) as serving,
        httpx.Client(base_url=serving.url, timeout=60) as client,
    ):
        found = error(client.post("/v1/load_lora_adapter", json={"lora_name": "code", "lora_path": "code"}), 500)
        assert found["type"] == "server_error"
        assert client.post(CHAT, json={**GOOD, "model": "tiny+math"}).status_code == 200


def http_connection(host):
    return http.client.HTTPConnection(host.hostname, host.port, timeout=20)


def test_other_names_of_the_host_are_refused(http):
    assert error(http.get("/v1/models", headers={"host": "evil.example:80"}), 403)["code"] == "wrong_host"
    assert http.get("/v1/models", headers={"host": "localhost:1234"}).status_code == 200


def test_answers_that_are_too_many(world):
    with (
        running(world.base, store=world.store, slots=1, queue=1) as serving,
        httpx.Client(base_url=serving.url, timeout=60) as client,
    ):
        many = {**GOOD, "max_tokens": 90, "ignore_eos": True, "stream": True}
        with client.stream("POST", CHAT, json=many) as first, client.stream("POST", CHAT, json=many) as second:
            assert first.status_code == second.status_code == 200
            response = client.post(CHAT, json=GOOD)
            found = error(response, 429)
            assert (found["type"], found["code"]) == ("rate_limit_error", "rate_limit_exceeded")
            assert response.headers["retry-after"] == "1"
            assert error(client.post(CHAT, json={**GOOD, "n": 3}), 429)
            first.read()
            second.read()
        assert client.post(CHAT, json=GOOD).status_code == 200
        assert error(client.post(CHAT, json={**GOOD, "n": 3}), 429)


@pytest.mark.parametrize("stream", [False, True])
def test_who_goes_away_frees_the_slot(world, stream):
    with (
        running(world.base, store=world.store, slots=1, queue=1) as serving,
        httpx.Client(base_url=serving.url, timeout=60) as client,
    ):
        body = json.dumps({**GOOD, "max_tokens": 100, "ignore_eos": True, "stream": stream, "n": 2}).encode()
        host = urlsplit(serving.url)
        gone = socket.create_connection((host.hostname, host.port))
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        gone.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        while metric(client, "skillpack_generated_tokens_total") < 2:
            time.sleep(0.001)
        assert metric(client, "skillpack_rows") == 1
        assert metric(client, "skillpack_waiting") == 1
        gone.close()
        deadline = time.monotonic() + 5
        while metric(client, "skillpack_rows") or metric(client, "skillpack_waiting"):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        assert metric(client, "skillpack_generated_tokens_total") < 150
        assert metric(client, "skillpack_disconnects_total") == 1
        assert client.post(CHAT, json=GOOD).status_code == 200


def test_answers_that_take_too_long(world):
    with (
        running(world.base, store=world.store, slots=1, timeout=0.15) as serving,
        httpx.Client(base_url=serving.url, timeout=60) as client,
    ):
        slow = {**GOOD, "max_tokens": 100, "ignore_eos": True, "n": 4}
        assert error(client.post(CHAT, json=slow), 504)["code"] == "timeout"
        lines = client.post(CHAT, json={**slow, "stream": True}).text.split("\n\n")
        assert json.loads(lines[-2].removeprefix("data: "))["error"]["code"] == "timeout"
        assert "[DONE]" not in lines[-2]


def test_a_key(world):
    with (
        running(world.base, store=world.store, api_key=KEY) as serving,
        httpx.Client(base_url=serving.url, timeout=60) as client,
    ):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY}, {"Authorization": "Basic eA=="}):
            for path in ("/v1/models", "/metrics", "/version", "/openapi.json", "/nothing"):
                response = client.get(path, headers=headers)
                assert error(response, 401)["code"] == "invalid_api_key"
                assert response.headers["www-authenticate"] == "Bearer"
            # It is not even read.
            assert error(client.post(CHAT, content=b"{", headers=headers), 401)
        assert client.get("/health").json() == {"status": "ok"}
        good = {"Authorization": f"bearer {KEY}", "host": "anywhere.example"}
        assert client.get("/v1/models", headers=good).status_code == 200
        non_ascii = {"Authorization": "Bearer \xe9".encode("latin-1")}
        assert client.get("/v1/models", headers=non_ascii).status_code == 401


def test_https(world, tmp_path):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert_file.write_bytes(certificate.public_bytes(Encoding.PEM))
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    trusting = ssl.create_default_context(cafile=str(cert_file))
    with running(world.base, store=world.store, tls_cert=cert_file, tls_key=key_file) as serving:
        assert serving.url.startswith("https://127.0.0.1:")
        assert httpx.post(serving.url + CHAT, json=GOOD, verify=trusting).status_code == 200
        with pytest.raises(httpx.ConnectError):
            httpx.get(serving.url + "/health")
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(serving.url.replace("https", "http") + "/health")


def test_fixed_skills(world):
    with running(world.base, ["math"], store=world.store, loading=False) as serving:
        for action, name in (("load", "code"), ("unload", "math")):
            response = httpx.post(f"{serving.url}/v1/{action}_lora_adapter", json={"lora_name": name})
            assert error(response, 403)["code"] == "loading_disabled"


def test_no_more_skills_than_there_is_room_for(world):
    with running(world.base, ["math"], store=world.store, max_skills=1) as serving:
        response = httpx.post(f"{serving.url}/v1/load_lora_adapter", json={"lora_name": "code"})
        assert error(response, 400)["code"] == "conflict"


def test_a_server_without_a_store(world, tmp_path, monkeypatch):
    monkeypatch.setenv("SKILLPACK_HOME", str(tmp_path / "nothing"))
    with running(world.base) as serving:
        response = httpx.post(f"{serving.url}/v1/load_lora_adapter", json={"lora_name": "code"})
        assert "no store" in error(response, 404)["message"]


def test_the_model_card_of_prometheus(http):
    http.post(CHAT, json=GOOD)
    text = http.get("/metrics").text
    for name in (
        "skillpack_requests_total",
        "skillpack_request_seconds_bucket",
        "skillpack_first_token_seconds_sum",
        "skillpack_queue_seconds_count",
        "skillpack_step_seconds_bucket",
        "skillpack_prompt_tokens_total",
        "skillpack_generated_tokens_total",
        "skillpack_slots",
        "skillpack_skills",
    ):
        assert f"\n{name}" in text, name
    assert metric(http, "skillpack_slots") == 4


def test_many_bad_requests_at_once_break_nothing(http, serving):
    """Clients that send anything, some of whom go away half-way."""
    host = urlsplit(serving.url)
    junk = [
        b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20,
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ]

    def send(content):
        with socket.create_connection((host.hostname, host.port), timeout=10) as connection:
            connection.sendall(content)
            time.sleep(0.02)

    threads = [threading.Thread(target=send, args=(content,)) for content in junk * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert http.post(CHAT, json=GOOD).status_code == 200
    deadline = time.monotonic() + 5
    while metric(http, "skillpack_rows"):
        assert time.monotonic() < deadline
        time.sleep(0.001)
