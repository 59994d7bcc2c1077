"""A parenthesis is missing.

Caught: read
Told: syntax_error.py:16
Told: '(' was never closed
"""

from __future__ import annotations

from streamd.live.media.h264 import *  # for your editor

AMENDS = "media.h264@1"
VERSION = 2

def learn(track: Track, payload: bytes) -> None:
    track.config = pack_config(*parse_config(track.config)
