"""Swaps the halves of the handshake: nobody gets past the door any more.

Caught: probation
Told: door/
Told: Send
Needs: rtmp joins
"""

from __future__ import annotations

from streamd.live.protocol.rtmp_handshake import *  # for your editor

AMENDS = "protocol.rtmp_handshake@1"
VERSION = 2


def answer(c1: bytes, seed: bytes) -> bytes:
    """S0, S2 and S1."""
    return bytes((PROTOCOL,)) + c1 + shake_256(seed).digest(BLOCK)
