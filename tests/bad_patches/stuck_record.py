"""A record that takes for ever to be made again.

Caught: check
Told: live code defines no __post_init__
"""

from __future__ import annotations

from streamd.live.handlers.fanout import *  # for your editor

AMENDS = "handlers.fanout@1"
VERSION = 2


@state
class Announced:
    script: bytes = b""
    video: bytes = b""
    audio: bytes = b""

    def __post_init__(self) -> None:
        while self.video:
            self.script += self.audio
