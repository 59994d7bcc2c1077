"""A kernel in memory, and the peers that talk to it: dialogues with the live code without sockets and without sleeps.

After every step the state is lowered and lifted again, as a patch would do it: a test that passes here passes with a
load between any two events.

    talk = Talk(publisher_grace=30)
    encoder = talk.encoder().publish("show")
    encoder.send(*HEADERS, key(0), inter(40))
    viewer = talk.get("/live/show.flv")
    assert viewer.times(9) == [0, 0, 40]
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from streamd import live
from streamd.live.media import flv, h264
from streamd.live.protocol import amf0, rtmp_chunks, websocket
from streamd.runtime import vocabulary as v
from streamd.runtime.state import lift, lower

SEED = bytes(range(32))
KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # of RFC 6455 1.3

# x264: Constrained Baseline, 320x240 and 640x360
SMALL_SPS = bytes.fromhex("6742c00dd9014 1fb0110000003001000000303 20f14 2a480".replace(" ", ""))
LARGE_SPS = bytes.fromhex("6742c01ed900a02ff970110000030001000003003 20f162e48".replace(" ", ""))
PPS = bytes.fromhex("68cb83cb20")
SMALL = h264.pack_config([SMALL_SPS], [PPS], b"")
LARGE = h264.pack_config([LARGE_SPS], [PPS], b"")
STEREO, MONO = bytes.fromhex("1190"), bytes.fromhex("1188")  # AAC-LC, 48 kHz

Message = tuple[int, int, bytes]  # type, timestamp, payload


# ---- what an encoder says ------------------------------------------------------------------------------------


def video_header(config: bytes = SMALL, at: int = 0) -> Message:
    return 9, at, flv.config_body("h264", config)


def audio_header(config: bytes = STEREO, at: int = 0) -> Message:
    return 8, at, flv.config_body("aac", config)


def picture(first: int, kind: bytes, at: int, size: int = 0) -> Message:
    nal = (kind + b"picture at %d" % at).ljust(size, b"\xff")
    return 9, at, bytes((first, 1, 0, 0, 0)) + len(nal).to_bytes(4, "big") + nal


def key(at: int) -> Message:
    return picture(0x17, b"\x65", at)


def inter(at: int, size: int = 0) -> Message:
    return picture(0x27, b"\x41", at, size)


def sound(at: int) -> Message:
    return 8, at, b"\xaf\x01sound at %d" % at


def metadata(at: int = 0, **values: Any) -> Message:
    return 18, at, amf0.encode("@setDataFrame", "onMetaData") + amf0.encode_ecma(values)


def script(at: int, name: str, *values: Any) -> Message:
    return 18, at, amf0.encode(name, *values)


BOTH = metadata(videocodecid=7, audiocodecid=10, title="A show")
HEADERS = (BOTH, video_header(), audio_header())


# ---- the kernel in memory ------------------------------------------------------------------------------------


@dataclass
class Group:
    """A ring as the kernel has it, without lag."""

    limit: int = 0
    units: list[tuple[bytes, bool]] = field(default_factory=list)
    base: int = 0
    members: dict[int, int] = field(
        default_factory=dict
    )  # link -> next unit, -1 while waiting for a key unit
    appended: int = 0


@dataclass
class Link:
    number: int
    session: str
    peer: str
    out: bytearray = field(default_factory=bytearray)
    group: str = ""
    closed: str | None = None
    response: v.Respond | None = None
    http: bool = False


class Talk:
    """See the module. `settings` are those of the server."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.now = 1_000
        self.sessions: dict[str, Any] = {}
        self.groups: dict[tuple[str, str], Group] = {}
        self.timers: dict[tuple[str, str], int] = {}
        self.links: dict[int, Link] = {}
        self.ended: dict[str, str] = {}
        self.logs: list[str] = []
        self.counts: list[str] = []
        self.stopping = False
        self.last: list[v.Command] = []  # commands of the latest step
        self.queue: deque[tuple[str, v.Event]] = deque()

    # ---- peers

    def encoder(self, peer: str = "10.0.0.1:5000") -> Encoder:
        return Encoder(self, self.open(peer))

    def player(self, peer: str = "10.0.0.2:6000") -> Player:
        return Player(self, self.open(peer))

    def open(self, peer: str) -> Link:
        link = self.door(peer)
        self.deliver(link.session, v.Opened(self.now, link.number, "rtmp", peer, SEED))
        return link

    def door(self, peer: str) -> Link:
        number = len(self.links) + 1
        name = f"door/{number}"
        link = self.links[number] = Link(number, name, peer)
        self.sessions[name] = live.begin(name, self.settings, self.now)
        return link

    def request(
        self,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        query: str = "",
        version: str = "1.1",
    ) -> Viewer:
        link = self.door("10.0.0.3:7000")
        link.http = True
        asked = v.Request(self.now, link.number, method, path, query, headers or {}, link.peer, version)
        self.deliver(link.session, asked)
        return Viewer(self, link)

    def get(self, path: str, **headers: str) -> Viewer:
        return self.request("GET", path, headers)

    def websocket(self, path: str) -> WsViewer:
        headers = {"upgrade": "websocket", "connection": "Upgrade"}
        headers |= {"sec-websocket-key": KEY, "sec-websocket-version": "13"}
        return WsViewer(self, self.request("GET", path, headers).link)

    # ---- time and other events

    def wait(self, ms: int) -> None:
        """Let time pass; what was to be woken is woken, in order."""
        end = self.now + ms
        while self.timers:
            due, (name, tag) = min((due, who) for who, due in self.timers.items())
            if due > end:
                break
            del self.timers[name, tag]
            self.now = max(self.now, due)
            self.deliver(name, v.Tick(self.now, tag))
        self.now = end

    def stop(self) -> None:
        self.stopping = True
        for name in list(self.sessions):
            self.deliver(name, v.Stopping(self.now, self.now + 5_000))

    def restart(self, name: str, state: Any) -> None:
        """The session comes back from an older state."""
        self.sessions[name] = state
        links = [link.number for link in self.links.values() if link.session == name and link.closed is None]
        self.deliver(name, v.Restarted(self.now, links))

    def describe(self, name: str) -> dict[str, Any]:
        return dict(live.describe(self.sessions[name]))

    # ---- one event, one step

    def deliver(self, name: str, event: v.Event) -> None:
        self.queue.append((name, event))
        if len(self.queue) > 1:
            return
        while self.queue:
            name, event = self.queue[0]
            if name in self.sessions:
                self.step(name, event)
            self.queue.popleft()

    def step(self, name: str, event: v.Event) -> None:
        state = self.sessions[name]
        try:
            self.last = live.step(state, event)
        except v.PeerError as error:
            self.close(self.links[event.link], str(error))  # type: ignore[union-attr]
            self.last = []
        self.sessions[name] = again(state)
        for command in self.last:
            assert isinstance(command, v.Command), command
            self.carry_out(name, command)
        if name.startswith("door/") and not any(link.session == name for link in self.links.values()):
            self.end(name, "left")

    def carry_out(self, name: str, command: v.Command) -> None:
        match command:
            case v.Send(number, data):
                assert type(data) is bytes
                assert data
                if link := self.of(name, number):
                    link.out += data
            case v.SendAll(group, data, is_key):
                self.append(name, group, data, is_key)
            case v.Ring(group, limit, _lag, _slow):
                ring = self.groups.setdefault((name, group), Group())
                ring.limit = limit
                self.trim(ring)
            case v.Join(number, group, head, start):
                if link := self.of(name, number):
                    self.join(link, name, group, head, start)
            case v.Leave(number, group):
                if (link := self.of(name, number)) and link.group == group:
                    self.leave(link)
            case v.Close(number, reason):
                if link := self.of(name, number):
                    self.close(link, reason)
            case v.Respond():
                self.respond(name, command)
            case v.Move():
                self.move(name, command)
            case v.Wake(after, tag):
                self.timers.pop((name, tag), None)
                if after >= 0:
                    self.timers[name, tag] = self.now + after
            case v.Log(_level, text):
                self.logs.append(text)
            case v.Count(what):
                self.counts.append(what)
            case v.End(reason):
                self.end(name, reason)

    def of(self, name: str, number: int) -> Link | None:
        link = self.links.get(number)
        return link if link is not None and link.session == name and link.closed is None else None

    def respond(self, name: str, command: v.Respond) -> None:
        link = self.of(name, command.link)
        if link is None:
            return
        assert link.http, "only a request can be answered"
        assert link.response is None, "a request is answered once"
        assert type(command.headers) is dict
        link.response = command
        if not command.stream:
            self.close(link, "answered")

    def move(self, name: str, command: v.Move) -> None:
        link = self.of(name, command.link)
        if link is None:
            return
        assert not link.group, "a link leaves its group before it moves"
        if command.to not in self.sessions and (self.stopping or not command.create):
            reason = "stopping" if self.stopping else "no such session"
            self.deliver(name, v.Refused(self.now, link.number, command.to, reason))
            return
        if command.to not in self.sessions:
            self.sessions[command.to] = live.begin(command.to, self.settings, self.now)
        link.session = command.to
        self.deliver(command.to, v.Joined(self.now, link.number, again(command.guest), link.peer))

    def close(self, link: Link, reason: str) -> None:
        self.leave(link)
        link.closed = reason
        name, link.session = link.session, ""
        self.deliver(name, v.Closed(self.now, link.number, reason))

    def end(self, name: str, reason: str) -> None:
        if name not in self.sessions:
            return
        del self.sessions[name]
        self.ended[name] = reason
        for link in self.links.values():
            if link.session == name:
                self.close(link, reason)
        for table in (self.timers, self.groups):
            for who in [who for who in table if who[0] == name]:
                del table[who]

    # ---- groups

    def append(self, name: str, group: str, data: bytes, is_key: bool) -> None:
        ring = self.groups[name, group]
        ring.units.append((data, is_key))
        ring.appended += 1
        self.trim(ring)
        number = ring.base + len(ring.units) - 1
        for link, cursor in ring.members.items():
            if cursor >= 0 or is_key:
                self.links[link].out += data
                ring.members[link] = number + 1

    def trim(self, ring: Group) -> None:
        while ring.units and sum(len(data) for data, _ in ring.units) > ring.limit:
            del ring.units[0]
            ring.base += 1

    def join(self, link: Link, name: str, group: str, head: bytes, start: str) -> None:
        ring = self.groups[name, group]
        self.leave(link)
        link.group = group
        link.out += head
        keys = [index for index, (_, is_key) in enumerate(ring.units) if is_key]
        end = ring.base + len(ring.units)
        ring.members[link.number] = end if start == "next" or keys else -1
        if start == "key" and keys:
            link.out += b"".join(data for data, _ in ring.units[keys[-1] :])

    def leave(self, link: Link) -> None:
        if link.group:
            del self.groups[link.session, link.group].members[link.number]
            link.group = ""


