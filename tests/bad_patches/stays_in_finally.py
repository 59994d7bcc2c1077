"""Tries again for ever: a `continue` in `finally` swallows whatever interrupts it.

Caught: check
Told: in a finally swallows
"""

from __future__ import annotations

from streamd.live.media.h264 import *  # for your editor

AMENDS = "media.h264@1"
VERSION = 2


def learn(track: Track, payload: bytes) -> None:
    while True:
        try:
            payload.decode("ascii")
        finally:
            continue
