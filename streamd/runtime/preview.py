"""Live values as a report shows them.

The rule this file keeps: whatever is given, what comes back is small, is JSON, and raises nothing.
"""

from __future__ import annotations

import itertools
from typing import Any

from streamd.runtime.telling import cut, kind_of

PREVIEW = 256  # bytes of a payload that a report shows
LONGEST = 2000  # characters of a text
LARGEST = 1024  # bits of a number
MOST = 200  # items of a container
DEEPEST = 8
VOCABULARY = "streamd.runtime.vocabulary"


def plain(value: Any, depth: int = 0) -> Any:
    """`value` for a JSON report: payloads cut to a preview, nesting and length bounded."""
    kind = type(value)
    if kind is bytes or kind is bytearray:
        more = f"... {len(value)} bytes" if len(value) > PREVIEW else ""
        return bytes(value[:PREVIEW]).hex() + more
    if value is None or kind is bool or kind is float:
        return value
    if kind is int:
        return value if value.bit_length() <= LARGEST else f"a number of {value.bit_length()} bits"
    if isinstance(value, str):
        return cut(value, LONGEST)
    if depth > DEEPEST:
        return "..."
    if isinstance(value, tuple) and kind.__module__ == VOCABULARY:
        return {"is": kind.__name__, **plain(dict(zip(kind._fields, value, strict=False)), depth + 1)}
    if kind is dict:
        return {
            plain(key) if isinstance(key, str) else repr(plain(key)): plain(item, depth + 1)
            for key, item in itertools.islice(value.items(), MOST)
        }
    if kind is list or kind is tuple:
        return [plain(item, depth + 1) for item in value[:MOST]]
    return f"<{kind_of(value)}>"
