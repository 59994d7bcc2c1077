"""What happens to people who watch when encoders do what encoders do: the rows that no other server passes all of.

Publishers drop and come back, come twice, wrap their clocks or let them jump, and viewers read slowly. Every frame is
numbered, so a viewer's own record says what was lost, doubled, out of order or out of time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from tests import rtmp_client
from tests.rtmp_client import AUDIO, VIDEO
from tests.scenarios.camera import GOP, STEP, Camera, Seen, frames, gaps, missing, of, shoot
from tests.scenarios.harness import Streamd, eventually, running
from tests.scenarios.throttle import ROOM, throttled
from tests.scenarios.viewers import KINDS, Viewer, watch, watching

pytestmark = pytest.mark.scenario

SMALL_GAP = 2 * STEP + STEP // 2  # ms that a repaired jump may leave between two frames of a track
HOUR = 3_600_000
BOUNDARIES = (1 << 24, 1 << 31, 1 << 32)


def seen_by(viewer: Viewer) -> list[Seen]:
    return frames((tag.type, tag.dts, tag.payload) for tag in viewer.seen)


async def until_seen(viewer: Viewer, number: int, source: int = 1) -> list[Seen]:
    """Wait until a viewer has both frames of that number; all it has seen."""

    def there() -> bool:
        last = [(tag.source, tag.number) for tag in frames_at_end(viewer)]
        return last.count((source, number)) == 2

    await viewer.until(there, f"frame {number} of camera {source}")
    return seen_by(viewer)


def frames_at_end(viewer: Viewer) -> list[Seen]:
    return frames((tag.type, tag.dts, tag.payload) for tag in viewer.seen[-4:])


@contextlib.asynccontextmanager
async def watching_camera(
    streamd: Streamd, name: str, start: int = 0, rate: int = 200_000
) -> AsyncIterator[tuple[rtmp_client.Client, Camera, list[Viewer]]]:
    """A publisher, its camera not half a second into the broadcast, and a viewer of each kind that watches already."""
    publisher = await rtmp_client.publish(streamd.rtmp, name)
    camera = Camera(start=start, rate=rate)
    await shoot(publisher, camera, 0.4)
    async with watching(streamd, name, keep=True) as viewers:
        await settled(viewers)
        yield publisher, camera, viewers


async def settled(viewers: list[Viewer]) -> None:
    for viewer in viewers:
        await until_more(viewer, 4)


async def until_more(viewer: Viewer, count: int) -> None:
    await viewer.until(lambda: len(viewer.frames()) > count, f"it has seen {count} frames")


# ---- a publisher that goes and comes ------------------------------------------------------------------------


async def test_viewers_of_a_publisher_that_drops_and_is_back_after_3_s_go_on_with_the_same_time() -> None:
    async with running() as streamd, watching_camera(streamd, "blip") as (publisher, camera, viewers):
        await shoot(publisher, camera, 2)
        publisher.abort()
        await asyncio.sleep(1.5)
        between = watch(streamd, "blip", "ws", keep=True)
        await asyncio.sleep(1.5)
        assert not between.frames()
        again = Camera(source=2)
        publisher = await rtmp_client.publish(streamd.rtmp, "blip")
        await shoot(publisher, again, 2)
        late = watch(streamd, "blip", "flv", keep=True)
        await shoot(publisher, again, 1)
        first: list[int] = []
        for viewer in [*viewers, between, late]:
            seen = await until_seen(viewer, again.made - 1, 2)
            assert viewer.connections == 1
            assert missing(seen) == []
            assert max(gaps(seen)) <= SMALL_GAP
            returned = [frame for frame in seen if frame.source == 2]
            assert returned[0].key
            first.append(returned[-1].dts)
            if viewer is not late:
                assert of(returned, VIDEO)[0].number == of(returned, AUDIO)[0].number == 0
                assert of(seen, VIDEO)[0].source == (2 if viewer is between else 1)
        assert len(set(first)) == 1, "the outputs disagree about the time"
        await publisher.close()
        await between.close()
        await late.close()


async def test_a_second_publisher_is_told_bad_name_and_viewers_do_not_notice() -> None:
    async with running() as streamd, watching_camera(streamd, "one") as (publisher, camera, viewers):
        shooting = asyncio.create_task(shoot(publisher, camera, 3))
        await asyncio.sleep(0.5)
        for _ in range(5):
            second = await rtmp_client.connected(streamd.rtmp)
            await rtmp_client.ask_publish(second, "one")
            told = await second.status("NetStream.Publish.BadName")
            assert told["level"] == "error"
            assert "already being published" in told["description"]
            await asyncio.wait_for(second.closed.wait(), 5)
            await second.close()
        await shooting
        for viewer in viewers:
            assert whole(viewer, await until_seen(viewer, camera.made - 1)) == ""
        await publisher.close()


async def test_with_takeover_a_second_publisher_replaces_the_first_under_its_viewers() -> None:
    async with (
        running(takeover=True) as streamd,
        watching_camera(streamd, "relay") as (publisher, camera, viewers),
    ):
        shooting = asyncio.create_task(shoot(publisher, camera, 4))
        await asyncio.sleep(1.3)
        backup = Camera(start=5 * HOUR, source=2)
        second = await rtmp_client.publish(streamd.rtmp, "relay")
        told = await publisher.status("NetStream.Publish.BadName")
        assert "taken over" in told["description"]
        await asyncio.wait_for(publisher.closed.wait(), 5)
        await shoot(second, backup, 1.4)  # while the first goes on, too
        shooting.cancel()
        for viewer in viewers:
            seen = await until_seen(viewer, backup.made - 1, 2)
            assert (viewer.connections, missing(seen)) == (1, [])
            assert max(gaps(seen)) <= SMALL_GAP
            assert [frame.source for frame in seen] == sorted(frame.source for frame in seen)
            assert next(frame for frame in seen if frame.source == 2).key
        await publisher.close()
        await second.close()


async def test_a_silent_publisher_is_told_that_it_is_idle_and_its_viewers_wait() -> None:
    async with (
        running(publisher_timeout=1.0) as streamd,
        watching_camera(streamd, "idle") as (publisher, camera, viewers),
    ):
        await shoot(publisher, camera, 1)
        await publisher.status("NetStream.Publish.Idle", 5)
        await asyncio.wait_for(publisher.closed.wait(), 5)
        await publisher.close()
        again, camera = await rtmp_client.publish(streamd.rtmp, "idle"), Camera(source=2)
        await shoot(again, camera, 1)
        for viewer in viewers:
            seen = await until_seen(viewer, camera.made - 1, 2)
            assert (viewer.connections, missing(seen)) == (1, [])
            assert max(gaps(seen)) <= SMALL_GAP
        await again.close()


# ---- clocks -------------------------------------------------------------------------------------------------

WIRES = {
    "full headers": {"fmt": 0, "repeat": True},
    "full headers, extended time not repeated": {"fmt": 0, "repeat": False},
    "deltas": {"fmt": 1, "repeat": True},
}


async def test_input_timestamps_cross_2_24_and_2_31_and_2_32_unnoticed() -> None:
    """In every form that encoders write them, for who watches already and who comes later."""
    cases = [(boundary, wire) for boundary in BOUNDARIES for wire in WIRES]
    async with running() as streamd:
        outcomes = await asyncio.gather(
            *(crossing(streamd, f"in-{place}", *case) for place, case in enumerate(cases))
        )
    assert [fault for faults in outcomes for fault in faults] == []


async def crossing(streamd: Streamd, name: str, boundary: int, wire: str) -> list[str]:
    """Publish across a boundary; what viewers of all kinds saw wrong."""
    publisher = await rtmp_client.publish(
        streamd.rtmp, name, chunk=512
    )  # so that pictures need type-3 chunks
    publisher.repeat_extended = bool(WIRES[wire]["repeat"])
    camera = Camera(start=boundary - 1_400)
    await shoot(publisher, camera, 1, fmt=int(WIRES[wire]["fmt"]))
    faults = []
    async with watching(streamd, name, keep=True) as early:
        await settled(early)
        await shoot(publisher, camera, 1.6, fmt=int(WIRES[wire]["fmt"]))
        async with watching(streamd, name, keep=True) as late:
            await settled(late)
            await shoot(publisher, camera, 1, fmt=int(WIRES[wire]["fmt"]))
            for viewer in [*early, *late]:
                seen = await until_seen(viewer, camera.made - 1)
                found = whole(viewer, seen) or seen[-1].dts != (camera.made - 1) * STEP + STEP // 2
                if found:
                    who = f"{type(viewer).__name__} {'early' if viewer in early else 'late'}"
                    faults.append(f"2^{boundary.bit_length() - 1}, {wire}, {who}: {found} {seen[-2:]}")
    await publisher.close()
    return faults


def whole(viewer: Viewer, seen: list[Seen]) -> str:
    """Why a viewer has not seen all frames at their very distance on one connection; "" if it has."""
    lost, distances = missing(seen), set(gaps(seen))
    if (viewer.connections, lost, distances) == (1, [], {STEP}):
        return ""
    return f"{viewer.connections} connections, gaps of {distances} ms, lost {lost[:3]}"


LATE_CLOCK = '''"""late_clock: broadcasts that begin now have run for weeks already."""

from __future__ import annotations

from streamd.runtime.state import field, state

AMENDS = "media.timeline@{base}"
VERSION = {version}


@state
class Timeline:
    """As it was, but for where it begins."""

    top: int = {top}
    floor: int = 0
    clocks: dict[str, Clock] = field(factory=dict)
'''


async def test_output_timestamps_cross_2_24_and_2_31_and_2_32_unnoticed() -> None:
    """The broadcast's own clock: three patches make three broadcasts begin just before each boundary."""
    publishers = []
    async with running() as streamd:
        for place, boundary in enumerate(BOUNDARIES, 1):
            patch = LATE_CLOCK.format(base=place, version=place + 1, top=boundary - 1_600)
            await streamd.ctl("load", "--probation", "0", streamd.patch(f"late_clock_{place}.py", patch))
            publishers.append(await rtmp_client.publish(streamd.rtmp, f"out-{place}"))
        faults = await asyncio.gather(
            *(
                crossing_out(streamd, f"out-{place}", boundary, publisher)
                for place, (boundary, publisher) in enumerate(zip(BOUNDARIES, publishers), 1)
            )
        )
        assert [fault for found in faults for fault in found] == []


