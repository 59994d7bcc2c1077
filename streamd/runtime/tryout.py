"""What a new release makes of one session's real state and its last real events, tried on copies.

    migrate   up to the new release and back; plain, typed, restored to the letter; and how long it takes
    replay    the events since a checkpoint, by the old code and the new; where their answers part
    imagine   what happens rarely (rare.py), made up for what the replay has left
    follow    the same with events that have only just happened

The rule this file keeps: whatever live code does here is an entry in the report and no more. All of it is called
under the watchdog, and an answer of the old code that is not the one it gave when it was serious ends the comparison,
for what cannot be reproduced proves nothing.
"""

from __future__ import annotations

import gc
import marshal
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic_ns, thread_time, thread_time_ns
from typing import Any, TypeGuard, TypeVar

from streamd.runtime import commands, rare, telling
from streamd.runtime.commands import BadCommand
from streamd.runtime.journal import BLAMED, FAILED, revive
from streamd.runtime.migrate import MigrationError
from streamd.runtime.preview import plain
from streamd.runtime.release import Release, ReleaseError
from streamd.runtime.seal import Seal
from streamd.runtime.state import StateError, lift, lower, same
from streamd.runtime.store import Record
from streamd.runtime.vocabulary import Event, PeerError, Ring
from streamd.runtime.watchdog import Watchdog
from streamd.runtime.ways import Ways
from streamd.runtime.wire import Around, Place, ReleaseFact, outline

T = TypeVar("T")

MOST_FAILURES = 10  # sessions that fail alike teach nobody more
MOST_DIFFERENCES = 20  # that are told in words; all are counted
LONGEST = 2000  # characters of a sentence; it may be about a text that live code has made
MOST_STATE = 262_144  # bytes of a state that a failure shows
IMPORT_STEPS = 2  # an import may take as long as so many steps
TIMES_SLOWER = 10
SLOW_EVENTS = 20  # with fewer a mean means nothing
SLOW_MS = 1.0
MADE_UP_PART = 0.25  # of the time for replays, for made-up events; what has really happened teaches more
TIMES_LARGER = 4
LARGER_BYTES = 1_048_576
# A loop in C does not let the watchdog in; the kernel ends the process when one call has taken as long as so many steps.
HARD_STEPS = 3
HARD_SECONDS = 1.0  # and this much more


class Failed(Exception):
    """The new release failed on a session. `fatal`: the process is not fit for another after it."""

    def __init__(
        self,
        sentence: str,
        cause: BaseException | None = None,
        event: Event | None = None,
        state: Any = None,
        fatal: bool = False,
    ) -> None:
        super().__init__(sentence)
        self.cause = cause
        self.event = event
        self.state = state
        self.fatal = fatal


@dataclass
class Kept:
    """One kept event: what it was answered with, and the number of the release whose records a guest in it is of."""

    event: Event
    commands: int | None  # None where it is not known
    source: int


@dataclass
class Copy:
    """A session as it arrived."""

    name: str
    release: int
    lowered: Any
    groups: list[str]
    links: int
    checkpoint: tuple[int, Any] | None = None
    events: list[Kept] = field(default_factory=list)
    around: Around = field(default_factory=Around)


