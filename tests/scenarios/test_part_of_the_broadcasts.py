"""Four broadcasts on several releases at once: canaries, pins, waves, key frames, shadows, stacks and no way back.

One evening on one server: FFmpeg publishes, viewers of all kinds watch, some come later and one goes from broadcast
to broadcast, and an operator tries whatever streamd-ctl has for moving a part of the broadcasts first.

The rule this file keeps: what an answer says is compared with what `status` says afterwards, and both with what viewers
have got in the end: every frame, once, in order, on the one connection they began with.
"""

from __future__ import annotations

import asyncio
import contextlib
import filecmp
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streamd.live.media import flv
from tests import rtmp_client
from tests.scenarios.harness import ROOT, Sent, Streamd, eventually, running
from tests.scenarios.test_bad_patches import AAC, PICTURES, SOUND, X264, Camera, filming
from tests.scenarios.test_hot_patching import shipped
from tests.scenarios.viewers import KINDS, Player, RtmpViewer, Seen, Viewer, got_everything, watch

pytestmark = pytest.mark.scenario

# In the order of their names' hashes, in which a wave takes them: three, one, two, four.
SOURCES = {
    "one": f"{PICTURES.format(size='192x108')} {SOUND.format(hertz=440)} {X264} -tune zerolatency -g 25 {AAC} -map 0:v -map 1:a",
    "two": f"{PICTURES.format(size='256x144')} {SOUND.format(hertz=550)} {X264} -bf 2 -g 25 {AAC} -map 0:v -map 1:a",
    "three": f"{PICTURES.format(size='160x120')} {SOUND.format(hertz=660)} {X264} -slices 4 -g 30 {AAC} -map 0:v -map 1:a",
    "four": f"{PICTURES.format(size='160x90')} {X264} -tune zerolatency -g 20 -map 0:v",
}
EARLY = 16  # viewers, from the first frame to the last
LATER = 1700  # ms after which a bad patch fails: more than a rehearsal replays, less than a shadow or a probation sees

TABLES: dict[str, dict[str, Any]] = {
    "probation": {"seconds": 0.8, "events": 10},
    "supervision": {"checkpoint_seconds": 0.4},
}
LIVE: dict[str, Any] = {"wait_for_publisher": 60, "publisher_grace": 0.5, "viewer_max_lag": 30}

# ---- patches of our own ------------------------------------------------------------------------------------


def counting(version: int, fields: str, count: str, total: str, migration: str = "") -> str:
    """A patch of media.timeline that counts each track's frames in `fields`, and says at every change of code how many
    pictures there have been up to when."""
    clock, place = shipped("media.timeline", "Clock"), shipped("media.timeline", "place")
    assert place.count("    clock.heard = now") == 1
    return f'''"""Count frames."""

from __future__ import annotations

from streamd.runtime.vocabulary import Log

AMENDS = "media.timeline@{version - 1}"
VERSION = {version}


{clock}
    {fields}


{place.replace("    clock.heard = now", f"    {count}{chr(10)}    clock.heard = now")}


def resumed(session, now: int) -> list:
    clock = getattr(session, "timeline", Timeline()).clocks.get("video")
    if clock is None:
        return []
    return [Log("info", f"{{{total}}} pictures up to {{clock.last_out}} ms, version {version}")]


{migration}
'''


COUNTED = re.compile(r"^live/(\w+): (\d+) pictures up to (\d+) ms, version (\d)$")

FRAME_COUNT = counting(2, "frames: int = 0", "clock.frames += 1", "clock.frames")

FRAME_SPANS = counting(
    3,
    "hundreds: int = 0\n    rest: int = 0",
    "clock.hundreds, clock.rest = clock.hundreds + (clock.rest + 1) // 100, (clock.rest + 1) % 100",
    "clock.hundreds * 100 + clock.rest",
    """def upgrade_Clock(old: dict) -> dict:
    new = dict(old)
    new["hundreds"], new["rest"] = divmod(new.pop("frames"), 100)
    return new


def downgrade_Clock(new: dict) -> dict:
    old = dict(new)
    old["frames"] = old.pop("hundreds") * 100 + old.pop("rest")
    return old""",
)

FRAME_BATCHES = counting(
    4,
    "full: list[int] = field(factory=list)\n    begun: int = 0",
    "clock.begun = (clock.begun + 1) % 100\n    if not clock.begun:\n        clock.full.append(100)",
    "sum(clock.full) + clock.begun",
    """def upgrade_Clock(old: dict) -> dict:
    new = dict(old)
    new["full"], new["begun"] = [100] * new.pop("hundreds"), new.pop("rest")
    return new


def downgrade_Clock(new: dict) -> dict:
    old = dict(new)
    old["hundreds"], old["rest"] = len(old.pop("full")), old.pop("begun")
    return old""",
)


