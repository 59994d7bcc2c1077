"""AMF3 values, as Flash clients with objectEncoding 3 send them inside AMF0 (marker 0x11). Decoding only.

The rule this file keeps: every marker of "Action Message Format -- AMF 3" (Adobe, January 2013; section
numbers below) is read, into the same plain values as AMF0's, within the limits of `amf`. What plain values
cannot say is flattened: dates are milliseconds, XML its text, byte arrays None, vectors lists, dictionaries
have their keys as texts.
"""

from __future__ import annotations

from struct import Struct

from streamd.live.protocol import amf
from streamd.live.protocol.amf import Cursor, Value
from streamd.runtime.vocabulary import PeerError

VERSION = 1

UNDEFINED, NULL, FALSE, TRUE, INTEGER, DOUBLE, STRING, XML_DOCUMENT, DATE = range(9)
ARRAY, OBJECT, XML, BYTES, VECTOR_INT, VECTOR_UINT, VECTOR_DOUBLE, VECTOR_OBJECT, DICTIONARY = range(9, 18)

# Classes that write themselves, whose only content is one value: the collections of Flex.
WRAPPERS = frozenset(("flex.messaging.io.ArrayCollection", "flex.messaging.io.ObjectProxy"))
MAX_SEALED = 256  # names in one class; keeps a small body from repeating a long list of names

_DOUBLE = Struct(">d")
_INT = Struct(">i")
_UINT = Struct(">I")


def read(data: bytes, at: int, left: int, depth: int) -> tuple[Value, int, int]:
    """The AMF3 value at `data[at:]`, with tables of its own: (value, where it ends, the budget that is left).

    `left` is how many values it may have, `depth` how deep it may nest. Raises PeerError.
    """
    cursor = Cursor(data, at, left)
    value = read_value(cursor, depth)
    return value, cursor.at, cursor.left


def read_value(cursor: Cursor, depth: int) -> Value:
    """One value with its marker (section 3)."""
    amf.charge(cursor, 1)
    marker = amf.take_byte(cursor)
    match marker:
        case 0x00 | 0x01:
            return None
        case 0x02 | 0x03:
            return marker == TRUE
        case 0x04:
            number = read_u29(cursor)
            return float(number - (1 << 29) if number >= 1 << 28 else number)  # 3.6: 29 bits, signed
        case 0x05:
            return float(_DOUBLE.unpack(amf.take(cursor, 8))[0])
        case 0x06:
            return read_string(cursor)
        case _ if marker <= DICTIONARY:
            return read_complex(cursor, marker, depth)
    raise PeerError(f"AMF3: no value has the marker 0x{marker:02x}")


def read_u29(cursor: Cursor) -> int:
    """An unsigned integer of 29 bits in 1 to 4 bytes (section 1.3.1): 7 bits each, and 8 in the fourth."""
    number = 0
    for _ in range(3):
        byte = amf.take_byte(cursor)
        if byte < 0x80:
            return number << 7 | byte
        number = number << 7 | byte & 0x7F
    return number << 8 | amf.take_byte(cursor)


