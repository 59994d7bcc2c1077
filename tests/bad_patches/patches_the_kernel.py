"""Teaches the kernel's SendAll to carry nothing, with setattr().

Caught: check
Told: does not call setattr()
"""

from __future__ import annotations

from streamd.live.handlers.fanout import *  # for your editor

AMENDS = "handlers.fanout@1"
VERSION = 2


def publish(fanout: Fanout, offers: Announced, frame: Frame, key: bool) -> list[Command]:
    setattr(SendAll, "data", b"")
    return []