def fails_in(name: str) -> str:
    """A patch that is fine for a while, and for everyone but one broadcast for ever."""
    step, line = shipped("handlers.broadcast", "step"), "    match event:\n"
    assert step.count(line) == 1
    late = f'''    if broadcast.first < 0:
        broadcast.first = broadcast.timeline.top
    if broadcast.timeline.top - broadcast.first > {LATER} and broadcast.name.endswith("{name}"):
        raise KeyError(broadcast.name)
'''
    return f'''"""Fails in {name} after {LATER} ms."""

from __future__ import annotations

AMENDS = "handlers.broadcast@1"
VERSION = 2


{shipped("handlers.broadcast", "Broadcast")}
    first: int = -1


{step.replace(line, late + line)}
'''


# ---- who watches -------------------------------------------------------------------------------------------


class Wanderer(RtmpViewer):
    """A player that leaves one broadcast for the next on the same connection."""

    client: Player

    async def _watch(self) -> None:
        self.client = client = Player(*await self._connect(self.streamd.rtmp), self._see)
        try:
            await client.handshake()
            address = self.streamd.rtmp
            await client.call(
                "connect", {"app": "live", "flashVer": "test", "tcUrl": f"rtmp://{address}/live"}
            )
            await rtmp_client.ask_play(client, self.name)
            await client.closed.wait()
            assert client.broken is None, client.broken
        finally:
            client.deafen()

    async def go_on_to(self, name: str) -> None:
        """Watch another broadcast from now on, and wait until its pictures come."""
        place, size = self.address(), len(self.frames())
        await self.client.command("deleteStream", None, 1)
        await rtmp_client.ask_play(self.client, name)

        async def there() -> bool:
            peers = (await self.streamd.session(name))["peers"]
            return any(peer["peer"] == place for peer in peers)

        await eventually(there, f"the server has taken it to {name}")
        await self.until(lambda: len(self.frames()) > size + 30, f"pictures of {name}")


def legs(seen: list[Seen], sources: list[list[Sent]]) -> str:
    """Why these frames are not a piece of each source in turn, each whole from a key picture on and the last to its end;
    "" if they are."""
    place = 0
    for number, sent in enumerate(sources):
        if place == len(seen):
            return f"nothing of source {number}"
        begin = next((at for at, out in enumerate(sent) if out.key and out.digest == seen[place].digest), -1)
        if begin < 0:
            return f"frame {place} of {len(seen)} is no key picture of source {number}"
        shift, at = seen[place].dts - sent[begin].dts, begin
        while place < len(seen) and at < len(sent):
            out = sent[at]
            if (out.type, out.dts + shift, out.digest) != seen[place][:3]:
                break
            place, at = place + 1, at + 1
        if number == len(sources) - 1 and at < len(sent):
            return f"{len(sent) - at} frames are missing at the end"
    return f"{len(seen) - place} frames are left over" if place < len(seen) else ""


# ---- the operator ------------------------------------------------------------------------------------------


class Evening:
    """One server, four cameras, everyone who watches, and an operator who looks at everything twice."""

    def __init__(self, streamd: Streamd, cameras: dict[str, Camera], viewers: list[Viewer]) -> None:
        self.streamd = streamd
        self.cameras = cameras
        self.viewers = viewers

    async def releases(self) -> tuple[int, dict[str, int]]:
        """The running release, and that of each broadcast. Asserts that nobody has lost anything."""
        status = await self.streamd.status()
        found = {item["name"].removeprefix("live/"): item for item in status["sessions"]}
        assert {name: (item["publisher"] or {}).get("peer") for name, item in found.items()} == {
            name: camera.peer for name, camera in self.cameras.items()
        }
        assert [viewer.fault for viewer in self.viewers if viewer.fault or viewer.connections > 1] == []
        releases = {name: item["release"] for name, item in found.items()}
        # what `status` says in one word is what it says of each
        assert status["mixed"] == (set(releases.values()) != {status["release"]})
        return status["release"], releases

    async def all_on(self, release: int) -> None:
        assert await self.releases() == (release, dict.fromkeys(SOURCES, release))

    async def load(self, *words: str) -> dict[str, Any]:
        return await self.streamd.ctl("load", "--wait", *words)

    async def refused(self, *words: str) -> tuple[str, str]:
        """The stage and the sentence of a refusal."""
        answer = await self.streamd.ctl(*words, code=1)
        assert answer["ok"] is False
        return answer["stage"], answer["error"]

    async def state(self, release: int) -> str:
        """What `status` says of a release."""
        found = (await self.streamd.status())["releases"]
        return next((item["state"] for item in found if item["number"] == release), "")

    async def newcomer(self, name: str, kind: str) -> None:
        viewer = watch(self.streamd, name, kind)
        self.viewers.append(viewer)
        await viewer.until(lambda: len(viewer.frames()) > 5, "the newcomer sees pictures")


