"""A link: one connection's socket, what is still to be sent to it, and its place in a group's ring.

The rule this file keeps: nothing here belongs to a release. Bytes are read for whoever owns the link; what a socket
does not take waits here, bounded, and goes out in order: the rest of a unit first, then bytes sent to this link alone,
then its group's ring. So a release can change at any moment without a viewer noticing.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections import deque
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from streamd.runtime.vocabulary import Data, Event

if TYPE_CHECKING:
    from streamd.runtime.group import Group
    from streamd.runtime.net import Net

log = logging.getLogger("streamd")

READ_SIZE = 65_536
FIRST_READ = 8_192
LEAST_READ = 1_024
# s: after a step as long as the one a link is read in smaller pieces, after one as short as the other in larger
LONG_STEP, SHORT_STEP = 0.004, 0.001
REST_BYTES = 32_768  # of a publisher that may wait unread: half of what a sender's first window allows
READS_PER_LOOK = 4


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


def _reason(error: OSError) -> str:
    if error.errno in (errno.EPIPE, errno.ECONNRESET):
        return "reset by peer"
    return (error.strerror or str(error)).lower()
