"""Empties the headers of the request that it was given, and then fails.

Caught: probation
Told: door/
Told: KeyError
Needs: ws joins
"""

from __future__ import annotations

from streamd.live.handlers.door import *  # for your editor

AMENDS = "handlers.door@1"
VERSION = 2


def ask_for(door: Door, request: Request, name: str) -> list[Command]:
    request.headers.clear()
    return [Move(request.link, f"{APP}/{name}", HttpGuest("ws", request.headers["sec-websocket-key"]), False)]
