"""Viewers that write down every tag they get: FLV over HTTP, FLV over WebSocket, and RTMP.

The rule this file keeps: a viewer behaves like a player that wants to go on watching. Cut off, it connects again and
counts that; it is the test that says, with `ending()`, that the end is near and no fault. What came is kept as
`Seen`: time, type and digest of each tag, and the payload as well if it was asked for.

    viewer = await watch(streamd, "studio1", "ws")
    await viewer.until(lambda: len(viewer.frames()) >= 50, "two seconds of pictures")
    assert viewer.connections == 1
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import socket
import struct
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from streamd.live.media import flv
from streamd.runtime.vocabulary import PeerError
from tests import rtmp_client
from tests.scenarios.harness import Encoder, Sent, Streamd, eventually, is_frame

KINDS = ("flv", "ws", "rtmp")
READ = 65_536
SMALL = 4_096  # bytes that a viewer with little room lets the system keep for it


class Seen(NamedTuple):
    """A tag as it came; `payload` is b"" unless the viewer keeps payloads."""

    type: int
    dts: int
    digest: str
    frame: bool
    payload: bytes


class Viewer:
    """What the three kinds have in common. `connections` is 1 unless it had to connect again."""

    def __init__(self, streamd: Streamd, name: str, keep: bool, room: int) -> None:
        """`keep`: payloads. `room`: bytes of receive buffer, 0 for what the system gives."""
        self.streamd = streamd
        self.name = name
        self.keep = keep
        self.room = room
        self.seen: list[Seen] = []
        self.connections = 0
        self.ended = asyncio.Event()
        self.fault = ""  # what the server did wrong, if the viewer had to give up
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None
        self._last = False
        self._task = asyncio.create_task(self._run())

    # ---- for the test

    def frames(self) -> list[Seen]:
        return [seen for seen in self.seen if seen.frame]

    async def until(self, holds: Callable[[], Any], what: str) -> None:
        try:
            await eventually(lambda: self.fault or holds(), what)
            assert not self.fault, self.fault
        except AssertionError as error:
            kind = type(self).__name__
            raise AssertionError(f"{error} ({kind} of {self.name}, {len(self.seen)} tags)") from None

    async def until_level(self, encoder: Encoder) -> None:
        """Wait for the last frame that the encoder has sent."""
        type, _, digest, _ = encoder.sent[-1]

        def level() -> bool:
            last = next((seen for seen in reversed(self.seen) if seen.frame), None)
            return last is not None and (last.type, last.digest) == (type, digest)

        await self.until(level, "the last frame")

    def ending(self) -> None:
        """From now on the end of the stream is the end."""
        self._last = True

    def pause(self) -> None:
        """Read nothing more from the socket, so that it fills up."""
        assert self.writer is not None
        transport = self.writer.transport
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()

    def go_on(self) -> None:
        assert self.writer is not None
        transport = self.writer.transport
        assert isinstance(transport, asyncio.Transport)
        transport.resume_reading()

    def address(self) -> str:
        """Its own address, by which the server's streamd-ctl names it."""
        assert self.writer is not None
        own = self.writer.get_extra_info("sockname")
        return f"{own[0]}:{own[1]}"

    async def close(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    # ---- the connection

    async def _run(self) -> None:
        try:
            while True:
                self.connections += 1
                with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                    await self._watch()
                if self._last:
                    return
                await asyncio.sleep(0.05)
        except (AssertionError, PeerError, ValueError, asyncio.LimitOverrunError) as error:
            self.fault = repr(error)
        finally:
            self.ended.set()
            if self.writer is not None:
                self.writer.close()

    async def _watch(self) -> None:
        """One connection, from its beginning to its end."""
        raise NotImplementedError

    async def _connect(self, address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, _, port = address.rpartition(":")
        sock = socket.socket()
        if self.room:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.room)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
        limit = self.room or READ
        self.reader, self.writer = await asyncio.open_connection(sock=sock, limit=limit)
        return self.reader, self.writer

    def _see(self, type: int, dts: int, payload: bytes, digest: str = "") -> None:
        digest = digest or rtmp_client.digest(payload)
        self.seen.append(Seen(type, dts, digest, is_frame(type, payload), payload if self.keep else b""))

    def _take(self, demuxer: flv.Reader, data: bytes) -> None:
        flv.feed(demuxer, data)
        while (tag := flv.pull(demuxer)) is not None:
            self._see(*tag)


class FlvViewer(Viewer):
    """GET /live/NAME.flv."""

    async def _watch(self) -> None:
        reader, writer = await self._connect(self.streamd.http)
        writer.write(f"GET /live/{self.name}.flv HTTP/1.1\r\nHost: {self.streamd.http}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        chunked = b"\r\ntransfer-encoding: chunked\r\n" in head.lower()
        demuxer = flv.Reader()
        while data := await (_chunk(reader) if chunked else reader.read(READ)):
            self._take(demuxer, data)


async def _chunk(reader: asyncio.StreamReader) -> bytes:
    """The next chunk of the chunked transfer coding (RFC 9112 7.1); b"" is the last."""
    size = int(await reader.readuntil(b"\r\n"), 16)
    data = await reader.readexactly(size + 2)
    assert data.endswith(b"\r\n"), "a chunk that does not end where it should"
    return data[:-2]


class WsViewer(Viewer):
    """The same path over a WebSocket (RFC 6455), read by a reader of our own."""

    def say_goodbye(self) -> None:
        """Begin the closing handshake (7.1.2), as a page does that is left."""
        assert self.writer is not None
        self.writer.write(_masked(8, struct.pack(">H", 1001)))

    async def _watch(self) -> None:
        reader, writer = await self._connect(self.streamd.http)
        key = base64.b64encode(os.urandom(16)).decode()
        writer.write(
            f"GET /live/{self.name}.flv HTTP/1.1\r\nHost: {self.streamd.http}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head
        demuxer = flv.Reader()
        while True:
            opcode, payload = await self._frame(reader)
            match opcode:
                case 2:
                    self._take(demuxer, payload)
                case 8:
                    writer.write(_masked(8, payload))
                    return
                case 9:
                    writer.write(_masked(10, payload))
                case _:
                    raise AssertionError(f"a WebSocket frame with opcode {opcode}")

    async def _frame(self, reader: asyncio.StreamReader) -> tuple[int, bytes]:
        """One frame (5.2); the server sends them whole and unmasked."""
        first, size = await reader.readexactly(2)
        assert first & 0x80, "a fragmented message"
        assert size < 0x80, "a masked frame from a server"
        if size == 126:
            size = struct.unpack(">H", await reader.readexactly(2))[0]
        elif size == 127:
            size = struct.unpack(">Q", await reader.readexactly(8))[0]
        return first & 15, await reader.readexactly(size)


def _masked(opcode: int, payload: bytes) -> bytes:
    """A short frame as clients send it; the mask of zeros leaves the payload as it is."""
    return bytes((0x80 | opcode, 0x80 | len(payload))) + b"\0\0\0\0" + payload


class RtmpViewer(Viewer):
    """rtmp://host/live/NAME."""

    async def _watch(self) -> None:
        client = Player(*await self._connect(self.streamd.rtmp), self._see)
        try:
            await client.handshake()
            address = self.streamd.rtmp
            await client.call(
                "connect", {"app": "live", "flashVer": "test", "tcUrl": f"rtmp://{address}/live"}
            )
            await rtmp_client.ask_play(client, self.name)
            await client.closed.wait()
            assert client.broken is None, client.broken
        finally:
            client.deafen()


class Player(rtmp_client.Client):
    """An RTMP client that hands its media on as they come."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, see: Any) -> None:
        super().__init__(reader, writer)
        self.see = see

    async def _take(self, message: rtmp_client.Message) -> None:
        await super()._take(message)
        if self.media:
            self.media.clear()
            self.see(message.type, message.timestamp, message.payload, message.digest)


VIEWERS = {"flv": FlvViewer, "ws": WsViewer, "rtmp": RtmpViewer}


def watch(streamd: Streamd, name: str, kind: str, keep: bool = False, room: int = 0) -> Viewer:
    """A viewer of a kind that has begun to connect."""
    return VIEWERS[kind](streamd, name, keep, room)


@contextlib.asynccontextmanager
async def watching(streamd: Streamd, name: str, keep: bool = False) -> Any:
    """One viewer of each kind for the length of the block."""
    viewers = [watch(streamd, name, kind, keep) for kind in KINDS]
    try:
        yield viewers
    finally:
        for viewer in viewers:
            await viewer.close()


class Source(Protocol):
    """Whoever remembers the frames that it has published."""

    sent: list[Sent]


def got_everything(viewer: Viewer, source: Source) -> str:
    """Why a viewer has not seen each frame once, in order and in time, from a key picture on to the end; "" if it has."""
    sent, seen = source.sent, viewer.frames()
    where = f"{type(viewer).__name__} of {viewer.name}"
    if viewer.fault:
        return f"{where} gave up: {viewer.fault}"
    if viewer.connections != 1:
        return f"{where} connected {viewer.connections} times"
    if not seen:
        return f"{where} saw nothing"
    start = len(sent) - len(seen)
    if start < 0 or not sent[start].key:
        return f"{where} saw {len(seen)} frames of {len(sent)}, which is not from a key picture on"
    shift = seen[0].dts - sent[start].dts
    for place, (out, frame) in enumerate(zip(sent[start:], seen, strict=True)):
        if (out.type, out.dts + shift, out.digest) != (frame.type, frame.dts, frame.digest):
            return f"{where}: frame {place} of {len(seen)} was {out}, shifted by {shift} ms, and came as {frame[:3]}"
    return ""
