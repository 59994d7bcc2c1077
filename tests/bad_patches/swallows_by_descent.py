"""The same, with BaseException found among the ancestors of another.

Caught: check
Told: mro
"""

from __future__ import annotations

from streamd.live.media.h264 import *  # for your editor

AMENDS = "media.h264@1"
VERSION = 2


def learn(track: Track, payload: bytes) -> None:
    while track.nal_length:
        try:
            payload.decode("ascii")
        except PeerError.mro()[-2]:
            continue
