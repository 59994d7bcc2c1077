"""A hundred viewers of three broadcasts do not notice twenty loads and twenty rollbacks."""

from __future__ import annotations

import ast
import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from tests import media_samples
from tests.scenarios.harness import ROOT, Encoder, Streamd, eventually, running
from tests.scenarios.viewers import KINDS, SMALL, Viewer, got_everything, watch

pytestmark = pytest.mark.scenario

VIEWERS = 100
LATE = 12  # of them come while it is going on
LOADS = 20
SAMPLES = {
    "one": media_samples.plain,
    "two": media_samples.b_frames,
    "three": media_samples.resolutions,
}

# Wide enough for a viewer that is made to wait, and so little room in the system that it fills up in a second.
LIVE: dict[str, Any] = {
    "wait_for_publisher": 60,
    "publisher_grace": 0.5,
    "viewer_max_lag": 60,
    "viewer_max_slow": 120,
}
TABLES: dict[str, dict[str, Any]] = {"network": {"send_buffer": 4096}}


def shipped(module: str, name: str) -> str:
    """The text of a definition as shipped, decorators included."""
    text = (ROOT / "streamd" / "live" / Path(*module.split("."))).with_suffix(".py").read_text("utf-8")
    node = next(item for item in ast.parse(text).body if getattr(item, "name", "") == name)
    assert isinstance(node, ast.ClassDef | ast.FunctionDef)
    first = min([node.lineno, *(item.lineno for item in node.decorator_list)])
    return "\n".join(text.splitlines()[first - 1 : node.end_lineno])


def chunk_patch() -> str:
    """A patch of the chunk reader that keeps its account of half-read messages in another form."""
    old = "    half_read: int = 0  # bytes in all parts together"
    reader = shipped("protocol.rtmp_chunks", "Reader")
    assert old in reader
    return f'''"""chunk_account: know which chunk stream the half-read bytes belong to."""

from __future__ import annotations

from streamd.runtime.vocabulary import Log

AMENDS = "protocol.rtmp_chunks@1"
VERSION = 2


{reader.replace(old, "    held: dict[int, int] = field(factory=dict)  # bytes in the parts, by chunk stream")}


def keep(reader: Reader, stream: Stream, piece: bytes) -> None:
    """Add to a half-read message. PeerError when all of them together are too much."""
    stream.part += piece
    stream.left -= len(piece)
    reader.held[reader.current] = len(stream.part)
    if sum(reader.held.values()) > 2 * reader.max_message:
        raise PeerError(f"half-read messages of {{sum(reader.held.values())}} bytes in all")


def forget(reader: Reader, stream: Stream) -> None:
    """Let go of a message that was half read."""
    for csid, known in reader.streams.items():
        if known is stream:
            reader.held.pop(csid, None)
    stream.part = bytearray()
    stream.left = 0


def upgrade_Reader(old: dict) -> dict:
    new = dict(old)
    del new["half_read"]
    parts = {{csid: len(stream["part"]) for csid, stream in old["streams"].items()}}
    new["held"] = {{csid: size for csid, size in parts.items() if size}}
    return new


def downgrade_Reader(new: dict) -> dict:
    old = dict(new)
    old["half_read"] = sum(old.pop("held").values())
    return old


def resumed(session, now: int) -> list:
    """Say what is half read of a broadcast's publisher."""
    publisher = getattr(session, "publisher", None)
    if publisher is None:
        return []
    size = sum(publisher.peer.reader.held.values()) + waiting(publisher.peer.reader)
    return [Log("info", f"resumed with {{size}} bytes half read")]
'''


def clock_patch() -> str:
    """A patch that adds a field to a record of every broadcast; there is nothing to convert."""
    clock = shipped("media.timeline", "Clock")
    return f'''"""clock_count: a field more."""

from __future__ import annotations

AMENDS = "media.timeline@1"
VERSION = 2


{clock}
    gone_back: int = 0
'''


PATCHES = (
    ("codec_fix.py",),
    ("chunk_account.py",),
    ("euro_fix.py", "clock_count.py"),
    ("codec_fix.py", "chunk_account.py", "euro_fix.py", "clock_count.py"),
)


@contextlib.asynccontextmanager
async def half_a_tag(streamd: Streamd, viewers: list[Viewer]) -> AsyncIterator[None]:
    """For the length of the block: each of these viewers, all of one broadcast, has got a part of a tag."""

    async def stuck() -> bool:
        peers = {peer["peer"]: peer for peer in (await streamd.session(viewers[0].name))["peers"]}
        for viewer in viewers:
            peer = peers[viewer.address()]
            if not peer["pending"] and peer["lag_ms"] > 200:
                # the socket was full at the end of a tag: empty it, and see where it stops next
                viewer.go_on()
                await asyncio.sleep(0.01)
            viewer.pause()  # again and again: a StreamReader that has emptied its own buffer reads on
        return all(peers[viewer.address()]["pending"] for viewer in viewers)

    try:
        await eventually(stuck, "the sockets of those who do not read are full")
        yield
    finally:
        for viewer in viewers:
            viewer.go_on()


