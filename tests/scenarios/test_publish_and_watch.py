"""What comes out is what went in: encoders of three makers, players of four, three ways to watch."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from time import monotonic, sleep
from typing import Any, NamedTuple

import av
import pytest

from streamd.live.media import flv
from tests import media_samples
from tests.scenarios.browser import chromium
from tests.scenarios.harness import Encoder, output, running
from tests.scenarios.viewers import KINDS, watch

pytestmark = pytest.mark.scenario

NAME = "film"
LIVE: dict[str, Any] = {"wait_for_publisher": 60, "publisher_grace": 0.5}


class Packet(NamedTuple):
    """A frame as encoders and players know it: times in ms, sha256 of what it has without any header of FLV."""

    track: str
    dts: int
    pts: int
    digest: str


# ---- what went in ------------------------------------------------------------------------------------------


def packets(tags: Iterable[tuple[int, int, bytes]]) -> list[Packet]:
    """The frames among FLV tags."""
    found = []
    for type, dts, payload in tags:
        if type == flv.VIDEO and payload[1] == 1:
            composition = int.from_bytes(payload[2:5], "big", signed=True)
            found.append(Packet("video", dts, dts + composition, sha(payload[5:])))
        elif type == flv.AUDIO and payload[1] == 1:
            found.append(Packet("audio", dts, dts, sha(payload[2:])))
    return found


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# ---- encoders: each sends the file, as fast as it plays, and says goodbye ----------------------------------


async def publish_ffmpeg(path: Path, url: str) -> None:
    await output(*f"ffmpeg -v error -re -i {path} -c copy -f flv {url}".split())


async def publish_gstreamer(path: Path, url: str) -> None:
    await gstreamer(path, "rtmp2sink", "sync=true", f"location={url}")


async def gstreamer(path: Path, *sink: str) -> None:
    tracks = "demuxer.video ! queue ! muxer.video demuxer.audio ! queue ! muxer.audio"
    words = f"filesrc location={path} ! flvdemux name=demuxer {tracks} flvmux name=muxer streamable=true !"
    await output("gst-launch-1.0", "-q", *words.split(), *sink)


async def times_of_gstreamer(path: Path) -> list[Packet]:
    """What GStreamer publishes: its muxer counts from the first picture that is shown, so it stamps frames anew."""
    copy = path.with_suffix(".gstreamer.flv")
    await gstreamer(path, "filesink", f"location={copy}")
    reader = flv.Reader()
    flv.feed(reader, copy.read_bytes())
    return packets(iter(lambda: flv.pull(reader), None))


async def publish_pyav(path: Path, url: str) -> None:
    await asyncio.to_thread(send_with_pyav, path, url)


def send_with_pyav(path: Path, url: str) -> None:
    with av.open(str(path)) as file, av.open(url, "w", format="flv") as out:
        streams = {stream.index: out.add_stream_from_template(stream) for stream in file.streams}
        started = monotonic()
        for packet in file.demux():
            if packet.dts is not None:
                sleep(max(started + float(packet.dts * packet.time_base) - monotonic(), 0))
                packet.stream = streams[packet.stream.index]
                out.mux(packet)


ENCODERS = {"ffmpeg": publish_ffmpeg, "gstreamer": publish_gstreamer, "pyav": publish_pyav}


# ---- players: each gives the packets that it read, to the end ----------------------------------------------


async def play_ffprobe(url: str) -> list[Packet]:
    """ffprobe's packets. It tells how it hashes, in front of the hash."""
    out = await output(*f"ffprobe -v error -show_packets -show_data_hash sha256 -of json {url}".split())
    return [
        Packet(item["codec_type"], int(item["dts"]), int(item["pts"]), item["data_hash"].partition(":")[2])
        for item in json.loads(out)["packets"]
    ]


async def play_ffmpeg(url: str) -> list[Packet]:
    """ffmpeg's, written by its framehash muxer in lines of stream, dts, pts, duration, size, hash."""
    words = f"ffmpeg -v error -copyts -i {url} -c copy -map 0:v -map 0:a -f framehash -hash sha256 -".split()
    found = []
    for line in (await output(*words)).decode().splitlines():
        if not line.startswith("#"):
            stream, dts, pts, _, _, digest = (item.strip() for item in line.split(","))
            found.append(Packet("video" if stream == "0" else "audio", int(dts), int(pts), digest))
    return found


async def play_pyav(url: str) -> list[Packet]:
    return await asyncio.to_thread(read_with_pyav, url)


def read_with_pyav(url: str) -> list[Packet]:
    found = []
    with av.open(url) as file:
        for packet in file.demux():
            if packet.dts is not None and packet.pts is not None:  # the last one, which is empty, has neither
                found.append(Packet(packet.stream.type, packet.dts, packet.pts, sha(bytes(packet))))
    return found


