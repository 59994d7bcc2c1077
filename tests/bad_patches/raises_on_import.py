"""Computes a constant, and divides by zero.

Caught: import
Told: ZeroDivisionError
Told: line
"""

from __future__ import annotations

from streamd.live.media.h264 import *  # for your editor

AMENDS = "media.h264@1"
VERSION = 2

LIMIT = 65_535 // 0
