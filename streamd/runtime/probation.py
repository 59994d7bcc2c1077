"""Probation: a new release is in use, and the one before it still answers for every event.

The rule this file keeps: what is seen here is only noted, at once and without a wait; taking everyone back is the
patch path's own business, as soon as the step that failed is over. From the first failure on nobody starts on the new
release any more.
"""

from __future__ import annotations

import asyncio
import logging
import marshal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from streamd.runtime import telling
from streamd.runtime.commands import Difference, differing, losses
from streamd.runtime.guard import Answer
from streamd.runtime.health import Rates
from streamd.runtime.link import now_ms
from streamd.runtime.release import Release
from streamd.runtime.seal import Seal
from streamd.runtime.session import DOOR, CannotDescribe, Session, Sessions
from streamd.runtime.state import lift, lower
from streamd.runtime.vocabulary import Event, PeerError

log = logging.getLogger("streamd")

LOOK_EVERY = 0.25  # s between two looks at error rates and at what nobody may change
# s between two rounds in which every session's state is taken home and weighed, at most; short probations have several
AUDIT_EVERY = 5.0
SLICE = 0.001  # s that a look or an audit may hold the loop
AUDITS = 5
AUDITED = 100  # sessions, about, in one of those rounds
GROWTH, MOST_GROWN = 4, 1 << 20  # a state may be so many times as large as the old code's, and so many bytes
STORM, MOST_STEPS = 10, 1000  # steps may be so many times as frequent as before, and so many a second
# A session with hardly any events is waited for at most this many times as long as the others.
PATIENCE = 2


FLOOD, MOST_MORE = (
    4,
    16,
)  # an answer may have so many times as many commands as the running code's, and so many more


@dataclass(frozen=True)
class Failure:
    """Why a probation failed: a sentence, the session in which, and the crash report if there is one."""

    name: str
    sentence: str
    report: Path | None


