"""Live values as a report shows them.

The rule this file keeps: whatever is given, what comes back is small, is JSON, and raises nothing.
"""

from __future__ import annotations

import itertools
from typing import Any

PREVIEW = 256  # bytes of a payload that a report shows


def plain(value: Any, depth: int = 0) -> Any:
    """`value` for a JSON report: payloads cut to a preview, nesting and length bounded."""
    if isinstance(value, bytes | bytearray):
        more = f"... {len(value)} bytes" if len(value) > PREVIEW else ""
        return bytes(value[:PREVIEW]).hex() + more
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return value[:2000]
    if depth > 8:
        return "..."
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {"is": type(value).__name__, **plain(value._asdict(), depth + 1)}
    if isinstance(value, dict):
        return {str(key): plain(item, depth + 1) for key, item in itertools.islice(value.items(), 200)}
    if isinstance(value, list | tuple):
        return [plain(item, depth + 1) for item in value[:200]]
    try:
        return repr(value)[:200]
    except Exception:
        return f"<{type(value).__name__}>"
