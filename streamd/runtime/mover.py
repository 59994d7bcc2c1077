"""Moving sessions from release to release, with the loop turning in between.

The rule this file keeps: nothing is assigned before everything of a session has been converted, so a session is either
here or there; and should one fail (state goes on changing between rehearsal and move), whoever has moved goes back.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from streamd.runtime import commands, migrate, telling
from streamd.runtime.commands import BadCommand
from streamd.runtime.guard import Guard
from streamd.runtime.link import now_ms
from streamd.runtime.probation import Probation
from streamd.runtime.release import Release
from streamd.runtime.selection import Selection
from streamd.runtime.session import DOOR, YOUNG, Session, Sessions
from streamd.runtime.state import lift, lower
from streamd.runtime.vocabulary import Tick
from streamd.runtime.watchdog import StepOverrun
from streamd.runtime.ways import Ways
from streamd.runtime.wishes import Progress

log = logging.getLogger("streamd")

IMPORTS = 10.0  # s that finding a way may take: releases that were let go of may have to be imported again
LOOK_EVERY = 0.02  # s between two looks at sessions that wait for their next key unit


class MoveError(Exception):
    """One session could not be moved; the message names it. Who had moved is back, but for those in `stayed`."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.stayed: list[str] = []


@dataclass
class Move:
    """What a move did: the pause of each session, and how long the loop was held at the longest, in ms."""

    pauses: dict[str, float] = field(default_factory=dict)
    longest_pause_ms: float = 0.0
    stayed: list[str] = field(default_factory=list)  # could not be brought back

    def add(self, other: Move) -> None:
        self.pauses |= other.pauses
        self.longest_pause_ms = max(self.longest_pause_ms, other.longest_pause_ms)
        self.stayed += other.stayed


