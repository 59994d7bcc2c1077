"""Peers that are broken, hostile or dead cost their own connection, and nobody else anything.

The rule this file keeps: while each attack goes on, a broadcast goes on beside it, and its viewers of every kind get
every frame, once and in order; the server's memory stays bounded; it reports no crash of its own; and it is still there
for the operator and for newcomers afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import struct
from collections.abc import AsyncIterator, Coroutine
from typing import Any, NamedTuple

import msgpack
import pytest

from tests import rtmp_client
from tests.rtmp_client import amf
from tests.scenarios.camera import STEP, Camera, gaps, missing, shoot
from tests.scenarios.harness import Streamd, eventually, running
from tests.scenarios.test_field_rows import MB, resident, until_seen
from tests.scenarios.throttle import ROOM
from tests.scenarios.viewers import KINDS, watch, watching

pytestmark = pytest.mark.scenario

SECONDS = 2.0  # that a connection of these tests has to say what it wants
WAIT = 15.0  # seconds after which every attacker must have been closed
GROWTH = 64 * MB  # memory that the attacks of one test may cost the server while they go on
NOISE = random.Random(7).randbytes(60_000)
TLS = b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + NOISE[:500]


@contextlib.asynccontextmanager
async def undisturbed(streamd: Streamd) -> AsyncIterator[None]:
    """For the length of the block a broadcast goes on, and must not suffer."""
    publisher, camera = await rtmp_client.publish(streamd.rtmp, "control"), Camera()
    over = asyncio.Event()
    before = resident(streamd)
    peak = before

    async def go_on() -> None:
        nonlocal peak
        while not over.is_set():
            await shoot(publisher, camera, 0.4)
            peak = max(peak, resident(streamd))

    shooting = asyncio.create_task(go_on())
    try:
        async with watching(streamd, "control", keep=True) as viewers:
            for viewer in viewers:
                await viewer.until(viewer.frames, "it has begun to watch")
            yield
            over.set()
            await shooting
            for viewer in viewers:
                seen = await until_seen(viewer, camera.made - 1)
                assert (viewer.connections, missing(seen), set(gaps(seen))) == (1, [], {STEP})
    finally:
        over.set()
        await shooting
    print(f"memory: {before / MB:.1f} MB before, {peak / MB:.1f} MB at most")
    assert peak - before < GROWTH
    assert not publisher.closed.is_set()
    status = await streamd.status()
    assert [session["phase"] for session in status["sessions"] if session["name"] == "live/control"] == [
        "live"
    ]
    late = await rtmp_client.play(streamd.rtmp, "control")
    await late.until(lambda: len(late.media) > 3)
    await late.close()
    await publisher.close()


async def all_end(attacks: dict[str, Coroutine[Any, Any, None]]) -> None:
    """Run attacks side by side; each ends when the server has closed its connection. Names those that did not."""

    async def one(name: str, attack: Coroutine[Any, Any, None]) -> str:
        try:
            await asyncio.wait_for(attack, WAIT)
        except TimeoutError:
            return f"{name}: still open"
        except AssertionError as error:
            return f"{name}: {error}"
        return ""

    outcomes = await asyncio.gather(*(one(*item) for item in attacks.items()))
    assert [outcome for outcome in outcomes if outcome] == []


# ---- RTMP ---------------------------------------------------------------------------------------------------


class Rtmp(NamedTuple):
    """`stage`: what is done properly first. `data`: what is said then. `code`: the status that must be said, if any."""

    stage: str
    data: bytes | list[bytes]
    code: str = ""


def message(kind: int, payload: bytes, csid: int = 3, stream: int = 0, size: int = -1) -> bytes:
    """A message in one chunk with a full header; `size` is what the header says if it lies."""
    length = len(payload) if size < 0 else size
    head = bytes([csid]) + b"\0\0\0" + length.to_bytes(3, "big") + bytes([kind])
    return head + struct.pack("<I", stream) + payload


def wide(csid: int, size: int) -> bytes:
    """The first chunk, of 128 bytes, of a message on a chunk stream with a three-byte id."""
    head = b"\x01" + bytes([(csid - 64) & 0xFF, (csid - 64) >> 8]) + b"\0\0\0" + size.to_bytes(3, "big")
    return head + b"\x09\x01\0\0\0" + bytes(128)


CHUNK_4096 = message(1, struct.pack(">I", 4096), 2)
CHUNK_1M = message(1, struct.pack(">I", 1 << 20), 2)
NESTED = b"\x03\0\x01a" * 4_000
BOMB = amf("connect", 1) + b"\x0a\0\0\x40\0" + b"\x0a\0\0\x40\0" * 200

RTMP: dict[str, Rtmp] = {
    "noise": Rtmp("tcp", NOISE),
    "TLS": Rtmp("tcp", TLS),
    "HTTP": Rtmp("tcp", b"GET /live/control.flv HTTP/1.1\r\nHost: x\r\n\r\n"),
    "a version from the future": Rtmp("tcp", b"\x21" + bytes(1536)),
    "silence": Rtmp("tcp", b""),
    "half a handshake": Rtmp("tcp", b"\x03" + bytes(700)),
    "a handshake byte by byte": Rtmp("tcp", [b"\x03", *[b"\0"] * 60]),
    "silence after the handshake": Rtmp("handshake", b""),
    "noise after the handshake": Rtmp("handshake", NOISE),
    "media before connect": Rtmp("handshake", CHUNK_4096 + message(9, bytes(4000)) * 500),
    "a command before connect": Rtmp("handshake", message(20, amf("publish", 1, None, "x"))),
    "a message of 16 MiB": Rtmp("handshake", message(20, bytes(128), size=0xFFFFFF)),
    "a command of 5 MiB": Rtmp("handshake", message(20, bytes(128), size=5 * MB)),
    "a chunk size of 0": Rtmp("handshake", message(1, bytes(4), 2)),
    "a chunk size of 1": Rtmp("handshake", message(1, b"\0\0\0\1", 2)),
    "a chunk size of 2^31": Rtmp("handshake", message(1, b"\x80\0\0\0", 2)),
    "half a Set Chunk Size": Rtmp("handshake", message(1, b"\0\0", 2)),
    "a continuation of nothing": Rtmp("handshake", b"\xc9" * 200),
    "thousands of chunk streams": Rtmp("handshake", b"".join(wide(csid, 60_000) for csid in range(400, 5400))),
    "thousands of empty messages": Rtmp("handshake", message(8, b"", 4) + b"\xc4" * 60_000),
    "endless nesting": Rtmp("handshake", CHUNK_1M + message(20, amf("connect", 1) + NESTED)),
    "an array of 2^32 - 1": Rtmp("handshake", message(20, amf("connect", 1) + b"\x0a\xff\xff\xff\xff\x05\x05")),
    "a map of 2^32 - 1": Rtmp("handshake", message(20, amf("connect", 1) + b"\x08\xff\xff\xff\xff\0\1a")),
    "arrays in arrays": Rtmp("handshake", CHUNK_1M + message(20, BOMB)),
    "a long string that is not there": Rtmp("handshake", message(20, amf("connect", 1) + b"\x0c\x7f\xff\xff\xff")),
    "an unknown AMF marker": Rtmp("handshake", message(20, b"\xee")),
    "an empty command": Rtmp("handshake", message(20, b"")),
    "a name of 60 KB": Rtmp("handshake", CHUNK_1M + message(20, amf("connect", 1, {"app": "a" * 60_000}))),
    "another application": Rtmp("handshake", message(20, amf("connect", 1, {"app": "vod"}))),
    "a second connect": Rtmp("connected", message(20, amf("connect", 1, {"app": "live"}))),
    "connect and then nothing": Rtmp("connected", b""),
    "pings until the time is over": Rtmp("connected", [message(4, b"\0\6\0\0\0\1", 2)] * 60),
    "a name with a slash": Rtmp("connected", message(20, amf("publish", 5, None, "../etc", "live"), 3, 1), "NetStream.Publish.BadName"),
    "a name that is none": Rtmp("connected", message(20, amf("publish", 5, None, "", "live"), 3, 1), "NetStream.Publish.BadName"),
    "a name with a line break": Rtmp("connected", message(20, amf("play", 5, None, "a\r\nb"), 3, 1), "NetStream.Play.StreamNotFound"),
    "the name of another": Rtmp("connected", message(20, amf("publish", 5, None, "control", "live"), 3, 1), "NetStream.Publish.BadName"),
    "Sorenson video": Rtmp("publishing", message(9, b"\x22" + bytes(20), 6, 1), "NetStream.Publish.Rejected"),
    "MP3": Rtmp("publishing", message(8, b"\x2f" + bytes(20), 4, 1), "NetStream.Publish.Rejected"),
    "a sequence header of noise": Rtmp("publishing", message(9, b"\x17\0\0\0\0\1" + NOISE[:60], 6, 1)),
    "an AAC header of noise": Rtmp("publishing", message(8, b"\xaf\0\xff\xff\xff\xff", 4, 1)),
    "a NAL unit of 4 GB": Rtmp("publishing", message(9, b"\x17\1\0\0\0\xff\xff\xff\xff\x65", 6, 1)),
    "an aggregate that is cut": Rtmp("publishing", message(22, b"\x09\0\xff\xff" + bytes(30), 6, 1)),
    "half messages of 8 MB on 60 chunk streams": Rtmp("publishing", CHUNK_1M + b"".join(message(9, bytes(MB), csid, 1, size=8_000_000) for csid in range(4, 64))),
    "noise from a publisher": Rtmp("publishing", NOISE),
    "noise from a player": Rtmp("playing", NOISE),
    "a huge message from a player": Rtmp("playing", message(20, bytes(128), size=0xFFFFFF)),
}  # fmt: skip


async def attack_rtmp(streamd: Streamd, place: int, case: Rtmp) -> None:
    client = await rtmp_client.raw(streamd.rtmp)
    try:
        match case.stage:
            case "tcp":
                client.listen_raw()
            case "handshake":
                await client.handshake()
            case stage:
                await client.handshake()
                await client.call("connect", {"app": "live", "tcUrl": "rtmp://x/live"})
                if stage == "publishing":
                    await rtmp_client.ask_publish(client, f"victim-{place}")
                    await client.status("NetStream.Publish.Start")
                elif stage == "playing":
                    await rtmp_client.ask_play(client, "control")
                    await client.status("NetStream.Play.Start")
        pieces = case.data if isinstance(case.data, list) else [case.data]
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                if client.closed.is_set():
                    break
                await client.write(piece)
                await asyncio.sleep(0.1 if len(pieces) > 1 else 0)
        await client.closed.wait()
        assert not case.code or case.code in client.codes(), f"was told {client.codes()}"
    finally:
        client.abort()


async def test_what_is_not_rtmp_ends_its_own_connection() -> None:
    async with running(handshake_timeout=SECONDS, publisher_grace=0.5) as streamd, undisturbed(streamd):
        attacks = {name: attack_rtmp(streamd, place, case) for place, (name, case) in enumerate(RTMP.items())}
        await all_end(attacks)
        await streamd.until(
            lambda status: [session["name"] for session in status["sessions"]] == ["live/control"],
            "victims end",
        )


async def test_peers_that_ask_and_never_read_are_cut_off_at_a_bound() -> None:
    """A viewer that asks for pongs, and a connection that asks for streams, as fast as the server takes it."""
    async with running() as streamd, undisturbed(streamd):

        async def flood(request: bytes, playing: bool) -> None:
            client = await rtmp_client.connected(streamd.rtmp)
            if playing:
                await rtmp_client.ask_play(client, "control")
                await client.status("NetStream.Play.Start")
            client.deafen()
            with contextlib.suppress(ConnectionError):
                while True:
                    await client.write(request * 500)
                    await asyncio.sleep(0)
            client.abort()

        ping = message(4, b"\0\6\0\0\0\1", 2)
        create = message(20, amf("createStream", 2, None))
        await all_end({"pings": flood(ping, True), "streams": flood(create, False)})
        said = [line["message"] for line in streamd.lines()]
        bounds = ("does not read", "bytes of answers at once")
        assert sum(any(bound in line for bound in bounds) for line in said) == 2


# ---- HTTP ---------------------------------------------------------------------------------------------------

GET = b"GET /live/control.flv HTTP/1.1\r\nHost: x\r\n"
HTTP: dict[str, bytes | list[bytes]] = {
    "noise": NOISE,
    "TLS": TLS,
    "silence": b"",
    "half a request": GET,
    "a request byte by byte": [bytes([byte]) for byte in GET + b"X-Slow: " + b"a" * 400],
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(100),
    "RTMP": b"\x03" + bytes(1536),
    "a request line of 1 MB": b"GET /" + b"a" * MB + b" HTTP/1.1\r\n\r\n",
    "a header of 1 MB": GET + b"X: " + b"a" * MB + b"\r\n\r\n",
    "100,000 headers": GET + b"".join(b"X-%d: 1\r\n" % number for number in range(100_000)) + b"\r\n",
    "a body of a terabyte": b"POST /live/control.flv HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000000\r\n\r\n" + bytes(9000),
    "a negative body": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "a chunk of 2^64": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n" + bytes(9000),
    "a body that never ends": [b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", *[b"400\r\n" + bytes(1024) + b"\r\n"] * 100],
    "a zero byte in a header": GET + b"X: a\0b\r\n\r\n",
    "bare line feeds": b"GET / HTTP/1.1\nHost: x\n\n",
    "no such method": b"BREW /live/control.flv HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "a path of escapes": b"GET /live/%ff%00%0d%0a.flv HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "an upgrade without a key": GET + b"Upgrade: websocket\r\nConnection: Upgrade, close\r\nSec-WebSocket-Version: 13\r\n\r\n",
    "an upgrade of the year 2010": GET + b"Upgrade: websocket\r\nConnection: close\r\nSec-WebSocket-Version: 7\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    "2,000 requests at once": b"GET /live/control HTTP/1.1\r\nHost: x\r\n\r\n" * 2000 + b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
}  # fmt: skip

UPGRADE = GET + (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
MASK = b"\1\2\3\4"
WS: dict[str, bytes] = {
    "noise": NOISE,
    "a frame without a mask": b"\x82\x05hello",
    "reserved bits": b"\xf2\x80" + MASK,
    "an unknown opcode": b"\x83\x80" + MASK,
    "a frame of 2^63 bytes": b"\x82\xff\x80" + bytes(7) + MASK + bytes(5000),
    "a frame of 1 MB": b"\x82\xff" + struct.pack(">Q", MB) + MASK + bytes(MB),
    "a ping of 126 bytes": b"\x89\xfe\0\x7e" + MASK + bytes(126),
    "a close in fragments": b"\x08\x80" + MASK,
    "a continuation of nothing": b"\x80\x80" + MASK,
    "a message in a message": b"\x02\x80" + MASK + b"\x02\x80" + MASK,
    "half a close code": b"\x88\x81" + MASK + b"\0",
    "a close code of 5": b"\x88\x82" + bytes(4) + b"\0\5",
    "a close that is no UTF-8": b"\x88\x84" + bytes(4) + b"\x03\xe8\xff\xff",
    "200,000 pings": (b"\x89\x80" + MASK) * 200_000,
    "RTMP": b"\x03" + bytes(1536),
}


async def attack_tcp(address: str, data: bytes | list[bytes], reads: bool = True) -> None:
    """Say it, and read until the server closes, or do not read at all."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    drain = asyncio.create_task(read_all(reader)) if reads else None
    try:
        with contextlib.suppress(ConnectionError):
            for piece in data if isinstance(data, list) else [data]:
                if drain is not None and drain.done():
                    break
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.1 if isinstance(data, list) else 0)
            if drain is not None:
                await drain
    finally:
        if drain is not None:
            drain.cancel()
        writer.transport.abort()


