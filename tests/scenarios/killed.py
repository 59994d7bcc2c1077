"""A program that is killed at every step of what it does to its state directory, and starts again after each.

    python -m tests.scenarios.killed STORY DIRECTORY      one line of JSON for each step: where it was killed, and what
                                                          was wrong after the restart; the last says that it came through

A step is a call that changes the file system below the state directory (opening for writing, syncing, renaming,
removing, making a directory), or a record of progress. SIGKILL comes right before the k-th of them, k = 1, 2, ... until
there is none left; whatever is going on at that moment in other threads and in the rehearsal's process is cut off with it.
What a kill could not tell from the step before is none: removing what is not there, making what is, and syncing one of
a release's many files, which the system has whether or not it is on the disk yet.

The rule this file keeps: what is judged is what the next process finds and tells, never what the killed one thought.
Every turn runs in a process of its own, forked from one that has imported all and started nothing.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import os
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from streamd.runtime.release import digest, read_tree
from streamd.runtime.store import Store
from streamd.runtime.wishes import Refusal, Wishes
from tests.fake_live import BY, FIX, World, amend, running

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = {
    "os.rename": 2,
    "os.remove": 1,
    "os.rmdir": 1,
    "os.mkdir": 2,
}  # audit event -> where its dir_fd stands
MOST = 1000  # steps of a story that would never end
GO_ON = 4  # every fourth start after a kill also loads something
ORPHAN = 5.0  # s that a rehearsal may outlive the server that was killed


class Trap:
    """Counts steps from `arm()` on and kills this process at one of them, after saying at which."""

    def __init__(self, root: Path, at: int, report: int) -> None:
        self.root = str(root)
        self.at = at
        self.report = report
        self.count = 0
        self.armed = False
        self.lock = threading.RLock()
        sys.addaudithook(self._audit)
        self._fsync, os.fsync = os.fsync, self._watched_fsync

    def arm(self) -> None:
        self.armed = True

    def step(self, label: str) -> None:
        if not self.armed:
            return
        with self.lock:
            self.count += 1
            if self.count == self.at:
                self.armed = False
                os.write(self.report, label.encode())
                os.kill(os.getpid(), signal.SIGKILL)

    async def progress(self, stage: str, done: int, of: int) -> None:
        self.step(f"progress {stage} {done}/{of}")

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.armed:
            return
        if event == "open":
            path, _, flags = args
            if isinstance(flags, int) and flags & WRITING:
                self._touch(event, path, -1)
        elif event in CHANGES:
            self._touch(event, args[0], args[CHANGES[event]])

    def _touch(self, event: str, path: Any, directory: int) -> None:
        if isinstance(path, str | bytes | os.PathLike):
            place = os.fsdecode(path)
            if isinstance(directory, int) and directory >= 0:
                place = f"{os.readlink(f'/proc/self/fd/{directory}')}/{place}"
            if place.startswith(self.root) and not _idle(event, place):
                self.step(f"{event} {place.removeprefix(self.root)}")

    def _watched_fsync(self, fd: Any) -> None:
        number = fd if isinstance(fd, int) else fd.fileno()
        self._touch("fsync", os.readlink(f"/proc/self/fd/{number}"), -1)
        self._fsync(fd)


def _idle(event: str, place: str) -> bool:
    match event:
        case "os.mkdir" | "os.remove":
            return os.path.lexists(place) == (event == "os.mkdir")
        case "fsync":
            return ".new/" in place
    return False


# ---- the stories: what is done before, and what is done with the trap armed ------------------------------------------


async def start(_root: Path, world: Callable[[], World], trap: Trap) -> None:
    """The first start of all, and the start after a keep or an upgrade of the package."""
    trap.arm()
    world()


async def load(_root: Path, world: Callable[[], World], trap: Trap) -> None:
    here = world()
    here.rooms(3)
    trap.arm()
    await here.upgrades.load([here.patch("fix.py", FIX)], "/", BY, trap.progress, WANTED)


async def refused(_root: Path, world: Callable[[], World], trap: Trap) -> None:
    """A load that fails in the rehearsal leaves nothing behind, wherever it was cut off."""
    here = world()
    here.rooms(3)
    trap.arm()
    text = FIX.replace('old["config"].split(b":")', 'old["nothing"]')
    try:
        await here.upgrades.load([here.patch("bad.py", text)], "/", BY, trap.progress, WANTED)
    except Refusal:
        return
    raise AssertionError("it was not refused")


async def rollback(_root: Path, world: Callable[[], World], trap: Trap) -> None:
    here = world()
    here.rooms(3)
    await here.load(FIX)
    trap.arm()
    await here.upgrades.rollback(None, BY, trap.progress)


async def keep(_root: Path, world: Callable[[], World], trap: Trap) -> None:
    here = world()
    here.rooms(3)
    await here.load(FIX)
    trap.arm()
    await here.upgrades.keep(BY)


async def purge(_root: Path, world: Callable[[], World], trap: Trap) -> None:
    here = world()
    await here.load(FIX)
    await here.rollback()
    trap.arm()
    await here.upgrades.purge(BY)


Story = Callable[[Path, Callable[[], World], Trap], Awaitable[None]]
WANTED = Wishes(accept_differences=True, wait=True, probation=0.3)
# story -> what it does, what was there before, and the releases that the next start may come up with: where a release
# was made and not kept yet, the start makes another
STORIES: dict[str, tuple[Story, str, set[int]]] = {
    "first start": (start, "nothing", {1, 2}),
    "load": (load, "nothing", {1}),
    "refused load": (refused, "nothing", {1}),
    "rollback": (rollback, "nothing", {1}),
    "keep": (keep, "nothing", {1, 2}),
    "purge": (purge, "nothing", {1}),
    "start on what was kept": (start, "kept", {2}),
    "start after an upgrade": (start, "upgraded", {3, 4}),
}


async def prepare(root: Path, before: str) -> None:
    if before == "nothing":
        return
    async with running(root) as world:
        await world.load(FIX)
        await world.upgrades.keep(BY)
    if before == "upgraded":
        module = root / "live" / "protocol" / "lines.py"
        module.write_text(module.read_text(encoding="utf-8") + "\n# of the next package\n", encoding="utf-8")


async def play(root: Path, story: str, trap: Trap) -> None:
    """What a server does, from its lock on; it is not closed: the process ends, one way or the other."""

    def world() -> World:
        lock = Store(root / "state")
        lock.lock()
        KEPT_OPEN.append(lock)
        made = World(root)
        KEPT_OPEN.append(made)
        return made

    await STORIES[story][0](root, world, trap)
    trap.armed = False


KEPT_OPEN: list[Any] = []


# ---- the start after it --------------------------------------------------------------------------------------------


async def judge(root: Path, story: str, allowed: set[int], go_on: bool) -> list[str]:
    """Start again, and say what is wrong."""
    wrong: list[str] = []
    lock = Store(root / "state")
    before, kept = lock.history(), lock.kept
    lock.lock()
    async with running(root) as world:
        store, number = world.store, world.release
        if number not in allowed:
            wrong.append(f"release {number} boots, and not one of {sorted(allowed)}")
        if kept is not None and kept in allowed and number != kept:
            wrong.append(f"release {number} boots, and {kept} was kept: {world.warnings}")
        wrong += on_disk(store)
        wrong += told(store, before, number, story)
        version = world.upgrades.current.versions["media.codec"]
        client = await world.guest()
        answer = await client.ask("version")
        if answer != f"codec {version} tail {version}":
            wrong.append(f"version {version} answers {answer!r}")
        if go_on:  # the same again, with a number that nobody has had
            used = {item.get("release") for item in store.history()}
            more = await world.load(amend("media.codec", version, "def added() -> int:\n    return 1\n"))
            if more["release"] in used:
                wrong.append(f"release {more['release']} is loaded, a number that was used before")
            if await client.ask("version") != answer:
                wrong.append("the guest was not moved as it was")
            wrong += on_disk(store)
            found = store.verify()
            wrong += [*found.problems, *found.torn]
    return wrong


def on_disk(store: Store) -> list[str]:
    """Everything there is whole: a directory for each record and a record for each directory, and nothing else."""
    wrong = [f"{item} is left over" for item in store.root.rglob("*.new")]
    numbers = store.numbers()
    for item in store.releases.iterdir():
        if not item.stem.isdecimal() or int(item.stem) not in numbers:
            wrong.append(f"{item} is left over")
    for number in numbers:
        record, path = store.read_record(number), store.path(number)
        if not path.is_dir() or digest(read_tree(path)) != record.sha256:
            wrong.append(f"release {number} on disk is not what its record says")
    if store.kept not in numbers:
        wrong.append(f"release {store.kept} is kept and does not exist")
    return wrong


def told(store: Store, before: list[dict[str, Any]], number: int, story: str) -> list[str]:
    """The history says what was, and only that."""
    found = store.verify()
    wrong = [*found.problems, *found.torn]
    entries = store.history()
    if entries[: len(before)] != before:
        wrong.append("what was written before the kill is no longer there")
    last = entries[-1]
    sha256 = digest(read_tree(store.path(number)))
    if (last["verb"], last["release"], last["sha256"]) != ("start", number, sha256):
        wrong.append(f"the last entry is {last}, and release {number} runs")
    for place, entry in enumerate(entries):
        if entry["result"] == "began":
            after = next(item for item in entries[place + 1 :] if item["verb"] in (entry["verb"], "start"))
            cut = f"he {entry['text']} was cut off"
            if after["verb"] == "start" and cut not in after["text"]:
                wrong.append(f"{entry} has no end: {after}")
    loaded = {item["release"] for item in entries if item["verb"] == "load" and item["result"] == "ok"}
    if story != "purge" and not loaded <= set(store.numbers()):
        wrong.append(f"{loaded} were loaded, and {store.numbers()} exist")
    keeps = [item for item in entries if item["verb"] == "keep"]
    if keeps and keeps[-1]["result"] == "ok" and keeps[-1]["release"] > (store.kept or 0):
        wrong.append(f"{keeps[-1]} was said, and {store.kept} is kept")
    if story == "keep" and store.kept == 2 and not keeps:
        wrong.append("release 2 is kept, and nothing says who wanted that")
    return wrong


# ---- one process for each turn -------------------------------------------------------------------------------------


def apart(work: Callable[[int], Any]) -> tuple[int, str]:
    """Run in a forked process, which gets somewhere to write to: the signal that ended it, and what it wrote."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        try:
            work(writing)
            os._exit(0)
        except BaseException:
            os.write(writing, traceback.format_exc()[-4000:].encode())
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    return (os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status)), said


