"""Publish and watch: what every viewer gets, whatever the publisher does."""

from __future__ import annotations

import copy

import pytest

import streamd.live
from streamd.live.protocol import rtmp_chunks
from streamd.runtime.vocabulary import Congested
from tests.live.handlers.dialogue import (
    BOTH,
    FORMATS,
    HEADERS,
    LARGE,
    MONO,
    Talk,
    audio_header,
    inter,
    key,
    metadata,
    script,
    sound,
    value,
    video_header,
    watch,
    words,
)

START = ["meta", "video small", "stereo", "key 0", "sound 0", "inter 40"]


def live(talk: Talk, *more):
    return talk.encoder().publish("show").send(*HEADERS, key(0), sound(0), inter(40), *more)


# ---- watching


@pytest.mark.parametrize("form", FORMATS)
def test_a_viewer_starts_at_once_with_the_latest_gop_and_goes_on(form):
    talk = Talk()
    encoder = live(talk)
    viewer = watch(talk, form)
    assert words(viewer.media()) == START
    encoder.send(sound(60), inter(80))
    assert words(viewer.media()) == [*START, "sound 60", "inter 80"]


@pytest.mark.parametrize("form", FORMATS)
def test_a_later_gop_is_preceded_by_headers_with_its_own_time(form):
    talk = Talk()
    live(talk, key(80), sound(90))
    viewer = watch(talk, form)
    assert words(viewer.media()) == ["meta", "video small", "stereo", "key 80", "sound 90"]
    assert [timestamp for _, timestamp, _ in viewer.media()[:3]] == [0, 80, 80]  # of metadata it is always 0


@pytest.mark.parametrize("form", FORMATS)
def test_a_viewer_before_the_first_key_frame_waits_for_it(form):
    talk = Talk()
    encoder = talk.encoder().publish("show").send(*HEADERS, inter(0), sound(0))
    viewer = watch(talk, form)
    assert viewer.media() == []
    encoder.send(inter(40), key(80), inter(120))
    assert words(viewer.media()) == ["meta", "video small", "stereo", "key 80", "inter 120"]


def test_frames_are_muxed_once_per_format_however_many_watch():
    talk = Talk()
    encoder = live(talk)
    for _ in range(20):
        for form in FORMATS:
            watch(talk, form)
    encoder.send(inter(80))
    assert [type(command).__name__ for command in talk.last] == ["SendAll"] * len(FORMATS)


def test_a_gop_larger_than_the_ring_makes_a_newcomer_wait_with_all_headers():
    talk = Talk(gop_cache_bytes=200)
    encoder = live(talk, *(inter(at) for at in range(80, 400, 40)))
    viewer = talk.get("/live/show.flv")
    assert words(viewer.media()) == ["meta", "video small", "stereo"]
    encoder.send(inter(400), key(440), inter(480))
    assert words(viewer.media())[3:] == ["key 440", "inter 480"]


# ---- sound alone, pictures alone


@pytest.mark.parametrize("form", FORMATS)
def test_sound_alone_starts_for_a_late_joiner(form):
    talk = Talk()
    talk.encoder().publish("show").send(
        metadata(audiocodecid=10), audio_header(), sound(0), sound(23), sound(46)
    )
    viewer = watch(talk, form)
    assert words(viewer.media()) == ["meta", "stereo", "sound 46"]


def test_sound_alone_without_metadata_starts_after_a_second():
    talk = Talk()
    encoder = talk.encoder().publish("show").send(audio_header(), sound(0))
    viewer = talk.get("/live/show.flv")
    assert viewer.media() == []
    talk.wait(1_000)
    encoder.send(sound(1_000), sound(1_023))
    assert words(viewer.media()) == ["stereo", "sound 1000", "sound 1023"]
    assert viewer.flv()[4] == 0x04  # the header promises sound only


def test_pictures_alone_are_promised_alone():
    talk = Talk()
    talk.encoder().publish("show").send(metadata(videocodecid=7), video_header(), key(0))
    viewer = talk.get("/live/show.flv")
    assert words(viewer.media()) == ["meta", "video small", "key 0"]
    assert viewer.flv()[4] == 0x01


