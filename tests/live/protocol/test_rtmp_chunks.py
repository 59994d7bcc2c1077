"""The chunk layer: every header form, every cut, every limit."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.live.protocol import rtmp_chunks as chunks
from streamd.live.protocol.rtmp_chunks import Message, chunk
from streamd.runtime.vocabulary import PeerError

AUDIO, VIDEO = 8, 9
EXT = b"\xff\xff\xff"


def u24(value: int) -> bytes:
    return value.to_bytes(3, "big")


def u32(value: int) -> bytes:
    return struct.pack(">I", value)


def full(csid: int, time: bytes, size: int, type: int = VIDEO, stream: int = 1) -> bytes:
    """A type 0 header."""
    return chunks.basic_header(0, csid) + time + u24(size) + bytes((type,)) + struct.pack("<I", stream)


def delta(csid: int, time: bytes, size: int, type: int = VIDEO) -> bytes:
    """A type 1 header."""
    return chunks.basic_header(1, csid) + time + u24(size) + bytes((type,))


def same_size(csid: int, time: bytes) -> bytes:
    """A type 2 header."""
    return chunks.basic_header(2, csid) + time


def again(csid: int) -> bytes:
    """A type 3 header."""
    return chunks.basic_header(3, csid)


def set_chunk_size(size: int) -> bytes:
    return chunk(2, chunks.SET_CHUNK_SIZE, 0, 0, u32(size), 128)


def read(pieces: Iterator[bytes] | list[bytes], max_message: int = 1 << 16) -> list[Message]:
    reader = chunks.Reader()
    chunks.allow(reader, max_message)
    found = []
    for piece in pieces:
        chunks.feed(reader, piece)
        while (message := chunks.pull(reader)) is not None:
            found.append(message)
    return found


def cuts(data: bytes) -> list[list[bytes]]:
    """The same bytes whole, one by one, in threes, and whole with the beginning of another message behind."""
    return [
        [data],
        [data[at : at + 1] for at in range(len(data))],
        [data[at : at + 3] for at in range(0, len(data), 3)],
        [data + full(9, u24(1), 50)[:7]],
        [data + full(9, u24(1), 50) + b"part"],
    ]


A, B, LONG = b"a" * 10, b"b" * 10, bytes(range(256)) * 2

DIALOGUES: list[tuple[str, bytes, list[Message]]] = [
    ("nothing", b"", []),
    ("type 0", full(3, u24(1000), 10) + A, [(VIDEO, 1, 1000, A)]),
    ("type 0 with a message stream in little endian", full(3, u24(0), 10, stream=258) + A, [(VIDEO, 258, 0, A)]),
    ("type 1 keeps the stream and adds", full(3, u24(5), 10) + A + delta(3, u24(7), 3, AUDIO) + b"xyz",
     [(VIDEO, 1, 5, A), (AUDIO, 1, 12, b"xyz")]),
    ("type 2 keeps size and type", full(3, u24(5), 10) + A + same_size(3, u24(7)) + B,
     [(VIDEO, 1, 5, A), (VIDEO, 1, 12, B)]),
    ("type 3 after type 2 adds again", full(3, u24(5), 10) + A + same_size(3, u24(7)) + B + again(3) + A,
     [(VIDEO, 1, 5, A), (VIDEO, 1, 12, B), (VIDEO, 1, 19, A)]),
    ("type 3 after type 0 adds its timestamp", full(3, u24(20), 10) + A + again(3) + B,
     [(VIDEO, 1, 20, A), (VIDEO, 1, 40, B)]),
    ("type 1 first, as librtmp pings", delta(2, u24(0), 6, 4) + b"\x00\x06" + u32(9),
     [(4, 0, 0, b"\x00\x06\x00\x00\x00\x09")]),
    ("two bytes of chunk stream id", full(64, u24(1), 10) + A + again(64) + B,
     [(VIDEO, 1, 1, A), (VIDEO, 1, 2, B)]),
    ("three bytes of chunk stream id", full(65599, u24(1), 10) + A + same_size(65599, u24(3)) + B,
     [(VIDEO, 1, 1, A), (VIDEO, 1, 4, B)]),
    ("the long form of a short id is the same chunk stream", full(64, u24(1), 10) + A + b"\xc1\x00\x00" + B,
     [(VIDEO, 1, 1, A), (VIDEO, 1, 2, B)]),
    ("an empty message", full(3, u24(1), 0) + full(4, u24(2), 10) + A, [(VIDEO, 1, 1, b""), (VIDEO, 1, 2, A)]),
    ("exactly a chunk", full(3, u24(1), 128) + LONG[:128], [(VIDEO, 1, 1, LONG[:128])]),
    ("one byte more", full(3, u24(1), 129) + LONG[:128] + again(3) + LONG[128:129], [(VIDEO, 1, 1, LONG[:129])]),
    ("many chunks", chunk(3, VIDEO, 1, 77, LONG, 128), [(VIDEO, 1, 77, LONG)]),
    ("many chunks on a long id", chunk(400, VIDEO, 1, 77, LONG, 128), [(VIDEO, 1, 77, LONG)]),
    ("interleaved", full(3, u24(1), 200) + LONG[:128] + full(4, u24(2), 10, AUDIO) + A + again(3) + LONG[128:200],
     [(AUDIO, 1, 2, A), (VIDEO, 1, 1, LONG[:200])]),
    ("interleaved chunk by chunk",
     full(3, u24(1), 150) + LONG[:128] + full(4, u24(2), 140, AUDIO) + LONG[:128]
     + again(3) + LONG[128:150] + again(4) + LONG[128:140],
     [(VIDEO, 1, 1, LONG[:150]), (AUDIO, 1, 2, LONG[:140])]),
    ("a larger chunk size", set_chunk_size(4096) + full(3, u24(1), 512) + LONG, [(VIDEO, 1, 1, LONG)]),
    ("a chunk size that changes inside a message",
     full(3, u24(1), 512) + LONG[:128] + set_chunk_size(384) + again(3) + LONG[128:], [(VIDEO, 1, 1, LONG)]),
    ("the largest chunk size", set_chunk_size(0x7FFFFFFF) + full(3, u24(1), 512) + LONG, [(VIDEO, 1, 1, LONG)]),
    ("abort", full(3, u24(1), 200) + LONG[:128] + chunk(2, 2, 0, 0, u32(3), 128) + again(3) + LONG[:128] + again(3)
     + LONG[128:200], [(VIDEO, 1, 2, LONG[:200])]),
    ("abort of nothing", chunk(2, 2, 0, 0, u32(50), 128) + full(3, u24(1), 10) + A, [(VIDEO, 1, 1, A)]),
    ("protocol control by type 1", full(2, u24(0), 4, 5, 0) + u32(99) + delta(2, u24(0), 4, 1) + u32(256)
     + full(3, u24(1), 200) + LONG[:200], [(5, 0, 0, u32(99)), (VIDEO, 1, 1, LONG[:200])]),
    ("the largest short timestamp", full(3, u24(0xFFFFFE), 10) + A, [(VIDEO, 1, 0xFFFFFE, A)]),
    ("the smallest extended one", full(3, EXT, 10) + u32(0xFFFFFF) + A, [(VIDEO, 1, 0xFFFFFF, A)]),
    ("extended, repeated in type 3", full(3, EXT, 300) + u32(1 << 25) + LONG[:128] + again(3) + u32(1 << 25)
     + LONG[128:256] + again(3) + u32(1 << 25) + LONG[256:300], [(VIDEO, 1, 1 << 25, LONG[:300])]),
    ("extended, not repeated", full(3, EXT, 300) + u32(1 << 25) + LONG[:128] + again(3) + LONG[128:256] + again(3)
     + LONG[256:300], [(VIDEO, 1, 1 << 25, LONG[:300])]),
    ("an extended difference, repeated", full(3, u24(9), 10) + A + delta(3, EXT, 130) + u32(1 << 24) + LONG[:128]
     + again(3) + u32(1 << 24) + LONG[128:130], [(VIDEO, 1, 9, A), (VIDEO, 1, 9 + (1 << 24), LONG[:130])]),
    ("an extended difference, the sum repeated", full(3, u24(9), 10) + A + delta(3, EXT, 130) + u32(1 << 24)
     + LONG[:128] + again(3) + u32(9 + (1 << 24)) + LONG[128:130],
     [(VIDEO, 1, 9, A), (VIDEO, 1, 9 + (1 << 24), LONG[:130])]),
    ("extended in type 2", full(3, u24(9), 10) + A + same_size(3, EXT) + u32(1 << 24) + B,
     [(VIDEO, 1, 9, A), (VIDEO, 1, 9 + (1 << 24), B)]),
    ("a new message by type 3 after an extended one has the same time", full(3, EXT, 10) + u32(1 << 25) + A + again(3)
     + u32(1 << 25) + B, [(VIDEO, 1, 1 << 25, A), (VIDEO, 1, 1 << 25, B)]),
    ("short again after extended", full(3, EXT, 10) + u32(1 << 25) + A + delta(3, u24(40), 130) + LONG[:128] + again(3)
     + LONG[128:130], [(VIDEO, 1, 1 << 25, A), (VIDEO, 1, (1 << 25) + 40, LONG[:130])]),
    ("past 2^32", full(3, EXT, 10) + u32(0xFFFFFFF0) + A + delta(3, u24(32), 10) + B,
     [(VIDEO, 1, 0xFFFFFFF0, A), (VIDEO, 1, 16, B)]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "expected"), [row[1:] for row in DIALOGUES], ids=[row[0] for row in DIALOGUES]
)
def test_chunks_become_messages_however_they_are_cut(data: bytes, expected: list[Message]) -> None:
    for pieces in cuts(data):
        assert read(pieces) == expected


@pytest.mark.parametrize(
    ("data", "because"),
    [
        (again(3), "begins with a header of type 3"),
        (same_size(3, u24(0)), "begins with a header of type 2"),
        (full(3, u24(0), 200) + LONG[:128] + full(3, u24(0), 200), "a new header inside"),
        (full(3, u24(0), 200) + LONG[:128] + delta(3, u24(0), 200), "a new header inside"),
        (full(3, u24(0), 0xFFFFFF), "a message of 16777215 bytes"),
        (full(3, u24(0), 10) + A + delta(3, u24(0), 65537), "a message of 65537 bytes"),
        (set_chunk_size(0), "a chunk size of 0"),
        (set_chunk_size(127), "a chunk size of 127"),
        (set_chunk_size(0x80000000), "a chunk size of 2147483648"),
        (chunk(2, 1, 0, 0, b"\x00", 128), "of 1 bytes"),
        (chunk(2, 2, 0, 0, b"", 128), "of 0 bytes"),
        (b"".join(full(csid, u24(0), 10) + A for csid in range(3, 68)), "more than 64 chunk streams"),
    ],
)
def test_what_rtmp_forbids_is_the_peers_fault(data: bytes, because: str) -> None:
    for pieces in cuts(data)[:3]:
        with pytest.raises(PeerError, match=because):
            read(pieces)


def test_half_read_messages_are_bounded_together() -> None:
    reader = chunks.Reader()
    chunks.allow(reader, 4096)
    with pytest.raises(PeerError, match="half-read messages of"):
        for csid in range(3, 60):
            chunks.feed(reader, full(csid, u24(0), 4000) + bytes(128))
            while chunks.pull(reader) is not None:
                pass
            for _ in range(20):
                chunks.feed(reader, again(csid) + bytes(128))
                chunks.pull(reader)
    assert reader.half_read <= 2 * 4096 + 128


def test_a_declared_length_costs_no_memory() -> None:
    reader = chunks.Reader()
    chunks.feed(reader, set_chunk_size(0x7FFFFFFF) + full(3, u24(0), 8 << 20) + b"x")
    assert chunks.pull(reader) is None
    assert len(reader.streams[3].part) == 1


def test_a_long_message_is_not_copied_again_for_each_read() -> None:
    reader = chunks.Reader()
    chunks.feed(reader, set_chunk_size(1 << 20) + full(3, u24(0), 100_000))
    for _ in range(99):
        chunks.feed(reader, bytes(1000))
        assert chunks.pull(reader) is None
        assert chunks.waiting(reader) == 0
    chunks.feed(reader, bytes(1000))
    message = chunks.pull(reader)
    assert message is not None
    assert len(message[3]) == 100_000
    assert reader.half_read == 0
    assert not reader.streams[3].part


def test_a_lower_limit_holds_for_messages_that_repeat_a_header() -> None:
    reader = chunks.Reader()
    chunks.feed(reader, full(3, u24(0), 100) + bytes(100))
    assert chunks.pull(reader) is not None
    chunks.allow(reader, 50)
    chunks.feed(reader, again(3) + bytes(100))
    with pytest.raises(PeerError, match="a message of 100 bytes"):
        chunks.pull(reader)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 129, 256, 65535, 65536, 65537, 200_000])
@pytest.mark.parametrize("chunk_size", [128, 4096, 65536])
@pytest.mark.parametrize("timestamp", [0, 0xFFFFFE, 0xFFFFFF, 2**31, 2**32 - 1, 2**32 + 5])
def test_what_is_written_can_be_read(size: int, chunk_size: int, timestamp: int) -> None:
    payload = (LONG * (size // 512 + 1))[:size]
    data = set_chunk_size(chunk_size) + chunk(6, VIDEO, 1, timestamp, payload, chunk_size)
    expected = [(VIDEO, 1, timestamp % 2**32, payload)]
    assert read([data], 1 << 20) == expected
    assert read([data[at : at + 1000] for at in range(0, len(data), 1000)], 1 << 20) == expected


messages = st.lists(
    st.tuples(
        st.integers(3, 70),
        st.sampled_from([3, 8, 9, 18, 20]),
        st.integers(0, 2**32 - 1),
        st.binary(max_size=300),
    ),
    max_size=6,
)


@given(messages, st.lists(st.integers(1, 200), min_size=1, max_size=20))
@settings(max_examples=100)
def test_no_cut_changes_what_is_read(rows: list[tuple[int, int, int, bytes]], lengths: list[int]) -> None:
    data = b"".join(chunk(csid, type, 1, time, payload, 128) for csid, type, time, payload in rows)
    pieces: list[bytes] = []
    at = 0
    while at < len(data):
        size = lengths[len(pieces) % len(lengths)]
        pieces.append(data[at : at + size])
        at += size
    assert read(pieces) == [(type, 1, time, payload) for _, type, time, payload in rows]


@given(st.lists(st.binary(max_size=80), max_size=10))
@settings(max_examples=300)
def test_garbage_gives_messages_or_a_peer_error(pieces: list[bytes]) -> None:
    outcomes: list[list[Message] | None] = []
    for cut in (pieces, [b"".join(pieces)]):
        try:
            outcomes.append(read(cut))
        except PeerError:
            outcomes.append(None)
    assert outcomes[0] == outcomes[1]


headers = st.one_of(
    st.builds(
        full,
        st.integers(2, 5),
        st.sampled_from([u24(1), EXT]),
        st.integers(0, 200),
        st.sampled_from([1, 2, 4, 9]),
    ),
    st.builds(
        delta,
        st.integers(2, 5),
        st.sampled_from([u24(1), EXT]),
        st.integers(0, 200),
        st.sampled_from([1, 2, 4, 9]),
    ),
    st.builds(same_size, st.integers(2, 5), st.sampled_from([u24(1), EXT])),
    st.builds(again, st.integers(2, 5)),
    st.binary(max_size=130),
)


@given(st.lists(headers, max_size=12))
@settings(max_examples=300)
def test_headers_in_any_order_are_read_the_same_however_they_are_cut(parts: list[bytes]) -> None:
    data = b"".join(parts)
    outcomes: list[list[Message] | None] = []
    for cut in ([data], [data[at : at + 1] for at in range(len(data))]):
        try:
            outcomes.append(read(cut))
        except PeerError:
            outcomes.append(None)
    assert outcomes[0] == outcomes[1]