def read_string(cursor: Cursor) -> str:
    """A string without its marker, or a reference to an earlier one (1.3.2); the empty string is never
    referred to.
    """
    head = read_u29(cursor)
    if not head & 1:
        index = head >> 1
        if index >= len(cursor.strings):
            raise PeerError(f"AMF3: a reference to string {index} of {len(cursor.strings)}")
        amf.charge(cursor, 1 + len(cursor.strings[index]) // amf.STRING_UNIT)
        return cursor.strings[index]
    string = amf.take_text(cursor, head >> 1)
    if head >> 1:
        cursor.strings.append(string)
    return string


def read_complex(cursor: Cursor, marker: int, depth: int) -> Value:
    """A value that can be referred to: the number in front is a reference or a length (3.9 to 3.16)."""
    head = read_u29(cursor)
    if not head & 1:
        return amf.refer(cursor, head >> 1)
    if depth <= 0:
        raise PeerError("AMF3: values are nested too deeply")
    before = cursor.left + 1
    index = amf.begin_object(cursor, None)
    value = read_content(cursor, marker, head >> 1, depth - 1)
    amf.end_object(cursor, index, value, before)
    return value


def read_content(cursor: Cursor, marker: int, size: int, depth: int) -> Value:
    """What follows the number in front of a complex value; `size` is that number without its lowest bit."""
    match marker:
        case 0x08:
            return float(_DOUBLE.unpack(amf.take(cursor, 8))[0])
        case 0x07 | 0x0B:
            return amf.take_text(cursor, size)
        case 0x0C:
            amf.take(cursor, size)
            return None
        case 0x09:
            return read_array(cursor, size, depth)
        case 0x0A:
            return read_object(cursor, size, depth)
        case 0x11:
            return read_dictionary(cursor, size, depth)
    return read_vector(cursor, marker, size, depth)


def read_array(cursor: Cursor, size: int, depth: int) -> Value:
    """An array (3.11): named members first, then `size` in order. With names it is a dict, as in AMF0."""
    named: dict[str, Value] = {}
    while (key := read_key(cursor)) != "":
        named[key] = read_value(cursor, depth)
    items = read_items(cursor, size, depth)
    if not named:
        return items
    return named | {str(index): item for index, item in enumerate(items)}


def read_items(cursor: Cursor, size: int, depth: int) -> list[Value]:
    return [read_value(cursor, depth) for _ in range(size)]  # a size that lies runs out of body or budget


def read_key(cursor: Cursor) -> str:
    key = read_string(cursor)
    if len(key) > amf.MAX_KEY:
        raise PeerError(f"AMF3: a name of {len(key)} characters, more than {amf.MAX_KEY}")
    return key


def read_object(cursor: Cursor, size: int, depth: int) -> Value:
    """An object (3.12): its class (perhaps a reference), the sealed members, then the dynamic ones."""
    name, external, dynamic, sealed = read_traits(cursor, size)
    if external:
        if name in WRAPPERS:
            return read_value(cursor, depth)
        raise PeerError(f"AMF3: an object of class {name!r} writes itself in a way that is not known")
    members: dict[str, Value] = {}
    for key in sealed:
        members[key] = read_value(cursor, depth)
    if dynamic:
        while (key := read_key(cursor)) != "":
            members[key] = read_value(cursor, depth)
    return members


def read_traits(cursor: Cursor, size: int) -> tuple[str, bool, bool, list[str]]:
    """The class of an object: (name, whether it writes itself, whether it is dynamic, names of sealed
    members).
    """
    if not size & 1:
        index = size >> 1
        if index >= len(cursor.traits):
            raise PeerError(f"AMF3: a reference to class {index} of {len(cursor.traits)}")
        return cursor.traits[index]
    count = size >> 3
    if count > MAX_SEALED:
        raise PeerError(f"AMF3: a class with {count} members, more than {MAX_SEALED}")
    name = read_key(cursor)
    traits = (name, bool(size & 2), bool(size & 4), [read_key(cursor) for _ in range(count)])
    amf.charge(cursor, count)
    cursor.traits.append(traits)
    return traits


def read_vector(cursor: Cursor, marker: int, size: int, depth: int) -> Value:
    """A vector (3.15): a byte that says whether it may grow, then `size` items of one kind."""
    amf.take_byte(cursor)
    if marker == VECTOR_OBJECT:
        read_key(cursor)  # the items' class
        return read_items(cursor, size, depth)
    amf.charge(cursor, size)
    kind = _DOUBLE if marker == VECTOR_DOUBLE else _INT if marker == VECTOR_INT else _UINT
    return [float(item) for (item,) in kind.iter_unpack(amf.take(cursor, size * kind.size))]


def read_dictionary(cursor: Cursor, size: int, depth: int) -> Value:
    """A dictionary (3.16): a byte that says whether keys are weak, then `size` pairs. Keys that are objects
    are lost.
    """
    amf.take_byte(cursor)
    pairs: dict[str, Value] = {}
    for _ in range(size):
        key = read_value(cursor, depth)
        value = read_value(cursor, depth)
        if isinstance(key, str):
            pairs[key[: amf.MAX_KEY]] = value
        elif isinstance(key, float):
            pairs[f"{key:g}"] = value
    return pairs