def paused(answer: dict[str, Any]) -> set[str]:
    """Broadcasts that an answer has a pause of. Asserts that they make sense."""
    pauses = {item["name"]: item["ms"] for item in answer["pauses"]}
    assert all(0 < pause < 500 for pause in pauses.values()), pauses
    assert len(pauses) == answer["sessions"]
    return {name.removeprefix("live/") for name in pauses if name.startswith("live/")}


def waves(plan: dict[str, Any]) -> list[list[str]]:
    """Names of the broadcasts in each wave of a plan."""
    found: dict[int, list[str]] = {}
    for row in plan["sessions"]:
        if row["name"].startswith("live/"):
            found.setdefault(row["wave"], []).append(row["name"].removeprefix("live/"))
    return [found[wave] for wave in sorted(found)]


# ---- one evening -------------------------------------------------------------------------------------------


async def a_canary_stays_until_it_is_loaded_for_everyone(evening: Evening, wanderer: Wanderer) -> int:
    streamd = evening.streamd
    plan = await streamd.ctl("plan", "codec_fix.py", "--waves", "25,50,100")
    assert waves(plan) == [["three"], ["one"], ["four", "two"]]
    assert plan["modules"] == {"media.h264": [1, 2]}
    assert all(row["pause_ms"] > 0 for row in plan["sessions"])
    first = plan["release"]
    await evening.all_on(first)

    answer = await evening.load("--only", "two", "codec_fix.py")
    canary = int(answer["release"])
    assert paused(answer) == {"two"}
    assert await evening.releases() == (first, {**dict.fromkeys(SOURCES, first), "two": canary})
    assert await evening.state(canary) == "canary"
    stage, why = await evening.refused("keep")
    assert (stage, f"release {canary}: live/two" in why, f"release {first}: " in why) == (
        "read",
        True,
        True,
    ), why
    stage, why = await evening.refused("load", "euro_fix.py")
    assert "is a canary" in why

    for name, kind in (("two", "flv"), ("two", "rtmp"), ("one", "ws"), ("four", "rtmp")):
        await evening.newcomer(name, kind)
    for name in ("two", "three", "two"):
        await wanderer.go_on_to(name)

    answer = await evening.load("codec_fix.py")
    assert answer["release"] == canary
    assert paused(answer) == {"one", "three", "four"}
    await evening.all_on(canary)
    return canary


async def pinned_broadcasts_stay_through_a_load_and_a_rollback(evening: Evening, fixed: int) -> None:
    streamd = evening.streamd
    await streamd.ctl("pin", "four")
    loaded = await evening.load("euro_fix.py")
    assert paused(loaded) == {"one", "two", "three"}
    release = loaded["release"]
    assert await evening.releases() == (release, {**dict.fromkeys(SOURCES, release), "four": fixed})
    assert (await streamd.status())["pins"] == ["live/four"]
    assert "several releases" in (await evening.refused("keep"))[1]
    await evening.newcomer("four", "ws")
    moved = await streamd.ctl("unpin", "four")
    assert (moved["release"], [item["name"] for item in moved["pauses"]]) == (release, ["live/four"])
    await evening.all_on(release)

    await streamd.ctl("pin", "three")
    back = await streamd.ctl("rollback")
    assert back["release"] == fixed
    assert paused(back) == {"one", "two", "four"}
    assert "live/three" in back["text"]
    assert await evening.releases() == (fixed, {**dict.fromkeys(SOURCES, fixed), "three": release})
    await streamd.ctl("unpin", "three")
    await evening.all_on(fixed)
    assert (await streamd.status())["pins"] == []


async def waves_follow_the_plan(evening: Evening) -> int:
    streamd = evening.streamd
    words = ("euro_fix.py", "--waves", "25,100", "--bake", "1s")
    planned = waves(await streamd.ctl("plan", *words))
    assert planned == [["three"], ["four", "one", "two"]]
    _, before = await evening.releases()
    loading = asyncio.create_task(evening.load(*words))
    seen: list[tuple[list[int], dict[str, int]]] = []
    while not loading.done():
        status = await streamd.status()
        if status["probation"]:
            seen.append(
                (
                    status["probation"]["wave"],
                    {item["name"].removeprefix("live/"): item["release"] for item in status["sessions"]},
                )
            )
    answer = await loading
    release = answer["release"]
    assert paused(answer) == set(SOURCES)
    assert "4 sessions moved" in answer["text"]
    assert ([1, 2], {**before, "three": release}) in seen
    assert ([2, 2], dict.fromkeys(SOURCES, release)) in seen
    await evening.all_on(release)
    return int(release)


