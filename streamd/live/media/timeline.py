"""A publisher's 32-bit clock turned into the broadcast's own: 64 bits, starting at 0, never going back.

The rule this file keeps: what goes out for one track never falls, nothing goes out below what went out before
a switch of publishers, and two tracks that a publisher stamped with one clock keep their distance from each
other.

Each track has a `Clock`: where it last was in its publisher's time and the offset from there to the
broadcast's time. A frame is placed by the first of these that fits:

1. It goes on where its own track was: same offset. (The frames that still come on the old time after the
   other track has jumped are placed by this, too.)
2. It fits the other track's clock: take over that one's offset. (The second track to jump follows the first;
   the first audio frame follows the first video frame.)
3. Neither: its publisher's clock jumped, or is new. A new offset puts the frame one frame after its
   predecessor.

So whichever track jumps first decides, and a lone frame with a broken timestamp costs nothing: the next one
fits the other track again. Publishers that stamp audio and video with unrelated clocks work as well, each on
its own offset.

Of the places where timestamps wrap, 2^24 is none (RTMP's extended timestamp and FLV's TimestampExtended begin
there and the parsers have dealt with it; an encoder without them that starts again at 0 has jumped), 2^31 is
none (signed in some encoders, the same 32 bits for us) and at 2^32 the nearest of all values with these 32
bits is meant.
"""

from __future__ import annotations

from streamd.runtime.state import field, state

VERSION = 1

# Within one track decode times never fall in a sound stream. Encoders that stamp presentation times instead
# go back by a few frames, again and again; that far is jitter and is held at the last time. What goes back
# further has jumped.
BACK = 500
# A track may go forward by the time that really passed and this much more. Frames that an encoder dropped in
# congestion, low frame rates pushed faster than real time and bursts after a stall stay below.
FORWARD = 2_000
# No silence that is longer than this is believed, whatever the kernel's clock says: publishers time out
# earlier.
SILENCE = 30_000
# How far apart, in the publisher's time, frames of two tracks arrive that belong together. x264's lookahead
# and hardware encoders with unaligned queues come to 2 s.
SKEW = 5_000
# A track that follows another to times before the floor is held at the floor for so long; more than that
# would pile up a heap of frames on one time, so then the whole clock is lifted instead.
SQUEEZE = 100
# One frame, where the track has not shown its own distance yet: 25 fps.
STEP = 40
# The longest distance of two frames that counts as the track's own: 1 fps.
LONGEST_STEP = 1_000


@state
class Clock:
    """One track's way through its publisher's time. `live`: it has been heard since the last `resume`.

    `offset` leads from the publisher's time to the broadcast's, `last_in` is the latest frame in the
    publisher's time (unwrapped), `last_out` in the broadcast's (-1 before the first), `step` the last
    distance of two frames (0 while unknown), all in ms; `heard` is the kernel's `now` of the latest frame.
    """

    live: bool = False
    offset: int = 0
    last_in: int = 0
    last_out: int = -1
    step: int = 0
    heard: int = 0


@state
class Timeline:
    """`top` is the latest time that went out on any track, -1 before the first; nothing goes out below
    `floor`."""

    top: int = -1
    floor: int = 0
    clocks: dict[str, Clock] = field(factory=dict)


def map(timeline: Timeline, track: str, timestamp32: int, now: int) -> int:
    """The dts in ms on the broadcast's timeline of a frame that the publisher stamped `timestamp32` (ms
    modulo 2^32).

    Call it once for every frame in the order of arrival, not for sequence headers (encoders stamp those with
    0). `track` is "video", "audio" or "data"; "data" follows the others and never moves the timeline, because
    encoders stamp it with anything. pts = dts + the frame's composition offset. `now` is the event's (ms,
    monotonic).
    """
    clock = timeline.clocks.get(track)
    if clock is None:
        clock = timeline.clocks[track] = Clock()
    if track == "data":
        clock.last_out = max(place_data(timeline, timestamp32), clock.last_out, timeline.floor)
        return clock.last_out
    clock.last_out = max(place(timeline, track, clock, timestamp32, now), clock.last_out, timeline.floor)
    timeline.top = max(timeline.top, clock.last_out)
    return clock.last_out


