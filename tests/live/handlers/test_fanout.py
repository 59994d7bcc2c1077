"""Announcements: whoever joins whenever decodes every frame with the header it was made with."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.live.handlers import fanout
from streamd.live.handlers.fanout import Announced
from streamd.live.handlers.settings import Settings
from streamd.live.media.frame import Frame
from streamd.runtime.vocabulary import Ring, SendAll
from tests.live.handlers.dialogue import (
    BOTH,
    FORMATS,
    LARGE,
    MONO,
    SMALL,
    STEREO,
    Talk,
    audio_header,
    metadata,
    picture,
    video_header,
    watch,
    words,
)

PICTURE = Frame("video", "h264", 40, 40, True, b"\0\0\0\x01\x65")


def begin() -> fanout.Fanout:
    fan = fanout.begin(Settings(gop_cache_bytes=1_000))
    assert fanout.open_rings(fan) == [Ring(group, 1_000, 5_000, 60_000) for group in FORMATS]
    assert fanout.open_rings(fan) == []
    return fan


@pytest.mark.parametrize(
    ("told", "keyed", "offers", "is_key", "kinds"),
    [
        (Announced(), Announced(), Announced(b"m", b"v", b"a"), True, [18, 9, 8]),
        (Announced(b"m", b"v", b"a"), Announced(b"m", b"v", b"a"), Announced(b"m", b"v", b"a"), True, []),
        (Announced(b"m", b"w", b"a"), Announced(b"m", b"v", b"a"), Announced(b"m", b"w", b"a"), True, [9]),
        (Announced(b"m", b"w", b"a"), Announced(b"m", b"v", b"a"), Announced(b"m", b"v", b"a"), True, [9]),
        (Announced(b"m", b"v", b"a"), Announced(b"m", b"v", b"a"), Announced(b"m", b"w", b"b"), False, [9]),
        (Announced(b"m", b"v", b"a"), Announced(b"m", b"v", b"a"), Announced(b"m", b"v", b"b"), False, []),
        (Announced(b"m", b"v", b"a"), Announced(b"m", b"v", b"a"), Announced(b"m", b"v"), True, []),
    ],
    ids=["first", "same", "told between", "back again", "between", "other track", "track gone"],
)
def test_what_is_due_before_a_picture(told, keyed, offers, is_key, kinds):
    fan = begin()
    fan.told, fan.keyed = told, keyed
    assert [kind for kind, _, _ in fanout.due(fan, offers, PICTURE, is_key)] == kinds
    assert fan.told.video == offers.video
    if is_key:
        assert fan.keyed == fan.told == offers


def test_a_unit_is_the_same_frame_in_every_format_and_bears_the_key_mark():
    commands = fanout.publish(begin(), Announced(b"m", b"v", b"a"), PICTURE, True)
    assert [(command.group, command.key) for command in commands if isinstance(command, SendAll)] == [
        (group, True) for group in FORMATS
    ]


def test_a_side_ring_is_made_for_its_first_member_and_emptied_after_its_last():
    fan = begin()
    assert fanout.use_sides(fan, frozenset({"rtmp", "rtmp.audio"})) == [
        Ring("rtmp.audio", 1_000, 5_000, 60_000)
    ]
    assert fanout.use_sides(fan, frozenset({"rtmp", "rtmp.audio"})) == []
    assert fanout.use_sides(fan, frozenset({"rtmp"})) == [Ring("rtmp.audio", 0, 5_000, 60_000)]


# ---- any story, any joiner ---------------------------------------------------------------------------------

WORDS = "key key inter inter inter sound small large large mono stereo title join join join drop"
STEPS = st.lists(st.sampled_from(WORDS.split()), min_size=40, max_size=80)


@settings(max_examples=60, deadline=None)
@given(STEPS, st.sampled_from([120, 300, 1_000, 100_000]), st.sampled_from(FORMATS))
def test_every_frame_is_decoded_with_the_header_it_was_made_with(steps, ring, form):
    talk = Talk(gop_cache_bytes=ring)
    encoder = talk.encoder().publish("show").send(BOTH, video_header(SMALL), audio_header(STEREO))
    video, audio, viewers = "small", "stereo", [watch(talk, form)]
    for number, step in enumerate(steps):
        at = number * 20
        match step:
            case "key":
                encoder.send(stamped(0x17, b"\x65", at, video))
            case "inter":
                encoder.send(stamped(0x27, b"\x41", at, video))
            case "sound":
                encoder.send((8, at, b"\xaf\x01made with " + audio.encode()))
            case "small" | "large":
                video = step
                encoder.send(video_header(SMALL if step == "small" else LARGE))
            case "mono" | "stereo":
                audio = step
                encoder.send(audio_header(MONO if step == "mono" else STEREO))
            case "title":
                encoder.send(metadata(at, videocodecid=7, audiocodecid=10, title=f"title {number}"))
            case "join":
                viewers.append(watch(talk, form))
            case "drop":
                encoder.hang_up()
                video, audio = "small", "stereo"
                encoder = talk.encoder().publish("show").send(BOTH, video_header(SMALL), audio_header(STEREO))
    for viewer in viewers:
        check(viewer.media())


def stamped(first: int, kind: bytes, at: int, header: str):
    message = picture(first, kind, at)
    nal = message[2][9:] + b" made with " + header.encode()
    return 9, at, message[2][:5] + len(nal).to_bytes(4, "big") + nal


def check(media) -> None:
    """What a decoder would find: every frame's own header was the latest one before it, the first picture is a key."""
    video = audio = ""
    started = False
    last: dict[int, int] = {}
    for (kind, at, payload), word in zip(media, words(media)):
        if kind == 18:
            continue
        assert at >= last.get(kind, 0)
        last[kind] = at
        if word.startswith("video"):
            video = word.split()[1]
        elif word in ("mono", "stereo"):
            audio = word
        elif kind == 9:
            started = started or word.startswith("key")
            assert started
            assert payload.endswith(b"made with " + video.encode())
        else:
            assert payload.endswith(b"made with " + audio.encode())
