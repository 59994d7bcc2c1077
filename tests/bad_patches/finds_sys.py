"""Finds sys where a standard module has left it, and ends the process.

Caught: check
Told: reach for sys
"""

from __future__ import annotations

import enum

from streamd.live.media.h264 import *  # for your editor

AMENDS = "media.h264@1"
VERSION = 2


def learn(track: Track, payload: bytes) -> None:
    enum.sys.modules["posix"]._exit(3)
