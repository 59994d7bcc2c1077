"""Changes a limit of another module from inside a step.

Caught: check
Told: bits belongs to every session
"""

from __future__ import annotations

from streamd.live.media import bits
from streamd.live.media.h264 import *  # for your editor

AMENDS = "media.h264@1"
VERSION = 2


def learn(track: Track, payload: bytes) -> None:
    bits.MAX_ZEROS = 0