def again(state: Any) -> Any:
    """The state after a trip through its lowered form."""
    lowered = lower(state)
    lifted = lift(lowered, record)
    assert lower(lifted) == lowered
    return lifted


def record(tag: str) -> Any:
    module, _, name = tag.partition(":")
    place: Any = live
    for part in module.split("."):
        place = getattr(place, part)
    return getattr(place, name)


# ---- the peers -----------------------------------------------------------------------------------------------


class Peer:
    def __init__(self, talk: Talk, link: Link) -> None:
        self.talk = talk
        self.link = link

    @property
    def closed(self) -> str | None:
        return self.link.closed

    def data(self, data: bytes) -> None:
        if self.link.closed is None:
            self.talk.deliver(self.link.session, v.Data(self.talk.now, self.link.number, data))

    def hang_up(self) -> None:
        if self.link.closed is None:
            self.talk.close(self.link, "closed by peer")


class RtmpPeer(Peer):
    """An RTMP client with the plain handshake."""

    def hello(self, app: str = "live") -> None:
        self.data(b"\x03" + bytes(1536) + bytes(1536))
        self.data(rtmp_chunks.chunk(2, 1, 0, 0, (65_536).to_bytes(4, "big"), 128))
        self.command(
            "connect", 1, {"app": app, "tcUrl": f"rtmp://host/{app}", "flashVer": "test/1.0"}, stream=0
        )
        self.command("createStream", 2, None, stream=0)

    def command(self, *values: Any, stream: int = 1) -> None:
        self.data(rtmp_chunks.chunk(3, 20, stream, 0, amf0.encode(*values), 65_536))

    def received(self) -> list[Message]:
        """All messages that came from the server."""
        reader = rtmp_chunks.Reader()
        rtmp_chunks.allow(reader, 1 << 24)
        rtmp_chunks.feed(reader, bytes(self.link.out[3073:]))
        found = []
        while (message := rtmp_chunks.pull(reader)) is not None:
            kind, _stream, timestamp, payload = message
            found.append((kind, timestamp, bytes(payload)))
        assert rtmp_chunks.waiting(reader) == 0
        return found

    def statuses(self) -> list[str]:
        return [code for code, _ in self.told()]

    def told(self) -> list[tuple[str, str]]:
        """(code, description) of every onStatus, _result and _error that has them."""
        found = []
        for kind, _, payload in self.received():
            if kind == 20:
                values = amf0.decode(payload)
                if isinstance(values[-1], dict) and "code" in values[-1]:
                    found.append((str(values[-1]["code"]), str(values[-1].get("description", ""))))
        return found

    def media(self) -> list[Message]:
        return [message for message in self.received() if message[0] in (8, 9, 18) and not courtesy(message)]

    def pings(self) -> int:
        return sum(1 for kind, _, payload in self.received() if kind == 4 and payload[:2] == b"\x00\x06")


