"""Which answers are written together: the real scheduler on a tiny model."""

from __future__ import annotations

import queue
import threading
import time
from types import SimpleNamespace

import pytest
import torch
import transformers

from skillpack.serving.metrics import Metrics
from skillpack.serving.sampling import Sampling
from skillpack.serving.scheduler import Scheduler
from skillpack.serving.sequences import BrokenError, Sequence, TooSlowError
from skillpack.serving.stepping import Stepper
from skillpack.serving.texts import Text
from tests.live.models import SIZES, tokenizer

ROWS, PIECE, QUEUE = 3, 8, 4
GREEDY = Sampling(temperature=0.0)
TOKENIZER = tokenizer()


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES)).eval()


@pytest.fixture
def stage(model):
    """A scheduler that is not started yet, its metrics, and a way to make sequences for it."""
    stepper, metrics, updates = Stepper(model, None, rows=ROWS, piece=PIECE), Metrics(), queue.Queue()
    scheduler = Scheduler(stepper, rows=ROWS, queue=QUEUE, prefix_bytes=1 << 20, metrics=metrics)

    def sequence(number, prompt, most=10, sampling=GREEDY, *, ends=(), seconds=60.0):
        return Sequence(
            number=number,
            prompt=list(prompt),
            choice=(),
            skills=(),
            sampling=sampling,
            seed=1,
            most=most,
            ends=frozenset(ends),
            text=Text(TOKENIZER, ()),
            deliver=updates.put,
            deadline=time.monotonic() + seconds,
        )

    yield SimpleNamespace(scheduler=scheduler, stepper=stepper, metrics=metrics, updates=updates, sequence=sequence)
    scheduler.close()


def collect(updates, count):
    """Wait until so many answers have ended; number -> (tokens, how they ended)."""
    tokens, ends = {}, {}
    while len(ends) < count:
        update = updates.get(timeout=30)
        tokens.setdefault(update.number, []).extend(chosen.token for chosen in update.chosen)
        if update.reason or update.error:
            assert update.number not in ends
            ends[update.number] = update.reason or type(update.error)
    return {number: (tokens[number], ends[number]) for number in ends}


def greedy(model, prompt, most):
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(most):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def value(metrics, name):
    lines = metrics.render().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


def until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_more_answers_than_rows_of_different_lengths(model, stage):
    prompts = [range(place, place + 1 + 5 * place) for place in range(ROWS + QUEUE)]
    sequences = [stage.sequence(place, prompt, most=4 + place) for place, prompt in enumerate(prompts)]
    assert stage.scheduler.submit(sequences)
    stage.scheduler.start()
    found = collect(stage.updates, len(sequences))
    for place, prompt in enumerate(prompts):
        assert found[place] == (greedy(model, prompt, 4 + place), "length")
    until(lambda: value(stage.metrics, "skillpack_rows") == 0)
    assert value(stage.metrics, "skillpack_generated_tokens_total") == sum(4 + place for place in range(len(prompts)))
    assert value(stage.metrics, "skillpack_prompt_tokens_total") == sum(map(len, prompts))
    until(lambda: stage.stepper.slots.nbytes == 0)


def test_what_is_too_much_is_turned_away_as_a_whole(stage):
    many = [stage.sequence(number, [1, 2]) for number in range(ROWS + QUEUE)]
    assert stage.scheduler.submit(many[:-1])
    assert not stage.scheduler.submit([stage.sequence(20, [1]), stage.sequence(21, [1])])
    assert stage.scheduler.submit(many[-1:])
    assert not stage.scheduler.submit([stage.sequence(22, [1])])
    stage.scheduler.start()
    assert sorted(collect(stage.updates, len(many))) == list(range(ROWS + QUEUE))


def test_an_end_token_ends(model, stage):
    prompt = [5, 6, 7]
    wanted = greedy(model, prompt, 10)
    stage.scheduler.submit([stage.sequence(0, prompt, ends=[wanted[3]]), stage.sequence(1, prompt, ends=[wanted[0]])])
    stage.scheduler.start()
    found = collect(stage.updates, 2)
    assert found[0] == (wanted[: wanted.index(wanted[3]) + 1], "stop")
    assert found[1] == (wanted[:1], "stop")


