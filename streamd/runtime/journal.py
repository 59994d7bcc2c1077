"""A session's last checkpoints and every event since: the state before any event, at the price of a list's append.

The rule this file keeps: a step is a pure function, so state is what the events since a checkpoint make of it. What
is kept is never shared with live code: guests are lowered and dicts copied before the step sees them, and a replay
gets copies of its own, whose commands nobody carries out.

Two checkpoints are kept, so that there are always real events to rehearse a patch with: the latest, from which a
session goes on after a crash, and the one before it. All of a journal is of one release; a change of code begins it
anew. It is bounded in bytes: past the bound the owner makes a checkpoint at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, NamedTuple

from streamd.runtime import telling
from streamd.runtime.release import Release
from streamd.runtime.state import TAG, lift, lower
from streamd.runtime.trace import Traced
from streamd.runtime.vocabulary import Data, Event, Joined, PeerError, Request, Restarted

Convert = Callable[[Any, Release, Release], Any]  # a lowered value of one release -> the same for another

BLAMED = -1  # instead of a number of commands: the step blamed the peer, and its state is what it left behind
FAILED = -2  # the step crashed and has done nothing
SHARED = frozenset((Joined, Request, Restarted))  # events with something in them that a step could change
ENTRY_BYTES = 256  # what an event takes beside its payload
TOLD = 64  # events that reports and `trace` show: about two seconds of a publisher's reads
SPELL = 32_768  # bytes after which a journal is looked at, for all of them have a bound together


class Checkpoint(NamedTuple):
    """The lowered state of a session, and the release it is of."""

    release: Release
    lowered: Any


class Entry(NamedTuple):
    """An event in kept form, what it was answered with (a number of commands, BLAMED or FAILED), and the release whose
    records a guest in it is made of."""

    event: Event
    commands: int
    source: Release


class Received(NamedTuple):
    """What came of publishers' bytes: reads whose step did not crash, their bytes, the commands that answered them, and
    when the first and the last of them came."""

    reads: int
    size: int
    commands: int
    first: int
    last: int


class Diverged(Exception):
    """A replay did not go as it went the first time."""


class _Sums:
    """The same, of one stretch of a journal, and still growing."""

    __slots__ = ("commands", "first", "last", "reads", "size")

    def __init__(self) -> None:
        self.reads = self.size = self.commands = self.first = self.last = 0

    def add(self, now: int, size: int, commands: int) -> None:
        if not self.reads:
            self.first = now
        self.last = now
        self.reads += 1
        self.size += size
        if commands > 0:
            self.commands += commands


class Journal:
    """See the module. `fresh` counts the bytes since the latest checkpoint, `size` all that are kept."""

    __slots__ = (
        "_after",
        "_before",
        "answers",
        "bound",
        "events",
        "fresh",
        "held",
        "latest",
        "mark",
        "older",
        "past",
        "whole",
    )

    def __init__(self, checkpoint: Checkpoint | None) -> None:
        self.older: Checkpoint | None = None
        self.latest = checkpoint
        self.events: list[Event] = []  # in kept form, since `older` if there is one
        self.answers: list[int] = []
        self.mark = 0  # events before `latest`
        self.held = 0  # bytes of those
        self.fresh = 0
        self.bound = SPELL  # bytes since `latest` at which the owner looks again
        self.whole = checkpoint is not None  # `latest` and the events since are all there is to know
        self.past: list[Traced] = []  # events that are gone, where few have come since
        self._before, self._after = _Sums(), _Sums()  # of the reads before `latest`, and since

    @property
    def size(self) -> int:
        return self.held + self.fresh

    @property
    def changed(self) -> bool:
        """Something has happened since the latest checkpoint."""
        return not self.whole or len(self.events) > self.mark

    def note(self, event: Event, commands: int) -> None:
        """Add an event in kept form, after its step; in outline only where there is nothing to replay it on."""
        if not self.whole:
            self.past = [*self.past[1 - TOLD :], Traced.of(event, commands)]
            return
        self.events.append(event)
        self.answers.append(commands)
        if type(event) is Data:
            size = len(event.data)
            self.fresh += ENTRY_BYTES + size
            if commands >= BLAMED:
                self._after.add(event.now, size, commands)
        else:
            self.fresh += ENTRY_BYTES if type(event) not in SHARED else ENTRY_BYTES + _weight(event)

    # ---- checkpoints

    def roll(self, checkpoint: Checkpoint) -> None:
        """A new latest checkpoint; the latest one becomes the older, and what came before that is forgotten."""
        if self.whole:
            self._forget(self.mark)
            self.older, self.held = self.latest, self.fresh
            self._before = self._after
        else:
            self._forget(len(self.events))
            self.older, self.held = None, 0
            self._before = _Sums()
        self._after = _Sums()
        self.mark = len(self.events)
        self.latest = checkpoint
        self.fresh, self.bound, self.whole = 0, SPELL, True

    def reset(self, checkpoint: Checkpoint | None) -> None:
        """Begin anew: the code has changed, and what was kept is of no use to the new records."""
        self._forget(len(self.events))
        self._before, self._after = _Sums(), _Sums()
        self.older, self.latest, self.whole = None, checkpoint, checkpoint is not None
        self.mark = self.held = self.fresh = 0
        self.bound = SPELL

    def lose(self) -> None:
        """Let go of all events, for there are too many and no checkpoint can be made. The latest one stays, for
        whoever has nothing better to go back to."""
        self._forget(len(self.events))
        self._before, self._after = _Sums(), _Sums()
        self.older, self.whole = None, False
        self.mark = self.held = self.fresh = 0
        self.bound = SPELL

    def _forget(self, count: int) -> None:
        """Let go of the oldest events, but for the outline of those that `told` would miss."""
        missing = TOLD - (len(self.events) - count)
        first = max(0, count - missing)
        outline = map(Traced.of, islice(self.events, first, count), islice(self.answers, first, count))
        self.past = [*self.past, *outline][-missing:] if missing > 0 else []
        del self.events[:count], self.answers[:count]

    # ---- what is read

    def since(self) -> tuple[Checkpoint, list[Entry]] | None:
        """The latest checkpoint and every event since; None if some are missing."""
        if not self.whole or self.latest is None:
            return None
        return self.latest, self._entries(self.mark, self.latest.release)

    def recent(self) -> tuple[Checkpoint, list[Entry]] | None:
        """The older of the checkpoints and every event since, for a rehearsal; None if some are missing."""
        if self.older is None or not self.whole:
            return self.since()
        return self.older, self._entries(0, self.older.release)

    @property
    def received(self) -> Received:
        """Of the publishers' reads that are kept; sums, for it is asked of every session several times a second."""
        before, after = self._before, self._after
        return Received(
            before.reads + after.reads,
            before.size + after.size,
            before.commands + after.commands,
            (before if before.reads else after).first,
            (after if after.reads else before).last,
        )

    def _entries(self, first: int, release: Release) -> list[Entry]:
        pairs = zip(self.events[first:], self.answers[first:], strict=True)
        return [Entry(event, commands, release) for event, commands in pairs]

    def told(self, last: int = TOLD) -> list[dict[str, Any]]:
        """The last events in outline: when, kind, link, size, commands."""
        outline = [*self.past, *map(Traced.of, self.events[-last:], self.answers[-last:])]
        return [entry.told() for entry in outline[-last:]]


