"""Reaches into a closure of the kernel's compiled plans.

Caught: check
Told: does not reach for __closure__
"""

from __future__ import annotations

from streamd.live.media.h264 import *  # for your editor

AMENDS = "media.h264@1"
VERSION = 2


def learn(track: Track, payload: bytes) -> None:
    for cell in Track.__init__.__closure__ or ():
        cell.cell_contents = None
