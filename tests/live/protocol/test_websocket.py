"""WebSocket frames from a viewer's page: answered, dropped or refused."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.live.protocol import websocket as ws
from streamd.runtime.vocabulary import PeerError

MASK = b"\x01\x02\x03\x04"


def masked(opcode: int, payload: bytes, final: bool = True) -> bytes:
    """A frame as a client sends it."""
    head = bytes((opcode | (0x80 if final else 0),))
    size = len(payload)
    if size < 126:
        head += bytes((0x80 | size,))
    elif size <= 0xFFFF:
        head += b"\xfe" + struct.pack(">H", size)
    else:
        head += b"\xff" + struct.pack(">Q", size)
    return head + MASK + bytes(byte ^ MASK[index & 3] for index, byte in enumerate(payload))


def events(*pieces: bytes) -> list[ws.Event]:
    reader, found = ws.Reader(), []
    for piece in pieces:
        ws.feed(reader, piece)
        while (event := ws.pull(reader)) is not None:
            found.append(event)
    return found


def test_the_key_of_the_standard_gets_the_answer_of_the_standard() -> None:
    assert ws.accept_key("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (masked(ws.PING, b"hello"), [("ping", b"hello")]),
        (masked(ws.PING, b"") + masked(ws.PING, b"x" * 125), [("ping", b""), ("ping", b"x" * 125)]),
        (masked(ws.PONG, b"late"), []),
        (masked(ws.CLOSE, b""), [("close", 1005, "")]),
        (masked(ws.CLOSE, b"\x03\xe8bye"), [("close", 1000, "bye")]),
        (masked(ws.CLOSE, b"\x03\xe9") + masked(ws.PING, b"after"), [("close", 1001, "")]),
        (masked(ws.TEXT, b"a" * 125) + masked(ws.PING, b"1"), [("ping", b"1")]),
        (masked(ws.TEXT, b"a" * 126) + masked(ws.PING, b"1"), [("ping", b"1")]),
        (masked(ws.BINARY, b"a" * 65536) + masked(ws.PING, b"1"), [("ping", b"1")]),
        (
            masked(ws.TEXT, b"a", False) + masked(ws.PING, b"between") + masked(ws.CONTINUATION, b"b"),
            [("ping", b"between")],
        ),
    ],
)
def test_frames_whole_and_byte_by_byte_and_with_trailing_bytes(data: bytes, expected: list[ws.Event]) -> None:
    assert events(data) == expected
    assert events(data + masked(ws.TEXT, b"cut off")[:5]) == expected
    if len(data) < 1000:
        assert events(*(data[at : at + 1] for at in range(len(data)))) == expected


@pytest.mark.parametrize(
    ("data", "because"),
    [
        (ws.frame(ws.PING, b"x"), "not masked"),
        (b"\xc1\x80" + MASK, "reserved bits"),
        (b"\x83\x80" + MASK, "no opcode 3"),
        (b"\x09\x80" + MASK, "fragments"),
        (b"\x89\xfe\x00\x80" + MASK, "too long"),
        (b"\x80\x80" + MASK, "out of order"),
        (masked(ws.TEXT, b"", False) + masked(ws.TEXT, b""), "out of order"),
        (b"\x82\xff" + struct.pack(">Q", 1 << 62), "limit"),
        (b"\x82\xff" + struct.pack(">Q", ws.MAX_FRAME + 1), "limit"),
        (masked(ws.CLOSE, b"\x03"), "half a code"),
        (masked(ws.CLOSE, struct.pack(">H", 1005)), "code 1005"),
        (masked(ws.CLOSE, struct.pack(">H", 99)), "code 99"),
        (masked(ws.CLOSE, b"\x03\xe8\xff"), "not UTF-8"),
    ],
)
def test_what_the_standard_forbids_is_the_peers_fault(data: bytes, because: str) -> None:
    with pytest.raises(PeerError, match=because):
        events(data)
    with pytest.raises(PeerError, match=because):
        events(*(data[at : at + 1] for at in range(len(data))))


def test_a_long_frame_is_dropped_as_it_comes_and_never_kept() -> None:
    reader = ws.Reader()
    data = masked(ws.BINARY, bytes(ws.MAX_FRAME))
    for at in range(0, len(data), 1000):
        ws.feed(reader, data[at : at + 1000])
        assert ws.pull(reader) is None
        assert len(reader.buffer) <= 14
    assert reader.skip == 0
    assert not reader.message


@pytest.mark.parametrize(
    ("size", "head"),
    [
        (0, b"\x82\x00"),
        (125, b"\x82\x7d"),
        (126, b"\x82\x7e\x00\x7e"),
        (65535, b"\x82\x7e\xff\xff"),
        (65536, b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
    ],
)
def test_our_frames_have_the_shortest_head(size: int, head: bytes) -> None:
    assert ws.binary(bytes(size)) == head + bytes(size)


def test_our_close_fits_a_control_frame() -> None:
    assert ws.close(ws.GOING_AWAY, "over") == b"\x88\x06\x03\xe9over"
    assert ws.close(ws.NO_CODE, "unsaid") == b"\x88\x00"
    long = ws.close(ws.NORMAL, "é" * 100)
    assert long[1] == 124
    assert long[4:].decode() == "é" * 61
    assert ws.pong(b"hello") == b"\x8a\x05hello"


@given(st.lists(st.binary(max_size=40), max_size=8))
@settings(max_examples=300)
def test_garbage_gives_events_or_a_peer_error(pieces: list[bytes]) -> None:
    try:
        cut = events(*pieces)
    except PeerError:
        return
    assert events(b"".join(pieces)) == cut
