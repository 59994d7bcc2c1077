"""check, load, rollback, keep, purge: the patch path.

The rule this file keeps: everything that can fail is done before the point of no return. Until then the patch
is text, then a directory, then a release that nobody uses, and every session's real state has been taken there
and back on a copy. After it come conversions already seen to succeed, and assignments, in slices with the loop
turning in between. Should one fail all the same (state goes on changing between rehearsal and move), everyone
is put back and the answer is no.

One request that changes something is served at a time; the next one waits for it and then finds the world as
that one left it.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

from streamd.runtime import migrate, patchfile
from streamd.runtime.migrate import MigrationError
from streamd.runtime.net import now_ms
from streamd.runtime.patchfile import Patch, PatchError
from streamd.runtime.release import Release, ReleaseError, digest, read_tree
from streamd.runtime.session import YOUNG, BadCommand, Session, Sessions
from streamd.runtime.state import StateError, lift, lower, same
from streamd.runtime.store import Record, Store
from streamd.runtime.vocabulary import Tick

log = logging.getLogger("streamd")

Progress = Callable[[str, int, int], Awaitable[None]]
SWITCH_INTERVAL = 0.0005  # s: how long the importing thread may keep the interpreter from the loop


class Refusal(Exception):
    """The answer is no, nothing has changed; `stage` is the step of the patch path that said so."""

    def __init__(self, stage: str, sentence: str) -> None:
        super().__init__(sentence)
        self.stage = stage


@dataclass(frozen=True)
class Bounds:
    """Limits of the patch path."""

    max_bytes: int = 1_048_576  # of one patch file
    max_live: int = 4  # releases in memory at once
    slice_ms: float = 1.0  # how long a move may hold the loop
    specimens: tuple[str, ...] = ()  # names of sessions made only for a rehearsal, so that one is never empty


@dataclass
class Move:
    """What a move did: sessions, and how long the loop was held at the longest, in ms."""

    sessions: list[Session] = field(default_factory=list)
    longest_pause_ms: float = 0.0


class Upgrades:
    """Releases of this process and the way from one to the next."""

    def __init__(
        self, sessions: Sessions, store: Store, shipped: Path, patches: Path, bounds: Bounds
    ) -> None:
        self.sessions = sessions
        self.store = store
        self.shipped = shipped
        self.patches = patches
        self.bounds = bounds
        self.releases: dict[int, Release] = {}
        self.records: dict[int, Record] = {}
        self._busy = asyncio.Lock()

    @property
    def current(self) -> Release:
        assert self.sessions.current is not None
        return self.sessions.current

    # ---- start

    def boot(self) -> list[str]:
        """Import the release that a start begins with, and make it current. Returns what the operator should know.

        That is the last kept one. If the package has been upgraded since (or the directory was touched), the
        kept patches are merged into the new code one by one: those that fit go in, the others are named.
        """
        texts = read_tree(self.shipped)
        shipped = digest(texts)
        kept, warnings = self._kept(shipped)
        if kept is None:
            kept, warnings = self._regrow(
                shipped, {name: text for name, (_, text) in texts.items()}, warnings
            )
        self._adopt(kept)
        self.sessions.current = kept
        return warnings

    def _kept(self, shipped: str) -> tuple[Release | None, list[str]]:
        number = self.store.kept
        if number is None:
            return None, []
        try:
            record = self.store.read_record(number)
            release = self._stored(number, record)
            if record.shipped != shipped:
                return None, [
                    f"the package has changed since release {number} was kept"
                ] if record.patches else []
            return release.load(), []
        except (LookupError, OSError, ReleaseError) as error:
            return None, [f"the kept release {number} cannot be used: {error}"]

    def _stored(self, number: int, record: Record) -> Release:
        """A release on disk, not yet imported. Raises ReleaseError if it is not what was written."""
        release = Release(number, self.store.path(number), record.parent)
        if release.sha256 != record.sha256:
            raise ReleaseError(f"release {number} was changed on disk and is not trusted")
        return release

    def _regrow(self, shipped: str, texts: dict[str, str], warnings: list[str]) -> tuple[Release, list[str]]:
        """The shipped code with every kept patch that still fits it and runs with it."""
        number = self.store.next_number()
        applied: list[dict[str, str]] = []
        waiting = self._kept_patches()
        while waiting:
            refused, refusals = [], []
            for item in waiting:
                try:
                    patch = patchfile.parse(Path(item["name"]), item["text"])
                    merged = patchfile.merge([patch], texts, patchfile.versions_of(texts))
                    self._write(number, None, {**texts, **merged}).load().discard()
                except (PatchError, ReleaseError) as error:
                    refused.append(item)
                    refusals.append(f"kept patch {item['name']} is left out: {error}")
                    continue
                texts = {**texts, **merged}
                applied.append(item)
            if len(refused) == len(waiting):
                warnings += refusals
                break
            waiting = refused  # what one lacked, a later one may have added
        release = self._write(number, None, texts).load()
        self.store.write_record(
            Record(
                number,
                None,
                shipped,
                release.sha256,
                patches=applied,
                at=_now(),
                by={"uid": -1, "gid": -1, "pid": 0},
            )
        )
        self.store.keep(number)
        return release, warnings

    def _kept_patches(self) -> list[dict[str, str]]:
        try:
            return self.store.read_record(self.store.kept or 0).patches
        except LookupError:
            return []

    def _write(self, number: int, parent: int | None, texts: dict[str, str]) -> Release:
        packages = {name.rpartition(".")[0] for name in texts if name} | {""}
        packages |= {name for name in texts if (self.shipped / Path(*name.split("."))).is_dir() and name}
        tree = {
            name: (
                "/".join([*(name.split(".") if name else ()), "__init__.py"])
                if name in packages
                else f"{name.replace('.', '/')}.py",
                text,
            )
            for name, text in texts.items()
        }
        return Release(number, self.store.write_tree(number, tree), parent)

    def _adopt(self, release: Release) -> None:
        self.releases[release.number] = release
        self.records[release.number] = self.store.read_record(release.number)

    # ---- the way between two releases

    def convert(self, lowered: Any, source: Release, target: Release) -> Any:
        """A lowered state of one release, for another. Raises MigrationError."""
        for step in self._way(source, target):
            lowered = migrate.apply(lowered, step)
        return lowered

    def _way(self, source: Release, target: Release) -> list[migrate.Steps]:
        if source is target:
            return []
        down, up = self._ancestors(source.number), self._ancestors(target.number)
        meet = next((number for number in down if number in up), None)
        if meet is None:
            raise MigrationError(f"releases {source.number} and {target.number} have no common ancestor")
        steps = []
        for number in down[: down.index(meet)]:
            record = self._record(number)
            steps.append(migrate.steps_down(self._held(number), self._held(record.parent), record.modules))
        for number in reversed(up[: up.index(meet)]):
            record = self._record(number)
            steps.append(migrate.steps_up(self._held(record.parent), self._held(number), record.modules))
        return steps

    def _ancestors(self, number: int | None) -> list[int]:
        """The number, its parent, and so on up to the shipped code."""
        chain: list[int] = []
        while number is not None:
            try:
                parent = self._record(number).parent
            except LookupError:
                break  # torn or taken away: there is no way beyond it
            chain.append(number)
            number = parent
        return chain

    def _record(self, number: int) -> Record:
        if number not in self.records:
            self.records[number] = self.store.read_record(number)
        return self.records[number]

    def _held(self, number: int | None) -> Release:
        """The release in memory, imported again from its directory if it has been collected."""
        assert number is not None
        if number not in self.releases:
            self.releases[number] = self._stored(number, self._record(number)).load(self.current)
        return self.releases[number]

    # ---- verbs

    async def check(
        self, paths: Sequence[str], cwd: str, by: dict[str, int], progress: Progress
    ) -> dict[str, Any]:
        """Everything short of the point of no return."""
        async with self._one("check", paths, by) as note:
            started = monotonic()
            candidate, record = await self._prepare(paths, cwd, by, progress)
            try:
                rehearsed = await self._rehearse(candidate, progress)
            finally:
                self._drop(candidate)
            changes = _changes(record.modules)
            text = f"fits release {self.current.number}: {changes}. {_sessions(rehearsed)} rehearsed there and back. Load with: streamd-ctl load {' '.join(paths)}"
            note.update(text=text, sha256=record.sha256)
            return {
                "release": self.current.number,
                "modules": record.modules,
                "sessions": rehearsed,
                "total_ms": _ms(started),
                "text": text,
            }

    async def load(
        self, paths: Sequence[str], cwd: str, by: dict[str, int], progress: Progress
    ) -> dict[str, Any]:
        """Merge, rehearse, and move every session to the new release."""
        async with self._one("load", paths, by) as note:
            started = monotonic()
            candidate, record = await self._prepare(paths, cwd, by, progress)
            try:
                await self._rehearse(candidate, progress)
                await asyncio.to_thread(self.store.write_record, record)
                move = await self._move(candidate, progress)
            except BaseException:
                self._drop(candidate)
                raise
            self._collect()
            text = (
                f"release {candidate.number} running. {_changes(record.modules)}. {_sessions(len(move.sessions))} moved, "
                f"longest pause {move.longest_pause_ms:.1f} ms. Roll back with: streamd-ctl rollback"
            )
            note.update(text=text, sha256=record.sha256, release=candidate.number)
            return self._moved(candidate, record.modules, move, started, text)

    async def rollback(self, to: int | None, by: dict[str, int], progress: Progress) -> dict[str, Any]:
        """The same walk the other way: to the parent, or to any ancestor."""
        async with self._one("rollback", [] if to is None else [str(to)], by) as note:
            started = monotonic()
            target = await self._ancestor(to)
            left = self.current
            try:
                await self._rehearse(target, progress, back=False)
                move = await self._move(target, progress)
            except BaseException:
                self._collect()
                raise
            modules = self._difference(left, target)
            self._collect()
            kept = self.store.kept
            hint = (
                ""
                if kept == target.number
                else f" A restart boots release {kept}; change that with: streamd-ctl keep"
            )
            text = (
                f"back on release {target.number}. {_changes(modules)}. {_sessions(len(move.sessions))} moved, "
                f"longest pause {move.longest_pause_ms:.1f} ms.{hint}"
            )
            note.update(text=text, release=target.number)
            return self._moved(target, modules, move, started, text)

    async def keep(self, by: dict[str, int]) -> dict[str, Any]:
        """Make the running release the one that a restart boots."""
        async with self._one("keep", [], by) as note:
            number = self.current.number
            await asyncio.to_thread(self.store.keep, number)
            text = f"release {number} is kept: a restart boots it"
            note.update(text=text, release=number)
            return {"release": number, "kept": number, "text": text}

    async def purge(self, by: dict[str, int]) -> dict[str, Any]:
        """Collect what nothing pins, remove directories that no way leads to, and say what still pins the rest."""
        async with self._one("purge", [], by) as note:
            collected = self._collect()
            gc.unfreeze()  # the release of the start was frozen with all else
            gc.collect()
            gc.freeze()
            current, kept = self.current.number, self.store.kept
            needed = {kept, *self._ancestors(current), *self._ancestors(kept), *self.releases}
            removed = [number for number in self.store.numbers() if number not in needed]
            for number in removed:
                await asyncio.to_thread(self.store.remove, number)
                self.records.pop(number, None)
            pinned: list[dict[str, Any]] = [
                {"release": number, "sessions": [item.name for item in self.sessions.pinned(release)]}
                for number, release in self.releases.items()
                if release is not self.current
            ]
            holders = "; ".join(
                f"release {item['release']} is pinned by {_names(item['sessions'])}" for item in pinned
            )
            text = f"removed {_numbers(removed)}; {holders or 'nothing pins an old release'}"
            note.update(text=text)
            return {"collected": collected, "removed": removed, "pinned": pinned, "text": text}

    # ---- before the point of no return

    async def _prepare(
        self, paths: Sequence[str], cwd: str, by: dict[str, int], progress: Progress
    ) -> tuple[Release, Record]:
        """Read, check and merge the patches, and import the result off the loop."""
        self._collect()
        if len(self.releases) >= self.bounds.max_live:
            held = ", ".join(
                f"{number} ({_sessions(len(self.sessions.pinned(item)))})"
                for number, item in self.releases.items()
            )
            raise Refusal(
                "read",
                f"{len(self.releases)} releases live already, as many as [releases] max_live allows: {held}",
            )
        await progress("read", 0, len(paths))
        base, parent = self.current, self._record(self.current.number)
        number = await asyncio.to_thread(self.store.next_number)
        with _shared_interpreter():
            patches, texts = await asyncio.to_thread(self._merge, paths, cwd, base)
            await progress("merge", len(patches), len(patches))
            try:
                candidate = await asyncio.to_thread(self._import, number, base, texts)
            except BaseException:
                await asyncio.to_thread(self.store.remove, number)
                raise
        await progress("import", 1, 1)
        modules = {item.module: [base.versions.get(item.module, 0), item.version] for item in patches}
        for name, (_, version) in modules.items():
            if candidate.versions.get(name) != version:
                self._drop(candidate)
                raise Refusal(
                    "import",
                    f"{name} says VERSION = {candidate.versions.get(name)} when run, but {version} in its text",
                )
        record = Record(
            number,
            base.number,
            parent.shipped,
            candidate.sha256,
            modules,
            [
                *parent.patches,
                *({"name": item.path.name, "sha256": item.sha256, "text": item.text} for item in patches),
            ],
            by,
            _now(),
        )
        self.releases[number], self.records[number] = candidate, record
        return candidate, record

    def _merge(self, paths: Sequence[str], cwd: str, base: Release) -> tuple[list[Patch], dict[str, str]]:
        files = patchfile.find(paths, cwd, self.patches)
        patches = [patchfile.read(file, self.patches, self.bounds.max_bytes) for file in files]
        texts = {name: text for name, (_, text) in base.texts.items()}
        return patches, {**texts, **patchfile.merge(patches, texts, base.versions)}

    def _import(self, number: int, base: Release, texts: dict[str, str]) -> Release:
        return self._write(number, base.number, texts).load(base)

    async def _rehearse(self, target: Release, progress: Progress, back: bool = True) -> int:
        """Take a copy of every session's real state to `target` and, unless it is a rollback, back again."""
        sessions = self.sessions.listed()
        await progress("rehearse", 0, len(sessions))
        done = 0
        slices = self._slices()
        ways = {self.current.number: (self._way(self.current, target), self._way(target, self.current))}
        for session in [*self._specimens(target), *sessions]:
            if session.ended:
                continue
            source = session.release
            try:
                if source.number not in ways:
                    ways[source.number] = self._way(source, target), self._way(target, source)
                self._rehearse_one(session, target, *ways[source.number], back)
            except (MigrationError, StateError, BadCommand) as error:
                raise Refusal("rehearse", f"{session.name}: {error}. Nothing was changed") from error
            done += session.name in self.sessions.by_name
            if next(slices):
                await progress("rehearse", done, len(sessions))
                await asyncio.sleep(0)
        return done

    def _specimens(self, target: Release) -> list[Session]:
        """Newborn sessions of the running release; the same are born on `target`, to see that they can be."""
        home = self.sessions
        for name in self.bounds.specimens:
            try:
                lift(lower(target.begin(name, home.settings, now_ms())), target.record)
            except Exception as error:
                raise Refusal(
                    "rehearse", f"a new session {name} cannot begin: {type(error).__name__}: {error}"
                ) from error
        return [
            Session(home, f"new {name}", self.current, self.current.begin(name, home.settings, now_ms()))
            for name in self.bounds.specimens
        ]

    def _rehearse_one(
        self,
        session: Session,
        target: Release,
        there: list[migrate.Steps],
        home: list[migrate.Steps],
        back: bool,
    ) -> None:
        before = lower(session.state)
        changed = before
        for step in there:
            changed = migrate.apply(changed, step)
        copy = lift(changed, target.record)
        self._resumed(copy, session, target)
        if not back:
            return
        try:
            target.describe(copy)
        except Exception as error:
            raise BadCommand(f"describe() of the new code raised {type(error).__name__}: {error}") from error
        returned = lower(lift(changed, target.record))
        for step in home:
            returned = migrate.apply(returned, step)
        if not same(returned, before):
            raise MigrationError(
                f"downgrade does not restore what upgrade was given: {_unlike(before, returned)}"
            )
        lift(returned, session.release.record)

    def _resumed(self, state: Any, session: Session, target: Release) -> list[Any]:
        """The commands with which the changed modules of `target` greet a session whose new state this is.

        Raises BadCommand.
        """
        commands: list[Any] = []
        old, new = session.release.versions, target.versions
        for name, module in target.modules.items():
            function = vars(module).get("resumed")
            if function is None or old.get(name) == new.get(name):
                continue
            try:
                fresh = function(state, now_ms())
            except Exception as error:
                raise BadCommand(f"{name}.resumed raised {type(error).__name__}: {error}") from error
            self.sessions.check(fresh, session.groups)
            commands += fresh
        return commands

    # ---- the move

    async def _move(self, target: Release, progress: Progress) -> Move:
        """Beyond the point of no return. Raises Refusal after having put everyone back."""
        move = Move()
        with _collector_off():
            slices = self._slices()
            ways: dict[int, list[migrate.Steps]] = {}
            gc.collect(YOUNG)  # what the import has left
            await asyncio.sleep(0)
            # from here on there is no way back but to put everyone back
            left, self.sessions.current = self.current, target
            started = monotonic()
            try:
                while waiting := [item for item in self.sessions.listed() if item.release is not target]:
                    for session in waiting:
                        if session.ended or session.release is target:
                            continue
                        self._change(session, target, ways)
                        move.sessions.append(session)
                        if next(slices):
                            gc.collect(YOUNG)
                            move.longest_pause_ms = max(move.longest_pause_ms, _ms(started))
                            await asyncio.sleep(0)
                            started = monotonic()
                move.longest_pause_ms = max(move.longest_pause_ms, _ms(started))
            except BaseException as error:
                self.sessions.current = left
                self._put_back(target, left)
                if not isinstance(error, Exception):
                    raise  # cancelled: the server is stopping
                raise Refusal(
                    "move", f"{session.name}: {error}. Everyone is back on release {left.number}"
                ) from error
        await progress("move", len(move.sessions), len(move.sessions))
        return move

    def _change(self, session: Session, target: Release, ways: dict[int, list[migrate.Steps]]) -> None:
        """suspend, change code, resume: nothing is assigned before everything has been converted.

        `ways` are those from other releases to `target`, found as they are needed.
        """
        source = session.release
        session.suspend()
        try:
            if source.number not in ways:
                ways[source.number] = self._way(source, target)
            lowered = lower(session.state)
            for step in ways[source.number]:
                lowered = migrate.apply(lowered, step)
            state = lift(lowered, target.record)
            commands = self._resumed(state, session, target)
            session.change_code(target, state, lowered)
            self.sessions.carry_out(session, Tick(now_ms(), "resumed"), commands)
        finally:
            session.resume()

    def _put_back(self, target: Release, left: Release) -> None:
        """Everyone who reached `target` (born there included) returns; who cannot is ended, and said so."""
        ways: dict[int, list[migrate.Steps]] = {}
        for session in self.sessions.pinned(target):
            try:
                self._change(session, left, ways)
            except Exception as error:
                log.error("%s cannot go back to release %d: %s", session.name, left.number, error)
                self.sessions.end(session, "could not be converted back")

    def _slices(self) -> Iterator[bool]:
        """True whenever the loop has been held for as long as a slice may last."""
        bound = self.bounds.slice_ms / 1000
        started = monotonic()
        while True:
            over = monotonic() - started > bound
            yield over
            if over:
                started = monotonic()

    # ---- releases that come and go

    async def _ancestor(self, to: int | None) -> Release:
        """The release to roll back to, imported with all between it and the running one."""
        chain = self._ancestors(self.current.number)
        if len(chain) < 2:
            raise Refusal(
                "read", f"release {chain[0]} is the code as shipped; there is nothing to roll back to"
            )
        target = chain[1] if to is None else to
        if target == chain[0]:
            raise Refusal("read", f"release {target} is running already")
        if target not in chain:
            known = ", ".join(map(str, chain[1:]))
            raise Refusal(
                "read", f"release {target} is no ancestor of release {chain[0]}; roll back to one of {known}"
            )
        with _shared_interpreter():
            for number in chain[: chain.index(target) + 1]:
                try:
                    await asyncio.to_thread(self._held, number)
                except (ReleaseError, OSError, LookupError) as error:
                    raise Refusal("import", f"release {number} cannot be imported again: {error}") from error
        return self.releases[target]

    def _difference(self, source: Release, target: Release) -> dict[str, list[int]]:
        old, new = source.versions, target.versions
        names = sorted(old.keys() | new.keys())
        return {
            name: [old.get(name, 0), new.get(name, 0)] for name in names if old.get(name) != new.get(name)
        }

    def _drop(self, candidate: Release) -> None:
        """Forget a release that was never to run, or did not come to."""
        if candidate is not self.sessions.current:
            self.releases.pop(candidate.number, None)
            self.records.pop(candidate.number, None)
            candidate.discard()
            self.store.remove(candidate.number)

    def _collect(self) -> list[int]:
        """Let go of every release that no session runs on. Their directories stay for a rollback."""
        gone = [
            number
            for number, release in self.releases.items()
            if release is not self.current and not self.sessions.pinned(release)
        ]
        for number in gone:
            self.releases.pop(number).discard()
        return gone

    def _moved(
        self, release: Release, modules: dict[str, list[int]], move: Move, started: float, text: str
    ) -> dict[str, Any]:
        return {
            "release": release.number,
            "modules": modules,
            "sessions": len(move.sessions),
            "longest_pause_ms": round(move.longest_pause_ms, 3),
            "total_ms": _ms(started),
            "text": text,
        }

    @asynccontextmanager
    async def _one(
        self, verb: str, paths: Sequence[str], by: dict[str, int]
    ) -> AsyncIterator[dict[str, Any]]:
        """One at a time; and whatever comes of it is in the history before it is answered."""
        async with self._busy:
            entry: dict[str, Any] = {"verb": verb, **by, "paths": list(paths), "result": "ok"}
            try:
                yield entry
            except PatchError as error:
                entry.update(result="refused", stage=error.stage, text=str(error))
                raise Refusal(error.stage, str(error)) from error
            except ReleaseError as error:
                entry.update(result="refused", stage="import", text=str(error))
                raise Refusal("import", str(error)) from error
            except (MigrationError, StateError) as error:
                entry.update(result="refused", stage="rehearse", text=str(error))
                raise Refusal("rehearse", str(error)) from error
            except OSError as error:
                entry.update(result="failed", stage="disk", text=str(error))
                raise Refusal("disk", f"{error}; nothing was changed") from error
            except Refusal as error:
                entry.update(result="refused", stage=error.stage, text=str(error))
                raise
            except BaseException as error:
                entry.update(result="failed", stage="bug", text=repr(error))
                raise
            finally:
                log.log(
                    logging.INFO if entry["result"] == "ok" else logging.WARNING,
                    "%s: %s",
                    verb,
                    entry.get("text", ""),
                )
                try:
                    await asyncio.to_thread(lambda: self.store.note(**entry))
                except OSError as error:  # a full disk does not make undone what was done
                    log.error("%s is not in the history: %s", verb, error)


