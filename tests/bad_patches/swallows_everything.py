"""Tries again for ever, and a bare except lets nothing stop it.

Caught: check
Told: a bare except
"""

from __future__ import annotations

from streamd.live.handlers.fanout import *  # for your editor

AMENDS = "handlers.fanout@1"
VERSION = 2


def message_of(frame: Frame) -> Message:
    while True:
        try:
            return flv.message_type(frame), frame.dts, flv.body(frame.again)
        except:
            continue


def publish(fanout: Fanout, offers: Announced, frame: Frame, key: bool) -> list[Command]:
    return units(fanout, [*due(fanout, offers, frame, key), message_of(frame)], frame.track, key)