async def a_failure_in_the_last_wave_takes_all_back(evening: Evening, running: int) -> None:
    streamd = evening.streamd
    patch = streamd.patch("fails_in_two.py", fails_in("two"))
    words = ("load", "--wait", patch, "--waves", "25,100", "--bake", "500ms", "--probation", "10s")
    stage, why = await evening.refused(*words)
    assert stage == "probation"
    assert "live/two" in why
    assert "KeyError" in why
    assert f"Everyone is back on release {running}" in why
    await evening.all_on(running)
    entries = (await streamd.ctl("history"))["entries"]
    done = [(item["verb"], item["result"]) for item in entries if item["result"] != "began"]
    assert done[-3:] == [("load", "ok"), ("wave", "ok"), ("probation", "failed")]
    # who tries it on what happens meanwhile does not even load it
    stage, why = await evening.refused("load", patch, "--shadow", "2s")
    assert stage == "rehearse"
    assert "live/two" in why
    assert "KeyError" in why
    await evening.all_on(running)


async def everyone_moves_right_before_a_key_picture(evening: Evening, running: int) -> int:
    streamd = evening.streamd
    patch = streamd.patch("frame_count.py", FRAME_COUNT)
    stage, why = await evening.refused("load", patch, "--at", "keyframe", "--max-pause", "0ms")
    assert stage == "rehearse"
    assert "longer than the 0 ms allowed" in why
    await evening.all_on(running)
    answer = await evening.load(patch, "--at", "keyframe", "--max-pause", "500ms")
    assert paused(answer) == set(SOURCES)
    assert 0 < answer["predicted_pause_ms"] < 500
    await evening.all_on(answer["release"])
    return int(answer["release"])


async def two_stacked_patches_go_back_at_once_after_a_while(evening: Evening, counted: int) -> None:
    streamd = evening.streamd
    spans = await evening.load(streamd.patch("frame_spans.py", FRAME_SPANS), "--shadow", "2s")
    assert spans["report"]["shadow"]["events"] > 100
    assert spans["report"]["different"] == 0
    batches = await evening.load(streamd.patch("frame_batches.py", FRAME_BATCHES))
    assert batches["modules"] == {"media.timeline": [3, 4]}
    await asyncio.sleep(4)
    back = await streamd.ctl("rollback", "--to", str(counted))
    assert back["modules"] == {"media.timeline": [4, 2]}
    assert paused(back) == set(SOURCES)
    await evening.all_on(counted)


async def no_rollback_crosses_what_is_irreversible(evening: Evening, running: int) -> int:
    streamd = evening.streamd
    words = ("frame_spans.py", "--irreversible", "the old count is wrong")
    first = await streamd.ctl("load", *words, "--probation", "1min")
    back = await streamd.ctl("rollback")  # on probation there is a way back yet
    assert back["release"] == running
    await evening.all_on(running)
    assert first["modules"] == {"media.timeline": [2, 3]}

    answer = await evening.load(*words)
    for wish in ((), ("--to", str(running))):
        stage, why = await evening.refused("rollback", *wish)
        assert stage == "read"
        assert f"release {answer['release']} was loaded as irreversible (the old count is wrong)" in why
    told = (await streamd.status())["releases"]
    assert [item["irreversible"] for item in told if item["number"] == answer["release"]] == [
        "the old count is wrong"
    ]
    await evening.all_on(answer["release"])
    return int(answer["release"])


async def what_is_promoted_is_what_runs(evening: Evening, running: int) -> None:
    streamd = evening.streamd
    clone = streamd.root / "clone"
    shutil.copytree(
        ROOT / "streamd" / "live", clone / "streamd" / "live", ignore=shutil.ignore_patterns("__pycache__")
    )
    answer = await streamd.ctl("promote", str(clone))
    assert sorted(answer["written"]) == [
        "streamd/live/media/h264.py",
        "streamd/live/media/timeline.py",
        "streamd/live/protocol/text.py",
    ]
    release = streamd.root / "state" / "releases" / f"{running:04}"
    assert list(differing(release, clone / "streamd" / "live")) == []
    assert (await streamd.ctl("promote", str(clone)))["written"] == []
    kept = await streamd.ctl("keep")
    assert kept["kept"] == running
    assert (await streamd.ctl("history", "--verify"))["verified"]["problems"] == []


