"""A table of ten gigabytes.

Caught: import
Told: MemoryError
"""

from __future__ import annotations

from streamd.live.media.h264 import *  # for your editor

AMENDS = "media.h264@1"
VERSION = 2

TABLE = bytes(10**10)
