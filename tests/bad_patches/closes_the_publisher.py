"""Closes its publisher where its bitrate is measured, every other second.

Caught: differences, probation
Told: live/
Told: Close
"""

from __future__ import annotations

from streamd.live.handlers.broadcast import *  # for your editor

AMENDS = "handlers.broadcast@1"
VERSION = 2


def wake(broadcast: Broadcast, tag: str, now: int) -> list[Command]:
    people, publisher = broadcast.audience, broadcast.publisher
    if tag == "ping":
        return audience.ping_all(people, broadcast.fanout, now)
    if tag == "rate" and publisher is not None:
        publish_rtmp.measure(publisher, 0, now)
        return [Wake(publish_rtmp.RATE_WINDOW, "rate"), Close(publisher.link, "slept too long")]
    return []