PLAYERS = {"ffprobe": play_ffprobe, "ffmpeg": play_ffmpeg, "pyav": play_pyav}


def differences(went_in: list[Packet], came_out: list[Packet], times: bool) -> str:
    """How the packets that came out differ from those that went in, track by track; "" if they do not.

    All times may be shifted by one number of ms, less than a frame: a broadcast begins at 0.
    """
    shift = came_out[0].dts - went_in[0].dts if came_out and times else 0
    if abs(shift) > media_samples.FRAME:
        return f"everything came {shift} ms later"
    for track in ("video", "audio"):
        sent = [packet for packet in went_in if packet.track == track]
        seen = [packet for packet in came_out if packet.track == track]
        if len(sent) != len(seen):
            return f"{len(seen)} {track} packets of {len(sent)}"
        for place, (left, right) in enumerate(zip(sent, seen, strict=True)):
            moved = left._replace(dts=left.dts + shift, pts=left.pts + shift)
            if left.digest != right.digest or (times and moved != right):
                return f"{track} packet {place} went in as {left} and came out as {right}"
    return ""


@pytest.mark.parametrize("encoder", ENCODERS)
async def test_every_player_gets_what_the_encoder_sent(encoder):
    tags = media_samples.b_frames()
    path = media_samples.flv_file("b_frames", tags)
    went_in = packets(tags)
    assert any(packet.pts > packet.dts + media_samples.FRAME for packet in went_in), "no B-frames"
    if encoder == "gstreamer":
        stamped = await times_of_gstreamer(path)
        assert differences(went_in, stamped, times=False) == ""
        went_in = stamped
    async with running(**LIVE) as streamd, chromium() as browser:
        urls = {"HTTP-FLV": streamd.flv_url(NAME), "RTMP": streamd.rtmp_url(NAME)}
        plays = {
            f"{player} over {way}": asyncio.create_task(play(url))
            for player, play in PLAYERS.items()
            for way, url in urls.items()
        }
        viewers = {kind: watch(streamd, NAME, kind, keep=True) for kind in KINDS}
        await browser.open(streamd.page_url(NAME))
        everyone = len(plays) + len(viewers) + 1
        await streamd.until(
            lambda status: status["sessions"] and status["sessions"][0]["waiting"] == everyone,
            "all players wait for the broadcast",
        )
        for viewer in viewers.values():
            viewer.ending()
        encoding = asyncio.create_task(ENCODERS[encoder](path, streamd.rtmp_url(NAME)))
        # a browser drops pictures when it is late, so all that is asked of it is that it decodes and goes on
        quality = "document.querySelector('video').getVideoPlaybackQuality()"
        await browser.until(f"{quality}.totalVideoFrames > 50", "the browser has shown two seconds")
        assert await browser.evaluate(f"{quality}.corruptedVideoFrames || 0") == 0
        await encoding
        faults = {
            name: differences(went_in, await play, times=not name.startswith("ffmpeg"))
            for name, play in plays.items()
        }
        for kind, viewer in viewers.items():
            await asyncio.wait_for(viewer.ended.wait(), 30)
            seen = packets((tag.type, tag.dts, tag.payload) for tag in viewer.seen)
            faults[f"our own viewer over {kind}"] = differences(went_in, seen, times=True)
        assert {name: fault for name, fault in faults.items() if fault} == {}


@pytest.mark.parametrize("way", ["HTTP-FLV", "RTMP"])
async def test_a_player_that_comes_late_finds_picture_and_sound_and_nothing_else(way):
    async with running() as streamd, asyncio.TaskGroup() as tasks:
        url = streamd.flv_url(NAME) if way == "HTTP-FLV" else streamd.rtmp_url(NAME)
        encoder = await Encoder.connect(streamd, NAME)
        sample = media_samples.repeated(media_samples.b_frames(), 5)
        middle = len(sample) // 2
        await encoder.send_all(sample[:middle])
        sending = tasks.create_task(encoder.run(sample[middle:]))
        out = await output(*f"ffprobe -v error -show_streams -of json -analyzeduration 1000000 {url}".split())
        streams = json.loads(out)["streams"]
        assert [stream["codec_name"] for stream in streams] == ["h264", "aac"]
        assert (streams[0]["width"], streams[0]["height"], streams[0]["has_b_frames"]) == (320, 240, 2)
        assert (streams[1]["sample_rate"], streams[1]["channels"]) == ("48000", 2)
        assert not sending.done(), "it was late, but not that late"
        encoder.stopping = True
        await sending
        await encoder.client.close()