@dataclass
class Report:
    """What came of it, so far."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)
    differences: list[dict[str, Any]] = field(default_factory=list)
    different: int = 0
    ends: int = 0  # differences by which somebody loses something (commands.losses)
    kinds: set[str] = field(default_factory=set)  # of commands in which some answers differ
    cured: int = 0
    events: int = 0
    replayed: int = 0
    not_replayed: int = 0
    tried: int = 0  # made-up events
    not_tried: int = 0  # sessions without all of theirs, for there was no more time
    fail_alike: int = 0  # made-up events at which both fail
    pause_ms: float = 0.0
    old_ns: int = 0
    new_ns: int = 0
    growth: int = 0

    def totals(self) -> dict[str, Any]:
        return {
            "failures": self.failures,
            "differences": self.differences,
            "different": self.different,
            "ends": self.ends,
            "kinds": sorted(self.kinds),
            "cured": self.cured,
            "events": self.events,
            "replayed": self.replayed,
            "not_replayed": self.not_replayed,
            "tried": self.tried,
            "not_tried": self.not_tried,
            "fail_alike": self.fail_alike,
            "predicted_pause_ms": round(self.pause_ms, 3),
            "slower": ratio(self.new_ns, self.old_ns),
            "growth_bytes": self.growth,
        }


class Troupe:
    """The releases of this process, imported as they are needed, and the ways between them."""

    def __init__(self, facts: Sequence[ReleaseFact], place: Place, watchdog: Watchdog) -> None:
        self.facts = {fact.number: fact for fact in facts}
        self.place = place
        self.watchdog = watchdog
        self.releases: dict[int, Release] = {}
        self.ways = Ways(self._record, self.held)

    def _record(self, number: int) -> Record:
        try:
            fact = self.facts[number]
        except KeyError:
            raise LookupError(f"release {number} is not known here") from None
        return Record(
            number,
            fact.parent,
            "",
            "",
            modules=dict(fact.modules),
            renames=dict(fact.renames),
            irreversible=fact.irreversible,
        )

    def held(self, number: int) -> Release:
        """Raises ReleaseError."""
        if number not in self.releases:
            fact = self.facts[number]
            self.place.doing(f"import of release {number}")
            like = next(reversed(self.releases.values()), None)
            self.watchdog.headroom()
            hard(self.watchdog.step_seconds * IMPORT_STEPS)
            with self.watchdog.guarding(self.watchdog.step_seconds * IMPORT_STEPS):
                self.releases[number] = Release(number, Path(fact.path), fact.parent).load(like, fact.codes)
        return self.releases[number]

    def convert(self, lowered: Any, source: Release, target: Release) -> Any:
        return self.ways.convert(lowered, source, target)

    def pack(self) -> list[Any]:
        return [module for release in self.releases.values() for module in release.modules.values()]


class Tryout:
    """Tries `target` on one session after the other, and keeps the report."""

    def __init__(
        self,
        troupe: Troupe,
        target: Release,
        seal: Seal,
        back: bool,
        replay_seconds: float,
    ) -> None:
        self.troupe = troupe
        self.target = target
        self.seal = seal
        self.back = back
        self.place = troupe.place
        self.watchdog = troupe.watchdog
        self.report = Report()
        self.over = False
        self.where = ""  # the beginning of a sentence, where events are made up
        self._replay_ends = thread_time() + replay_seconds
        self._replay_seconds = replay_seconds
        self._imagining = 0.0  # s of processor time that made-up events have taken

    # ---- one session

    def take(self, copy: Copy, replay: bool) -> dict[str, Any]:
        """A row of the report."""
        row = fresh_row(copy)
        self.place.doing("migration", copy.name)
        self.watchdog.headroom()
        try:
            self._migrate(copy, row)
            if replay:
                pair = self._replay(copy, row)
                self.look_at_the_seal()
                self.look_at_the_seal()
                self._imagine(copy, row, pair)
            else:
                self.look_at_the_seal()
        except Failed as failed:
            self.note(copy, row, failed)
        except MemoryError:
            raise
        except (
            Exception
        ) as error:  # of what is done here with what live code has made, such as a dict in itself
            self.note(copy, row, _raised("rehearsal", error))
        return row

    def note(self, copy: Copy, row: dict[str, Any], failed: Failed) -> None:
        """A failure in the report; `over` if there is nothing more to try after it."""
        row["ok"], row["why"] = False, str(failed)
        state = failed.state if failed.state is not None else copy.lowered
        record = getattr(failed.cause, "record", None) if isinstance(failed.cause, MigrationError) else None
        self.report.failures.append(
            {
                "name": copy.name,
                "sentence": str(failed),
                "traceback": telling.frames(failed.cause) if failed.cause is not None else [],
                "event": plain(failed.event),
                "state": _shown(record or state),
            }
        )
        self.over = failed.fatal or len(self.report.failures) >= MOST_FAILURES

    def look_at_the_seal(self) -> None:
        """Raises Failed if live code has changed what is not its own."""
        broken = self.seal.broken()
        if broken:
            self.seal.mend()
            raise Failed(
                f"{self.where}the new code changed {', '.join(broken[:5])}, which is not its own", fatal=True
            )

    def called(self, what: str, function: Callable[..., T], *given: Any) -> T:
        """Call live code, or what calls it. Raises Failed whatever it raises."""
        self.place.doing(what)
        hard(self.watchdog.step_seconds)
        try:
            with self.watchdog.guarding():
                return function(*given)
        except Failed:
            raise
        except (MigrationError, StateError, BadCommand, ReleaseError) as error:
            self.look_at_the_seal()  # nothing can be said in words without the builtins
            raise Failed(telling.cut(str(error), LONGEST), error) from error
        except BaseException as error:
            self.look_at_the_seal()
            raise _raised(what, error) from error

    # ---- up and back

    def _migrate(self, copy: Copy, row: dict[str, Any]) -> None:
        source = self.called("import", self.troupe.held, copy.release)
        before = copy.lowered
        running = self.called("lifting the running state", lift, before, source.record)
        changed, state, spent, ends = self._moved(copy, running, source)
        if ends:
            self._cuts_off(copy, row, ends)
        if (
            sum(spent) / 1e6 > self.report.pause_ms
        ):  # once more: the first of a kind pays for what it warms up
            spent = min(spent, self._moved(copy, running, source)[2], key=sum)
        row["lower_ms"], row["up_ms"] = map(_ms, spent)
        self.report.pause_ms = max(self.report.pause_ms, sum(spent) / 1e6)
        self.called("describe", self._described, state)
        if self.back:
            again = self.called("lifting the upgraded state", lift, changed, self.target.record)
            started = thread_time_ns()
            returned = self._returned(again, source)
            row["down_ms"] = _ms(thread_time_ns() - started)
            if not same(returned, before):
                raise Failed(f"downgrade does not restore what upgrade was given: {unlike(before, returned)}")

    def _moved(
        self, copy: Copy, running: Any, source: Release
    ) -> tuple[Any, Any, tuple[int, int], dict[str, str]]:
        """The state of the new release, lowered and lifted; the ns that lowering took, and all the rest; and by what
        commands `resumed` would cut somebody off."""
        started = thread_time_ns()
        before = self.called("lowering the running state", lower, running)
        lowered = thread_time_ns()
        changed = self.called("upgrade", self._changed, before, source)
        state = self.called("lifting the upgraded state", lift, changed, self.target.record)
        ends = self.called("resumed", self._greeted, state, source, copy)
        return changed, state, (lowered - started, thread_time_ns() - lowered), ends

    def _cuts_off(self, copy: Copy, row: dict[str, Any], ends: dict[str, str]) -> None:
        """A difference like any other, and one that cannot be had by chance: it would happen at the move."""
        report = self.report
        report.different += 1
        report.ends += 1
        report.kinds |= ends.keys()
        row["differences"] += 1
        sentence = f"the move itself: {', '.join(ends.values())}"
        row["first_difference"] = row["first_difference"] or sentence
        if len(report.differences) < MOST_DIFFERENCES:
            report.differences.append(
                {
                    "name": copy.name,
                    "event": "resumed",
                    "sentence": sentence,
                    "kinds": sorted(ends),
                    "ends": True,
                }
            )

    def _changed(self, lowered: Any, source: Release) -> Any:
        return self.troupe.convert(lowered, source, self.target)

    def _returned(self, state: Any, source: Release) -> Any:
        """A state of the new release as the old one would have it."""
        lowered = self.called("lowering the new state", lower, state)
        returned = self.called("downgrade", self.troupe.convert, lowered, self.target, source)
        self.called("lifting the downgraded state", lift, returned, source.record)
        return returned

    def _greeted(self, state: Any, source: Release, copy: Copy) -> dict[str, str]:
        """What the changed modules would say to a session right after the switch: the commands among it by which
        somebody is cut off. Raises BadCommand."""
        ends: dict[str, str] = {}
        for name, module in self.target.modules.items():
            function = vars(module).get("resumed")
            if function is not None and source.versions.get(name) != self.target.versions.get(name):
                try:
                    fresh = function(state, now_ms())
                except Exception as error:
                    raise BadCommand(f"{name}.resumed raised {telling.told(error)}") from error
                try:
                    commands.check(fresh, copy.groups, copy.links)
                except BadCommand as error:
                    said = str(error).replace("step returned", "it returned")
                    raise BadCommand(f"{name}.resumed: {said}") from error
                for kind, words in commands.endings(fresh).items():
                    ends.setdefault(kind, f"{name}.resumed answers {words}")
        return ends

    def _described(self, state: Any) -> None:
        try:
            told = self.target.describe(state)
        except Exception as error:
            raise BadCommand(f"describe() of the new code raised {telling.told(error)}") from error
        if type(told) is not dict:
            raise BadCommand(f"describe() of the new code returned {type(told).__name__}, not a dict")

    # ---- newborn sessions

    def begin(self, name: str, settings: dict[str, Any], old: Release) -> None:
        """A session that begins on the new release, and one that began on the old; no row of the report."""
        copy = Copy(f"new {name}", old.number, None, [], 0)
        row = fresh_row(copy)
        self.place.doing("begin", copy.name)
        self.watchdog.headroom()
        try:
            state = self.called("begin", self.target.begin, name, dict(settings), now_ms())
            copy.lowered = self.called("lowering a new state", lower, state)
            self.called("lifting a new state", lift, copy.lowered, self.target.record)
            self.called("describe", self._described, state)
            started = self.called("begin of the running code", old.begin, name, dict(settings), now_ms())
            copy.lowered = self.called("lowering a new state", lower, started)
            self._migrate(copy, row)
            self.look_at_the_seal()
        except Failed as failed:
            self.note(copy, row, failed)

    # ---- the last real events again

    def _replay(self, copy: Copy, row: dict[str, Any]) -> Pair | None:
        """The session as it is now on both codes, if the replay has got there."""
        if copy.checkpoint is None:
            row["why"] = "there are no events to replay"
            self.report.not_replayed += 1
            return None
        if thread_time() > self._replay_ends:
            row["why"] = f"not replayed: the {self._replay_seconds:g} s for replays were used up"
            self.report.not_replayed += 1
            return None
        pair = Pair(self, copy, row, copy.checkpoint)
        for place, kept in enumerate(copy.events, 1):
            pair.take(kept, place, len(copy.events))
            if pair.stopped:
                break
            if thread_time() > self._replay_ends:
                pair.stopped = f"the {self._replay_seconds:g} s for replays were used up"
                break
        pair.finish()
        if pair.stopped:
            row["why"] = f"replayed {row['events']} of {len(copy.events)} events: {pair.stopped}"
            self.report.not_replayed += 1
            return None
        self.report.replayed += 1
        return pair if pair.comparing else None

    # ---- events that there have been none of

    def _imagine(self, copy: Copy, row: dict[str, Any], pair: Pair | None) -> None:
        """Made-up events for what a replay has left; without one, for the state that arrived."""
        started = thread_time()
        ends = min(self._replay_ends, started + self._replay_seconds * MADE_UP_PART - self._imagining)
        now = copy.events[-1].event.now if copy.events else now_ms()
        try:
            if started < ends:
                if pair is None:
                    pair = Pair(self, copy, row, (copy.release, copy.lowered))
                pair.imagine(now, ends)
                self.where = "at one of the made-up events, "
                self.look_at_the_seal()
            else:
                self.report.not_tried += 1
        finally:
            self.where = ""
            self._imagining += thread_time() - started


class Pair:
    """The same session twice: on the old code, and on the new."""

    def __init__(self, tryout: Tryout, copy: Copy, row: dict[str, Any], checkpoint: tuple[int, Any]) -> None:
        self.tryout = tryout
        self.copy = copy
        self.row = row
        self.stopped = ""  # why there is nothing more to learn here
        self.old = tryout.troupe.held(copy.release)
        self.new = tryout.target
        self.place = tryout.place
        self.watchdog = tryout.watchdog
        self.groups = set(copy.groups)
        self.comparing = True
        self._old_ns = self._new_ns = 0
        self._events: list[Kept] = []
        number, lowered = checkpoint
        convert = tryout.troupe.convert
        since = tryout.called("import", tryout.troupe.held, number)
        self._first = tryout.called("conversion of a checkpoint", convert, lowered, since, self.old)
        self._left = tryout.called("lifting a checkpoint", lift, self._first, self.old.record)
        self._right = self._begun()
        self._sizes = self._weighed()

    def _begun(self) -> Any:
        """The state of the new code before the first event."""
        changed = self.tryout.called("upgrade", self.tryout._changed, self._first, self.old)
        state = self.tryout.called("lifting the upgraded state", lift, changed, self.new.record)
        self.tryout.called("resumed", self.tryout._greeted, state, self.old, self.copy)
        return state

    def take(self, kept: Kept, place: int, count: int) -> None:
        """One event, to both. Raises Failed where the new code fails and the old one does not."""
        if kept.commands == FAILED:
            self._take_failed(kept, place, count)
            return
        row, report = self.row, self.tryout.report
        self.place.doing("old code")
        self.place.event(kept.event, place, count)
        old, spent = self._answered(self.old, self._left, kept)
        self._old_ns += spent
        if _is_crash(old):
            self._left_failed(old, kept, place, count)
            return
        noted = len(old) if isinstance(old, list) else BLAMED
        if kept.commands is not None and kept.commands != noted:
            self.stopped = f"the running code did not do again what it had done at event {place}"
            return
        self.place.doing("new code")
        self.place.event(kept.event, place, count)
        new, spent = self._answered(self.new, self._right, kept)
        self._new_ns += spent
        if _is_crash(new):
            where = f"event {place} ({outline(kept.event)})"
            sentence = (
                f"the new code answers {where} with what cannot be carried out: {new}"
                if isinstance(new, BadCommand)
                else f"the new code fails at {where}: {_said(new)}"
            )
            raise Failed(
                sentence, new, kept.event, None if _is_fatal(new) else self._before(), _is_fatal(new)
            )
        self._events.append(kept)
        row["events"] += 1
        report.events += 1
        if self.comparing:
            self._compare(f"event {place} ({outline(kept.event)})", old, new)

    def imagine(self, now: int, ends: float) -> None:
        """Made-up events, each for copies of both states: what one does is nothing to the next. Raises Failed as `take`
        does. Not beyond `ends`, in s of processor time."""
        tryout, groups = self.tryout, self.groups
        left = tryout.called("lowering the old state", lower, self._left)
        right = tryout.called("lowering the new state", lower, self._right)
        for event in rare.made_up(self.copy.around, self.copy.name, now):
            if thread_time() > ends:
                tryout.report.not_tried += 1
                break
            self.groups = set(groups)
            self._imagine(event, left, right)
        self.groups = groups

    def _imagine(self, event: Event, left: Any, right: Any) -> None:
        tryout, told, kept = self.tryout, rare.told(event), Kept(event, None, self.old.number)
        old_state = tryout.called("lifting the old state", lift, left, self.old.record)
        new_state = tryout.called("lifting the new state", lift, right, self.new.record)
        tryout.where = f"at {told}, "
        self.place.doing(f"old code, at {told}")
        old, _ = self._answered(self.old, old_state, kept)
        self.place.doing(f"new code, at {told}")
        new, _ = self._answered(self.new, new_state, kept)
        self.row["tried"] += 1
        tryout.report.tried += 1
        if _is_crash(old):
            if _is_crash(new):  # nobody knows whether it can happen, and the patch has not brought it about
                tryout.report.fail_alike += 1
            else:
                self.row["cured"] += 1
                tryout.report.cured += 1
        elif _is_crash(new):
            sentence = (
                f"at {told}, the new code answers what cannot be carried out: {new}"
                if isinstance(new, BadCommand)
                else f"at {told}, the new code fails: {_said(new)}"
            )
            raise Failed(sentence, new, event, right, _is_fatal(new))
        else:
            self._compare(told, old, new)

    def _answered(self, release: Release, state: Any, kept: Kept) -> tuple[list[Any] | BaseException, int]:
        """What the code of `release` answers, or what it raises; and how long it took, in ns of processor time."""
        started = 0
        hard(self.watchdog.step_seconds)
        try:
            source = self.tryout.troupe.held(kept.source)
            event = revive(kept.event, source, release, self.tryout.troupe.convert)
            started = thread_time_ns()
            with self.watchdog.guarding():
                answer = release.step(state, event)
            spent = thread_time_ns() - started
            commands.check(answer, self.groups, self.copy.links, event)
        except BaseException as error:
            self.tryout.look_at_the_seal()
            return error, thread_time_ns() - started if started else 0
        if release is self.old:
            self.groups |= {item.group for item in answer if type(item) is Ring}
        return answer, spent

    def _compare(self, event: str, old: list[Any] | BaseException, new: list[Any] | BaseException) -> None:
        found = self._difference(old, new)
        if found is not None:
            self._differs(event, found, old, new)

    def _difference(
        self, old: list[Any] | BaseException, new: list[Any] | BaseException
    ) -> commands.Difference | None:
        if isinstance(old, BaseException) or isinstance(new, BaseException):
            if isinstance(old, BaseException) and isinstance(new, BaseException):
                return None
            blamed, error = ("no longer", old) if isinstance(old, BaseException) else ("now", new)
            assert isinstance(error, BaseException)
            return commands.Difference(0, "PeerError", f"{blamed} the peer's fault: {telling.text_of(error)}")
        try:
            return commands.difference(old, new, self._same_guest)
        except BaseException as error:  # of a guest that cannot be lowered or converted
            self.tryout.look_at_the_seal()
            raise _raised("comparison of two answers", error) from error

    def _same_guest(self, old: Any, new: Any) -> bool:
        if old is None or new is None:
            return old is new
        converted = self.tryout.troupe.convert(lower(old), self.old, self.new)
        return same(converted, lower(new))

    def _differs(
        self,
        event: str,
        found: commands.Difference,
        old: list[Any] | BaseException,
        new: list[Any] | BaseException,
    ) -> None:
        report = self.tryout.report
        report.different += 1
        self.row["differences"] += 1
        if not self.row["first_difference"]:
            self.row["first_difference"] = f"{event}: {found.sentence}"
        kinds = _differing(found, old, new)
        report.kinds |= kinds
        ends = _loss(old, new)
        report.ends += ends
        if len(report.differences) < MOST_DIFFERENCES:
            report.differences.append(
                {
                    "name": self.copy.name,
                    "event": event,
                    "sentence": found.sentence,
                    "kinds": sorted(kinds),
                    "ends": ends,
                }
            )

    def _take_failed(self, kept: Kept, place: int, count: int) -> None:
        """An event that the running code has crashed on: it did nothing then, and its state stays as it is here."""
        before = self.tryout.called("lowering the new state", lower, self._right)
        self.place.doing("new code")
        self.place.event(kept.event, place, count)
        new, _ = self._answered(self.new, self._right, kept)
        if _is_crash(new):
            # both fail, however the new code does it: nothing that the patch has brought about
            self._right = self.tryout.called("lifting the new state", lift, before, self.new.record)
            return
        self._cured()
        self._events.append(kept)

    def _left_failed(self, error: BaseException, kept: Kept, place: int, count: int) -> None:
        """The running code fails, at an event that has only just happened or that it once got over."""
        if kept.commands is not None:
            self.stopped = f"the running code did not do again what it had done at event {place}"
            return
        self._take_failed(kept, place, count)
        self.stopped = self.stopped or f"the running code fails at event {place}: {_said(error)}"

    def _cured(self) -> None:
        """The new code has an answer where the old one failed: good, and from here on there is nothing to compare."""
        self.row["cured"] += 1
        self.tryout.report.cured += 1
        self.comparing = False

    def _before(self) -> Any:
        """The new code's state before the event it failed at; that state itself may be half changed."""
        try:
            state = self._begun()
            for kept in self._events:
                self._answered(self.new, state, kept)
            return lower(state)
        except Exception:
            return None

    # ---- afterwards

    def finish(self) -> None:
        """What the events have made of it must be state that can be lowered, told, and taken back."""
        tryout, row, report = self.tryout, self.row, self.tryout.report
        if not row["events"]:
            return
        after = self._weighed()
        grown_old, grown_new = (now - before for now, before in zip(after, self._sizes, strict=True))
        row["growth_bytes"] = after[1] - after[0]
        report.growth += row["growth_bytes"]
        row["slower"] = ratio(self._new_ns, self._old_ns)
        report.old_ns += self._old_ns
        report.new_ns += self._new_ns
        tryout.called("describe", tryout._described, self._right)
        if tryout.back:
            try:
                tryout._returned(self._right, self.old)
            except Failed as failed:
                raise Failed(
                    f"after {row['events']} events on the new code: {failed}",
                    failed.cause,
                    state=self._lowered(),
                    fatal=failed.fatal,
                ) from failed
        if grown_new > LARGER_BYTES and grown_new > TIMES_LARGER * max(grown_old, 0):
            raise Failed(
                f"its state grew by {grown_new} bytes in {row['events']} events, and by {grown_old} on the running code"
            )
        mean = _ms(self._new_ns) / row["events"]
        if (
            row["events"] >= SLOW_EVENTS
            and mean > SLOW_MS
            and self._new_ns >= TIMES_SLOWER * max(self._old_ns, 1)
        ):
            raise Failed(
                f"an event takes the new code {mean:.1f} ms, {row['slower']:.0f} times as long as the running code"
            )

    def _lowered(self) -> Any:
        try:
            return lower(self._right)
        except Exception:
            return None

    def _weighed(self) -> tuple[int, int]:
        """Packed bytes of the state on the old code and on the new."""
        old = self.tryout.called("lowering the old state", lower, self._left)
        new = self.tryout.called("lowering the new state", lower, self._right)
        return len(marshal.dumps(old)), len(marshal.dumps(new))


