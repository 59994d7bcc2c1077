"""RTMP viewers: pause, sound or picture off, other names on the same connection, signs of life, bad bytes."""

from __future__ import annotations

import copy

import pytest

from tests.live.handlers.dialogue import (
    FORMATS,
    HEADERS,
    LARGE,
    MONO,
    Talk,
    audio_header,
    inter,
    key,
    sound,
    video_header,
    words,
)

START = ["meta", "video small", "stereo", "key 0", "sound 0", "inter 40"]


def show(**settings):
    talk = Talk(**settings)
    encoder = talk.encoder().publish("show").send(*HEADERS, key(0), sound(0), inter(40))
    return talk, encoder, talk.player().play("show")


def test_play_is_answered_before_the_first_message():
    _, _, player = show()
    assert player.statuses() == [
        "NetConnection.Connect.Success",
        "NetStream.Play.Reset",
        "NetStream.Play.Start",
    ]
    assert words(player.media()) == START


def test_a_paused_viewer_gets_nothing_and_goes_on_at_the_latest_key_frame():
    talk, encoder, player = show()
    player.command("pause", 0, None, True, 40)
    assert player.statuses()[-1] == "NetStream.Pause.Notify"
    encoder.send(inter(80), key(120), sound(125))
    assert words(player.media()) == START
    player.command("pause", 0, None, False, 40)
    assert player.statuses()[-1] == "NetStream.Unpause.Notify"
    encoder.send(inter(160))
    assert words(player.media()) == [
        *START,
        "meta",
        "video small",
        "stereo",
        "key 120",
        "sound 125",
        "inter 160",
    ]
    assert talk.describe("live/show")["viewers"] == 1


def test_a_viewer_that_resumes_while_the_publisher_is_away_waits_for_its_key_frame():
    talk, encoder, player = show()
    player.command("pause", 0, None, True, 40)
    encoder.hang_up()
    player.command("pause", 0, None, False, 40)
    assert words(player.media()) == START
    talk.encoder().publish("show").send(*HEADERS, key(0))
    assert [word.split()[0] for word in words(player.media())[len(START) :]] == [
        "meta",
        "video",
        "stereo",
        "key",
    ]


def test_a_viewer_that_pauses_while_it_waits_gets_nothing_until_it_resumes():
    talk = Talk()
    encoder = talk.encoder().publish("show")
    player = talk.player().play("show")
    player.command("pause", 0, None, True, 0)
    encoder.send(*HEADERS, key(0))
    assert player.media() == []
    player.command("pause", 0, None, False, 0)
    assert words(player.media()) == ["meta", "video small", "stereo", "key 0"]


def test_seek_is_answered_and_the_stream_stays_live():
    _, encoder, player = show()
    player.command("seek", 0, None, 1_000)
    assert player.statuses()[-1] == "NetStream.Seek.Notify"
    encoder.send(inter(80))
    assert words(player.media()) == [*START, "inter 80"]


# ---- sound or picture off


def test_without_pictures_there_is_sound_from_the_next_frame_on():
    _, encoder, player = show()
    player.command("receiveVideo", 0, None, False)
    encoder.send(inter(80), sound(80), key(120), audio_header(MONO), inter(160), sound(160))
    assert words(player.media())[len(START) :] == ["meta", "stereo", "sound 80", "mono", "sound 160"]
    player.command("receiveVideo", 0, None, True)
    assert words(player.media())[-4:] == ["key 120", "inter 160", "mono", "sound 160"]


def test_without_sound_there_are_pictures_from_the_next_key_frame_on():
    _, encoder, player = show()
    player.command("receiveAudio", 0, None, False)
    encoder.send(inter(80), sound(80), video_header(LARGE), key(120), sound(120), inter(160))
    assert words(player.media())[len(START) :] == [
        "meta",
        "video small",
        "video large",
        "key 120",
        "inter 160",
    ]


def test_a_side_group_is_muxed_only_while_it_has_members_and_never_starts_in_its_past():
    talk, encoder, player = show()
    second = talk.player().play("show")
    player.command("receiveAudio", 0, None, False)
    encoder.send(key(80))
    assert len(talk.last) == len(FORMATS) + 1
    player.command("receiveAudio", 0, None, True)
    encoder.send(key(120))
    assert len(talk.last) == len(FORMATS)
    before = len(second.media())
    second.command("receiveAudio", 0, None, False)
    encoder.send(inter(160), key(200), inter(240))
    assert words(second.media())[before:] == ["meta", "video small", "key 200", "inter 240"]
    third = talk.player().play("show")
    third.command("receiveAudio", 0, None, False)
    assert words(third.media())[-4:] == ["meta", "video small", "key 200", "inter 240"]
    second.hang_up()
    third.hang_up()
    encoder.send(key(280))
    assert len(talk.last) == len(FORMATS)


def test_a_viewer_that_wants_neither_gets_nothing():
    _, encoder, player = show()
    player.command("receiveAudio", 0, None, False)
    player.command("receiveVideo", 0, None, False)
    before = len(player.media())
    encoder.send(key(80), sound(80))
    assert len(player.media()) == before


# ---- the connection after the stream


def test_a_player_may_change_to_another_name():
    talk, _, player = show()
    talk.encoder().publish("other").send(*HEADERS, key(0), inter(40), inter(80))
    player.command("closeStream", 0, None)
    assert talk.describe("live/show")["viewers"] == 0
    player.play_again("other")
    assert player.closed is None
    assert words(player.media()) == [*START, "meta", "video small", "stereo", "key 0", "inter 40", "inter 80"]


def test_a_player_that_stops_and_says_nothing_more_is_closed_in_time():
    talk, _, player = show(handshake_timeout=10)
    player.command("deleteStream", 0, None, 1)
    talk.wait(9_999)
    assert player.closed is None
    talk.wait(1)
    assert player.closed == "did not say within 10 s what it wants"


# ---- life and death


def test_a_viewer_that_answers_pings_stays_and_a_dead_one_does_not():
    talk, encoder, alive = show()
    dead = talk.player().play("show")
    for second in range(1, 121):
        talk.wait(1_000)
        encoder.send(inter(second * 1_000))
        if second % 20 == 1:
            alive.data(b"\x02\x00\x00\x00\x00\x00\x06\x04\x00\x00\x00\x00\x00\x07\x00\x00\x00\x00")
    assert alive.pings() == 6
    assert alive.closed is None
    assert dead.closed == "gave no sign of life for 65 s"
    assert dead.pings() == 3


def test_no_pings_without_anyone_to_ping():
    talk, _, player = show()
    player.hang_up()
    talk.wait(20_000)
    assert ("live/show", "ping") not in talk.timers


@pytest.mark.parametrize("data", [b"\xff" * 64, b"\x02\x00\x00\x00\xff\xff\xff\x14\x00\x00\x00\x00"])
def test_malformed_bytes_cost_the_viewer_only_its_own_connection(data):
    talk, encoder, player = show()
    other = talk.player().play("show")
    player.data(data)
    assert player.closed is not None
    encoder.send(inter(80))
    assert words(other.media()) == [*START, "inter 80"]
    assert talk.describe("live/show")["viewers"] == 1


def test_after_a_restart_what_a_viewer_says_is_not_read_any_more():
    talk, encoder, player = show()
    talk.restart("live/show", copy.deepcopy(talk.sessions["live/show"]))
    assert encoder.closed is not None
    player.data(b"\xff" * 64)
    talk.encoder().publish("show").send(*HEADERS, key(0))
    talk.wait(100_000)
    assert words(player.media())[-1].startswith("key")
