"""AMF0: every marker, the limits, and bodies that lie."""

from __future__ import annotations

import math
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.live.protocol import amf, amf0
from streamd.live.protocol.amf0 import Value
from streamd.runtime.vocabulary import PeerError


def name(text: str) -> bytes:
    return struct.pack(">H", len(text)) + text.encode()


def number(value: float) -> bytes:
    return b"\x00" + struct.pack(">d", value)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", []),
        (number(1.5), [1.5]),
        (b"\x01\x00\x01\x01\x01\x07", [False, True, True]),
        (b"\x02\x00\x03abc", ["abc"]),
        (b"\x02\x00\x04Caf\xe9", ["Café"]),
        (b"\x03" + name("a") + number(1) + amf0.END, [{"a": 1.0}]),
        (b"\x03" + amf0.END, [{}]),
        (b"\x05\x06\x0d", [None, None, None]),
        (b"\x08\x00\x00\x00\x63" + name("a") + b"\x05" + amf0.END, [{"a": None}]),
        (b"\x08\x00\x00\x00\x00" + name("a") + b"\x05", [{"a": None}]),  # the end mark is missing
        (b"\x0a\x00\x00\x00\x02\x01\x01" + number(2), [[True, 2.0]]),
        (b"\x0b" + struct.pack(">dh", 1e12, 60), [1e12]),
        (b"\x0c\x00\x00\x00\x02hi", ["hi"]),
        (b"\x0f\x00\x00\x00\x04<a/>", ["<a/>"]),
        (b"\x10" + name("com.Thing") + name("x") + number(3) + amf0.END, [{"x": 3.0}]),
        (b"\x11\x04\x05", [5.0]),
        (b"\x03" + name("a") + b"\x11\x06\x07abc" + amf0.END, [{"a": "abc"}]),
        # a reference counts containers in the order in which they begin
        (
            b"\x0a\x00\x00\x00\x02\x03" + name("k") + b"\x01\x01" + amf0.END + b"\x07\x00\x01",
            [[{"k": True}] * 2],
        ),
        (b"\x03" + name("") + number(1) + amf0.END, [{"": 1.0}]),  # an empty name is a name
    ],
)
def test_bodies_are_decoded(body: bytes, expected: list[Value]) -> None:
    assert amf0.decode(body) == expected


@pytest.mark.parametrize(
    ("body", "because"),
    [
        (b"\x00\x00", "bytes wanted"),
        (b"\x01", "in the middle"),
        (b"\x02\x00\x05abc", "bytes wanted"),
        (b"\x0c\xff\xff\xff\xffabc", "bytes wanted"),
        (b"\x03\x00\x01", "bytes wanted"),
        (b"\x04", "marker 0x04"),
        (b"\x09", "marker 0x09"),
        (b"\x0e", "marker 0x0e"),
        (b"\x12", "marker 0x12"),
        (b"\x07\x00\x00", "a reference to object 0 of 0"),
        (b"\x0a\x00\x00\x00\x01\x07\x00\x00", "contains itself"),
        (b"\x0a\xff\xff\xff\xff" + b"\x05" * 20_000, "too many values"),
        (b"\x05" * 20_000, "too many values"),
        (b"\x0a\x00\x00\x00\x01" * 40, "too deeply"),
        (b"\x03\x00\x01a" * 40, "too deeply"),
        (b"\x03" + struct.pack(">H", 2000) + b"k" * 2000 + b"\x05" + amf0.END, "a name of 2000 bytes"),
        (number(1) + b"\xff", "marker 0xff"),
    ],
)
def test_what_is_not_amf0_is_the_peers_fault(body: bytes, because: str) -> None:
    with pytest.raises(PeerError, match=because):
        amf0.decode(body)


def test_references_cannot_multiply_a_small_body() -> None:
    """Each array holds the one before twice: 30 of them would have 2^30 leaves."""
    body = b"\x0a\x00\x00\x00\x01\x05"
    for index in range(30):
        body += (
            b"\x0a\x00\x00\x00\x02" + b"\x07" + struct.pack(">H", index) + b"\x07" + struct.pack(">H", index)
        )
    with pytest.raises(PeerError, match="too many values"):
        amf0.decode(body)


