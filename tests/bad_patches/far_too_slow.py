"""Right in every byte, and a hundred times as slow.

Caught: rehearse
Told: live/
Told: times as long as the running code
"""

from __future__ import annotations

from streamd.live.media.h264 import *  # for your editor

AMENDS = "media.h264@1"
VERSION = 2


@state
class Track:
    """As shipped, and the pictures since the patch was loaded."""

    config: bytes = b""
    nal_length: int = 4
    pictures: int = 0


def learn(track: Track, payload: bytes) -> None:
    track.pictures += 1
    for _ in range(300):
        checked = [byte ^ 0x5A for byte in payload[:2000]]
        checked.sort()
    sets = parameter_sets(payload, track.nal_length)
    if sets and is_key(payload, track.nal_length):
        track.config = pack_config(*merge_sets(*parse_config(track.config), sets), track.nal_length)
