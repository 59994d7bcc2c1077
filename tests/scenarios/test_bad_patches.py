"""Patches that cannot hurt: a gallery of bad ones, each loaded under five live broadcasts and fifty viewers.

Every file of tests/bad_patches is bad in another way and says so in its docstring: what it does, where on the patch
path it must be caught, what the operator must be told, and, for some, what has to happen before it shows.

    Caught: probation              the stage that the answer names; several with commas where it depends on the moment
    Told: ZeroDivisionError        a part of the sentence that the operator reads; one line for each part
    Needs: ws joins                what somebody does during the probation ("ws leaves", "operator looks")

The rule this file keeps: the encoders are FFmpeg, and what they sent is what FFmpeg wrote to a file beside it. At the end
every viewer must have all of it: every frame, once, in order, with its time, on the one connection it began with.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import faulthandler
import re
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from streamd.live.media import flv
from tests import media_samples, rtmp_client
from tests.scenarios.harness import (
    PATIENCE,
    ROOT,
    Encoder,
    Sent,
    Streamd,
    eventually,
    is_frame,
    program,
    running,
)
from tests.scenarios.viewers import KINDS, Seen, Viewer, WsViewer, got_everything, watch

pytestmark = pytest.mark.scenario

GALLERY = ROOT / "tests" / "bad_patches"
HEADER = re.compile(r"^(Caught|Told|Needs): (.+)$", re.MULTILINE)
STAGES = ("read", "merge", "check", "import", "rehearse", "differences", "move", "probation")

LOAD = ("load", "--wait")
KEY = b"\x17"  # the first byte of a key picture's tag
# from the first frame to the last, two of them FFmpeg; those who come during a probation are more
VIEWERS = 50
HEAD_START = 50  # frames of sound that FFmpeg may send before the first picture, where everyone starts
RECORDED = ("one", "two")

TABLES: dict[str, dict[str, Any]] = {
    # nobody waits for the end of it: a patch that is here to fail has failed before
    "probation": {"seconds": 20.0, "events": 20},
    # so rehearsals have the last second or two to try a patch on, and what shows itself later is left to the guard
    "supervision": {"checkpoint_seconds": 0.5},
}
LIVE: dict[str, Any] = {"wait_for_publisher": 60, "publisher_grace": 0.5, "viewer_max_lag": 30}


# ---- the gallery -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bad:
    """One patch, or a directory of them that is loaded at once, and what its docstring says."""

    name: str
    said: str
    caught: tuple[str, ...]
    told: tuple[str, ...]
    needs: str

    def __str__(self) -> str:
        return self.name


def read(path: Path) -> Bad:
    file = min(path.glob("*.py")) if path.is_dir() else path
    # a patch may be no Python at all, but all of them open with a docstring
    docstring = ast.literal_eval(re.match(r'""".*?"""', file.read_text("utf-8"), re.DOTALL)[0])  # type: ignore[index]
    headers = HEADER.findall(docstring)
    return Bad(
        path.name,
        docstring.partition("\n")[0],
        tuple(word.strip() for key, value in headers if key == "Caught" for word in value.split(",")),
        tuple(value for key, value in headers if key == "Told"),
        "".join(value for key, value in headers if key == "Needs"),
    )


def gallery() -> list[Bad]:
    """All of them, those that get furthest last."""
    paths = [path for path in GALLERY.iterdir() if not path.name.startswith(("_", "."))]
    return sorted(map(read, paths), key=lambda bad: (STAGES.index(bad.caught[0]), bad.name))


# ---- five broadcasts ---------------------------------------------------------------------------------------


X264 = "-c:v libx264 -preset ultrafast -pix_fmt yuv420p -threads 1"
AAC = "-c:a aac -b:a 64k"
PICTURES = "-re -f lavfi -i testsrc2=size={size}:rate=25"
SOUND = "-re -f lavfi -i sine=frequency={hertz}:sample_rate=48000"

# name -> inputs, encoders, and which streams there are
SOURCES = {
    "one": f"{PICTURES.format(size='192x108')} {SOUND.format(hertz=440)} {X264} -tune zerolatency -g 25 {AAC} -map 0:v -map 1:a",
    "two": f"{PICTURES.format(size='256x144')} {SOUND.format(hertz=550)} {X264} -bf 2 -g 50 {AAC} -map 0:v -map 1:a",
    "three": f"{PICTURES.format(size='160x120')} {SOUND.format(hertz=660)} {X264} -slices 4 -g 40 {AAC} -map 0:v -map 1:a",
    "silent": f"{PICTURES.format(size='160x90')} {X264} -tune zerolatency -g 30 -map 0:v",
    "radio": f"{SOUND.format(hertz=880)} {AAC} -map 0:a",
}


class Camera:
    """FFmpeg, which encodes and publishes in real time, and writes the same packets to a file."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, file: Path) -> None:
        self.name = name
        self.process = process
        self.file = file
        self.peer = ""  # its address, by which the server knows its connection
        self.sent: list[Sent] = []  # once it has stopped

    async def stop(self) -> None:
        """As an operator would: q. What it has encoded still goes out."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"q")
        await asyncio.wait_for(self.process.wait(), PATIENCE)
        made = frames_of(self.file)
        pictures = any(seen.type == flv.VIDEO for seen in made)  # where there are none, any sound is a start
        self.sent = [
            Sent(seen.type, seen.dts, seen.digest, not pictures or seen.payload[:1] == KEY) for seen in made
        ]


@contextlib.asynccontextmanager
async def filming(streamd: Streamd, sources: dict[str, str] = SOURCES) -> AsyncIterator[dict[str, Camera]]:
    """All cameras, on air."""
    async with contextlib.AsyncExitStack() as stack:
        cameras = {}
        for name, words in sources.items():
            file = streamd.root / f"{name}.flv"
            command = f"ffmpeg -hide_banner -loglevel error -y {words} -flags +global_header -f tee"
            process = await stack.enter_async_context(
                program(
                    *command.split(),
                    f"[f=flv]{streamd.rtmp_url(name)}|[f=flv:flvflags=no_duration_filesize]{file}",
                    stdin=asyncio.subprocess.PIPE,
                )
            )
            cameras[name] = Camera(name, process, file)
        status = await streamd.until(
            lambda status: len([item for item in status["sessions"] if item["publisher"]]) == len(cameras),
            "all cameras are on air",
        )
        for item in status["sessions"]:
            cameras[item["name"].removeprefix("live/")].peer = item["publisher"]["peer"]
        yield cameras


def frames_of(file: Path) -> list[Seen]:
    """The frames of an FLV file, as a viewer would have seen them."""
    demuxer = flv.Reader()
    flv.feed(demuxer, file.read_bytes())
    found = []
    while (tag := flv.pull(demuxer)) is not None:
        if is_frame(tag.type, tag.payload):
            found.append(Seen(tag.type, tag.dts, rtmp_client.digest(tag.payload), True, tag.payload))
    return found


# ---- fifty viewers -----------------------------------------------------------------------------------------


@dataclass
class Recorder:
    """FFmpeg as a viewer, which copies what it gets to a file."""

    name: str
    process: asyncio.subprocess.Process
    file: Path

    def got_everything(self, camera: Camera) -> str:
        """As for a viewer of our own; only times are FFmpeg's."""
        sent, seen = camera.sent, frames_of(self.file)
        start = len(sent) - len(seen)
        if start < 0 or not seen or not sent[start].key:
            return f"FFmpeg recorded {len(seen)} frames of {len(sent)} of {self.name}"
        for place, (out, frame) in enumerate(zip(sent[start:], seen, strict=True)):
            if (out.type, out.digest) != (frame.type, frame.digest):
                return f"FFmpeg recorded another frame {place} of {self.name}"
        return ""


