"""A session is links, plain state and a pinned release: one event, one step, then the step's commands.

The rule this file keeps: commands are carried out only after the step has returned and every one of them has
been checked, so a step that fails has done nothing; and no step starts inside another. What a command makes
happen elsewhere is queued and runs when this step's commands are done. Between two events no frame of live
code exists, which is the stable point that makes everything in `upgrade` possible.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections import deque
from collections.abc import Callable, Container, Iterator
from time import monotonic
from typing import Any, get_origin, get_type_hints

from streamd.runtime.net import Exchange, Group, Link, Net, now_ms
from streamd.runtime.release import Release
from streamd.runtime.state import StateError, lift, lower
from streamd.runtime.supervisor import CrashReports, Intensity
from streamd.runtime.trace import Counters, Trace
from streamd.runtime.vocabulary import (
    Close,
    Closed,
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

log = logging.getLogger("streamd")

DOOR = "door/"
CRASHES_BEFORE_RESTART = 3  # within the intensity's period; then the session goes back to its checkpoint
CHECKPOINT_SLICE = 0.001
# Generation: a collection up to it looks at what was made since the last one, and that is old from then on. It is
# asked for wherever old things are replaced by as many new ones: the collector itself counts what was made less what
# has gone, sleeps through all of that, and then looks at everything at once, for 100 ms at 5,000 sessions.
YOUNG = 1
LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def _shape(command: type) -> tuple[type, ...]:
    """What isinstance can tell of a command's fields."""
    return tuple(
        object if hint is Any else get_origin(hint) or hint for hint in get_type_hints(command).values()
    )


SHAPES = {
    kind: _shape(kind)
    for kind in (Send, Ring, SendAll, Join, Leave, Close, Respond, Move, Wake, Log, Count, End)
}

Convert = Callable[[Any, Release, Release], Any]  # a lowered value of one release -> the same for another


class BadCommand(Exception):
    """Live code answered with something that is not a command; a bug of that module."""


