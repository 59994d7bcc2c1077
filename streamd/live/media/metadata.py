"""onMetaData: what the publisher says about the broadcast (Adobe FLV specification v10.1, E.5).

The rule this file keeps: what is kept is bounded and scalar, whatever a publisher sends, and texts are kept
as text: they are decoded once on the way in (protocol.text) and written as UTF-8.
"""

from __future__ import annotations

import math

from streamd.live.media import flv
from streamd.live.protocol import amf0

VERSION = 1

Values = dict[str, bool | float | str]

# OBS sends 20 properties, the most talkative hardware encoders some 40.
MAX_VALUES = 128
# Characters of one text or name; longer ones are cut. Titles have some dozen.
MAX_TEXT = 2_048

# The AMF0 strings that ask a server to keep, or to forget, what follows (they are for the server, not for
# viewers).
SET = b"\x02\x00\x0d@setDataFrame"
CLEAR = "@clearDataFrame"


def read(payload: bytes) -> Values | None:
    """The scalar values of an onMetaData message (type 18), with or without "@setDataFrame"; None if it is
    another script message. {} where the publisher takes its metadata back. PeerError where the AMF0 is
    malformed.

    Left out: nested values (index tables of files), numbers that are none, and all beyond MAX_VALUES.
    """
    values = amf0.decode(strip(payload))
    if values[:2] == [CLEAR, "onMetaData"]:
        return {}
    if len(values) < 2 or values[0] != "onMetaData" or not isinstance(values[1], dict):
        return None
    kept: Values = {}
    for name, value in values[1].items():
        if len(kept) == MAX_VALUES:
            break
        if isinstance(value, str):
            kept[name[:MAX_TEXT]] = value[:MAX_TEXT]
        elif isinstance(value, bool):
            kept[name[:MAX_TEXT]] = value
        elif isinstance(value, int | float) and math.isfinite(value):
            kept[name[:MAX_TEXT]] = float(value)
    return kept


def strip(payload: bytes) -> bytes:
    """A script message's payload without a leading "@setDataFrame": what a Frame of codec "script"
    carries."""
    return payload[len(SET) :] if payload.startswith(SET) else payload


def write(values: Values) -> bytes:
    """The body of an onMetaData message for viewers (type 18)."""
    return flv.script("onMetaData", values)
