"""Live code that does not return, or that allocates without end, is interrupted: a bound of time and of memory.

The rule this file keeps: a step pays two assignments for it and no system call. The clock is ITIMER_PROF, the
processor time that the process has used: an idle server gets no signal, and neither a paused machine nor a busy
neighbour raises an alarm. The handler runs in the main thread, between two bytecodes (the regular-expression engine
and the arithmetic of big numbers let it in as well), and raises only where a frame of live code is on the stack and
what was announced in `token` has been seen for as long as it may take. It goes on raising until that has gone, and at
ticks as short as there are: a `finally` of live code cannot keep it. Inside of `guarding` no frame of live code is
needed: a value that live code has made can hold up the kernel as well, such as a list that contains itself twice over
and over, and what is done there is only taken note of afterwards.

Memory is bounded twice. A step during which the resident set grows by more than `step_memory` is interrupted; and the
soft limit of the address space is kept a gigabyte above what is used, so that one huge allocation, which no tick can
come in between of, raises MemoryError. Processes that this one starts inherit that limit; they set their own.

What cannot be interrupted is a loop inside one call of a function written in C that never looks for signals, such as
sum(range(10**12)). A rehearsal stops it by the kernel's own bound of processor time (RLIMIT_CPU); here only the
service's watchdog would.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
from dataclasses import dataclass
from time import thread_time
from types import FrameType
from typing import Any

TICK = 0.05  # s of processor time between two looks
URGENT = 0.001  # s; and between two interruptions of what does not heed the first
HEADROOM = 1 << 30  # bytes of address space that may be taken within a second
LIVE = "live@"  # what the modules of a release are called
PAGE = os.sysconf("SC_PAGE_SIZE")


class StepOverrun(BaseException):
    """A step took more time or memory than it may. No Exception: `except Exception` in live code must not keep it."""


@dataclass(frozen=True)
class StepBounds:
    """What one step may take, and how much of the past is kept."""

    step_seconds: float = 1.0
    guarded_ms: float = 200.0  # of the new code, while the old code can still answer in its place
    step_memory: int = 268_435_456
    journal_bytes: int = 1_048_576  # of one session
    journal_total: int = 33_554_432  # of all; past it only those that are small are left alone


class Watchdog:
    """One for the process. Whoever calls live code says so in `token`, with an object that is nobody else's meanwhile,
    and sets it to None afterwards; `seconds` is what that may take."""

    __slots__ = (
        "_before",
        "_resident",
        "_seen",
        "_since",
        "_soft",
        "_spilled",
        "_statm",
        "_urgent",
        "fired",
        "seconds",
        "step_memory",
        "step_seconds",
        "ticks",
        "token",
    )

    def __init__(self, step_seconds: float, step_memory: int) -> None:
        self.step_seconds = step_seconds
        self.step_memory = step_memory
        self.seconds = step_seconds
        self.token: object | None = None
        self.ticks = 0  # since start: an idle process has none
        self.fired = 0  # interruptions
        self._seen: object | None = None
        self._since = 0.0
        self._spilled = False  # a step took too much memory since the last headroom()
        self._resident = 0  # bytes, when last looked at between two steps
        self._statm = -1
        self._before: Any = None
        self._soft: int | None = None
        self._urgent = False

    # ---- start and stop

    def start(self) -> None:
        """Begin to watch. In the main thread, which alone gets signals."""
        self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        self._before = signal.signal(signal.SIGPROF, self._tick)
        signal.siginterrupt(signal.SIGPROF, False)  # a system call that is going on is none of its business
        signal.setitimer(signal.ITIMER_PROF, TICK, TICK)
        self.headroom()

    def stop(self) -> None:
        if self._statm < 0:
            return
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, self._before)
        os.close(self._statm)
        self._statm = -1
        if self._soft is not None:
            _, hard = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (self._soft, hard))
            self._soft = None

    def limit(self, seconds: float) -> None:
        """Let steps take so long from now on."""
        self.step_seconds = self.seconds = seconds

    def headroom(self) -> None:
        """Move the bound of the address space along with what is used; to be called once a second."""
        if self._statm < 0:
            return
        if self._spilled:
            self._spilled = False
            with contextlib.suppress(AttributeError):  # a C library without it
                ctypes.CDLL(None).malloc_trim(
                    0
                )  # what the step had is free, and would stay with the allocator
        used, self._resident = self._memory()
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        if self._soft is None:
            self._soft = soft
        room = used + HEADROOM
        bounds = [item for item in (room, hard, self._soft) if item != resource.RLIM_INFINITY]
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, (min(bounds), hard))

    def guarding(self, seconds: float = 0.0) -> Guarding:
        """Watch over live code that is called rarely, or over what it has made: a migration, `begin`, `describe`, the
        copy of a state. Raises StepOverrun."""
        return Guarding(self, seconds)

    # ---- the tick

    def _tick(self, _number: int, frame: FrameType | None) -> None:
        self.ticks += 1
        token = self.token
        if token is not self._seen and self._urgent:
            self._urgent = False
            signal.setitimer(signal.ITIMER_PROF, TICK, TICK)
        if token is None:
            self._seen = None
            return
        if token is not self._seen:
            self._seen = token
            self._since = thread_time()
            return
        # what is seen for a second time has run for a tick: no innocent step does
        reason = ""
        if thread_time() - self._since > self.seconds - TICK:  # it began up to a tick before it was seen
            reason = f"did not return within {self.seconds:g} s"
        resident = self._memory()[1]
        if resident - self._resident > self.step_memory:
            self._spilled = True
            reason = f"took {resident - self._resident >> 20} MB of memory; a step may take {self.step_memory >> 20} MB"
        if reason and (_is_live(frame) or (type(token) is Guarding and token.may_raise(frame))):
            self.fired += 1
            if not self._urgent:
                self._urgent = True
                signal.setitimer(signal.ITIMER_PROF, URGENT, URGENT)
            self._resident = resident  # what is not given back is not the next step's fault
            raise StepOverrun(reason)

    def _memory(self) -> tuple[int, int]:
        """Bytes of address space and of resident memory."""
        pages = os.pread(self._statm, 128, 0).split(maxsplit=2)
        return int(pages[0]) * PAGE, int(pages[1]) * PAGE


class Guarding:
    """A `with` over which the watchdog watches; and its own token meanwhile."""

    __slots__ = ("_former", "_seconds", "_watchdog")

    def __init__(self, watchdog: Watchdog, seconds: float) -> None:
        self._watchdog = watchdog
        self._seconds = seconds
        self._former: tuple[object | None, float] = (None, 0.0)

    def __enter__(self) -> None:
        watchdog = self._watchdog
        self._former = watchdog.token, watchdog.seconds
        watchdog.seconds = self._seconds or watchdog.step_seconds
        watchdog.token = self

    def __exit__(self, *_error: object) -> None:
        self._watchdog.token, self._watchdog.seconds = self._former

    def may_raise(self, frame: FrameType | None) -> bool:
        """Not on the way out: who was interrupted there would leave the token behind."""
        return frame is not None and frame.f_code not in (WAY_IN, WAY_OUT)


WAY_IN, WAY_OUT = Guarding.__enter__.__code__, Guarding.__exit__.__code__


def _is_live(frame: FrameType | None) -> bool:
    """Whether live code is on the stack. Where it is not, the kernel is about to take note of its return."""
    while frame is not None:
        if str(frame.f_globals.get("__name__", "")).startswith(LIVE):
            return True
        frame = frame.f_back
    return False
