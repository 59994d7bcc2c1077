"""Steps taken inside a server that runs, for guard.py: a publisher's messages, handed to its session one by one.

The rule this file keeps: the session, its viewers and its state are real; only the publisher's socket is left out, so
that what is timed is the kernel's and the live code's work for one event and nothing of the network's. What the steps
say is carried out, which is an append to the rings; the viewers are sent to afterwards, when the loop turns.

The clock is the thread's: while the watchdog's timer runs, Linux counts the process's only at its ticks.
"""

from __future__ import annotations

import gc
import time
from typing import Any

from scripts.bench import broadcast, publishers
from streamd.runtime.journal import Journal
from streamd.runtime.net import now_ms
from streamd.runtime.session import Session
from streamd.runtime.state import lower
from streamd.runtime.vocabulary import Data, Event
from streamd.server import Server

NAME = "live/bench-idle1"
LENGTH = 600_000  # ms of the broadcast: as much as all rounds together take


class Unwritten(Journal):
    """A journal that forgets at once."""

    __slots__ = ()

    def note(self, event: Event, commands: int) -> None:
        pass


class Stream:
    """What the publisher of `NAME` would say next: it has stopped in the middle of its opening's last message."""

    def __init__(self) -> None:
        messages = broadcast.until(LENGTH)
        units = broadcast.chunks(messages)
        begun = len(broadcast.until(publishers.OPENING))
        self.units = [units[begun - 1][-broadcast.SOUND_BYTES // 2 :], *units[begun:]]
        self.times = [message.time for message in messages[begun - 1 :]]
        self.at = 0

    def take(self, ms: int) -> list[bytes]:
        first, until = self.at, self.times[self.at] + ms
        while self.times[self.at] < until:
            self.at += 1
        return self.units[first : self.at]


def session(server: Server) -> Session:
    return server.sessions.by_name[NAME]


def steps(server: Server, stream: Stream, ms: int, journal: bool = True) -> dict[str, Any]:
    """µs of CPU of a step, over so many ms of the broadcast; without the journal if so wished."""
    one = session(server)
    link: int = one.state.publisher.link
    events = [Data(now_ms(), link, unit) for unit in stream.take(ms)]
    kept = one.journal
    if not journal:
        one.journal = Unwritten(kept.latest)
    gc.collect()
    started = time.thread_time()
    for event in events:
        one.deliver(event)
    took = time.thread_time() - started
    if not journal:
        one.journal = kept
        kept.lose()
        roll(one)
    return {"us": took / len(events) * 1e6, "steps": len(events)}


def roll(one: Session) -> float:
    """µs of a checkpoint."""
    started = time.thread_time()
    lowered = lower(one.state)
    took = time.thread_time() - started
    assert one.journal.latest is not None
    one.journal.roll(one.journal.latest._replace(lowered=lowered))
    return took * 1e6


def recompute(server: Server, stream: Stream, ms: int) -> dict[str, Any]:
    """µs of a checkpoint, and of making the state anew from it and the events of so many ms of the broadcast since."""
    one = session(server)
    checkpoint = roll(one)
    steps(server, stream, ms)
    known = one.journal.since()
    assert known is not None
    started = time.thread_time()
    again = server.sessions.state_before(one)
    took = time.thread_time() - started
    assert again is not None
    return {"checkpoint_us": checkpoint, "recompute_us": took * 1e6, "events": len(known[1])}
