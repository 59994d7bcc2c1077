"""check, plan, load, rollback, keep, purge, pin, promote: the operator's verbs on the patch path.

The rule this file keeps: everything that can fail is done before the point of no return. Until then the patch
is text, then a directory, and another process has taken a copy of every session's real state there and back and
replayed its last events. After it come conversions already seen to succeed, and assignments, in slices with the loop
turning in between; and then a time of probation, in which the release before answers for whatever the new one cannot.

One request that changes something is served at a time; the next one waits for it and then finds the world as
that one left it. A probation goes on without holding anybody up: what may not be asked meanwhile is refused.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Any

from streamd.runtime import sentences
from streamd.runtime.drafting import Draft, Drafting, Verify
from streamd.runtime.ledger import Ledger
from streamd.runtime.library import Library
from streamd.runtime.mover import Move, Mover
from streamd.runtime.release import Release
from streamd.runtime.selection import Selection
from streamd.runtime.session import Session, Sessions
from streamd.runtime.store import Store
from streamd.runtime.trial import Trial, Trials
from streamd.runtime.wishes import Bounds, Progress, Refusal, Wishes, silent


class Upgrades:
    """The way from one release to the next, and back."""

    def __init__(
        self,
        sessions: Sessions,
        store: Store,
        shipped: Path,
        patches: Path,
        bounds: Bounds,
        verify: Verify | None = None,
    ) -> None:
        self.sessions = sessions
        self.store = store
        self.patches = patches
        self.library = Library(store, shipped)
        self.ledger = Ledger(store)
        self.mover = Mover(sessions, self.library.ways, bounds.slice_ms / 1000)
        self.drafting = Drafting(sessions, self.library, self.mover, patches, bounds, verify)
        self.trials = Trials(sessions, self.library, self.mover, self.ledger, bounds)

    @property
    def current(self) -> Release:
        assert self.sessions.current is not None
        return self.sessions.current

    def convert(self, lowered: Any, source: Release, target: Release) -> Any:
        """A lowered state of one release, for another. Raises MigrationError."""
        return self.library.ways.convert(lowered, source, target)

    # ---- start and end

    def boot(self) -> list[str]:
        """Import the release that a start begins with, and make it current. Returns what the operator should know."""
        release, warnings = self.library.boot()
        self.sessions.current = release
        if cut := self.ledger.cut_off():
            warnings.append(cut)
        self.ledger.started(release, warnings)
        return warnings

    async def close(self) -> None:
        """The process stops."""
        await self.trials.close()

    # ---- verbs that only look

    async def check(
        self,
        paths: Sequence[str],
        cwd: str,
        by: dict[str, int],
        progress: Progress,
        wishes: Wishes | None = None,
    ) -> dict[str, Any]:
        """Everything short of the point of no return."""
        wishes = wishes or Wishes()
        async with self.ledger.one("check", paths, by, drafts=True) as note:
            self._refuse_if_nobody(wishes)
            started = monotonic()
            async with self.drafting.drafted(paths, cwd, by, wishes, self.trials.canary, progress) as (
                draft,
                child,
                _,
            ):
                try:
                    report, refusal = await self.drafting.tried(draft, child, wishes, progress)
                finally:
                    await self.drafting.drop(draft)
            if refusal is not None and refusal.stage != "differences":
                raise refusal
            changes = sentences.changes(draft.record.modules)
            asked = " --accept-differences" if refusal is not None else ""
            text = (
                f"fits release {self.current.number}: {changes}. {sentences.rehearsed(report)} "
                f"Load with: streamd-ctl load{asked} {' '.join(paths)}"
            )
            note.update(text=text, sha256=draft.record.sha256)
            return {
                "release": self.current.number,
                "modules": draft.record.modules,
                "sessions": len(report["sessions"]),
                "report": report,
                "total_ms": sentences.ms(started),
                "text": text,
            }

    async def plan(
        self,
        paths: Sequence[str],
        cwd: str,
        by: dict[str, int],
        progress: Progress,
        wishes: Wishes | None = None,
    ) -> dict[str, Any]:
        """What a load would do: modules, records, who moves when, for how long; and what it would shadow."""
        wishes = wishes or Wishes()
        async with self.ledger.one("plan", paths, by, drafts=True) as note:
            self._refuse_if_nobody(wishes)
            async with self.drafting.drafted(paths, cwd, by, wishes, self.trials.canary, progress) as (
                draft,
                child,
                merged,
            ):
                try:
                    report, refusal = await self.drafting.tried(draft, child, wishes, progress)
                finally:
                    await self.drafting.drop(draft)
            pauses = {item["name"]: item["lower_ms"] + item["up_ms"] for item in report["sessions"]}
            order = self._order(wishes.selection, pauses)
            shadowed, leftovers = await asyncio.to_thread(self.drafting.in_the_way, merged)
            waves = f" in {len(wishes.selection.shares)} waves" if len(wishes.selection.shares) > 1 else ""
            made = (
                f"would complete release {draft.number}"
                if draft.again
                else (
                    f"would make a release of {self.current.number} and {sentences.changes(draft.record.modules)}"
                )
            )
            text = (
                f"{made}, and move "
                f"{sentences.sessions(sum(1 for item in order if item['wave']))}{waves}, longest pause about "
                f"{report['predicted_pause_ms']:.1f} ms. {sentences.rehearsed(report)}"
            )
            if refusal is not None:
                text += f" A load would be refused at {refusal.stage}: {refusal}."
            note.update(text=text, sha256=draft.record.sha256)
            return {
                "release": self.current.number,
                "modules": draft.record.modules,
                "records": report.get("records", []),
                "sessions": order,
                "shadowed": shadowed,
                "leftovers": leftovers,
                "report": report,
                "text": text,
            }

    def _order(self, selection: Selection, pauses: dict[str, float]) -> list[dict[str, Any]]:
        """Each session, the wave it would move in (0: not at all), and its predicted pause."""
        sessions = self.sessions.listed()
        names = [item.name for item in sessions if not self.mover.is_pinned(item)]
        waves: dict[str, int] = {}
        for wave in range(len(selection.shares)):
            for name in selection.chosen(wave, names):
                waves.setdefault(name, wave + 1)
        rows = [
            {
                "name": item.name,
                "wave": waves.get(item.name, 0),
                "release": item.release.number,
                "pinned": self.mover.is_pinned(item),
                "pause_ms": round(pauses.get(item.name, 0.0), 3),
            }
            for item in sessions
        ]
        return sorted(rows, key=lambda row: (row["wave"] or len(selection.shares) + 1, row["name"]))

    # ---- verbs that change something

    async def load(
        self,
        paths: Sequence[str],
        cwd: str,
        by: dict[str, int],
        progress: Progress,
        wishes: Wishes | None = None,
    ) -> dict[str, Any]:
        """Merge, rehearse, move the sessions that were asked for, and put the new release on probation."""
        wishes = wishes or Wishes()
        async with self.ledger.one("load", paths, by, drafts=True) as note:
            started = monotonic()
            async with self.ledger.busy:
                self._refuse_on_trial("load")
                self._refuse_if_nobody(wishes)
                self.trials.collect()
            async with self.drafting.drafted(paths, cwd, by, wishes, self.trials.canary, progress) as (
                draft,
                child,
                _,
            ):
                try:
                    note.update(sha256=draft.record.sha256)
                    report, refusal = await self.drafting.tried(draft, child, wishes, progress)
                    if refusal is not None:
                        raise refusal
                except BaseException:
                    await self.drafting.drop(draft)
                    raise
            async with self.ledger.busy:
                try:
                    self._refuse_if_changed(draft)
                    await self.drafting.bring_in(draft, progress)
                    trial = self.trials.new(draft, wishes, by, report)
                    await self.ledger.begin(note, draft.number)
                    await self.trials.begin(trial, progress)
                except BaseException:
                    await self.drafting.drop(draft)
                    raise
            text = _running(draft, trial, self._pinned_elsewhere(draft.release))
            note.update(text=text, release=draft.number)
            if trial.watched:
                note.update(probation=trial.seconds)  # whose end has an entry of its own
            answer = self._moved(draft, trial.move, started)
            answer.update(report=report, predicted_pause_ms=report["predicted_pause_ms"], probation=None)
            if trial.watched:
                answer["probation"] = trial.probation.told() | {"seconds": trial.seconds}
        if trial.watched and wishes.wait:
            outcome = await self.trials.awaited(trial, progress)
            text = f"{_running(draft, trial, self._pinned_elsewhere(draft.release))} {outcome['text']}"
            answer.update({**self._moved(draft, trial.move, started), "probation": outcome["probation"]})
        elif trial.watched:
            text += f" On probation for {trial.seconds:g} s: streamd-ctl status."
        if not wishes.selection.whole:
            text += " To move everyone, load it again without a selection."
        way = "No rollback crosses it." if wishes.irreversible else "Roll back with: streamd-ctl rollback"
        return {**answer, "text": f"{text} {way}"}

    async def rollback(self, to: int | None, by: dict[str, int], progress: Progress) -> dict[str, Any]:
        """The same walk the other way: to the parent, or to any ancestor. A load on probation is taken back."""
        async with self.ledger.one("rollback", [] if to is None else [str(to)], by) as note:
            started = monotonic()
            try:
                left, target, move = await self._back(to, note, progress)
            finally:
                self.trials.collect()
            modules = self._difference(left, target)
            hint = (
                ""
                if self.store.kept == target.number
                else f" A restart boots release {self.store.kept}; change that with: streamd-ctl keep"
            )
            pinned = self._pinned_elsewhere(target)
            stays = f" {sentences.names(pinned)} pinned to another release." if pinned else ""
            text = (
                f"back on release {target.number}. {sentences.changes(modules)}. {sentences.sessions(len(move.pauses))} moved, "
                f"longest pause {move.longest_pause_ms:.1f} ms.{sentences.stayed(move)}{stays}{hint}"
            )
            note.update(text=text, release=target.number)
            return {
                "release": target.number,
                "modules": modules,
                "sessions": len(move.pauses),
                "longest_pause_ms": move.longest_pause_ms,
                "pauses": sentences.pauses(move),
                "total_ms": sentences.ms(started),
                "text": text,
            }

    async def keep(self, by: dict[str, int]) -> dict[str, Any]:
        """Make the running release the one that a restart boots."""
        async with self.ledger.one("keep", [], by) as note:
            self._refuse_on_trial("keep")
            if mixed := self.mixed():
                raise Refusal(
                    "read",
                    f"sessions run on several releases ({sentences.mixture(mixed)}); bring them together first: load the canary again "
                    "without a selection, roll it back, or unpin",
                )
            number = self.current.number
            await self.ledger.begin(note, number)
            await asyncio.to_thread(self.store.keep, number)
            text = f"release {number} is kept: a restart boots it"
            note.update(text=text, release=number)
            return {"release": number, "kept": number, "text": text}

    async def pin(self, session: Session, by: dict[str, int]) -> dict[str, Any]:
        """Let no load and no rollback move a session until it is unpinned or ends."""
        async with self.ledger.one("pin", [session.name], by) as note:
            if (trial := self.trials.trial) is not None and session.release is trial.release:
                self._refuse_on_trial("pin")
            self.mover.pin(session)
            text = (
                f"{session.name} stays on release {session.release.number} until it ends or: "
                f"streamd-ctl unpin {session.name}"
            )
            note.update(text=text, release=session.release.number)
            return {"name": session.name, "release": session.release.number, "text": text}

    async def unpin(self, name: str, by: dict[str, int]) -> dict[str, Any]:
        """Let a session move again, and move it to the running release at once."""
        async with self.ledger.one("unpin", [name], by) as note:
            self._refuse_on_trial("unpin")
            pinned = self.mover.pinned()
            if name not in pinned:
                raise Refusal("read", f"{name} is not pinned; pinned are: {', '.join(pinned) or 'none'}")
            session, target, move = pinned[name], self.current, Move()
            self.mover.unpin(name)
            if session.release is not target:
                try:
                    way = self.library.ways.passed(session.release.number, target.number)
                    parents = [self.library.record(number).parent for number in way]
                    chain = [number for number in {*way, *parents} if number is not None]
                    await self.drafting.rehearse_back(target.number, [session], silent, chain)
                    await self.ledger.begin_anyway(note, target.number)
                    move = await self.trials.moving(
                        lambda: [] if session.ended else [session], target, None, silent
                    )
                except BaseException:
                    self.mover.pin(session)
                    raise
            self.trials.collect()
            text = f"{name} is on release {target.number}" + (
                f", after a pause of {move.pauses[name]:.1f} ms" if name in move.pauses else ""
            )
            note.update(text=text, release=target.number)
            return {"name": name, "release": target.number, "pauses": sentences.pauses(move), "text": text}

    async def purge(self, by: dict[str, int]) -> dict[str, Any]:
        """Collect what nothing pins, remove directories that no way leads to, and say what still pins the rest."""
        async with self.ledger.one("purge", [], by) as note:
            collected = self.trials.collect()
            gc.unfreeze()  # the release of the start was frozen with all else
            gc.collect()
            gc.freeze()
            current, kept = self.current.number, self.store.kept
            releases, ancestors = self.library.releases, self.library.ways.ancestors
            needed = {kept, *ancestors(current), *ancestors(kept), *releases}
            needed.update(*map(ancestors, releases))
            removed = [number for number in self.store.numbers() if number not in needed]
            for number in removed:
                await asyncio.to_thread(self.store.remove, number)
                self.library.records.pop(number, None)
            pinned: list[dict[str, Any]] = [
                {"release": number, "sessions": [item.name for item in self.sessions.pinned(release)]}
                for number, release in releases.items()
                if release is not self.current
            ]
            holders = "; ".join(
                f"release {item['release']} is pinned by {sentences.names(item['sessions']) or 'a probation'}"
                for item in pinned
            )
            text = f"removed {sentences.numbers(removed)}; {holders or 'nothing pins an old release'}"
            note.update(text=text)
            return {"collected": collected, "removed": removed, "pinned": pinned, "text": text}

    async def promote(self, by: dict[str, int]) -> dict[str, Any]:
        """The merged files of the running release that differ from the package, for committing; None: removed there."""
        async with self.ledger.one("promote", [], by) as note:
            texts = self.library.package
            files: dict[str, str | None] = {}
            before: dict[str, str] = {}
            release = self.current
            for name in sorted(texts.keys() | release.texts.keys()):
                (place, text), (own, fresh) = (
                    texts.get(name, (None, None)),
                    release.texts.get(name, (None, None)),
                )
                if text != fresh:
                    where = own.relative_to(release.path) if own else place.relative_to(self.library.shipped)  # type: ignore[union-attr]
                    name_there = f"streamd/live/{where.as_posix()}"
                    files[name_there] = fresh
                    before[name_there] = hashlib.sha256(text.encode()).hexdigest() if text else ""
            count = f"{len(files)} file{'' if len(files) == 1 else 's'}"
            text = (
                f"release {release.number} differs from the package in {count}"
                if files
                else f"release {release.number} is the code as shipped; there is nothing to promote"
            )
            note.update(text=text, release=release.number)
            return {
                "release": release.number,
                "modules": self.library.patched(release.number),
                "files": files,
                "shipped": before,
                "text": text,
            }

    # ---- what is the case

    def mixed(self) -> dict[int, list[str]]:
        """The broadcasts of each release, if they are not all on the running one; otherwise empty."""
        found: dict[int, list[str]] = {}
        for session in self.sessions.listed(doors=False):
            found.setdefault(session.release.number, []).append(session.name)
        return {} if not found or set(found) == {self.current.number} else found

    def _pinned_elsewhere(self, release: Release) -> list[str]:
        return [name for name, item in self.mover.pinned().items() if item.release is not release]

    def _refuse_on_trial(self, verb: str) -> None:
        if (trial := self.trials.trial) is not None:
            left = trial.probation.told()["left_s"]
            raise Refusal(
                "read",
                f"{verb} has to wait: release {trial.release.number} is on probation for another {left:.0f} s; "
                "to end that now: streamd-ctl rollback",
            )

    def _refuse_if_nobody(self, wishes: Wishes) -> None:
        """A selection that names nobody is a mistake in typing."""
        if not wishes.selection.whole and not self.mover.chosen(wishes.selection):
            live = [item.name for item in self.sessions.listed(doors=False)]
            raise Refusal("read", f"nobody is in that selection; live are {sentences.names(live) or 'none'}")

    def _refuse_if_changed(self, draft: Draft) -> None:
        """What was drafted is for what ran then."""
        self._refuse_on_trial("load")
        if draft.release.parent != self.current.number or (draft.again and self.trials.canary is None):
            raise Refusal("move", f"release {self.current.number} is running by now; load it again")

    @staticmethod
    def _refuse_to(to: int | None, only: int) -> None:
        if to not in (None, only):
            raise Refusal("read", f"a release that is not everywhere yet goes back to release {only} first")

    # ---- the way back

    async def _back(
        self, to: int | None, note: dict[str, Any], progress: Progress
    ) -> tuple[Release, Release, Move]:
        """(the release that is left, the one that is reached, the move)."""
        current = self.current
        if (trial := self.trials.trial) is not None:
            self._refuse_to(to, trial.old.number)
            await self.ledger.begin_anyway(note, trial.old.number)
            return trial.release, trial.old, await self.trials.take_back(trial)
        if (canary := self.trials.canary) is not None:
            self._refuse_to(to, current.number)
            return canary.release, current, await self._take_canary_back(canary, note, progress)
        chain = self.drafting.chain(to)
        leaving = [item for item in self.sessions.listed() if not self.mover.is_pinned(item)]
        target = await self.drafting.rehearse_back(chain[-1], leaving, progress, chain)
        await self.ledger.begin_anyway(note, target.number)
        return current, target, await self._all_to(target, current, progress)

    async def _all_to(self, target: Release, left: Release, progress: Progress) -> Move:
        """Everyone to `target`, newcomers included, or nobody."""
        self.sessions.current = target
        try:
            return await self.trials.moving(lambda: self.mover.all_but(target), target, None, progress)
        except BaseException:
            self.sessions.current = left
            there = [item for item in self.sessions.pinned(target) if not self.mover.is_pinned(item)]
            await self.mover.put_back(dict.fromkeys(there, left))
            raise

    async def _take_canary_back(self, canary: Draft, note: dict[str, Any], progress: Progress) -> Move:
        def there() -> list[Session]:
            pinned = self.sessions.pinned(canary.release)
            return [item for item in pinned if not self.mover.is_pinned(item)]

        target = self.current
        await self.drafting.rehearse_back(target.number, there(), progress)
        await self.ledger.begin_anyway(note, target.number)
        move = await self.trials.moving(there, target, None, progress)
        self.trials.canary = None
        return move

    def _difference(self, source: Release, target: Release) -> dict[str, list[int]]:
        old, new = source.versions, target.versions
        names = sorted(old.keys() | new.keys())
        return {
            name: [old.get(name, 0), new.get(name, 0)] for name in names if old.get(name) != new.get(name)
        }

    def _moved(self, draft: Draft, move: Move, started: float) -> dict[str, Any]:
        return {
            "release": draft.number,
            "modules": draft.record.modules,
            "sessions": len(move.pauses),
            "longest_pause_ms": move.longest_pause_ms,
            "pauses": sentences.pauses(move),
            "total_ms": sentences.ms(started),
        }


def _running(draft: Draft, trial: Trial, pinned: Sequence[str]) -> str:
    """What a load has done so far, in two sentences."""
    moved = sentences.sessions(len(trial.move.pauses))
    stays = f" {sentences.names(pinned)} pinned to another release." if pinned else ""
    return (
        f"release {draft.number} running{'' if trial.wishes.selection.whole else ' as a canary'}. "
        f"{sentences.changes(draft.record.modules)}. {moved} moved, longest pause {trial.move.longest_pause_ms:.1f} ms.{stays}"
    )
