"""The RTMP connection, server side: bytes and `now` go in, intents and bytes come out. No policy.

The rule this file keeps: whatever the protocol alone can answer (handshake, chunk sizes, acknowledgements,
pings, createStream and the other courtesies) is answered here, into `peer.out`; whatever somebody has to
decide comes out of `pull` as an intent, and the decision comes back as `accept_...` or `refuse_...`.

The use of it, for each read:

    rtmp.feed(peer, data, now)
    while (intent := rtmp.pull(peer, now)) is not None:
        match intent:
            case rtmp.Connect(app, tc_url): rtmp.accept_connect(peer)
            case rtmp.Publish(name, kind, query): rtmp.accept_publish(peer)
            case rtmp.Media(kind, timestamp, payload): ...
    commands.append(Send(link, rtmp.take_output(peer)))

After Connect, Publish or Play `pull` gives None until the question is answered, and what has arrived since
stays in the buffer: a handler may send `peer` to another session in between, which answers and goes on
pulling.

Sources: "Adobe's Real Time Messaging Protocol", 1.0, 2012 (below: RTMP), and what FMLE, OBS (librtmp), FFmpeg
and GStreamer do beyond it. One connection publishes or plays one stream, and its message stream is always 1:
nobody has been seen to want more, and it lets all viewers share one muxed copy of every frame.
"""

from __future__ import annotations

from math import isfinite
from struct import Struct
from types import MappingProxyType
from typing import Literal, NamedTuple, TypeAlias

from streamd.live.protocol import amf0, rtmp_chunks, rtmp_handshake
from streamd.live.protocol.amf import Encodable, Value
from streamd.runtime.state import field, state
from streamd.runtime.vocabulary import PeerError

VERSION = 1

AUDIO, VIDEO, DATA = 8, 9, 18  # the message types of Media
SET_CHUNK_SIZE, ACK, USER_CONTROL, WINDOW, BANDWIDTH = 1, 3, 4, 5, 6  # RTMP 5.4
DATA_AMF3, COMMAND_AMF3, COMMAND, AGGREGATE = 15, 17, 20, 22  # RTMP 7.1
STREAM_BEGIN, STREAM_EOF, PING, PONG = 0, 1, 6, 7  # RTMP 7.1.7

STREAM = 1  # the message stream of everybody
CONTROL_CSID, COMMAND_CSID, STATUS_CSID = 2, 3, 5
MEDIA_CSID = MappingProxyType({AUDIO: 4, VIDEO: 6, DATA: 7})  # one each, so that players see them interleaved

CHUNK = 65536  # bytes in our chunks: Flash takes no more, and larger ones would save nothing
FIRST_CHUNK = 128  # and before the peer has been told
OUR_WINDOW = 2_500_000  # bytes that a peer is to acknowledge; we ask because peers expect to be asked
MIN_WINDOW = 4096  # bytes; a smaller window of a peer would make us answer every read
MAX_WAITING = 512 << 10  # bytes that may wait unparsed, in reads of 64 KiB, while a question is open
# bytes of answers to one read: some hundred; a peer that asks for more only wants to see us write
MAX_OUTPUT = 16 << 10
MAX_COMMAND = 64 << 10  # bytes of a command, and of any message before it is allowed to publish
MAX_COMMAND_VALUES = 1024
MAX_TEXT = 4096  # characters of an application, a URL, or a stream's name with its query

ONE_STREAM = "this connection already has a stream"

_U16_U32 = Struct(">HI")
_U32 = Struct(">I")


# ---- intents: what pull() gives --------------------------------------------------------------------------


class Connect(NamedTuple):
    """The peer connects to an application ("live", without slashes around or a query). Answer it."""

    app: str
    tc_url: str


class Publish(NamedTuple):
    """A wish to publish; `kind` is "live", "record" or "append"; `query` came after "?". Answer it."""

    name: str
    kind: str
    query: str


class Play(NamedTuple):
    """The peer wants to watch; `start` in seconds, -2 live or recorded, -1 live only. Answer it."""

    name: str
    query: str
    start: float


class Media(NamedTuple):
    """A message of the stream that is being published: type AUDIO, VIDEO or DATA, timestamp 0..2^32-1 ms.

    The payload of DATA is AMF0 as it came (onMetaData still inside its @setDataFrame); AMF3 data messages
    lose the byte in front and become DATA, too.
    """

    type: int
    timestamp: int
    payload: bytes


