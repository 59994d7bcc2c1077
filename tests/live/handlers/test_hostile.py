"""Peers that send anything at all cost their own connection, never the broadcast, and never crash the step."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.live.handlers.dialogue import FORMATS, HEADERS, Talk, inter, key, watch, words

PAYLOAD = st.one_of(
    st.binary(max_size=60),
    st.binary(max_size=40).map(lambda rest: b"\x17\x00\x00\x00\x00" + rest),
    st.binary(max_size=40).map(lambda rest: b"\x17\x01\x00\x00\x00" + rest),
    st.binary(max_size=40).map(lambda rest: b"\xaf\x00" + rest),
    st.binary(max_size=40).map(lambda rest: b"\x02\x00\x0aonMetaData" + rest),
    st.binary(max_size=40).map(lambda rest: b"\x02\x00\x0d@setDataFrame" + rest),
)
MESSAGES = st.lists(
    st.tuples(
        st.sampled_from([1, 2, 3, 4, 5, 6, 8, 9, 15, 17, 18, 20, 22]), st.integers(0, 2**32 - 1), PAYLOAD
    ),
    max_size=12,
)


@settings(max_examples=200, deadline=None)
@given(MESSAGES)
def test_a_publisher_may_send_any_message(messages):
    talk = Talk()
    encoder = talk.encoder().publish("show").send(*HEADERS, key(0))
    viewers = [watch(talk, form) for form in FORMATS]
    encoder.send(*messages)
    encoder.hang_up()
    assert talk.encoder().publish("show").send(*HEADERS, key(0)).closed is None
    for viewer in viewers:
        assert viewer.closed is None
        assert words(viewer.media())[-1].startswith("key")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=5), st.sampled_from(FORMATS))
def test_a_viewer_may_send_any_bytes(pieces, form):
    talk = Talk()
    encoder = talk.encoder().publish("show").send(*HEADERS, key(0))
    hostile, other = watch(talk, form), watch(talk, form)
    for piece in pieces:
        hostile.data(piece)
    encoder.send(inter(40))
    assert encoder.closed is None
    assert words(other.media())[-1] == "inter 40"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=2_000), max_size=4), st.booleans())
def test_a_newcomer_may_send_any_bytes(pieces, hello):
    talk = Talk(handshake_timeout=10)
    peer = talk.encoder()
    if hello:
        peer.hello()
    for piece in pieces:
        peer.data(piece)
    talk.wait(10_000)
    assert peer.closed is not None
    assert talk.sessions == {}


@settings(max_examples=200, deadline=None)
@given(
    st.text(max_size=40),
    st.sampled_from(["GET", "HEAD", "OPTIONS", "POST", ""]),
    st.dictionaries(st.text(), st.text()),
)
def test_any_request_is_answered(path, method, headers):
    for target in (path, "/live/" + path, "/live/" + path + ".flv"):
        viewer = Talk().request(method, target, headers)
        assert viewer.status in (200, 204, 404, 405, 426)
