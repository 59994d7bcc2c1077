"""A head for newcomers that is not quite bytes.

Caught: probation
Told: live/
Told: Join.head is Head
Needs: flv joins
"""

from __future__ import annotations

from streamd.live.handlers.fanout import *  # for your editor

AMENDS = "handlers.fanout@1"
VERSION = 2


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

    return commands


class Head(bytes):
    pass


def join(fanout: Fanout, link: int, group: str) -> Command:
    start: Literal["key", "next"] = "next" if group in SIDES and group not in fanout.primed else "key"
    return Join(link, group, Head(head(fanout, group)), start)
