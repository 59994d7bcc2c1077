"""Viewers over HTTP and WebSocket: both get FLV, the one as an endless response, the other in binary messages.

An endless response is chunked, so that a client can tell the end of the broadcast from a cut connection: FFmpeg reports
an I/O error and curl a partial file where it cannot. HTTP/1.0 has no such coding (nginx asks its upstreams with 1.0
unless told otherwise); those clients get plain FLV, and its end is the connection's.

The rule this file keeps: an HTTP viewer is a number and nothing more; a WebSocket viewer is a small reader, because its
pings and its close have to be answered.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from streamd.live.handlers.guests import HttpGuest
from streamd.live.protocol import websocket
from streamd.runtime.state import field, state
from streamd.runtime.vocabulary import PeerError, Respond

VERSION = 1

CORS = MappingProxyType(
    {
        "Access-Control-Allow-Origin": "*",
        "Access-Control-Allow-Methods": "GET, HEAD, OPTIONS",
        "Access-Control-Allow-Headers": "*",
        "Access-Control-Expose-Headers": "*",
    }
)
TEXT_HEADERS = MappingProxyType(
    {
        **CORS,
        "Content-Type": "text/plain; charset=utf-8",
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }
)
# X-Accel-Buffering: nginx in front must not collect an endless response
STREAM_HEADERS = MappingProxyType(
    {**CORS, "Content-Type": "video/x-flv", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
)

MAX_PINGS = 512  # in one read; browsers send none, libraries one in 20 s

KEY = re.compile(r"[A-Za-z0-9+/]{22}==")  # 16 bytes in base64 (RFC 6455 4.1)


@state
class Socket:
    """A WebSocket viewer. `heard`: `now` of its last bytes."""

    heard: int
    reader: websocket.Reader = field(factory=websocket.Reader)


def wants_upgrade(headers: Mapping[str, str]) -> bool:
    return "websocket" in headers.get("upgrade", "").lower()


def upgrade_fault(method: str, headers: Mapping[str, str]) -> str:
    """Why a request to upgrade cannot be granted, "" if it can (RFC 6455 4.2.1)."""
    if method != "GET":
        return "A WebSocket begins with GET."
    if headers.get("sec-websocket-version", "").strip() != "13":
        return "This server speaks version 13 of the WebSocket protocol."
    if not KEY.fullmatch(headers.get("sec-websocket-key", "").strip()):
        return "The request has no proper Sec-WebSocket-Key."
    return ""


def respond(link: int, guest: HttpGuest) -> Respond:
    """The head of the answer; for "flv" and "ws" the link is a plain one from then on."""
    if guest.wants == "ws":
        headers = {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Accept": websocket.accept_key(guest.key),
        }
        return Respond(link, 101, headers, b"", True)
    headers = dict(STREAM_HEADERS)
    if guest.chunked:
        headers["Transfer-Encoding"] = "chunked"
    return Respond(link, 200, headers, b"", guest.wants == "flv")


def refuse(link: int, sentence: str) -> Respond:
    return say(link, 404, sentence)


def say(link: int, status: int, sentence: str, **headers: str) -> Respond:
    """A sentence for a human."""
    extra = {name.replace("_", "-"): value for name, value in headers.items()}
    return Respond(link, status, {**TEXT_HEADERS, **extra}, f"{sentence}\n".encode(), False)


def feed(socket: Socket, data: bytes, now: int) -> tuple[bytes, bool]:
    """Take a viewer's bytes: (what to send in answer, whether it has closed). PeerError where malformed."""
    socket.heard = now
    websocket.feed(socket.reader, data)
    answers: list[bytes] = []
    while (event := websocket.pull(socket.reader)) is not None:
        if event[0] == "close":
            code = event[1] if event[1] != websocket.NO_CODE else websocket.NORMAL
            return b"".join(answers) + websocket.close(code, ""), True
        answers.append(websocket.pong(event[1]))
        if len(answers) > MAX_PINGS:
            raise PeerError(f"WebSocket: more than {MAX_PINGS} pings at once")
    return b"".join(answers), False


def ping() -> bytes:
    return websocket.frame(websocket.PING, b"")


def farewell(going_away: bool, sentence: str) -> bytes:
    """The close frame that ends a viewer: the server goes away, or the broadcast is over."""
    return websocket.close(websocket.GOING_AWAY if going_away else websocket.NORMAL, sentence)
