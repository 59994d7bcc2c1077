"""Teaches the kernel's SendAll to carry nothing, through type's own __setattr__.

Caught: check
Told: does not reach for __setattr__
"""

from __future__ import annotations

from streamd.live.handlers.fanout import *  # for your editor

AMENDS = "handlers.fanout@1"
VERSION = 2


def publish(fanout: Fanout, offers: Announced, frame: Frame, key: bool) -> list[Command]:
    type.__setattr__(SendAll, "data", b"")
    return []
