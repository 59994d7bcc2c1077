"""H.264 and AAC as an encoder sends them, made once per test run with PyAV: lists of FLV tags.

    tags = media_samples.plain()          # 320x240, 25 fps, a key frame every second, AAC 48 kHz stereo
    tags = media_samples.b_frames()       # the same with B-frames: composition offsets above 0
    tags = media_samples.resolutions()    # what codec_fix is for
    path = media_samples.flv_file("plain", tags)

Each tag is (type, dts, payload): type 9 video, 8 audio, 18 script, dts in ms from 0, payload as it goes into an RTMP
message. The sequence headers are among them. `later` and `repeated` move and lengthen a sample.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from streamd.live.media import flv

Tags = tuple[flv.Tag, ...]

RATE = 25
FRAME = 1000 // RATE
SOUND_RATE = 48_000
SMALL, LARGE = (320, 240), (640, 360)
SIDE = 2_000  # ms that `resolutions` stays at one size
BASE = {"preset": "veryfast", "tune": "zerolatency", "g": "25", "sc_threshold": "0", "threads": "1"}


@functools.cache
def plain(seconds: int = 6) -> Tags:
    """Baseline-like H.264 without B-frames, and AAC."""
    return encode(SMALL, seconds, {"profile": "main", "bf": "0"}, sound=True)


@functools.cache
def b_frames(seconds: int = 6) -> Tags:
    """H.264 High with two B-frames between others, and AAC."""
    return encode(SMALL, seconds, {"profile": "high", "tune": "", "bf": "2", "b_strategy": "0"}, sound=True)


@functools.cache
def video_only(width: int, height: int, profile: str, b_frames: int = 0, rate: int = RATE) -> Tags:
    """Half a second of H.264 of one size and profile ("baseline", "main", "high", "high422", "high444")."""
    options = {
        "profile": profile,
        "bf": str(b_frames),
        "tune": "" if b_frames else "zerolatency",
        "b_strategy": "0",
    }
    return encode((width, height), 0.5, options, sound=False, rate=rate)


@functools.cache
def resolutions(seconds: int = 12) -> Tags:
    """An encoder that changes between 320x240 and 640x360 every 2 s, with AAC.

    There is one sequence header, at the start, for 320x240. The sets of every later size come in a message of their own
    without a picture (and not marked as a key frame) right before the key picture, whose message has none.
    """
    options = {"profile": "main", "bf": "0"}
    sides = []
    for size in (SMALL, LARGE):
        sides.append(
            [tag for tag in encode(size, SIDE // 1000, options, sound=False) if tag.type == flv.VIDEO]
        )
    video = sides[0][:1]
    for place, start in enumerate(range(0, seconds * 1000, SIDE)):
        side = sides[place % 2]
        if place:
            video.append(flv.Tag(flv.VIDEO, start, loose_sets(side[0].payload[5:])))
        video += later(side[1:], start)
    sound = [tag for tag in plain(seconds) if tag.type == flv.AUDIO]
    return tuple(sorted(video + sound, key=lambda tag: tag.dts))


def loose_sets(record: bytes) -> bytes:
    """A video message that has the parameter sets of a configuration record (one of each kind) and no picture."""
    size = int.from_bytes(record[6:8], "big")
    sps, pps = record[8 : 8 + size], record[8 + size + 3 :]
    pps = pps[: int.from_bytes(record[8 + size + 1 : 8 + size + 3], "big")]
    return b"\x27\x01\0\0\0" + b"".join(len(unit).to_bytes(4, "big") + unit for unit in (sps, pps))


def metadata_body(title: bytes) -> bytes:
    """An onMetaData message as encoders send it, with a title of these very bytes (not necessarily UTF-8)."""
    name = b"\x02\0\x0d@setDataFrame\x02\0\x0aonMetaData\x08\0\0\0\x01\0\x05title"
    return name + b"\x02" + len(title).to_bytes(2, "big") + title + b"\0\0\x09"


def later(tags: Iterable[flv.Tag], by: int) -> list[flv.Tag]:
    """The tags `by` ms later (earlier if negative), modulo 2^32 as on the wire."""
    return [tag._replace(dts=(tag.dts + by) & 0xFFFF_FFFF) for tag in tags]


def repeated(tags: Tags, times: int) -> list[flv.Tag]:
    """A sample `times` over with time going on; the sequence headers of the repetitions are left out."""
    length = max(tag.dts for tag in tags if tag.type == flv.VIDEO) + FRAME
    frames = [tag for tag in tags if tag.type != flv.SCRIPT and tag.payload[1] == 1]
    return [*tags, *(tag for turn in range(1, times) for tag in later(frames, turn * length))]


def flv_file(name: str, tags: Iterable[flv.Tag]) -> Path:
    """The tags as an FLV file that players read; kept until the test run ends."""
    path = directory() / f"{name}.flv"
    path.write_bytes(flv.header(True, True) + b"".join(flv.tag(*tag) for tag in tags))
    return path


@functools.cache
def directory() -> Path:
    path = tempfile.mkdtemp(prefix="streamd-samples-")
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return Path(path)


def encode(
    size: tuple[int, int], seconds: float, options: dict[str, str], sound: bool, rate: int = RATE
) -> Tags:
    """A moving test picture, and a tone, as libavformat writes them to FLV; what ends the sequence is left out."""
    path = directory() / "encoded.flv"
    given = {name: value for name, value in (BASE | options).items() if value}
    with av.open(str(path), "w", format="flv", options={"flvflags": "no_duration_filesize"}) as out:
        video: Any = out.add_stream("libx264", rate=rate, options=given)
        video.width, video.height = size
        video.pix_fmt = {"high422": "yuv422p", "high444": "yuv444p"}.get(options["profile"], "yuv420p")
        audio: Any = out.add_stream("aac", rate=SOUND_RATE, layout="stereo") if sound else None
        packets = video_packets(video, size, seconds, rate) + (audio_packets(audio, seconds) if sound else [])
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            out.mux(packet)
    reader = flv.Reader()
    flv.feed(reader, path.read_bytes())
    tags = iter(lambda: flv.pull(reader), None)
    return tuple(
        tag for tag in tags if tag is not None and not (tag.type == flv.VIDEO and tag.payload[1] == 2)
    )


def video_packets(stream: Any, size: tuple[int, int], seconds: float, rate: int) -> list[Any]:
    packets = []
    source = f"testsrc2=size={size[0]}x{size[1]}:rate={rate}:duration={seconds}"
    with av.open(source, format="lavfi") as pictures:
        for picture in pictures.decode(video=0):
            plain = picture.reformat(format=stream.pix_fmt)
            plain.pts, plain.time_base, plain.pict_type = picture.pts, picture.time_base, 0
            packets += stream.encode(plain)
    return packets + stream.encode(None)


def audio_packets(stream: Any, seconds: float) -> list[Any]:
    packets = []
    source = f"sine=frequency=440:sample_rate={SOUND_RATE}:duration={seconds}"
    resampler = av.AudioResampler(
        format=stream.format.name, layout="stereo", rate=SOUND_RATE, frame_size=1024
    )
    with av.open(source, format="lavfi") as tone:
        for samples in tone.decode(audio=0):
            samples.time_base = Fraction(1, SOUND_RATE)
            for block in resampler.resample(samples):
                packets += stream.encode(block)
    return packets + stream.encode(None)
