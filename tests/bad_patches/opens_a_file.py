"""Dumps what it sees to the disk, which may be full, or slow, or gone.

Caught: check
Told: does not call open()
"""

from __future__ import annotations

from streamd.live.media.h264 import *  # for your editor

AMENDS = "media.h264@1"
VERSION = 2


def learn(track: Track, payload: bytes) -> None:
    with open("/tmp/pictures.h264", "ab") as file:
        file.write(payload)
