"""Gets at the kernel's namespace with operator.attrgetter, which is getattr() by another name.

Caught: check
Told: attrgetter
"""

from __future__ import annotations

from operator import attrgetter

from streamd.live.media.h264 import *  # for your editor

AMENDS = "media.h264@1"
VERSION = 2


def learn(track: Track, payload: bytes) -> None:
    attrgetter("__globals__")(state)["lower"] = None
