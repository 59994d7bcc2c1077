"""Says goodbye and does not close: the connection would stay for ever.

Caught: differences
Told: live/
Told: a made-up Stopping
Told: Close
"""

from __future__ import annotations

from streamd.live.handlers.audience import *  # for your editor

AMENDS = "handlers.audience@1"
VERSION = 2


def say_goodbye(link: int, group: str, last: bytes, sentence: str) -> list[Command]:
    leave: list[Command] = [Leave(link, group)] if group else []
    return [*leave, Send(link, last)]