def since_key(encoder: Encoder) -> int:
    """Frames since the latest key picture; the samples have about seventy from one to the next."""
    return next((count for count, frame in enumerate(reversed(encoder.sent)) if frame.key), 0)


async def load_and_roll_back(
    streamd: Streamd, turn: int, encoder: Encoder, slow: list[Viewer]
) -> list[float]:
    """One load and one rollback at a moment that depends on the turn; the longest pause of each in ms."""
    words = PATCHES[(turn + turn // 4) % len(PATCHES)]  # each patch at each moment
    async with contextlib.AsyncExitStack() as moment:
        match turn % 4:
            case 1:
                await moment.enter_async_context(encoder.half_a_chunk(streamd, slow[0].name))
            case 2:
                await eventually(lambda: 20 < since_key(encoder) < 40, "the middle of a GOP")
            case 3:
                await moment.enter_async_context(half_a_tag(streamd, slow))
        loaded = await streamd.ctl("load", *words)
        if turn % 4 == 1 and "chunk_account.py" in words:
            resumed = [line["message"] for line in streamd.lines() if "half read" in line["message"]]
            told = [message for message in resumed if message.startswith(f"live/{slow[0].name}:")]
            assert told[-1].endswith(f"resumed with {encoder.half_read} bytes half read")
        if turn >= LOADS // 2:
            await moment.aclose()  # the rollback at any moment; else at the same as the load
        back = await streamd.ctl("rollback")
    assert len(loaded["modules"]) == len(words)
    assert {name: [new, old] for name, (old, new) in loaded["modules"].items()} == back["modules"]
    # newcomers who are still at the door are sessions as well
    assert min(loaded["sessions"], back["sessions"]) >= len(SAMPLES)
    return [loaded["longest_pause_ms"], back["longest_pause_ms"]]


async def test_a_hundred_viewers_get_every_frame_once_and_in_order_through_twenty_loads_and_rollbacks():
    async with running(TABLES, **LIVE) as streamd:
        streamd.patch("chunk_account.py", chunk_patch())
        streamd.patch("clock_count.py", clock_patch())
        names = list(SAMPLES)
        slow = [watch(streamd, names[0], kind, room=SMALL) for kind in KINDS]
        early = VIEWERS - LATE - len(slow)
        viewers = slow + [watch(streamd, names[index % 3], KINDS[index // 3 % 3]) for index in range(early)]
        await streamd.until(
            lambda status: sum(item["viewers"] for item in status["sessions"]) == len(viewers),
            "everyone waits for the broadcasts",
        )
        encoders = [await Encoder.connect(streamd, name) for name in names]
        async with asyncio.TaskGroup() as tasks:
            for encoder, sample in zip(encoders, SAMPLES.values(), strict=True):
                tasks.create_task(encoder.run(media_samples.repeated(sample(), 100)))
            await eventually(
                lambda: all(len(viewer.seen) > 50 for viewer in viewers), "everyone sees pictures"
            )
            pauses = []
            for turn in range(LOADS):
                pauses += await load_and_roll_back(streamd, turn, encoders[0], slow)
                if turn < LATE:
                    viewers.append(watch(streamd, names[turn % 3], KINDS[turn // 3 % 3]))
            print(f"longest pause of {len(pauses)} moves, ms: median {median(pauses)}, worst {max(pauses)}")
            status = await streamd.status()
            assert [item["number"] for item in status["releases"] if "running" in item["state"]] == [
                status["kept"]
            ]
            assert [item["number"] for item in status["releases"] if "leaving" in item["state"]] == []
            assert status["crashes"] == 0
            for encoder in encoders:
                encoder.stopping = True

        assert len(viewers) == VIEWERS
        for viewer in viewers:
            viewer.ending()
        for encoder in encoders:
            await encoder.close()
        await asyncio.gather(*(asyncio.wait_for(viewer.ended.wait(), 30) for viewer in viewers))
        sent = dict(zip(names, encoders, strict=True))
        print(f"{sum(len(viewer.frames()) for viewer in viewers)} frames reached {len(viewers)} viewers")
        assert [fault for viewer in viewers if (fault := got_everything(viewer, sent[viewer.name]))] == []
