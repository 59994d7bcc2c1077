"""RTMP connections, told as dialogues: what peers send, what we decide, what they get to hear."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.live.protocol import amf0, rtmp, rtmp_chunks, rtmp_handshake
from streamd.live.protocol.rtmp import Intent, Peer
from streamd.runtime.state import lift, lower
from streamd.runtime.vocabulary import PeerError

CORPUS = Path(__file__).parents[2] / "corpus" / "rtmp"
SEED = bytes(range(32))
HELLO = b"\x03" + bytes(1536)
C2 = bytes(1536)

Decide = Callable[[Peer, Intent], None]
Heard = tuple[int, int, Any]  # type, message stream, values or payload


# ---- the two ends ------------------------------------------------------------------------------------------


def command(*values: Any, stream: int = 0, size: int = 128) -> bytes:
    return rtmp_chunks.chunk(3, 20, stream, 0, amf0.encode(*values), size)


def message(type: int, payload: bytes, stream: int = 1, timestamp: int = 0, csid: int = 6) -> bytes:
    return rtmp_chunks.chunk(csid, type, stream, timestamp, payload, 128)


def connect(**more: Any) -> bytes:
    options = {"app": "live", "type": "nonprivate", "flashVer": "FMLE/3.0", "tcUrl": "rtmp://host/live"}
    return command("connect", 1, {**options, **more})


def accept(peer: Peer, intent: Intent) -> None:
    """The friendliest handler."""
    match intent:
        case rtmp.Connect():
            rtmp.accept_connect(peer)
        case rtmp.Publish():
            rtmp.accept_publish(peer)
        case rtmp.Play():
            rtmp.accept_play(peer)


def talk(pieces: Iterable[bytes], decide: Decide = accept) -> tuple[list[Intent], bytes, Peer]:
    """Feed the pieces to a new peer and decide as told: (intents, everything we said, the peer)."""
    peer, intents, said = rtmp.open_peer(SEED), [], b""
    for now, piece in enumerate(pieces):
        rtmp.feed(peer, piece, now)
        while (intent := rtmp.pull(peer, now)) is not None:
            intents.append(intent)
            decide(peer, intent)
        said += rtmp.take_output(peer)
    return intents, said, peer


def hear(said: bytes) -> list[Heard]:
    """What a client hears behind the handshake. Set Chunk Size is obeyed and not listed."""
    reader, heard = rtmp_chunks.Reader(), []
    rtmp_chunks.allow(reader, 1 << 24)
    rtmp_chunks.feed(reader, said)
    while (found := rtmp_chunks.pull(reader)) is not None:
        type, stream, _time, payload = found
        heard.append((type, stream, amf0.decode(payload) if type in (18, 20) else payload))
    assert rtmp_chunks.waiting(reader) == 0
    return heard


def codes(said: bytes) -> list[str]:
    """The conversation in short: the name of each command with its code, and the control messages by type."""
    short = []
    for type, _stream, values in hear(said):
        if type not in (18, 20):
            short.append(f"control {type}" + (f" event {values[1]}" if type == 4 else ""))
            continue
        infos = [value["code"] for value in values if isinstance(value, dict) and "code" in value]
        short.append(" ".join([values[0], *infos]))
    return short


def after_handshake(said: bytes) -> bytes:
    assert said[0] == 3
    return said[3073:]


def dialogue(*lines: bytes) -> tuple[list[Intent], list[str]]:
    """The same lines whole, singly, byte by byte, with the beginning of another: always the same talk."""
    data = HELLO + C2 + b"".join(lines)
    intents, said, _peer = talk([data])
    for pieces in (
        [HELLO, C2, *lines],
        [data[:3000], *(data[at : at + 1] for at in range(3000, len(data)))],
        [data + b"\x03\x00\x00"],
    ):
        found, heard, _peer = talk(pieces)
        assert found == intents
        assert heard == said
    return intents, codes(after_handshake(said))


HELLO_WORDS = ["control 5", "control 6", "_result NetConnection.Connect.Success"]
START = ["onFCPublish NetStream.Publish.Start", "onStatus NetStream.Publish.Start"]
PLAYING = [
    "control 4 event 0",
    "onStatus NetStream.Play.Reset",
    "onStatus NetStream.Play.Start",
    "|RtmpSampleAccess",
]


# ---- dialogues ---------------------------------------------------------------------------------------------


def test_obs_publishes_and_leaves() -> None:
    intents, words = dialogue(
        connect(swfUrl="rtmp://host/live"),
        message(1, struct.pack(">I", 4096), 0, csid=2),
        command("releaseStream", 2, None, "cam?key=s3", size=4096),
        command("FCPublish", 3, None, "cam?key=s3", size=4096),
        command("createStream", 4, None, size=4096),
        command("_checkbw", 5, None, size=4096),
        command("publish", 6, None, "cam?key=s3", "live", stream=1, size=4096),
        message(18, amf0.encode("@setDataFrame", "onMetaData", {"width": 1280})),
        message(9, b"\x17\x00\x00\x00\x00config", timestamp=0),
        message(8, b"\xaf\x01sound", timestamp=21, csid=4),
        message(9, b"", timestamp=30),
        command("FCUnpublish", 7, None, "cam", size=4096),
        command("deleteStream", 8, None, 1, size=4096),
        message(9, b"\x17\x01late", timestamp=40),
    )
    assert intents == [
        rtmp.Connect("live", "rtmp://host/live"),
        rtmp.Publish("cam", "live", "key=s3"),
        rtmp.Media(18, 0, amf0.encode("@setDataFrame", "onMetaData", {"width": 1280})),
        rtmp.Media(9, 0, b"\x17\x00\x00\x00\x00config"),
        rtmp.Media(8, 21, b"\xaf\x01sound"),
        rtmp.Unpublish(),
    ]
    assert words == [
        *HELLO_WORDS,
        *["_result"] * 4,
        *START,
        "onFCUnpublish NetStream.Unpublish.Success",
        "onStatus NetStream.Unpublish.Success",
    ]


def test_flash_plays_with_amf3_and_all_its_wishes() -> None:
    def amf3(name: str, *values: Any, stream: int = 1) -> bytes:
        return message(17, b"\x00" + amf0.encode(name, 0, None, *values), stream, csid=8)

    intents, words = dialogue(
        connect(objectEncoding=3, app="/live/?token=1"),
        message(5, struct.pack(">I", 100_000), 0, csid=2),
        message(17, b"\x00" + amf0.encode("createStream", 2) + b"\x05", 0),
        message(17, b"\x00" + amf0.encode("getStreamLength", 3, None, "cam"), 0),
        message(17, b"\x00" + amf0.encode("FCSubscribe", 4, None, "cam"), 0),
        amf3("pause", True, 0),
        amf3("play", "cam?t=1", -1, -1, True),
        message(4, struct.pack(">HII", 3, 1, 3000), 0, csid=2),
        amf3("receiveAudio", False),
        amf3("receiveVideo", True),
        amf3("pause", True, 1500),
        amf3("pauseRaw", False, 1500),
        amf3("seek", 2000),
        amf3("seek", float("nan")),
        amf3("closeStream"),
        amf3("play", "other"),
        amf3("play", False),
        amf3("close"),
    )
    assert intents == [
        rtmp.Connect("live", "rtmp://host/live"),
        rtmp.Play("cam", "t=1", -1.0),
        rtmp.Receive(False, None),
        rtmp.Receive(None, True),
        rtmp.Pause(True, 1500.0),
        rtmp.Pause(False, 1500.0),
        rtmp.Seek(2000.0),
        rtmp.Seek(0.0),
        rtmp.Stop(),
        rtmp.Play("other", "", -2.0),
        rtmp.Stop(),
        rtmp.Bye(),
    ]
    assert words == [
        *HELLO_WORDS,
        "_result",
        "_result",
        "onFCSubscribe NetStream.Play.Start",
        *PLAYING,
        *PLAYING,
    ]


def test_amf3_media_data_loses_its_mark() -> None:
    data = amf0.encode("onMetaData", {})
    publish = command("publish", 2, None, "x", "record", stream=1)
    intents, _ = dialogue(
        connect(), publish, message(15, b"\x00" + data), message(15, data), message(16, b"so")
    )
    assert intents[1:] == [rtmp.Publish("x", "record", ""), rtmp.Media(18, 0, data), rtmp.Media(18, 0, data)]


def test_an_aggregate_message_is_taken_apart() -> None:
    def tag(type: int, time: int, body: bytes) -> bytes:
        head = bytes((type,)) + len(body).to_bytes(3, "big") + (time & 0xFFFFFF).to_bytes(3, "big")
        return head + bytes((time >> 24, 0, 0, 0)) + body + struct.pack(">I", 11 + len(body))

    body = (
        tag(9, 0x1000005, b"v1")
        + tag(8, 0x1000008, b"a1")
        + tag(11, 0x1000009, b"?")
        + tag(9, 0x1000025, b"v2")
    )
    publish = command("publish", 2, None, "x", stream=1)
    for end in (len(body), len(body) - 4):
        intents, _ = dialogue(connect(), publish, message(22, body[:end], timestamp=100), message(9, b"v3"))
        assert intents[2:] == [
            rtmp.Media(9, 100, b"v1"),
            rtmp.Media(8, 103, b"a1"),
            rtmp.Media(9, 132, b"v2"),
            rtmp.Media(9, 0, b"v3"),
        ]
    for end in (5, 12, len(body) - 5):
        with pytest.raises(PeerError, match="aggregate"):
            dialogue(connect(), publish, message(22, body[:end]))


def test_pings_and_bandwidth_are_answered() -> None:
    _, words = dialogue(
        connect(),
        message(4, struct.pack(">HI", 6, 1234), 0, csid=2),
        message(6, struct.pack(">IB", 5000, 2), 0, csid=2),
        message(3, struct.pack(">I", 5000), 0, csid=2),
        message(4, b"\x00", 0, csid=2),
    )
    assert words == [*HELLO_WORDS, "control 4 event 7", "control 5"]


def test_calls_of_unknown_methods_fail_only_if_they_want_an_answer() -> None:
    _, words = dialogue(
        connect(), command("FCFly", 7, None), command("onFly", 0, None), command("_result", 9, None)
    )
    assert words == [*HELLO_WORDS, "_error NetConnection.Call.Failed"]


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (command("publish", 3, None, "y", stream=1), ["onStatus NetStream.Publish.BadName"]),
        (command("play", 3, None, "y", stream=1), ["onStatus NetStream.Play.Failed"]),
    ],
    ids=["publish", "play"],
)
def test_a_connection_has_one_stream_at_a_time(second: bytes, words: list[str]) -> None:
    intents, said = dialogue(
        connect(), command("publish", 2, None, "x", stream=1), second, message(9, b"frame")
    )
    assert intents[2:] == [rtmp.Media(9, 0, b"frame")]
    assert said == [*HELLO_WORDS, *START, *words]


def test_playing_is_possible_on_message_stream_one_only() -> None:
    intents, words = dialogue(connect(), command("play", 2, None, "x", stream=0))
    assert len(intents) == 1
    assert words == [*HELLO_WORDS, "onStatus NetStream.Play.Failed"]


def test_a_publisher_may_publish_again_on_its_connection() -> None:
    publish = command("publish", 2, None, "x", stream=1)
    intents, _ = dialogue(
        connect(), publish, command("closeStream", 0, None, stream=1), publish, message(8, b"a")
    )
    expected = [rtmp.Publish("x", "live", "")]
    assert intents[1:] == [*expected, rtmp.Unpublish(), *expected, rtmp.Media(8, 0, b"a")]


def test_publish_false_ends_the_stream() -> None:
    stop = command("publish", 3, None, False, stream=1)
    intents, _ = dialogue(connect(), stop, command("publish", 2, None, "x", stream=1), stop)
    assert intents[1:] == [rtmp.Publish("x", "live", ""), rtmp.Unpublish()]


# ---- what real clients sent --------------------------------------------------------------------------------

PUBLISHERS = [
    ("ffmpeg_publish", "x", "key=1", {9: 17, 8: 28, 18: 1}),
    ("gstreamer_publish", "gst", "", {9: 12, 8: 14, 18: 5}),
    ("pyav_publish", "av", "", {9: 12, 18: 1}),
]


@pytest.mark.parametrize(("client", "name", "query", "media"), PUBLISHERS, ids=[row[0] for row in PUBLISHERS])
def test_recorded_publishers_are_understood(
    client: str, name: str, query: str, media: dict[int, int]
) -> None:
    data = (CORPUS / f"{client}.bin").read_bytes()
    intents, said, peer = talk([data])
    assert isinstance(intents[0], rtmp.Connect)
    assert intents[0].app == "live"
    assert intents[1] == rtmp.Publish(name, "live", query)
    assert intents[-1] == rtmp.Unpublish()
    frames = [intent for intent in intents if isinstance(intent, rtmp.Media)]
    assert Counter(frame.type for frame in frames) == media
    assert len(intents) == len(frames) + 3
    for type in (8, 9):
        times = [frame.timestamp for frame in frames if frame.type == type]
        assert times == sorted(times)
    assert peer.phase == "connected"
    assert peer.received == len(data)
    assert codes(after_handshake(said))[:3] == HELLO_WORDS
    for pieces in (
        [data[at : at + 1] for at in range(len(data))],
        [data[at : at + 1000] for at in range(0, len(data), 1000)],
        [data + b"\x04"],
    ):
        assert talk(pieces)[:2] == (intents, said)


@pytest.mark.parametrize("client", ["ffmpeg_play", "gstreamer_play"])
def test_recorded_players_are_understood(client: str) -> None:
    data = (CORPUS / f"{client}.bin").read_bytes()
    intents, said, peer = talk([data])
    assert intents[1:] == [rtmp.Play("y", "", -2.0)]
    assert [word for word in codes(after_handshake(said)) if word not in ("_result", "onFCSubscribe")][
        3:
    ] in (
        PLAYING,
        ["onFCSubscribe NetStream.Play.Start", *PLAYING],
    )
    assert peer.phase == "playing"
    assert talk([data[at : at + 1] for at in range(len(data))])[:2] == (intents, said)


# ---- decisions ---------------------------------------------------------------------------------------------


def test_nothing_is_read_on_while_a_question_is_open() -> None:
    peer = rtmp.open_peer(SEED)
    data = HELLO + C2 + connect() + command("publish", 2, None, "x", stream=1) + message(9, b"frame")
    rtmp.feed(peer, data, 5)
    assert isinstance(rtmp.pull(peer, 5), rtmp.Connect)
    assert peer.asked == "connect"
    assert rtmp.pull(peer, 5) is None
    rtmp.accept_connect(peer)
    assert isinstance(rtmp.pull(peer, 5), rtmp.Publish)
    rtmp.feed(peer, message(8, b"sound"), 6)
    assert rtmp.pull(peer, 6) is None
    assert peer.heard == 6
    rtmp.accept_publish(peer)
    assert rtmp.pull(peer, 7) == rtmp.Media(9, 0, b"frame")
    assert rtmp.pull(peer, 7) == rtmp.Media(8, 0, b"sound")
    assert rtmp.pull(peer, 7) is None


def test_a_peer_goes_through_a_snapshot_at_every_byte() -> None:
    """What a patch does: the state is taken apart and put together again between any two reads."""
    records: tuple[Any, ...] = (rtmp.Peer, rtmp_chunks.Reader, rtmp_chunks.Stream)
    classes: dict[str, type] = {cls.__state_tag__: cls for cls in records}
    data = (CORPUS / "gstreamer_publish.bin").read_bytes()
    expected = talk([data])[0]
    peer, intents = rtmp.open_peer(SEED), []
    for at in range(0, len(data), 7):
        rtmp.feed(peer, data[at : at + 7], at)
        peer = lift(lower(peer), classes.__getitem__)
        while (intent := rtmp.pull(peer, at)) is not None:
            intents.append(intent)
            peer = lift(lower(peer), classes.__getitem__)
            accept(peer, intent)
    assert intents == expected


REFUSALS: list[tuple[bytes, Decide, str, str]] = [
    (
        connect(),
        lambda peer, _: rtmp.refuse_connect(peer, "no such application"),
        "_error NetConnection.Connect.Rejected",
        "connect",
    ),
    (
        connect() + command("publish", 2, None, "x", stream=1),
        lambda peer, intent: (
            rtmp.refuse_publish(peer, "NetStream.Publish.BadName", "x is taken")
            if isinstance(intent, rtmp.Publish)
            else rtmp.accept_connect(peer)
        ),
        "onStatus NetStream.Publish.BadName",
        "connected",
    ),
    (
        connect() + command("play", 2, None, "x", stream=1),
        lambda peer, intent: (
            rtmp.refuse_play(peer, "NetStream.Play.StreamNotFound", "x is not live")
            if isinstance(intent, rtmp.Play)
            else rtmp.accept_connect(peer)
        ),
        "onStatus NetStream.Play.StreamNotFound",
        "connected",
    ),
]


@pytest.mark.parametrize(("data", "decide", "last", "phase"), REFUSALS, ids=["connect", "publish", "play"])
def test_a_refusal_says_why_at_error_level(data: bytes, decide: Decide, last: str, phase: str) -> None:
    _, said, peer = talk([HELLO + C2 + data], decide)
    assert codes(after_handshake(said))[-1] == last
    assert hear(after_handshake(said))[-1][2][3]["level"] == "error"
    assert peer.phase == phase
    assert peer.asked == ""


def test_an_answer_that_nobody_asked_for_is_our_bug() -> None:
    for answer in (rtmp.accept_connect, rtmp.accept_publish, rtmp.accept_play):
        with pytest.raises(ValueError, match="but the question is ''"):
            answer(rtmp.open_peer(SEED))


def playing() -> Peer:
    peer = talk([HELLO + C2 + connect() + command("play", 2, None, "x", stream=1)])[2]
    assert peer.phase == "playing"
    return peer


@pytest.mark.parametrize(
    ("notice", "words", "phase"),
    [
        (lambda peer: rtmp.pause_notify(peer, True), ["onStatus NetStream.Pause.Notify"], "playing"),
        (lambda peer: rtmp.pause_notify(peer, False), ["onStatus NetStream.Unpause.Notify"], "playing"),
        (rtmp.seek_notify, ["onStatus NetStream.Seek.Notify"], "playing"),
        (lambda peer: rtmp.ping(peer, 2**32 + 7), ["control 4 event 6"], "playing"),
        (
            lambda peer: rtmp.play_stopped(peer, "NetStream.Play.UnpublishNotify", "over"),
            ["control 4 event 1", "onStatus NetStream.Play.UnpublishNotify"],
            "connected",
        ),
    ],
)
def test_viewers_are_told(notice: Callable[[Peer], None], words: list[str], phase: str) -> None:
    peer = playing()
    notice(peer)
    assert codes(rtmp.take_output(peer)) == words
    assert rtmp.take_output(peer) == b""
    assert peer.phase == phase


def test_a_publisher_that_is_stopped_is_no_longer_listened_to() -> None:
    peer = talk([HELLO + C2 + connect() + command("publish", 2, None, "x", stream=1)])[2]
    rtmp.publish_stopped(peer, "NetStream.Publish.BadName", "another publisher took over")
    assert codes(rtmp.take_output(peer)) == ["onStatus NetStream.Publish.BadName"]
    rtmp.feed(peer, message(9, b"frame"), 1)
    assert rtmp.pull(peer, 1) is None


@pytest.mark.parametrize("type", [rtmp.AUDIO, rtmp.VIDEO, rtmp.DATA])
@pytest.mark.parametrize("timestamp", [0, 0xFFFFFF, 2**31, 2**32 + 40])
def test_media_bytes_serve_every_viewer(type: int, timestamp: int) -> None:
    payload = bytes(70_000)
    reader = rtmp_chunks.Reader(chunk_size=rtmp.CHUNK)
    rtmp_chunks.feed(reader, rtmp.media_bytes(type, timestamp, payload))
    assert rtmp_chunks.pull(reader) == (type, 1, timestamp % 2**32, payload)


# ---- limits ------------------------------------------------------------------------------------------------


def test_every_window_is_acknowledged_once() -> None:
    publish = command("publish", 2, None, "x", stream=1)
    start = HELLO + C2 + connect() + message(5, struct.pack(">I", 10_000), 0, csid=2) + publish
    frame = message(9, bytes(900))
    _, said, peer = talk([start, *[frame] * 30])
    acks = [struct.unpack(">I", values)[0] for type, _, values in hear(after_handshake(said)) if type == 3]
    assert len(acks) in (2, 3)
    assert all(10_000 <= later - former < 12_000 for former, later in zip([0, *acks], acks))
    assert peer.received - acks[-1] < 10_000


def test_acknowledgements_wrap_at_32_bits() -> None:
    peer = playing()
    peer.received = peer.acknowledged = 2**32 - 10
    peer.window = 4096
    rtmp.feed(peer, bytes(5000), 1)
    assert hear(rtmp.take_output(peer)) == [(3, 0, struct.pack(">I", 4990))]


def greet(*lines: bytes) -> bytes:
    return HELLO + C2 + b"".join(lines)


@pytest.mark.parametrize(
    ("data", "because"),
    [
        (b"GET / HTTP/1.1\r\n", "HTTP"),
        (b"\x06", "RTMPE"),
        (greet(command("createStream", 1, None)), "'createStream' before connect"),
        (greet(connect(), connect()), "a second connect"),
        (greet(command("connect", 1, None)), "without its object"),
        (greet(command("connect", 1)), "without its object"),
        (greet(command(5, 1)), "without a name"),
        (greet(message(20, b"", 0)), "without a name"),
        (greet(message(20, b"\xff", 0)), "AMF0"),
        (greet(connect(app="a" * 5000)), "the application has 5000"),
        (greet(connect(tcUrl="a" * 5000)), "the URL has 5000"),
        (greet(connect(), command("publish", 2, None, "n" * 5000)), "the stream's name has 5000"),
        (greet(connect(), message(9, bytes(70_000))), "a message of 70000 bytes"),
        (
            greet(connect(), command("publish", 2, None, "x"), message(20, b"\x02" * 70_000)),
            "a command of 70000 bytes",
        ),
        (greet(connect(), message(20, b"\x05" * 2000, 0)), "too many values"),
    ],
)
def test_what_rtmp_forbids_is_the_peers_fault(data: bytes, because: str) -> None:
    with pytest.raises(PeerError, match=because):
        talk([data])
    with pytest.raises(PeerError, match=because):
        talk([data[:3070], *(data[at : at + 500] for at in range(3070, len(data), 500))])


def test_an_unanswered_question_does_not_collect_bytes_for_ever() -> None:
    peer = rtmp.open_peer(SEED)
    rtmp.feed(peer, greet(connect()), 0)
    rtmp.pull(peer, 0)
    with pytest.raises(PeerError, match="before its question"):
        for now in range(20):
            rtmp.feed(peer, bytes(65536), now)


def test_a_peer_that_only_asks_is_cut_off() -> None:
    calls = greet(connect()) + command("a" * 30, 1) * 3000
    with pytest.raises(PeerError, match="answers at once"):
        talk([calls])


@pytest.mark.parametrize(
    "noise",
    [
        message(8, b"", csid=4) + rtmp_chunks.basic_header(3, 4) * 2000,
        message(8, b"x", csid=4) + (rtmp_chunks.basic_header(3, 4) + b"x") * 2000,
        message(3, b"\0\0\0\1", csid=4) + (rtmp_chunks.basic_header(3, 4) + b"\0\0\0\1") * 2000,
        message(1, b"\0\0\1\0", csid=4) + (rtmp_chunks.basic_header(3, 4) + b"\0\0\1\0") * 2000,
    ],
    ids=["empty messages", "single bytes", "acknowledgements", "chunk sizes"],
)
def test_a_peer_that_sends_nothing_but_headers_is_cut_off(noise: bytes) -> None:
    with pytest.raises(PeerError, match="more messages than any stream has"):
        talk([greet(connect()), noise])


def test_silence_that_is_sent_faster_than_it_sounds_is_welcome() -> None:
    publish = command("publish", 2, None, "x", stream=1)
    frame = b"\x44\0\0\x17\0\0\x02\x08\xaf\x01"
    intents, _, _ = talk([greet(connect(), publish, message(8, b"\xaf\x00\x12\x10", csid=4)), frame * 6500])
    assert len(intents) == 2 + 1 + 6500


def test_a_published_message_may_have_as_many_bytes_as_the_settings_say() -> None:
    for limit, allowed in ((70_000, True), (69_999, False)):
        peer = rtmp.open_peer(SEED, limit)
        rtmp.feed(peer, greet(connect(), command("publish", 2, None, "x"), message(9, bytes(70_000))), 0)
        for _ in range(2):
            intent = rtmp.pull(peer, 0)
            assert intent is not None
            accept(peer, intent)
        if allowed:
            assert rtmp.pull(peer, 0) == rtmp.Media(9, 0, bytes(70_000))
        else:
            with pytest.raises(PeerError, match="70000"):
                rtmp.pull(peer, 0)


def test_a_digest_handshake_is_answered_in_kind() -> None:
    c1 = rtmp_handshake.place_digest(b"\0\0\0\0\x80\0\7\2" + bytes(1528), 772, rtmp_handshake.CLIENT_WORDS)
    _, said, peer = talk([b"\x03" + c1 + C2 + connect()])
    assert rtmp_handshake.find_digest(said[1:1537], rtmp_handshake.SERVER_WORDS) is not None
    assert peer.phase == "connected"


# ---- hostile bytes -----------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=200), max_size=6))
@settings(max_examples=150)
def test_garbage_behind_the_handshake_costs_the_connection_only(pieces: list[bytes]) -> None:
    try:
        talk([greet(connect(), command("publish", 2, None, "x")), *pieces])
    except PeerError:
        pass


@given(
    st.sampled_from([row[0] for row in PUBLISHERS]),
    st.integers(3073, 5000),
    st.binary(min_size=1, max_size=12),
)
@settings(max_examples=150)
def test_a_spoilt_recording_costs_the_connection_only(client: str, at: int, noise: bytes) -> None:
    data = (CORPUS / f"{client}.bin").read_bytes()
    try:
        talk([data[:at] + noise + data[at + len(noise) :]])
    except PeerError:
        pass


values = (
    st.none()
    | st.booleans()
    | st.floats()
    | st.text(max_size=8)
    | st.dictionaries(st.text(max_size=3), st.text())
)
names = st.sampled_from(
    "connect publish play pause seek receiveAudio closeStream deleteStream FCUnpublish createStream close".split()
)


@given(st.lists(st.tuples(names, st.lists(values, max_size=5), st.sampled_from([0, 1, 2])), max_size=8))
@settings(max_examples=200)
def test_commands_with_any_arguments_cost_the_connection_only(rows: list[tuple[str, list[Any], int]]) -> None:
    calls = [command(name, *arguments, stream=stream) for name, arguments, stream in rows]
    try:
        _, said, _peer = talk([greet(connect(), *calls)])
    except PeerError:
        return
    hear(after_handshake(said))
