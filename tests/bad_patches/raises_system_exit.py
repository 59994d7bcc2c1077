"""Ends the process at the first picture that it does not like.

Caught: check
Told: neither raises nor catches SystemExit
"""

from __future__ import annotations

from streamd.live.media.h264 import *  # for your editor

AMENDS = "media.h264@1"
VERSION = 2


def learn(track: Track, payload: bytes) -> None:
    if not payload.startswith(track.config):
        raise SystemExit(3)