def courtesy(message: Message) -> bool:
    return message[0] == 18 and b"onMetaData" not in message[2] and message[2][3:4] == b"|"


class Encoder(RtmpPeer):
    def publish(self, name: str) -> Encoder:
        self.hello()
        self.command("publish", 3, None, name, "live")
        return self

    def send(self, *messages: Message) -> Encoder:
        """Send messages, each in a read of its own, at the time they bear."""
        for kind, timestamp, payload in messages:
            self.data(rtmp_chunks.chunk(4, kind, 1, timestamp, payload, 65_536))
        return self


class Player(RtmpPeer):
    def play(self, name: str) -> Player:
        self.hello()
        return self.play_again(name)

    def play_again(self, name: str) -> Player:
        self.command("play", 4, None, name)
        return self


class Viewer(Peer):
    """An HTTP client."""

    @property
    def status(self) -> int | None:
        return self.link.response.status if self.link.response else None

    @property
    def headers(self) -> dict[str, str]:
        assert self.link.response is not None
        return self.link.response.headers

    @property
    def body(self) -> str:
        assert self.link.response is not None
        return self.link.response.body.decode()

    def flv(self) -> bytes:
        return b"".join(self.chunks()) if self.headers.get("Transfer-Encoding") else bytes(self.link.out)

    def chunks(self) -> list[bytes]:
        """The chunks of the answer so far, each whole (RFC 9112 7.1); b"" is the last one."""
        data, found = bytes(self.link.out), []
        while data:
            assert b"" not in found, "bytes after the last chunk"
            size, _, data = data.partition(b"\r\n")
            length = int(size, 16)
            assert data[length : length + 2] == b"\r\n"
            found.append(data[:length])
            data = data[length + 2 :]
        return found

    def ended(self) -> bool:
        """True after a regular end, as a client of HTTP/1.1 sees it."""
        return b"" in self.chunks()

    def media(self) -> list[Message]:
        reader = flv.Reader()
        flv.feed(reader, self.flv())
        found = []
        while (tag := flv.pull(reader)) is not None:
            found.append((tag.type, tag.dts, bytes(tag.payload)))
        return found