class Unpublish(NamedTuple):
    """The publisher ended its stream in an orderly way; the connection stays and may publish again."""


class Stop(NamedTuple):
    """The viewer ended playback; the connection stays and may play again."""


class Pause(NamedTuple):
    """The viewer pauses or goes on; `position` in ms. Answer with pause_notify."""

    on: bool
    position: float


class Seek(NamedTuple):
    """The viewer seeks; `position` in ms. Answer with seek_notify, or not at all in a live stream."""

    position: float


class Receive(NamedTuple):
    """The viewer wants sound or picture or does not; None says that nothing was said about it."""

    audio: bool | None
    video: bool | None


class Bye(NamedTuple):
    """The peer closes its whole connection (NetConnection.close); it may still be publishing or playing:
    close it.
    """


Intent: TypeAlias = Connect | Publish | Play | Media | Unpublish | Stop | Pause | Seek | Receive | Bye


# ---- the peer --------------------------------------------------------------------------------------------


@state
class Peer:
    """One RTMP connection. `phase` says what it is doing, `asked` which question waits for an answer."""

    seed: bytes = b""
    phase: Literal["hello", "handshake", "connect", "connected", "publishing", "playing"] = "hello"
    asked: Literal["", "connect", "publish", "play"] = ""
    app: str = ""
    tc_url: str = ""
    flash_ver: str = ""
    encoding: float = 0.0  # objectEncoding, 0 or 3; whatever it is, we write AMF0
    name: str = ""  # of the stream published or played, or asked for
    transaction: float = 0.0  # of the connect command
    stream: int = STREAM  # the message stream of the publish or play command; statuses go there
    heard: int = 0  # `now` of the last bytes that came in
    received: int = 0  # bytes
    acknowledged: int = 0  # bytes
    window: int = OUR_WINDOW  # bytes after which the peer wants an acknowledgement
    chunk_size: int = FIRST_CHUNK  # of what we write
    max_message: int = rtmp_chunks.MAX_MESSAGE
    out: bytearray = field(factory=bytearray)
    reader: rtmp_chunks.Reader = field(factory=rtmp_chunks.Reader)
    aggregate: bytes = b""  # an aggregate message that is being taken apart, from `aggregate_at`
    aggregate_at: int = 0
    aggregate_shift: int = 0  # ms from its own timestamps to those of the stream


def open_peer(seed: bytes, max_message: int = rtmp_chunks.MAX_MESSAGE) -> Peer:
    """A connection that has sent nothing yet.

    `seed`: 32 random bytes for the handshake; `max_message`: bytes that a published message may have.
    """
    peer = Peer(seed=seed, max_message=max_message)
    rtmp_chunks.allow(peer.reader, min(MAX_COMMAND, max_message))
    return peer


def feed(peer: Peer, data: bytes, now: int) -> None:
    """Take bytes that came in at `now` (ms). Parses nothing. PeerError if too much waits unparsed."""
    if rtmp_chunks.waiting(peer.reader) + len(data) > MAX_WAITING:
        raise PeerError(
            f"more than {MAX_WAITING} bytes before its question ({peer.asked or 'none'}) was answered"
        )
    peer.heard = now
    peer.received += len(data)
    rtmp_chunks.feed(peer.reader, data)
    if peer.received - peer.acknowledged >= peer.window and peer.phase not in ("hello", "handshake"):
        peer.acknowledged = peer.received
        write_control(peer, ACK, _U32.pack(peer.received & 0xFFFFFFFF))  # 5.4.3; Flash wraps it, too


def pull(peer: Peer, now: int) -> Intent | None:
    """The next thing that somebody has to know or decide, or None when more bytes or an answer are needed.

    Raises PeerError for whatever RTMP does not allow; the connection is then to be closed.
    """
    if peer.asked or (peer.phase in ("hello", "handshake") and not pull_handshake(peer)):
        return None
    if peer.aggregate:
        media = pull_aggregate(peer)
        if media is not None:
            return media
    reader = peer.reader
    while (message := rtmp_chunks.pull(reader)) is not None:
        kind, stream, timestamp, payload = message
        if kind in (VIDEO, AUDIO):
            if peer.phase == "publishing" and payload:
                return Media(kind, timestamp, payload)
        else:
            intent = take_message(peer, kind, stream, timestamp, payload)
            if intent is not None:
                return intent
    return None