class Mover:
    """Moves sessions; `slice_s` is how long it may hold the loop at a time."""

    def __init__(self, sessions: Sessions, ways: Ways, slice_s: float) -> None:
        self.sessions = sessions
        self.ways = ways
        self.slice_s = slice_s
        self._pins: dict[str, Session] = {}  # that stay on their release until unpinned or ended

    # ---- who moves

    def pin(self, session: Session) -> None:
        self._pins[session.name] = session

    def unpin(self, name: str) -> None:
        self._pins.pop(name, None)

    def is_pinned(self, session: Session) -> bool:
        return self._pins.get(session.name) is session

    def pinned(self) -> dict[str, Session]:
        """The pinned sessions by name; those that have ended are forgotten."""
        self._pins = {name: item for name, item in sorted(self._pins.items()) if not item.ended}
        return self._pins

    def chosen(self, selection: Selection, wave: int = -1) -> list[Session]:
        """The sessions that a wave, or in the end the last one, is to have moved."""
        by_name = self.sessions.by_name
        names = [name for name, item in by_name.items() if not self.is_pinned(item)]
        return [by_name[name] for name in selection.chosen(wave % len(selection.shares), names)]

    def all_but(self, target: Release) -> list[Session]:
        """Whoever may move and is elsewhere."""
        return [
            item for item in self.sessions.listed() if item.release is not target and not self.is_pinned(item)
        ]

    # ---- the move

    async def move(
        self,
        chosen: Callable[[], list[Session]],
        target: Release,
        watch: Probation | None,
        progress: Progress,
        key_seconds: float = 0.0,
        allowed: frozenset[str] | None = None,
    ) -> Move:
        """Move those that `chosen` gives, again and again until all of them are there.

        `watch` guards them from then on. With `key_seconds` each is moved at its next key unit, and after so long
        wherever it is. `allowed` are the kinds of commands by which a `resumed` may cut somebody off; None for any.
        Raises MoveError after having put everyone back.
        """
        move = Move()
        came_from: dict[Session, Release] = {}
        failed: list[str] = []

        def change(session: Session) -> None:
            source = session.release
            try:
                pause = self._change(session, target, watch, allowed)
                move.pauses[session.name] = session.paused = pause
                came_from[session] = source
            except BaseException as error:  # SystemExit of live code as well
                failed.append(f"{session.name}: {_said(error)}")

        await progress("move", 0, sum(1 for item in chosen() if item.release is not target))
        try:
            if key_seconds:
                await self._at_keys(chosen, target, change, failed, key_seconds)
            with collector_off():
                slices = Slices(self.slice_s)
                gc.collect(YOUNG)  # what the import has left
                await asyncio.sleep(0)
                slices.begin()
                while waiting := [item for item in chosen() if item.release is not target]:
                    for session in waiting:
                        if session.ended or session.release is target:
                            continue
                        change(session)
                        if failed:
                            raise MoveError(failed[0])
                        if slices.over():
                            gc.collect(YOUNG)
                            slices.end()
                            await progress("move", len(move.pauses), max(len(move.pauses), len(waiting)))
                            await asyncio.sleep(0)
                            slices.begin()
                slices.end()
                move.longest_pause_ms = max(move.longest_pause_ms, slices.longest_ms)
                await progress("move", len(move.pauses), len(move.pauses))
        except BaseException as error:
            stayed = await self.put_back(came_from)
            if isinstance(error, MoveError):
                error.stayed = stayed
            raise
        return move

    async def _at_keys(
        self,
        chosen: Callable[[], list[Session]],
        target: Release,
        change: Callable[[Session], None],
        failed: list[str],
        seconds: float,
    ) -> None:
        """Let each session change by itself, right before what makes its next key unit. Doors make none, and are not
        waited for."""
        deadline = monotonic() + seconds
        armed: set[Session] = set()
        try:
            while not failed and monotonic() < deadline:
                waiting = [
                    item
                    for item in chosen()
                    if item.release is not target and not item.ended and not item.name.startswith(DOOR)
                ]
                if not waiting:
                    break
                for session in waiting:
                    if session not in armed:
                        armed.add(session)
                        session.at_key = lambda session=session: change(session)
                await asyncio.sleep(LOOK_EVERY)
        finally:
            for session in armed:
                session.at_key = None
        if failed:
            raise MoveError(failed[0])

    def _change(
        self,
        session: Session,
        target: Release,
        watch: Probation | None = None,
        allowed: frozenset[str] | None = None,
        seconds: float = 0.0,
    ) -> float:
        """suspend, change code, resume; gives the pause in ms.

        `seconds` is what live code may take, if that is less than a step may.
        """
        started = monotonic()
        source, former = session.release, session.state
        session.suspend()
        try:
            with self.sessions.watchdog.guarding(IMPORTS):
                way = self.ways.way(source, target)
            with self.sessions.watchdog.guarding(seconds):
                lowered = lower(former)
                for steps in way:
                    lowered = migrate.apply(lowered, steps)
                state = lift(lowered, target.record)
                greeting = resumed(state, source, target, session, allowed)
                # `resumed` may have changed the state
                lowered = lower(state) if greeting is not None else lowered
            guard = Guard(watch, former) if watch is not None and source is watch.old else None
            if watch is not None and guard is not None:
                watch.enrol(session)
            session.change_code(target, state, lowered, guard)
            if greeting:
                self.sessions.carry_out(session, Tick(now_ms(), "resumed"), greeting)
        finally:
            session.resume()
        return round((monotonic() - started) * 1000, 3)

    async def put_back(self, came_from: dict[Session, Release]) -> list[str]:
        """Everyone returns to where it was, in slices, and to the end: a cancellation has to wait for it.

        Who cannot go back stays where it is, for nobody is cut off; gives their names.
        """
        task = asyncio.create_task(self._put_back(came_from), name="streamd:put back")
        cancelled: asyncio.CancelledError | None = None
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled
        return task.result()

    async def _put_back(self, came_from: dict[Session, Release]) -> list[str]:
        stayed = []
        silent: set[Release] = set()
        slices = Slices(self.slice_s)
        with collector_off():
            for session, source in came_from.items():
                if not self._back(session, source, silent):
                    stayed.append(session.name)
                if slices.over():
                    gc.collect(YOUNG)
                    await asyncio.sleep(0)
                    slices.begin()
        return stayed

    def _back(self, session: Session, source: Release, silent: set[Release]) -> bool:
        """Put one session back. A guarded one has never left, as it were: its old state went along. False if it can go
        back neither so nor by conversion.

        A release whose code has not returned once is `silent`: it is not asked again where a guard has a state.
        """
        if session.ended or session.release is source:
            return True
        try:
            self._return(session, source, silent)
        except BaseException as error:  # SystemExit of live code as well
            log.error("%s cannot go back to release %d: %s", session.name, source.number, _said(error))
            return False
        return True

    def _return(self, session: Session, source: Release, silent: set[Release]) -> None:
        guard = session.guard
        if guard is not None and guard.watch.old is not source:
            guard = None
        left = session.release
        if guard is None or not (guard.exact or (guard.alive and left in silent)):
            seconds = self.sessions.bounds.guarded_ms / 1000
            try:
                # nobody is cut off by going back, whatever a `resumed` says
                self._change(session, source, allowed=frozenset(), seconds=seconds)
                return
            except BaseException as error:
                if isinstance(error, StepOverrun):
                    silent.add(left)
                if guard is None or not guard.alive:
                    raise
        session.suspend()
        try:
            session.change_code(source, guard.state, self.sessions.lowered(guard.state))
        finally:
            session.resume()

    async def take_back(self, probation: Probation) -> Move:
        """All sessions of a release on probation return to the one before, those born on it included."""
        move = Move()
        slices = Slices(self.slice_s)
        silent: set[Release] = set()
        with collector_off():
            slices.begin()
            while waiting := [
                item
                for item in self.sessions.pinned(probation.new)
                if item.name not in move.stayed and not self.is_pinned(item)
            ]:
                for session in waiting:
                    started = monotonic()
                    if not self._back(session, probation.old, silent):
                        move.stayed.append(session.name)
                    move.pauses[session.name] = round((monotonic() - started) * 1000, 3)
                    if slices.over():
                        slices.end()
                        await asyncio.sleep(0)
                        slices.begin()
            slices.end()
        move.longest_pause_ms = slices.longest_ms
        return move


