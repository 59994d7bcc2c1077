"""A camera whose frames are numbered, and what viewers saw of it.

The rule this file keeps: a frame says who made it and the how-manieth of its track it is, in its own payload, so that a
viewer's record alone shows what was lost, doubled or out of order. Nothing is encoded: the sequence headers are real
(of a sample), the slices are noise, and no test that uses a camera decodes them.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from itertools import pairwise
from time import monotonic
from typing import NamedTuple

from tests import media_samples, rtmp_client
from tests.rtmp_client import AUDIO, DATA, VIDEO

Tag = tuple[int, int, bytes]  # type 8, 9 or 18; timestamp modulo 2^32, ms; body

STEP = 40  # ms between two pictures, and between two blocks of sound
GOP = 25  # pictures from one key frame to the next


class Seen(NamedTuple):
    """A frame as a viewer got it; `dts` in ms, unwrapped; `at`: seconds of the monotonic clock, if known."""

    type: int
    dts: int
    source: int
    number: int
    key: bool


class Camera:
    """Endless picture and sound from timestamp `start` on; `source` 0..255 tells one camera from another.

    `rate` in bits per second is that of the pictures.
    """

    def __init__(self, start: int = 0, source: int = 1, rate: int = 200_000) -> None:
        self.start = start
        self.source = source
        self.made = 0
        self.filler = random.Random(source).randbytes(max(rate * STEP // 8000 - 14, 0))

    def headers(self) -> list[Tag]:
        """Metadata and both sequence headers, with the timestamp 0 that encoders give them."""
        sample = media_samples.plain()
        first = {tag.type: tag for tag in reversed(sample)}
        return [
            (DATA, 0, media_samples.metadata_body(b"numbered")),
            (VIDEO, 0, first[VIDEO].payload),
            (AUDIO, 0, first[AUDIO].payload),
        ]

    def take(self, ms: int) -> list[Tag]:
        """The frames of the next `ms`, a multiple of STEP."""
        frames: list[Tag] = []
        for _ in range(ms // STEP):
            number = self.source << 24 | self.made
            now = self.start + self.made * STEP & 0xFFFF_FFFF
            key = self.made % GOP == 0
            unit = (b"\x65" if key else b"\x41") + number.to_bytes(4, "big") + self.filler
            head = b"\x17\x01\0\0\0" if key else b"\x27\x01\0\0\0"
            frames.append((VIDEO, now, head + len(unit).to_bytes(4, "big") + unit))
            frames.append(
                (AUDIO, now + STEP // 2 & 0xFFFF_FFFF, b"\xaf\x01" + number.to_bytes(4, "big") + b"\x21" * 60)
            )
            self.made += 1
        return frames

    def jump(self, ms: int) -> None:
        """Let the clock jump: the next frame's timestamp is later by so much more."""
        self.start += ms


async def shoot(
    publisher: rtmp_client.Client, camera: Camera, seconds: float, speed: float = 1.0, fmt: int = 0
) -> None:
    """Publish so many seconds of the camera's time, each frame when it is due, `speed` times as fast.

    The first frames have full headers in any case, the others headers of type `fmt`.
    """
    began = monotonic()
    if camera.made == 0:
        await publisher.send_all([*camera.headers(), *camera.take(STEP)])
        began -= STEP / 1000 / speed
        seconds -= STEP / 1000
    for turn in range(round(seconds * 1000) // STEP):
        for tag in camera.take(STEP):
            await publisher.send(tag[0], tag[2], tag[1], fmt=fmt)
        await asyncio.sleep(max(began + (turn + 1) * STEP / 1000 / speed - monotonic(), 0))


# ---- what viewers saw --------------------------------------------------------------------------------------


def frames(tags: Iterable[Tag]) -> list[Seen]:
    """The camera's frames among a viewer's tags, in the order they came; times unwrapped from the first one on."""
    found: list[Seen] = []
    last = -1
    for kind, timestamp, body in tags:
        if kind == DATA or body[1] != 1:
            continue
        at = 10 if kind == VIDEO else 2
        number = int.from_bytes(body[at : at + 4], "big")
        if last < 0:
            last = timestamp
        last += (timestamp - last + 0x8000_0000) % 0x1_0000_0000 - 0x8000_0000
        found.append(Seen(kind, last, number >> 24, number & 0xFFFFFF, kind == VIDEO and body[0] >> 4 == 1))
    return found


def of(seen: list[Seen], kind: int) -> list[Seen]:
    return [frame for frame in seen if frame.type == kind]


def gaps(seen: list[Seen]) -> list[int]:
    """The distances between frames of one track, of both tracks, in ms. Asserts that none goes back."""
    found = []
    for kind in (VIDEO, AUDIO):
        track = of(seen, kind)
        found += [after.dts - before.dts for before, after in pairwise(track)]
    assert min(found) >= 0, f"time goes back by {-min(found)} ms"
    return found


def missing(seen: list[Seen]) -> list[str]:
    """What was lost, doubled or out of order between a viewer's first and last frame, per track and source."""
    faults = []
    for kind in (VIDEO, AUDIO):
        track = of(seen, kind)
        for before, after in pairwise(track):
            if before.source == after.source and after.number != before.number + 1:
                faults.append(f"type {kind}: {after.number} after {before.number} of camera {after.source}")
    return faults
