"""A loop that never comes back to the interpreter: no signal can end it.

Caught: check
Told: may never end where no watchdog reaches it
"""

from __future__ import annotations

from streamd.live.media.h264 import *  # for your editor

AMENDS = "media.h264@1"
VERSION = 2


def learn(track: Track, payload: bytes) -> None:
    max(iter(int, 1))
