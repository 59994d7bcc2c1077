"""What AMF0 and AMF3 have in common: the values, the limits, and the cursor that a decoder moves over a body.

The rule this file keeps: whatever a body claims, decoding it costs no more than MAX_VALUES steps and its own
bytes. References are the danger: a few bytes can name a large value many times over. A reference therefore
costs as much as the value it names, so the budget bounds the tree as anybody who walks it later sees it, and
a value cannot contain itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from streamd.live.protocol import text
from streamd.runtime.vocabulary import PeerError

VERSION = 1

Value: TypeAlias = "bool | float | str | list[Value] | dict[str, Value] | None"
Encodable: TypeAlias = "bool | int | float | str | Sequence[Encodable] | Mapping[str, Encodable] | None"

MAX_DEPTH = 32  # containers within containers; real commands and metadata have 3
# values in one body, references counted in full; metadata with a key-frame index has thousands
MAX_VALUES = 16384
MAX_KEY = 1024  # bytes of a property's name; so a name read here can always be written again (65,535 in AMF0)
STRING_UNIT = 256  # bytes of a string that cost as much as one more value

UNFINISHED = -1  # the cost of an object that is still being read


class Cursor:
    """A place in a body while it is decoded: never kept in state.

    `objects` has every value that can be referred to, with its cost; `strings` and `traits` are those of
    AMF3.
    """

    __slots__ = ("at", "data", "left", "objects", "strings", "traits")

    def __init__(self, data: bytes, at: int, left: int) -> None:
        self.data = data
        self.at = at
        self.left = left
        self.objects: list[tuple[Value, int]] = []
        self.strings: list[str] = []
        self.traits: list[tuple[str, bool, bool, list[str]]] = []


def take(cursor: Cursor, count: int) -> bytes:
    """The next `count` bytes. PeerError if there are not so many."""
    at = cursor.at
    end = at + count
    if end > len(cursor.data):
        raise PeerError(f"AMF: {count} bytes wanted at {at}, but the body has only {len(cursor.data)}")
    cursor.at = end
    return cursor.data[at:end]


def take_byte(cursor: Cursor) -> int:
    """The next byte. PeerError at the end."""
    at = cursor.at
    if at >= len(cursor.data):
        raise PeerError(f"AMF: the body ends at {at} in the middle of a value")
    cursor.at = at + 1
    return cursor.data[at]


def take_text(cursor: Cursor, count: int) -> str:
    """The next `count` bytes as a text, paid for by its length."""
    raw = take(cursor, count)
    charge(cursor, count // STRING_UNIT)
    return text.decode(raw)


def charge(cursor: Cursor, cost: int) -> None:
    """Pay for `cost` values. PeerError when the body has more than it may."""
    cursor.left -= cost
    if cursor.left < 0:
        raise PeerError("AMF: the body has too many values")


def refer(cursor: Cursor, index: int) -> Value:
    """The object that was read `index`-th, paid for in full."""
    if index >= len(cursor.objects):
        raise PeerError(f"AMF: a reference to object {index} of {len(cursor.objects)}")
    value, cost = cursor.objects[index]
    if cost == UNFINISHED:
        raise PeerError("AMF: an object contains itself")
    charge(cursor, cost)
    return value


def begin_object(cursor: Cursor, value: Value) -> int:
    """Enter an object that is about to be read into the table; returns its index."""
    cursor.objects.append((value, UNFINISHED))
    return len(cursor.objects) - 1


def end_object(cursor: Cursor, index: int, value: Value, left_before: int) -> None:
    """The object has been read; it cost what has been paid since `left_before`."""
    cursor.objects[index] = (value, left_before - cursor.left)
