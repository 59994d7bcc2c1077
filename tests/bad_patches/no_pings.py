"""Fails at one timer of five, which rings every twenty seconds.

Caught: rehearse
Told: Tick
Told: ZeroDivisionError
Told: live/
"""

from __future__ import annotations

from streamd.live.handlers.audience import *  # for your editor

AMENDS = "handlers.audience@1"
VERSION = 2


def ping_all(audience: Audience, fan: Fanout, now: int) -> list[Command]:
    return [Wake(PING_EVERY // len(audience.waiting), "ping")]
