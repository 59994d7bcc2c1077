"""The broadcast that the benchmarks send: 1 Mbps, 30 pictures a second, a key picture every 2 s, AAC at 128 kbps.

The rule this file keeps: the bytes look to a server as an encoder's do (sequence headers, B-frame-free H.264 in
length-prefixed NAL units, chunks of 4,096 bytes with compressed headers as OBS sends them), and they are the same in
every run. The pictures cannot be decoded: their slices are noise.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

from streamd.live.media import flv, h264
from streamd.live.protocol import amf0, rtmp_chunks

RATE, GOP = 30, 60
VIDEO_BYTES = 109_000  # a second: 872 kbps
KEY_BYTES = 24_000
SOUND_BYTES, SOUND_RATE = 341, 46.875  # 1024 samples of 48 kHz: 128 kbps
CHUNK = 4_096  # OBS
SCRIPT, VIDEO, AUDIO = 18, 9, 8

# 1280x720, High, level 3.1, 30 pictures a second
SPS = bytes.fromhex("6764001facd9405005bb011000000300100000030 3c0f183196 0".replace(" ", ""))
PPS = bytes.fromhex("68ebe3cb22c0")
SOUND_CONFIG = bytes.fromhex("1190")  # AAC-LC, 48 kHz, stereo

_UNIT = Struct("<II")


class Message(NamedTuple):
    """`type` 8, 9 or 18; `time` ms from the start; `payload` as RTMP and FLV have it."""

    type: int
    time: int
    payload: bytes


def config(pps: int = 1) -> bytes:
    """The AVCDecoderConfigurationRecord with so many picture parameter sets: one in nearly all encoders, two in some."""
    return h264.pack_config([SPS], [PPS] * pps, b"\xfd\xf8\xf8\x00")


def headers(pps: int = 1) -> list[Message]:
    metadata: dict[str, amf0.Value] = {
        "width": 1280.0, "height": 720.0, "framerate": float(RATE), "videocodecid": 7.0, "videodatarate": 872.0,
        "audiocodecid": 10.0, "audiosamplerate": 48_000.0, "audiodatarate": 128.0, "stereo": True, "encoder": "bench",
    }  # fmt: skip
    return [
        Message(SCRIPT, 0, amf0.encode("@setDataFrame", "onMetaData", metadata)),
        Message(VIDEO, 0, b"\x17\x00\x00\x00\x00" + config(pps)),
        Message(AUDIO, 0, b"\xaf\x00" + SOUND_CONFIG),
    ]


def frames() -> Iterator[Message]:
    """Pictures and sound in the order of their times, for ever."""
    dice = random.Random(1)
    noise = dice.randbytes(4 * KEY_BYTES).replace(b"\x00", b"\x01")
    plain = (VIDEO_BYTES * GOP // RATE - KEY_BYTES) // (GOP - 1)
    sizes = [dice.randrange(plain // 2, plain * 3 // 2) for _ in range(GOP - 1)]
    picture = sound = 0
    while True:
        video_time, sound_time = picture * 1000 // RATE, int(sound * 1000 / SOUND_RATE)
        if video_time <= sound_time:
            place = picture % GOP
            size = sizes[place - 1] if place else KEY_BYTES
            unit = (b"\x41" if place else b"\x65") + noise[place * 64 : place * 64 + size]
            payload = (
                (b"\x27" if place else b"\x17") + b"\x01\x00\x00\x00" + len(unit).to_bytes(4, "big") + unit
            )
            yield Message(VIDEO, video_time, payload)
            picture += 1
        else:
            yield Message(AUDIO, sound_time, b"\xaf\x01" + noise[sound % 97 * 64 :][:SOUND_BYTES])
            sound += 1


def until(end: int) -> list[Message]:
    """The frames of the first `end` ms."""
    taken: list[Message] = []
    for message in frames():
        if message.time >= end:
            return taken
        taken.append(message)
    return taken


# ---- as a publisher sends it ---------------------------------------------------------------------------------


def _command(name: str, number: int, *values: amf0.Value, stream: int = 0) -> bytes:
    return rtmp_chunks.chunk(3, 20, stream, 0, amf0.encode(name, float(number), *values), CHUNK)


def _opening(app: str) -> bytes:
    """Everything up to createStream in one write. No answer is waited for: a server may not depend on our pauses."""
    seed = random.Random(2).randbytes(1528)
    shake = b"\x03" + bytes(8) + seed + bytes(8) + seed
    connect: dict[str, amf0.Value] = {
        "app": app,
        "type": "nonprivate",
        "flashVer": "FMLE/3.0",
        "tcUrl": f"rtmp://127.0.0.1/{app}",
    }
    size = rtmp_chunks.chunk(2, 1, 0, 0, CHUNK.to_bytes(4, "big"), 128)
    return shake + size + _command("connect", 1, connect) + _command("createStream", 2, None)


def publishing(name: str, app: str = "live", pps: int = 1) -> bytes:
    """What a publisher says first, its sequence headers included."""
    said = _opening(app) + _command("publish", 3, None, name, "live", stream=1)
    return said + b"".join(
        rtmp_chunks.chunk(4 if item.type == AUDIO else 6, item.type, 1, 0, item.payload, CHUNK)
        for item in headers(pps)
    )


def playing(name: str, app: str = "live") -> bytes:
    """What an RTMP viewer says."""
    return _opening(app) + _command("play", 3, None, name, -2.0, stream=1)


def chunks(messages: list[Message]) -> list[bytes]:
    """Frames as chunks: after `publishing`, headers of type 1 with the difference to the message before."""
    last = {VIDEO: 0, AUDIO: 0}
    out = []
    for kind, time, payload in messages:
        csid = 4 if kind == AUDIO else 6
        head = (time - last[kind]).to_bytes(3, "big") + len(payload).to_bytes(3, "big") + bytes([kind])
        last[kind] = time
        pieces = [payload[at : at + CHUNK] for at in range(0, len(payload), CHUNK)]
        out.append(bytes([0x40 | csid]) + head + bytes([0xC0 | csid]).join(pieces))
    return out


# ---- as a viewer gets it -------------------------------------------------------------------------------------


def response() -> bytes:
    """The head of an endless HTTP response, the FLV header and the sequence headers."""
    tags = b"".join(flv.tag(item.type, 0, item.payload) for item in headers())
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: video/x-flv\r\nConnection: close\r\n\r\n"
        + flv.header(True, True)
        + tags
    )


def tags_file(messages: list[Message]) -> bytes:
    """FLV tags for the bare senders: the response head and then each tag, as (ms, size) little-endian and bytes."""
    head = response()
    out = [_UNIT.pack(0, len(head)), head]
    for kind, time, payload in messages:
        tag = flv.tag(kind, time, payload)
        out += [_UNIT.pack(time, len(tag)), tag]
    return b"".join(out)
