"""FLV, and the message bodies that RTMP shares with it (Adobe FLV specification v10.1, Annex E).

The rule this file keeps: bodies are forwarded as they came, but for their first bytes, which are always
written the classic way; what arrives with a FourCC header (Enhanced RTMP v2) leaves as plain AVC or AAC,
which every player reads.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Literal, NamedTuple

from streamd.live.media.frame import Frame
from streamd.live.protocol import amf0
from streamd.live.protocol.amf import Encodable
from streamd.runtime.state import field, state
from streamd.runtime.vocabulary import PeerError

VERSION = 1

# TagType (E.4.1), which are RTMP's message types, too
AUDIO = 8
VIDEO = 9
SCRIPT = 18

SUPPORTED = "H.264 (AVC) video and AAC audio are supported"
# E.4.3.1 CodecID and E.4.2.1 SoundFormat, and the FourCCs of Enhanced RTMP
VIDEO_CODECS = (
    "0",
    "JPEG",
    "Sorenson H.263",
    "Screen Video",
    "On2 VP6",
    "On2 VP6 with alpha",
    "Screen Video 2",
    "AVC",
)
AUDIO_CODECS = (
    "linear PCM", "ADPCM", "MP3", "linear PCM", "Nellymoser 16 kHz", "Nellymoser 8 kHz", "Nellymoser",
    "G.711 A-law", "G.711 mu-law", "9", "AAC", "Speex", "12", "13", "MP3 8 kHz", "device-specific sound",
)  # fmt: skip
AVC = 7
AAC = 10
EXTENDED_AUDIO = 9

# E.4.3.1 FrameType
KEY = 1
INFO = 5

# A tag's length has 24 bits; no live access unit comes near to this.
MAX_TAG = 8 * 1024 * 1024
# DataOffset is 9 in version 1; a later version may put something in front of the body.
MAX_HEADER = 1_024

TAG_HEAD = struct.Struct(">I I BH")  # type and size, time, stream id (always 0)
SIZE = struct.Struct(">I")


class VideoTag(NamedTuple):
    """A video message. kind "config": `body` is the codec's configuration record; "frame": `body` is the
    frame's payload and `composition` is pts - dts in ms (signed 24 bits); "end": end of sequence; "command":
    nothing to show (also an empty message). Learn from "config" and "frame", forward "frame", drop the
    others.
    """

    kind: Literal["config", "frame", "end", "command"]
    codec: str
    key: bool
    composition: int
    body: bytes


class AudioTag(NamedTuple):
    """An audio message; kind as in VideoTag ("command": nothing to hear, such as an empty message)."""

    kind: Literal["config", "frame", "end", "command"]
    codec: str
    body: bytes


class Tag(NamedTuple):
    """A tag of an FLV file: `type` 8, 9 or 18, `dts` the 32-bit timestamp in ms, `payload` the message's
    body."""

    type: int
    dts: int
    payload: bytes


@state
class Reader:
    """A half-read FLV file; `audio` and `video` are what its header announced."""

    buffer: bytearray = field(factory=bytearray)
    phase: Literal["header", "tags"] = "header"
    audio: bool = False
    video: bool = False


# ---- in: message bodies ------------------------------------------------------------------------------------


def read_video(payload: bytes) -> VideoTag:
    """Read a video message (RTMP type 9; E.4.3). PeerError where it is malformed or of an unsupported
    codec."""
    if not payload:
        return VideoTag(
            "command", "h264", False, 0, b""
        )  # FMLE and libavformat send such to keep a stream alive
    first = payload[0]
    if first & 0x80:
        return read_fourcc_video(payload)
    if first >> 4 == INFO:
        return VideoTag("command", "h264", False, 0, payload[1:])
    if first & 15 != AVC:
        raise PeerError(f"video codec {name_of(VIDEO_CODECS, first & 15)} is not supported; {SUPPORTED}")
    if len(payload) < 5:
        # some encoders end a sequence with two bytes
        if len(payload) >= 2 and payload[1] == 2:
            return VideoTag("end", "h264", False, 0, b"")
        raise PeerError(f"a video message of {len(payload)} bytes ends within its AVC header")
    return video_tag(payload[1], first >> 4 == KEY, signed24(payload, 2), payload[5:])


def video_tag(packet: int, key: bool, composition: int, body: bytes) -> VideoTag:
    """A video message by its AVCPacketType (E.4.3.1)."""
    match packet:
        case 0:
            return VideoTag("config" if body else "command", "h264", key, 0, body)
        case 1:
            return VideoTag("frame" if body else "command", "h264", key, composition, body)
        case 2:
            return VideoTag("end", "h264", False, 0, body)
        case _:
            raise PeerError(f"a video message has AVC packet type {packet}; 0, 1 and 2 exist")


def read_fourcc_video(payload: bytes) -> VideoTag:
    """An Enhanced RTMP video message (v2, ExVideoTagHeader): a FourCC instead of a CodecID."""
    kind, packet = payload[0] >> 4 & 7, payload[0] & 15
    if packet in (6, 7):
        raise PeerError(
            f"multitrack and ModEx video (Enhanced RTMP packet type {packet}) is not supported; {SUPPORTED}"
        )
    if kind == INFO and packet != 4:
        return VideoTag("command", "h264", False, 0, payload[1:])
    if len(payload) < 5:
        raise PeerError(f"a video message of {len(payload)} bytes ends within its FourCC")
    if payload[1:5] != b"avc1":
        raise PeerError(f"video codec {fourcc(payload)} is not supported; {SUPPORTED}")
    match packet:
        case 0 | 2:
            return video_tag(packet, kind == KEY, 0, payload[5:])
        case 1 if len(payload) >= 8:
            return video_tag(1, kind == KEY, signed24(payload, 5), payload[8:])
        case 3:
            return video_tag(1, kind == KEY, 0, payload[5:])
        case 4:
            return VideoTag("command", "h264", False, 0, payload[5:])  # colour metadata
        case _:
            raise PeerError(
                f"{len(payload)} bytes are no video message of Enhanced RTMP packet type {packet}"
            )


def read_audio(payload: bytes) -> AudioTag:
    """Read an audio message (RTMP type 8; E.4.2). PeerError where it is malformed or of an unsupported
    codec."""
    if not payload:
        return AudioTag("command", "aac", b"")
    codec = payload[0] >> 4
    if codec == EXTENDED_AUDIO:
        return read_fourcc_audio(payload)
    if codec != AAC:
        raise PeerError(f"audio codec {name_of(AUDIO_CODECS, codec)} is not supported; {SUPPORTED}")
    if len(payload) < 2:
        return AudioTag("command", "aac", b"")
    if payload[1] > 1:
        raise PeerError(f"an audio message has AAC packet type {payload[1]}; 0 and 1 exist")
    return audio_tag(payload[1], payload[2:])


def audio_tag(packet: int, body: bytes) -> AudioTag:
    """An audio message by its AACPacketType (E.4.2.1), 0 or 1."""
    if not body:
        return AudioTag("command", "aac", b"")  # OBS sends one when a track falls silent
    return AudioTag("frame" if packet else "config", "aac", body)


def read_fourcc_audio(payload: bytes) -> AudioTag:
    """An Enhanced RTMP audio message (v2, ExAudioTagHeader)."""
    packet = payload[0] & 15
    if packet in (5, 7):
        raise PeerError(
            f"multitrack and ModEx audio (Enhanced RTMP packet type {packet}) is not supported; {SUPPORTED}"
        )
    if len(payload) < 5:
        raise PeerError(f"an audio message of {len(payload)} bytes ends within its FourCC")
    if payload[1:5] != b"mp4a":
        raise PeerError(f"audio codec {fourcc(payload)} is not supported; {SUPPORTED}")
    match packet:
        case 0 | 1:
            return audio_tag(packet, payload[5:])
        case 2:
            return AudioTag("end", "aac", payload[5:])
        case 4:
            return AudioTag("command", "aac", payload[5:])  # channel order
        case _:
            raise PeerError(f"an audio message has Enhanced RTMP packet type {packet}, which does not exist")


def name_of(names: tuple[str, ...], number: int) -> str:
    return names[number] if number < len(names) and not names[number].isdigit() else f"number {number}"


def fourcc(payload: bytes) -> str:
    """The FourCC after a message's first byte, made fit for a sentence."""
    return repr(payload[1:5].decode("latin-1"))


