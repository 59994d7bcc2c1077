"""streamd with a probe inside: `python -m scripts.bench.serve STATE-DIRECTORY PATCHES-DIRECTORY`.

The server is the real one, listeners, timers and all, with its configuration's defaults; only publishers may be silent
for longer. It prints {"rtmp": port, "http": port} and then answers each line on its standard input with a line of JSON:

    idle SECONDS    watch the loop while nothing is asked of it
    load PATH [JSON]   watch it during a load, with these arguments besides;  `rollback`: during a rollback
    check PATH      watch it during a check
    sessions        how many broadcasts there are
    settled COUNT   the same, when there are so many
    status          what the operator's status says
    turns MS TIMES | recompute MS              see inside.py
    profile PATH    what `load PATH` spends its time on in the loop's thread, on standard error

The probe is a bell: a process that writes the time into a pipe every millisecond. How old that time is when the loop
reads it is what an event, any viewer's or publisher's, has waited: everything that holds the loop shows, whether in its
own thread or in one that keeps the interpreter.
"""

from __future__ import annotations

import asyncio
import contextlib
import cProfile
import json
import logging
import os
import pstats
import signal
import sys
import time
from pathlib import Path
from struct import Struct
from typing import Any

import uvloop

from scripts.bench import measure
from streamd import config
from streamd.runtime.admin import Caller
from streamd.runtime.wishes import Refusal
from streamd.server import Server

BY = {"uid": -1, "gid": -1, "pid": 0}
TICK = 0.001  # s between two strokes of the bell
TAIL = 0.3  # s to go on watching after an answer: what a load leaves behind (a collection, say) belongs to it
STAMP = Struct("d")


def ring_bell() -> int:
    """Start the bell; gives the end of the pipe to listen at. It ends with us, by SIGPIPE."""
    ear, mouth = os.pipe()
    if os.fork():
        os.close(mouth)
        os.set_blocking(ear, False)
        return ear
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.close(ear)
    os.set_blocking(mouth, False)
    measure.pin(-1)
    while True:
        time.sleep(TICK)
        with contextlib.suppress(BlockingIOError):  # nobody has listened for some seconds
            os.write(mouth, STAMP.pack(time.monotonic()))


class Probe:
    """How long events waited, in ms."""

    def __init__(self, bell: int) -> None:
        self._bell = bell
        self.stalls: list[float] = []

    def start(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._bell, 65_536):
                pass
        self.stalls.clear()
        asyncio.get_running_loop().add_reader(self._bell, self._read)

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            stamps = os.read(self._bell, 65_536)
            if stamps:
                self.stalls.append((time.monotonic() - STAMP.unpack_from(stamps)[0]) * 1000)

    def stop(self) -> dict[str, float]:
        asyncio.get_running_loop().remove_reader(self._bell)
        ordered = sorted(self.stalls)
        return {"stall_ms": ordered[-1], "stall_p99_ms": ordered[int(len(ordered) * 0.99)]}


class Stages:
    """Progress of a verb: which stage began when, in ms from the beginning."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.seen: dict[str, float] = {}

    async def note(self, stage: str, *_done: Any) -> None:
        self.seen.setdefault(stage, (time.monotonic() - self.began) * 1000)


async def ask(server: Server, verb: str, args: dict[str, Any]) -> dict[str, Any]:
    """What the admin socket would answer, and `stages`."""
    stages = Stages()
    try:
        answer = await server.verbs.table[verb](
            args, Caller(BY, str(server.config.server.patches)), stages.note
        )
    except Refusal as refusal:
        return {"error": str(refusal), "stage": refusal.stage, "stages": stages.seen}
    return {**answer, "stages": stages.seen}


def count(server: Server) -> dict[str, int]:
    return {"sessions": len(server.sessions.listed(doors=False)), "links": len(server.net.links)}


def measure_inside(server: Server, verb: str, *numbers: int) -> dict[str, Any]:
    from scripts.bench.inside import Inside  # with minutes of the broadcast in memory

    if not _inside:
        _inside.append(Inside(server))
    told: dict[str, Any] = getattr(_inside[0], verb)(*numbers)
    return told


async def serve_command(server: Server, probe: Probe, verb: str, argument: str) -> dict[str, Any]:
    if verb == "sessions":
        return count(server)
    if verb == "settled":
        while count(server)["sessions"] < int(argument):
            await asyncio.sleep(0.02)
        return count(server)
    if verb == "status":
        return await ask(server, verb, {})
    if verb in ("turns", "recompute"):
        return measure_inside(server, verb, *map(int, argument.split()))
    probe.start()
    answer: dict[str, Any] = {}
    if verb == "idle":
        await asyncio.sleep(float(argument))
    elif verb in ("load", "check"):
        path, _, more = argument.partition(" ")
        answer = await ask(server, verb, {"paths": [path], **json.loads(more or "{}")})
    elif verb == "rollback":
        answer = await ask(server, verb, {})
    elif verb == "profile":
        profiler = cProfile.Profile()
        profiler.enable()
        answer = await ask(server, "load", {"paths": [argument]})
        profiler.disable()
        pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(25)
    await asyncio.sleep(TAIL)
    return {**answer, **probe.stop()}


async def main(state: Path, patches: Path, probe: Probe) -> None:
    settings = {"rtmp": "127.0.0.1:0", "http": "127.0.0.1:0", "admin": str(state / "admin.sock")}
    chosen = state / "bench.toml"
    state.mkdir(parents=True, exist_ok=True)
    chosen.write_text(
        "[live]\npublisher_timeout = 3600.0\n[server]\nmax_connections = 100000\ndrain_seconds = 1.0\n"
    )
    server = Server(config.load(chosen, {}, {**settings, "state": str(state), "patches": str(patches)}))
    running = asyncio.create_task(server.run())
    while "http" not in server.addresses:
        await asyncio.sleep(0.01)
    ports = {name: int(address.rpartition(":")[2]) for name, address in server.addresses.items()}
    print(json.dumps(ports), flush=True)
    asyncio.get_running_loop().add_reader(0, obey, server, probe)
    await running


def obey(server: Server, probe: Probe) -> None:
    line = os.read(0, 65_536).decode().strip()
    if not line:
        asyncio.get_running_loop().remove_reader(0)
        server.stopping.set()
        return
    verb, _, argument = line.partition(" ")

    async def answer() -> None:
        try:
            told = await serve_command(server, probe, verb, argument)
        except Exception as error:
            told = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(told), flush=True)

    _tasks.add(task := asyncio.create_task(answer()))
    task.add_done_callback(_tasks.discard)


_inside: list[Any] = []
_tasks: set[asyncio.Task[None]] = set()

if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    measure.raise_descriptor_limit()
    probe = Probe(ring_bell())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(Path(sys.argv[1]), Path(sys.argv[2]), probe))
