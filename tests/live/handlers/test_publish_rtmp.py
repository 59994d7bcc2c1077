"""A publisher's messages become frames; what cannot, does not disturb the rest."""

from __future__ import annotations

import pytest

from streamd.live.handlers import publish_rtmp
from streamd.live.handlers.publish_rtmp import SETTLE, Publisher
from streamd.live.media.frame import Frame
from streamd.live.media.timeline import Timeline
from streamd.live.protocol import amf0, rtmp
from streamd.runtime.vocabulary import PeerError
from tests.live.handlers.dialogue import (
    SMALL,
    STEREO,
    audio_header,
    inter,
    key,
    metadata,
    script,
    sound,
    video_header,
)


def publisher() -> Publisher:
    return Publisher(1, "10.0.0.1:5000", rtmp.open_peer(b""), 0)


def read(one: Publisher, *messages, now: int = 0):
    line = Timeline()
    return [publish_rtmp.read(one, line, rtmp.Media(*message), now) for message in messages]


def test_headers_teach_and_frames_come_out():
    one = publisher()
    frames = read(one, video_header(), audio_header(), key(1_000), sound(1_010), inter(1_040))
    assert frames[:2] == [None, None]
    assert [frame[:5] for frame in frames[2:]] == [
        ("video", "h264", 0, 0, True),
        ("audio", "aac", 10, 10, False),
        ("video", "h264", 40, 40, False),
    ]
    assert (one.offers.video, one.offers.audio) == (SMALL, STEREO)


def test_the_composition_offset_leads_from_decoding_to_presentation():
    body = key(0)[2]
    (_, frame) = read(publisher(), video_header(), (9, 0, body[:2] + b"\x00\x00\x50" + body[5:]))
    assert (frame.dts, frame.pts) == (0, 80)


def test_metadata_is_kept_and_its_texts_are_written_as_utf8():
    one = publisher()
    legacy = amf0.encode("@setDataFrame", "onMetaData") + amf0.encode_ecma({"title": "?"}).replace(
        b"?", b"\xfc"
    )
    (frame,) = read(one, (18, 0, legacy))
    assert frame.payload == one.offers.script
    assert "ü".encode() in frame.payload
    assert one.title == "ü"
    assert b"@setDataFrame" not in frame.payload


@pytest.mark.parametrize(
    "payload",
    [b"\x02\xff", b"\xff", amf0.encode("@clearDataFrame", "x"), amf0.encode(1.0), amf0.encode(None)],
)
def test_data_that_is_no_message_for_viewers_is_dropped(payload):
    assert read(publisher(), (18, 0, payload)) == [None]


def test_other_data_is_passed_on():
    (frame,) = read(publisher(), script(0, "onCuePoint", {"name": "here", "time": 1.5}))
    assert frame.track == "data"
    assert amf0.decode(frame.payload) == ["onCuePoint", {"name": "here", "time": 1.5}]


@pytest.mark.parametrize(
    ("message", "word"),
    [
        ((9, 0, b"\x24\x00\x00"), "H.264"),
        ((8, 0, b"\xb2\x00"), "AAC"),
        ((9, 0, b"\x17\x01\0\0\0\0\0\0\xff\x65"), "NAL"),
    ],
)
def test_what_is_unsupported_or_broken_blames_the_peer(message, word):
    with pytest.raises(PeerError, match=word):
        read(publisher(), video_header(), message)


@pytest.mark.parametrize(
    ("messages", "later", "settled"),
    [
        ([video_header()], 0, False),
        ([video_header(), audio_header()], 0, True),
        ([video_header()], SETTLE, True),
        ([metadata(videocodecid=7), video_header()], 0, True),
        ([metadata(audiocodecid=10), audio_header()], 0, True),
        ([metadata(width=320, audiosamplerate=48_000), video_header()], 0, False),
        ([metadata(title="says nothing of tracks"), audio_header()], 0, False),
        ([metadata(videocodecid=7)], SETTLE, False),
    ],
)
def test_when_all_tracks_are_known(messages, later, settled):
    one = publisher()
    read(one, *messages)
    assert publish_rtmp.is_settled(one, later) is settled


@pytest.mark.parametrize(
    ("messages", "track", "is_key", "later", "starts"),
    [
        ([video_header()], "video", True, 0, True),
        ([video_header()], "video", False, 0, False),
        ([audio_header()], "audio", False, 0, False),
        ([audio_header()], "audio", False, SETTLE, True),
        ([metadata(audiocodecid=10), audio_header()], "audio", False, 0, True),
        ([video_header(), audio_header()], "audio", False, SETTLE, False),
    ],
)
def test_where_viewers_may_start(messages, track, is_key, later, starts):
    one = publisher()
    read(one, *messages)
    assert publish_rtmp.starts_here(one, Frame(track, "", 0, 0, is_key, b""), later) is starts


def test_the_bitrate_is_that_of_the_last_window():
    one = publisher()
    for now in range(0, 4_001, 100):
        publish_rtmp.measure(one, 25_000, now)
    assert one.kbps == 2_000
