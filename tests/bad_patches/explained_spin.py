"""Asks to be woken at once, always again.

Caught: probation
Told: live/
"""

from __future__ import annotations

from streamd.live.handlers.broadcast import *  # for your editor

AMENDS = "handlers.broadcast@1"
VERSION = 2
DIFFERS = "Wake: the rate is measured more often"


def wake(broadcast: Broadcast, tag: str, now: int) -> list[Command]:
    people, publisher = broadcast.audience, broadcast.publisher
    if tag == "ping":
        return audience.ping_all(people, broadcast.fanout, now)
    if publisher is not None:
        publish_rtmp.measure(publisher, 0, now)
    return [Wake(0, "rate")]
