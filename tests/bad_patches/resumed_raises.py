"""Greets a publisher that a door does not have.

Caught: rehearse
Told: handlers.broadcast.resumed
Told: AttributeError
"""

from __future__ import annotations

from streamd.live.handlers.broadcast import *  # for your editor

AMENDS = "handlers.broadcast@1"
VERSION = 2


def resumed(session: Broadcast, now: int) -> list[Command]:
    return [Log("info", session.publisher.where)]
