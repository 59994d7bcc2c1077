"""A changed patch file is checked or loaded as if an operator had asked."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from streamd.drivers.watch import watch
from tests.fake_live import FIX, World, amend, running, until


@pytest.fixture
async def world(tmp_path):
    async with running(tmp_path) as made:
        yield made


def asked(world: World) -> list[dict[str, Any]]:
    """The history's entries of what was asked for and is over."""
    return [item for item in world.store.history() if item["verb"] != "start" and item["result"] != "began"]


async def changed(
    world: World, mode: str, text: str, name: str = "fix.py", entries: int = 1
) -> list[dict[str, Any]]:
    """Start to watch, write a patch until it is noticed, and give the history."""
    task = asyncio.create_task(watch(world.patches, mode, world.upgrades))
    try:
        for number in range(200):
            # the watcher needs a moment to begin; a file written again is a change again
            if number % 25 == 0 and not asked(world):
                world.patch(name, text)
            if len(asked(world)) >= entries:
                break
            await asyncio.sleep(0.02)
        return asked(world)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_changed_patch_is_checked_and_nothing_is_loaded(world):
    history = await changed(world, "check", FIX)
    assert (history[0]["verb"], history[0]["result"]) == ("check", "ok")
    assert world.release == 1


async def test_a_changed_patch_is_loaded_while_developing_and_its_next_edition_takes_its_place(world):
    client = await world.guest()
    assert (await changed(world, "load", FIX))[0]["verb"] == "load"
    assert await client.ask("version") == "codec 2 tail 2"
    task = asyncio.create_task(watch(world.patches, "load", world.upgrades))
    for number in range(20):
        if number % 10 == 0:
            world.patch("fix.py", FIX.replace('"codec 2"', '"codec two"'))
        if len(asked(world)) >= 3:
            break
        await asyncio.sleep(0.1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert [item["verb"] for item in asked(world)[:3]] == ["load", "rollback", "load"]
    await until(lambda: world.release > 2)
    assert await client.ask("version") == "codec two tail 2"


@pytest.mark.parametrize("name", ["_draft.py", ".hidden.py", "notes.txt"])
async def test_what_is_no_patch_is_passed_over(world, name, caplog):
    world.patch(name, FIX)
    history = await changed(world, "load", FIX)
    assert history[0]["paths"][0].endswith("/fix.py")
    assert len(history) == 1


async def test_a_patch_that_is_refused_is_reported_and_the_watch_goes_on(world, caplog):
    task = asyncio.create_task(watch(world.patches, "load", world.upgrades))
    sentence = "fix.py is made for media.codec@7"
    for _ in range(20):
        world.patch("fix.py", amend("media.codec", 7, ""))
        if sentence in caplog.text:
            break
        await asyncio.sleep(0.1)
    assert sentence in caplog.text
    assert asked(world)[0]["result"] == "refused"
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert world.release == 1