async def crossing_out(
    streamd: Streamd, name: str, boundary: int, publisher: rtmp_client.Client
) -> list[str]:
    camera = Camera()
    await shoot(publisher, camera, 1)
    faults = []
    async with watching(streamd, name, keep=True) as early:
        await settled(early)
        await shoot(publisher, camera, 1.6)
        async with watching(streamd, name, keep=True) as late:
            await settled(late)
            await shoot(publisher, camera, 1)
            for viewer in [*early, *late]:
                seen = await until_seen(viewer, camera.made - 1)
                ours = [tag.dts for tag in viewer.seen if tag.frame]
                start = boundary - 1_600 + STEP
                end = start + (camera.made - 1) * STEP + STEP // 2 & 0xFFFF_FFFF
                found = whole(viewer, seen) or ours[-1] != end or (viewer in early and ours[0] >= boundary)
                if found:
                    who = f"{type(viewer).__name__} {'early' if viewer in early else 'late'}"
                    faults.append(f"2^{boundary.bit_length() - 1}, {who}: {found} {ours[0]} ... {ours[-1]}")
    await publisher.close()
    return faults


@pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=["forward", "back"])
async def test_an_encoder_that_jumps_by_an_hour_leaves_one_small_gap(jump: int) -> None:
    async with (
        running() as streamd,
        watching_camera(streamd, "jump", 2 * HOUR) as (publisher, camera, viewers),
    ):
        await shoot(publisher, camera, 1)
        straggler = camera.take(STEP)
        camera.jump(jump)
        follower = camera.take(STEP)
        # the picture has jumped already when the last sound of the old time arrives
        await publisher.send_all([straggler[0], follower[0], straggler[1], follower[1]])
        await shoot(publisher, camera, 1)
        late = watch(streamd, "jump", "flv", keep=True)
        await shoot(publisher, camera, 1)
        for viewer in [*viewers, late]:
            seen = await until_seen(viewer, camera.made - 1)
            assert (viewer.connections, missing(seen)) == (1, [])
            odd = [gap for gap in gaps(seen) if gap != STEP]
            assert len(odd) <= 2, "more than one gap a track"
            assert all(gap <= SMALL_GAP for gap in odd)
            assert max(abs(a.dts - v.dts) for v, a in zip(of(seen, VIDEO), of(seen, AUDIO))) <= 2 * STEP
        await publisher.close()
        await late.close()


