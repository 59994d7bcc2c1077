"""Keys that no packed state can have.

Caught: rehearse
Told: float
"""

from __future__ import annotations

from streamd.live.media.h264 import *  # for your editor

AMENDS = "media.h264@1"
VERSION = 2


@state
class Track:
    config: bytes = b""
    nal_length: int = 4
    pictures: int = 0


def upgrade(old: dict) -> dict:
    return {**old, "pictures": {0.5: 1}}


def downgrade(new: dict) -> dict:
    return {"config": new["config"], "nal_length": new["nal_length"]}
