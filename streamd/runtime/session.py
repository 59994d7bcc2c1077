"""A session is links, plain state and a pinned release: one event, one step, then the step's commands.

The rule this file keeps: commands are carried out only after the step has returned and every one of them has
been checked, so a step that fails has done nothing; and no step starts inside another. What a command makes
happen elsewhere is queued and runs when this step's commands are done. Between two events no frame of live
code exists, which is the stable point that makes everything in `upgrade` possible.

A step that fails has left its traces in the state, though. So the journal brings back the state from before the event,
whatever live code raises, SystemExit included, and the session goes on from there; and while a release is on
probation, `guard` has the old code handle that very event.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

from streamd.runtime import guard as guards
from streamd.runtime import telling
from streamd.runtime.commands import LEVELS, BadCommand, check
from streamd.runtime.group import Group
from streamd.runtime.guard import Guard, Watch
from streamd.runtime.health import CONGESTION, PEER_ERRORS, WARNINGS, Health
from streamd.runtime.journal import (
    BLAMED,
    FAILED,
    SHARED,
    SPELL,
    Checkpoint,
    Convert,
    Journal,
    handed,
    keep,
    replay,
    revive,
)
from streamd.runtime.link import Exchange, Link, now_ms
from streamd.runtime.net import Net
from streamd.runtime.preview import plain
from streamd.runtime.release import Release
from streamd.runtime.state import StateError, lift, lower, weight
from streamd.runtime.supervisor import CrashReports, Intensity
from streamd.runtime.trace import Counters
from streamd.runtime.vocabulary import (
    Close,
    Closed,
    Congested,
    Count,
    End,
    Event,
    Join,
    Joined,
    Leave,
    Log,
    Move,
    Opened,
    PeerError,
    Refused,
    Request,
    Respond,
    Restarted,
    Ring,
    Send,
    SendAll,
    Stopping,
    Tick,
    Wake,
)
from streamd.runtime.watchdog import StepBounds, StepOverrun, Watchdog

log = logging.getLogger("streamd")

DOOR = "door/"
CRASHES_BEFORE_RESTART = 3  # within the intensity's period; then the session goes back to its checkpoint
CHECKPOINT_SLICE = 0.001
# Generation: a collection up to it looks at what was made since the last one, and that is old from then on. It is
# asked for wherever old things are replaced by as many new ones: the collector itself counts what was made less what
# has gone, sleeps through all of that, and then looks at everything at once, for 100 ms at 5,000 sessions.
YOUNG = 1
SPECIAL = SHARED | {Congested}  # events that something has to be done about before the step
SEE_LOG = "the server failed to handle this connection; see its log"

Tap = Callable[["Session", Event, int], None]


class CannotBegin(Exception):
    """Live code failed to begin a session."""


class CannotDescribe(Exception):
    """Live code failed to tell what a session is doing."""


class Session:
    """See the module. Sessions are made by `Sessions.create` alone."""

    __slots__ = (
        "at_key",
        "crashes",
        "ended",
        "groups",
        "guard",
        "health",
        "home",
        "journal",
        "links",
        "mailbox",
        "name",
        "paused",
        "release",
        "state",
        "steps",
        "suspended",
        "timers",
    )

    def __init__(self, home: Sessions, name: str, release: Release, state: Any) -> None:
        self.home = home
        self.name = name
        self.release = release
        self.state = state
        self.links: dict[int, Link] = {}
        self.groups: dict[str, Group] = {}
        self.timers: dict[str, asyncio.TimerHandle] = {}
        self.mailbox: deque[Event] = deque()
        self.crashes: Intensity | None = None
        self.guard: Guard | None = None
        self.at_key: Callable[[], None] | None = None  # to be called before the step that makes a key unit
        self.steps = 0
        self.paused: float | None = None  # ms that its last change of code took
        self.suspended = False
        self.ended = False
        if name.startswith(DOOR):
            # it lives for some events, and ends with its link: there is nothing to go back for
            self.journal = Journal(None)
            self.health = home.door_health
        else:
            self.journal = Journal(home.snapshot(release, state))
            self.health = Health(self.journal, now_ms())

    def deliver(self, event: Event) -> None:
        """Take an event: at once, or when whatever runs now is done."""
        self.home.post(self, event)

    def lost(self, link: Link, reason: str) -> None:
        """A link of this session is gone."""
        if self.links.pop(link.number, None) is not None:
            self.home.post(self, Closed(now_ms(), link.number, reason))

    def rest(self) -> float:
        """Seconds until its groups send again, and so long its publisher's bytes may wait; 0 with few viewers."""
        return min((group.interval() for group in self.groups.values() if group.members), default=0.0)

    def count_error(self, kind: str) -> None:
        """For its health: unless a guard has seen that the old code says the same, so that it is nobody's doing."""
        if self.guard is None or self.guard.differs:
            self.health.note(kind, now_ms())

    # ---- code change, in OTP's three words

    def suspend(self) -> None:
        """Take no event: from here to `resume` everything waits in the mailbox."""
        self.suspended = True

    def change_code(self, release: Release, state: Any, lowered: Any, guard: Guard | None = None) -> None:
        """Point at another release with the state converted for it, and that state lowered (None where it is not
        plain). Cannot fail.

        With `guard` the code that is left goes on answering, as long as the guard's `watch` wants it to.
        """
        source, self.release = self.release, release
        left, self.guard = self.guard, guard
        self.state = state
        plain = lowered is not None and not self.name.startswith(DOOR)
        # the checkpoint before would pin the release that is left
        self.journal.reset(Checkpoint(release, lowered) if plain else None)
        self.home.convert_waiting(self, source, left)

    def resume(self) -> None:
        self.suspended = False
        while self.mailbox:
            self.home.post(self, self.mailbox.popleft())