@contextlib.asynccontextmanager
async def recording(streamd: Streamd) -> AsyncIterator[list[Recorder]]:
    async with contextlib.AsyncExitStack() as stack:
        recorders = []
        for name in RECORDED:
            file = streamd.root / f"{name}.recorded.flv"
            command = "ffmpeg -hide_banner -loglevel error -y -i {} -c copy -f flv {}"
            process = await stack.enter_async_context(
                program(*command.format(streamd.flv_url(name), file).split())
            )
            recorders.append(Recorder(name, process, file))
        yield recorders


# ---- one load ----------------------------------------------------------------------------------------------


@dataclass
class Scene:
    """Everyone who takes part."""

    streamd: Streamd
    release: int
    cameras: dict[str, Camera] = field(default_factory=dict)
    viewers: list[Viewer] = field(default_factory=list)

    async def load(self, bad: Bad) -> tuple[dict[str, Any], float]:
        """Load it and wait for the end: the answer, and the seconds that it took."""
        began = monotonic()
        path = f"bad_patches/{bad.name}"
        loading = asyncio.create_task(self.streamd.ctl(*LOAD, path, code=None))
        if bad.needs:
            await self.play(bad.needs, loading)
        answer = await loading
        seconds = monotonic() - began
        if answer["ok"]:  # the show must go on
            await self.streamd.ctl("rollback", code=None)
        return answer, seconds

    async def play(self, needs: str, loading: asyncio.Task[Any]) -> None:
        """Do what a patch needs to show itself, once it is in use."""
        kind, verb = needs.split()
        leaving = WsViewer(self.streamd, "one", False, 0) if verb == "leaves" else None
        while not loading.done() and not (await self.streamd.status()).get("probation"):
            await asyncio.sleep(0.05)
        if kind == "operator":
            while not loading.done():
                await self.streamd.status()
        elif kind == "publisher":
            encoder = await Encoder.connect(self.streamd, "extra")
            await encoder.send_all(media_samples.plain()[:50])
            await encoder.close()
        elif leaving is not None:
            await leaving.until(leaving.frames, "who is about to leave sees pictures")
            leaving.ending()
            leaving.say_goodbye()
            await asyncio.wait_for(leaving.ended.wait(), PATIENCE)
        else:
            newcomer = watch(self.streamd, "one", kind)
            self.viewers.append(newcomer)
            await newcomer.until(newcomer.frames, "the newcomer sees pictures")

    async def wrongs(self, bad: Bad, answer: dict[str, Any]) -> list[str]:
        """What should not be so after a load."""
        stage, why = answer.get("stage", "no stage at all"), sentence(answer)
        wrong = []
        if stage not in bad.caught:
            wrong.append(f"caught at {stage}, not at {' or '.join(bad.caught)}: {why}")
        wrong += [f"the operator is not told {part!r}: {why}" for part in bad.told if part not in why]
        wrong += self.left_behind(await self.streamd.status())
        for viewer in self.viewers:
            if viewer.fault or viewer.connections != 1:
                wrong.append(f"a viewer of {viewer.name} was cut off {viewer.fault}")
        for camera in self.cameras.values():
            if camera.process.returncode is not None:
                wrong.append(f"camera {camera.name} gave up")
        return wrong

    def left_behind(self, status: dict[str, Any]) -> Iterator[str]:
        """What a load that was refused has changed all the same."""
        if status["release"] != self.release:
            yield f"release {status['release']} runs, not {self.release}"
        if status.get("probation"):
            yield f"a probation goes on: {status['probation']}"
        sessions = {item["name"].removeprefix("live/"): item for item in status["sessions"]}
        for name, camera in self.cameras.items():
            if name not in sessions:
                yield f"live/{name} is gone"
            elif (sessions[name]["publisher"] or {}).get("peer") != camera.peer:
                yield f"the publisher of live/{name} is {sessions[name]['publisher']}, not {camera.peer}"
            elif sessions[name]["release"] != self.release:
                yield f"live/{name} is on release {sessions[name]['release']}"


