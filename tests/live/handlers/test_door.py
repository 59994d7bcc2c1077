"""The door: routes, refusals, time-outs, and connections that never say anything sensible."""

from __future__ import annotations

import pytest

from streamd.live.handlers import door
from streamd.live.handlers.page import POLICY
from tests.live.handlers.dialogue import HEADERS, Talk, key, words


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/live/show.flv", ("show", "flv")),
        ("/live/show", ("show", "page")),
        ("/live/show/", ("show", "page")),
        ("/live/a.b-c_d~e.flv", ("a.b-c_d~e", "flv")),
        ("/live/Größe.flv", ("Größe", "flv")),
        ("/live/show.flv.flv", ("show.flv", "flv")),
        ("/", ("", "")),
        ("/live", ("", "")),
        ("/live/", ("", "")),
        ("/live/.flv", ("", "")),
        ("/live/..", ("", "")),
        ("/live/../etc", ("", "")),
        ("/live/show/more", ("", "")),
        ("/live/show/more.flv", ("", "")),
        ("/other/show.flv", ("", "")),
        ("live/show.flv", ("", "")),
        ("/live/a b.flv", ("", "")),
        ("/live/%41.flv", ("", "")),
        ("/live/" + "x" * 128, ("x" * 128, "page")),
        ("/live/" + "x" * 129, ("", "")),
    ],
)
def test_routes(path, found):
    assert door.route(path) == found


def test_nothing_live_is_404_with_a_sentence_that_helps():
    viewer = Talk().get("/live/show.flv")
    assert viewer.status == 404
    assert viewer.headers["Access-Control-Allow-Origin"] == "*"
    assert viewer.body == (
        "Nothing is live at /live/show now. Publish to rtmp://THIS-SERVER/live/show and ask again.\n"
    )


def test_an_unknown_path_is_404_and_names_the_known_ones():
    viewer = Talk().get("/elsewhere")
    assert viewer.status == 404
    assert "/live/NAME.flv" in viewer.body


@pytest.mark.parametrize("path", ["/live/show.flv", "/live/show", "/elsewhere"])
def test_options_are_answered_for_other_origins(path):
    viewer = Talk().request("OPTIONS", path)
    assert viewer.status == 204
    assert viewer.headers["Allow"] == viewer.headers["Access-Control-Allow-Methods"] == "GET, HEAD, OPTIONS"
    assert viewer.headers["Access-Control-Allow-Origin"] == "*"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_other_methods_are_405(method):
    viewer = Talk().request(method, "/live/show.flv")
    assert viewer.status == 405
    assert viewer.headers["Allow"] == "GET, HEAD, OPTIONS"


def test_the_page_is_served_whether_or_not_the_broadcast_is_live():
    viewer = Talk().get("/live/show")
    assert viewer.status == 200
    assert viewer.headers["Content-Security-Policy"] == POLICY
    assert 'data-name="show"' in viewer.body


def test_the_page_may_be_switched_off():
    assert Talk(page=False).get("/live/show").status == 404


def test_a_door_ends_when_its_link_has_left():
    talk = Talk()
    talk.get("/elsewhere")
    talk.encoder().publish("show").send(*HEADERS, key(0))
    talk.player().play("show")
    talk.player().hang_up()
    assert list(talk.sessions) == ["live/show"]


# ---- RTMP


def test_play_of_nothing_is_stream_not_found():
    player = Talk().player().play("show")
    assert player.told()[-1] == (
        "NetStream.Play.StreamNotFound",
        "Nothing is live at /live/show now. Publish to rtmp://THIS-SERVER/live/show and ask again.",
    )
    assert player.closed == "live/show is not live"


@pytest.mark.parametrize("app", ["", "vod", "live/more"])
def test_another_application_is_refused(app):
    talk = Talk()
    encoder = talk.encoder()
    encoder.hello(app)
    assert encoder.statuses()[-1] == "NetConnection.Connect.Rejected"
    assert encoder.closed is not None


@pytest.mark.parametrize("name", ["", "..", "a b", "a/b", "x" * 129])
def test_a_name_that_cannot_be_one_is_refused(name):
    talk = Talk()
    encoder, player = talk.encoder().publish(name), talk.player().play(name)
    assert encoder.statuses()[-1] == "NetStream.Publish.BadName"
    assert player.statuses()[-1] == "NetStream.Play.StreamNotFound"
    assert encoder.closed is not None
    assert player.closed is not None
    assert talk.sessions == {}


def test_a_query_behind_the_name_is_not_part_of_it():
    talk = Talk()
    talk.encoder().publish("show?key=1").send(*HEADERS, key(0))
    assert words(talk.player().play("show?token=2").media())[-1] == "key 0"


def dictate(talk):
    """A new connection's way to the server, and all that an encoder says until its first key frame."""
    encoder = talk.encoder()
    said: list[bytes] = []
    take, encoder.data = encoder.data, said.append
    encoder.publish("show").send(*HEADERS, key(0))
    return take, b"".join(said)


def test_the_whole_dialogue_may_come_byte_by_byte():
    talk = Talk()
    take, said = dictate(talk)
    for byte in said:
        take(bytes((byte,)))
    assert words(talk.get("/live/show.flv").media()) == ["meta", "video small", "stereo", "key 0"]


def test_the_whole_dialogue_may_come_at_once():
    talk = Talk()
    take, said = dictate(talk)
    take(said)
    assert words(talk.get("/live/show.flv").media()) == ["meta", "video small", "stereo", "key 0"]


@pytest.mark.parametrize("said", [b"", b"\x03", b"\x03" + bytes(1000)])
def test_a_connection_that_says_too_little_is_closed_in_time(said):
    talk = Talk(handshake_timeout=10)
    peer = talk.encoder()
    peer.data(said)
    talk.wait(9_999)
    assert peer.closed is None
    talk.wait(1)
    assert peer.closed == "did not say within 10 s what it wants"
    assert talk.sessions == {}


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01", b"\x03" + b"\xff" * 8000])
def test_garbage_costs_the_connection(said):
    talk = Talk()
    peer = talk.encoder()
    peer.data(said)
    assert peer.closed is not None
    assert talk.sessions == {}


def test_a_publisher_that_comes_while_the_server_stops_is_refused():
    talk = Talk()
    encoder = talk.encoder()
    encoder.hello()
    talk.stopping = True
    encoder.command("publish", 3, None, "show", "live")
    assert encoder.told()[-1] == ("NetStream.Publish.Denied", "live/show cannot be published now: stopping.")


def test_a_door_without_its_state_closes_its_link():
    talk = Talk()
    peer = talk.encoder()
    talk.restart(peer.link.session, talk.sessions[peer.link.session])
    assert peer.closed == "restarted before it said what it wants"


def test_describe_of_a_door():
    talk = Talk()
    peer = talk.encoder()
    assert talk.describe(peer.link.session)["kind"] == "door"
