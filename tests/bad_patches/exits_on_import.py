"""Ends the process in the body of a class.

Caught: import
Told: SystemExit
"""

from __future__ import annotations

from streamd.live.media.h264 import *  # for your editor

AMENDS = "media.h264@1"
VERSION = 2


class Limits:
    if IDR == 5:
        raise SystemExit("no pictures today")
