"""The page at /live/NAME shows a moving picture in a browser."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import av
import pytest

from tests.scenarios.browser import chromium
from tests.scenarios.harness import program, running

pytestmark = pytest.mark.scenario

TITLE = "Opening night, from 5 €"
PICTURE = ("-f", "lavfi", "-i", "testsrc=size=640x360:rate=25", "-f", "lavfi", "-i", "sine=frequency=440")
CODECS = (
    "-c:v",
    "libx264",
    "-preset",
    "ultrafast",
    "-bf",
    "2",
    "-g",
    "25",
    "-pix_fmt",
    "yuv420p",
    "-c:a",
    "aac",
)


def greys(png: bytes) -> bytes:
    """A picture's pixels as 0..255, one byte each."""
    with av.open(io.BytesIO(png), "r") as file:
        frame: Any = next(file.decode(video=0)).reformat(format="gray")
    plane = frame.planes[0]
    rows = bytes(plane)
    size = plane.line_size
    return b"".join(rows[row * size : row * size + frame.width] for row in range(frame.height))


async def test_a_browser_on_the_page_shows_a_moving_picture_and_the_title():
    async with running() as streamd, chromium() as browser:
        await browser.open(streamd.page_url("stage"))
        assert await browser.evaluate("document.querySelector('h1').textContent") == "stage"
        words = ("-v", "error", "-re", *PICTURE, *CODECS, "-metadata", f"title={TITLE}", "-f", "flv")
        async with program("ffmpeg", *words, streamd.rtmp_url("stage")):
            await browser.until("document.querySelector('video').currentTime > 0.5", "the picture moves")
            await browser.until("document.querySelector('main').dataset.state === 'playing'", "it says so")
            before = await browser.evaluate("document.querySelector('video').currentTime")
            first = greys(await browser.screenshot("video"))
            await asyncio.sleep(1.0)
            second = greys(await browser.screenshot("video"))
            after = await browser.evaluate("document.querySelector('video').currentTime")
            assert after > before
            for shot in (first, second):
                assert len(set(shot)) > 32, "the picture is blank"
            moved = sum(abs(left - right) > 16 for left, right in zip(first, second, strict=True))
            # the running seconds and the gradient of testsrc are some percent of the picture
            assert moved > len(first) // 100, f"{moved} of {len(first)} pixels have changed"
            assert await browser.evaluate("document.querySelector('h1').textContent") == TITLE
            assert TITLE in await browser.evaluate("document.title")
            video = "document.querySelector('video')"
            assert await browser.evaluate(f"[{video}.videoWidth, {video}.videoHeight]") == [640, 360]
            status = await streamd.status()
            assert status["sessions"][0]["viewers_by"]["flv"] == 1
            assert status["sessions"][0]["title"] == TITLE


async def test_a_browser_plays_what_it_has_loaded_when_the_broadcast_ends():
    async with running(publisher_grace=0.0) as streamd, chromium() as browser:
        await browser.open(streamd.page_url("last"))
        words = ("-v", "error", "-re", *PICTURE, "-t", "8", *CODECS, "-f", "flv", streamd.rtmp_url("last"))
        async with program("ffmpeg", *words) as encoder:
            await browser.until("document.querySelector('video').currentTime > 0.5", "the picture moves")
            await browser.evaluate(
                "document.querySelector('video').addEventListener('ended', () => { window.whole = true; })"
            )
            assert await encoder.wait() == 0
        await browser.until("document.querySelector('main').dataset.state === 'ended'", "it says so")
        assert await browser.evaluate("window.whole") is True
