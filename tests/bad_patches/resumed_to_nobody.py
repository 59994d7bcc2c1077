"""Greets a group that no ring was made for.

Caught: rehearse
Told: resumed
Told: SendAll to group 'everyone'
Told: no Ring
"""

from __future__ import annotations

from streamd.live.handlers.broadcast import *  # for your editor
from streamd.runtime.vocabulary import SendAll

AMENDS = "handlers.broadcast@1"
VERSION = 2


def resumed(session: Broadcast, now: int) -> list[Command]:
    return [SendAll("everyone", b"hello", True)]
