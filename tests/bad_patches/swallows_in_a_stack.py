"""The same, with a stack of contexts that swallows whatever is raised.

Caught: check
Told: contextlib
"""

from __future__ import annotations

from contextlib import ExitStack

from streamd.live.media.h264 import *  # for your editor

AMENDS = "media.h264@1"
VERSION = 2


def learn(track: Track, payload: bytes) -> None:
    while track.nal_length:
        with ExitStack() as stack:
            stack.push(lambda *error: True)
            payload.decode("ascii")
