"""Changed files in the patches directory: checked and reported, or loaded while developing.

The rule this file keeps: a watcher asks what an operator would ask, through the same verbs, as the server's own
user; it has no way of its own to a release.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from pathlib import Path

from watchfiles import Change, awatch

from streamd.runtime.upgrade import Upgrades
from streamd.runtime.wishes import Refusal, Wishes, silent

log = logging.getLogger("streamd")

# Whoever develops changes what the code does, and the next edition comes in a minute.
DEVELOPING = Wishes(accept_differences=True, probation=0.0)


async def watch(root: Path, mode: str, upgrades: Upgrades) -> None:
    """Check ("check") or load ("load") each patch file below `root` that is added or changed, until cancelled.

    While developing, one file is saved again and again: its last edition is rolled back before the next is loaded.
    """
    by = {"uid": os.geteuid(), "gid": os.getegid(), "pid": os.getpid()}
    while not root.is_dir():
        await asyncio.sleep(1.0)
    log.info("watching %s: a changed patch is %sed", root, mode)
    async for changes in awatch(root, recursive=True, step=100):
        for path in sorted(
            {path for change, path in changes if change != Change.deleted and _is_patch(path)}
        ):
            with contextlib.suppress(Refusal):  # said in the log by whoever refused
                if mode == "load":
                    if _loaded_last(Path(path).name, upgrades):
                        await upgrades.rollback(None, by, silent)
                    await upgrades.load([path], str(root), by, silent, DEVELOPING)
                else:
                    await upgrades.check([path], str(root), by, silent)


def _loaded_last(name: str, upgrades: Upgrades) -> bool:
    """True if the running release is its parent and this file alone: then a new edition takes the old one's place."""
    records = upgrades.library.records
    record = records[upgrades.current.number]
    before = records[record.parent].patches if record.parent in records else None
    return before is not None and [item["name"] for item in record.patches[len(before) :]] == [name]


def _is_patch(path: str) -> bool:
    name = Path(path).name
    return name.endswith(".py") and not name.startswith((".", "_")) and Path(path).is_file()
