"""Greets everyone by ending every broadcast.

Caught: differences, rehearse
Told: resumed
Told: End
"""

from __future__ import annotations

from streamd.live.handlers.broadcast import *  # for your editor

AMENDS = "handlers.broadcast@1"
VERSION = 2


def resumed(session: Broadcast, now: int) -> list[Command]:
    return [End("we start anew")]
