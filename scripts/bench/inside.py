"""Steps taken inside a server that runs, for guard.py: two publishers' messages, handed to their sessions one by one.

The rule this file keeps: sessions, viewers and states are real; only the publishers' sockets are left out, so that what
is timed is the kernel's and the live code's work for one event and nothing of the network's. What the steps say is
carried out, which is an append to the rings; the viewers are sent to afterwards, when the loop turns. What is compared
takes turns of milliseconds: a machine that others use as well is not equally fast for longer.

The clock is the thread's: while the watchdog's timer runs, Linux counts the process's only at its ticks.
"""

from __future__ import annotations

import gc
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from scripts.bench import broadcast, publishers
from streamd.runtime.journal import Journal
from streamd.runtime.link import now_ms
from streamd.runtime.session import Session
from streamd.runtime.state import lower
from streamd.runtime.vocabulary import Data, Event
from streamd.server import Server

TRIED, LEFT_ALONE = "live/bench-idle1", "live/bench-idle2"
LENGTH = 600_000  # ms of the broadcast: as much as all rounds together take


class Unwritten(Journal):
    """A journal that forgets at once."""

    __slots__ = ()

    def note(self, event: Event, commands: int) -> None:
        pass


class Stream:
    """What a publisher would say next: it has stopped in the middle of its opening's last message."""

    def __init__(self) -> None:
        messages = broadcast.until(LENGTH)
        units = broadcast.chunks(messages)
        begun = len(broadcast.until(publishers.OPENING))
        self.units = [units[begun - 1][-broadcast.SOUND_BYTES // 2 :], *units[begun:]]
        self.times = [message.time for message in messages[begun - 1 :]]
        self.at = {TRIED: 0, LEFT_ALONE: 0}

    def take(self, name: str, ms: int) -> list[bytes]:
        first = at = self.at[name]
        while self.times[at] < self.times[first] + ms:
            at += 1
        self.at[name] = at
        return self.units[first:at]


class Inside:
    """The two sessions of one server: a patch may be tried on the first, the second is left alone."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.stream = Stream()

    def session(self, name: str) -> Session:
        return self.server.sessions.by_name[name]

    def steps(self, name: str, ms: int) -> float:
        """µs of CPU of a step, over so many ms of the broadcast."""
        session = self.session(name)
        link: int = session.state.publisher.link
        events = [Data(now_ms(), link, unit) for unit in self.stream.take(name, ms)]
        started = time.thread_time()
        for event in events:
            session.deliver(event)
        return (time.thread_time() - started) / len(events) * 1e6

    def unwritten(self, ms: int) -> float:
        """The same without a journal."""
        session = self.session(LEFT_ALONE)
        kept, session.journal = session.journal, Unwritten(session.journal.latest)
        took = self.steps(LEFT_ALONE, ms)
        session.journal = kept
        kept.lose()
        roll(session)
        return took

    def turns(self, ms: int, times: int) -> dict[str, Any]:
        """Both sessions in turns, and the second without its journal: µs of a step."""
        kinds: dict[str, Callable[[], float]] = {
            "tried": lambda: self.steps(TRIED, ms),
            "plain": lambda: self.steps(LEFT_ALONE, ms),
            "no journal": lambda: self.unwritten(ms),
        }
        gc.collect()
        seen: dict[str, list[float]] = {kind: [] for kind in kinds}
        order = deque(kinds)
        for _ in range(times):
            for kind in order:
                seen[kind].append(kinds[kind]())
            order.rotate()  # nobody is always the first
        return seen

    def recompute(self, ms: int) -> dict[str, Any]:
        """µs of a checkpoint, and of making the state anew from it and the events of so many ms of the broadcast since."""
        session = self.session(LEFT_ALONE)
        checkpoint = roll(session)
        self.steps(LEFT_ALONE, ms)
        known = session.journal.since()
        assert known is not None
        started = time.thread_time()
        again = self.server.sessions.state_before(session)
        took = time.thread_time() - started
        assert again is not None
        return {"checkpoint_us": checkpoint, "recompute_us": took * 1e6, "events": len(known[1])}


def roll(session: Session) -> float:
    """µs of a checkpoint."""
    started = time.thread_time()
    lowered = lower(session.state)
    took = time.thread_time() - started
    assert session.journal.latest is not None
    session.journal.roll(session.journal.latest._replace(lowered=lowered))
    return took * 1e6
