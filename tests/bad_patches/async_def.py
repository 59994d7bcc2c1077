"""A step that waits: nobody could be moved while it does.

Caught: check
Told: live code never awaits
"""

from __future__ import annotations

from streamd.live.handlers.broadcast import *  # for your editor

AMENDS = "handlers.broadcast@1"
VERSION = 2


async def part(broadcast: Broadcast, link: int, reason: str, now: int) -> list[Command]:
    return [*audience.forget(broadcast.audience, broadcast.fanout, link), *end_if_idle(broadcast)]
