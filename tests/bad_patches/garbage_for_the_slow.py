"""A viewer that falls behind gets a word that is no FLV, in the middle of what it reads.

Caught: differences
Told: a made-up Congested
Told: live/
"""

from __future__ import annotations

from streamd.live.handlers.fanout import *  # for your editor

AMENDS = "handlers.fanout@1"
VERSION = 2


def remind(fanout: Fanout, link: int, group: str) -> list[Command]:
    return [Send(link, b"hurry up")]
