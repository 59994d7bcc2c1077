"""codec_fix: believe the parameter sets that arrive between pictures.

Some encoders change resolution by sending the new SPS and PPS in a message of their own, right before a key
picture that has none. Version 1 of media.h264 looks for sets in the key picture's message only: it goes on
announcing the old sequence header, and whoever joins later sees garbage. Here such sets wait, and the next
key picture makes them valid.

The record is no longer kept ready-made, because sets may come one by one: `config` is replaced by the sets
themselves, and `waiting` is added.
"""

from __future__ import annotations

from typing import Any

from streamd.live.media.h264 import (  # for your editor; AMENDS does the work
    is_key,
    merge_sets,
    pack_config,
    parameter_sets,
    parse_config,
    parse_nal_length,
    replace_sets,
)
from streamd.runtime.state import field, state

AMENDS = "media.h264@1"
VERSION = 2
DIFFERS = "SendAll, Send, Join: parameter sets that come in a message of their own are announced with the next key picture, and not never."


@state
class Track:
    """`sps`, `pps` and `rest` are those of the configuration record; `waiting` are the sets that came since
    the latest key picture; `nal_length` the bytes of a NAL unit's length prefix."""

    sps: list[bytes] = field(factory=list)
    pps: list[bytes] = field(factory=list)
    rest: bytes = b""
    waiting: list[bytes] = field(factory=list)
    nal_length: int = 4


def learn_config(track: Track, record: bytes) -> None:
    """Take over a sequence header (flv.VideoTag of kind "config"). PeerError where it is malformed."""
    nal_length = parse_nal_length(record)
    track.sps, track.pps, track.rest = parse_config(record)
    track.waiting, track.nal_length = [], nal_length


def learn(track: Track, payload: bytes) -> None:
    """Take over the parameter sets that come with a key picture, or came since the one before it.

    To be called for every frame, key or not. PeerError where the payload or a set is malformed.
    """
    waiting = replace_sets(track.waiting, parameter_sets(payload, track.nal_length))
    if waiting and is_key(payload, track.nal_length):
        track.sps, track.pps, track.rest = merge_sets(track.sps, track.pps, track.rest, waiting)
        waiting = []
    track.waiting = waiting


def config(track: Track) -> bytes:
    """The configuration record to announce to viewers, b"" while none is known."""
    return pack_config(track.sps, track.pps, track.rest, track.nal_length)


def upgrade(old: dict[str, Any]) -> dict[str, Any]:
    """State of version 1 -> state of version 2; nothing waits yet."""
    sps, pps, rest = parse_config(old["config"])
    return {"sps": sps, "pps": pps, "rest": rest, "waiting": [], "nal_length": old["nal_length"]}


def downgrade(new: dict[str, Any]) -> dict[str, Any]:
    """And back. What waits is forgotten, as version 1 would have done."""
    record = pack_config(new["sps"], new["pps"], new["rest"], new["nal_length"])
    return {"config": record, "nal_length": new["nal_length"]}
