"""HTTP on real sockets: what is answered by the driver, what by live code, and a connection given up to the kernel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from streamd.drivers import http
from streamd.drivers.http import Http
from streamd.runtime.vocabulary import Respond, Tick
from tests.fake_live import World, running, until

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture")


@pytest.fixture(params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy], ids=["asyncio", "uvloop"])
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    return request.param()


class Web:
    def __init__(self, world: World, most: int = 100) -> None:
        self.world = world
        self.ready = True
        self.http = Http(world.sessions, lambda: self.ready, most, 100)
        self.address: tuple[str, int] = ("", 0)

    async def ask(self, head: str, *more: str) -> tuple[int, dict[str, str], bytes]:
        """One request on a connection of its own: status, headers in lower case, body."""
        reader, writer = await self.open(head, *more)
        raw = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        status, headers, body = parsed(raw)
        return status, headers, body

    async def open(self, head: str, *more: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(*self.address)
        lines = [f"{head} HTTP/1.1", "Host: x", *(more or ("Connection: close",))]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        return reader, writer


def parsed(raw: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = dict(line.split(": ", 1) for line in lines)
    return int(first.split()[1]), {name.lower(): value for name, value in fields.items()}, body


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    async with running(tmp_path) as world:
        made = Web(world)
        made.address = await made.http.listen("127.0.0.1", 0)
        yield made
        made.http.stop_listening()
        await made.http.close()


async def test_health_and_readiness_do_not_ask_live_code(web):
    web.world.upgrades.current.begin = None
    assert (await web.ask("GET /healthz"))[::2] == (200, b"ok\n")
    assert (await web.ask("GET /readyz"))[::2] == (200, b"ready\n")
    web.ready = False
    assert (await web.ask("GET /readyz"))[::2] == (503, b"not ready\n")
    assert (await web.ask("GET /healthz"))[0] == 200


async def test_assets_are_served_from_memory_with_their_validators(web):
    name, (body, _) = next(iter(web.http._assets.items()))
    status, headers, got = await web.ask(f"GET /assets/{name}")
    assert (status, got) == (200, body)
    assert headers["x-content-type-options"] == "nosniff"
    assert (await web.ask(f"HEAD /assets/{name}"))[::2] == (200, b"")
    tag = headers["etag"]
    assert (await web.ask(f"GET /assets/{name}", "Connection: close", f"If-None-Match: {tag}"))[::2] == (
        304,
        b"",
    )
    for path in ("none", "../http.py", "..%2fhttp.py", "", "%2e%2e/http.py"):
        assert (await web.ask(f"GET /assets/{path}"))[0] == 404
    status, headers, _ = await web.ask(f"POST /assets/{name}")
    assert (status, headers["allow"]) == (405, "GET, HEAD")


async def test_live_code_answers_the_rest_and_its_door_is_gone_afterwards(web):
    status, headers, body = await web.ask("GET /some/where?x=1")
    assert (status, body) == (404, b"no /some/where\n")
    assert headers["server"] == "streamd"
    assert web.world.sessions.listed() == []
    assert not web.world.net.links


@pytest.mark.parametrize(("said", "told"), [("1.1", b"1.1"), ("1.0", b"1.0")])
async def test_live_code_hears_which_version_the_client_speaks(web, said, told):
    reader, writer = await asyncio.open_connection(*web.address)
    writer.write(f"GET /version HTTP/{said}\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert parsed(await asyncio.wait_for(reader.read(), 5))[2] == told
    writer.close()


async def test_several_requests_on_one_connection(web):
    reader, writer = await web.open("GET /a", "X: y")
    for path in ("/a", "/b"):
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        length = parsed(head)[1]["content-length"]
        assert await reader.readexactly(int(length)) == f"no {path}\n".encode()
        writer.write(b"GET /b HTTP/1.1\r\nHost: x\r\n\r\n")
    writer.close()


async def test_a_stream_leaves_the_driver_and_goes_on_as_a_link_both_ways(web):
    reader, writer = await web.open("GET /stream/a", "X: y")
    raw = await asyncio.wait_for(reader.readuntil(b"streaming\n"), 5)
    status, headers, body = parsed(raw)
    assert (status, headers["connection"], headers["content-type"]) == (200, "close", "text/plain")
    assert "content-length" not in headers
    assert "transfer-encoding" not in headers
    assert body == b"streaming\n"
    await until(lambda: not web.http._server.connections)
    for _ in range(50):
        writer.write(b"version\n" if _ else b"join live/a\nversion\n")
    lines = [await asyncio.wait_for(reader.readline(), 5) for _ in range(51)]
    assert lines == [b"welcome to live/a\n", *[b"codec 1 tail 1\n"] * 50]
    assert web.world.session().state.guests.keys() == {1}
    writer.write(b"close enough\n")
    assert await asyncio.wait_for(reader.read(), 5) == b"bye\n"
    writer.close()
    await until(lambda: not web.world.net.links)


async def test_a_stream_s_client_that_goes_is_told_to_its_session(web):
    reader, writer = await web.open("GET /stream/a", "X: y")
    await asyncio.wait_for(reader.readuntil(b"streaming\n"), 5)
    writer.write(b"join live/a\n")
    await reader.readline()
    writer.close()
    await until(lambda: web.world.session().state.heard == ["1 left: closed by peer"])


async def test_a_client_that_hangs_up_while_it_waits_ends_its_door(web):
    _, writer = await web.open("GET /wait", "X: y")
    await until(lambda: web.world.sessions.listed())
    (door,) = web.world.sessions.listed()
    assert list(door.links) == [1]
    writer.close()
    await until(lambda: door.ended)
    assert not web.world.net.links
    assert web.world.reports.count == 0


async def test_an_answer_to_a_client_that_has_gone_is_no_crash(web):
    _, writer = await web.open("GET /wait", "X: y")
    await until(lambda: web.world.sessions.listed())
    (door,) = web.world.sessions.listed()
    link = door.links[1]
    exchange: Any = link.exchange
    exchange.request.transport.abort()
    web.world.sessions.carry_out(door, Tick(0, ""), [Respond(1, 200, {}, b"", True)])
    assert link.sock is None
    assert web.world.reports.count == 0
    await until(lambda: not web.world.net.links)
    writer.close()


async def test_a_head_that_cannot_be_sent_is_a_crash_that_keeps_no_socket(web):
    status, _, body = await web.ask("GET /bad")
    assert status == 503
    assert b"X-Split" not in body
    assert web.world.reports.count == 1
    assert not web.world.net.links
    assert web.world.sessions.listed() == []


async def test_a_session_that_ends_lets_the_waiting_client_go(web):
    reader, writer = await web.open("GET /wait", "Connection: close")
    await until(lambda: web.world.sessions.listed())
    web.world.sessions.end(web.world.sessions.listed()[0], "over")
    assert parsed(await asyncio.wait_for(reader.read(), 5))[0] == 503
    writer.close()


async def test_a_body_that_is_too_large_is_refused_unread(web):
    reader, writer = await web.open("POST /x", "Content-Length: 70000")
    assert parsed(await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5))[0] == 413
    writer.close()
    assert web.world.sessions._doors == 0


@pytest.mark.parametrize(
    "raw", [b"\x00\xff\n\n", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + b"y" * 20_000 + b"\r\n\r\n"]
)
async def test_garbage_costs_its_own_connection(web, raw):
    reader, writer = await asyncio.open_connection(*web.address)
    writer.write(raw)
    assert b" 400 " in (await asyncio.wait_for(reader.read(), 5)).split(b"\r\n")[0]
    writer.close()
    assert (await web.ask("GET /healthz"))[0] == 200


async def test_a_head_that_does_not_arrive_is_not_waited_for(web, monkeypatch):
    monkeypatch.setattr(http, "HEAD_SECONDS", 0.05)
    for sent in (b"", b"GET / HTTP/1.1\r\nHost:"):
        reader, writer = await asyncio.open_connection(*web.address)
        writer.write(sent)
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1), 5)
        writer.close()
    await until(lambda: not web.http._server._newcomers)
    assert (await web.ask("GET /healthz"))[0] == 200


async def test_connections_and_streams_together_are_bounded(tmp_path):
    async with running(tmp_path) as world:
        web = Web(world, most=3)
        web.address = await web.http.listen("127.0.0.1", 0)
        streams = []
        for _ in range(3):
            reader, writer = await web.open("GET /stream/a", "X: y")
            await asyncio.wait_for(reader.readuntil(b"streaming\n"), 5)
            streams.append(writer)
        await until(lambda: not web.http._server.connections)
        reader, writer = await web.open("GET /stream/a", "X: y")
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1), 5)
        for item in (*streams, writer):
            item.close()
        await until(lambda: not world.net.links)
        assert (await web.ask("GET /healthz"))[0] == 200
        web.http.stop_listening()
        await web.http.close()
