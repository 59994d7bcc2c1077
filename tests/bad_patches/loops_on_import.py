"""Computes a constant for ever.

Caught: import
Told: h264.py: line
Told: did not return
"""

from __future__ import annotations

from streamd.live.media.h264 import *  # for your editor

AMENDS = "media.h264@1"
VERSION = 2


def search() -> int:
    number = 3
    while number % 2:
        number += 2
    return number


MAX_NAL_UNITS = search()