def take_output(peer: Peer) -> bytes:
    """The bytes to send to the peer now (b"" if there are none); they are not given twice."""
    if not peer.out:
        return b""
    out = bytes(peer.out)
    peer.out.clear()
    return out


def media_bytes(type: int, timestamp: int, payload: bytes) -> bytes:
    """One message for ALL playing viewers: full header, message stream 1, a fixed chunk stream per type.

    `timestamp` in ms, any size (it goes out mod 2^32). The chunks have the size that accept_connect
    announced.
    """
    return rtmp_chunks.chunk(MEDIA_CSID[type], type, STREAM, timestamp, payload, CHUNK)


# ---- what comes in ---------------------------------------------------------------------------------------


def pull_handshake(peer: Peer) -> bool:
    """Go on with the handshake (RTMP 5.2); True when it is over. What C2 says is not looked at: many send
    noise.
    """
    reader = peer.reader
    if peer.phase == "hello":
        ready = rtmp_chunks.waiting(reader)
        if ready:
            rtmp_handshake.check_version(reader.buffer[reader.at])
        if ready < rtmp_handshake.HELLO:
            return False
        end = reader.at + rtmp_handshake.HELLO
        write(peer, rtmp_handshake.answer(reader.buffer[reader.at + 1 : end], peer.seed))
        reader.at = end
        peer.phase = "handshake"
    if rtmp_chunks.waiting(reader) < rtmp_handshake.BLOCK:
        return False
    reader.at += rtmp_handshake.BLOCK
    peer.phase = "connect"
    return True


def take_message(peer: Peer, kind: int, stream: int, timestamp: int, payload: bytes) -> Intent | None:
    """Any message but sound and picture (RTMP 5.4, 7.1)."""
    match kind:
        case 20:
            return take_command(peer, stream, payload)
        case 17:
            return take_command(peer, stream, without_amf3_mark(payload))
        case 18 | 15 if peer.phase == "publishing" and payload:
            return Media(DATA, timestamp, payload if kind == DATA else without_amf3_mark(payload))
        case 22 if peer.phase == "publishing" and payload:
            begin_aggregate(peer, timestamp, payload)
            return pull_aggregate(peer)
        case 4 if len(payload) >= 6:
            event, value = _U16_U32.unpack_from(payload)
            if event == PING:
                write_control(peer, USER_CONTROL, _U16_U32.pack(PONG, value))
        case 5 if len(payload) >= 4:
            peer.window = max(_U32.unpack_from(payload)[0], MIN_WINDOW)
        case 6 if len(payload) >= 4:
            write_control(peer, WINDOW, _U32.pack(OUR_WINDOW))  # 5.4.5: the answer to Set Peer Bandwidth
    return None  # acknowledgements, shared objects and whatever else there may be


def without_amf3_mark(payload: bytes) -> bytes:
    """The AMF0 that is in an AMF3 message behind a zero byte; AMF0 as it is, because that begins with a
    string.
    """
    return payload[1:] if payload[:1] == b"\x00" else payload


def begin_aggregate(peer: Peer, timestamp: int, payload: bytes) -> None:
    """An aggregate message (RTMP 7.1.6): FLV tags, whose times count from that of the first one."""
    if len(payload) < 11:
        raise PeerError(f"an aggregate message of {len(payload)} bytes")
    peer.aggregate = payload
    peer.aggregate_at = 0
    peer.aggregate_shift = timestamp - tag_time(payload, 0)


def pull_aggregate(peer: Peer) -> Media | None:
    """The next message inside the aggregate one, or None when it has been taken apart."""
    data = peer.aggregate
    while peer.aggregate_at < len(data):
        at = peer.aggregate_at
        body = at + 11
        end = body + int.from_bytes(data[at + 1 : at + 4], "big")
        if end > len(data):  # the back pointer behind the last one is not missed
            raise PeerError("an aggregate message ends inside a message")
        peer.aggregate_at = end + 4
        if data[at] in MEDIA_CSID and end > body:
            return Media(data[at], tag_time(data, at) + peer.aggregate_shift & 0xFFFFFFFF, data[body:end])
    peer.aggregate = b""
    return None


