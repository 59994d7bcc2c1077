"""A program is started with the descriptors that it is given, and with nothing else."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from time import perf_counter

import pytest

from streamd.runtime.spawn import spawn


@pytest.fixture
def null() -> Iterator[int]:
    handle = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    yield handle
    os.close(handle)


def said(program: str, environment: dict[str, str], null: int) -> str:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        pid = spawn([sys.executable, "-I", "-S", "-c", program], [null, writing, null], environment)
        os.close(writing)
        writing = -1
        with os.fdopen(reading, "rb", closefd=False) as file:
            text = file.read().decode()
        assert os.waitpid(pid, 0)[1] == 0
        return text
    finally:
        os.close(reading)
        if writing >= 0:
            os.close(writing)


@pytest.mark.parametrize(
    ("program", "answer"),
    [
        ("import os; print(dict(os.environ).get('A'), 'HOME' in os.environ)", "b False"),
        ("import os; print(os.getcwd())", "/"),
        ("import os; print(os.getsid(0) == os.getpid())", "True"),
        ("import signal; print(signal.pthread_sigmask(signal.SIG_BLOCK, []))", "set()"),
        ("import signal; print(signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL)", "True"),
    ],
)
def test_it_has_its_environment_place_session_and_signals(null, program, answer):
    assert said(program, {"A": "b"}, null) == f"{answer}\n"


def test_descriptors_of_this_process_are_not_inherited(null):
    assert null > 2
    program = f"import os; print(os.path.exists('/proc/self/fd/{null}'), os.readlink('/proc/self/fd/0'))"
    assert said(program, {}, null) == "False /dev/null\n"


def test_a_program_that_is_not_there_is_an_error(null):
    with pytest.raises(FileNotFoundError, match="/no/such/program"):
        spawn(["/no/such/program"], [null, null, null], {})


def test_the_interpreter_goes_on_meanwhile(null):
    """In a thread it does not keep the others waiting: spawning takes a while where the kernel is slow to exec."""
    pids: list[int] = []
    arguments = [sys.executable, "-I", "-S", "-c", ""]
    thread = threading.Thread(target=lambda: pids.append(spawn(arguments, [null, null, null], {})))
    started = perf_counter()
    thread.start()
    thread.join()
    assert perf_counter() - started < 5
    assert os.waitpid(pids[0], 0)[1] == 0