def turn(story: str, root: Path, step: int) -> dict[str, Any]:
    """Prepare, kill at one step, start again."""
    _, before, allowed = STORIES[story]
    prepared = root.with_name(before)
    if not prepared.exists():
        prepared.mkdir()
        ended, said = apart(lambda _: asyncio.run(prepare(prepared, before)))
        assert ended == 0, said
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(prepared, root)
    ended, said = apart(lambda report: asyncio.run(play(root, story, Trap(root / "state", step, report))))
    if ended not in (0, signal.SIGKILL):
        return {"step": step, "at": "", "wrong": [f"the story itself failed: {said}"]}
    at = said if ended == signal.SIGKILL else ""
    wrong = orphans()
    ended, said = apart(
        lambda report: write(report, asyncio.run(judge(root, story, allowed, step % GO_ON == 0)))
    )
    wrong += json.loads(said) if ended == 0 else [f"it did not start: {said}"]
    return {"step": step, "at": at, "wrong": wrong}


def write(report: int, found: list[str]) -> None:
    os.write(report, json.dumps(found[:20]).encode())


def orphans() -> list[str]:
    """Processes of the killed one that live on without it, after a while."""
    deadline = monotonic() + ORPHAN
    while monotonic() < deadline:
        try:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                sleep(0.005)
        except ChildProcessError:
            return []
    return ["the process of the rehearsal outlived the server"]


def main(story: str, directory: str) -> None:
    # what a killed process leaves comes to this one, to be seen (prctl(2), PR_SET_CHILD_SUBREAPER)
    ctypes.CDLL(None, use_errno=True).prctl(36, 1, 0, 0, 0)
    logging.disable(logging.CRITICAL)
    for step in range(1, MOST):
        found = turn(story, Path(directory) / "world", step)
        print(json.dumps(found), flush=True)
        if not found["at"]:
            break


if __name__ == "__main__":
    main(*sys.argv[1:])
