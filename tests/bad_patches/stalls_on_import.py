"""Computes a constant for a second, in which nobody else can do anything.

Caught: import
Told: h264
"""

from __future__ import annotations

from streamd.live.media.h264 import *  # for your editor

AMENDS = "media.h264@1"
VERSION = 2

BIG = len(str(bin(pow(7, 8_000_000)))) + MAX_SETS_BYTES
