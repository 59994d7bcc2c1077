"""Viewers over HTTP and WebSocket: heads of answers, upgrades, frames of their own, farewells."""

from __future__ import annotations

import pytest

from streamd.live.handlers import watch_flv
from tests.live.handlers.dialogue import HEADERS, KEY, Talk, again, inter, key, watch, words


def show(**settings):
    talk = Talk(**settings)
    return talk, talk.encoder().publish("show").send(*HEADERS, key(0))


def test_an_flv_answer_may_be_read_from_any_origin_and_is_not_stored():
    talk, _ = show()
    viewer = talk.get("/live/show.flv")
    assert viewer.status == 200
    assert viewer.headers["Content-Type"] == "video/x-flv"
    assert viewer.headers["Access-Control-Allow-Origin"] == "*"
    assert viewer.headers["Cache-Control"] == "no-store"
    assert viewer.link.response.stream
    assert viewer.flv().startswith(b"FLV\x01\x05")


def test_the_head_is_a_chunk_and_so_is_each_unit():
    talk, encoder = show()
    viewer = talk.get("/live/show.flv")
    assert viewer.headers["Transfer-Encoding"] == "chunked"
    head, unit = viewer.chunks()
    assert (head[:3], unit[0]) == (b"FLV", 18)
    encoder.send(inter(40), inter(80))
    assert [chunk[0] for chunk in viewer.chunks()[2:]] == [9, 9]
    assert not viewer.ended()


def test_over_http_1_0_it_is_the_same_without_chunks():
    talk, encoder = show()
    encoder.send(inter(40))
    older, newer = watch(talk, "flv.raw"), watch(talk, "flv")
    encoder.send(inter(80), key(120))
    assert "Transfer-Encoding" not in older.headers
    assert older.link.out.startswith(b"FLV\x01\x05")
    assert older.media() == newer.media()
    assert talk.describe("live/show")["viewers_by"] == {"flv": 2, "ws": 0, "rtmp": 0}
    older.hang_up()
    assert talk.describe("live/show")["viewers"] == 1


@pytest.mark.parametrize("joined", [True, False])
def test_the_last_chunk_comes_with_the_end_of_the_broadcast(joined):
    talk = Talk(publisher_grace=1)
    encoder = talk.encoder().publish("show").send(*HEADERS, *([key(0)] if joined else []))
    viewer, older = watch(talk, "flv"), watch(talk, "flv.raw")
    encoder.hang_up()
    assert not viewer.ended()
    talk.wait(1_000)
    assert (viewer.closed, viewer.ended()) == ("The broadcast has ended.", True)
    assert (older.closed, older.flv()) == (viewer.closed, viewer.flv())


def test_the_last_chunk_comes_when_the_server_stops():
    talk, _ = show()
    viewer = talk.get("/live/show.flv")
    talk.stop()
    assert (viewer.closed, viewer.ended()) == ("The server is stopping.", True)


@pytest.mark.parametrize("cut", ["too slow", "crash", "restart"])
def test_a_viewer_that_is_cut_off_gets_no_last_chunk(cut):
    talk, _ = show()
    before = again(talk.sessions["live/show"])
    viewer = talk.get("/live/show.flv")
    if cut == "too slow":
        talk.close(viewer.link, "too slow: behind for 60 s")
    elif cut == "crash":
        talk.end("live/show", "crashed more than 5 times in 10 s")
    else:
        talk.restart("live/show", before)
    assert viewer.closed
    assert not viewer.ended()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_head_has_the_same_headers_and_no_stream(version):
    talk, _ = show()
    head = talk.request("HEAD", "/live/show.flv", version=version)
    viewer = talk.request("GET", "/live/show.flv", version=version)
    assert head.status == 200
    assert head.headers == viewer.headers
    assert not head.link.response.stream
    assert head.closed == "answered"
    assert head.link.out == b""
    assert talk.describe("live/show")["viewers"] == 1


def test_state_of_an_http_viewer_is_a_number():
    talk, _ = show()
    for _ in range(3):
        talk.get("/live/show.flv")
    assert all(type(value) is int for value in talk.sessions["live/show"].audience.flv.values())