def tag_time(data: bytes, at: int) -> int:
    """The timestamp in an FLV tag's header: three bytes and, behind them, the highest one."""
    return int.from_bytes(data[at + 4 : at + 7], "big") | int.from_bytes(data[at + 7 : at + 8], "big") << 24


# ---- commands --------------------------------------------------------------------------------------------


def take_command(peer: Peer, stream: int, body: bytes) -> Intent | None:
    """A command (RTMP 7.2): name, transaction, an object or null, and arguments."""
    if len(body) > MAX_COMMAND:
        raise PeerError(f"a command of {len(body)} bytes; the limit is {MAX_COMMAND}")
    values = amf0.decode(body, MAX_COMMAND_VALUES)
    if not values or not isinstance(name := values[0], str):
        raise PeerError("a command without a name")
    transaction = number(values, 1, 0.0)
    if peer.phase == "connect":
        if name != "connect":
            raise PeerError(f"the command {name[:40]!r} before connect")
        return ask_connect(peer, transaction, values)
    match name:
        case "connect":
            raise PeerError("a second connect")
        case "publish":
            return ask_publish(peer, stream, values)
        case "play":
            return ask_play(peer, stream, values)
        case "FCUnpublish" | "deleteStream" | "closeStream":
            return end_stream(peer, name)
        case "close":
            return Bye()
        case "pause" | "pauseRaw" | "seek" | "receiveAudio" | "receiveVideo":
            return take_wish(peer, name, values) if peer.phase == "playing" else None
        case "_result" | "_error" | "onStatus":
            return None
    answer_courtesy(peer, name, transaction, values)
    return None


def ask_connect(peer: Peer, transaction: float, values: list[Value]) -> Intent:
    """connect (RTMP 7.2.1.1)."""
    options = values[2] if len(values) > 2 else None
    if not isinstance(options, dict):
        raise PeerError("a connect command without its object")
    peer.tc_url = text(options.get("tcUrl"), "the URL")
    # OBS and Wirecast leave a query or slashes in it, depending on how the URL was typed
    peer.app = text(options.get("app"), "the application").partition("?")[0].strip("/")
    peer.flash_ver = text(options.get("flashVer"), "the version")
    peer.encoding = 3.0 if options.get("objectEncoding") == 3.0 else 0.0
    peer.transaction = transaction
    peer.asked = "connect"
    return Connect(peer.app, peer.tc_url)


def ask_publish(peer: Peer, stream: int, values: list[Value]) -> Intent | None:
    """publish (RTMP 7.2.2.6). `publish(false)`, as Flash has it, ends the stream."""
    if len(values) > 3 and values[3] is False:
        return end_stream(peer, "closeStream")
    name, query = stream_name(values)
    if peer.phase != "connected":
        write_status(peer, stream, "error", "NetStream.Publish.BadName", ONE_STREAM)
        return None
    kind = values[4] if len(values) > 4 else None
    peer.asked, peer.name, peer.stream = "publish", name, stream
    return Publish(name, kind if kind in ("record", "append") else "live", query)


def ask_play(peer: Peer, stream: int, values: list[Value]) -> Intent | None:
    """play (RTMP 7.2.2.1). `play(false)` ends playback."""
    if len(values) > 3 and values[3] is False:
        return end_stream(peer, "closeStream")
    name, query = stream_name(values)
    if peer.phase != "connected" or stream != STREAM:
        reason = ONE_STREAM if stream == STREAM else f"play on message stream {STREAM}"
        write_status(peer, stream, "error", "NetStream.Play.Failed", reason)
        return None
    peer.asked, peer.name, peer.stream = "play", name, stream
    # FFmpeg says -2000 for -2, its own milliseconds
    return Play(name, query, max(number(values, 4, -2.0), -2.0))


def end_stream(peer: Peer, command: str) -> Intent | None:
    """FCUnpublish, then deleteStream (FFmpeg, OBS, FMLE), or closeStream (Flash): only the first has an
    effect.
    """
    if command == "FCUnpublish":
        gone = info("NetStream.Unpublish.Success", peer.name)
        write_command(peer, COMMAND_CSID, 0, "onFCUnpublish", 0, None, gone)
    phase, peer.phase = peer.phase, "connected"
    if phase == "publishing":
        if command != "deleteStream":  # 7.2.2.3: no answer, and the stream it would be sent on is gone
            write_status(
                peer, peer.stream, "status", "NetStream.Unpublish.Success", f"{peer.name} is unpublished"
            )
        return Unpublish()
    return Stop() if phase == "playing" else None