def _unlike(before: Any, after: Any, path: str = "state") -> str:
    """The first place where two lowered states differ, as a sentence."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in [*before, *(item for item in after if item not in before)]:
            if name not in before or name not in after:
                return f"{path}.{name} {'appeared' if name in after else 'is missing'}"
            if not same(before[name], after[name]):
                return _unlike(before[name], after[name], f"{path}.{name}")
    if isinstance(before, list | tuple) and isinstance(after, list | tuple) and len(before) == len(after):
        for index, (left, right) in enumerate(zip(before, after, strict=True)):
            if not same(left, right):
                return _unlike(left, right, f"{path}[{index}]")
    return f"{path} was {_short(before)} and came back as {_short(after)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _ms(since: float) -> float:
    return round((monotonic() - since) * 1000, 3)


def _changes(modules: dict[str, list[int]]) -> str:
    return (
        ", ".join(f"{name} {old or 'new'} -> {new or 'gone'}" for name, (old, new) in modules.items())
        or "no module changed"
    )


def _sessions(count: int) -> str:
    return f"{count} session{'' if count == 1 else 's'}"


def _names(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _numbers(numbers: Iterable[int]) -> str:
    return ", ".join(f"release {number}" for number in numbers) or "nothing"


@contextmanager
def _collector_off() -> Iterator[None]:
    """No collection of its own accord while sessions are rehearsed and move: that would be the longest stall.

    What they were turned into is looked at in the slice that made it, and is old from then on.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def _shared_interpreter() -> Iterator[None]:
    """Let the loop have the interpreter back quickly while a thread compiles and imports."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
