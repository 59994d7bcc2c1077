"""AMF0: the bodies of RTMP commands and of FLV script data.

The rule this file keeps: `decode` reads every marker of "Action Message Format -- AMF 0" (Adobe, December
2007; section numbers below) into plain values, within the limits of `amf`; `encode` writes what `decode`
gives. Strings are read by `text.decode`, because not all encoders send UTF-8.

A body's last object may lack its end mark: encoders that count wrongly have sent such metadata for years.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from struct import Struct

from streamd.live.protocol import amf, amf3, text
from streamd.live.protocol.amf import MAX_DEPTH, MAX_VALUES, Cursor, Encodable
from streamd.live.protocol.amf import Value as Value
from streamd.runtime.vocabulary import PeerError

VERSION = 1

NUMBER, BOOLEAN, STRING, OBJECT, MOVIE_CLIP, NULL, UNDEFINED, REFERENCE, ECMA_ARRAY, OBJECT_END = range(10)
STRICT_ARRAY, DATE, LONG_STRING, UNSUPPORTED, RECORD_SET, XML, TYPED_OBJECT, AVMPLUS = range(10, 18)

END = b"\x00\x00\x09"  # an empty name and the object-end marker (2.11)

_NUMBER = Struct(">d")
_MARKED_NUMBER = Struct(">Bd")
_U16 = Struct(">H")
_U32 = Struct(">I")


# ---- decoding --------------------------------------------------------------------------------------------


def decode(data: bytes, limit: int = MAX_VALUES, depth: int = MAX_DEPTH) -> list[Value]:
    """All values of a body, in order. Numbers are float, dates float ms, undefined None, typed objects dicts.

    At most `limit` values (those inside containers counted), nested at most `depth` deep. Raises PeerError
    for what is not AMF0 and for what goes beyond the limits.
    """
    cursor = Cursor(data, 0, limit)
    values: list[Value] = []
    while cursor.at < len(data):
        values.append(read_value(cursor, depth))
    return values


def read_value(cursor: Cursor, depth: int) -> Value:
    """One value with its marker (section 2.1)."""
    amf.charge(cursor, 1)
    marker = amf.take_byte(cursor)
    match marker:
        case 0x00:
            return float(_NUMBER.unpack(amf.take(cursor, 8))[0])
        case 0x01:
            return amf.take_byte(cursor) != 0
        case 0x02:
            return amf.take_text(cursor, _U16.unpack(amf.take(cursor, 2))[0])
        case 0x05 | 0x06 | 0x0D:
            return None
        case 0x07:
            return amf.refer(cursor, _U16.unpack(amf.take(cursor, 2))[0])
        case 0x0B:
            return float(
                _NUMBER.unpack(amf.take(cursor, 10)[:8])[0]
            )  # 2.13: the time zone behind it is always 0
        case 0x0C | 0x0F:
            return amf.take_text(cursor, _U32.unpack(amf.take(cursor, 4))[0])
        case 0x03 | 0x08 | 0x0A | 0x10 | 0x11:
            if depth <= 0:
                raise PeerError("AMF0: values are nested too deeply")
            return read_container(cursor, marker, depth - 1)
    raise PeerError(f"AMF0: no value begins with the marker 0x{marker:02x}")


def read_container(cursor: Cursor, marker: int, depth: int) -> Value:
    """An object, an array or an AMF3 value; all but the last enter the table of references (2.9)."""
    if marker == AVMPLUS:
        value, cursor.at, cursor.left = amf3.read(cursor.data, cursor.at, cursor.left, depth)
        return value
    before = cursor.left + 1
    index = amf.begin_object(cursor, None)
    if marker == STRICT_ARRAY:
        size = _U32.unpack(amf.take(cursor, 4))[0]
        # a size that lies runs out of body or budget
        value = [read_value(cursor, depth) for _ in range(size)]
    else:
        if marker == ECMA_ARRAY:
            amf.take(cursor, 4)  # a hint of the size, often wrong
        elif marker == TYPED_OBJECT:
            amf.take_text(cursor, _U16.unpack(amf.take(cursor, 2))[0])
        value = read_members(cursor, depth)
    amf.end_object(cursor, index, value, before)
    return value


def read_members(cursor: Cursor, depth: int) -> dict[str, Value]:
    """Names and values up to the end mark, or up to the end of the body (see above)."""
    members: dict[str, Value] = {}
    while cursor.at < len(cursor.data):
        size = _U16.unpack(amf.take(cursor, 2))[0]
        if size > amf.MAX_KEY:
            raise PeerError(f"AMF0: a name of {size} bytes, more than {amf.MAX_KEY}")
        key = text.decode(amf.take(cursor, size))
        if cursor.data[cursor.at : cursor.at + 1] == b"\x09":
            cursor.at += 1
            break
        members[key] = read_value(cursor, depth)
    return members


# ---- encoding --------------------------------------------------------------------------------------------


def encode(*values: Encodable) -> bytes:
    """The values one after the other: int and float as numbers, dicts as anonymous objects, lists as strict
    arrays.
    """
    out = bytearray()
    for value in values:
        write_value(out, value)
    return bytes(out)


def encode_ecma(values: Mapping[str, Encodable]) -> bytes:
    """One ECMA array, which is what onMetaData carries (2.10)."""
    out = bytearray((ECMA_ARRAY,))
    out += _U32.pack(len(values))
    write_members(out, values)
    return bytes(out)


def write_value(out: bytearray, value: Encodable) -> None:
    if value is None:
        out.append(NULL)
    elif isinstance(value, bool):
        out += b"\x01\x01" if value else b"\x01\x00"
    elif isinstance(value, int | float):
        out += _MARKED_NUMBER.pack(NUMBER, value)
    elif isinstance(value, str):
        write_string(out, value)
    elif isinstance(value, Mapping):
        out.append(OBJECT)
        write_members(out, value)
    elif isinstance(value, Sequence):
        out.append(STRICT_ARRAY)
        out += _U32.pack(len(value))
        for item in value:
            write_value(out, item)
    else:
        raise TypeError(f"AMF0 has no {type(value).__name__}")


def write_string(out: bytearray, value: str) -> None:
    raw = text.encode(value)
    if len(raw) <= 0xFFFF:
        out.append(STRING)
        out += _U16.pack(len(raw))
    else:
        out.append(LONG_STRING)
        out += _U32.pack(len(raw))
    out += raw


def write_members(out: bytearray, values: Mapping[str, Encodable]) -> None:
    """Names and values, then the end mark. A name has at most 65,535 bytes: ValueError beyond."""
    for key, value in values.items():
        raw = text.encode(key)
        if len(raw) > 0xFFFF:
            raise ValueError(f"AMF0: a name of {len(raw)} bytes cannot be written")
        out += _U16.pack(len(raw))
        out += raw
        write_value(out, value)
    out += END
