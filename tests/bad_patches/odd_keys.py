"""A key that no packed state can have.

Caught: probation
Told: live/
Told: key
"""

from __future__ import annotations

from streamd.live.media.h264 import *  # for your editor
from streamd.runtime.state import field, state

AMENDS = "media.h264@1"
VERSION = 2

LATER = 50  # pictures


@state
class Track:
    """As shipped, and the pictures since the patch was loaded."""

    config: bytes = b""
    nal_length: int = 4
    pictures: int = 0
    sizes: dict[int, int] = field(factory=dict)


def learn(track: Track, payload: bytes) -> None:
    track.pictures += 1
    if track.pictures > LATER:
        track.sizes[None] = len(payload)
    sets = parameter_sets(payload, track.nal_length)
    if sets and is_key(payload, track.nal_length):
        track.config = pack_config(*merge_sets(*parse_config(track.config), sets), track.nal_length)
