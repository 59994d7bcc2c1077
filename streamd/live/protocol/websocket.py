"""WebSocket framing, server side (RFC 6455), for connections that only we have something to say on.

The rule this file keeps: a Reader holds at most one control frame or the mask of a message that is being
skipped. What a viewer's page sends as text or binary is checked and dropped as it comes; pings and the close
have to be answered.
"""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha1
from struct import Struct
from typing import Literal, TypeAlias

from streamd.runtime.state import state
from streamd.runtime.vocabulary import PeerError

VERSION = 1

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
CONTINUATION = 0

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # 1.3
MAX_CONTROL = 125  # bytes of a control frame's payload (5.5)
MAX_FRAME = 64 << 10  # bytes of a frame from a viewer; players send nothing, or a word

NORMAL, GOING_AWAY, PROTOCOL_ERROR, POLICY, TOO_BIG = 1000, 1001, 1002, 1008, 1009  # 7.4.1
NO_CODE = 1005  # what a close without a code is reported as (7.1.5); never sent

_U16 = Struct(">H")
_U64 = Struct(">Q")

Event: TypeAlias = tuple[Literal["close"], int, str] | tuple[Literal["ping"], bytes]


@state
class Reader:
    """A viewer's frames, read up to `buffer[at]`."""

    phase: Literal["open", "closed"] = "open"
    buffer: bytes = b""
    skip: int = 0  # bytes still to come of a data frame that is dropped
    message: bool = False  # a fragmented message is open


def accept_key(key: str) -> str:
    """Sec-WebSocket-Accept for a Sec-WebSocket-Key (4.2.2)."""
    return b64encode(sha1(key.strip().encode("utf-8", "replace") + GUID).digest()).decode("ascii")


def feed(reader: Reader, data: bytes) -> None:
    """Take bytes as they come in. Nothing after a close counts (5.5.1)."""
    if reader.phase == "closed":
        return
    if reader.skip:
        skipped = min(reader.skip, len(data))
        reader.skip -= skipped
        data = data[skipped:]
    if data:
        reader.buffer += data


def pull(reader: Reader) -> Event | None:
    """The next frame that needs an answer: ("ping", data) or ("close", code, reason); None when there is
    none.

    Raises PeerError for what RFC 6455 forbids.
    """
    while reader.phase == "open":
        head = read_head(reader.buffer)
        if head is None:
            return None
        opcode, final, start, size = head
        if opcode < CLOSE:
            skip_data(reader, opcode, final, start, size)
            continue
        if len(reader.buffer) < start + size:
            return None
        payload = unmask(reader.buffer[start - 4 : start], reader.buffer[start : start + size])
        reader.buffer = reader.buffer[start + size :]
        if opcode == PING:
            return "ping", payload
        if opcode == CLOSE:
            reader.phase = "closed"
            reader.buffer = b""
            return read_close(payload)
    return None


def read_head(buffer: bytes) -> tuple[int, bool, int, int] | None:
    """A frame's head (5.2): (opcode, whether final, where the payload starts, its size); None if it is not
    all here.
    """
    if len(buffer) < 2:
        return None
    first, second = buffer[0], buffer[1]
    opcode, size, start = first & 0x0F, second & 0x7F, 2
    if first & 0x70:
        raise PeerError("WebSocket: reserved bits are set, but no extension was agreed on")
    if opcode not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG):
        raise PeerError(f"WebSocket: there is no opcode {opcode}")
    if not second & 0x80:
        raise PeerError("WebSocket: a client's frame is not masked")
    if opcode >= CLOSE and (size > MAX_CONTROL or not first & 0x80):
        raise PeerError("WebSocket: a control frame is too long or in fragments")
    if size >= 126:
        layout = _U16 if size == 126 else _U64
        if len(buffer) < 2 + layout.size:
            return None
        size = layout.unpack_from(buffer, 2)[0]
        start += layout.size
    if size > MAX_FRAME:
        raise PeerError(f"WebSocket: a frame of {size} bytes; the limit is {MAX_FRAME}")
    if len(buffer) < start + 4:
        return None
    return opcode, bool(first & 0x80), start + 4, size


def skip_data(reader: Reader, opcode: int, final: bool, start: int, size: int) -> None:
    """Drop a data frame, here or still to come; fragments have to be in order (5.4)."""
    if (opcode == CONTINUATION) != reader.message:
        raise PeerError("WebSocket: fragments are out of order")
    reader.message = not final
    end = start + size
    reader.skip = max(end - len(reader.buffer), 0)
    reader.buffer = reader.buffer[end:]


def unmask(mask: bytes, payload: bytes) -> bytes:
    """The payload of a short masked frame (5.3)."""
    return bytes([byte ^ mask[index & 3] for index, byte in enumerate(payload)])


def read_close(payload: bytes) -> Event:
    """What a close frame says (5.5.1)."""
    if not payload:
        return "close", NO_CODE, ""
    if len(payload) < 2:
        raise PeerError("WebSocket: a close frame with half a code")
    code = _U16.unpack_from(payload)[0]
    if not (1000 <= code <= 1014 or 3000 <= code <= 4999) or code in (1004, 1005, 1006):
        raise PeerError(f"WebSocket: a close frame with code {code}")
    try:
        return "close", code, payload[2:].decode("utf-8")
    except UnicodeDecodeError:
        raise PeerError("WebSocket: a close frame whose reason is not UTF-8") from None


# ---- writing ---------------------------------------------------------------------------------------------


def frame(opcode: int, payload: bytes) -> bytes:
    """One whole frame, unmasked, as servers send (5.1)."""
    size = len(payload)
    first = 0x80 | opcode
    if size < 126:
        return bytes((first, size)) + payload
    if size <= 0xFFFF:
        return bytes((first, 126)) + _U16.pack(size) + payload
    return bytes((first, 127)) + _U64.pack(size) + payload


def binary(payload: bytes) -> bytes:
    """One binary message."""
    return frame(BINARY, payload)


def pong(data: bytes) -> bytes:
    """The answer to a ping, with its data (5.5.3)."""
    return frame(PONG, data)


def close(code: int, reason: str) -> bytes:
    """A close frame; the reason is cut to what a control frame holds. NO_CODE gives one without a code."""
    if code == NO_CODE:
        return frame(CLOSE, b"")
    words = reason.encode("utf-8", "replace")[: MAX_CONTROL - 2].decode("utf-8", "ignore").encode("utf-8")
    return frame(CLOSE, _U16.pack(code) + words)
