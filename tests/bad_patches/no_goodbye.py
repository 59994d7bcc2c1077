"""Everything goes on; only who stops the server would find that nobody is told.

Caught: rehearse
Told: at a made-up Stopping, the new code fails: KeyError
Told: live/
"""

from __future__ import annotations

from streamd.live.handlers.broadcast import *  # for your editor

AMENDS = "handlers.broadcast@1"
VERSION = 2


def finish(broadcast: Broadcast, going_away: bool, sentence: str) -> list[Command]:
    sentence = {False: sentence}[going_away]
    commands: list[Command] = []
    if broadcast.publisher is not None:
        commands += dismiss_publisher(broadcast, broadcast.publisher, "NetStream.Unpublish.Success", sentence)
    commands += audience.dismiss(broadcast.audience, going_away, sentence)
    broadcast.phase, broadcast.fanout.ready = "ended", False
    return [*commands, End(sentence)]
