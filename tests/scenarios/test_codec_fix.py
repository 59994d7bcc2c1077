"""patches/codec_fix.py: the fault, the cure under live viewers, and the fault again after the rollback.

An encoder changes between two sizes every two seconds and sends the new parameter sets between pictures. Whoever was
there saw them; whoever comes later depends on the sequence header.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import av
import pytest

from streamd.live.media import flv, h264
from tests import media_samples
from tests.media_samples import LARGE, SIDE, SMALL
from tests.scenarios.harness import Encoder, Streamd, running
from tests.scenarios.viewers import KINDS, Viewer, got_everything, watch, watching

pytestmark = pytest.mark.scenario

NAME = "switching"
LIVE: dict[str, Any] = {"wait_for_publisher": 60, "publisher_grace": 0.5}


class Picture(NamedTuple):
    """A decoded picture; sha256 of its pixels."""

    size: tuple[int, int]
    digest: str


def picture(frame: Any) -> Picture:
    return Picture(
        (frame.width, frame.height), hashlib.sha256(b"".join(map(bytes, frame.planes))).hexdigest()
    )


# ---- what a decoder makes of it ----------------------------------------------------------------------------


def truth(tags: Iterable[flv.Tag]) -> list[Picture]:
    """The pictures that the encoder meant: its NAL units, loose parameter sets included, decoded as Annex B."""
    decoder: Any = av.CodecContext.create("h264", "r")
    found = []
    sets = b""
    for tag in tags:
        if tag.type == flv.VIDEO and tag.payload[1] == 0:
            sets = media_samples.loose_sets(tag.payload[5:])[5:]
        elif tag.type == flv.VIDEO and tag.payload[9] & 0x1F == h264.SPS:
            sets = tag.payload[5:]
        elif tag.type == flv.VIDEO:
            found += decoder.decode(av.Packet(annex_b(sets + tag.payload[5:])))
            sets = b""
    return [picture(frame) for frame in found + decoder.decode(None)]


def annex_b(payload: bytes) -> bytes:
    """NAL units with lengths in front as NAL units with start codes."""
    at, units = 0, []
    while at < len(payload):
        end = at + 4 + int.from_bytes(payload[at : at + 4], "big")
        units.append(payload[at + 4 : end])
        at = end
    return b"".join(b"\0\0\0\1" + unit for unit in units)


def shown(viewer: Viewer) -> tuple[tuple[int, int], list[Picture]]:
    """What FFmpeg makes of all that a viewer got: the size that was announced, and the pictures."""
    tags = [flv.Tag(seen.type, seen.dts, seen.payload) for seen in viewer.seen]
    path = media_samples.flv_file("late", tags)
    found = []
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        stream.thread_type = "NONE"
        announced = (stream.codec_context.width, stream.codec_context.height)
        for packet in file.demux(stream):
            with contextlib.suppress(av.error.FFmpegError):  # that is what garbage is
                found += [picture(frame) for frame in packet.decode()]
    return announced, found


# ---- the story ---------------------------------------------------------------------------------------------


def act(number: int) -> list[flv.Tag]:
    """Two seconds of the encoder at one size: SMALL in even acts, LARGE in odd ones."""
    return [tag for tag in media_samples.resolutions() if tag.dts // SIDE == number]


async def latecomers(streamd: Streamd, encoder: Encoder) -> dict[str, tuple[tuple[int, int], list[Picture]]]:
    """What a viewer of each kind is shown that comes now: all since the latest key picture."""
    key = max(index for index, frame in enumerate(encoder.sent) if frame.key)
    viewers = {kind: watch(streamd, NAME, kind, keep=True) for kind in KINDS}
    found = {}
    for kind, viewer in viewers.items():
        await viewer.until_level(encoder)
        assert len(viewer.frames()) == len(encoder.sent) - key
        await viewer.close()
        found[kind] = shown(viewer)
    return found


async def play(encoder: Encoder, number: int, viewers: list[Viewer]) -> list[Picture]:
    """Send an act and wait until everyone has it. Gives the pictures of its last GOP, as the encoder meant them."""
    tags = act(number)
    await encoder.send_all(tags)
    for viewer in viewers:
        await viewer.until_level(encoder)
    key = max(place for place, tag in enumerate(tags) if tag.type == flv.VIDEO and tag.payload[0] == 0x17)
    pictures = sum(tag.type == flv.VIDEO for tag in tags[key:])
    return truth(act(0)[:3] + tags)[-pictures:]


def assert_garbage(found: dict[str, Any], stale: tuple[int, int], meant: list[Picture]) -> None:
    for kind, (announced, pictures) in found.items():
        assert announced == stale, kind
        assert not set(pictures) & set(meant), f"a late viewer over {kind} saw right pictures"


def assert_right(found: dict[str, Any], size: tuple[int, int], meant: list[Picture]) -> None:
    assert {picture.size for picture in meant} == {size}
    for kind, (announced, pictures) in found.items():
        assert announced == size, kind
        assert pictures == meant, f"a late viewer over {kind}"


async def test_codec_fix_cures_what_late_viewers_see_and_a_rollback_brings_it_back():
    async with running(**LIVE) as streamd, watching(streamd, NAME, keep=True) as viewers:
        await streamd.until(
            lambda status: status["sessions"] and status["sessions"][0]["waiting"] == len(KINDS),
            "viewers wait",
        )
        encoder = await Encoder.connect(streamd, NAME)

        # version 1: right as long as the encoder does not change, stale afterwards
        meant = await play(encoder, 0, viewers)
        assert_right(await latecomers(streamd, encoder), SMALL, meant)
        meant = await play(encoder, 1, viewers)
        assert_garbage(await latecomers(streamd, encoder), SMALL, meant)
        assert (await streamd.session(NAME))["video"] == "h264 320x240"

        # version 2: the next change is believed
        answer = await streamd.ctl("load", "codec_fix.py")
        assert answer["modules"] == {"media.h264": [1, 2]}
        assert answer["sessions"] == 1
        for number, size in ((2, SMALL), (3, LARGE)):
            meant = await play(encoder, number, viewers)
            assert_right(await latecomers(streamd, encoder), size, meant)
        assert (await streamd.session(NAME))["video"] == "h264 640x360"

        # version 1 again: what was learned stays, what comes is not learned
        answer = await streamd.ctl("rollback")
        assert answer["modules"] == {"media.h264": [2, 1]}
        assert_right(await latecomers(streamd, encoder), LARGE, meant)
        meant = await play(encoder, 4, viewers)
        assert_garbage(await latecomers(streamd, encoder), LARGE, meant)

        # those who were there all the time have seen every picture
        everything = truth([tag for number in range(5) for tag in act(number)])
        for viewer in viewers:
            assert got_everything(viewer, encoder) == ""
            assert shown(viewer)[1] == everything
        await encoder.client.close()