def resume(timeline: Timeline) -> None:
    """Another publisher, or the same one on a new connection: its first frame goes out one frame after the
    last output.

    Harmless on a fresh timeline, whose first frame goes out at 0.
    """
    timeline.floor = timeline.top + 1
    for clock in timeline.clocks.values():
        clock.live = False


def unwrap(timestamp32: int, near: int) -> int:
    """The number nearest to `near` that is `timestamp32` modulo 2^32."""
    return near + ((timestamp32 - near + 0x8000_0000) & 0xFFFF_FFFF) - 0x8000_0000


def place(timeline: Timeline, track: str, clock: Clock, timestamp32: int, now: int) -> int:
    """Where an audio or video frame belongs, before it is held at the floor; takes it up in `clock`."""
    own = unwrap(timestamp32, clock.last_in if clock.live else 0)
    other = other_clock(timeline, track)
    if clock.live and goes_on(clock, own, now) and not nearer_to(other, clock, own, timestamp32):
        if 0 < own - clock.last_in <= LONGEST_STEP:
            clock.step = own - clock.last_in
        clock.last_in = max(own, clock.last_in)  # jitter does not turn the clock back
    elif other is not None and follows(other, clock, timestamp32):
        own = clock.last_in = unwrap(timestamp32, other.last_in)
        clock.offset = other.offset
        lift(timeline, clock, own)
    else:
        clock.last_in = own
        clock.offset = next_time(timeline, clock) - own
    clock.live = True
    clock.heard = now
    return own + clock.offset


def place_data(timeline: Timeline, timestamp32: int) -> int:
    """Where a script message belongs: on the time of a track that it fits, but never after the latest time
    that went out."""
    latest = max(timeline.top, 0)
    for clock in timeline.clocks.values():
        if clock.live and abs(unwrap(timestamp32, clock.last_in) - clock.last_in) <= SKEW:
            return min(unwrap(timestamp32, clock.last_in) + clock.offset, latest)
    return latest


def other_clock(timeline: Timeline, track: str) -> Clock | None:
    """The clock of the other track, audio for video, if it has been heard since the last resume."""
    clock = timeline.clocks.get("audio" if track == "video" else "video")
    return clock if clock is not None and clock.live else None


def goes_on(clock: Clock, own: int, now: int) -> bool:
    """True if a track may well have gone from where it was to `own`."""
    passed = min(max(now - clock.heard, 0), SILENCE)
    return -BACK <= own - clock.last_in <= FORWARD + passed


def nearer_to(other: Clock | None, clock: Clock, own: int, timestamp32: int) -> bool:
    """True if the other track has jumped by so little that this frame would pass on both times, and fits
    there better."""
    if other is None or other.offset == clock.offset:
        return False
    ahead = unwrap(timestamp32, other.last_in) - other.last_in
    return abs(ahead) < min(abs(own - clock.last_in), SKEW)


def follows(other: Clock, clock: Clock, timestamp32: int) -> bool:
    """True if a frame belongs to the other track's time.

    Two tracks on one offset are not told apart by it: there the other can only show that a long way forward
    is right (a camera that was off for a minute while the sound went on), never that a way back is.
    """
    ahead = unwrap(timestamp32, other.last_in) - other.last_in
    if clock.live and clock.offset == other.offset:
        return unwrap(timestamp32, clock.last_in) > clock.last_in and -SKEW <= ahead <= FORWARD
    return abs(ahead) <= SKEW


def lift(timeline: Timeline, clock: Clock, own: int) -> None:
    """Move a clock that two tracks now share forward if this track would otherwise go back far behind its
    last output.

    This is the new publisher whose audio begins well before its video, or an encoder that started both anew:
    each track gets one small gap, and they stay together.
    """
    shared = clock.offset
    lowest = max(clock.last_out + 1, timeline.floor)
    if lowest - (own + shared) > SQUEEZE:
        for one in timeline.clocks.values():
            if one.live and one.offset == shared:
                one.offset = lowest - own
        clock.offset = lowest - own


def next_time(timeline: Timeline, clock: Clock) -> int:
    """The time one frame after the track's last output, or after all outputs for a track that is new here."""
    step = clock.step or STEP
    if clock.live:
        return clock.last_out + step
    return timeline.top + step if timeline.top >= 0 else 0