def take_wish(peer: Peer, command: str, values: list[Value]) -> Intent:
    """What a viewer may wish for (RTMP 7.2.2.4, 7.2.2.5, 7.2.2.7, 7.2.2.8)."""
    on = len(values) < 4 or values[3] is not False
    match command:
        case "seek":
            return Seek(number(values, 3, 0.0))
        case "receiveAudio":
            return Receive(on, None)
        case "receiveVideo":
            return Receive(None, on)
    return Pause(on, number(values, 4, 0.0))


def answer_courtesy(peer: Peer, name: str, transaction: float, values: list[Value]) -> None:
    """Calls that want an answer of a certain form and mean nothing to us; encoders wait for some of them."""
    match name:
        case "createStream":
            write_command(peer, COMMAND_CSID, 0, "_result", transaction, None, STREAM)
        case "releaseStream" | "FCPublish" | "_checkbw":
            write_command(peer, COMMAND_CSID, 0, "_result", transaction, None, None)
        case "getStreamLength":
            write_command(peer, COMMAND_CSID, 0, "_result", transaction, None, 0)  # seconds; live has none
        case "FCSubscribe":
            write_command(peer, COMMAND_CSID, 0, "onFCSubscribe", 0, None, info("NetStream.Play.Start", ""))
        case _ if transaction:
            reason = info("NetConnection.Call.Failed", f"there is no method {name[:40]}", "error")
            write_command(peer, COMMAND_CSID, 0, "_error", transaction, None, reason)


def stream_name(values: list[Value]) -> tuple[str, str]:
    """The name of a stream and the query behind it."""
    name, _, query = text(values[3] if len(values) > 3 else None, "the stream's name").partition("?")
    return name.strip("/"), query


def text(value: Value, what: str) -> str:
    """A text that may be missing but not be endless."""
    if not isinstance(value, str):
        return ""
    if len(value) > MAX_TEXT:
        raise PeerError(f"{what} has {len(value)} characters; the limit is {MAX_TEXT}")
    return value


def number(values: list[Value], index: int, default: float) -> float:
    """An argument that should be a number, and a finite one."""
    value = values[index] if len(values) > index else None
    return value if isinstance(value, float) and isfinite(value) else default


# ---- answers and notices: all of them append to peer.out -------------------------------------------------


def accept_connect(peer: Peer) -> None:
    """Answer Connect: window size, peer bandwidth, chunk size, then NetConnection.Connect.Success."""
    answered(peer, "connect")
    peer.phase = "connected"
    write_control(peer, WINDOW, _U32.pack(OUR_WINDOW))
    write_control(peer, BANDWIDTH, _U32.pack(OUR_WINDOW) + b"\x02")  # 5.4.5: dynamic
    write_control(peer, SET_CHUNK_SIZE, _U32.pack(CHUNK))
    peer.chunk_size = CHUNK
    # Flash parses fmsVer; capabilities 31 is what every server has said since FMS 3
    server: dict[str, Encodable] = {"fmsVer": "FMS/3,5,7,7009", "capabilities": 31, "mode": 1}
    success: dict[str, Encodable] = info("NetConnection.Connect.Success", "Connection succeeded.")
    success["objectEncoding"] = peer.encoding
    write_command(peer, COMMAND_CSID, 0, "_result", peer.transaction, server, success)


def refuse_connect(peer: Peer, description: str) -> None:
    """Answer Connect with NetConnection.Connect.Rejected; close the link after sending."""
    answered(peer, "connect")
    reason = info("NetConnection.Connect.Rejected", description, "error")
    write_command(peer, COMMAND_CSID, 0, "_error", peer.transaction, None, reason)


def accept_publish(peer: Peer) -> None:
    """Answer Publish: onFCPublish and NetStream.Publish.Start. From here on pull() gives Media."""
    answered(peer, "publish")
    peer.phase = "publishing"
    rtmp_chunks.allow(peer.reader, peer.max_message)
    # FMLE begins to send on this one, everybody else on the status
    write_command(peer, COMMAND_CSID, 0, "onFCPublish", 0, None, info("NetStream.Publish.Start", peer.name))
    write_status(peer, peer.stream, "status", "NetStream.Publish.Start", f"{peer.name} is now published.")


