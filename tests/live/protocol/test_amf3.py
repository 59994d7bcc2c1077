"""AMF3: every marker, the three tables of references, and bodies that lie."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.live.protocol import amf0, amf3
from streamd.live.protocol.amf0 import Value
from streamd.runtime.vocabulary import PeerError


def u29(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    if value < 0x4000:
        return bytes((value >> 7 | 0x80, value & 0x7F))
    if value < 0x200000:
        return bytes((value >> 14 | 0x80, value >> 7 & 0x7F | 0x80, value & 0x7F))
    return bytes((value >> 22 | 0x80, value >> 15 & 0x7F | 0x80, value >> 8 & 0x7F | 0x80, value & 0xFF))


def string(text: str) -> bytes:
    raw = text.encode()
    return u29(len(raw) << 1 | 1) + raw


def decode(body: bytes) -> Value:
    value, end, _left = amf3.read(body, 0, 1000, 8)
    assert end == len(body)
    return value


DOUBLE = struct.pack(">d", 2.5)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"\x00", None),
        (b"\x01", None),
        (b"\x02", False),
        (b"\x03", True),
        (b"\x04\x00", 0.0),
        (b"\x04" + u29(0x7F), 127.0),
        (b"\x04" + u29(0x80), 128.0),
        (b"\x04" + u29(0x3FFF), 16383.0),
        (b"\x04" + u29(0x4000), 16384.0),
        (b"\x04" + u29(0x1FFFFF), 2097151.0),
        (b"\x04" + u29(0x200000), 2097152.0),
        (b"\x04" + u29(0x0FFFFFFF), 268435455.0),
        (b"\x04\xff\xff\xff\xff", -1.0),
        (b"\x04" + u29(0x10000000), -268435456.0),
        (b"\x05" + DOUBLE, 2.5),
        (b"\x06" + string("abc"), "abc"),
        (b"\x06\x01", ""),
        (b"\x07" + string("<a/>"), "<a/>"),
        (b"\x08\x01" + DOUBLE, 2.5),
        (b"\x09\x05\x01\x03\x02", [True, False]),
        (b"\x09\x03" + string("k") + b"\x03\x01\x02", {"k": True, "0": False}),
        (b"\x0a\x0b\x01" + string("k") + b"\x03\x01", {"k": True}),  # anonymous and dynamic
        (b"\x0a\x13" + string("T") + string("a") + b"\x03", {"a": True}),  # one sealed member
        (b"\x0a\x07" + string("flex.messaging.io.ArrayCollection") + b"\x09\x03\x01\x03", [True]),
        (b"\x0b" + string("<b/>"), "<b/>"),
        (b"\x0c\x07abc", None),
        (b"\x0d\x05\x00" + struct.pack(">ii", -1, 2), [-1.0, 2.0]),
        (b"\x0e\x03\x00" + struct.pack(">I", 2**32 - 1), [4294967295.0]),
        (b"\x0f\x03\x01" + DOUBLE, [2.5]),
        (b"\x10\x05\x00\x01\x03\x02", [True, False]),
        (b"\x11\x05\x00\x06" + string("k") + b"\x03\x04\x02\x02", {"k": True, "2": False}),
        # references: a string, an object, a class
        (b"\x09\x05\x01\x06" + string("abc") + b"\x06\x00", ["abc", "abc"]),
        (b"\x09\x05\x01\x09\x03\x01\x03\x09\x02", [[True], [True]]),
        (
            b"\x09\x05\x01\x0a\x13" + string("T") + string("a") + b"\x03\x0a\x01\x02",
            [{"a": True}, {"a": False}],
        ),
    ],
)
def test_bodies_are_decoded(body: bytes, expected: Value) -> None:
    assert decode(body) == expected
    assert amf0.decode(b"\x11" + body) == [expected]
    assert amf0.decode(b"\x11" + body + b"\x01\x01") == [expected, True]
    for cut in range(len(body)):
        with pytest.raises(PeerError):
            amf3.read(body[:cut], 0, 1000, 8)


@pytest.mark.parametrize(
    ("body", "because"),
    [
        (b"\x12", "marker 0x12"),
        (b"\x06\x00", "string 0 of 0"),
        (b"\x09\x00", "object 0 of 0"),
        (b"\x0a\x01", "class 0 of 0"),
        (b"\x09\x03\x01\x09\x00", "contains itself"),
        (b"\x09\x03\x01" * 9, "too deeply"),
        (b"\x09\xff\xff\xff\xff\x01" + b"\x00" * 2000, "too many values"),
        (b"\x0d\xff\xff\xff\xff\x00", "too many values"),
        (b"\x0a\x07" + string("X"), "writes itself"),
        (b"\x0a" + u29(300 << 4 | 3) + string("T"), "300 members"),
        (b"\x0c" + u29(9999 << 1 | 1), "9999 bytes wanted"),
        (b"\x09\x01" + string("k" * 1100) + b"\x00\x01", "a name of 1100"),
    ],
)
def test_what_is_not_amf3_is_the_peers_fault(body: bytes, because: str) -> None:
    with pytest.raises(PeerError, match=because):
        amf3.read(body, 0, 1000, 8)


def test_a_long_string_referred_to_many_times_is_paid_for_each_time() -> None:
    body = b"\x09" + u29(900 << 1 | 1) + b"\x01\x06" + string("x" * 25600) + b"\x06\x00" * 899
    with pytest.raises(PeerError, match="too many values"):
        amf3.read(body, 0, 1000, 8)


@given(st.binary(max_size=120))
@settings(max_examples=400)
def test_garbage_gives_a_value_or_a_peer_error(body: bytes) -> None:
    try:
        value, end, left = amf3.read(body, 0, 500, 8)
    except PeerError:
        return
    assert 0 < end <= len(body)
    assert left >= 0
    amf0.encode(value)
