"""Newcomers get no sequence headers: they would see nothing, and nobody else would notice.

Caught: probation
Told: live/
Told: Join
Needs: flv joins
"""

from __future__ import annotations

from streamd.live.handlers.fanout import *  # for your editor

AMENDS = "handlers.fanout@1"
VERSION = 2


def head(fanout: Fanout, group: str) -> bytes:
    return framed_for(group, flv.header(True, True)) if group in FLV else b""