def _weight(event: Event) -> int:
    """Bytes of what an event carries beside its numbers, about."""
    match event:
        case Joined(guest=guest):
            return _bytes_of(guest)
        case Request():
            return 2 * ENTRY_BYTES + _bytes_of(event.headers)
    return 0


def _bytes_of(value: Any) -> int:
    if isinstance(value, dict):
        return 64 + sum(64 + _bytes_of(item) for item in value.values())
    if isinstance(value, list | tuple):
        return 64 + sum(map(_bytes_of, value))
    return len(value) if isinstance(value, bytes | str) else 32


# ---- events that outlive their step --------------------------------------------------------------------------


def keep(event: Event) -> Event:
    """The event in a form that no step can change, and that is of no release. Raises StateError for a guest that is not
    plain."""
    if type(event) not in SHARED:
        return event
    match event:
        case Joined(guest=guest):
            return event._replace(guest=lower(guest))
        case Request(headers=headers):
            return event._replace(headers=dict(headers))
        case Restarted(links=links):
            return event._replace(links=list(links))
    return event


def revive(event: Event, source: Release, target: Release, convert: Convert) -> Event:
    """A kept event as a step of `target` gets it; a guest was of `source`. Raises what converting and lifting raise."""
    if type(event) not in SHARED:
        return event
    if type(event) is Joined:
        return event._replace(guest=handed(event.guest, source, target, convert))
    return keep(event)


def handed(lowered: Any, source: Release, target: Release, convert: Convert) -> Any:
    """A lowered guest as a record of `target`."""
    if not (isinstance(lowered, dict) and TAG in lowered):
        return lowered  # there was none
    if source is not target:
        lowered = convert(lowered, source, target)
    return lift(lowered, target.record)


def replay(
    release: Release,
    lowered: Any,
    entries: Sequence[Entry],
    convert: Convert,
    watch: Callable[[Entry, list[Any] | PeerError], None] | None = None,
) -> Any:
    """The state of `release` after the entries; `lowered` is what it was before them. `watch` is shown every answer.

    Raises Diverged if a step answers with another number of commands than was noted, or fails otherwise, and
    whatever lifting and converting raise.
    """
    state = lift(lowered, release.record)
    step = release.step
    for entry in entries:
        if entry.commands == FAILED:
            continue
        event = revive(entry.event, entry.source, release, convert)
        answer: list[Any] | PeerError
        try:
            answer = step(state, event)
            count = len(answer)
        except PeerError as error:
            answer, count = error, BLAMED
        except Exception as error:
            raise Diverged(f"{type(event).__name__} at {event.now} raised {telling.told(error)}") from error
        if count != entry.commands:
            raise Diverged(
                f"{type(event).__name__} at {event.now} was answered with {_count(entry.commands)}, "
                f"and now with {_count(count)}"
            )
        if watch is not None:
            watch(entry, answer)
    return state


def _count(commands: int) -> str:
    return "a peer's fault" if commands == BLAMED else f"{commands} commands"