class Session:
    """See the module. Sessions are made by `Sessions.create` alone."""

    __slots__ = (
        "changed",
        "checkpoint",
        "crashes",
        "ended",
        "groups",
        "home",
        "links",
        "mailbox",
        "name",
        "release",
        "state",
        "suspended",
        "timers",
        "trace",
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
        self.trace = Trace()
        self.crashes: Intensity | None = None
        self.checkpoint: tuple[Release, Any] | None = None
        self.changed = False  # since the checkpoint
        self.suspended = False
        self.ended = False

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

    # ---- code change, in OTP's three words

    def suspend(self) -> None:
        """Take no event: from here to `resume` everything waits in the mailbox."""
        self.suspended = True

    def change_code(self, release: Release, state: Any, lowered: Any) -> None:
        """Point at another release with the state converted for it. Cannot fail."""
        self.release = release
        self.state = state
        self.checkpoint = (release, lowered)  # the one before would pin the release that is left
        self.changed = False

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
    ) -> None:
        self.loop = loop
        self.counters = counters
        self.reports = reports
        self.settings = settings
        self.convert = convert
        self.intensity = intensity
        self.net: Net | None = None
        self.current: Release | None = None
        self.by_name: dict[str, Session] = {}
        self.stopping = False
        self._queue: deque[tuple[Session, Event]] = deque()
        self._running = False
        self._doors = 0
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
        except Exception as error:
            self.reports.write(f"{DOOR}{self._doors}", error, {})
            link.close("the server failed to begin with this connection; see its log")
            return None
        door.links[link.number] = link
        link.owner = door
        return door

    def create(self, name: str) -> Session:
        """A new session, on the current release: nobody starts on old code and is forgotten."""
        assert self.current is not None
        state = self.current.begin(name, self.settings, now_ms())
        session = self.by_name[name] = Session(self, name, self.current, state)
        return session

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
                    self._step(session, event)
        finally:
            self._running = False

    def _step(self, session: Session, event: Event) -> None:
        try:
            commands = session.release.step(session.state, event)
            self.check(commands, session.groups)
        except PeerError as error:
            session.trace.note(event, 0)
            self._blame_peer(session, event, error)
        except Exception as error:
            session.trace.note(event, 0)
            self._crash(session, event, error)
        else:
            session.changed = True
            session.trace.note(event, len(commands))
            self.carry_out(session, event, commands)
        if not session.links and session.name.startswith(DOOR):
            self.end(session, "left")

    def check(self, commands: Any, groups: Container[str]) -> None:
        """Raise BadCommand unless every one of them can be carried out by a session that has these groups."""
        if type(commands) is not list:
            raise BadCommand(f"step returned {type(commands).__name__}, not a list of commands")
        for place, command in enumerate(commands):
            kind = type(command)
            if kind is SendAll or kind is Send:  # those of every frame
                if type(command.data) is not bytes:
                    raise BadCommand(f"{kind.__name__} carries {type(command.data).__name__}, not bytes")
            elif kind not in SHAPES:
                raise BadCommand(f"step returned {kind.__name__}, which is not a command")
            else:
                for name, value, shape in zip(command._fields, command, SHAPES[kind], strict=True):
                    if not isinstance(value, shape):
                        raise BadCommand(f"{kind.__name__}.{name} is {type(value).__name__}")
            if kind is Log and command.level not in LEVELS:
                raise BadCommand(f"Log.level is {command.level!r}")
            if (kind is SendAll or kind is Join) and command.group not in groups:
                if not any(type(item) is Ring and item.group == command.group for item in commands[:place]):
                    raise BadCommand(f"{kind.__name__} to group {command.group!r}, which has no Ring")

    def carry_out(self, session: Session, event: Event, commands: list[Any]) -> None:
        for command in commands:
            if session.ended:
                return
            try:
                self._carry[type(command)](session, command)
            except Exception as error:
                self._crash(session, event, BadCommand(f"{type(command).__name__}: {error!r}"))
                return

    def _blame_peer(self, session: Session, event: Event, error: PeerError) -> None:
        link = session.links.get(getattr(event, "link", 0))
        if link is None:
            self.counters.count(session.name, f"{type(event).__name__} from nobody: {error}")
            return
        log.info("%s: %s closed: %s", session.name, link.peer, error)
        self.counters.totals["peer errors"] += 1
        link.close(str(error))

    def _crash(self, session: Session, event: Event, error: Exception) -> None:
        """Live code failed: report, close the connection whose event it was, and restart or end if it repeats."""
        try:
            state = lower(session.state)
        except StateError as failure:
            state = f"not plain: {failure}"
        facts = {
            "release": session.release.number,
            "event": event,
            "state": state,
            "last_events": session.trace.told(),
        }
        self.reports.write(session.name, error, facts)
        link = session.links.get(getattr(event, "link", 0))
        if link is not None:
            link.close("the server failed to handle this connection; see its log")
        if session.crashes is None:
            session.crashes = Intensity(*self.intensity)
        if session.crashes.exceeded():
            self.end(session, f"crashed more than {self.intensity[0]} times in {self.intensity[1]:g} s")
        elif session.crashes.recent >= CRASHES_BEFORE_RESTART:
            self._restart(session)

    def _restart(self, session: Session) -> None:
        """Go back to the last checkpoint, or begin anew without one, and tell the state which links are open."""
        try:
            if session.checkpoint is not None:
                release, snapshot = session.checkpoint
                session.state = lift(self.convert(snapshot, release, session.release), session.release.record)
            else:
                session.state = session.release.begin(session.name, self.settings, now_ms())
        except Exception as error:
            self.end(session, f"could not be restarted: {error}")
            return
        log.warning(
            "%s restarted %s", session.name, "from its last checkpoint" if session.checkpoint else "anew"
        )
        session.deliver(Restarted(now_ms(), sorted(session.links)))

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
        if target is None:
            target = self.create(command.to)
            if not target.name.startswith(DOOR):
                log.info("%s begins for %s on release %d", target.name, link.peer, target.release.number)
        guest = command.guest
        if target.release is not session.release:
            lowered = self.convert(lower(guest), session.release, target.release)
            guest = lift(lowered, target.release.record)
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
        log.log(LEVELS[command.level], "%s: %s", session.name, command.text)

    def _count(self, session: Session, command: Count) -> None:
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
            if session.changed and not session.ended:
                try:
                    session.checkpoint = (session.release, lower(session.state))
                    session.changed = False
                except StateError as error:
                    self.counters.count(session.name, f"no checkpoint: {error}")
            if monotonic() - started > CHECKPOINT_SLICE:
                gc.collect(YOUNG)
                yield
                started = monotonic()
