"""Throughput and latency of `skillpack serve` on SmolLM2-135M, by clients and by how many skills they mix.

    python -m benchmarks.serving [--requests 48] [--tokens 32] [--clients 1 4 8]

A server in a process of its own with two skills in two sizes each; clients on loopback that ask one question after the
other and read the answers as streams. "single": all ask the same skill; "mixed": each request another one of the four,
or the base. Every answer has the same number of tokens. Prompts differ, so nothing is known of them. The single and the
mixed turns alternate, and the best of the rounds is kept, since other programs can only slow a turn down.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx

import skillpack
from benchmarks import results
from benchmarks.folders import scratch
from recipes.finetune import FRENCH_NUMBERS_SHORT, SPANISH_NUMBERS_SHORT, fine_tune
from recipes.models import smollm2

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

SINGLE = ["smol+spanish"]
MIXED = ["smol", "smol+spanish", "smol+french", "smol+spanish-small", "smol+french-small"]


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=48, help="of a turn")
    parser.add_argument("--tokens", type=int, default=32, help="of an answer")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of the server's computations")
    parser.add_argument("--dry", action="store_true", help="print the figures and do not save them")
    options = parser.parse_args()
    with scratch() as work:
        store = _packed(work / "store")
        with _server(store, options.threads) as url:
            asyncio.run(_turn(url, MIXED, len(MIXED), 1, 4))
            figures = [asyncio.run(_measure(url, clients, options)) for clients in options.clients]
    arguments = " ".join(sys.argv[1:])
    if options.dry:
        print(json.dumps(figures, indent=2))
    else:
        results.save("serving", {"threads": options.threads, "turns": figures}, arguments=arguments, machine=True)


def _packed(store: Path) -> Path:
    """A store with two skills in two sizes."""
    for name, recipe in (("spanish", SPANISH_NUMBERS_SHORT), ("french", FRENCH_NUMBERS_SHORT)):
        tuned = fine_tune(recipe)
        skillpack.pack(smollm2(), tuned, name, size=2_000_000, store=store)
        skillpack.pack(smollm2(), tuned, f"{name}-small", size=1_000_000, store=store)
    return store


@contextmanager
def _server(store: Path, threads: int) -> Iterator[str]:
    skills = ",".join(model.partition("+")[2] for model in MIXED[1:])
    command = [sys.executable, "-m", "skillpack.cli", "serve", str(smollm2()), "--name", "smol", "--skills", skills]
    command += ["--store", str(store), "--port", "0", "--prefix-cache", "0", "--json", "-q"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)  # noqa: S603 - our own
    try:
        lines = []
        while not lines or lines[-1] != "}\n":
            lines.append(server.stdout.readline())  # type: ignore[union-attr]
            if not lines[-1]:
                raise SystemExit("The server did not start")
        yield json.loads("".join(lines))["url"]
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)


async def _measure(url: str, clients: int, options: argparse.Namespace) -> dict[str, Any]:
    """Both kinds of turns, the best round of each."""
    turns: dict[str, list[dict[str, float]]] = {"single": [], "mixed": []}
    for _ in range(options.rounds):
        for kind, models in (("single", SINGLE), ("mixed", MIXED)):
            turns[kind].append(await _turn(url, models, options.requests, clients, options.tokens))
    best = {kind: max(found, key=lambda turn: turn["tokens_per_second"]) for kind, found in turns.items()}
    share = best["mixed"]["tokens_per_second"] / best["single"]["tokens_per_second"]
    return {"clients": clients, **best, "mixed_over_single": round(share, 3)}


async def _turn(url: str, models: Sequence[str], requests: int, clients: int, tokens: int) -> dict[str, float]:
    """Ask everything once."""
    left = list(range(requests))
    firsts: list[float] = []
    wholes: list[float] = []

    async def work(http: httpx.AsyncClient) -> None:
        while left:
            number = left.pop()
            first, whole = await _ask(http, models[number % len(models)], number, tokens)
            firsts.append(first)
            wholes.append(whole)

    start = time.perf_counter()
    async with httpx.AsyncClient(base_url=url, timeout=600) as http:
        await asyncio.gather(*(work(http) for _ in range(clients)))
    seconds = time.perf_counter() - start
    return {
        "tokens_per_second": round(requests * tokens / seconds, 1),
        "requests_per_second": round(requests / seconds, 2),
        "first_token_median": round(statistics.median(firsts), 3),
        "whole_median": round(statistics.median(wholes), 3),
        "whole_95": round(sorted(wholes)[int(0.95 * (len(wholes) - 1))], 3),
    }


async def _ask(http: httpx.AsyncClient, model: str, number: int, tokens: int) -> tuple[float, float]:
    """Seconds to the first token of an answer, and to its end."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": f"Write {number * 7919 % 100_000} in words, and say why."}],
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }
    start, first = time.perf_counter(), 0.0
    async with http.stream("POST", "/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if not first and '"content": ""' not in line and '"content"' in line:
                first = time.perf_counter() - start
            if '"error"' in line:
                raise SystemExit(line)
    whole = time.perf_counter() - start
    return first or whole, whole


if __name__ == "__main__":
    main()
