"""An endless loop in a stack of contexts that swallows whatever is raised.

Caught: check
Told: may not import contextlib
"""

from __future__ import annotations

from contextlib import ExitStack

from streamd.live.media.h264 import *  # for your editor

AMENDS = "media.h264@1"
VERSION = 2

LATER = 50  # pictures


@state
class Track:
    """As shipped, and the pictures since the patch was loaded."""

    config: bytes = b""
    nal_length: int = 4
    pictures: int = 0


def learn(track: Track, payload: bytes) -> None:
    track.pictures += 1
    if track.pictures > LATER:
        while track.nal_length:
            with ExitStack() as stack:
                stack.push(lambda *error: True)
                payload.decode("ascii")
    sets = parameter_sets(payload, track.nal_length)
    if sets and is_key(payload, track.nal_length):
        track.config = pack_config(*merge_sets(*parse_config(track.config), sets), track.nal_length)