# ---- slow viewers -------------------------------------------------------------------------------------------

SLOW = {"flv": 30, "ws": 10, "rtmp": 10}
BITS = 4_000_000
MB = 1 << 20


async def test_50_viewers_at_a_tenth_of_the_rate_cost_no_memory_and_disturb_nobody() -> None:
    """They skip from key frame to key frame, and are closed for it when their time is over."""
    async with (
        running(gop_cache_bytes=3 * MB, viewer_max_lag=2.0, viewer_max_slow=16.0) as streamd,
        throttled(streamd, BITS / 8 / 10) as tight,
    ):
        publisher = await rtmp_client.publish(streamd.rtmp, "big")
        camera = Camera(rate=BITS)
        await shoot(publisher, camera, 1)
        async with watching(streamd, "big", keep=True) as fast:
            await shoot(publisher, camera, 6)  # the rings are full now
            before = resident(streamd)
            slow = [watch(tight, "big", kind, keep=True) for kind in KINDS for _ in range(SLOW[kind])]
            for viewer in slow:
                viewer.ending()
            peak = before
            for _ in range(23):
                await shoot(publisher, camera, 1)
                peak = max(peak, resident(streamd))
            for viewer in fast:
                assert whole(viewer, await until_seen(viewer, camera.made - 1)) == ""
            for viewer in slow:
                check_slow(viewer)
            await eventually(lambda: all(viewer.ended.is_set() for viewer in slow), "slow viewers are closed")
        print(f"50 slow viewers: {before / MB:.1f} MB before, {peak / MB:.1f} MB at most")
        assert peak - before < 8 * MB
        reasons = [line["message"] for line in streamd.lines() if "too slow" in line["message"]]
        assert len(reasons) == len(slow)
        await publisher.close()


