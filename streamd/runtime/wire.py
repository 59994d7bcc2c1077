"""What goes between the server and the process that rehearses for it, and how it is packed.

The rule this file keeps: the server trusts nothing that comes back. What it sends is its own, and goes as marshal,
which keeps a tuple a tuple and takes half of msgpack's time; what the other process answers, in which a patch has run,
comes as msgpack, and no part of it is called or imported. (The code objects among it are those that the server would
have compiled from the same text.)

Beside the two streams there is one page of memory that both can see. The other process notes there what it is at;
when it has been killed that is the only thing left to ask.
"""

from __future__ import annotations

import marshal
import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, get_args

from streamd.runtime import vocabulary
from streamd.runtime.journal import Checkpoint, Entry
from streamd.runtime.vocabulary import Event

LENGTH = struct.Struct("<I")  # before every message, both ways
PIECE = 65_536  # bytes of events in one message, about: packing them takes 0.1 ms
PAGE = 4096
MOST_NUMBERS = 200  # links that are sent by number
MOST_NAMED = 20  # groups, and timers, that made-up events are about


@dataclass(frozen=True)
class ReleaseFact:
    """What the other process must know of a release; `codes` is packed code that it need not compile."""

    number: int
    path: str
    parent: int | None
    modules: Mapping[str, list[int]]
    renames: Mapping[str, str] = field(default_factory=dict)
    irreversible: str = ""
    codes: Mapping[str, bytes] = field(default_factory=dict)


class LinkFact(NamedTuple):
    """An open link: its number, the group that it is a member of ("" for none), the bytes that it has sent."""

    number: int
    group: str
    received: int


@dataclass(frozen=True)
class Around:
    """What is around a session, as far as events can be made up about it: a few of its links (the first and the last, a
    member of each group, whoever has sent most), the numbers of all of them or of MOST_NUMBERS, and the timers that are
    set."""

    named: list[LinkFact] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    timers: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class SessionCopy:
    """A session's lowered state, and the events since an earlier checkpoint where they are to be replayed."""

    name: str
    release: int
    lowered: Any
    recent: tuple[Checkpoint, list[Entry]] | None = None
    groups: list[str] = field(default_factory=list)
    links: int = 0  # how many there are
    around: Around = field(default_factory=Around)

    def messages(self) -> Iterator[bytes]:
        """The messages that tell of it, none of them long in the packing. Raises ValueError for what cannot be packed."""
        yield message("session", self.name, self.release, self.lowered, list(self.groups), self.links)
        around = self.around
        if around.numbers or around.timers:
            yield message("around", [tuple(item) for item in around.named], around.numbers, around.timers)
        if self.recent is not None:
            checkpoint, entries = self.recent
            yield message("checkpoint", checkpoint.release.number, checkpoint.lowered)
            piece: list[tuple[Any, ...]] = []
            size = 0
            for event, commands, source in entries:
                piece.append((*flat(event), commands, source.number))
                size += 256 + len(getattr(event, "data", b""))
                if size > PIECE:
                    yield message("events", piece)
                    piece, size = [], 0
            if piece:
                yield message("events", piece)
        yield message("go")


def message(verb: str, *values: Any) -> bytes:
    """From the server to the other process."""
    body = marshal.dumps((verb, *values))
    return LENGTH.pack(len(body)) + body


def flat(event: Event) -> tuple[str, tuple[Any, ...]]:
    """An event in kept form, for packing."""
    return type(event).__name__, tuple(event)


def event_of(kind: str, values: tuple[Any, ...]) -> Event:
    event: Event = getattr(vocabulary, kind)(*values)
    return event


def outline(event: Event) -> str:
    """ "Data of link 3, 1316 bytes", and no payload."""
    number, data = getattr(event, "link", 0), getattr(event, "data", b"")
    of_link = f" of link {number}" if number else ""
    return f"{type(event).__name__}{of_link}{f', {len(data)} bytes' if data else ''}"


class Place:
    """What the other process is at, in a page of memory that outlives it.

    `doing` is written once or twice per session, `event` before every step; the words for the numbers are found by
    whoever reads them.
    """

    NUMBERS = struct.Struct("<IIIII")  # event, of how many, kind, link, bytes
    TEXTS = struct.Struct("<HH")
    KINDS = tuple(item.__name__ for item in get_args(Event))
    CODES = {kind: place for place, kind in enumerate(get_args(Event))}

    def __init__(self, page: mmap.mmap) -> None:
        self.page = page

    def doing(self, what: str, session: str | None = None) -> None:
        """From here on: `what`, such as "upgrade". The session stays the same unless another is given."""
        name, _ = self._texts() if session is None else (session, "")
        raw = [item.encode("utf-8", "replace")[:1000] for item in (name, what)]
        start = self.NUMBERS.size + self.TEXTS.size
        self.NUMBERS.pack_into(self.page, 0, 0, 0, 0, 0, 0)
        self.TEXTS.pack_into(self.page, self.NUMBERS.size, len(raw[0]), len(raw[1]))
        self.page[start : start + len(raw[0]) + len(raw[1])] = raw[0] + raw[1]

    def event(self, event: Event, place: int, count: int) -> None:
        """From here on: this event, the first is number 1."""
        link, data = getattr(event, "link", 0), getattr(event, "data", b"")
        self.NUMBERS.pack_into(
            self.page, 0, place, count, self.CODES[type(event)], link & 0xFFFFFFFF, len(data)
        )

    def _texts(self) -> tuple[str, str]:
        first, second = self.TEXTS.unpack_from(self.page, self.NUMBERS.size)
        start = self.NUMBERS.size + self.TEXTS.size
        raw = self.page[start : start + first + second]
        return raw[:first].decode("utf-8", "replace"), raw[first:].decode("utf-8", "replace")

    def told(self) -> tuple[str, str]:
        """(session, what was being done in words); what is torn or out of range reads oddly and raises nothing."""
        name, what = self._texts()
        place, count, kind, link, size = self.NUMBERS.unpack_from(self.page, 0)
        if place:
            word = self.KINDS[kind] if kind < len(self.KINDS) else "an event"
            of_link = f" of link {link}" if link else ""
            of = f" of {count}" if count else ""
            what += f", event {place}{of} ({word}{of_link}{f', {size} bytes' if size else ''})"
        return name, what
