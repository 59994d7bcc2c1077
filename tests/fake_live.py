"""A small live tree with nothing of media in it, and a kernel around it: what the kernel's tests run on.

A connection sends lines. "join NAME" moves it to the room of that name, where a line is a word and its rest:
the room answers, says it to everyone, counts it, fails on demand. `codec` is the module that tests patch: its
`word()` is what "version" answers, and its record sits in every room, in a list and in a dict.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from streamd.runtime.link import Limits, Link
from streamd.runtime.net import Net
from streamd.runtime.session import Session, Sessions
from streamd.runtime.store import Store
from streamd.runtime.supervisor import CrashReports
from streamd.runtime.trace import Counters
from streamd.runtime.upgrade import Upgrades
from streamd.runtime.wishes import Bounds, Wishes, silent

BY = {"uid": 1000, "gid": 100, "pid": 4711}
LINGER = 0.3  # seconds; a test that needs the peer's last word does not wait for longer

TREE = {
    "__init__.py": '''
"""Doors and rooms."""

from __future__ import annotations

from streamd.live.handlers import door, room

VERSION = 1


def begin(name, settings, now):
    if name.startswith("door/"):
        return door.Door()
    return room.begin(name, settings)


def step(session, event):
    if isinstance(session, door.Door):
        return door.step(session, event)
    return room.step(session, event)


def describe(session):
    return {"kind": room.kind(session)}
''',
    "protocol/__init__.py": "",
    "protocol/lines.py": '''
"""Bytes to lines."""

from __future__ import annotations

from streamd.runtime.state import field, state
from streamd.runtime.vocabulary import PeerError

VERSION = 1
LONGEST = 1000


@state
class Reader:
    rest: bytearray = field(factory=bytearray)


def feed(reader: Reader, data: bytes) -> None:
    reader.rest += data


def pull(reader: Reader) -> str | None:
    line, end, rest = reader.rest.partition(b"\\n")
    if len(line) > LONGEST:
        raise PeerError("a line without an end")
    if not end:
        return None
    reader.rest = rest
    return line.decode()
''',
    "media/__init__.py": "",
    "media/codec.py": '''
"""What the tests patch."""

from __future__ import annotations

from streamd.runtime.state import state

VERSION = 1


@state
class Track:
    config: bytes = b"one:two"
    frames: int = 0


# says which version runs
def word() -> str:
    return "codec 1"


def both() -> str:
    return f"{word()} {tail()}"


def tail() -> str:
    return "tail 1"


def count(track: Track) -> None:
    track.frames += 1
''',
    "handlers/__init__.py": "",
    "handlers/door.py": '''
"""A connection that has not yet said where it wants to go."""

from __future__ import annotations

from streamd.live.protocol import lines
from streamd.runtime.state import field, state
from streamd.runtime.vocabulary import Close, Data, Joined, Move, Opened, Refused, Request, Respond, Send

VERSION = 1


@state
class Door:
    link: int = 0
    reader: lines.Reader = field(factory=lines.Reader)


@state
class Guest:
    link: int
    reader: lines.Reader


def step(door: Door, event):
    match event:
        case Opened(link=link):
            door.link = link
            return [Send(link, b"hello\\n")]
        case Data(data=data):
            lines.feed(door.reader, data)
            line = lines.pull(door.reader)
            if line is None:
                return []
            verb, _, name = line.partition(" ")
            guest = Guest(door.link, door.reader)
            return [Move(door.link, name, guest, verb == "join")]
        case Refused(link=link, to=to, reason=reason):
            return [Send(link, f"refused {to}: {reason}\\n".encode()), Close(link, reason)]
        case Request(link=link, path="/bad"):
            return [Respond(link, 200, {"X-Split": "a\\r\\nb"}, b"", True)]
        case Request(link=link, path="/version"):
            return [Respond(link, 200, {}, event.version.encode(), False)]
        case Request(link=link, path=path):
            if path.startswith("/wait"):
                return []
            if path.startswith("/stream/"):
                door.link = link
                return [
                    Respond(link, 200, {"Content-Type": "text/plain"}, b"", True),
                    Send(link, b"streaming\\n"),
                ]
            return [Respond(link, 404, {"Content-Type": "text/plain"}, f"no {path}\\n".encode(), False)]
    return []
''',
    "handlers/room.py": '''
"""A room: its guests, and what they say to each other."""

from __future__ import annotations

import types

from streamd.live.handlers.door import Guest
from streamd.live.media import codec
from streamd.live.protocol import lines
from streamd.runtime.state import field, state
from streamd.runtime.vocabulary import (
    Close,
    Closed,
    Congested,
    Count,
    Data,
    Drained,
    End,
    Join,
    Joined,
    Leave,
    Log,
    Move,
    PeerError,
    Restarted,
    Ring,
    Send,
    SendAll,
    Stopping,
    Tick,
    Wake,
)

VERSION = 1


@state
class Room:
    name: str
    guests: dict[int, Guest] = field(factory=dict)
    track: codec.Track = field(factory=codec.Track)
    more: list[codec.Track] = field(factory=list)
    named: dict[str, codec.Track | None] = field(factory=dict)
    heard: list[str] = field(factory=list)


def kind(session):
    return type(session).__name__.lower()


def begin(name: str, settings) -> Room:
    return Room(name, more=[codec.Track()], named={"a": codec.Track(frames=7), "b": None})


def step(room: Room, event):
    match event:
        case Joined(link=link, guest=guest):
            room.guests[link] = guest
            return [Send(link, f"welcome to {room.name}\\n".encode()), *answers(room, link)]
        case Data(link=link, data=data):
            lines.feed(room.guests[link].reader, data)
            return answers(room, link)
        case Closed(link=link, reason=reason):
            room.guests.pop(link, None)
            room.heard.append(f"{link} left: {reason}")
        case Tick(tag=tag):
            room.heard.append(f"tick {tag}")
            return [Send(link, f"tick {tag}\\n".encode()) for link in room.guests]
        case Congested(link=link):
            room.heard.append(f"{link} congested")
        case Drained(link=link):
            room.heard.append(f"{link} drained")
        case Restarted(links=links):
            room.heard.append(f"restarted with {links}")
            return [Send(link, b"restarted\\n") for link in links]
        case Stopping():
            return [End("stopping")]
    return []


def answers(room: Room, link: int):
    commands = []
    while link in room.guests and (line := lines.pull(room.guests[link].reader)) is not None:
        room.track.frames += 1
        commands += answer(room, link, *line.partition(" ")[::2])
    return commands


def answer(room: Room, link: int, verb: str, rest: str):
    match verb:
        case "version":
            return [Send(link, f"{codec.both()}\\n".encode())]
        case "count":
            codec.count(room.track)
            return [Send(link, f"{room.track.frames}\\n".encode())]
        case "crash":
            return [Send(link, b"never said\\n")] + [1 // 0]
        case "peer":
            raise PeerError(rest)
        case "bad":
            return [Send(link, b"never said\\n"), BAD[rest]]
        case "ring":
            return [Ring("all", *map(int, rest.split()))]
        case "enter":
            return [Join(link, "all", b"head\\n", rest or "key")]
        case "leave":
            return [Leave(link, "all")]
        case "say" | "key":
            return [SendAll("all", f"{rest}\\n".encode(), verb == "key")]
        case "wake":
            after, tag = rest.split()
            return [Wake(int(after), tag)]
        case "close":
            return [Send(link, b"bye\\n"), Close(link, rest)]
        case "end":
            return [End(rest), Wake(0, "late"), Send(link, b"late")]
        case "go":
            return [Move(link, rest, room.guests.pop(link), True)]
        case "spoil":
            room.heard.append(rest)
            room.track.config = rest.encode()
            return []
        case "log":
            return [Log("warning", rest), Count(rest)]
    raise PeerError(f"what is {verb}?")


BAD = types.MappingProxyType({
    "none": None,
    "text": "text",
    "str": Send(1, "text"),
    "array": SendAll("all", bytearray(b"x"), True),
    "group": SendAll("no such group", b"x", True),
    "join": Join(1, "no such group", b"", "key"),
    "wake": Wake("soon", "x"),
    "level": Log("shout", "x"),
    "ring": Ring("r", 1.5, 2, 3),
    "link": Close("1", "x"),
})
''',
}

FIX = '''"""codec_fix: the word of version 2, and a config that is taken apart."""

from __future__ import annotations

from streamd.live.media.codec import *  # for your editor
from streamd.runtime.state import field, state

AMENDS = "media.codec@1"
VERSION = 2


@state
class Track:
    parts: list[bytes] = field(factory=list)
    frames: int = 0
    added: str = "new"


def word() -> str:
    return "codec 2"


def tail() -> str:
    return "tail 2"


def upgrade(old: dict) -> dict:
    return {"parts": old["config"].split(b":"), "frames": old["frames"]}


def downgrade(new: dict) -> dict:
    return {"config": b":".join(new["parts"]), "frames": new["frames"]}
'''


def amend(module: str, base: int, body: str) -> str:
    """The text of a small AMENDS patch."""
    return (
        f'from __future__ import annotations\n\nAMENDS = "{module}@{base}"\nVERSION = {base + 1}\n\n\n{body}'
    )


def write_tree(root: Path, texts: dict[str, str] = TREE) -> Path:
    for name, text in texts.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


class Client:
    """A peer on a real socket that speaks lines."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def say(self, *lines: str) -> None:
        self.writer.write("".join(f"{line}\n" for line in lines).encode())

    async def hear(self) -> str:
        """The next line, "" at the end of the connection."""
        return (await asyncio.wait_for(self.reader.readline(), 5)).decode().rstrip("\n")

    async def ask(self, line: str) -> str:
        self.say(line)
        return await self.hear()

    async def rest(self) -> bytes:
        return await asyncio.wait_for(self.reader.read(), 5)

    def leave(self) -> None:
        self.writer.close()


