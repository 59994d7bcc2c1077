"""A publisher over RTMP: its messages become frames on the broadcast's timeline.

The rule this file keeps: nothing here knows a viewer. What the publisher says about its tracks is kept in `offers`;
who is told, and when, is `fanout`'s business.
"""

from __future__ import annotations

from typing import Literal

from streamd.live.handlers.fanout import Announced
from streamd.live.media import aac, flv, h264, metadata, timeline
from streamd.live.media.frame import Frame
from streamd.live.protocol import amf0, rtmp
from streamd.runtime.state import field, state
from streamd.runtime.vocabulary import PeerError

VERSION = 1

# Encoders send the headers of all their tracks at once, but not all before the first frame. A start waits so long for
# a track that is expected, because players decide at the beginning how many there are.
SETTLE = 1_000
RATE_WINDOW = 2_000  # ms over which the bitrate is measured


@state
class Publisher:
    """One connection that publishes. Times in ms of the kernel's clock; `first_media` is -1 before any media.

    `started` names the track whose key frame has begun this publisher's part of the broadcast. `named` says which
    tracks the metadata speaks of ("", "audio", "video", "both"). `settled`: no further track is waited for.
    """

    link: int
    where: str
    peer: rtmp.Peer
    since: int
    video: h264.Track = field(factory=h264.Track)
    audio: aac.Track = field(factory=aac.Track)
    offers: Announced = field(factory=Announced)
    title: str = ""
    encoder: str = ""
    first_media: int = -1
    video_seen: bool = False
    started: Literal["", "audio", "video"] = ""
    named: Literal["", "audio", "video", "both"] = ""
    settled: bool = False
    kbps: int = 0
    rate_bytes: int = 0
    rate_since: int = 0


def read(publisher: Publisher, line: timeline.Timeline, message: rtmp.Media, now: int) -> Frame | None:
    """A message as a frame, or None if it only taught us something. PeerError where malformed or unsupported."""
    if message.type == rtmp.VIDEO:
        return read_video(publisher, line, message, now)
    if message.type == rtmp.AUDIO:
        return read_audio(publisher, line, message, now)
    return read_script(publisher, line, message, now)


def read_video(publisher: Publisher, line: timeline.Timeline, message: rtmp.Media, now: int) -> Frame | None:
    tag = flv.read_video(message.payload)
    if publisher.first_media < 0:
        publisher.first_media = now
    track = publisher.video
    if tag.kind == "config":
        publisher.video_seen = True
        h264.learn_config(track, tag.body)
        publisher.offers.video = h264.config(track)
        return None
    if tag.kind != "frame":
        return None
    publisher.video_seen = True
    h264.learn(track, tag.body)
    publisher.offers.video = h264.config(track)
    dts = timeline.map(line, "video", message.timestamp, now)
    return Frame("video", tag.codec, dts, dts + tag.composition, tag.key, tag.body)


def read_audio(publisher: Publisher, line: timeline.Timeline, message: rtmp.Media, now: int) -> Frame | None:
    tag = flv.read_audio(message.payload)
    if publisher.first_media < 0:
        publisher.first_media = now
    if tag.kind == "config":
        aac.learn_config(publisher.audio, tag.body)
        publisher.offers.audio = aac.config(publisher.audio)
        return None
    if tag.kind != "frame":
        return None
    dts = timeline.map(line, "audio", message.timestamp, now)
    return Frame("audio", tag.codec, dts, dts, False, tag.body)


def read_script(publisher: Publisher, line: timeline.Timeline, message: rtmp.Media, now: int) -> Frame | None:
    """Metadata is kept for newcomers; all texts are written anew, as UTF-8.

    A script message that is no AMF0 is dropped, the publisher stays: some encoders send such data, and pictures and
    sound do not depend on it.
    """
    try:
        values = metadata.read(message.payload)
        body = rewrite(message.payload) if values is None else metadata.write(values)
    except PeerError:
        return None
    if values is not None:
        publisher.offers.script = body
        learn_metadata(publisher, values)
    if not body:
        return None
    dts = timeline.map(line, "data", message.timestamp, now)
    return Frame("data", "script", dts, dts, False, body)


def rewrite(payload: bytes) -> bytes:
    """A script message other than onMetaData, its texts re-encoded; b"" if viewers need not see it."""
    values = amf0.decode(metadata.strip(payload))
    if not values or not isinstance(values[0], str) or values[0].startswith("@"):
        return b""  # @clearDataFrame and other orders to a server
    return amf0.encode(*values)


def learn_metadata(publisher: Publisher, values: dict[str, bool | float | str]) -> None:
    video = "videocodecid" in values or "width" in values
    audio = "audiocodecid" in values or "audiosamplerate" in values
    publisher.named = "both" if video and audio else "video" if video else "audio" if audio else ""
    publisher.title = text_of(values, "title") or text_of(values, "StreamTitle")
    publisher.encoder = text_of(values, "encoder")


def text_of(values: dict[str, bool | float | str], key: str) -> str:
    value = values.get(key)
    return value.strip() if isinstance(value, str) else ""


# ---- where viewers may start -------------------------------------------------------------------------------


def starts_here(publisher: Publisher, frame: Frame, now: int) -> bool:
    """True if a viewer may start at this frame: a key picture, or any sound of a broadcast without pictures."""
    if frame.track == "video":
        return frame.key
    if publisher.video_seen:
        return False
    return publisher.named == "audio" or now - publisher.first_media >= SETTLE


def is_settled(publisher: Publisher, now: int) -> bool:
    """True when it is known which tracks there are."""
    if not publisher.settled and publisher.first_media >= 0:
        video = bool(publisher.offers.video) or publisher.named == "audio"
        audio = bool(publisher.offers.audio) or publisher.named == "video"
        publisher.settled = (video and audio) or now - publisher.first_media >= SETTLE
    return publisher.settled


# ---- for the operator --------------------------------------------------------------------------------------


def measure(publisher: Publisher, size: int, now: int) -> None:
    """Count `size` bytes towards the bitrate of the last few seconds."""
    publisher.rate_bytes += size
    past = now - publisher.rate_since
    if past >= RATE_WINDOW:
        publisher.kbps = publisher.rate_bytes * 8 // past
        publisher.rate_bytes, publisher.rate_since = 0, now


def describe(publisher: Publisher, now: int) -> dict[str, object]:
    return {
        "link": publisher.link,
        "peer": publisher.where,
        "protocol": "rtmp",
        "encoder": publisher.encoder or publisher.peer.flash_ver,
        "since_ms": now - publisher.since,
    }
