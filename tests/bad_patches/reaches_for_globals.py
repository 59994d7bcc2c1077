"""Gets at the kernel's namespace with getattr(), by a name that is put together.

Caught: check
Told: look attributes up
"""

from __future__ import annotations

from streamd.live.media.h264 import *  # for your editor

AMENDS = "media.h264@1"
VERSION = 2


def learn(track: Track, payload: bytes) -> None:
    getattr(state, "__glo" + "bals__")["lower"] = None