def signed24(data: bytes, at: int) -> int:
    """SI24 at `at`."""
    value = int.from_bytes(data[at : at + 3], "big")
    return value - 0x100_0000 if value & 0x80_0000 else value


# ---- out: message bodies and tags --------------------------------------------------------------------------


def body(frame: Frame) -> bytes:
    """A frame as the body of an RTMP message or FLV tag."""
    match frame.codec:
        case "h264":
            composition = frame.pts - frame.dts & 0xFF_FFFF
            return struct.pack(">BI", 0x17 if frame.key else 0x27, 0x0100_0000 | composition) + frame.payload
        case "aac":
            return b"\xaf\x01" + frame.payload
        case _:
            return frame.payload


def message_type(frame: Frame) -> int:
    """The tag or RTMP message type of a frame: 9 video, 8 audio, 18 script."""
    match frame.track:
        case "video":
            return VIDEO
        case "audio":
            return AUDIO
        case _:
            return SCRIPT


def config_body(codec: str, config: bytes) -> bytes:
    """The body of a sequence header message: "h264" for message type 9, "aac" for type 8."""
    match codec:
        case "h264":
            return b"\x17\x00\x00\x00\x00" + config
        case "aac":
            return b"\xaf\x00" + config
        case _:
            raise ValueError(f"no sequence header for {codec}")