async def read_all(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(ConnectionError):
        while await reader.read(65_536):
            pass


async def test_what_is_not_http_ends_its_own_connection() -> None:
    async with running() as streamd, undisturbed(streamd):
        await all_end({name: attack_tcp(streamd.http, data) for name, data in HTTP.items()})


async def test_what_is_no_websocket_ends_its_own_connection() -> None:
    async with running() as streamd, undisturbed(streamd):
        attacks = {name: attack_tcp(streamd.http, [UPGRADE, data]) for name, data in WS.items()}
        pings = (b"\x89\xfd" + MASK + bytes(125)) * 200_000
        attacks["pings of somebody deaf"] = attack_tcp(streamd.http, UPGRADE + pings, reads=False)
        await all_end(attacks)


async def test_what_a_viewer_says_after_its_request_is_ignored() -> None:
    async with running() as streamd, undisturbed(streamd):
        host, _, port = streamd.http.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(GET + b"\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        for _ in range(20):
            writer.write(NOISE)
            await writer.drain()
            assert await reader.read(65_536)
        writer.close()


# ---- the admin socket ---------------------------------------------------------------------------------------


def admin(verb: str, **more: object) -> bytes:
    return bytes(msgpack.packb({"v": 1, "verb": verb, "args": {}, "cwd": "/", **more}))


ADMIN: dict[str, bytes] = {
    "noise": NOISE,
    "text": b"status\n",
    "2 MB of nothing": b"\xc6\x00\x20\x00\x00" + bytes(2 * MB),
    "a map of 2^32 - 1": b"\xdf\xff\xff\xff\xff\xa1v\x01",
    "an array of 2^32 - 1": b"\xdd\xff\xff\xff\xff" + bytes(1000),
    "a string of 4 GB": b"\xdb\xff\xff\xff\xff" + bytes(1000),
    "endless nesting": b"\x91" * 500_000,
    "a list": bytes(msgpack.packb([1, 2, 3])),
    "another version": admin("status", v=99),
    "no such verb": admin("format-disk"),
    "args that are a list": admin("load", args=[1]),
    "a load of nothing": admin("load", args={"paths": []}),
    "paths that are numbers": admin("load", args={"paths": [1, 2]}),
    "a rollback to a text": admin("rollback", args={"to": "yesterday"}),
    "a trace of a number": admin("trace", args={"name": 5}),
    "a module of bytes": admin("new-patch", args={"module": b"\xff"}),
    "a module out of the tree": admin("new-patch", args={"module": "../../etc/passwd"}),
    "a cwd that is a list": admin("load", args={"paths": ["x.py"]}, cwd=[1]),
    "half a request": admin("status")[:-3],
}


async def attack_admin(streamd: Streamd, data: bytes) -> None:
    """Say it; the server refuses in a sentence or closes, and never reports a bug of its own."""
    reader, writer = await asyncio.open_unix_connection(str(streamd.admin))
    unpacker = msgpack.Unpacker()
    try:
        with contextlib.suppress(ConnectionError):
            writer.write(data)
            writer.write_eof()
            await writer.drain()
            while answer := await reader.read(65_536):
                unpacker.feed(answer)
        for answer in unpacker:
            assert "progress" in answer or answer["ok"] is False, f"was answered {answer}"
            assert answer.get("stage") != "bug", answer["error"]
    finally:
        writer.close()


async def test_what_is_no_request_ends_its_own_admin_connection() -> None:
    async with running() as streamd, undisturbed(streamd):
        await all_end({name: attack_admin(streamd, data) for name, data in ADMIN.items()})
        idle = [await asyncio.open_unix_connection(str(streamd.admin)) for _ in range(100)]
        assert (await streamd.status())["ok"]
        deaf = socket.socket(socket.AF_UNIX)
        deaf.connect(str(streamd.admin))
        deaf.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            deaf.send(admin("status") * 2000)
        assert (await streamd.ctl("check", "euro_fix.py"))["ok"]
        deaf.close()
        for _, writer in idle:
            writer.close()


# ---- deaths and storms --------------------------------------------------------------------------------------


async def test_viewers_that_die_with_data_waiting_for_them_take_nobody_along() -> None:
    """They stop reading until the server cannot send any more, and then reset their connections."""
    async with running() as streamd:
        publisher, camera = await rtmp_client.publish(streamd.rtmp, "grave"), Camera(rate=8_000_000)
        await shoot(publisher, camera, 0.4)
        survivor = watch(streamd, "grave", "rtmp", keep=True)
        await survivor.until(survivor.frames, "it has begun to watch")
        async with undisturbed(streamd):
            for _ in range(3):
                doomed = [watch(streamd, "grave", kind, room=ROOM) for kind in KINDS for _ in range(4)]
                for viewer in doomed:
                    await viewer.until(viewer.frames, "it has begun to watch")
                    viewer.pause()
                await shoot(publisher, camera, 1.2)
                for viewer in doomed:
                    viewer.ending()
                    assert viewer.writer is not None
                    viewer.writer.transport.abort()
                await shoot(publisher, camera, 0.4)
                for viewer in doomed:
                    await viewer.close()
        seen = await until_seen(survivor, camera.made - 1)
        assert (survivor.connections, missing(seen), set(gaps(seen))) == (1, [], {STEP})
        await survivor.close()
        await publisher.close()


async def test_a_storm_of_connections_is_bounded_and_passes() -> None:
    """Far more connections than the server may have: they are refused, those before them stay, those after get in."""
    async with (
        running({"server": {"max_connections": 200}}, handshake_timeout=SECONDS) as streamd,
        undisturbed(streamd),
    ):
        addresses = [streamd.rtmp, streamd.http]
        for turn in range(3):
            storm = await asyncio.gather(
                *(stay(addresses[place % 2], bool(turn % 2)) for place in range(600)), return_exceptions=True
            )
            assert [fault for fault in storm if isinstance(fault, AssertionError)] == []
        await eventually(
            lambda: any("connections are open already" in line["message"] for line in streamd.lines()),
            "refusals",
        )

        async def calm() -> bool:
            return len(os.listdir(f"/proc/{streamd.process.pid if streamd.process else 0}/fd")) < 60

        await eventually(calm, "the storm is over")


async def stay(address: str, speak: bool) -> None:
    """Connect, say a byte or nothing, stay a little, and go without a word."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    if speak:
        writer.write(b"\x03")
    with contextlib.suppress(TimeoutError, ConnectionError):
        await asyncio.wait_for(reader.read(100), 1.0)
    writer.transport.abort()
