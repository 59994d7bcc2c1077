"""A group: a ring of units, and the links that get the same bytes from it.

The rule this file keeps: a payload exists once, in the ring of its group, and a viewer is a cursor into it.
There is no task, queue or transport per viewer. Units are written from each cursor straight to the non-blocking
socket; EAGAIN means the next visit.

A member that stays behind for longer than the ring allows skips to the latest key unit; one that the ring has
lapped waits for the next. Only whole units are skipped: a half-sent unit's rest is kept with the link.
"""

from __future__ import annotations

import logging
import socket
from collections import deque
from typing import TYPE_CHECKING

from streamd.runtime.link import Link, Owner, now_ms
from streamd.runtime.vocabulary import Congested, Drained

if TYPE_CHECKING:
    from streamd.runtime.net import Net

log = logging.getLogger("streamd")

# units joined for one send: more than a capped send buffer takes at once is copied for nothing
BLOB_SIZE = 262_144
# of a ring: four minutes; each costs some 100 bytes beside its own, which tiny ones would use
MAX_UNITS = 32_768
RING_SLACK = 256  # units evicted together, so that trimming the list's front costs nothing per unit


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


def cap_send_buffer(sock: socket.socket, size: int) -> None:
    """Bound what the operating system queues for a viewer; its own growth would hide half a minute of lag."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
    except OSError as error:
        log.debug("send buffer of %d bytes refused: %s", size, error)
