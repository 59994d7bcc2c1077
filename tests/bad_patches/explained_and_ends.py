"""Is allowed a line, and ends the broadcast.

Caught: probation
Told: live/
Told: nothing explains that of End
"""

from __future__ import annotations

from streamd.live.handlers.fanout import *  # for your editor
from streamd.runtime.vocabulary import End, Log

AMENDS = "handlers.fanout@1"
VERSION = 2
DIFFERS = "Log: notes frames in the debug log; nothing else changes"

LATER = 150  # frames


@state
class Fanout:
    """As shipped, and the frames since the patch was loaded."""

    shape: tuple[int, int, int]
    rings: bool = False
    ready: bool = False
    told: Announced = field(factory=Announced)
    keyed: Announced = field(factory=Announced)
    carried: Announced = field(factory=Announced)
    since_key: int = 0
    key_dts: int = 0
    changed_dts: int = 0
    sides: list[str] = field(factory=list)
    primed: list[str] = field(factory=list)
    frames: int = 0


def publish(fanout: Fanout, offers: Announced, frame: Frame, key: bool) -> list[Command]:
    fanout.frames += 1
    messages = due(fanout, offers, frame, key)
    messages.append((flv.message_type(frame), frame.dts, flv.body(frame)))
    commands = units(fanout, messages, frame.track, key)
    commands.append(Log("debug", "a frame"))
    if fanout.frames > LATER:
        commands.append(End("enough"))
    return commands