class Probation:
    """One release on probation; a `Watch` for the guards of its sessions."""

    def __init__(
        self,
        sessions: Sessions,
        old: Release,
        new: Release,
        allowed: frozenset[str],
        may_lose: bool,
        reversible: bool,
        seal: Seal,
        rise: float,
    ) -> None:
        self.sessions = sessions
        self.old = old
        self.new = new
        self.allowed = (
            allowed  # kinds of commands that may differ: the patch says why, or somebody has seen it
        )
        self.strict = not allowed
        self.may_lose = may_lose  # a rehearsal has shown that somebody loses something, and it was accepted
        self.reversible = reversible
        self.failure: Failure | None = None
        self.ended = asyncio.Event()  # by failure, or because somebody ended it
        self.differences = 0
        self.first_difference = ""
        self.cures = 0
        self.first_cure = ""
        self.since = monotonic()
        self.until = self.since
        self._seal = seal
        self._rise = rise
        self._before: dict[Session, tuple[Rates, int]] = {}
        self._moved: list[Session] = []
        self._had = False  # anybody who has moved
        self._often: dict[Session, float] = {}  # events a second before the move
        self._steps: dict[Session, tuple[int, float]] = {}  # at the last look, and when that was
        self._doors = sessions.door_health.before(now_ms()), now_ms()

    @property
    def lost(self) -> bool:
        return self.failure is not None

    # ---- what guards say (runtime.guard.Watch)

    def failed(self, session: Session, event: Event, sentence: str, report: Path | None) -> None:
        """The new code failed, the old code has handled the event; the session is on the old release."""
        self.fail(session.name, sentence, report)

    def objection(self, old: Answer, new: Answer, found: Difference) -> str:
        """What an explanation of differences does not cover: other kinds of commands than it names, a flood, and a loss
        that no rehearsal has shown."""
        if isinstance(new, PeerError):
            return (
                ""
                if self.may_lose
                else f"it blames the peer, which the running code does not: {telling.text_of(new)}"
            )
        if isinstance(old, BaseException) or isinstance(new, BaseException):
            return ""
        kinds = {*differing(old, new)} or {found.kind}
        if unexplained := sorted(kinds - self.allowed):
            return f"it answers otherwise, and nothing explains that of {', '.join(unexplained)}: {found.sentence}"
        if len(new) > MOST_MORE + FLOOD * len(old):
            return f"it answers {len(new)} commands, where the running code answers {len(old)}"
        return "" if self.may_lose else losses(old, new)

    def differed(self, session: Session, event: Event, difference: Difference) -> None:
        self.differences += 1
        if not self.first_difference:
            self.first_difference = f"{session.name}, {type(event).__name__}: {difference.sentence}"

    def cured(self, session: Session, event: Event, sentence: str) -> None:
        self.cures += 1
        if not self.first_cure:
            self.first_cure = f"{session.name}, {type(event).__name__}: {sentence}"

    # ---- its life

    def enrol(self, session: Session) -> None:
        """A session is about to move: remember how it fares."""
        if not session.name.startswith(DOOR):
            self._moved.append(session)
            self._had = True
        now, events = now_ms(), session.journal.events
        seconds = max(now - events[0].now, 1000) / 1000 if events else 1.0
        self._before[session] = session.health.before(now), now
        self._often[session] = len(events) / seconds

    def fail(self, name: str, sentence: str, report: Path | None = None) -> None:
        if self.failure is None:
            self.failure = Failure(name, sentence, report)
            log.error("release %d failed its probation in %s: %s", self.new.number, name, sentence)
        if self.sessions.current is self.new:
            self.sessions.current = self.old  # nobody else starts on it
        self.ended.set()

    def guarded(self) -> list[Session]:
        return [item for item in self.sessions.by_name.values() if item.guard is not None]

    def events(self) -> int:
        return sum(item.guard.events for item in self.guarded() if item.guard is not None)

    async def watch(self, seconds: float, events: int) -> Failure | None:
        """Look on for so long, and until every session that gets events at all has had so many; None if all is well."""
        self.since = monotonic()
        self.until = self.since + seconds
        every = min(AUDIT_EVERY, seconds / AUDITS)
        audit, turn = self.since + every, 0
        while not self.ended.is_set():
            await self.look()
            over = monotonic() >= self.until and (
                monotonic() >= self.since + PATIENCE * seconds or not any(self._waited_for(events))
            )
            over = over or self._deserted()
            if over or monotonic() >= audit:
                await self.audit(None if over else turn)
                audit, turn = monotonic() + every, turn + 1
            if over or self.ended.is_set():
                break
            left = self.until - monotonic()
            try:
                await asyncio.wait_for(
                    self.ended.wait(), min(LOOK_EVERY, max(left, 0.01)) if left > 0 else LOOK_EVERY
                )
            except TimeoutError:
                continue
        return self.failure

    def _waited_for(self, events: int) -> Iterator[Session]:
        """Sessions that have moved and have had some events, but not enough; who came later is not waited for."""
        for session in self._moved:
            if not session.ended and session.guard and 0 < session.guard.events < events:
                yield session

    def _deserted(self) -> bool:
        """All that have moved have ended, and nobody new is there: there is nothing to look at."""
        self._moved = [session for session in self._moved if not session.ended]
        return self._had and not self._moved and not self.guarded()

    async def look(self) -> None:
        """Compare error rates and the number of steps with those before, and namespaces with what they were."""
        started = monotonic()
        if broken := self._seal.broken():
            self._seal.mend()
            self.fail("the whole process", f"something changed what is not its own: {', '.join(broken[:5])}")
            return
        for session, (rates, since) in list(self._before.items()):
            if monotonic() - started > SLICE:
                await asyncio.sleep(0)
                started = monotonic()
                if self.ended.is_set():
                    return
            if session.ended or session.release is not self.new or session not in self._before:
                self._forget(session)
                continue
            at = monotonic()
            steps, looked = self._steps.get(session, (session.steps, at))
            self._steps[session] = session.steps, at
            sentence = session.health.worse(rates, since, now_ms(), self._rise)
            often = self._often[session]
            # events come in bursts: a short look says nothing of a rate
            rate = (session.steps - steps) / max(at - looked, LOOK_EVERY)
            if not sentence and rate > max(STORM * often, MOST_STEPS):
                sentence = f"{rate:.0f} events a second, where there were {often:.0f} before"
            if sentence:
                self.fail(session.name, sentence)
                return
        now = now_ms()
        if self.sessions.current is not self.new:  # newcomers begin on the old code yet
            self._doors = self.sessions.door_health.before(now), now
        elif sentence := self.sessions.door_health.worse(*self._doors, now, self._rise):
            self.fail("newcomers", sentence)

    async def audit(self, turn: int | None = None) -> None:
        """Take copies of states home: they must be plain, typed, convertible and of a size that makes sense. In one
        turn some of many sessions; without a turn all of them."""
        ways = self.sessions.convert
        started = monotonic()
        guarded = self.guarded()
        shares = 1 if turn is None else max(len(guarded) // AUDITED, 1)
        for session in guarded[(turn or 0) % shares :: shares]:
            guard = session.guard
            if self.ended.is_set() or guard is None or session.ended or session.name.startswith(DOOR):
                continue
            try:
                with self.sessions.watchdog.guarding():
                    lowered = lower(session.state)
                    copy = lift(lowered, self.new.record)
                    size = len(marshal.dumps(lowered))
                    if self.reversible:
                        lift(ways(lowered, self.new, self.old), self.old.record)
            except BaseException as error:  # SystemExit of live code as well
                said = telling.text_of(error) or telling.kind_of(error)
                self.fail(session.name, f"its state cannot be taken back: {said}")
                return
            if not self.describes(session, copy):
                return
            if guard.alive and size > MOST_GROWN:
                former = len(marshal.dumps(lower(guard.state)))
                if size > GROWTH * former + MOST_GROWN:
                    self.fail(
                        session.name,
                        f"its state has {size >> 10} kB, where the former release has {former >> 10} kB",
                    )
                    return
            if monotonic() - started > SLICE:
                await asyncio.sleep(0)
                started = monotonic()

    def describes(self, session: Session, state: Any) -> bool:
        """Whether the new code can tell what it is doing; if not, and the old code can, the probation has failed."""
        try:
            self.sessions.described(self.new, state)
        except CannotDescribe as error:
            self.undescribed(session, str(error))
            return self.failure is None
        return True

    def undescribed(self, session: Session, sentence: str) -> None:
        """The new code's describe() has failed on one of its sessions."""
        guard = session.guard
        if guard is not None and guard.alive:
            try:
                self.sessions.described(self.old, guard.state)
            except CannotDescribe:
                return  # nothing that the patch has brought about
        self.fail(session.name, sentence)

    def release_guards(self) -> None:
        for session in self.guarded():
            session.guard = None
        for session in list(self._before):
            self._forget(session)

    def _forget(self, session: Session) -> None:
        for known in (self._before, self._often, self._steps):
            known.pop(session, None)

    def untried(self, events: int) -> list[str]:
        """Sessions that have had fewer events than that: a passed probation says little of them."""
        return [
            item.name
            for item in self.guarded()
            if item.guard is not None and item.guard.events < events and not item.name.startswith(DOOR)
        ]

    def told(self) -> dict[str, Any]:
        """What `status` says of it."""
        return {
            "release": self.new.number,
            "old": self.old.number,
            "left_s": round(max(self.until - monotonic(), 0.0), 1),
            "seconds": round(self.until - self.since, 1),
            "events": self.events(),
            "sessions": len(self.guarded()),
            "differences": self.differences,
            "first_difference": self.first_difference,
            "cured": self.cures,
            "first_cure": self.first_cure,
            "strict": self.strict,
        }
