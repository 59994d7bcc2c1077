"""A raw RTMP peer for tests, as publisher and as player, written from the specification alone.

The rule this file keeps: it shares no line with streamd, so that a misreading there does not find its twin here. It
sends what it is told, malformed or not; it parses what it gets strictly and raises `Broken` otherwise.

    client = await rtmp_client.publish("127.0.0.1:1935", "studio1")
    await client.send(9, payload, timestamp=40)            # a whole message, fmt 0, in chunks of client.chunk_out
    await client.send(9, payload, timestamp=80, fmt=1)     # with a compressed header: the delta is worked out
    await client.write(client.pack(9, payload, 120)[:7])   # half a chunk header, and nothing more for now
    await client.close()

    viewer = await rtmp_client.play("127.0.0.1:1935", "studio1")
    await viewer.until(lambda: len(viewer.media) >= 100)
    viewer.media[0]                                        # Message(type, timestamp, stream, payload, digest, at)

After the handshake a task reads all the time (`listen` and `deafen` begin and stop it), answers pings and acknowledges
the window as a player does, and collects: `media` has audio, video and data messages, `commands` the decoded commands,
`controls` the rest. `closed` is set when the server has closed. Sources: "Adobe's Real Time Messaging Protocol", 1.0.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import monotonic
from typing import Any, NamedTuple

AUDIO, VIDEO, DATA = 8, 9, 18
SET_CHUNK_SIZE, ABORT, ACK, USER_CONTROL, WINDOW, BANDWIDTH = 1, 2, 3, 4, 5, 6
COMMAND = 20
EXTENDED = 0xFFFFFF
WAIT = 10.0  # seconds that any answer may take


class Broken(AssertionError):
    """The server broke the protocol."""


class Message(NamedTuple):
    """`timestamp` as on the wire, 0..2^32-1; `at`: seconds of the monotonic clock when it was complete."""

    type: int
    timestamp: int
    stream: int
    payload: bytes
    digest: str
    at: float


@dataclass
class Incoming:
    """What is remembered of one chunk stream that is read."""

    timestamp: int = 0
    delta: int = 0
    extended: bool = False
    size: int = 0
    type: int = 0
    stream: int = 0
    data: bytes = b""
    known: bool = False


@dataclass
class Outgoing:
    """What the server remembers of one chunk stream that is written."""

    timestamp: int = 0
    delta: int = 0


# ---- AMF0 --------------------------------------------------------------------------------------------------


def amf(*values: Any) -> bytes:
    """AMF0 of None, bool, int, float, str, bytes (written as they are), dict (object) and list (strict array)."""
    return b"".join(map(_amf, values))


def _amf(value: Any) -> bytes:
    match value:
        case None:
            return b"\x05"
        case bool():
            return b"\x01" + bytes([value])
        case int() | float():
            return b"\0" + struct.pack(">d", value)
        case str():
            text = value.encode()
            return b"\x02" + struct.pack(">H", len(text)) + text
        case bytes():
            return value
        case dict():
            pairs = [struct.pack(">H", len(key)) + key.encode() + _amf(item) for key, item in value.items()]
            return b"\x03" + b"".join(pairs) + b"\0\0\x09"
        case list():
            return b"\x0a" + struct.pack(">I", len(value)) + b"".join(map(_amf, value))
    raise TypeError(f"AMF0 of {value!r}")


def read_amf(data: bytes) -> list[Any]:
    """All values of a body. Raises Broken where it is malformed."""
    values, place = [], 0
    try:
        while place < len(data):
            value, place = _read_amf(data, place)
            values.append(value)
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise Broken(f"AMF0: {error} in {data!r}") from error
    return values


def _read_amf(data: bytes, place: int) -> tuple[Any, int]:
    marker, place = data[place], place + 1
    match marker:
        case 0:
            return struct.unpack_from(">d", data, place)[0], place + 8
        case 1:
            return data[place] != 0, place + 1
        case 2:
            return _read_text(data, place)
        case 3 | 8:
            return _read_pairs(data, place if marker == 3 else place + 4)
        case 5 | 6:
            return None, place
        case 10:
            count, place = struct.unpack_from(">I", data, place)[0], place + 4
            items = []
            for _ in range(count):
                item, place = _read_amf(data, place)
                items.append(item)
            return items, place
    raise Broken(f"AMF0 marker {marker}")


def _read_text(data: bytes, place: int) -> tuple[str, int]:
    size = struct.unpack_from(">H", data, place)[0]
    text = data[place + 2 : place + 2 + size]
    if len(text) != size:
        raise Broken("an AMF0 string is cut off")
    return text.decode(), place + 2 + size


def _read_pairs(data: bytes, place: int) -> tuple[dict[str, Any], int]:
    found: dict[str, Any] = {}
    while True:
        key, place = _read_text(data, place)
        if not key and data[place] == 9:
            return found, place + 1
        found[key], place = _read_amf(data, place)


# ---- the connection ----------------------------------------------------------------------------------------


class Client:
    """One connection. Make it with `connected`, `publish` or `play`, or with `raw` for a bare TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.media: list[Message] = []
        self.commands: list[list[Any]] = []
        self.controls: list[Message] = []
        self.closed = asyncio.Event()
        self.broken: Exception | None = None
        self.chunk_out = 128
        self.chunk_in = 128
        self.repeat_extended = True  # in type-3 chunks, as the specification has it
        self.received = 0
        self.written = 0
        self._window = 0
        self._acknowledged = 0
        self._transaction = 0.0
        self._in: dict[int, Incoming] = {}
        self._out: dict[int, Outgoing] = {}
        self._news = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    # ---- bytes

    async def write(self, data: bytes, piece: int = 0, pause: float = 0.0) -> None:
        """Send bytes; in pieces of `piece` bytes with a pause after each, if asked for."""
        step = piece or len(data) or 1
        for start in range(0, len(data), step):
            self.writer.write(data[start : start + step])
            self.written += len(data[start : start + step])
            await self.writer.drain()
            if piece:
                await asyncio.sleep(pause)

    async def handshake(self, c1: bytes | None = None, piece: int = 0) -> None:
        """C0 C1, S0 S1 S2, C2 (RTMP 5.2): without the digests of Flash unless `c1` has them."""
        c1 = c1 or b"\0\0\0\0\0\0\0\0" + os.urandom(1528)
        await self.write(b"\x03" + c1, piece)
        answer = await asyncio.wait_for(self.reader.readexactly(1 + 1536 + 1536), WAIT)
        if answer[0] != 3:
            raise Broken(f"S0 is {answer[0]}")
        if c1[4:8] == b"\0\0\0\0" and answer[1537 + 8 :] != c1[8:]:
            raise Broken("S2 does not echo C1")
        await self.write(answer[1:1537], piece)
        self.listen()

    async def close(self) -> None:
        """Close the connection without a word, as a publisher whose network is gone."""
        self.deafen()
        self.writer.close()
        with contextlib.suppress(ConnectionError, asyncio.TimeoutError):
            await asyncio.wait_for(self.writer.wait_closed(), 1.0)

    def abort(self) -> None:
        """Reset the connection."""
        self.deafen()
        self.writer.transport.abort()

    # ---- messages out

    def pack(
        self,
        kind: int,
        payload: bytes,
        timestamp: int = 0,
        *,
        stream: int | None = None,
        csid: int | None = None,
        fmt: int = 0,
        chunk: int = 0,
    ) -> bytes:
        """A message as its chunks, one after the other. The header is what `fmt` says; nothing is checked."""
        return b"".join(self.chunks(kind, payload, timestamp, stream=stream, csid=csid, fmt=fmt, chunk=chunk))

    def chunks(
        self,
        kind: int,
        payload: bytes,
        timestamp: int = 0,
        *,
        stream: int | None = None,
        csid: int | None = None,
        fmt: int = 0,
        chunk: int = 0,
    ) -> list[bytes]:
        """The chunks of a message, to be interleaved with others or cut.

        `timestamp` is absolute and taken modulo 2^32; for fmt 1 and 2 the distance to the last message of the
        chunk stream goes out. Extended timestamps from 0xFFFFFF on, and again in each type-3 chunk.
        """
        if csid is None:
            csid = {AUDIO: 4, VIDEO: 6, DATA: 8, COMMAND: 3}.get(kind, 2)
        if stream is None:
            stream = 1 if kind in (AUDIO, VIDEO, DATA) else 0
        timestamp &= 0xFFFF_FFFF
        last = self._out.setdefault(csid, Outgoing())
        delta = (timestamp - last.timestamp) & 0xFFFF_FFFF
        said = timestamp if fmt == 0 else last.delta if fmt == 3 else delta
        last.timestamp, last.delta = timestamp, said
        extended = struct.pack(">I", said) if said >= EXTENDED else b""
        header = _basic(fmt, csid)
        if fmt < 3:
            header += min(said, EXTENDED).to_bytes(3, "big")
        if fmt < 2:
            header += len(payload).to_bytes(3, "big") + bytes([kind])
        if fmt == 0:
            header += struct.pack("<I", stream)
        header += extended
        size = chunk or self.chunk_out
        again = _basic(3, csid) + (extended if self.repeat_extended else b"")
        pieces = [payload[start : start + size] for start in range(0, len(payload), size)] or [b""]
        return [header + pieces[0], *(again + piece for piece in pieces[1:])]

    async def send(self, kind: int, payload: bytes, timestamp: int = 0, **how: Any) -> None:
        """Send one message; `how` as for `pack`, and `piece` as for `write`."""
        piece = how.pop("piece", 0)
        await self.write(self.pack(kind, payload, timestamp, **how), piece)

    async def send_all(self, tags: Iterable[tuple[int, int, bytes]]) -> None:
        """Send (type, timestamp, payload) triples, as fast as the server reads."""
        await self.write(b"".join(self.pack(kind, payload, timestamp) for kind, timestamp, payload in tags))

    async def set_chunk_size(self, size: int) -> None:
        await self.send(SET_CHUNK_SIZE, struct.pack(">I", size))
        self.chunk_out = size

    async def command(
        self, name: str, *values: Any, stream: int = 0, transaction: float | None = None
    ) -> float:
        """Send a command; the transaction that its answer will have."""
        if transaction is None:
            self._transaction += 1
            transaction = self._transaction
        await self.send(COMMAND, amf(name, transaction, *values), stream=stream)
        return transaction

    async def call(self, name: str, *values: Any, stream: int = 0) -> list[Any]:
        """Send a command and wait for its _result. Raises Broken on _error."""
        transaction = await self.command(name, *values, stream=stream)
        answer = await self.answer(
            lambda found: found[0] in ("_result", "_error") and found[1] == transaction
        )
        if answer[0] == "_error":
            raise Broken(f"{name} was answered {answer}")
        return answer

    # ---- messages in

    def listen(self) -> None:
        """Read from now on."""
        if self._task is None:
            self._task = asyncio.create_task(self._listen())

    def listen_raw(self) -> None:
        """Read and drop whatever comes, in order to notice the end."""
        if self._task is None:
            self._task = asyncio.create_task(self._drop())

    async def _drop(self) -> None:
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65_536):
                pass
        self.closed.set()

    def deafen(self) -> None:
        """Read no more: the server's bytes pile up."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def until(self, holds: Callable[[], Any], timeout: float = WAIT) -> None:
        """Wait until it holds; checked after each message. TimeoutError after `timeout` seconds."""

        def settled() -> bool:
            if self.broken is not None:
                raise self.broken
            return bool(holds())

        async with self._news:
            await asyncio.wait_for(self._news.wait_for(settled), timeout)

    async def answer(self, fits: Callable[[list[Any]], bool], timeout: float = WAIT) -> list[Any]:
        """The first command from the server that fits, whether it has come already or not."""

        def first() -> list[Any] | None:
            return next((found for found in self.commands if fits(found)), None)

        await self.until(lambda: first() is not None or self.closed.is_set(), timeout)
        found = first()
        if found is None:
            raise Broken(f"the server closed; it had said {self.commands}")
        return found

    async def status(self, code: str, timeout: float = WAIT) -> dict[str, Any]:
        """The information object of the first onStatus (or _error) with this code."""
        found = await self.answer(lambda values: code_of(values) == code, timeout)
        assert isinstance(found[3], dict)
        return found[3]

    def codes(self) -> list[str]:
        """The status codes said so far."""
        return [code for values in self.commands if (code := code_of(values))]

    async def _listen(self) -> None:
        try:
            while True:
                message = await self._read_message()
                await self._take(message)
                async with self._news:
                    self._news.notify_all()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except Broken as error:
            self.broken = error
        self.closed.set()
        async with self._news:
            self._news.notify_all()

    async def _take(self, message: Message) -> None:
        payload = message.payload
        if message.type in (AUDIO, VIDEO, DATA):
            self.media.append(message)
        elif message.type == COMMAND:
            self.commands.append(read_amf(payload))
        else:
            self.controls.append(message)
        if message.type == SET_CHUNK_SIZE:
            self.chunk_in = struct.unpack(">I", payload)[0]
        elif message.type == WINDOW:
            self._window = struct.unpack(">I", payload)[0]
        elif message.type == USER_CONTROL and payload[:2] == b"\0\x06":
            await self.send(USER_CONTROL, b"\0\x07" + payload[2:])
        if self._window and self.received - self._acknowledged >= self._window:
            self._acknowledged = self.received
            await self.send(ACK, struct.pack(">I", self.received & 0xFFFF_FFFF))

    async def _read(self, size: int) -> bytes:
        data = await self.reader.readexactly(size)
        self.received += size
        return data

    async def _read_message(self) -> Message:
        """Read chunks until a message is whole (RTMP 5.3.1)."""
        while True:
            first = (await self._read(1))[0]
            fmt, csid = first >> 6, first & 63
            if csid == 0:
                csid = (await self._read(1))[0] + 64
            elif csid == 1:
                low, high = await self._read(2)
                csid = high * 256 + low + 64
            state = self._in.setdefault(csid, Incoming())
            await self._read_header(state, fmt)
            if len(state.data) < state.size:
                state.data += await self._read(min(self.chunk_in, state.size - len(state.data)))
            if len(state.data) == state.size:
                payload, state.data = state.data, b""
                return Message(
                    state.type, state.timestamp, state.stream, payload, digest(payload), monotonic()
                )

    async def _read_header(self, state: Incoming, fmt: int) -> None:
        if fmt and not state.known:
            raise Broken(f"the first chunk of a chunk stream has fmt {fmt}")
        if fmt != 3 and state.data:
            raise Broken("a new message before the last one of its chunk stream is whole")
        state.known = True
        said = 0
        if fmt < 3:
            said = int.from_bytes(await self._read(3), "big")
            state.extended = said == EXTENDED
        if fmt < 2:
            state.size = int.from_bytes(await self._read(3), "big")
            state.type = (await self._read(1))[0]
        if fmt == 0:
            state.stream = int.from_bytes(await self._read(4), "little")
        if state.extended:
            extended = int.from_bytes(await self._read(4), "big")
            if fmt == 3 and state.data and extended != state.delta:
                raise Broken(f"type 3 repeats an extended timestamp of {extended}, not {state.delta}")
            said = extended
        if fmt == 0:
            state.timestamp, state.delta = said, said
        elif fmt < 3:
            state.timestamp, state.delta = (state.timestamp + said) & 0xFFFF_FFFF, said
        elif not state.data:
            state.timestamp = (state.timestamp + state.delta) & 0xFFFF_FFFF


def _basic(fmt: int, csid: int) -> bytes:
    """The basic header: one to three bytes (RTMP 5.3.1.1)."""
    if csid < 64:
        return bytes([fmt << 6 | csid])
    if csid < 320:
        return bytes([fmt << 6, csid - 64])
    return bytes([fmt << 6 | 1, (csid - 64) & 0xFF, (csid - 64) >> 8])


def code_of(values: list[Any]) -> str:
    """The status code of a command, "" if it has none."""
    details = values[3] if len(values) > 3 else None
    return str(details.get("code", "")) if isinstance(details, dict) else ""


def digest(payload: bytes) -> str:
    return hashlib.sha1(payload).hexdigest()[:16]


# ---- whole openings ----------------------------------------------------------------------------------------


async def raw(address: str) -> Client:
    """A TCP connection to "host:port", on which nothing has been said."""
    host, _, port = address.rpartition(":")
    return Client(*await asyncio.wait_for(asyncio.open_connection(host, int(port)), WAIT))


async def connected(address: str, app: str = "live") -> Client:
    """A connection after handshake and connect."""
    client = await raw(address)
    await client.handshake()
    await client.call("connect", {"app": app, "flashVer": "test", "tcUrl": f"rtmp://{address}/{app}"})
    return client


async def publish(address: str, name: str, app: str = "live", chunk: int = 4096) -> Client:
    """A publisher that has been accepted. Broken, with the status in it, if it is refused."""
    client = await connected(address, app)
    await client.set_chunk_size(chunk)
    await ask_publish(client, name)
    found = await client.answer(lambda values: code_of(values).startswith("NetStream.Publish"))
    if code_of(found) != "NetStream.Publish.Start":
        await client.close()
        raise Broken(f"publish was answered {found[3]}")
    return client


async def ask_publish(client: Client, name: str) -> None:
    """Say what encoders say in order to publish, and do not wait for the decision."""
    await client.command("releaseStream", None, name)
    await client.command("FCPublish", None, name)
    answer = await client.call("createStream", None)
    await client.command("publish", None, name, "live", stream=int(answer[3]))


async def play(address: str, name: str, app: str = "live") -> Client:
    """A viewer that has been accepted. Broken, with the status in it, if it is refused."""
    client = await connected(address, app)
    await ask_play(client, name)
    found = await client.answer(
        lambda values: code_of(values).startswith("NetStream.") and code_of(values) != "NetStream.Play.Reset"
    )
    if code_of(found) != "NetStream.Play.Start":
        await client.close()
        raise Broken(f"play was answered {found[3]}")
    return client


async def ask_play(client: Client, name: str) -> None:
    """Say what players say in order to watch, and do not wait for the decision."""
    answer = await client.call("createStream", None)
    await client.command("play", None, name, -2, stream=int(answer[3]), transaction=0)
    await client.send(USER_CONTROL, struct.pack(">HII", 3, int(answer[3]), 1000))  # SetBufferLength