def differing(left: Path, right: Path) -> Iterator[str]:
    """Python files of two directories that are not the same in both."""
    names = {str(path.relative_to(root)) for root in (left, right) for path in root.rglob("*.py")}
    for name in sorted(names):
        if not ((left / name).is_file() and (right / name).is_file()):
            yield f"{name} is in one only"
        elif not filecmp.cmp(left / name, right / name, shallow=False):
            yield f"{name} differs"


# ---- what came of it ---------------------------------------------------------------------------------------


def counts(streamd: Streamd, name: str) -> list[tuple[int, int, int]]:
    """(version, pictures, ms) of each change of code that counted them."""
    found = (COUNTED.match(line["message"]) for line in streamd.lines())
    return [(int(item[4]), int(item[2]), int(item[3])) for item in found if item and item[1] == name]


def miscounted(streamd: Streamd, viewer: Viewer) -> list[str]:
    """What of the counts that went through the stack and back is not what a viewer got."""
    pictures = [seen.dts for seen in viewer.frames() if seen.type == flv.VIDEO]
    found = counts(streamd, viewer.name)
    versions = [version for version, _, _ in found]
    since = found[0][2]
    # taken back from its probation a session has its old state at once; nothing is resumed
    wrong = [] if versions == [2, 3, 4, 2, 3, 3] else [f"{viewer.name} was resumed as {versions}"]
    for version, number, until in found:
        real = sum(since < dts <= until for dts in pictures)
        if number != real:
            wrong.append(f"{viewer.name}, version {version}: {number} pictures, and {real} came")
    return wrong


def not_at_a_key(streamd: Streamd, viewer: Viewer, camera: Camera) -> str:
    """Why a broadcast did not move right before a key picture when it was told to; "" if it did."""
    moved = counts(streamd, viewer.name)[0][2]
    sent = camera.sent[len(camera.sent) - len(viewer.frames()) :]
    pictures = [
        (seen.dts, out.key) for seen, out in zip(viewer.frames(), sent, strict=True) if out.type == flv.VIDEO
    ]
    after = next(key for dts, key in pictures if dts > moved)
    return (
        ""
        if after
        else f"{viewer.name} moved after the picture of {moved} ms, and the next is no key picture"
    )


async def test_an_evening_with_part_of_the_broadcasts_first():
    async with running(TABLES, complains=True, **LIVE) as streamd, contextlib.AsyncExitStack() as stack:
        names = list(SOURCES)
        viewers = [watch(streamd, names[index % 4], KINDS[index // 4 % 3]) for index in range(EARLY)]
        wanderer = Wanderer(streamd, "one", False, 0)
        await streamd.until(
            lambda status: sum(item["viewers"] for item in status["sessions"]) == EARLY + 1, "everyone waits"
        )
        cameras = await stack.enter_async_context(filming(streamd, SOURCES))
        await eventually(
            lambda: all(len(viewer.seen) > 50 for viewer in (*viewers, wanderer)), "everyone sees pictures"
        )
        evening = Evening(streamd, cameras, viewers)
        fixed = await a_canary_stays_until_it_is_loaded_for_everyone(evening, wanderer)
        await pinned_broadcasts_stay_through_a_load_and_a_rollback(evening, fixed)
        release = await waves_follow_the_plan(evening)
        await a_failure_in_the_last_wave_takes_all_back(evening, release)
        release = await everyone_moves_right_before_a_key_picture(evening, release)
        await two_stacked_patches_go_back_at_once_after_a_while(evening, release)
        release = await no_rollback_crosses_what_is_irreversible(evening, release)
        await what_is_promoted_is_what_runs(evening, release)

        for viewer in (*viewers, wanderer):
            viewer.ending()
        for camera in cameras.values():
            await camera.stop()
        for viewer in (*viewers, wanderer):
            await asyncio.wait_for(viewer.ended.wait(), 30)

        # the only errors in the log are those of the patch that failed
        assert [line for line in streamd.complaints() if "KeyError: 'live/two'" not in line] == []
        assert [fault for viewer in viewers if (fault := got_everything(viewer, cameras[viewer.name]))] == []
        path = [cameras[name].sent for name in ("one", "two", "three", "two")]
        assert (wanderer.fault, wanderer.connections, legs(wanderer.frames(), path)) == ("", 1, "")
        for viewer in viewers[:4]:
            assert miscounted(streamd, viewer) == []
            assert not_at_a_key(streamd, viewer, cameras[viewer.name]) == ""
        print(f"{sum(len(viewer.frames()) for viewer in viewers)} frames reached {len(viewers) + 1} viewers")
