"""Links and groups: sockets on one side, events and commands on the other.

The rule this file keeps: a payload exists once, in the ring of its group, and a viewer is a cursor into it.
There is no task, queue or transport per viewer. One pump visits the members of a group that has something new
and writes from each cursor straight to the non-blocking socket; EAGAIN means the next visit. Pumps run in
slices of about a millisecond with the loop turning in between, so no session waits for another's audience.

A member that stays behind for longer than the ring allows skips to the latest key unit; one that the ring has
lapped waits for the next. Only whole units are skipped: a half-sent unit's rest is kept with the link and goes
out first, then bytes sent to that link alone, then the ring. That is why a release can change at any moment
without a viewer noticing: nothing here belongs to a release.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any, Protocol

from streamd.runtime.trace import Counters
from streamd.runtime.vocabulary import Congested, Data, Drained, Event

log = logging.getLogger("streamd")

READ_SIZE = 65_536
FIRST_READ = 8_192
LEAST_READ = 1_024
LONG_STEP, SHORT_STEP = (
    0.004,
    0.001,
)  # s: after the one a link is read in smaller pieces, after the other in larger
REST_BYTES = 32_768  # of a publisher that may wait unread: half of what a sender's first window allows
READS_PER_LOOK = 4
ACCEPTS_PER_WAKE = 64  # a storm of newcomers must not starve those already here
# units joined for one send: more than a capped send buffer takes at once is copied for nothing
BLOB_SIZE = 262_144
VISITS = 16  # between two looks at the clock
# of a ring: four minutes; each costs some 100 bytes beside its own, which tiny ones would use
MAX_UNITS = 32_768
RING_SLACK = 256  # units evicted together, so that trimming the list's front costs nothing per unit


@dataclass(frozen=True)
class Limits:
    """Bounds of the network side; bytes, seconds and milliseconds as the names say."""

    max_connections: int = 10_000
    send_buffer: int = 262_144
    max_pending: int = 8_388_608
    linger_seconds: float = 5.0
    backlog: int = 1024
    flush_few_ms: float = 0.0
    flush_many_ms: float = 100.0
    slice_ms: float = 1.0


class Exchange(Protocol):
    """A request that a driver has read and that waits for its answer."""

    def answer(self, status: int, headers: dict[str, str], body: bytes) -> None: ...

    def take(self, status: int, headers: dict[str, str]) -> tuple[socket.socket, bytes]:
        """Give up the connection: its non-blocking socket, and the response head to send first."""

    def drop(self) -> None: ...


class Owner(Protocol):
    """Whoever gets a link's events: a session."""

    @property
    def name(self) -> str: ...

    def deliver(self, event: Event) -> None: ...

    def lost(self, link: Link, reason: str) -> None: ...

    def rest(self) -> float:
        """Seconds that bytes from its links may wait to be read."""


def now_ms() -> int:
    return int(monotonic() * 1000)


