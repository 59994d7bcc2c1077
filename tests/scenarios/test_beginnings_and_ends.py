"""What viewers and publishers are told when nothing is live yet, when it is over, and when the server stops."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from time import monotonic
from typing import Any

import aiohttp
import pytest

from streamd.live.media import flv
from tests import media_samples, rtmp_client
from tests.scenarios.camera import Camera, frames, gaps, missing, shoot
from tests.scenarios.harness import Encoder, Streamd, eventually, output, running
from tests.scenarios.viewers import watching

pytestmark = pytest.mark.scenario

ORIGIN = "https://player.example"


@contextlib.asynccontextmanager
async def browser(
    version: aiohttp.HttpVersion = aiohttp.HttpVersion11,
) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(20), headers={"Origin": ORIGIN}, version=version
    ) as session:
        yield session


async def played_to_the_end(session: aiohttp.ClientSession, url: str) -> tuple[list[flv.Tag], int]:
    """The tags of GET NAME.flv until the server ends it, and how many bytes of a cut tag are left."""
    demuxer = flv.Reader()
    async with session.get(url) as response:
        assert response.status == 200
        async for data in response.content.iter_any():
            flv.feed(demuxer, data)
    tags = list(iter(lambda: flv.pull(demuxer), None))
    return [tag for tag in tags if tag is not None], len(demuxer.buffer)


# ---- nothing is live ----------------------------------------------------------------------------------------


async def test_where_nothing_is_live_everybody_is_told_so_in_a_sentence() -> None:
    async with running() as streamd, browser() as session:
        async with session.get(streamd.flv_url("nobody")) as answer:
            assert answer.status == 404
            assert answer.headers["Access-Control-Allow-Origin"] == "*"
            assert "Nothing is live at /live/nobody" in await answer.text()
        async with session.head(streamd.flv_url("nobody")) as answer:
            assert (answer.status, await answer.read()) == (404, b"")
        with pytest.raises(aiohttp.WSServerHandshakeError, match="404"):
            await session.ws_connect(streamd.flv_url("nobody"))
        viewer = await rtmp_client.connected(streamd.rtmp)
        await rtmp_client.ask_play(viewer, "nobody")
        told = await viewer.status("NetStream.Play.StreamNotFound")
        assert told["level"] == "error"
        assert "Nothing is live at /live/nobody" in told["description"]
        await asyncio.wait_for(viewer.closed.wait(), 5)
        await viewer.close()
        assert (await streamd.status())["sessions"] == []


ROUTES: list[tuple[str, str, int, dict[str, str]]] = [
    ("HEAD", "/live/on.flv", 200, {"Content-Type": "video/x-flv", "Access-Control-Allow-Origin": "*"}),
    ("HEAD", "/live/on", 200, {"Content-Type": "text/html; charset=utf-8"}),
    ("GET", "/live/on", 200, {"Content-Type": "text/html; charset=utf-8"}),
    ("OPTIONS", "/live/on.flv", 204, {"Access-Control-Allow-Origin": "*", "Allow": "GET, HEAD, OPTIONS"}),
    ("OPTIONS", "/live/on.flv", 204, {"Access-Control-Allow-Methods": "GET, HEAD, OPTIONS"}),
    ("POST", "/live/on.flv", 405, {"Allow": "GET, HEAD, OPTIONS", "Access-Control-Allow-Origin": "*"}),
    ("GET", "/", 404, {"Content-Type": "text/plain; charset=utf-8"}),
    ("GET", "/live/", 404, {}),
    ("GET", "/live/on.mp4", 200, {}),  # a name may have dots: the page of a broadcast "on.mp4"
    ("GET", "/live/%2e%2e/etc", 404, {}),
    ("GET", "/live/a%2Fb.flv", 404, {}),
    ("GET", "/live/" + "n" * 200 + ".flv", 404, {}),
    ("GET", "/healthz", 200, {}),
    ("GET", "/readyz", 200, {}),
]


async def test_every_path_and_method_has_its_answer() -> None:
    async with running() as streamd, browser() as session:
        publisher = await rtmp_client.publish(streamd.rtmp, "on")
        await publisher.send_all([*Camera().headers(), *Camera().take(200)])
        for method, path, status, headers in ROUTES:
            url = f"http://{streamd.http}{path}"
            asked = {"Access-Control-Request-Method": "GET"} if method == "OPTIONS" else {}
            async with session.request(method, url, headers=asked, allow_redirects=False) as answer:
                said = (method, path, answer.status)
                assert said == (method, path, status)
                for name, value in headers.items():
                    assert (path, name, answer.headers.get(name)) == (path, name, value)
        async with session.get(streamd.flv_url("on")) as answer:
            assert (answer.status, answer.headers["Content-Type"]) == (200, "video/x-flv")
            assert answer.headers["Access-Control-Allow-Origin"] == "*"
            assert "Content-Length" not in answer.headers
            assert (await answer.content.readexactly(3)) == b"FLV"
        await publisher.close()


async def test_viewers_may_wait_for_a_publisher_that_comes() -> None:
    async with running(wait_for_publisher=20.0) as streamd, watching(streamd, "soon", keep=True) as viewers:
        await streamd.until(
            lambda status: status["sessions"] and status["sessions"][0]["waiting"] == 3, "three wait"
        )
        publisher = await rtmp_client.publish(streamd.rtmp, "soon")
        camera = Camera(start=7_000)
        await shoot(publisher, camera, 1)
        for viewer in viewers:
            await viewer.until(lambda viewer=viewer: len(viewer.frames()) == 2 * camera.made, "all frames")
            seen = frames((tag.type, tag.dts, tag.payload) for tag in viewer.seen)
            assert (viewer.connections, missing(seen), seen[0].number, seen[0].dts) == (1, [], 0, 0)
        await publisher.close()


async def test_viewers_do_not_wait_for_ever_for_a_publisher() -> None:
    async with running(wait_for_publisher=1.0) as streamd, browser() as session:
        viewer = await rtmp_client.connected(streamd.rtmp)
        await rtmp_client.ask_play(viewer, "never")
        began = monotonic()
        async with session.get(streamd.flv_url("never")) as answer:
            assert answer.status == 404
            assert "Nothing is live" in await answer.text()
        assert 0.5 < monotonic() - began < 8
        await viewer.status("NetStream.Play.StreamNotFound")
        await viewer.close()
        await streamd.until(lambda status: status["sessions"] == [], "the broadcast that never was is gone")


# ---- it is over ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["drops", "unpublishes"])
async def test_when_the_grace_period_is_over_viewers_are_told_and_closed(end: str) -> None:
    async with running(publisher_grace=1.0) as streamd, browser() as session:
        publisher = await rtmp_client.publish(streamd.rtmp, "last")
        camera = Camera()
        await shoot(publisher, camera, 0.4)
        flat = asyncio.create_task(played_to_the_end(session, streamd.flv_url("last")))
        player = await rtmp_client.play(streamd.rtmp, "last")
        async with session.ws_connect(streamd.flv_url("last")) as socket:
            await shoot(publisher, camera, 0.6)
            lost = monotonic()
            if end == "drops":
                publisher.abort()
            else:
                await publisher.command("FCUnpublish", None, "last")
                await publisher.command("deleteStream", None, 1)
            over = await asyncio.gather(
                flat, ws_to_the_end(socket), player.status("NetStream.Play.UnpublishNotify")
            )
            assert 0.9 < monotonic() - lost < 8
        tags, rest = over[0]
        assert rest == 0
        seen = frames(tags)
        assert (missing(seen), seen[-1].number) == ([], camera.made - 1)
        assert over[1] == (1000, camera.made - 1)
        assert [control.payload for control in player.controls if control.type == 4][
            -1
        ] == b"\0\x01\0\0\0\x01"
        await asyncio.wait_for(player.closed.wait(), 5)
        await player.close()
        await publisher.close()
        await streamd.until(lambda status: status["sessions"] == [], "the broadcast is gone")


async def test_over_http_players_tell_the_end_of_the_broadcast_from_a_cut() -> None:
    async with running(publisher_grace=1.0) as streamd, browser(aiohttp.HttpVersion10) as older:
        encoder = await Encoder.connect(streamd, "end")
        sample = media_samples.plain()
        await encoder.send_all(sample[: len(sample) // 2])
        url = streamd.flv_url("end")
        flat = asyncio.create_task(played_to_the_end(older, url))
        player = asyncio.create_task(ffmpeg(url))
        await streamd.until(lambda status: status["sessions"][0]["viewers"] == 2, "both watch")
        await encoder.send_all(sample[len(sample) // 2 :])
        await encoder.client.close()
        tags, rest = await flat
        assert (rest, rtmp_client.digest(tags[-1].payload)) == (0, encoder.sent[-1].digest)
        await player

        again = await Encoder.connect(streamd, "end")
        await again.send_all(sample)
        async with browser() as newer:
            flat = asyncio.create_task(played_to_the_end(newer, url))
            await streamd.until(lambda status: status["sessions"][0]["viewers"] == 1, "it watches")
            await streamd.kill()
            with pytest.raises(aiohttp.ClientPayloadError):
                await flat
        await again.client.close()


async def ffmpeg(url: str) -> None:
    """Play to the end with FFmpeg, which exits with 1 if reading fails (-xerror)."""
    await output(*f"ffmpeg -nostdin -v error -xerror -i {url} -c copy -f null -".split())


async def ws_to_the_end(socket: Any) -> tuple[int, int]:
    """The close code of a WebSocket, and the number of the last frame before it."""
    demuxer, tags = flv.Reader(), []
    while (message := await socket.receive()).type == aiohttp.WSMsgType.BINARY:
        flv.feed(demuxer, message.data)
        while (tag := flv.pull(demuxer)) is not None:
            tags.append(tag)
    assert message.type == aiohttp.WSMsgType.CLOSE
    return message.data, frames(tags)[-1].number


async def test_a_connection_that_has_unpublished_may_publish_again() -> None:
    async with running() as streamd, watching_one(streamd, "again") as (publisher, _, viewers):
        await publisher.command("FCUnpublish", None, "again")
        await publisher.command("deleteStream", None, 1)
        await streamd.until(lambda status: status["sessions"][0]["phase"] == "waiting", "it is unpublished")
        publisher.commands.clear()
        await rtmp_client.ask_publish(publisher, "again")
        await publisher.status("NetStream.Publish.Start")
        second = Camera(source=2)
        await shoot(publisher, second, 1)
        for viewer in viewers:
            await viewer.until(
                lambda viewer=viewer: len(viewer.frames()) >= 2 * second.made + 2, "the second part"
            )
            seen = frames((tag.type, tag.dts, tag.payload) for tag in viewer.seen)
            assert (viewer.connections, missing(seen), max(gaps(seen)) <= 100) == (1, [], True)
        await publisher.close()


@contextlib.asynccontextmanager
async def watching_one(streamd: Streamd, name: str) -> Any:
    publisher = await rtmp_client.publish(streamd.rtmp, name)
    camera = Camera()
    await shoot(publisher, camera, 0.4)
    async with watching(streamd, name, keep=True) as viewers:
        for viewer in viewers:
            await viewer.until(lambda viewer=viewer: viewer.frames(), "it watches")
        yield publisher, camera, viewers


# ---- the server stops ---------------------------------------------------------------------------------------


async def test_sigterm_tells_publishers_lets_viewers_finish_and_exits_with_0() -> None:
    async with (
        running() as streamd,
        browser() as session,
    ):
        publisher = await rtmp_client.publish(streamd.rtmp, "bye")
        camera = Camera(rate=2_000_000)
        await shoot(publisher, camera, 0.4)
        flat = asyncio.create_task(played_to_the_end(session, streamd.flv_url("bye")))
        player = await rtmp_client.play(streamd.rtmp, "bye")
        silent = await rtmp_client.raw(streamd.rtmp)
        async with session.ws_connect(streamd.flv_url("bye")) as socket:
            await shoot(publisher, camera, 1)
            began = monotonic()
            stopped = asyncio.create_task(streamd.stop())
            told = await publisher.status("NetStream.Unpublish.Success")
            assert told["description"] == "The server is stopping."
            tags, rest = await flat
            code, last = await ws_to_the_end(socket)
            await player.status("NetStream.Play.UnpublishNotify")
            await asyncio.gather(publisher.close(), player.close(), silent.close())
        assert await stopped == 0
        assert monotonic() - began < 8
        assert (rest, code) == (0, 1001)
        assert frames(tags)[-1].number == last == camera.made - 1
        assert [line["message"] for line in streamd.lines()][-1] == "stopped"


async def test_sigterm_does_not_wait_longer_than_its_limit_for_those_who_do_not_go() -> None:
    async with running({"network": {"linger_seconds": 60.0}, "server": {"drain_seconds": 2.0}}) as streamd:
        publisher = await rtmp_client.publish(streamd.rtmp, "stay")
        camera = Camera(rate=8_000_000)
        await shoot(publisher, camera, 0.4)
        stubborn = await rtmp_client.play(streamd.rtmp, "stay")
        stubborn.deafen()
        await shoot(publisher, camera, 1)
        began = monotonic()
        assert await streamd.stop() == 0
        assert monotonic() - began < 9
        assert any("were cut off" in line["message"] for line in streamd.lines())
        await stubborn.close()
        await publisher.close()


async def test_while_the_server_stops_newcomers_are_refused() -> None:
    async with running() as streamd:
        publisher = await rtmp_client.publish(streamd.rtmp, "closing")
        publisher.deafen()
        stopping = asyncio.create_task(streamd.stop())
        await eventually(
            lambda: any("stopping" in line["message"] for line in streamd.lines()), "it has begun to stop"
        )
        with pytest.raises(OSError):
            await rtmp_client.raw(streamd.rtmp)
        await publisher.close()
        assert await stopping == 0
