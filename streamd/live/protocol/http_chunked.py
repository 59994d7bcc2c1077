"""The chunked transfer coding of HTTP/1.1 (RFC 9112 section 7.1), the writing side.

The rule this file keeps: whatever is sent is a whole number of chunks, and only a regular end sends `LAST`. An endless
answer whose connection ends without it was cut off, and clients say so (section 8).
"""

from __future__ import annotations

VERSION = 1

LAST = b"0\r\n\r\n"  # the last chunk, and no trailer section


def chunk(data: bytes) -> bytes:
    """`data` as one chunk; b"" for none, because a chunk without data would be the last one."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""