def refuse_publish(peer: Peer, code: str, description: str) -> None:
    """Answer Publish with an error status: code "NetStream.Publish.BadName", ".Publish.Denied", ..."""
    answered(peer, "publish")
    write_status(peer, peer.stream, "error", code, description)


def publish_stopped(peer: Peer, code: str, description: str) -> None:
    """Tell a publisher that it has been ended (code "NetStream.Unpublish.Success", ".Publish.BadName")."""
    peer.phase = "connected"
    peer.aggregate = b""
    level = "status" if code == "NetStream.Unpublish.Success" else "error"
    write_status(peer, peer.stream, level, code, description)


def accept_play(peer: Peer) -> None:
    """Answer Play: StreamBegin, Play.Reset, Play.Start, sample access. media_bytes() may follow.

    There is no NetStream.Data.Start, which FMS sends next: FFmpeg takes it for the first packet of a data
    stream and puts a stream of unknown codec in front of picture and sound.
    """
    answered(peer, "play")
    peer.phase = "playing"
    write_control(peer, USER_CONTROL, _U16_U32.pack(STREAM_BEGIN, STREAM))
    write_status(peer, STREAM, "status", "NetStream.Play.Reset", f"Playing and resetting {peer.name}.")
    write_status(peer, STREAM, "status", "NetStream.Play.Start", f"Started playing {peer.name}.")
    # Flash shows its own snapshots and spectra only with this
    write_message(peer, STATUS_CSID, DATA, STREAM, amf0.encode("|RtmpSampleAccess", True, True))


def refuse_play(peer: Peer, code: str, description: str) -> None:
    """Answer Play with an error status: code "NetStream.Play.StreamNotFound", "NetStream.Play.Failed", ..."""
    answered(peer, "play")
    write_status(peer, STREAM, "error", code, description)


def play_stopped(peer: Peer, code: str, description: str) -> None:
    """Tell a viewer that playback is over: StreamEOF and a status (code "NetStream.Play.UnpublishNotify",
    ".Stop").
    """
    peer.phase = "connected"
    write_control(peer, USER_CONTROL, _U16_U32.pack(STREAM_EOF, STREAM))
    write_status(peer, STREAM, "status", code, description)


def pause_notify(peer: Peer, on: bool) -> None:
    """Answer Pause."""
    code = "NetStream.Pause.Notify" if on else "NetStream.Unpause.Notify"
    write_status(peer, STREAM, "status", code, f"{'Pausing' if on else 'Unpausing'} {peer.name}.")


def seek_notify(peer: Peer) -> None:
    """Answer Seek."""
    write_status(peer, STREAM, "status", "NetStream.Seek.Notify", f"Seeking in {peer.name}.")


def ping(peer: Peer, now: int) -> None:
    """Ask the peer for a sign of life; the answer shows in `peer.heard`."""
    write_control(peer, USER_CONTROL, _U16_U32.pack(PING, now & 0xFFFFFFFF))


def answered(peer: Peer, question: str) -> None:
    """The question is answered; ValueError (a bug of ours) if it was not asked."""
    if peer.asked != question:
        raise ValueError(f"an answer to {question!r}, but the question is {peer.asked!r}")
    peer.asked = ""


# ---- what goes out ---------------------------------------------------------------------------------------


def info(code: str, description: str, level: str = "status") -> dict[str, Encodable]:
    """The object in which statuses are said (RTMP 7.2.2)."""
    return {"level": level, "code": code, "description": description}


def write_status(peer: Peer, stream: int, level: str, code: str, description: str) -> None:
    write_command(peer, STATUS_CSID, stream, "onStatus", 0, None, info(code, description, level))


def write_command(peer: Peer, csid: int, stream: int, *values: Encodable) -> None:
    write_message(peer, csid, COMMAND, stream, amf0.encode(*values))


def write_control(peer: Peer, kind: int, payload: bytes) -> None:
    write_message(peer, CONTROL_CSID, kind, 0, payload)


def write_message(peer: Peer, csid: int, kind: int, stream: int, payload: bytes) -> None:
    write(peer, rtmp_chunks.chunk(csid, kind, stream, 0, payload, peer.chunk_size))


def write(peer: Peer, data: bytes) -> None:
    peer.out += data
    if len(peer.out) > MAX_OUTPUT:
        raise PeerError(f"asks for more than {MAX_OUTPUT} bytes of answers at once")
