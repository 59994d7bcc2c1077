"""A cache is state that nobody migrates, and it keeps old code alive.

Caught: check
Told: a cache is hidden state
"""

from __future__ import annotations

from functools import lru_cache

from streamd.live.media.h264 import *  # for your editor

AMENDS = "media.h264@1"
VERSION = 2


@lru_cache(maxsize=None)
def is_key(payload: bytes, nal_length: int = 4) -> bool:
    return any(payload[start] & 0x1F == IDR for start, _ in spans(payload, nal_length))