def test_what_an_http_viewer_sends_is_ignored():
    talk, encoder = show()
    viewer = talk.get("/live/show.flv")
    viewer.data(b"GET / HTTP/1.1\r\n\r\n")
    encoder.send(inter(40))
    assert words(viewer.media())[-1] == "inter 40"


def test_an_upgrade_is_granted_with_the_key_of_the_standard():
    talk, _ = show()
    viewer = talk.websocket("/live/show.flv")
    assert viewer.status == 101
    assert viewer.headers == {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Accept": "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
    }


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"sec-websocket-version": "8"}, "version 13"),
        ({"sec-websocket-key": "short"}, "Sec-WebSocket-Key"),
        ({"sec-websocket-key": ""}, "Sec-WebSocket-Key"),
    ],
)
def test_an_upgrade_that_is_none_is_refused(change, sentence):
    talk, _ = show()
    headers = {"upgrade": "websocket", "sec-websocket-key": KEY, "sec-websocket-version": "13"} | change
    viewer = talk.get("/live/show.flv", **headers)
    assert viewer.status == 426
    assert viewer.headers["Sec-WebSocket-Version"] == "13"
    assert sentence in viewer.body


def test_an_upgrade_over_http_1_0_is_ignored():
    talk, _ = show()
    headers = {"upgrade": "websocket", "sec-websocket-key": KEY, "sec-websocket-version": "13"}
    viewer = talk.request("GET", "/live/show.flv", headers, version="1.0")
    assert (viewer.status, viewer.flv()[:3]) == (200, b"FLV")


def test_an_upgrade_of_nothing_is_404_before_the_upgrade():
    viewer = Talk().websocket("/live/show.flv")
    assert viewer.status == 404
    assert viewer.body.startswith("Nothing is live at /live/show now.")


def test_a_unit_is_one_binary_message():
    talk, encoder = show()
    viewer = talk.websocket("/live/show.flv")
    before = len(viewer.frames())
    encoder.send(inter(40), inter(80))
    assert [opcode for opcode, _ in viewer.frames()[before:]] == [2, 2]


def test_pings_are_answered_and_words_are_not():
    talk, _ = show()
    viewer = talk.websocket("/live/show.flv")
    before = len(viewer.frames())
    viewer.say(9, b"are you there")
    viewer.say(1, b"hello")
    assert viewer.frames()[before:] == [(10, b"are you there")]


@pytest.mark.parametrize(("payload", "answer"), [(b"\x03\xe9bye", b"\x03\xe9"), (b"", b"\x03\xe8")])
def test_a_close_is_answered(payload, answer):
    talk, _ = show()
    viewer = talk.websocket("/live/show.flv")
    viewer.say(8, payload)
    assert viewer.frames()[-1] == (8, answer)
    assert viewer.closed == "closed by the viewer"
    assert talk.describe("live/show")["viewers"] == 0


def test_malformed_frames_cost_the_viewer_only_its_own_connection():
    talk, encoder = show()
    viewer, other = talk.websocket("/live/show.flv"), talk.websocket("/live/show.flv")
    viewer.data(b"\x82\x05hello")  # not masked
    assert "masked" in viewer.closed
    encoder.send(inter(40))
    assert words(other.media())[-1] == "inter 40"


def test_a_viewer_that_pongs_stays_and_a_dead_one_does_not():
    talk, encoder = show()
    alive, dead = talk.websocket("/live/show.flv"), talk.websocket("/live/show.flv")
    for second in range(1, 121):
        talk.wait(1_000)
        encoder.send(inter(second * 1_000))
        if second % 20 == 1:
            alive.say(10, b"")
    assert alive.closed is None
    assert dead.closed == "gave no sign of life for 65 s"


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [
        ({}, False),
        ({"upgrade": "WebSocket"}, True),
        ({"upgrade": "h2c"}, False),
        ({"upgrade": "h2c, websocket"}, True),
    ],
)
def test_an_upgrade_is_recognised(headers, wanted):
    assert watch_flv.wants_upgrade(headers) is wanted