def script(name: str, *values: Encodable) -> bytes:
    """The body of a script message (type 18; E.4.4): the name and AMF0 values; a dict is written as an ECMA
    array."""
    written = (
        amf0.encode_ecma(value) if isinstance(value, Mapping) else amf0.encode(value) for value in values
    )
    return amf0.encode(name) + b"".join(written)


def header(audio: bool, video: bool) -> bytes:
    """The start of an FLV file (E.2): the 9-byte header and PreviousTagSize0."""
    return b"FLV\x01" + bytes((audio << 2 | video,)) + b"\0\0\0\x09\0\0\0\0"


def tag(type: int, dts: int, body: bytes) -> bytes:
    """One FLV tag (E.4.1) with the PreviousTagSize after it; `dts` in ms is written modulo 2^32."""
    size = len(body)
    # TimestampExtended, the upper 8 bits, comes after the lower 24
    time = (dts & 0xFF_FFFF) << 8 | dts >> 24 & 0xFF
    return b"".join((TAG_HEAD.pack(type << 24 | size, time, 0, 0), body, SIZE.pack(size + 11)))


def mux(frame: Frame) -> bytes:
    """A frame as an FLV tag."""
    return tag(message_type(frame), frame.dts, body(frame))


# ---- in: files ---------------------------------------------------------------------------------------------


def feed(reader: Reader, data: bytes) -> None:
    """Buffer bytes of an FLV file; pull until None after every feed."""
    reader.buffer += data


def pull(reader: Reader) -> Tag | None:
    """The next whole tag, or None until more is fed. PeerError where this is no FLV.

    PreviousTagSize is passed over unread: writers that got it wrong are many, and nothing depends on it.
    """
    buffer = reader.buffer
    if reader.phase == "header" and not pull_header(reader):
        return None
    if len(buffer) < 11:
        return None
    head, time, _, _ = TAG_HEAD.unpack_from(buffer)
    kind, size = head >> 24, head & 0xFF_FFFF
    if kind not in (AUDIO, VIDEO, SCRIPT):
        raise PeerError(f"an FLV tag of type {kind}; 8, 9 and 18 exist, and encrypted ones are not supported")
    if size > MAX_TAG:
        raise PeerError(f"an FLV tag of {size} bytes; {MAX_TAG} are the limit")
    if len(buffer) < 11 + size + 4:
        return None
    payload = bytes(buffer[11 : 11 + size])
    del buffer[: 11 + size + 4]
    return Tag(kind, time >> 8 | (time & 0xFF) << 24, payload)


def pull_header(reader: Reader) -> bool:
    """Take the file's header off the buffer (E.2), with PreviousTagSize0; False until it is there whole."""
    buffer = reader.buffer
    if buffer[:3] != b"FLV"[: len(buffer)]:
        raise PeerError("this is no FLV: it does not begin with FLV")
    if len(buffer) < 9:
        return False
    offset = SIZE.unpack_from(buffer, 5)[0]
    if not 9 <= offset <= MAX_HEADER:
        raise PeerError(f"an FLV header of {offset} bytes; 9 are usual, {MAX_HEADER} the limit")
    if len(buffer) < offset + 4:
        return False
    reader.audio, reader.video = bool(buffer[4] & 4), bool(buffer[4] & 1)
    reader.phase = "tags"
    del buffer[: offset + 4]
    return True
