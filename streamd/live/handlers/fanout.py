"""One frame to everybody: units for the groups, announcements, and what a newcomer gets first.

The rule this file keeps: a frame is muxed once per format, never per viewer, and a newcomer can start at the rings'
latest key unit. All formats are muxed always, watched or not: a ring that began to fill with its first member could
not give that member an instant start, and keeping the GOP in session state instead would be converted with every
patch. An FLV tag costs 0.5 us, its HTTP chunk, its WebSocket frame and its RTMP message about the same. "flv.raw" has
the tags as they are, for clients of HTTP/1.0.

An announcement is a sequence header or the metadata. The publisher `offers` its latest; `told` is what members have
been given; `keyed` is the same as of the latest key unit. Everybody is right because of two sentences:

* A change goes out before the next frame of its track, in the same unit.
* A key unit repeats every change since the key unit before it, so whoever starts there needs `keyed` and nothing else.

A newcomer's head is `keyed`, without the headers that the key unit carries itself (`carried`), as long as that unit is surely still
in the rings (`since_key` bytes ago). Where the GOP was too large for the ring, the newcomer has all of `keyed` and waits
for the next key unit, which repeats whatever has changed.

Groups "rtmp.audio" and "rtmp.video" exist for RTMP viewers that switched the picture or the sound off. They are muxed
only while they have members, so what lies in their rings from an earlier time must not be joined: until a group has
had a key unit in its present use (`primed`), members join it at the next unit, which will be that one.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from streamd.live.handlers.settings import Settings
from streamd.live.media import flv
from streamd.live.media.frame import Frame
from streamd.live.protocol import http_chunked, rtmp, websocket
from streamd.runtime.state import field, state
from streamd.runtime.vocabulary import Command, Join, Ring, Send, SendAll

VERSION = 1

MAIN = ("flv", "flv.raw", "ws", "rtmp")
FLV = ("flv", "flv.raw", "ws")
SIDES = ("rtmp.audio", "rtmp.video")

# FFmpeg takes onMetaData with any other time for a subtitle and adds a stream of unknown codec (flvdec.c,
# flv_read_packet); the other players do not look at it. SRS and nginx-rtmp send 0 as well.
METADATA_DTS = 0

Message: TypeAlias = tuple[int, int, bytes]  # type 8, 9 or 18; dts in ms; body as FLV and RTMP have it


@state
class Announced:
    """What a decoder needs first: onMetaData's body, AVCDecoderConfigurationRecord, AudioSpecificConfig; b"" for none."""

    script: bytes = b""
    video: bytes = b""
    audio: bytes = b""


@state
class Fanout:
    """See the module. `shape` of a ring: bytes, ms of lag, ms of slowness (vocabulary.Ring). `key_dts` is the time of
    the latest key unit, `changed_dts` that of the latest announcement, in ms; `since_key` is no less than the bytes of
    any ring from the key unit on. `ready`: that unit is of the present publisher, and its tracks are known."""

    shape: tuple[int, int, int]
    rings: bool = False
    ready: bool = False
    told: Announced = field(factory=Announced)
    keyed: Announced = field(factory=Announced)
    carried: Announced = field(factory=Announced)
    since_key: int = 0
    key_dts: int = 0
    changed_dts: int = 0
    sides: list[str] = field(factory=list)
    primed: list[str] = field(factory=list)


# ---- rings -------------------------------------------------------------------------------------------------


def begin(settings: Settings) -> Fanout:
    return Fanout((settings.gop_cache_bytes, settings.viewer_max_lag, settings.viewer_max_slow))


def open_rings(fanout: Fanout) -> list[Command]:
    """Make the rings of the formats, once."""
    if fanout.rings:
        return []
    fanout.rings = True
    return [Ring(group, *fanout.shape) for group in MAIN]


def use_sides(fanout: Fanout, used: frozenset[str]) -> list[Command]:
    """Mux the side groups in `used` and no others; a ring that is left is shrunk to nothing."""
    commands: list[Command] = []
    for group in SIDES:
        if group in used and group not in fanout.sides:
            fanout.sides.append(group)
            commands.append(Ring(group, *fanout.shape))
        elif group not in used and group in fanout.sides:
            fanout.sides.remove(group)
            if group in fanout.primed:
                fanout.primed.remove(group)
            commands.append(Ring(group, 0, *fanout.shape[1:]))
    return commands


# ---- one frame to everybody --------------------------------------------------------------------------------


def publish(fanout: Fanout, offers: Announced, frame: Frame, key: bool) -> list[Command]:
    """One unit for every format: the frame, and before it the announcements that are due. `key`: one may start here."""
    messages = due(fanout, offers, frame, key)
    messages.append((flv.message_type(frame), frame.dts, flv.body(frame)))
    return units(fanout, messages, frame.track, key)


def due(fanout: Fanout, offers: Announced, frame: Frame, key: bool) -> list[Message]:
    """The announcements that belong before this frame; from here on they count as told."""
    told, dts = fanout.told, frame.dts
    if key:
        fanout.key_dts = dts
        keyed = fanout.keyed
        if offers == told and offers == keyed:
            fanout.carried = Announced()
            return []
        fanout.carried = Announced(
            b"" if offers.script == told.script == keyed.script else offers.script,
            b"" if offers.video == told.video == keyed.video else offers.video,
            b"" if offers.audio == told.audio == keyed.audio else offers.audio,
        )
        fanout.told = fanout.keyed = Announced(offers.script, offers.video, offers.audio)
        fanout.changed_dts = dts
        return announcements(fanout.carried, dts)
    if frame.track == "video" and offers.video != told.video:
        fanout.told = Announced(told.script, offers.video, told.audio)
        fanout.changed_dts = dts
        return announcements(Announced(video=offers.video), dts)
    if frame.track == "audio" and offers.audio != told.audio:
        fanout.told = Announced(told.script, told.video, offers.audio)
        fanout.changed_dts = dts
        return announcements(Announced(audio=offers.audio), dts)
    return []