def _is_crash(answer: list[Any] | BaseException) -> TypeGuard[BaseException]:
    return isinstance(answer, BaseException) and not isinstance(answer, PeerError)


def _is_fatal(error: BaseException) -> bool:
    """Whether the process is not fit for another session after it."""
    return not isinstance(error, Exception) or isinstance(error, MemoryError)


def _differing(
    found: commands.Difference, old: list[Any] | BaseException, new: list[Any] | BaseException
) -> set[str]:
    """The kinds of commands that two answers differ in, "PeerError" where only one blames the peer."""
    if isinstance(old, BaseException) or isinstance(new, BaseException):
        return {"PeerError"}
    return {*commands.differing(old, new)} or {found.kind}


def _loss(old: list[Any] | BaseException, new: list[Any] | BaseException) -> bool:
    """Whether somebody loses something by the new answer."""
    if isinstance(old, BaseException):
        return False  # more than the connection cannot be lost
    return isinstance(new, BaseException) or bool(commands.losses(old, new))


def fresh_row(copy: Copy) -> dict[str, Any]:
    return {
        "name": copy.name,
        "release": copy.release,
        "ok": True,
        "why": "",
        "up_ms": 0.0,
        "down_ms": 0.0,
        "lower_ms": 0.0,
        "events": 0,
        "tried": 0,
        "differences": 0,
        "first_difference": "",
        "growth_bytes": 0,
        "slower": 1.0,
        "cured": 0,
    }