def test_a_track_that_was_promised_and_never_comes_holds_nobody_for_long():
    talk = Talk()
    encoder = talk.encoder().publish("show").send(BOTH, video_header(), key(0), inter(40))
    viewer = talk.get("/live/show.flv")
    assert viewer.media() == []
    talk.wait(1_000)
    encoder.send(inter(1_040))
    assert words(viewer.media()) == ["meta", "video small", "key 0", "inter 40", "inter 1040"]
    assert viewer.flv()[4] == 0x01


def test_sound_that_comes_after_the_first_picture_is_in_the_stream():
    talk = Talk()
    encoder = (
        talk.encoder()
        .publish("show")
        .send(BOTH, video_header(), key(0), inter(40), audio_header(), sound(40))
    )
    viewer = talk.get("/live/show.flv")
    assert words(viewer.media()) == ["meta", "video small", "key 0", "inter 40", "stereo", "sound 40"]
    encoder.send(key(80))
    assert words(viewer.media())[-2:] == ["stereo", "key 80"]  # repeated: whoever starts here needs it
    assert words(talk.get("/live/show.flv").media()) == ["meta", "video small", "stereo", "key 80"]


# ---- configuration changes


@pytest.mark.parametrize("form", FORMATS)
def test_a_new_size_is_announced_in_the_key_unit(form):
    talk = Talk()
    encoder = live(talk)
    early = watch(talk, form)
    encoder.send(video_header(LARGE), key(80), inter(120))
    late = watch(talk, form)
    assert words(early.media()) == [*START, "video large", "key 80", "inter 120"]
    assert words(late.media()) == ["meta", "stereo", "video large", "key 80", "inter 120"]


def test_a_header_between_pictures_reaches_those_who_watch_and_those_who_join_at_either_key():
    talk = Talk()
    encoder = live(talk)
    early = talk.get("/live/show.flv")
    encoder.send(video_header(LARGE), inter(80))
    at_first_key = talk.get("/live/show.flv")
    assert words(early.media()) == words(at_first_key.media()) == [*START, "video large", "inter 80"]
    encoder.send(key(120))
    assert words(early.media())[-2:] == ["video large", "key 120"]
    assert words(talk.get("/live/show.flv").media()) == ["meta", "stereo", "video large", "key 120"]


def test_new_sound_is_announced_before_its_first_frame():
    talk = Talk()
    encoder = live(talk)
    viewer = talk.get("/live/show.flv")
    encoder.send(audio_header(MONO), inter(80), sound(80))
    assert words(viewer.media()) == [*START, "inter 80", "mono", "sound 80"]
    encoder.send(key(120))
    assert words(talk.get("/live/show.flv").media()) == ["meta", "video small", "mono", "key 120"]


def test_a_repeated_header_is_not_announced_again():
    talk = Talk()
    encoder = live(talk)
    viewer = talk.get("/live/show.flv")
    encoder.send(*HEADERS, key(80))
    assert words(viewer.media()) == [*START, "key 80"]


def test_a_viewer_that_skips_is_reminded_of_the_headers_after_a_recent_change_only():
    talk = Talk(viewer_max_lag=5, viewer_max_slow=10)
    encoder = live(talk)
    viewer = talk.get("/live/show.flv")
    encoder.send(video_header(LARGE), key(80))
    before = len(viewer.media())
    talk.deliver("live/show", Congested(talk.now, viewer.link.number, "flv"))
    assert words(viewer.media())[before:] == ["meta", "video large", "stereo"]
    encoder.send(*(key(at) for at in range(1_000, 40_000, 1_000)))
    before = len(viewer.media())
    talk.deliver("live/show", Congested(talk.now, viewer.link.number, "flv"))
    assert len(viewer.media()) == before
    assert talk.counts == ["viewers of flv that fell behind and skip to a key frame"] * 2


# ---- metadata and other data


@pytest.mark.parametrize("form", FORMATS)
def test_a_new_title_reaches_viewers_and_joiners(form):
    talk = Talk()
    encoder = live(talk)
    early = watch(talk, form)
    encoder.send(metadata(50, videocodecid=7, audiocodecid=10, title="Grün €"))
    late = watch(talk, form)
    assert value(early.media()[0], "title") == "A show"
    assert value(early.media()[-1], "title") == value(late.media()[-1], "title") == "Grün €"
    assert talk.describe("live/show")["title"] == "Grün €"
    encoder.send(key(80))
    assert value(watch(talk, form).media()[0], "title") == "Grün €"


