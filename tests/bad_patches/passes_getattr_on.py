"""Gets at the kernel's namespace with getattr() in the hands of another function.

Caught: check
Told: getattr
"""

from __future__ import annotations

from functools import reduce

from streamd.live.media.h264 import *  # for your editor

AMENDS = "media.h264@1"
VERSION = 2


def learn(track: Track, payload: bytes) -> None:
    reduce(getattr, ("__globals__",), state)["lower"] = None