class World:
    """A kernel with the fake tree on it, listening on a port of its own."""

    def __init__(
        self,
        root: Path,
        limits: Limits | None = None,
        bounds: Bounds | None = None,
        intensity: tuple[int, float] = (5, 60.0),
    ) -> None:
        self.root = root
        self.shipped = root / "live"
        if not self.shipped.exists():
            write_tree(self.shipped)
        self.patches = root / "patches"
        self.patches.mkdir(exist_ok=True)
        loop = asyncio.get_running_loop()
        self.counters = Counters()
        self.reports = CrashReports(root / "crashes")
        self.sessions = Sessions(
            loop,
            self.counters,
            self.reports,
            {},
            lambda lowered, source, target: self.upgrades.convert(lowered, source, target),
            intensity,
        )
        limits = limits or Limits(linger_seconds=LINGER)
        self.net = self.sessions.net = Net(loop, limits, self.counters, self._arrive)
        self.store = Store(root / "state")
        bounds = bounds or Bounds(max_bytes=65_536, specimens=("door/0", "live/specimen"))
        self.upgrades = Upgrades(self.sessions, self.store, self.shipped, self.patches, bounds)
        self.warnings = self.upgrades.boot()
        self.address = self.net.listen("lines", "127.0.0.1", 0)
        self.clients: list[Client] = []

    def _arrive(self, link: Link, listener: str) -> None:
        self.sessions.arrive(link, listener, os.urandom(32))

    def close(self) -> None:
        self.net.stop_listening()
        for session in self.sessions.listed():
            self.sessions.end(session, "test over")
        for link in list(self.net.links.values()):
            link.fail("test over")
        for client in self.clients:
            client.leave()
        for release in list(self.upgrades.library.releases.values()):
            release.discard()

    # ---- peers

    async def connect(self) -> Client:
        client = Client(*await asyncio.open_connection(*self.address))
        self.clients.append(client)
        assert await client.hear() == "hello"
        return client

    async def guest(self, name: str = "live/a") -> Client:
        client = await self.connect()
        client.say(f"join {name}")
        assert await client.hear() == f"welcome to {name}"
        return client

    def session(self, name: str = "live/a") -> Session:
        return self.sessions.by_name[name]

    def rooms(self, count: int) -> list[Session]:
        """Sessions that nobody is in."""
        return [self.sessions.create(f"live/{number}") for number in range(count)]

    def point(self, session: Session, number: int) -> None:
        """Put one session on another release, as it is in the middle of a move."""
        self.upgrades.mover._change(session, self.upgrades.library.held(number))

    # ---- the operator

    def patch(self, name: str, text: str) -> str:
        path = self.patches / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return name

    async def load(self, *texts: str, **wishes: Any) -> dict[str, Any]:
        """Write the texts as patches of one load, and load them. A test's patch differs in what it answers, mostly."""
        names = [self.patch(f"patch_{number}.py", text) for number, text in enumerate(texts)]
        return await self.upgrades.load(
            names, "/", BY, silent, Wishes(**{"accept_differences": True, **wishes})
        )

    async def check(self, text: str) -> dict[str, Any]:
        return await self.upgrades.check([self.patch("patch.py", text)], "/", BY, silent)

    async def rollback(self, to: int | None = None) -> dict[str, Any]:
        return await self.upgrades.rollback(to, BY, silent)

    @property
    def release(self) -> int:
        return self.upgrades.current.number


async def until(true: Any, seconds: float = 5.0) -> None:
    """Let the loop turn until `true()`; a condition that needs another process or the network."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not true():
        assert asyncio.get_running_loop().time() < deadline, "it did not come true"
        await asyncio.sleep(0.001)


@asynccontextmanager
async def running(root: Path, **options: Any) -> AsyncIterator[World]:
    world = World(root, **options)
    try:
        yield world
    finally:
        world.close()
