"""Makes len() lie to the whole process.

Caught: check
Told: may not import builtins
"""

from __future__ import annotations

import builtins

from streamd.live.media.h264 import *  # for your editor

AMENDS = "media.h264@1"
VERSION = 2


def learn(track: Track, payload: bytes) -> None:
    builtins.len = lambda thing: 0