def hard(seconds: float) -> None:
    """From here on the kernel ends the process after so much processor time (and the traceback says where it was)."""
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds * HARD_STEPS + HARD_SECONDS)


def now_ms() -> int:
    """The kernel's clock, which is the same in every process of the machine (net.now_ms)."""
    return monotonic_ns() // 1_000_000


def ratio(new: int, old: int) -> float:
    return round(new / old, 2) if old else 1.0


def unlike(before: Any, after: Any, path: str = "state") -> str:
    """The first place where two lowered states differ, as a sentence."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in [*before, *(item for item in after if item not in before)]:
            if name not in before or name not in after:
                return f"{path}.{name} {'appeared' if name in after else 'is missing'}"
            if not same(before[name], after[name]):
                return unlike(before[name], after[name], f"{path}.{name}")
    if isinstance(before, list | tuple) and isinstance(after, list | tuple) and len(before) == len(after):
        for index, (left, right) in enumerate(zip(before, after, strict=True)):
            if not same(left, right):
                return unlike(left, right, f"{path}[{index}]")
    return f"{path} was {_short(before)} and came back as {_short(after)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _ms(spent: int) -> float:
    return round(spent / 1e6, 3)


def _raised(what: str, error: BaseException) -> Failed:
    return Failed(f"{what}: {_said(error)}", error, fatal=_is_fatal(error))


def _said(error: BaseException) -> str:
    """An exception in words, and the place in live code that it came from."""
    said = telling.placed(error)
    if isinstance(error, MemoryError) and not telling.text_of(error):
        name = telling.kind_of(error)
        said = said.replace(name, f"{name}: there is no more ([rehearsal] memory)", 1)
    return said


def _shown(state: Any) -> Any:
    if state is None:
        return None
    try:
        size = len(marshal.dumps(state))
    except ValueError:
        size = MOST_STATE + 1
    return plain(state) if size <= MOST_STATE else f"{size} bytes of state"


def tidy(count: int) -> None:
    """The collector is off, as it is in a move: look at what the last sessions have left now and then."""
    if count % 100 == 0:
        gc.collect()