def sentence(answer: dict[str, Any]) -> str:
    return str(answer.get("error") or answer.get("text") or "")


def row(bad: Bad, answer: dict[str, Any], seconds: float) -> str:
    told = " ".join(sentence(answer).split())
    return f"{bad.name.removesuffix('.py'):26} {answer.get('stage') or 'LOADED':12} {seconds:5.1f} s  {told[:200]}"


async def show(bads: list[Bad]) -> list[str]:
    """Load all of them under five broadcasts and fifty viewers; what went wrong."""
    wrong: list[str] = []
    async with running(TABLES, complains=True, **LIVE) as streamd, contextlib.AsyncExitStack() as stack:
        shutil.copytree(GALLERY, streamd.patches / "bad_patches", copy_function=shutil.copy)
        recorders = await stack.enter_async_context(recording(streamd))
        names = list(SOURCES)
        own = VIEWERS - len(recorders)
        viewers = [watch(streamd, names[index % 5], KINDS[index // 5 % 3]) for index in range(own)]
        status = await streamd.until(
            lambda status: sum(item["viewers"] for item in status["sessions"]) == VIEWERS, "everyone waits"
        )
        cameras = await stack.enter_async_context(filming(streamd))
        await eventually(lambda: all(len(viewer.seen) > 50 for viewer in viewers), "everyone sees pictures")

        scene = Scene(streamd, status["release"], cameras, viewers)
        for bad in bads:
            answer, seconds = await scene.load(bad)
            print(row(bad, answer, seconds), flush=True)
            wrong += [f"{bad}: {fault}" for fault in await scene.wrongs(bad, answer)]

        for viewer in viewers:
            viewer.ending()
        for camera in cameras.values():
            await camera.stop()
        for viewer in viewers:
            await asyncio.wait_for(viewer.ended.wait(), PATIENCE)
        for recorder in recorders:
            await asyncio.wait_for(recorder.process.wait(), PATIENCE)
        found = [got_everything(viewer, cameras[viewer.name]) for viewer in viewers]
        found += [recorder.got_everything(cameras[recorder.name]) for recorder in recorders]
        for viewer in viewers[:own]:
            missed = len(cameras[viewer.name].sent) - len(viewer.frames())
            found += [f"a viewer of {viewer.name} missed {missed} frames"] if missed > HEAD_START else []
        frames = sum(len(viewer.frames()) for viewer in viewers)
        print(f"{len(bads)} patches, {len(viewers) + len(recorders)} viewers, {frames} frames")
    return wrong + [fault for fault in found if fault]


async def test_no_patch_however_bad_costs_a_frame_a_publisher_or_a_viewer():
    faulthandler.cancel_dump_traceback_later()  # it is a long story
    bads = gallery()
    assert len(bads) >= 40
    assert await show(bads) == []
