"""A field of a type that state may not have.

Caught: import
Told: frames
Told: not a type that state may have
"""

from __future__ import annotations

from streamd.live.media.h264 import *  # for your editor
from streamd.runtime.state import field, state

AMENDS = "media.h264@1"
VERSION = 2


@state
class Track:
    config: bytes = b""
    nal_length: int = 4
    frames: set[int] = field(factory=set)
