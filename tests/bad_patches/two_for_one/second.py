"""Two patches of one load want the same module: this is the second.

Caught: merge
Told: first.py and second.py both patch protocol.text
"""

from __future__ import annotations

from streamd.live.protocol.text import *  # for your editor

AMENDS = "protocol.text@1"
VERSION = 2


def encode(text: str) -> bytes:
    return text.encode("utf-8", "ignore")
