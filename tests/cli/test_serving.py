"""The command `serve`: how it starts, what it refuses, and how it ends."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time

import httpx
import pytest

CHAT = "/v1/chat/completions"
QUESTION = {"messages": [{"role": "user", "content": "Are some useful?"}], "temperature": 0}


@pytest.fixture
def started(process, llama):
    """Start a server with --json; returns the process and what it printed."""

    def started(*options, skills="tiny", **more):
        arguments = ["serve", llama.base, "--skills", skills, "--store", llama.store, "--port", "0", "--name", "llama"]
        server = process(*arguments, *options, "--json", **more)
        lines = []
        while not lines or lines[-1] != "}\n":
            lines.append(server.stdout.readline())
            assert lines[-1], server.stderr.read()
        return server, json.loads("".join(lines))

    return started


def test_a_server_answers_with_a_key_from_the_environment_and_ends_in_good_order(started):
    server, told = started("--slots", "2", env={"SKILLPACK_API_KEY": "sk-secret"})
    assert told["skills"][0]["label"] == "tiny@1"
    assert httpx.get(told["url"] + "/v1/models").status_code == 401
    body = {**QUESTION, "model": "llama+tiny", "max_tokens": 5}
    answer = httpx.post(told["url"] + CHAT, json=body, headers={"Authorization": "Bearer sk-secret"}).json()
    assert answer["usage"]["completion_tokens"] <= 5
    server.send_signal(signal.SIGINT)
    out, err = server.communicate(timeout=30)
    assert (server.returncode, out) == (0, "")
    log = [json.loads(line) for line in err.splitlines()]
    assert any("tokens for" in line["message"] and "llama+tiny" in line["message"] for line in log)
    assert all(line["level"] == "info" for line in log)
    assert "sk-secret" not in err
    # What people ask is their own business.
    assert "useful" not in err


def test_a_router_chooses_as_it_is_told(started):
    routed = ("--router", "likelihood", "--router-threshold", "-1e6", "--router-top-k", "2")
    server, told = started("--slots", "1", *routed)
    answer = httpx.post(told["url"] + CHAT, json={**QUESTION, "model": "llama+auto", "max_tokens": 2}, timeout=60)
    assert answer.headers["x-skillpack-model"] == "llama+tiny"
    server.terminate()
    assert server.wait(30) == 0


def run_slowly(url, found):
    body = {**QUESTION, "model": "llama", "max_tokens": 60, "n": 8, "ignore_eos": True}
    try:
        found.append(httpx.post(url + CHAT, json=body, timeout=60))
    except httpx.HTTPError as error:
        found.append(error)


def wait_for_rows(url):
    while "skillpack_rows 0.0" in httpx.get(url + "/metrics").text:
        time.sleep(0.002)


def test_a_stop_waits_for_answers_that_have_begun(started):
    server, told = started("--slots", "1")
    found = []
    asking = threading.Thread(target=run_slowly, args=(told["url"], found))
    asking.start()
    wait_for_rows(told["url"])
    server.terminate()
    asking.join(60)
    assert [choice["finish_reason"] for choice in found[0].json()["choices"]] == ["length"] * 8
    assert server.wait(30) == 0


def test_a_second_signal_ends_at_once(started):
    server, told = started("--slots", "1", "--max-tokens", "100000")
    found = []
    asking = threading.Thread(target=run_slowly, args=(told["url"], found))
    asking.start()
    wait_for_rows(told["url"])
    server.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    if server.poll() is None:
        server.send_signal(signal.SIGTERM)
    assert server.wait(10) == 0
    asking.join(20)
    assert found


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--host", "0.0.0.0"), 2, "no API key is set"),
        (("--host", "::"), 2, "no API key is set"),
        (("--host", "no.such.host.invalid", "--allow-anyone"), 1, "no address"),
        (("--skills", "tiny=0.5"), 2, "has a weight"),
        (("--skills", "nothing"), 1, "nothing"),
        (("--device", "abacus"), 2, "no device"),
        (("--queue", "-1"), 2, "queue"),
        (("--api-key", " "), 2, "API key"),
        (("--router-top-k", "2"), 2, "Give --router"),
        (("--router", "prototype", "--router-top-k", "0"), 2, "router-top-k"),
        (("--router", "prototype", "--router-top-k", "17"), 2, "at most 16"),
        (("--router", "prototype", "--router-threshold", "high"), 2, "no threshold"),
        (("--router", "prototype", "--router-threshold", "inf"), 2, "no threshold"),
        (("--tls-cert", __file__), 2, "needed together"),
        (("--tls-cert", __file__, "--tls-key", __file__), 1, "certificate cannot be used"),
    ],
)
def test_what_is_refused(run, llama, options, code, message):
    result = run("serve", llama.base, "--store", llama.store, "--port", "0", *options)
    assert result.exit_code == code, result.output
    assert message in result.output


def test_a_port_that_is_taken_is_refused_before_the_model_is_opened(run, llama, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = run("serve", tmp_path / "no model", "--port", taken.getsockname()[1])
    assert result.exit_code == 1
    assert "Cannot listen" in result.stderr


def test_a_base_that_is_none(run, models, home):
    result = run("serve", models.base, "--port", "0")
    assert result.exit_code == 1
    assert "cannot be opened as a language model" in result.stderr
