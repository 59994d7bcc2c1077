"""What happens rarely, made up for a rehearsal: goodbyes and restarts, viewers that fall behind, links that go, timers.

The rule this file keeps: each of these could be the next event. Its link is open, its group has that member, its timer
is set; and it comes when the last real event came, so that nobody has been silent for longer than it was.
"""

from __future__ import annotations

from collections.abc import Iterator

from streamd.runtime.vocabulary import (
    Closed,
    Congested,
    Drained,
    Event,
    Refused,
    Restarted,
    Stopping,
    Tick,
)
from streamd.runtime.wire import Around, outline

DEADLINE = 5_000  # ms that a server has to say goodbye
GONE = "closed by peer"  # what most links say when they go


def made_up(around: Around, name: str, now: int) -> Iterator[Event]:
    """One of each kind that can be; each is meant for the session `name` as it is now, not for what the one before has
    left."""
    members = {item.group: item for item in reversed(around.named) if item.group}
    for group, member in members.items():
        yield Congested(now, member.number, group)
        yield Drained(now, member.number, group)
    if around.named:
        yield Refused(now, around.named[0].number, name, "no such session")
        publisher = max(around.named, key=lambda item: item.received)
        for number in dict.fromkeys(item.number for item in (around.named[0], around.named[-1], publisher)):
            yield Closed(now, number, GONE)
    for tag in around.timers:
        yield Tick(now, tag)
    yield Restarted(now, list(around.numbers))
    yield Stopping(now, now + DEADLINE)


def told(event: Event) -> str:
    """ "a made-up Closed of link 7", "a made-up Tick 'ping'": never to be taken for one that has happened."""
    of_what = f" {event.tag!r}" if isinstance(event, Tick) else ""
    return f"a made-up {outline(event)}{of_what}"
