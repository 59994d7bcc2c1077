"""Gets at the kernel's namespace with a pattern, in which attributes are looked up without a dot.

Caught: check
Told: does not reach for __globals__
"""

from __future__ import annotations

from streamd.live.media.h264 import *  # for your editor

AMENDS = "media.h264@1"
VERSION = 2


def learn(track: Track, payload: bytes) -> None:
    match state:
        case object(__globals__=kernel):
            kernel["lower"] = None
