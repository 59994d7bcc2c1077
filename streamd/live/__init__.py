"""The live code: everything between bytes that came in and bytes that go out, and all of it may change under viewers.

The rule this package keeps: `step` is a pure function of plain state and an event; it never waits, never does I/O and
never reads a clock. What shall happen comes back as commands, which the kernel carries out once the step has returned.

A session named "door/..." is one connection that has not yet said what it wants; every other is the broadcast of that
name ("live/NAME"). The kernel knows this package by three functions only:

    begin(name, settings, now)  the state of a new session
    step(session, event)        what shall happen because of an event
    describe(session)           plain facts for the operator
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from streamd.live.handlers import broadcast, door, settings
from streamd.runtime.vocabulary import Command, Event

VERSION = 1

DOOR = "door/"

Session: TypeAlias = door.Door | broadcast.Broadcast


def begin(name: str, plain: Mapping[str, object], now: int) -> Session:
    """The state of a new session; `plain` are the server's settings, `now` ms. Raises nothing."""
    chosen = settings.read(plain)
    if name.startswith(DOOR):
        return door.Door(name=name, settings=chosen, began=now)
    return broadcast.begin(name, chosen, now)


def step(session: Session, event: Event) -> list[Command]:
    """Let the session take one event. A PeerError is the fault of the event's link, which is then closed."""
    if isinstance(session, door.Door):
        return door.step(session, event)
    return broadcast.step(session, event)


def describe(session: Session) -> dict[str, object]:
    """What `streamd-ctl status` says of the session. Plain values; raises nothing."""
    if isinstance(session, door.Door):
        return door.describe(session)
    return broadcast.describe(session)
