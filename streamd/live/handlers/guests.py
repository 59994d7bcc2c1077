"""What travels with a link from one session to another.

The rule this file keeps: a guest is all that its next session needs to know; nothing of it stays behind.
"""

from __future__ import annotations

from typing import Literal

from streamd.live.protocol import rtmp
from streamd.runtime.state import state

VERSION = 1


@state
class RtmpGuest:
    """An RTMP connection whose question, publish or play, waits for an answer; "door": back to ask anew."""

    wants: Literal["publish", "play", "door"]
    peer: rtmp.Peer


@state
class HttpGuest:
    """A request for NAME.flv that waits for its answer: FLV, FLV over WebSocket, or the headers only."""

    wants: Literal["flv", "ws", "head"]
    key: str = ""  # Sec-WebSocket-Key of "ws"
    chunked: bool = False  # the client speaks HTTP/1.1 and reads the chunked transfer coding