def test_a_command_cut_anywhere_is_refused_or_shorter() -> None:
    body = amf0.encode("connect", 1, {"app": "live", "flags": [1, 2]}, None, True)
    whole = amf0.decode(body)
    for cut in range(len(body)):
        try:
            values = amf0.decode(body[:cut])
        except PeerError:
            continue
        assert len(values) < len(whole) or cut == len(body)


@pytest.mark.parametrize(
    ("values", "body"),
    [
        ((), b""),
        ((1,), number(1)),
        ((True, False, None), b"\x01\x01\x01\x00\x05"),
        (("é",), b"\x02\x00\x02\xc3\xa9"),
        (({"a": 1},), b"\x03" + name("a") + number(1) + amf0.END),
        (([1, "x"],), b"\x0a\x00\x00\x00\x02" + number(1) + b"\x02\x00\x01x"),
        (("x" * 65536,), b"\x0c\x00\x01\x00\x00" + b"x" * 65536),
    ],
)
def test_values_are_encoded(values: tuple[Any, ...], body: bytes) -> None:
    assert amf0.encode(*values) == body


def test_an_ecma_array_says_how_many_it_has() -> None:
    body = amf0.encode_ecma({"width": 1280, "title": "€"})
    assert body.startswith(b"\x08\x00\x00\x00\x02")
    assert body.endswith(amf0.END)
    assert amf0.decode(body) == [{"width": 1280.0, "title": "€"}]


@pytest.mark.parametrize("value", [b"bytes are a sequence of numbers", 1j, object()])
def test_what_amf0_cannot_say_is_our_bug(value: Any) -> None:
    if isinstance(value, bytes):
        assert amf0.decode(amf0.encode(value)) == [[float(byte) for byte in value]]
    else:
        with pytest.raises(TypeError):
            amf0.encode(value)


def test_a_name_that_is_too_long_is_our_bug() -> None:
    with pytest.raises(ValueError, match="65536 bytes"):
        amf0.encode({"k" * 65536: 1})


def test_the_longest_name_that_is_read_can_be_written() -> None:
    body = b"\x03" + struct.pack(">H", amf.MAX_KEY) + b"\xe9" * amf.MAX_KEY + b"\x05" + amf0.END
    assert amf0.decode(body) == [{"é" * amf.MAX_KEY: None}]
    assert len(amf0.encode(*amf0.decode(body))) > 2 * amf.MAX_KEY


def test_numbers_that_are_not_finite_pass() -> None:
    assert amf0.decode(amf0.encode(math.inf)) == [math.inf]
    assert math.isnan(amf0.decode(amf0.encode(math.nan))[0])  # type: ignore[arg-type]


plain = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=20,
)


@given(st.lists(plain, max_size=4))
@settings(max_examples=150)
def test_what_is_encoded_decodes_to_the_same(values: list[Any]) -> None:
    expected = amf0.decode(amf0.encode(*values))
    assert amf0.decode(amf0.encode(*expected)) == expected
    assert len(expected) == len(values)


@given(st.binary(max_size=120))
@settings(max_examples=400)
def test_garbage_gives_values_or_a_peer_error(body: bytes) -> None:
    try:
        values = amf0.decode(body)
    except PeerError:
        return
    amf0.encode(*values)


@given(st.binary(max_size=60), st.data())
@settings(max_examples=200)
def test_a_spoilt_command_gives_values_or_a_peer_error(noise: bytes, data: st.DataObject) -> None:
    body = amf0.encode("publish", 5, None, "name", {"a": [1, {"b": "c"}]}) + amf0.encode_ecma({"x": 1})
    at = data.draw(st.integers(0, len(body)))
    try:
        amf0.encode(*amf0.decode(body[:at] + noise + body[at + len(noise) :]))
    except PeerError:
        pass
