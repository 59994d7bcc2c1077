"""Hands a connection over and goes on writing to it.

Caught: probation
Told: door/
Told: guest
Needs: rtmp joins
"""

from __future__ import annotations

from streamd.live.handlers.door import *  # for your editor

AMENDS = "handlers.door@1"
VERSION = 2


def hand_over(door: Door, peer: rtmp.Peer, guest: RtmpGuest, name: str, create: bool) -> list[Command]:
    commands = [*flush(door, peer), Wake(-1, "handshake"), Move(door.link, f"{APP}/{name}", guest, create)]
    door.phase, door.asked = "moving", guest.wants
    peer.out += b"goodbye"
    return commands
