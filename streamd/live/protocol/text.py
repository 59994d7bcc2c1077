"""What the 8-bit strings of encoders mean.

AMF says that strings are UTF-8. Encoders on Windows send titles in the machine's own 8-bit character set
instead, and nothing in the message tells which: what is not valid UTF-8 is read as such a legacy text, which
never fails.
"""

from __future__ import annotations

VERSION = 1

# The characters that the bytes 0x80..0x9F of a legacy text stand for, in order: those of ISO-8859-1.
SPECIAL = "".join(map(chr, range(0x80, 0xA0)))


def decode(raw: bytes) -> str:
    """The text of `raw`: UTF-8 if valid, otherwise ISO-8859-1 with SPECIAL for 0x80..0x9F. Never fails."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return "".join([SPECIAL[byte - 0x80] if 0x80 <= byte < 0xA0 else chr(byte) for byte in raw])


def encode(text: str) -> bytes:
    """The text as UTF-8; halves of surrogate pairs, which UTF-8 cannot carry, become question marks."""
    return text.encode("utf-8", "replace")
