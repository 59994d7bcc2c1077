"""Wants to tell another machine about every picture, by itself.

Caught: check
Told: may not import socket
Told: I/O
"""

from __future__ import annotations

import socket

from streamd.live.media.h264 import *  # for your editor

AMENDS = "media.h264@1"
VERSION = 2


def learn(track: Track, payload: bytes) -> None:
    with socket.create_connection(("127.0.0.1", 9)) as line:
        line.sendall(payload)
