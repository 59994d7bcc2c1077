"""When the publisher goes, everyone who waits for it to come back is forgotten.

Caught: differences
Told: a made-up Closed
Told: live/
Told: viewers kept
"""

from __future__ import annotations

from streamd.live.handlers.broadcast import *  # for your editor

AMENDS = "handlers.broadcast@1"
VERSION = 2


def part(broadcast: Broadcast, link: int, reason: str, now: int) -> list[Command]:
    publisher = broadcast.publisher
    if publisher is not None and publisher.link == link:
        broadcast.audience = Audience()
        return lose_publisher(broadcast, now, reason)
    return [*audience.forget(broadcast.audience, broadcast.fanout, link), *end_if_idle(broadcast)]