def check_slow(viewer: Viewer) -> None:
    """What a slow viewer got begins with a key frame again after every gap, and its time never goes back."""
    seen = seen_by(viewer)
    skips = 0
    last: Seen | None = None
    for frame in of(seen, VIDEO):
        if last is not None and frame.number != last.number + 1:
            assert frame.number > last.number
            assert frame.key, f"{frame} after {last}"
            skips += 1
        last = frame
    assert min(gaps(seen)) > 0
    assert skips >= 1, "it should have skipped"
    assert len(of(seen, VIDEO)) >= GOP, "it should have been given what it can take"


async def test_a_viewer_that_stops_for_a_while_goes_on_at_a_key_frame() -> None:
    async with running(viewer_max_lag=1.0) as streamd:
        publisher, camera = await rtmp_client.publish(streamd.rtmp, "pause"), Camera(rate=BITS)
        await shoot(publisher, camera, 0.4)
        viewers = [watch(streamd, "pause", kind, keep=True, room=ROOM) for kind in KINDS]
        await settled(viewers)
        await shoot(publisher, camera, 1.6)
        for viewer in viewers:
            viewer.pause()
        await shoot(publisher, camera, 6)
        for viewer in viewers:
            viewer.go_on()
        await shoot(publisher, camera, 2)
        for viewer in viewers:
            seen = await until_seen(viewer, camera.made - 1)
            assert viewer.connections == 1
            check_slow(viewer)
            assert missing(seen[-GOP:]) == []
            await viewer.close()
        await publisher.close()


def resident(streamd: Streamd) -> int:
    """Bytes of memory that the server has now (proc(5), VmRSS)."""
    assert streamd.process is not None
    with open(f"/proc/{streamd.process.pid}/status", encoding="ascii") as status:
        line = next(line for line in status if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024