def test_other_data_goes_through_and_orders_to_the_server_do_not():
    talk = Talk()
    encoder = live(talk)
    viewer = talk.get("/live/show.flv")
    encoder.send(script(50, "onTextData", {"text": "hello"}), script(60, "@clearDataFrame", "x"))
    encoder.send((18, 70, b"\x02\xff\xff"))
    assert words(viewer.media()) == [*START, "text"]
    assert b"hello" in viewer.media()[-1][2]
    assert encoder.closed is None
    assert len(talk.counts) == 2


# ---- the publisher's coming and going


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("way", ["drops", "unpublishes"])
def test_viewers_go_on_at_a_key_frame_when_the_publisher_is_back(form, way):
    talk = Talk()
    encoder = live(talk)
    viewer = watch(talk, form)
    if way == "drops":
        encoder.hang_up()
    else:
        encoder.command("FCUnpublish", 5, None, "show")
        encoder.command("deleteStream", 6, None, 1)
    assert talk.describe("live/show")["phase"] == "waiting"
    talk.wait(3_000)
    back = talk.encoder().publish("show").send(*HEADERS, inter(0), sound(0), key(40), inter(80))
    got = words(viewer.media())
    assert got[: len(START)] == START
    assert [word.split()[0] for word in got[len(START) :]] == ["sound", "key", "inter"]
    times = [timestamp for kind, timestamp, _ in viewer.media() if kind != 18]
    assert times == sorted(times)
    assert times[-1] < 400
    assert back.closed is None
    assert viewer.closed is None


def test_a_publisher_that_comes_back_with_other_headers_announces_them():
    talk = Talk()
    live(talk).hang_up()
    viewer = talk.get("/live/show.flv")
    assert viewer.status == 200
    assert viewer.media() == []  # nothing old while the publisher is away
    talk.encoder().publish("show").send(BOTH, video_header(LARGE), audio_header(MONO), key(0), sound(0))
    assert [word.split()[0] + " " + word.split()[-1] for word in words(viewer.media())[:3]] == [
        "meta meta",
        "video large",
        "mono mono",
    ]
    assert [kind for kind, _, _ in viewer.media()] == [18, 9, 8, 9, 8]


def test_a_new_publisher_without_sound_promises_none_to_newcomers():
    talk = Talk()
    live(talk).hang_up()
    talk.encoder().publish("show").send(metadata(videocodecid=7), video_header(), key(0))
    viewer = talk.get("/live/show.flv")
    assert [word.split()[0] for word in words(viewer.media())] == ["meta", "video", "meta", "key"]
    assert viewer.flv()[4] == 0x01


@pytest.mark.parametrize("form", FORMATS)
def test_viewers_are_told_and_closed_when_the_grace_is_over(form):
    talk = Talk(publisher_grace=3)
    live(talk).hang_up()
    viewer = watch(talk, form)
    talk.wait(2_999)
    assert viewer.closed is None
    talk.wait(1)
    assert viewer.closed == "The broadcast has ended."
    assert talk.ended["live/show"] == "The broadcast has ended."
    if form == "rtmp":
        assert viewer.statuses()[-1] == "NetStream.Play.UnpublishNotify"
    if form == "ws":
        assert viewer.frames()[-1] == (8, b"\x03\xe8The broadcast has ended.")


def test_without_grace_the_broadcast_ends_with_its_publisher():
    talk = Talk(publisher_grace=0)
    encoder = live(talk)
    viewer = talk.get("/live/show.flv")
    encoder.hang_up()
    assert viewer.closed == "The broadcast has ended."
    assert "live/show" in talk.ended


def test_a_silent_publisher_is_gone_after_its_time():
    talk = Talk(publisher_timeout=20)
    encoder = live(talk)
    viewer = talk.get("/live/show.flv")
    talk.wait(15_000)
    encoder.send(inter(15_000))
    talk.wait(19_000)
    assert encoder.closed is None
    talk.wait(1_000)
    assert encoder.closed == "sent nothing for 20 s"
    assert encoder.statuses()[-1] == "NetStream.Publish.Idle"
    assert viewer.closed is None


