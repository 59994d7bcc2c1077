"""A line feed in a header's value: the response would be cut in two.

Caught: probation
Told: live/
Told: would break the line
Needs: flv joins
"""

from __future__ import annotations

from streamd.live.handlers.watch_flv import *  # for your editor

AMENDS = "handlers.watch_flv@1"
VERSION = 2

STREAM_HEADERS = MappingProxyType(
    {
        **CORS,
        "Content-Type": "video/x-flv\r\nX-Surprise: yes",
        "Cache-Control": "no-store",
        "X-Accel-Buffering": "no",
    }
)