class Link:
    """One connection: its socket, what is still to be sent to it, and its place in a group's ring.

    `cursor` is the number of the next unit, or -1 while waiting for a key unit numbered `not_before` or later.
    """

    __slots__ = (
        "behind",
        "caught_up",
        "cursor",
        "doomed",
        "exchange",
        "group",
        "net",
        "not_before",
        "number",
        "out",
        "owner",
        "peer",
        "pending",
        "read_size",
        "received",
        "sent",
        "sock",
        "writing",
    )

    def __init__(self, net: Net, number: int, peer: str, owner: Owner | None) -> None:
        self.net = net
        self.number = number
        self.peer = peer
        self.owner = owner
        self.sock: socket.socket | None = None
        self.exchange: Exchange | None = None
        self.out: deque[bytes] = deque()
        self.pending = 0
        self.group: Group | None = None
        self.cursor = -1
        self.not_before = 0
        self.caught_up = 0
        self.behind = False
        self.writing = False
        self.doomed = False
        self.sent = 0
        self.received = 0
        self.read_size = FIRST_READ

    # ---- reading

    def adopt(self, sock: socket.socket) -> None:
        """Begin to read from a connected, non-blocking socket."""
        self.sock = sock
        self.net.loop.add_reader(sock.fileno(), self._readable)

    def _readable(self) -> None:
        size = self._read()
        if size and self.group is None and self.owner is not None and (rest := self.owner.rest()):
            if self.sock is not None:
                self.net.loop.remove_reader(self.sock.fileno())
                self._read_again_in(rest, size)

    def _read_again_in(self, rest: float, size: int) -> None:
        """Leave bytes where they are for so many seconds: what they become would not be sent sooner.

        A wake costs far more than what is done in it when the processor was idle before; with a large audience
        one for each send takes the place of one for each packet. A publisher that sends a lot is read more often,
        for its system's send window must not fill up.
        """
        self.net.loop.call_later(rest * REST_BYTES / max(size, REST_BYTES), self._look)

    def _look(self) -> None:
        size = 0
        for _ in range(READS_PER_LOOK):
            room = self.read_size
            got = self._read() if self.sock is not None else 0
            size += got
            if got < room or room < READ_SIZE // 2:  # all that was there, or a peer whose bytes are much work
                break
        if self.sock is None:
            return
        rest = self.owner.rest() if self.owner is not None and self.group is None else 0.0
        if rest and not self.doomed:
            self._read_again_in(rest, size)
        else:
            self.net.loop.add_reader(self.sock.fileno(), self._readable)

    def _read(self) -> int:
        """Take what is there, at most READ_SIZE bytes; gives how many.

        What one read may cost everybody else is bounded by its size: a flood of tiny messages is read a little at
        a time.
        """
        assert self.sock is not None
        try:
            data = self.sock.recv(self.read_size)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            self.fail(_reason(error))
            return 0
        if not data and self.doomed and self.out:
            self.net.loop.remove_reader(self.sock.fileno())  # it may still read what was sent to it
        elif not data:
            self.fail("closed by peer")
        elif not self.doomed and self.owner is not None:
            self.received += len(data)
            started = monotonic()
            self.owner.deliver(Data(int(started * 1000), self.number, data))
            took = monotonic() - started
            if took > LONG_STEP:
                self.read_size = max(LEAST_READ, len(data) // 2)
            elif took < SHORT_STEP and len(data) == self.read_size < READ_SIZE:
                self.read_size *= 2
        return len(data)

    # ---- writing

    def send(self, data: bytes) -> None:
        """Write bytes after everything sent before; what the socket does not take waits, up to a bound."""
        if self.sock is None or self.doomed or not data:
            return
        if not self.out:
            data = data[self._write(data) :]
            if not data:
                return
        if self.sock is None:
            return
        self.out.append(data)
        self.pending += len(data)
        if self.pending > self.net.limits.max_pending:
            reason = f"does not read: {self.pending} bytes wait for it"
            log.info("%s: %s closed: %s", self.owner.name if self.owner else "nobody", self.peer, reason)
            self.fail(reason)
        elif self.group is None:
            self._watch()
        else:
            self.net.schedule(self.group)

    def _write(self, data: bytes) -> int:
        """How many bytes the socket took; 0 when it is full or has failed."""
        assert self.sock is not None
        try:
            taken = self.sock.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            self.fail(_reason(error))
            return 0
        self.sent += taken
        return taken

    def flush(self) -> bool:
        """Send what waits. True when nothing is left."""
        out = self.out
        while out and self.sock is not None:
            data = out[0]
            taken = self._write(data)
            self.pending -= taken
            if taken < len(data):
                if taken:
                    out[0] = data[taken:]
                return False
            out.popleft()
        return not out

    def _watch(self) -> None:
        if not self.writing and self.sock is not None:
            self.writing = True
            self.net.loop.add_writer(self.sock.fileno(), self._writable)

    def _unwatch(self) -> None:
        if self.writing and self.sock is not None:
            self.writing = False
            self.net.loop.remove_writer(self.sock.fileno())

    def _writable(self) -> None:
        if self.flush():
            self._unwatch()
            if self.doomed:
                self._half_close()

    # ---- ending

    def close(self, reason: str) -> None:
        """End politely: what was sent goes out first, within the linger time. The owner hears `lost` now."""
        if self.doomed:
            return
        if self.group is not None:
            self.group.leave(self)
        self.doomed = True
        owner, self.owner = self.owner, None
        if self.exchange is not None:
            self.exchange.drop()
            self.exchange = None
        if self.sock is None:
            self.net.forget(self)
        else:
            self.net.loop.call_later(self.net.limits.linger_seconds, self._shut)
            if self.flush():
                self._half_close()
            else:
                self._watch()
        if owner is not None:
            owner.lost(self, reason)

    def _half_close(self) -> None:
        """Say that no more will come and go on reading until the peer has closed as well.

        Closing at once while the peer still sends would make TCP discard what it has not read yet, the reason
        for the close included (RFC 1122 4.2.2.13).
        """
        if self.sock is not None:
            try:
                self.sock.shutdown(socket.SHUT_WR)
            except OSError:
                self._shut()

    def fail(self, reason: str) -> None:
        """End at once: the connection is gone or its peer is beyond politeness."""
        self.doomed = True
        if self.group is not None:
            self.group.leave(self)
        self._shut()
        owner, self.owner = self.owner, None
        if owner is not None:
            owner.lost(self, reason)

    def _shut(self) -> None:
        if self.sock is not None:
            self._unwatch()
            self.net.loop.remove_reader(self.sock.fileno())
            self.sock.close()
            self.sock = None
        self.out.clear()
        self.pending = 0
        self.net.forget(self)


class Group:
    """A ring of units, and the links that get the same bytes from it."""

    __slots__ = (
        "base",
        "dirty",
        "end",
        "keys",
        "last_pump",
        "max_bytes",
        "max_lag",
        "max_slow",
        "members",
        "name",
        "net",
        "owner",
        "queued",
        "seen",
        "size",
        "times",
        "turn",
        "units",
    )

    def __init__(
        self, net: Net, owner: Owner, name: str, max_bytes: int, max_lag: int, max_slow: int
    ) -> None:
        self.net = net
        self.owner = owner
        self.name = name
        self.units: list[bytes] = []
        self.times: list[int] = []  # arrival of each unit, ms
        self.base = 0  # number of units[0]
        self.end = 0  # number of the unit that comes next
        self.keys: deque[int] = deque()
        self.size = 0
        self.members: dict[Link, None] = {}
        self.queued = False
        self.dirty = False
        self.last_pump = 0.0
        self.seen = 0  # `end` when the turn began
        self.turn: list[Link] = []  # members still to be visited in this turn of the pump
        self.shape(max_bytes, max_lag, max_slow)

    def shape(self, max_bytes: int, max_lag: int, max_slow: int) -> None:
        self.max_bytes, self.max_lag, self.max_slow = max_bytes, max_lag, max_slow
        if self.units:
            self._trim(now_ms())

    def append(self, data: bytes, key: bool) -> None:
        now = now_ms()
        if key:
            self.keys.append(self.end)
        self.units.append(data)
        self.times.append(now)
        self.end += 1
        self.size += len(data)
        self._trim(now)
        if self.members:
            self.net.schedule(self)

    def _trim(self, now: int) -> None:
        """Drop what nobody may need any more: older than the latest key unit and than the permitted lag.

        The bounds in bytes and units go before both: past them the oldest units go, and members that still
        needed those are lapped.
        """
        drop = RING_SLACK if len(self.units) > MAX_UNITS else 0
        self.size -= sum(map(len, self.units[:drop]))
        while self.size > self.max_bytes and drop < len(self.units) - 1:
            self.size -= len(self.units[drop])
            drop += 1
        latest = (self.keys[-1] if self.keys else self.end) - self.base
        if not drop and latest > RING_SLACK and now - self.times[RING_SLACK] > self.max_lag:
            drop = RING_SLACK
            self.size -= sum(map(len, self.units[:drop]))
        if drop:
            del self.units[:drop], self.times[:drop]
            self.base += drop
            while self.keys and self.keys[0] < self.base:
                self.keys.popleft()

    def join(self, link: Link, head: bytes, start: str) -> None:
        if link.group is not None:
            link.group.leave(link)
        link.group = self
        link._unwatch()  # from now on the pump writes
        link.cursor = self.end if start == "next" else -1
        link.not_before = self.base
        link.caught_up = now_ms()
        link.behind = False
        self.members[link] = None
        if link.sock is not None:
            cap_send_buffer(link.sock, self.net.limits.send_buffer)
        link.send(head)
        self.net.schedule(self)

    def leave(self, link: Link) -> None:
        """End a membership. Units that came before still go out, for a large audience is served some time later;
        only a member so far behind that they are more than may be pending loses them."""
        self.members.pop(link, None)
        link.group = None
        if link.doomed:
            return
        if link.cursor >= self.base:
            units = self.units[link.cursor - self.base :]
            size = sum(map(len, units))
            if link.pending + size <= self.net.limits.max_pending:
                link.out.extend(units)
                link.pending += size
        if link.out:
            link._watch()

    # ---- the pump

    def visit_some(self, links: list[Link], now: int, blobs: dict[int, tuple[bytes, int]]) -> None:
        """Write to members. Most are where another one was before in this slice, and their sockets take all.

        That case is written out here: with a thousand viewers each microsecond costs a hundredth of a processor.
        """
        for link in links:
            if link.group is not self:
                continue
            try:
                blob = blobs.get(link.cursor)
                if blob is None or link.pending or link.behind or blob[1] != self.end or link.sock is None:
                    self.visit(link, now, blobs)
                    continue
                data, after = blob
                try:
                    taken = link.sock.send(data)
                except OSError:
                    self.visit(link, now, blobs)  # which knows what to do about it
                    continue
                link.sent += taken
                if taken == len(data):
                    link.cursor = after
                    link.caught_up = now
                else:
                    self._keep_rest(link, taken)
                    self._stuck(link, now)
            except Exception:  # one member must not stop the pump for all
                log.exception("%s: %s in group %s", self.owner.name, link.peer, self.name)
                link.fail("the server failed to send")

    def visit(self, link: Link, now: int, blobs: dict[int, tuple[bytes, int]]) -> None:
        """Write to one member whatever its socket takes."""
        placed = link.cursor == self.end or self._place(link, now)
        # whoever hears of a skip may have sent something, which goes before the ring
        if (link.out and not link.flush()) or not placed:
            self._stuck(link, now)
            return
        while link.cursor < self.end and link.sock is not None:
            cursor = link.cursor
            blob = blobs.get(cursor)
            if blob is None:
                blob = blobs[cursor] = self._blob(cursor)
            data, after = blob
            taken = link._write(data)
            if taken == len(data):
                link.cursor = after
                continue
            if link.sock is not None:
                self._keep_rest(link, taken)
                self._stuck(link, now)
            return
        link.caught_up = now
        if link.behind:
            link.behind = False
            self.net.told.append((link, self, Drained(now, link.number, self.name)))

    def _blob(self, cursor: int) -> tuple[bytes, int]:
        """Units from `cursor` on, joined, up to about BLOB_SIZE bytes; and the number of the one after."""
        first = cursor - self.base
        total = 0
        last = first
        for last in range(first, len(self.units)):
            total += len(self.units[last])
            if total >= BLOB_SIZE:
                break
        last += 1
        return (
            self.units[first] if last == first + 1 else b"".join(self.units[first:last])
        ), self.base + last

    def _keep_rest(self, link: Link, taken: int) -> None:
        """Set the cursor behind the unit in which the socket stopped, and keep that unit's rest."""
        cursor = link.cursor
        while taken:
            unit = self.units[cursor - self.base]
            cursor += 1
            if taken < len(unit):
                link.out.append(unit[taken:])
                link.pending += len(unit) - taken
                break
            taken -= len(unit)
        link.cursor = cursor

    def _place(self, link: Link, now: int) -> bool:
        """Make the cursor point at a unit that may be sent now. False while there is none.

        A member that skips, or that the ring has lapped, is not sent the key unit in the same visit: its session
        hears of it first and may send what the member has missed.
        """
        if link.cursor >= self.base:
            if now - self.times[link.cursor - self.base] <= self.max_lag:
                return True
            if not (self.keys and self.keys[-1] > link.cursor):
                return True  # late, but nothing to skip to yet
        if link.cursor >= 0:
            link.cursor, link.not_before, link.behind = -1, self.base, True
            self.net.told.append((link, self, Congested(now, link.number, self.name)))
            return False
        if self.keys and self.keys[-1] >= link.not_before:
            link.cursor = self.keys[-1]
            return True
        return False

    def _stuck(self, link: Link, now: int) -> None:
        """Count the time a member has been behind; a member that only waits for a first key unit is not."""
        if link.cursor < 0 and not link.out and not link.behind:
            link.caught_up = now
        elif now - link.caught_up > self.max_slow:
            reason = f"too slow: behind for {(now - link.caught_up) / 1000:.0f} s"
            log.info("%s: %s closed: %s", self.owner.name, link.peer, reason)
            link.cursor = -1  # what it has not got it would not get now
            link.close(reason)
        else:
            self.dirty = True

    def interval(self) -> float:
        """Seconds between two visits: every unit for a handful, up to the bound for hundreds.

        The interval decides the cost of fan-out five-fold, so it grows with the audience: 20 members or fewer
        get each unit at once, 500 or more wait up to `flush_many_ms`.
        """
        limits = self.net.limits
        crowd = min(1.0, max(0, len(self.members) - 20) / 480)
        return (limits.flush_few_ms + crowd * (limits.flush_many_ms - limits.flush_few_ms)) / 1000


class Net:
    """All links of the process, the listeners they come from, and the pump."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limits: Limits,
        counters: Counters,
        arrive: Callable[[Link, str], None],
    ) -> None:
        self.loop = loop
        self.limits = limits
        self.counters = counters
        self.links: dict[int, Link] = {}
        self.longest_slice = 0.0  # seconds, since start
        self.told: list[tuple[Link, Group, Event]] = []  # by the pump, to be delivered after its slice
        self._arrive = arrive
        self._numbers = 0
        self._listeners: dict[str, socket.socket] = {}
        self._due: deque[Group] = deque()
        self._pumping = False

    # ---- arrivals

    def listen(self, name: str, host: str, port: int) -> tuple[str, int]:
        """Accept TCP connections for the listener `name`; the address bound, with the port picked for 0."""
        sock = bound_socket(host, port, self.limits.backlog)
        self._listeners[name] = sock
        self.loop.add_reader(sock.fileno(), self._accept, name, sock)
        address = sock.getsockname()
        return address[0], address[1]

    def stop_listening(self) -> None:
        for sock in self._listeners.values():
            self.loop.remove_reader(sock.fileno())
            sock.close()
        self._listeners.clear()

    def _accept(self, name: str, listener: socket.socket) -> None:
        for _ in range(ACCEPTS_PER_WAKE):
            try:
                sock, address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._starved(name, listener, error)
                return
            if len(self.links) >= self.limits.max_connections:
                self.counters.count(
                    name, f"refused: {self.limits.max_connections} connections are open already"
                )
                sock.close()
                continue
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link = self.new_link(f"{address[0]}:{address[1]}")
            link.adopt(sock)
            self._arrive(link, name)

    def _starved(self, name: str, listener: socket.socket, error: OSError) -> None:
        """Out of descriptors or memory: leave newcomers in the backlog for a second instead of spinning."""
        self.counters.count(name, f"cannot accept: {error.strerror}; raise LimitNOFILE")
        self.loop.remove_reader(listener.fileno())

        def again() -> None:
            if self._listeners.get(name) is listener:
                self.loop.add_reader(listener.fileno(), self._accept, name, listener)

        self.loop.call_later(1.0, again)

    def new_link(self, peer: str, owner: Owner | None = None) -> Link:
        self._numbers += 1
        link = self.links[self._numbers] = Link(self, self._numbers, peer, owner)
        return link

    def forget(self, link: Link) -> None:
        self.links.pop(link.number, None)

    # ---- the pump

    def schedule(self, group: Group) -> None:
        """Visit a group's members when its interval is over."""
        if group.queued:
            return
        group.queued = True
        delay = group.last_pump + group.interval() - monotonic()
        if delay <= 0:
            self._enqueue(group)
        else:
            self.loop.call_later(delay, self._enqueue, group)

    def _enqueue(self, group: Group) -> None:
        self._due.append(group)
        if not self._pumping:
            self._pumping = True
            self.loop.call_soon(self._pump)

    def _pump(self) -> None:
        """One slice: visit members of the groups that are due until the slice is over."""
        started = monotonic()
        deadline = started + self.limits.slice_ms / 1000
        now = int(started * 1000)
        blobs: dict[int, tuple[bytes, int]] = {}
        group: Group | None = None
        while self._due:
            if group is not self._due[0]:
                group = self._due[0]
                blobs.clear()
            if not group.turn:
                group.last_pump = started
                group.dirty = False
                group.turn = list(group.members)
                group.seen = group.end
            turn = group.turn
            while turn:
                group.visit_some(turn[-VISITS:], now, blobs)
                del turn[-VISITS:]
                if monotonic() > deadline:
                    break
            if not turn:
                self._due.popleft()
                group.queued = False
                if group.members and (group.dirty or group.end != group.seen):
                    # units came during the turn, after early members had been visited; or a socket is full and
                    # gets another chance soon, whether or not the group gets new units
                    group.queued = True
                    delay = group.last_pump + group.interval() - monotonic()
                    self.loop.call_later(max(0.02, delay), self._enqueue, group)
            if monotonic() > deadline:
                break
        told, self.told = self.told, []
        for link, group, event in told:
            if link.group is group:
                group.owner.deliver(event)
        self.longest_slice = max(self.longest_slice, monotonic() - started)
        if self._due:
            self.loop.call_soon(self._pump)
        else:
            self._pumping = False


def bound_socket(host: str, port: int, backlog: int) -> socket.socket:
    """A listening, non-blocking TCP socket. Raises OSError with the address in its text."""
    family, kind, proto, _, address = socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    sock = socket.socket(family, kind, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setblocking(False)
        sock.bind(address)
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        raise OSError(error.errno, f"{host}:{port}: {error.strerror}") from error
    return sock


def cap_send_buffer(sock: socket.socket, size: int) -> None:
    """Bound what the operating system queues for a viewer; its own growth would hide half a minute of lag."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
    except OSError as error:
        log.debug("send buffer of %d bytes refused: %s", size, error)


def _reason(error: OSError) -> str:
    if error.errno in (errno.EPIPE, errno.ECONNRESET):
        return "reset by peer"
    return (error.strerror or str(error)).lower()


def describe_link(link: Link) -> dict[str, Any]:
    """What `streamd-ctl sessions NAME` says of one link."""
    group = link.group
    lag = 0
    if group is not None and group.base <= link.cursor < group.end:
        lag = now_ms() - group.times[link.cursor - group.base]
    return {
        "link": link.number,
        "peer": link.peer,
        "group": group.name if group else "",
        "received": link.received,
        "sent": link.sent,
        "pending": link.pending,
        "lag_ms": lag,
        "behind": link.behind,
    }
