"""1,000 loads and rollbacks in one process leave nothing behind: no module, thread, child, descriptor or memory.

Everything is as an operator's load has it, the rehearsal's child process included; only the live code is the small tree
of tests/fake_live.py, so that a load takes a tenth of a second.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import linecache
import logging
import os
import sys
import threading
import types
import typing
from pathlib import Path
from typing import NamedTuple

import pytest

from streamd.runtime.release import Release
from tests.fake_live import BY, FIX, World, running

pytestmark = pytest.mark.scenario

LOADS = 1000  # and as many rollbacks
WARM_UP = 30  # loads after which caches, threads and the allocator have what they keep
PURGE_EVERY = 100
# What a load and rollback may add, on the average. A release of the small tree is 400 kB; what glibc cannot give back
# of the heaps of threads that have imported something is 5 kB.
BLOCKS, RESIDENT = 2, 16_384


class Belongings(NamedTuple):
    """What the process has. Modules and classes by name, so that a failure says which."""

    modules: list[str]
    alive: list[str]
    releases: int
    threads: list[
        str
    ]  # but for the workers of asyncio.to_thread, a handful that are started as they are needed
    children: list[str]
    descriptors: list[str]
    lines: list[str]
    typing: int


def belongings(root: Path) -> Belongings:
    gc.unfreeze()  # what `purge` has set aside is not in get_objects()
    gc.collect()
    descriptors = []
    for number in os.listdir("/proc/self/fd"):
        try:
            descriptors.append(os.readlink(f"/proc/self/fd/{number}").partition(":")[0])
        except FileNotFoundError:  # that of the listing itself
            continue
    objects = gc.get_objects()
    return Belongings(
        sorted(name for name in sys.modules if name.startswith("live@")),
        sorted(found for item in objects if (found := of_a_release(item))),
        sum(isinstance(item, Release) for item in objects),
        sorted(item.name for item in threading.enumerate() if not item.name.startswith("asyncio_")),
        children(),
        sorted(descriptors),
        sorted(name for name in linecache.cache if str(root) in name),
        sum(forget.__self__.cache_info().currsize for forget in typing._cleanups),  # type: ignore[attr-defined]
    )


def of_a_release(item: object) -> str:
    """The name of a module, class or function of live code, "" for anything else."""
    if isinstance(item, types.ModuleType):
        return item.__name__ if item.__name__.startswith("live@") else ""
    if isinstance(item, type | types.FunctionType) and str(item.__module__).startswith("live@"):
        return f"{item.__module__}.{item.__qualname__}"
    return ""


def children() -> list[str]:
    """Those that have ended and were not waited for, too."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        found += (task / "children").read_text().split()
    return sorted(found)


def memory() -> tuple[int, int]:
    """(blocks that Python has allocated, bytes that are resident)."""
    gc.collect()
    pages = Path("/proc/self/statm").read_text().split()[1]
    return sys.getallocatedblocks(), int(pages) * os.sysconf("SC_PAGE_SIZE")


async def there_and_back(world: World, times: int) -> None:
    guest = world.clients[0]
    for number in range(1, times + 1):
        await world.load(FIX)
        assert await guest.ask("version") == "codec 2 tail 2"
        await world.rollback()
        assert await guest.ask("version") == "codec 1 tail 1"
        if number % PURGE_EVERY == 0:
            await world.upgrades.purge(BY)


async def test_a_thousand_loads_and_rollbacks_leave_nothing_behind(tmp_path, caplog):
    caplog.set_level(logging.ERROR)  # pytest would keep every line
    faulthandler.cancel_dump_traceback_later()  # it takes minutes, and does not hang
    async with running(tmp_path) as world:
        await world.guest()
        world.rooms(5)
        await there_and_back(world, WARM_UP)
        await world.upgrades.purge(BY)
        before, had = belongings(tmp_path), memory()
        await there_and_back(world, LOADS - WARM_UP)
        await world.upgrades.purge(BY)
        await asyncio.sleep(0.1)
        after, has = belongings(tmp_path), memory()
        assert after.modules == before.modules
        assert after.alive == before.alive
        assert before.alive
        assert after.releases == before.releases == 1
        assert after.threads == before.threads
        assert after.children == before.children == []
        assert after.descriptors == before.descriptors
        assert after.lines == before.lines
        assert after.typing <= before.typing
        blocks, resident = ((now - then) / (LOADS - WARM_UP) for now, then in zip(has, had, strict=True))
        assert blocks < BLOCKS
        assert resident < RESIDENT
        assert {item.stem for item in (tmp_path / "state" / "releases").iterdir()} == {"0001"}