class Slices:
    """Measures how long the loop is held, and says when it is time to let go."""

    def __init__(self, bound: float) -> None:
        self.bound = bound
        self.longest_ms = 0.0
        self._began = monotonic()

    def begin(self) -> None:
        self._began = monotonic()

    def over(self) -> bool:
        return monotonic() - self._began > self.bound

    def end(self) -> None:
        self.longest_ms = max(self.longest_ms, round((monotonic() - self._began) * 1000, 3))


def resumed(
    state: Any, source: Release, target: Release, session: Session, allowed: frozenset[str] | None = None
) -> list[Any] | None:
    """The commands with which the changed modules of `target` greet a session whose new state this is; None if no
    module has anything to say.

    Raises BadCommand, also for commands by which somebody is cut off, unless they are of a kind that is `allowed`.
    """
    greeting: list[Any] | None = None
    for name, module in target.modules.items():
        function = vars(module).get("resumed")
        if function is None or source.versions.get(name) == target.versions.get(name):
            continue
        try:
            fresh = function(state, now_ms())
        except Exception as error:
            raise BadCommand(f"{name}.resumed raised {telling.told(error)}") from error
        commands.check(fresh, session.groups, len(session.links))
        for kind, words in commands.endings(fresh).items():
            if allowed is not None and kind not in allowed:
                raise BadCommand(f"{name}.resumed answers {words}, which no rehearsal has shown")
        greeting = [*(greeting or []), *fresh]
    return greeting


def _said(error: BaseException) -> str:
    return telling.text_of(error) or telling.kind_of(error)


@contextmanager
def collector_off() -> Iterator[None]:
    """No collection of its own accord while sessions are copied and move: that would be the longest stall.

    What they were turned into is looked at in the slice that made it, and is old from then on.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
