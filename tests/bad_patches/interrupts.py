"""Raises what Ctrl-C raises, which ends servers.

Caught: check
Told: neither raises nor catches KeyboardInterrupt
"""

from __future__ import annotations

from streamd.live.media.h264 import *  # for your editor

AMENDS = "media.h264@1"
VERSION = 2


def learn(track: Track, payload: bytes) -> None:
    raise KeyboardInterrupt
