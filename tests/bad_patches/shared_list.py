"""One list for all broadcasts, outside of every state: it would survive the rollback.

Caught: check
Told: SEEN
Told: mutable value at module level
"""

from __future__ import annotations

from streamd.live.media.h264 import *  # for your editor

AMENDS = "media.h264@1"
VERSION = 2

SEEN = []


def learn_config(track: Track, record: bytes) -> None:
    SEEN.append(record)
    track.config = record
