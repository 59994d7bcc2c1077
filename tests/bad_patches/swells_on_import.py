"""A table of all the numbers there are.

Caught: import
Told: MemoryError
"""

from __future__ import annotations

from streamd.live.media.h264 import *  # for your editor

AMENDS = "media.h264@1"
VERSION = 2

TABLE = tuple(range(10**10))
