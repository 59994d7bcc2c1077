"""All links of the process, the listeners they come from, and the pump that serves their groups.

The rule this file keeps: one pump visits the members of a group that has something new, in slices of about a
millisecond with the loop turning in between, so no session waits for another's audience.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable
from time import monotonic

from streamd.runtime.group import Group
from streamd.runtime.link import Limits, Link, Owner
from streamd.runtime.trace import Counters
from streamd.runtime.vocabulary import Event

log = logging.getLogger("streamd")

ACCEPTS_PER_WAKE = 64  # a storm of newcomers must not starve those already here
VISITS = 16  # between two looks at the clock


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