def test_known_beginnings_change_nothing(model, stage):
    prompts = [range(30), range(30), [*range(25), 99, 98], range(16), range(8)]
    stage.scheduler.start()
    sequences = []
    for number, prompt in enumerate(prompts):
        sequences.append(stage.sequence(number, prompt, sampling=Sampling(temperature=0.0, logprobs=3)))
        stage.scheduler.submit(sequences[-1:])
        assert collect(stage.updates, 1)[number] == (greedy(model, prompt, 10), "length")
    assert [sequence.cached for sequence in sequences] == [0, 24, 24, 8, 0]
    assert value(stage.metrics, "skillpack_prompt_tokens_cached_total") == 56


def test_who_goes_frees_a_slot_for_who_waits(stage):
    running = [stage.sequence(number, [number + 1], most=10_000) for number in range(ROWS)]
    stage.stepper.context = 1 << 30
    stage.scheduler.submit(running)
    stage.scheduler.start()
    until(lambda: value(stage.metrics, "skillpack_rows") == ROWS)
    waiting = stage.sequence(9, [1, 2, 3])
    never = stage.sequence(10, [4])
    stage.scheduler.submit([never, waiting])
    stage.scheduler.cancel([never])
    time.sleep(0.05)
    assert not waiting.tokens
    stage.scheduler.cancel(running[:1])
    until(lambda: len(waiting.tokens) == 10)
    assert value(stage.metrics, "skillpack_rows") <= ROWS
    assert not never.tokens
    stage.scheduler.cancel(running)
    until(lambda: value(stage.metrics, "skillpack_rows") == 0)


def test_what_takes_too_long_ends(stage):
    late = stage.sequence(0, [1], most=10_000, seconds=0.2)
    never = stage.sequence(1, [1], seconds=-1)
    stage.scheduler.submit([late, never])
    stage.scheduler.start()
    found = collect(stage.updates, 2)
    assert found[0][1] is found[1][1] is TooSlowError
    assert 0 < len(found[0][0]) < 10_000
    assert found[1][0] == []


def test_a_failing_step_ends_its_answers_and_no_others(model, stage, monkeypatch):
    stage.scheduler.start()
    following = stage.stepper.next

    def broken(*inputs):
        monkeypatch.setattr(stage.stepper, "next", following)
        raise MemoryError("no room")

    monkeypatch.setattr(stage.stepper, "next", broken)
    stage.scheduler.submit([stage.sequence(0, [1, 2])])
    assert collect(stage.updates, 1)[0][1] is MemoryError
    stage.scheduler.submit([stage.sequence(1, [1, 2])])
    assert collect(stage.updates, 1)[1] == (greedy(model, [1, 2], 10), "length")
    assert value(stage.metrics, "skillpack_step_failures_total") == 1


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(), Sampling(temperature=0.0, logprobs=1)])
def test_what_is_no_number_is_no_answer(stage, monkeypatch, sampling):
    reading = stage.stepper.read

    def spoiled(choice, prompt, start):
        stop, logits = reading(choice, prompt, start)
        return stop, logits * (torch.nan if prompt[0] == 1 else 1)

    monkeypatch.setattr(stage.stepper, "read", spoiled)
    stage.scheduler.submit([stage.sequence(0, [1], sampling=sampling), stage.sequence(1, [2], most=3)])
    stage.scheduler.start()
    found = collect(stage.updates, 2)
    assert found[0][0] == []
    assert found[1][1] == "length"


def test_work_between_steps_runs_in_the_thread_of_the_model(stage):
    stage.scheduler.submit([stage.sequence(0, [1], most=100)])
    stage.scheduler.start()
    names = {stage.scheduler.between_steps(lambda: threading.current_thread().name).result(10) for _ in range(3)}
    assert names == {"skillpack-scheduler"}
    with pytest.raises(ZeroDivisionError):
        stage.scheduler.between_steps(lambda: 1 // 0).result(10)
    assert collect(stage.updates, 1)[0][1] == "length"


def test_after_the_end_nothing_waits_for_ever(stage):
    running = [stage.sequence(number, [number], most=10_000) for number in range(ROWS + 2)]
    stage.scheduler.submit(running)
    stage.scheduler.start()
    until(lambda: running[0].tokens)
    stage.scheduler.close()
    assert {end for _, end in collect(stage.updates, len(running)).values()} == {BrokenError}
    with pytest.raises(BrokenError):
        stage.scheduler.submit(running[:1])
    with pytest.raises(BrokenError):
        stage.scheduler.between_steps(lambda: None).result(1)
    assert not stage.scheduler.is_alive