def announcements(what: Announced, dts: int) -> list[Message]:
    """Announcements as messages, in the order that players expect."""
    messages: list[Message] = []
    if what.script:
        messages.append((flv.SCRIPT, METADATA_DTS, what.script))
    if what.video:
        messages.append((flv.VIDEO, dts, flv.config_body("h264", what.video)))
    if what.audio:
        messages.append((flv.AUDIO, dts, flv.config_body("aac", what.audio)))
    return messages


def tell_script(fanout: Fanout, frame: Frame, metadata: bool) -> list[Command]:
    """A script message to everybody; metadata only where it says something new."""
    if metadata:
        told = fanout.told
        if frame.payload == told.script:
            return []
        fanout.told = Announced(frame.payload, told.video, told.audio)
        fanout.changed_dts = frame.dts
    dts = METADATA_DTS if metadata else frame.dts
    return units(fanout, [(flv.SCRIPT, dts, frame.payload)], "data", False)


def units(fanout: Fanout, messages: list[Message], track: str, key: bool) -> list[Command]:
    """The messages as one unit of every format in use."""
    if len(messages) == 1:
        tags = flv.tag(*messages[0])
        chunks = rtmp.media_bytes(*messages[0])
    else:
        tags = b"".join([flv.tag(*message) for message in messages])
        chunks = b"".join([rtmp.media_bytes(*message) for message in messages])
    answered, framed = http_chunked.chunk(tags), websocket.binary(tags)
    fanout.since_key = (0 if key else fanout.since_key) + max(len(answered), len(framed), len(chunks))
    commands: list[Command] = [
        SendAll("flv", answered, key),
        SendAll("flv.raw", tags, key),
        SendAll("ws", framed, key),
        SendAll("rtmp", chunks, key),
    ]
    for side in fanout.sides:
        commands += side_unit(fanout, side, messages, track, key)
    return commands


def side_unit(fanout: Fanout, side: str, messages: list[Message], track: str, key: bool) -> list[Command]:
    """The unit of a side group: what it does not want is left out, and it begins where a decoder can."""
    unwanted = flv.VIDEO if side == "rtmp.audio" else flv.AUDIO
    # every audio frame is a place to start; a picture only where the publisher says so
    starts = track == "audio" if side == "rtmp.audio" else track == "video" and key
    if starts and side not in fanout.primed:
        fanout.primed.append(side)
    wanted = [rtmp.media_bytes(*message) for message in messages if message[0] != unwanted]
    if not wanted or side not in fanout.primed:
        return []
    return [SendAll(side, b"".join(wanted), starts)]


# ---- newcomers ---------------------------------------------------------------------------------------------


def join(fanout: Fanout, link: int, group: str) -> Command:
    """Make a link a member: head, then the ring from its latest key unit."""
    start: Literal["key", "next"] = "next" if group in SIDES and group not in fanout.primed else "key"
    return Join(link, group, head(fanout, group), start)


def head(fanout: Fanout, group: str) -> bytes:
    """What a member of `group` gets before its first unit, stamped with the time of the unit that follows."""
    keyed, carried = fanout.keyed, fanout.carried
    if group in SIDES or fanout.since_key > fanout.shape[0]:
        carried = Announced()
    video = b"" if carried.video else keyed.video
    audio = b"" if carried.audio else keyed.audio
    # metadata goes first, and the latest is right for everybody
    script = fanout.told.script if video or audio or carried.script != fanout.told.script else b""
    what = Announced(script, video, audio)
    if group not in FLV:
        return prelude(fanout, group, what)
    # players wait for a track that the header promises, so it promises what there is
    start = flv.header(bool(fanout.told.audio), bool(fanout.told.video))
    return framed_for(group, start) + prelude(fanout, group, what)


def prelude(fanout: Fanout, group: str, what: Announced) -> bytes:
    """The announcements in a group's format; b"" if there are none."""
    if group == "rtmp.audio":  # any of its units may be the first, not only those at a key picture
        what = Announced(script=fanout.told.script, audio=fanout.told.audio)
    elif group == "rtmp.video":
        what = Announced(script=what.script, video=what.video)
    messages = announcements(what, fanout.key_dts)
    if group not in FLV:
        return b"".join([rtmp.media_bytes(*message) for message in messages])
    return framed_for(group, b"".join([flv.tag(*message) for message in messages]))


def framed_for(group: str, tags: bytes) -> bytes:
    """FLV as a group's members read it; b"" remains b""."""
    match group:
        case "flv":
            return http_chunked.chunk(tags)
        case "ws" if tags:
            return websocket.binary(tags)
    return tags


def remind(fanout: Fanout, link: int, group: str) -> list[Command]:
    """A member skips to a key unit: give it what it may have missed, if there has been any change in the time that a
    member may be behind at all."""
    _, lag, slow = fanout.shape
    if fanout.key_dts - fanout.changed_dts > lag + slow:
        return []
    missed = prelude(fanout, group, fanout.keyed)
    return [Send(link, missed)] if missed else []


def distrust(fanout: Fanout) -> None:
    """After a restart: what viewers have been told since the checkpoint is unknown, so tell them everything again."""
    fanout.told, fanout.keyed, fanout.carried = Announced(), Announced(), Announced()
    fanout.rings, fanout.ready = False, False