class Sessions:
    """All sessions of the process, and the one queue through which their events go."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        counters: Counters,
        reports: CrashReports,
        settings: dict[str, Any],
        convert: Convert,
        intensity: tuple[int, float] = (5, 10.0),
        bounds: StepBounds | None = None,
    ) -> None:
        self.loop = loop
        self.counters = counters
        self.reports = reports
        self.settings = settings
        self.convert = convert
        self.intensity = intensity
        self.bounds = bounds or StepBounds()
        self.watchdog = Watchdog(self.bounds.step_seconds, self.bounds.step_memory)
        self.door_health = Health(None, now_ms())
        self.probation: Watch | None = None  # whoever begins on its new release is guarded
        self._reported: weakref.ref[Watch] | None = None  # the last one whose failure has a crash report
        self.taps: list[Tap] = []  # called after each step with the event in kept form
        self.net: Net | None = None
        self.current: Release | None = None
        self.by_name: dict[str, Session] = {}
        self.stopping = False
        self._queue: deque[tuple[Session, Event]] = deque()
        self._running = False
        self._doors = 0
        self._journalled = (0.0, 0)  # when the bytes of all journals were last added up, and their sum
        self._carry: dict[type, Callable[[Session, Any], None]] = {
            Send: self._send,
            SendAll: self._send_all,
            Ring: self._ring,
            Join: self._join,
            Leave: self._leave,
            Close: self._close,
            Respond: self._respond,
            Move: self._move,
            Wake: self._wake,
            Log: self._log,
            Count: self._count,
            End: lambda session, command: self.end(session, command.reason),
        }

    # ---- arrivals

    def arrive(self, link: Link, listener: str, seed: bytes) -> None:
        """A connection has come: it gets a door of its own."""
        if door := self._door(link):
            door.deliver(Opened(now_ms(), link.number, listener, link.peer, seed))

    def request(
        self,
        exchange: Exchange,
        method: str,
        path: str,
        query: str,
        headers: dict[str, str],
        peer: str,
        version: str,
    ) -> Link:
        """A driver has read an HTTP request."""
        assert self.net is not None
        link = self.net.new_link(peer)
        link.exchange = exchange
        if door := self._door(link):
            door.deliver(Request(now_ms(), link.number, method, path, query, headers, peer, version))
        return link

    def _door(self, link: Link) -> Session | None:
        """A door with this link in it; None, and the link closed, where live code fails to begin one."""
        self._doors += 1
        try:
            door = self.create(f"{DOOR}{self._doors}")
        except CannotBegin as error:
            self.reports.write(f"{DOOR}{self._doors}", error, {})
            link.close("the server failed to begin with this connection; see its log")
            return None
        door.links[link.number] = link
        link.owner = door
        return door

    def create(self, name: str) -> Session:
        """A new session, on the current release: nobody starts on old code and is forgotten. Raises CannotBegin.

        On a release that is on probation it is guarded from its first event on; and should the new code fail to begin
        it, the old code does.
        """
        assert self.current is not None
        now, watch = now_ms(), self.probation
        if watch is None or self.current is not watch.new:
            state = self.begin(self.current, name, now)
            session = self.by_name[name] = Session(self, name, self.current, state)
            return session
        answers: list[Any] = []
        for release in (watch.old, watch.new):
            try:
                answers.append(self.begin(release, name, now))
            except CannotBegin as error:
                answers.append(error)
        old, new = answers
        if isinstance(new, CannotBegin):
            if isinstance(old, CannotBegin):
                raise new
            session = self.by_name[name] = Session(self, name, watch.old, old)
            report = self.reports.write(name, new, {"release": watch.new.number})
            watch.failed(session, Tick(now, "begin"), str(new), report)
            return session
        session = self.by_name[name] = Session(self, name, watch.new, new)
        guard = session.guard = Guard(watch, old)
        if isinstance(old, CannotBegin):
            guard.die()
            watch.cured(session, Tick(now, "begin"), str(old))
        return session

    def begin(self, release: Release, name: str, now: int) -> Any:
        """The state of a new session. Raises CannotBegin, whatever live code raises."""
        try:
            with self.watchdog.guarding():
                return release.begin(name, self.settings, now)
        except BaseException as error:
            raise CannotBegin(f"{name} cannot begin: {guards.said(error)}") from error

    def end(self, session: Session, reason: str) -> None:
        if session.ended:
            return
        session.ended = True
        del self.by_name[session.name]
        for timer in session.timers.values():
            timer.cancel()
        for link in list(session.links.values()):
            link.close(reason)
        session.groups.clear()
        if not session.name.startswith(DOOR):
            log.info("%s ended: %s", session.name, reason)

    # ---- copies of state, and what there is to say of it

    def described(self, release: Release, state: Any) -> dict[str, Any]:
        """What live code tells of a session, for an answer. Raises CannotDescribe, whatever it raises."""
        try:
            with self.watchdog.guarding(self.bounds.guarded_ms / 1000):
                told = plain(release.describe(state))
        except BaseException as error:
            raise CannotDescribe(f"describe() failed: {guards.said(error)}") from error
        if type(told) is not dict:
            raise CannotDescribe(f"describe() returned {telling.kind_of(told)}, not a dict")
        return told

    def lower(self, state: Any) -> Any:
        """`state.lower` within bounds of time and memory: a small list can contain itself a million times over. Raises
        StateError."""
        try:
            with self.watchdog.guarding():
                return lower(state)
        except (StepOverrun, MemoryError) as error:
            raise StateError(f"state: it cannot be copied: {telling.told(error)}") from error

    def lowered(self, state: Any) -> Any:
        """The state lowered; None where it is not plain."""
        try:
            return self.lower(state)
        except StateError:
            return None

    def snapshot(self, release: Release, state: Any) -> Checkpoint | None:
        """A checkpoint of the state; None where it is not plain."""
        lowered = self.lowered(state)
        return Checkpoint(release, lowered) if lowered is not None else None

    # ---- one event, one step

    def post(self, session: Session, event: Event) -> None:
        self._queue.append((session, event))
        if not self._running:
            self._drain()

    def _drain(self) -> None:
        self._running = True
        try:
            while self._queue:
                session, event = self._queue.popleft()
                if session.ended:
                    continue
                if session.suspended:
                    session.mailbox.append(event)
                else:
                    self.handle(session, event)
        finally:
            self._running = False

    def handle(self, session: Session, event: Event) -> None:
        """One event, one step, and its commands. Of a session that is not in the middle of another."""
        if session.guard is not None:
            guards.step(self, session, event)
        else:
            kept = event if type(event) not in SPECIAL else self.kept(session, event)
            watchdog = self.watchdog
            try:
                watchdog.token = event
                commands = session.release.step(session.state, event)
                watchdog.token = None
                check(commands, session.groups, len(session.links), event)
            except PeerError as error:
                watchdog.token = None
                self.note(session, kept, BLAMED)
                self.blame(session, kept, error)
            except BaseException as error:  # SystemExit of live code is a bug like any other
                watchdog.token = None
                self.crash(session, kept, error)
            else:
                if session.at_key is not None and _has_key(commands):
                    self._change_at_key(session, kept, commands)
                else:
                    self.done(session, kept, commands)
        if not session.links and session.name.startswith(DOOR):
            self.end(session, "left")
        # not before the commands are carried out: it may take the session back to another release
        journal = session.journal
        if journal.fresh > journal.bound and not session.ended:
            self._look_at_journal(session)

    def kept(self, session: Session, event: Event) -> Event:
        """The event in the form that a journal keeps, made before its step can change what is in it."""
        if type(event) is Congested:
            # as long as both codes have answered alike, no patch has made its viewers late
            if session.guard is None or not session.guard.exact:
                session.health.note(CONGESTION, event.now)
            return event
        try:
            return keep(event)
        except StateError as error:
            self.counters.count(session.name, f"no replay: {telling.text_of(error)}")
            session.journal.lose()
            return event

    def done(self, session: Session, kept: Event, commands: list[Any]) -> None:
        """A step has answered: take note of it, then carry out what it said."""
        self.note(session, kept, len(commands))
        if commands:
            self.carry_out(session, kept, commands)

    def note(self, session: Session, kept: Event, answer: int) -> None:
        """A step is over; `answer` is a number of commands, or BLAMED."""
        session.steps += 1
        session.journal.note(kept, answer)
        for tap in self.taps:
            tap(session, kept, answer)

    def carry_out(self, session: Session, event: Event, commands: list[Any]) -> None:
        """One after the other. One that fails is left out: the step was whole, and what else it said holds."""
        for command in commands:
            if session.ended:
                return
            try:
                self._carry[type(command)](session, command)
            except BaseException as error:  # of live code: a Move converts and may begin a session
                failure = BadCommand(f"{type(command).__name__}: {telling.told(error)}")
                failure.__cause__ = error
                self._report(session, event, failure, session.state)
                self._penalize(session, event)

    def blame(self, session: Session, kept: Event, error: PeerError) -> None:
        """A peer's fault costs its own connection."""
        link = session.links.get(getattr(kept, "link", 0))
        if link is None:
            self.counters.count(session.name, f"{type(kept).__name__} from nobody: {telling.text_of(error)}")
            return
        said = telling.text_of(error)
        log.info("%s: %s closed: %s", session.name, link.peer, said)
        self.counters.totals["peer errors"] += 1
        session.count_error(PEER_ERRORS)
        link.close(said)

    # ---- crashes

    def crash(self, session: Session, kept: Event, error: BaseException) -> None:
        """Live code failed: go back to the state before the event, report, close the connection whose event it was,
        and restart or end if it repeats."""
        session.steps += 1
        before = self.state_before(session)
        if before is not None:
            session.state = before
        session.journal.note(kept, FAILED)
        if type(kept) is Tick and kept.tag not in session.timers:
            # it would have set itself again: so it rings later than the crashes that count together
            self._wake(session, Wake(int(self.intensity[1] * 1000), kept.tag))
        self._report(session, kept, error, session.state)
        self._penalize(session, kept, lost=before is None and session.journal.latest is not None)

    def state_before(self, session: Session) -> Any:
        """The state that the events so far have made, made once more; None where that is not to be had."""
        known = session.journal.since()
        if known is None:
            return None
        checkpoint, entries = known
        try:
            with self.watchdog.guarding():
                return replay(checkpoint.release, checkpoint.lowered, entries, self.convert)
        except BaseException as error:
            log.warning("%s: its state cannot be replayed: %s", session.name, telling.told(error))
            return None

    def _report(self, session: Session, event: Event, error: BaseException, state: Any) -> None:
        facts = {
            "release": session.release.number,
            "event": event,
            "state": self.told_state(state),
            "last_events": session.journal.told(),
        }
        self.reports.write(session.name, error, facts)

    def first_report(self, watch: Watch) -> bool:
        """True once for each probation: a thousand sessions may fail in it, and all for the same reason."""
        if self._reported is not None and self._reported() is watch:
            return False
        self._reported = weakref.ref(watch)
        return True

    def told_state(self, state: Any) -> Any:
        """A state for a crash report."""
        try:
            return self.lower(state)
        except StateError as error:
            return f"not plain: {telling.text_of(error)}"

    def _penalize(self, session: Session, event: Event, lost: bool = False) -> None:
        """Close the connection whose event it was. Too many crashes in a period end the session; several restart it,
        or one with which its state is lost."""
        link = session.links.get(getattr(event, "link", 0))
        if link is not None:
            link.close(SEE_LOG)
        if session.crashes is None:
            session.crashes = Intensity(*self.intensity)
        if session.crashes.exceeded():
            self.end(session, f"crashed more than {self.intensity[0]} times in {self.intensity[1]:g} s")
        elif lost or session.crashes.recent >= CRASHES_BEFORE_RESTART:
            self._restart(session)

    def _restart(self, session: Session) -> None:
        """Go back to the last checkpoint, or begin anew without one, and tell the state which links are open."""
        checkpoint = session.journal.latest
        try:
            if checkpoint is not None:
                with self.watchdog.guarding():
                    session.state = lift(checkpoint.lowered, session.release.record)
            else:
                session.state = self.begin(session.release, session.name, now_ms())
        except BaseException as error:
            self.end(session, f"could not be restarted: {telling.told(error)}")
            return
        if not session.name.startswith(DOOR):
            session.journal.reset(checkpoint or self.snapshot(session.release, session.state))
        guards.follow(self, session)
        log.warning("%s restarted %s", session.name, "from its last checkpoint" if checkpoint else "anew")
        session.deliver(Restarted(now_ms(), sorted(session.links)))

    # ---- changes of code that wait, and events that wait for a change of code

    def _change_at_key(self, session: Session, kept: Event, commands: list[Any]) -> None:
        """Undo a step that has made a key unit, have the code changed, and let what is there now handle the event."""
        change, session.at_key = session.at_key, None
        assert change is not None
        source, before = session.release, self.state_before(session)
        if before is None:
            self.done(session, kept, commands)
            change()
            return
        session.state = before
        change()
        if session.ended:  # by what the new code had to say to it
            return
        try:
            with self.watchdog.guarding():
                event = revive(kept, source, session.release, self.convert)
        except BaseException as error:
            self.crash(session, kept, error)
            return
        self.handle(session, event)

    def convert_waiting(self, session: Session, source: Release, guard: Guard | None) -> None:
        """Guests that wait to be taken in become records of the session's release; its former guard may have them
        already. One that cannot is let go."""
        if source is session.release:
            return
        mail = (self._converted(session, source, guard, event) for event in session.mailbox)
        session.mailbox = deque(event for event in mail if event is not None)
        if any(owner is session and type(event) is Joined for owner, event in self._queue):
            pairs = (
                (owner, self._converted(session, source, guard, event) if owner is session else event)
                for owner, event in self._queue
            )
            self._queue = deque((owner, event) for owner, event in pairs if event is not None)

    def _converted(
        self, session: Session, source: Release, guard: Guard | None, event: Event
    ) -> Event | None:
        if type(event) is not Joined:
            return event
        try:
            lowered = self.lower(event.guest)
            if guard is not None and guard.watch.old is session.release and event.link in guard.guests:
                source, lowered = session.release, guard.guests[event.link]
            if session.guard is not None and session.guard.watch.old is source:
                session.guard.guests[event.link] = lowered
            with self.watchdog.guarding():
                guest = handed(lowered, source, session.release, self.convert)
            return event._replace(guest=guest)
        except BaseException as error:
            self.reports.write(session.name, error, {"release": session.release.number, "event": event})
            self.turn_away(session, event.link)
            return None

    def turn_away(self, session: Session, number: int) -> None:
        """Close a link that its session's state has never heard of."""
        if link := session.links.pop(number, None):
            link.owner = None
            link.close(SEE_LOG)

    # ---- commands

    def _send(self, session: Session, command: Send) -> None:
        if link := session.links.get(command.link):
            link.send(command.data)

    def _send_all(self, session: Session, command: SendAll) -> None:
        session.groups[command.group].append(command.data, command.key)

    def _ring(self, session: Session, command: Ring) -> None:
        assert self.net is not None
        group = session.groups.get(command.group)
        if group is None:
            session.groups[command.group] = Group(
                self.net, session, command.group, command.max_bytes, command.max_lag, command.max_slow
            )
        else:
            group.shape(command.max_bytes, command.max_lag, command.max_slow)

    def _join(self, session: Session, command: Join) -> None:
        if link := session.links.get(command.link):
            session.groups[command.group].join(link, command.head, command.start)

    def _leave(self, session: Session, command: Leave) -> None:
        link, group = session.links.get(command.link), session.groups.get(command.group)
        if link is not None and group is not None and link.group is group:
            group.leave(link)

    def _close(self, session: Session, command: Close) -> None:
        if link := session.links.get(command.link):
            link.close(command.reason)

    def _respond(self, session: Session, command: Respond) -> None:
        link = session.links.get(command.link)
        if link is None or link.exchange is None:
            return
        exchange = link.exchange
        if command.stream:
            try:
                sock, head = exchange.take(command.status, command.headers)
            except OSError as error:  # the client has gone, or there are no descriptors left
                self.counters.count(session.name, f"a viewer was not let in: {error.strerror or error}")
                link.exchange = None
                exchange.drop()
                link.fail(str(error))
                return
            link.exchange = None
            link.adopt(sock)
            link.send(head)
        else:
            exchange.answer(command.status, command.headers, command.body)
            link.exchange = None
            link.close("answered")

    def _move(self, session: Session, command: Move) -> None:
        link = session.links.get(command.link)
        if link is None:
            return
        target = self.by_name.get(command.to)
        if target is None and not (command.create and not self.stopping):
            reason = "stopping" if self.stopping else "no such session"
            session.deliver(Refused(now_ms(), link.number, command.to, reason))
            return
        lowered = self.lower(command.guest)  # always: two sessions must not share a record
        created = target is None
        if target is None:
            target = self.create(command.to)
        try:
            with self.watchdog.guarding():
                guest = handed(lowered, session.release, target.release, self.convert)
        except BaseException:
            if created:
                self.end(target, "nobody could be let in")
            raise
        if (
            target.guard is not None
        ):  # whose old code wants the guest that the old code would have handed over
            if session.release is target.guard.watch.old:
                target.guard.guests[link.number] = lowered
            elif session.guard is not None and link.number in session.guard.guests:
                target.guard.guests[link.number] = session.guard.guests[link.number]
        if created and not target.name.startswith(DOOR):
            log.info("%s begins for %s on release %d", target.name, link.peer, target.release.number)
        if link.group is not None:
            link.group.leave(link)  # it belongs to the session that is left
        del session.links[link.number]
        target.links[link.number] = link
        link.owner = target
        target.deliver(Joined(now_ms(), link.number, guest, link.peer))

    def _wake(self, session: Session, command: Wake) -> None:
        timer = session.timers.pop(command.tag, None)
        if timer is not None:
            timer.cancel()
        if command.after >= 0:
            tag = command.tag

            def ring() -> None:
                session.timers.pop(tag, None)
                session.deliver(Tick(now_ms(), tag))

            session.timers[tag] = self.loop.call_later(command.after / 1000, ring)

    def _log(self, session: Session, command: Log) -> None:
        level = LEVELS[command.level]
        if level >= logging.WARNING:
            session.count_error(WARNINGS)
        log.log(level, "%s: %s", session.name, command.text)

    def _count(self, session: Session, command: Count) -> None:
        session.count_error(command.what)
        self.counters.count(session.name, command.what)

    # ---- all of them

    def listed(self, doors: bool = True) -> list[Session]:
        return [item for item in self.by_name.values() if doors or not item.name.startswith(DOOR)]

    def pinned(self, release: Release) -> list[Session]:
        return [item for item in self.by_name.values() if item.release is release]

    def tell_stopping(self, deadline: int) -> None:
        self.stopping = True
        for session in self.listed():
            session.deliver(Stopping(now_ms(), deadline))

    async def keep_checkpoints(self, every: float) -> None:
        """Lower the state of each session that has changed, every so many seconds, in slices."""
        while True:
            await asyncio.sleep(every)
            for _ in self._checkpoints():
                await asyncio.sleep(0)

    def _checkpoints(self) -> Iterator[None]:
        started = monotonic()
        for session in self.listed(doors=False):
            if session.journal.changed and not session.ended:
                self._checkpoint(session)
            if monotonic() - started > CHECKPOINT_SLICE:
                gc.collect(YOUNG)
                yield
                started = monotonic()

    def _checkpoint(self, session: Session) -> bool:
        """Lower the state as it is now. False where it is not plain: the former checkpoint stays."""
        try:
            lowered = self.lower(session.state)
        except StateError as error:
            self.counters.count(session.name, f"no checkpoint: {telling.text_of(error)}")
            return guards.not_plain(self, session, error)
        checkpoint = Checkpoint(session.release, lowered)
        if (
            weight(lowered) > self.bounds.journal_bytes
        ):  # a half-read message of many megabytes is not kept twice
            session.journal.reset(checkpoint)
        else:
            session.journal.roll(checkpoint)
        return True

    def _look_at_journal(self, session: Session) -> None:
        """So many bytes are kept since the last checkpoint that it may be time for another."""
        journal, bounds = session.journal, self.bounds
        half = bounds.journal_bytes // 2  # the other half is of the time before that checkpoint
        if journal.fresh < half and self._all_journals() <= bounds.journal_total:
            journal.bound = min(half, journal.fresh + SPELL)
        elif not self._checkpoint(session):
            session.journal.lose()

    def _all_journals(self) -> int:
        """Bytes in all journals, as they were within the last second."""
        now = monotonic()
        if now - self._journalled[0] > 1.0:
            self._journalled = now, sum(item.journal.size for item in self.by_name.values())
        return self._journalled[1]


def _has_key(commands: list[Any]) -> bool:
    return any(type(command) is SendAll and command.key for command in commands)
