"""A field is gone, and nobody says where its data goes.

Caught: rehearse
Told: loses nal_length
Told: upgrade
"""

from __future__ import annotations

from streamd.live.media.h264 import *  # for your editor

AMENDS = "media.h264@1"
VERSION = 2


@state
class Track:
    config: bytes = b""


def learn(track: Track, payload: bytes) -> None:
    """The sequence header will do."""


def learn_config(track: Track, record: bytes) -> None:
    track.config = record
