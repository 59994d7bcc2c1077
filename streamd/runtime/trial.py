"""A load after the move: wave after wave, each on probation, until the verdict.

The rule this file keeps: a probation holds nobody up, and whatever its verdict is, everyone ends on one release or the
operator has been told who is on which.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from types import ModuleType
from typing import Any

from streamd.runtime import sentences, telling
from streamd.runtime.drafting import Draft
from streamd.runtime.ledger import Ledger
from streamd.runtime.library import Library
from streamd.runtime.mover import Move, MoveError, Mover
from streamd.runtime.probation import Failure, Probation
from streamd.runtime.release import Release
from streamd.runtime.seal import Seal
from streamd.runtime.session import Session, Sessions
from streamd.runtime.wishes import Bounds, Progress, Refusal, Wishes, silent

log = logging.getLogger("streamd")

SAY_EVERY = 0.5  # s between two words of progress to whoever waits for the verdict
OTHERWISE = "it answers otherwise"  # how the sentence of an unexplained difference begins
TAKEN_BACK = {"ok": False, "stage": "probation", "error": "it was taken back by a rollback meanwhile"}


@dataclass
class Trial:
    """A load that some or all sessions have moved to, and that is still on probation."""

    draft: Draft
    old: Release
    wishes: Wishes
    probation: Probation
    by: dict[str, int]
    done: asyncio.Future[dict[str, Any]]
    seconds: float
    move: Move = field(default_factory=Move)
    wave: int = 0
    task: asyncio.Task[None] | None = None
    taken_back: bool = False

    @property
    def release(self) -> Release:
        return self.draft.release

    @property
    def waves(self) -> int:
        return len(self.wishes.selection.shares)

    @property
    def watched(self) -> bool:
        return self.seconds > 0 or self.waves > 1


class Trials:
    """At most one trial, and at most one canary: what came through its trial without being for everyone."""

    def __init__(
        self, sessions: Sessions, library: Library, mover: Mover, ledger: Ledger, bounds: Bounds
    ) -> None:
        self.sessions = sessions
        self.library = library
        self.mover = mover
        self.ledger = ledger
        self.bounds = bounds
        self.trial: Trial | None = None
        self.canary: Draft | None = None
        self.failed: set[int] = set()  # releases that have failed their probation in this process

    # ---- the first wave

    def new(self, draft: Draft, wishes: Wishes, by: dict[str, int], report: dict[str, Any]) -> Trial:
        old = self.sessions.current
        assert old is not None
        seen = frozenset(report["kinds"]) if wishes.accept_differences else frozenset()
        seconds = self.bounds.probation_seconds if wishes.probation is None else wishes.probation
        probation = Probation(
            self.sessions,
            old,
            draft.release,
            draft.explained | seen,
            wishes.accept_differences and bool(report["ends"]),
            not draft.record.irreversible,
            Seal(self._sealed()),
            self.bounds.probation_rise,
        )
        done = asyncio.get_running_loop().create_future()
        return Trial(draft, old, wishes, probation, by, done, seconds)

    def _sealed(self) -> list[ModuleType]:
        """The namespaces that live code may not change: the interpreter's, the kernel's, and those of releases."""
        kernel = [item for name, item in list(sys.modules.items()) if name.startswith("streamd.runtime.")]
        live = [item for release in self.library.releases.values() for item in release.modules.values()]
        return [sys.modules["builtins"], *kernel, *live]

    async def begin(self, trial: Trial, progress: Progress) -> None:
        """The first wave, and the probation begins. Raises Refusal, or what else it was; nothing is left then."""
        try:
            await self._wave(trial, progress)
        except BaseException as error:
            trial.taken_back = True
            self._stop_watching(trial)
            if trial.draft.again:  # those who were on it before stay there
                trial.probation.release_guards()
            else:
                move = await self.mover.take_back(trial.probation)
                if isinstance(error, Refusal) and move.stayed:
                    raise Refusal(error.stage, f"{error}{sentences.stayed(move)}") from error
            raise
        if trial.watched:
            self.trial = trial
            trial.task = asyncio.create_task(self._follow(trial), name="streamd:probation")
        else:
            self._pass(trial)

    async def _wave(self, trial: Trial, progress: Progress) -> None:
        """Move the sessions of the trial's present wave. Raises Refusal; those of this wave are back then."""
        selection = trial.wishes.selection
        if trial.waves > 1:
            await progress("wave", trial.wave + 1, trial.waves)
        watch = trial.probation if trial.watched else None
        self.sessions.probation = watch
        last = trial.wave == trial.waves - 1
        if selection.whole and last and not trial.probation.ended.is_set():
            self.sessions.current = trial.release

        def chosen() -> list[Session]:
            if trial.probation.ended.is_set():
                return []  # it has failed while the others were still on their way
            return self.mover.chosen(selection, trial.wave)

        key_seconds = self.bounds.keyframe_seconds if trial.wishes.at_key else 0.0
        allowed = trial.probation.allowed
        move = await self.moving(chosen, trial.release, watch, progress, key_seconds, allowed)
        if key_seconds:  # each moved by itself
            move.longest_pause_ms = max([move.longest_pause_ms, *move.pauses.values()])
        trial.move.add(move)

    async def moving(
        self,
        chosen: Callable[[], list[Session]],
        target: Release,
        watch: Probation | None,
        progress: Progress,
        key_seconds: float = 0.0,
        allowed: frozenset[str] | None = None,
    ) -> Move:
        """`Mover.move`, with a refusal for its error."""
        try:
            return await self.mover.move(chosen, target, watch, progress, key_seconds, allowed)
        except MoveError as error:
            back = f"All but {sentences.names(error.stayed)} are" if error.stayed else "Everyone is"
            raise Refusal("move", f"{error}. {back} back where they were") from error

    # ---- the probation

    async def _follow(self, trial: Trial) -> None:
        """Look on, wave after wave, until the verdict."""
        outcome: dict[str, Any] = {"ok": False, "stage": "probation", "error": "the server stopped meanwhile"}
        try:
            outcome = await self._verdict(trial)
        except Exception as error:
            self.sessions.reports.write("probation", error, {"release": trial.release.number})
            trial.probation.fail("the probation itself", telling.told(error))
            outcome = await self._give_up(trial)
        finally:
            if self.trial is trial:
                self.trial = None
            trial.done.set_result(outcome)

    async def _give_up(self, trial: Trial) -> dict[str, Any]:
        """The probation cannot go on, by a bug of ours: back to what ran before, or at least nobody is guarded for ever."""
        assert trial.probation.failure is not None
        try:
            async with self.ledger.one("probation", [], trial.by) as note:
                note.update(release=trial.release.number)
                return await self._fail(trial, trial.probation.failure, note)
        except Exception as error:
            self.sessions.reports.write("probation", error, {"release": trial.release.number})
            self._stop_watching(trial)
            trial.probation.release_guards()
            return {"ok": False, "stage": "bug", "error": telling.told(error)}

    async def _verdict(self, trial: Trial) -> dict[str, Any]:
        probation = trial.probation
        bake = trial.seconds if trial.wishes.bake is None else trial.wishes.bake
        while True:
            last = trial.wave == trial.waves - 1
            await probation.watch(trial.seconds if last else bake, self.bounds.probation_events)
            if probation.ended.is_set() or last:
                break
            try:
                await self._next_wave(trial)
            except Refusal as error:
                probation.fail(f"wave {trial.wave + 1}", str(error))
        if trial.taken_back:
            return TAKEN_BACK
        async with self.ledger.one("probation", [], trial.by) as note:
            note.update(release=trial.release.number, sha256=trial.release.sha256)
            if trial.taken_back:
                note.update(result="ended", text="taken back by a rollback")
                return TAKEN_BACK
            if probation.failure is not None:
                return await self._fail(trial, probation.failure, note)
            told, least = probation.told(), self.bounds.probation_events
            text = f"Probation passed: {told['events']} events, no failure.{sentences.differed(told)}"
            if untried := probation.untried(least):
                text += f" Fewer than {least} events came to {sentences.names(untried)}."
            self._pass(trial)
            note.update(text=text)
            return {"ok": True, "probation": {**told, "left_s": 0.0}, "text": text}

    async def _next_wave(self, trial: Trial) -> None:
        """Raises Refusal."""
        async with self.ledger.one("wave", [], trial.by) as note:
            if trial.probation.ended.is_set():
                note.update(result="ended", text="the probation had ended before it began")
                return
            await self.ledger.begin_anyway(note, trial.release.number)  # a full disk is no reason to go back
            trial.wave += 1
            before = len(trial.move.pauses)
            await self._wave(trial, silent)
            moved = sentences.sessions(len(trial.move.pauses) - before)
            text = f"wave {trial.wave + 1} of {trial.waves}: {moved} moved to release {trial.release.number}"
            note.update(release=trial.release.number, text=text)

    async def _fail(self, trial: Trial, failure: Failure, note: dict[str, Any]) -> dict[str, Any]:
        told = trial.probation.told()
        self.failed.add(trial.release.number)
        self._stop_watching(trial)
        await self.ledger.begin_anyway(note, trial.release.number)
        move = await self.mover.take_back(trial.probation)
        self.trial = self.canary = None
        self.collect()
        report = f" Report: {failure.report}" if failure.report else ""
        if failure.sentence.startswith(OTHERWISE):
            report += (
                ' If the patch is meant to, let it name the commands that differ: DIFFERS = "Send: why".'
            )
        text = (
            f"release {trial.release.number} failed in {failure.name}: {failure.sentence}. Everyone is back on release "
            f"{trial.old.number}; nobody was cut off.{sentences.stayed(move)}{report}"
        )
        note.update(result="failed", stage="probation", text=text)
        return {
            "ok": False,
            "stage": "probation",
            "error": text,
            "session": failure.name,
            "report_path": str(failure.report or ""),
            "probation": told,
        }

    def _pass(self, trial: Trial) -> None:
        """The new release stands on its own from now on."""
        self._stop_watching(trial)
        trial.probation.release_guards()
        self.trial = None
        self.canary = None if trial.wishes.selection.whole else trial.draft
        self.collect()

    def _stop_watching(self, trial: Trial) -> None:
        """Nobody new is guarded; and if the trial has failed, nobody new starts on its release."""
        self.sessions.probation = None
        if self.sessions.current is trial.release and (trial.probation.failure or trial.taken_back):
            self.sessions.current = trial.old

    async def awaited(self, trial: Trial, progress: Progress) -> dict[str, Any]:
        """The verdict; progress says the seconds. Raises Refusal if it is no."""
        probation, wave = trial.probation, trial.wave
        while not trial.done.done():
            if wave != trial.wave:
                wave = trial.wave
                await progress("wave", wave + 1, trial.waves)
            whole = probation.until - probation.since
            await progress("probation", round(min(monotonic() - probation.since, whole)), round(whole))
            await asyncio.wait([trial.done], timeout=SAY_EVERY)
        outcome = dict(trial.done.result())
        if not outcome.pop("ok"):
            raise Refusal(outcome.pop("stage"), outcome.pop("error"), **outcome)
        return outcome

    # ---- its end by other hands

    async def take_back(self, trial: Trial) -> Move:
        """An operator does not want to wait for the verdict. To be called by whoever has the ledger."""
        trial.taken_back = True
        self._stop_watching(trial)
        move = await self.mover.take_back(trial.probation)
        trial.probation.ended.set()
        self.trial = self.canary = None
        return move

    async def close(self) -> None:
        """End a probation without a verdict: the process stops."""
        if self.trial is not None and self.trial.task is not None:
            self.trial.task.cancel()
            await asyncio.gather(self.trial.task, return_exceptions=True)

    # ---- releases that go

    def collect(self) -> list[int]:
        """Let go of every release that no session runs on. Their directories stay for a rollback."""
        needed = [self.sessions.current]
        if self.trial is not None:
            needed += [self.trial.old, self.trial.release]
        if self.canary is not None and not self.sessions.pinned(self.canary.release):
            self.canary = None  # its last session has ended
        gone = [
            number
            for number, release in self.library.releases.items()
            if release not in needed and not self.sessions.pinned(release)
        ]
        for number in gone:
            self.library.forget(number)
        self.library.trim()
        return gone
