"""The one currency between protocols: every way in makes frames, every way out takes them.

The rule this file keeps: a frame says nothing about the protocol it came by. It is never kept in session
state.
"""

from __future__ import annotations

from typing import NamedTuple

VERSION = 1


class Frame(NamedTuple):
    """One access unit of one track, on the broadcast's own timeline.

    `track` is "video", "audio" or "data"; `codec` "h264", "aac" or "script". `dts` and `pts` are
    milliseconds, 64 bits. `key` is true where a decoder may start. `payload` by codec: h264: length-prefixed
    NAL units, the prefix as long as the track's configuration record says (nearly always 4 bytes); aac: one
    raw_data_block; script: AMF0 values without "@setDataFrame".
    """

    track: str
    codec: str
    dts: int
    pts: int
    key: bool
    payload: bytes
