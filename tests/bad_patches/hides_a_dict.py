"""A mutable value that only running the module shows.

Caught: import
Told: KINDS is a mutable value at module level
"""

from __future__ import annotations

from streamd.live.media.h264 import *  # for your editor

AMENDS = "media.h264@1"
VERSION = 2

KINDS = dict.fromkeys((IDR, SPS, PPS), 0)
