"""Start, watch and restart what runs; and say precisely what happened when it does not.

The rule this file keeps: everything long-lived has a place in one tree and a restart intensity (at most so many
restarts in a period, after Erlang's supervisor). Past it a task's failure becomes the failure of the process,
which systemd then restarts; a session's failure ends that session only.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import traceback
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

from streamd.runtime import telling
from streamd.runtime.preview import plain as plain

log = logging.getLogger("streamd")

INTERRUPTS = str(Path(__file__).with_name("watchdog.py"))
REPORTS_KEPT = 100  # crash reports on disk; the oldest go first


@dataclass
class Intensity:
    """At most `most` restarts in `period` seconds."""

    most: int
    period: float
    _times: deque[float] = field(default_factory=deque)

    @property
    def recent(self) -> int:
        """Restarts in the period before the last one, that one included."""
        return len(self._times)

    def exceeded(self) -> bool:
        """Note one more restart; True if that is one too many."""
        now = monotonic()
        self._times.append(now)
        while self._times and self._times[0] < now - self.period:
            self._times.popleft()
        return len(self._times) > self.most


@dataclass
class Child:
    """A supervised task: its name, how to start it, and how it has fared."""

    name: str
    start: Callable[[], Awaitable[None]]
    intensity: Intensity
    task: asyncio.Task[None] | None = None
    restarts: int = 0


class Supervisor:
    """The tree of supervised tasks. `failed` is set, with the reason, when one cannot be kept running."""

    def __init__(self, max_restarts: int, period: float, reports: CrashReports) -> None:
        self.children: dict[str, Child] = {}
        self.failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.reports = reports
        self._bounds = (max_restarts, period)
        self._stopping = False

    def start(self, name: str, start: Callable[[], Awaitable[None]]) -> None:
        child = self.children[name] = Child(name, start, Intensity(*self._bounds))
        self._run(child)

    def _run(self, child: Child) -> None:
        async def body() -> None:
            await child.start()

        child.task = asyncio.create_task(body(), name=f"streamd:{child.name}")
        child.task.add_done_callback(lambda task: self._ended(child, task))

    def _ended(self, child: Child, task: asyncio.Task[None]) -> None:
        if self._stopping or task.cancelled():
            return
        error = task.exception()
        if error is None:
            return  # it has done its work
        self.reports.write(f"task {child.name}", error, {})
        if child.intensity.exceeded():
            if not self.failed.done():
                self.failed.set_result(f"{child.name} failed too often, last with {telling.told(error)}")
            return
        child.restarts += 1
        self._run(child)

    async def stop(self) -> None:
        """Cancel the children, last started first, and wait for each."""
        self._stopping = True
        for child in reversed(self.children.values()):
            if child.task is not None and not child.task.done():
                child.task.cancel()
                await asyncio.gather(child.task, return_exceptions=True)

    def tree(self) -> dict[str, dict[str, Any]]:
        return {
            child.name: {"running": bool(child.task and not child.task.done()), "restarts": child.restarts}
            for child in self.children.values()
        }


class CrashReports:
    """Writes each crash as one JSON file below `directory` and one sentence in the log."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.count = 0
        self._numbers = itertools.count(1)

    def write(self, where: str, error: BaseException, facts: dict[str, Any]) -> Path | None:
        """Report a crash: where, why, and the facts given (last event, state, release, last events)."""
        self.count += 1
        frames = telling.frames(error)
        report = {
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "where": where,
            "reason": telling.told(error),
            "traceback": frames,
            **{name: plain(value) for name, value in facts.items()},
        }
        path = self.directory / f"{report['at'].replace(':', '')}-{next(self._numbers)}.json"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(report, indent=1), encoding="utf-8")
            for old in sorted(self.directory.glob("*.json"))[:-REPORTS_KEPT]:
                old.unlink(missing_ok=True)
        except OSError as failure:
            log.error("crash report not written: %s", failure)
            log.error("crash in %s: %s\n%s", where, report["reason"], "".join(frames))
            return None
        place = _last_frame(error)
        log.error("crash in %s: %s%s; report in %s", where, report["reason"], place, path)
        return path


def _last_frame(error: BaseException) -> str:
    # an interruption is raised by whoever interrupts, in the middle of what it is about
    trace = traceback.extract_tb(error.__traceback__, -telling.FRAMES)
    frames = [item for item in trace if item.filename != INTERRUPTS]
    return f" at {frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name}" if frames else ""
