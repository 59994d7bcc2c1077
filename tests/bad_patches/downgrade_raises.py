"""There is no way back.

Caught: rehearse
Told: media.h264.downgrade
Told: NotImplementedError
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
    return {**old, "pictures": 0}


def downgrade(new: dict) -> dict:
    raise NotImplementedError
