"""Live code that does not return or allocates without end is interrupted, wherever it is; and nobody else ever is."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop

from streamd.runtime import watchdog as module
from streamd.runtime.state import lower
from streamd.runtime.watchdog import StepOverrun, Watchdog

LIVE = """
import re

def loop():
    while True:
        pass

def regex():
    re.match(r"(a+)+$", "a" * 60 + "b")

def power():
    return 7 ** (10 ** 8)

def pile():
    heap = []
    while True:
        heap.append(b"x" * 1_000_000 + b"y")

def double():
    text = "x"
    while True:
        text += text

def huge():
    return b"x" * 10 ** 11

def deep():
    return deep()

def stubborn():
    try:
        while True:
            pass
    finally:
        while True:
            pass

def endless():
    try:
        while True:
            pass
    finally:
        endless()

def catching():
    while True:
        try:
            while True:
                pass
        except Exception:
            pass

def leave():
    raise SystemExit("all of you")

def quick():
    return [1]
"""
CODE: dict[str, Any] = {"__name__": "live@9.bad"}
exec(compile(LIVE, "live@9/bad.py", "exec"), CODE)
TIME = "did not return within 0.1 s"
MEMORY = r"took \d+ MB of memory; a step may take 128 MB"
ENDINGS = [
    ("loop", StepOverrun, TIME),
    ("regex", StepOverrun, TIME),
    ("power", StepOverrun, TIME),
    ("pile", StepOverrun, MEMORY),
    ("double", StepOverrun, MEMORY),
    ("huge", MemoryError, None),
    ("deep", RecursionError, "maximum recursion depth"),
    ("stubborn", StepOverrun, TIME),
    ("catching", StepOverrun, TIME),
    ("leave", SystemExit, "all of you"),
]


@pytest.fixture
def dog() -> Iterator[Watchdog]:
    made = Watchdog(0.1, 128 << 20)
    made.start()
    yield made
    made.stop()


def run(dog: Watchdog, function: Callable[[], Any]) -> Any:
    """As a session does it."""
    try:
        dog.token = object()
        answer = function()
        dog.token = None
        return answer
    except BaseException:
        dog.token = None
        raise


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize(("name", "error", "text"), ENDINGS)
def test_what_does_not_end_is_ended(dog, factory, name, error, text):
    async def main() -> None:
        await asyncio.sleep(0)
        if text is MEMORY:
            dog.limit(5.0)  # memory alone shall stop it
        dog.headroom()
        with pytest.raises(error, match=text):
            run(dog, CODE[name])
        await asyncio.sleep(0.01)  # the loop goes on as ever
        assert run(dog, CODE["quick"]) == [1]

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


def test_an_idle_process_gets_no_signal(dog):
    time.sleep(0.3)  # sleeping is what this is about
    assert dog.ticks == 0


def test_the_kernel_s_own_work_is_never_interrupted(dog):
    dog.token = object()  # as if somebody had forgotten to take it away
    ends = time.thread_time() + 0.4
    while time.thread_time() < ends:
        pass
    dog.token = None
    assert dog.ticks >= 5
    assert dog.fired == 0


def test_many_short_steps_are_no_long_one(dog):
    ends = time.thread_time() + 0.4
    while time.thread_time() < ends:
        run(dog, CODE["quick"])
    assert dog.ticks >= 5
    assert dog.fired == 0


def test_time_spent_by_other_threads_does_not_count(dog):
    """The timer runs faster with them; the clock is the thread's own."""
    dog.limit(0.4)
    began = time.thread_time()
    stop = False

    def other() -> None:
        while not stop:
            hashlib.sha256(bytes(1_000_000)).digest()  # without the interpreter's lock

    thread = threading.Thread(target=other)
    thread.start()
    try:
        with pytest.raises(StepOverrun):
            run(dog, CODE["loop"])
    finally:
        stop = True
        thread.join()
    assert time.thread_time() - began > 0.3


def test_what_begins_again_whenever_it_is_interrupted_comes_to_an_end_all_the_same(dog):
    began = time.monotonic()
    with pytest.raises((StepOverrun, RecursionError)):
        run(dog, CODE["endless"])
    assert time.monotonic() - began < 20
    fired = dog.fired
    assert fired > 100
    assert run(dog, CODE["quick"]) == [1]
    ends = time.thread_time() + 0.1
    while time.thread_time() < ends:
        pass
    assert signal.getitimer(signal.ITIMER_PROF)[1] == pytest.approx(module.TICK, abs=0.01)


def test_guarding_ends_what_the_kernel_does_with_what_live_code_has_made(dog):
    laughs: list[Any] = []
    for _ in range(60):
        laughs = [laughs, laughs]
    with pytest.raises(StepOverrun), dog.guarding():
        lower(laughs)
    assert dog.token is None


def test_nobody_is_interrupted_on_the_way_out_of_guarding(dog):
    ends = time.monotonic() + 1.5
    while time.monotonic() < ends:
        with contextlib.suppress(StepOverrun), dog.guarding(0.051):
            began = time.thread_time()
            while time.thread_time() - began < 0.1:
                pass
        assert dog.token is None
    assert dog.fired > 3


def test_guarding_is_for_calls_that_are_rare(dog):
    with pytest.raises(StepOverrun), dog.guarding():
        CODE["loop"]()
    assert dog.token is None
    dog.limit(5.0)
    with pytest.raises(StepOverrun, match=r"within 0\.2 s"), dog.guarding(0.2):
        CODE["loop"]()
    assert dog.seconds == 5.0


def test_memory_that_was_not_given_back_is_not_the_next_step_s_fault(dog, monkeypatch):
    resident = 100 << 20
    monkeypatch.setattr(Watchdog, "_memory", lambda self: (1 << 30, resident))
    dog.headroom()
    resident += 200 << 20
    with pytest.raises(StepOverrun, match="took 200 MB"):
        run(dog, CODE["loop"])
    with pytest.raises(StepOverrun, match=TIME):
        run(dog, CODE["loop"])


def test_the_bound_of_the_address_space_moves_along_and_goes_at_the_end():
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    dog = Watchdog(1.0, 1 << 28)
    dog.headroom()  # not started: nothing to do
    assert resource.getrlimit(resource.RLIMIT_AS) == (soft, hard)
    dog.start()
    first = resource.getrlimit(resource.RLIMIT_AS)[0]
    held = bytearray(64 << 20)
    dog.headroom()
    assert resource.getrlimit(resource.RLIMIT_AS)[0] >= first + len(held) // 2
    dog.stop()
    dog.stop()
    assert resource.getrlimit(resource.RLIMIT_AS) == (soft, hard)
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)


def test_live_code_is_known_by_the_name_of_its_module():
    frame = sys._getframe()
    assert not module._is_live(frame)
    assert not module._is_live(None)
    seen: list[bool] = []
    CODE["look"] = lambda: seen.append(module._is_live(sys._getframe()))
    exec("def through():\n    look()", CODE)
    CODE["through"]()
    assert seen == [True]
