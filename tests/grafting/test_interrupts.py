"""Whatever interrupts a graft, wherever: the model is as before, or as asked for, and never in between."""

from __future__ import annotations

import functools
import subprocess
import sys
from types import SimpleNamespace

import pytest

import skillpack
from skillpack.grafting import merged
from skillpack.grafting.base import LiveBase
from skillpack.grafting.planning import Step
from tests.grafting.tools import bits, load, same

BEFORE, AFTER = ["code=0.5", "chat"], ["math=0.5", "prose"]


class Trap:
    """A function that raises at one call, or at several in a row, before or after it has done its work."""

    def __init__(self, function, error, first, times=1, *, late=False):
        self.function = function
        self.error = error
        self.bad = range(first, first + times)
        self.late = late
        self.calls = 0

    def __call__(self, *arguments):
        number, self.calls = self.calls, self.calls + 1
        if number in self.bad and not self.late:
            raise self.error
        result = self.function(*arguments)
        if number in self.bad:
            raise self.error
        return result


@pytest.fixture(params=[0, 1 << 30], ids=["no cache", "cache"])
def case(request, shelf):
    """A model with skills on it, its bits, and functions to swap to others and to compare."""
    model = load(shelf.base)
    empty = bits(model)
    host = skillpack.host(model, store=shelf.store, cache_bytes=request.param)
    host.graft(*BEFORE)
    installed = host.installed

    def swap():
        host.graft(*AFTER)

    return SimpleNamespace(model=model, host=host, empty=empty, before=bits(model), installed=installed, swap=swap)


def trapped(monkeypatch, home, name, action, **options):
    """How often `name` is called by `action`, which must fail if one of these calls does; None if none did."""
    trap = Trap(getattr(home, name), **options)
    with monkeypatch.context() as patch:
        patch.setattr(home, name, trap if isinstance(home, type(merged)) else functools.partialmethod(trap))
        try:
            action()
        except type(options["error"]):
            return trap.calls
    assert trap.calls <= trap.bad.start
    return None


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), ZeroDivisionError()], ids=["interrupt", "error"])
def test_at_every_write(case, monkeypatch, error, late):
    for place in range(1000):
        options = {"error": error, "first": place, "late": late}
        if trapped(monkeypatch, merged, "write", case.swap, **options) is None:
            break
        assert same(bits(case.model), case.before), place
        assert case.host.installed == case.installed
    assert place >= 15
    assert {each.name for each in case.host.installed} == {"math", "prose", "code", "chat"}
    case.host.verify()
    case.host.ungraft()
    assert same(bits(case.model), case.empty)


@pytest.mark.parametrize(("home", "name"), [(Step, "compute"), (LiveBase, "keep"), (LiveBase, "read")])
def test_at_every_computation(shelf, monkeypatch, home, name):
    for place in range(0, 1000, 3):
        model = load(shelf.base)
        before = bits(model)
        host = skillpack.host(model, store=shelf.store)
        options = {"error": KeyboardInterrupt(), "first": place}
        if trapped(monkeypatch, home, name, lambda: host.graft("math", "code=0.5"), **options) is None:  # noqa: B023
            break
        assert same(bits(model), before)
        assert host.installed == ()
        host.graft("code")
        host.verify()
    assert place >= 6


def test_when_undoing_is_interrupted_as_well(case, monkeypatch):
    options = {"error": KeyboardInterrupt(), "first": 5, "times": 7}
    assert trapped(monkeypatch, merged, "write", case.swap, **options)
    assert same(bits(case.model), case.before)


def test_an_interrupt_on_the_way_into_using(case, monkeypatch):
    def use():
        with case.host.using(*AFTER):
            pytest.fail("not reached")

    assert trapped(monkeypatch, merged, "write", use, error=KeyboardInterrupt(), first=5)
    assert same(bits(case.model), case.before)
    assert case.host.installed == case.installed


def test_when_undoing_fails_the_next_call_finishes_it(case, monkeypatch):
    assert trapped(monkeypatch, merged, "write", case.swap, error=MemoryError(), first=5, times=2)
    assert not same(bits(case.model), case.before)
    case.host.verify()
    assert same(bits(case.model), case.before)


SCRIPT = """
import os, random, signal, sys, threading, time
import torch, transformers
import skillpack
from transformers.utils import logging
logging.disable_progress_bar()

signal.signal(signal.SIGINT, signal.default_int_handler)
base, store = sys.argv[1:]
torch.set_num_threads(1)
model = transformers.AutoModelForCausalLM.from_pretrained(base)
host = skillpack.host(model, store=store, cache_bytes=100_000)
draw = random.Random(0)
state = lambda: torch.cat([value.flatten().view(torch.uint8) for value in model.state_dict().values()])
stacks = [(), ("math=0.5",), ("prose", "code"), ("chat", "math")]
known = {}
def select(stack):
    with_names = [skill.partition("=")[0] for skill in stack]
    gone = [each.name for each in host.installed if each.name not in with_names]
    if gone:
        host.ungraft(*gone)
    host.graft(*stack)
started = time.perf_counter()
for stack in stacks:
    select(stack)
    known[host.installed] = state()
seconds = (time.perf_counter() - started) / len(stacks)
interrupted = 0
for _ in range(40):
    target = draw.choice(stacks)
    delay = draw.random() * seconds
    before = host.installed
    def kill():
        time.sleep(delay)
        os.kill(os.getpid(), signal.SIGINT)
    thread = threading.Thread(target=kill)
    try:
        thread.start()
        host.graft(*target)
        thread.join()
        time.sleep(0.01)
    except KeyboardInterrupt:
        interrupted += 1
    while thread.is_alive():
        try:
            thread.join()
        except KeyboardInterrupt:
            pass
    now = state()
    assert torch.equal(now, known.setdefault(host.installed, now))
    if draw.random() < 0.3:
        host.ungraft()
host.verify()
host.ungraft()
assert torch.equal(state(), known[()])
print(interrupted)
"""


def test_real_signals(shelf):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(shelf.base), str(shelf.store)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 40
