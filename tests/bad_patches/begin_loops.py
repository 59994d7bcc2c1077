"""Broadcasts that are there go on; one that begins never comes to an end of it.

Caught: probation
Told: begin
Told: live/extra
Needs: publisher joins
"""

from __future__ import annotations

from streamd.live.handlers.broadcast import *  # for your editor

AMENDS = "handlers.broadcast@1"
VERSION = 2


def begin(name: str, settings: Settings, now: int) -> Broadcast:
    while name == "live/extra":
        now += 1
    return Broadcast(name, settings, fanout.begin(settings), began=now, now=now)
