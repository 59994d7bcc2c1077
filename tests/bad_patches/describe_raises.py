"""Only the operator's question fails.

Caught: rehearse
Told: describe()
Told: TypeError
"""

from __future__ import annotations

from streamd.live.handlers.broadcast import *  # for your editor

AMENDS = "handlers.broadcast@1"
VERSION = 2


def describe(broadcast: Broadcast) -> dict[str, object]:
    return {"kind": "broadcast", "phase": broadcast.phase, "viewers": len(broadcast.audience)}
