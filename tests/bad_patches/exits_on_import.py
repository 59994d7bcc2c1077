"""Ends the process while a constant is computed.

Caught: import
Told: SystemExit
"""

from __future__ import annotations

from streamd.live.media.h264 import *  # for your editor

AMENDS = "media.h264@1"
VERSION = 2

LIMIT = exit("no pictures today")