def test_an_encoder_may_publish_another_name_on_the_same_connection():
    talk = Talk()
    encoder = live(talk)
    encoder.command("FCUnpublish", 5, None, "show")
    encoder.command("publish", 6, None, "other", "live")
    encoder.send(*HEADERS, key(0))
    assert encoder.closed is None
    assert words(talk.get("/live/other.flv").media())[-1] == "key 0"


def test_a_second_publisher_is_refused_and_the_first_is_not_disturbed():
    talk = Talk()
    first = live(talk)
    viewer = talk.get("/live/show.flv")
    second = talk.encoder("10.0.0.9:1").publish("show")
    assert second.told()[-1] == (
        "NetStream.Publish.BadName",
        "live/show is already being published by 10.0.0.1:5000.",
    )
    assert second.closed is not None
    first.send(inter(80))
    assert words(viewer.media()) == [*START, "inter 80"]


def test_with_takeover_the_second_publisher_replaces_the_first():
    talk = Talk(takeover=True)
    first = live(talk)
    viewer = talk.get("/live/show.flv")
    second = talk.encoder("10.0.0.9:1").publish("show").send(*HEADERS, inter(5_000), key(5_040))
    assert first.statuses()[-1] == "NetStream.Publish.BadName"
    assert first.closed == "10.0.0.9:1 has taken over live/show."
    assert second.closed is None
    kinds = [word.split()[0] for word in words(viewer.media())]
    assert kinds == ["meta", "video", "stereo", "key", "sound", "inter", "key"]
    assert viewer.media()[-1][1] < 400


# ---- faults of the publisher


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ((9, 0, b"\x12\x00\x00\x00\x00\x00"), "H.264"),  # Sorenson
        ((8, 0, b"\x2f\xff\xfb\x90"), "AAC"),  # MP3
        ((9, 0, b"\x17\x00\x00\x00\x00\x01"), ""),  # a sequence header cut short
    ],
)
def test_what_cannot_be_served_costs_the_publisher_its_connection_and_says_why(message, reason):
    talk = Talk()
    encoder = live(talk)
    viewer = talk.get("/live/show.flv")
    encoder.send(message)
    code, description = encoder.told()[-1]
    assert code == "NetStream.Publish.Rejected"
    assert reason in description
    assert encoder.closed == description
    assert viewer.closed is None
    assert talk.describe("live/show")["phase"] == "waiting"


def test_frames_before_a_fault_in_the_same_read_are_not_lost():
    talk = Talk()
    encoder = live(talk)
    viewer = talk.get("/live/show.flv")
    good = rtmp_chunks.chunk(4, 9, 1, 80, inter(80)[2], 65_536)
    encoder.data(good + rtmp_chunks.chunk(4, 9, 1, 120, b"\x12\x00\x00\x00\x00\x00", 65_536))
    assert words(viewer.media())[-1] == "inter 80"
    assert encoder.closed is not None


# ---- waiting for a publisher


@pytest.mark.parametrize("form", FORMATS)
def test_with_wait_for_publisher_a_viewer_may_come_first(form):
    talk = Talk(wait_for_publisher=10)
    viewer = watch(talk, form)
    assert viewer.closed is None
    talk.wait(9_000)
    live(talk)
    assert words(viewer.media()) == START
    talk.wait(10_000)
    assert viewer.closed is None


@pytest.mark.parametrize("form", FORMATS)
def test_the_wait_ends_with_the_same_answer_as_without(form):
    talk = Talk(wait_for_publisher=10)
    viewer = watch(talk, form)
    talk.wait(5_000)
    second = watch(talk, form)
    talk.wait(5_000)
    assert viewer.closed is not None
    assert second.closed is None
    if form == "rtmp":
        assert viewer.statuses()[-1] == "NetStream.Play.StreamNotFound"
    else:
        assert viewer.status == 404
        assert viewer.body.startswith("Nothing is live at /live/show now.")
    talk.wait(5_000)
    assert second.closed is not None
    assert talk.ended["live/show"] == "nobody waits for it any more"


def test_a_broadcast_nobody_waits_for_ends():
    talk = Talk(wait_for_publisher=10)
    talk.get("/live/show.flv").hang_up()
    assert "live/show" in talk.ended