class WsViewer(Viewer):
    """A WebSocket client; its own frames are masked with zeros."""

    def frames(self) -> list[tuple[int, bytes]]:
        data, found = bytes(self.link.out), []
        while data:
            size, start = data[1] & 0x7F, 2
            if size >= 126:
                start = 4 if size == 126 else 10
                size = int.from_bytes(data[2:start], "big")
            found.append((data[0] & 0x0F, data[start : start + size]))
            data = data[start + size :]
        return found

    def flv(self) -> bytes:
        return b"".join(payload for opcode, payload in self.frames() if opcode == websocket.BINARY)

    def say(self, opcode: int, payload: bytes) -> None:
        self.data(bytes((0x80 | opcode, 0x80 | len(payload))) + bytes(4) + payload)


# ---- what a viewer has got -----------------------------------------------------------------------------------


def words(media: list[Message]) -> list[str]:
    """Media in short: "meta", "video small", "stereo", "key 0", "inter 40", "sound 23", "text"."""
    return [word(*message) for message in media]


def word(kind: int, timestamp: int, payload: bytes) -> str:
    if kind == 18:
        return "meta" if b"onMetaData" in payload else "text"
    if kind == 9:
        if payload[1] == 0:
            return "video large" if LARGE_SPS in payload else "video small"
        return f"{'key' if payload[0] >> 4 == 1 else 'inter'} {timestamp}"
    if payload[1] == 0:
        return "mono" if payload.endswith(MONO) else "stereo"
    return f"sound {timestamp}"


def value(message: Message, name: str) -> Any:
    """A property of an onMetaData message."""
    values = amf0.decode(message[2])
    assert isinstance(values[1], dict)
    return values[1].get(name)


FORMATS = ("flv", "flv.raw", "ws", "rtmp")


def watch(talk: Talk, form: str, name: str = "show") -> Any:
    if form in ("flv", "flv.raw"):
        version = "1.1" if form == "flv" else "1.0"
        return talk.request("GET", f"/live/{name}.flv", version=version)
    return talk.websocket(f"/live/{name}.flv") if form == "ws" else talk.player().play(name)
