"""Replaces a module and leaves out what only newcomers need.

Caught: rehearse
Told: at a made-up Stopping
Told: encode
"""

from __future__ import annotations

REPLACES = "protocol.text@1"
VERSION = 2

SPECIAL = "".join(map(chr, range(0x80, 0xA0)))


def decode(raw: bytes) -> str:
    """The text of `raw`: UTF-8 if valid, otherwise ISO-8859-1."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")