def test_head_does_not_wait():
    talk = Talk(wait_for_publisher=10)
    talk.get("/live/show.flv")
    assert talk.request("HEAD", "/live/show.flv").status == 404
    assert talk.request("HEAD", "/live/other.flv").status == 404


# ---- restart and stop


def test_after_a_restart_links_and_state_agree_again():
    talk = Talk()
    encoder = live(talk)
    viewers = [watch(talk, form) for form in FORMATS]
    gone = talk.get("/live/show.flv")
    checkpoint = copy.deepcopy(talk.sessions["live/show"])
    talk.wait(4_000)
    encoder.send(inter(4_000))
    unknown = talk.get("/live/show.flv")
    talk.links[gone.link.number].session, gone.link.closed = "", "lost while it was down"
    talk.restart("live/show", checkpoint)
    assert encoder.closed == "the broadcast was restarted"
    assert unknown.closed == "the broadcast was restarted"
    assert talk.describe("live/show")["viewers_by"] == {"flv": 2, "ws": 1, "rtmp": 1}
    talk.encoder().publish("show").send(*HEADERS, key(0))
    for viewer in viewers:
        assert viewer.closed is None
        assert [word.split()[0] for word in words(viewer.media())][-4:] == ["meta", "video", "stereo", "key"]
        times = [timestamp for kind, timestamp, _ in viewer.media() if kind != 18]
        assert times == sorted(times)


def test_a_restart_without_a_checkpoint_closes_everyone_and_ends():
    talk = Talk()
    encoder = live(talk)
    viewer = talk.get("/live/show.flv")
    talk.restart("live/show", streamd.live.begin("live/show", talk.settings, talk.now))
    assert encoder.closed == viewer.closed == "the broadcast was restarted"
    assert "live/show" in talk.ended


def test_stopping_tells_the_publisher_and_finishes_the_viewers():
    talk = Talk()
    encoder = live(talk)
    viewers = {form: watch(talk, form) for form in FORMATS}
    listener = talk.player()
    talk.stop()
    assert encoder.told()[-1] == ("NetStream.Unpublish.Success", "The server is stopping.")
    assert viewers["rtmp"].statuses()[-1] == "NetStream.Play.UnpublishNotify"
    assert viewers["ws"].frames()[-1] == (8, b"\x03\xe9The server is stopping.")
    assert all(peer.closed is not None for peer in (encoder, listener, *viewers.values()))
    assert talk.sessions == {}


# ---- for the operator


def test_describe_says_what_runs():
    talk = Talk()
    encoder = live(talk)
    for form in FORMATS:
        watch(talk, form)
    for step in range(1, 51):
        talk.wait(100)
        encoder.send(inter(step * 100, 12_500))
    told = talk.describe("live/show")
    assert 950 <= told.pop("bitrate_kbps") <= 1_050
    assert told == {
        "kind": "broadcast",
        "phase": "live",
        "publisher": {
            "link": 1,
            "peer": "10.0.0.1:5000",
            "protocol": "rtmp",
            "encoder": "test/1.0",
            "since_ms": 5_000,
        },
        "viewers": 4,
        "viewers_by": {"flv": 2, "ws": 1, "rtmp": 1},
        "waiting": 0,
        "video": "h264 320x240",
        "audio": "aac 48000 Hz, 2 channels",
        "title": "A show",
        "uptime_ms": 5_000,
    }
    encoder.hang_up()
    told = talk.describe("live/show")
    assert (told["publisher"], told["bitrate_kbps"], told["video"]) == (None, 0, "")


def test_the_bitrate_of_a_silent_publisher_is_0_within_seconds():
    talk = Talk()
    encoder = live(talk)
    for step in range(1, 51):
        talk.wait(100)
        encoder.send(inter(step * 100, 12_500))
    talk.wait(4_000)
    told = talk.describe("live/show")
    assert (told["phase"], told["bitrate_kbps"], told["uptime_ms"]) == ("live", 0, 8_000)
    encoder.send(inter(9_000, 50_000))
    talk.wait(2_000)
    assert 100 <= talk.describe("live/show")["bitrate_kbps"] <= 300
