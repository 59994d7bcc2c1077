"""Viewers over RTMP: they may pause, and switch sound or picture off.

The rule this file keeps: `group_of` says where a viewer belongs; whoever changes the viewer compares that with where it
is (`viewer.group`) and has it moved. A viewer's wishes never touch a frame.
"""

from __future__ import annotations

from typing import Literal

from streamd.live.protocol import rtmp
from streamd.runtime.state import state

VERSION = 1


@state
class Viewer:
    """`group` is the group it is a member of now, "" for none. A `deaf` viewer's bytes are not read any more: it came
    back from a checkpoint, and its half-read messages do not fit what it sends now."""

    peer: rtmp.Peer
    group: str = ""
    paused: bool = False
    audio: bool = True
    video: bool = True
    deaf: bool = False


def group_of(viewer: Viewer) -> str:
    """The group that gives a viewer what it wants; "" if it wants nothing now."""
    if viewer.paused or not (viewer.audio or viewer.video):
        return ""
    if viewer.audio and viewer.video:
        return "rtmp"
    return "rtmp.audio" if viewer.audio else "rtmp.video"


def feed(viewer: Viewer, data: bytes, now: int) -> Literal["", "stop", "bye"]:
    """Take a viewer's bytes; answers are in its peer's output. PeerError where malformed."""
    if viewer.deaf:
        return ""
    rtmp.feed(viewer.peer, data, now)
    return follow(viewer, now)


def follow(viewer: Viewer, now: int) -> Literal["", "stop", "bye"]:
    peer = viewer.peer
    while (intent := rtmp.pull(peer, now)) is not None:
        match intent:
            case rtmp.Pause(on, _position):
                viewer.paused = on
                rtmp.pause_notify(peer, on)
            case rtmp.Receive(audio, video):
                viewer.audio = viewer.audio if audio is None else audio
                viewer.video = viewer.video if video is None else video
            case rtmp.Seek():
                rtmp.seek_notify(peer)  # a live stream stays where it is
            case rtmp.Stop():
                return "stop"
            case rtmp.Bye():
                return "bye"
    return ""
