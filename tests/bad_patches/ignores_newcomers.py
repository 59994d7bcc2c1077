"""Forgets to answer those who come.

Caught: probation
Told: live/
Told: no longer Respond
Needs: flv joins
"""

from __future__ import annotations

from streamd.live.handlers.audience import *  # for your editor

AMENDS = "handlers.audience@1"
VERSION = 2


def admit(
    audience: Audience, fan: Fanout, link: int, guest: RtmpGuest | HttpGuest, now: int
) -> list[Command]:
    """Not now."""
    return []
