"""Greets everyone, for ever.

Caught: rehearse
Told: resumed
"""

from __future__ import annotations

from streamd.live.handlers.broadcast import *  # for your editor

AMENDS = "handlers.broadcast@1"
VERSION = 2


def resumed(session: Broadcast, now: int) -> list[Command]:
    total = 0
    while total >= 0:
        total += 1
    return []
