"""The kernel's contract with every future patch: events go in, commands come out.

The rule this file keeps: nothing but frozen records. They are named tuples, because one is made for every
read and every write (0.25 µs each, a frozen dataclass takes 1 µs), they pack to msgpack as arrays, and `match`
reads them by name. Their classes belong to the kernel and are the same in every release of the live code.

`now` is milliseconds on the kernel's monotonic clock. `link` is the kernel's number for one connection; live
code never holds the connection itself. Grow this list sparingly: what is said here cannot be unsaid.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class PeerError(Exception):
    """The peer's fault: its own connection is closed, with this sentence as the reason. Never a crash."""


# ---- events: what happened -------------------------------------------------------------------------------


class Opened(NamedTuple):
    """A connection arrived at `listener`; `seed` is 32 fresh random bytes (live code has no other randomness)."""

    now: int
    link: int
    listener: str
    peer: str
    seed: bytes


class Data(NamedTuple):
    """Bytes came in, at most 64 KiB at a time, cut anywhere."""

    now: int
    link: int
    data: bytes


class Closed(NamedTuple):
    """The connection is gone and its number will never be used again."""

    now: int
    link: int
    reason: str


class Request(NamedTuple):
    """An HTTP request was read whole; answer it with Respond. Header names are in lower case; `version` is "1.0" or
    "1.1"."""

    now: int
    link: int
    method: str
    path: str
    query: str
    headers: dict[str, str]
    peer: str
    version: str


class Joined(NamedTuple):
    """Another session moved a link here; `guest` is the @state record it sent along, in this session's release."""

    now: int
    link: int
    guest: Any
    peer: str


class Refused(NamedTuple):
    """A Move found no session of that name (and was not to create one); the link is still yours."""

    now: int
    link: int
    to: str
    reason: str


class Tick(NamedTuple):
    """The time asked for with Wake has come."""

    now: int
    tag: str


class Congested(NamedTuple):
    """A member of `group` fell too far behind and now waits for, or has skipped to, a key unit."""

    now: int
    link: int
    group: str


class Drained(NamedTuple):
    """A congested member has everything again that its group has to give."""

    now: int
    link: int
    group: str


class Restarted(NamedTuple):
    """The session came back from its last checkpoint: these links are open, and no other."""

    now: int
    links: list[int]


class Stopping(NamedTuple):
    """The server is about to stop: say goodbye to everyone; what is sent now still goes out until `deadline`."""

    now: int
    deadline: int


# ---- commands: what shall happen, carried out in order after the step has returned ------------------------


class Send(NamedTuple):
    """Write bytes to one link, in order; at a group's member they go between two units."""

    link: int
    data: bytes


class Ring(NamedTuple):
    """Make or reshape a group's ring: bytes it may hold; ms a member may lag before it skips to a key unit;
    ms without once catching up after which it is closed."""

    group: str
    max_bytes: int
    max_lag: int
    max_slow: int


class SendAll(NamedTuple):
    """Append one unit to a group's ring; `key` says that a member may start here."""

    group: str
    data: bytes
    key: bool


class Join(NamedTuple):
    """Make a link a member: first `head`, then the ring from its latest key unit (`start` "key", waiting for
    one if there is none) or from the next unit of any kind ("next")."""

    link: int
    group: str
    head: bytes
    start: str


class Leave(NamedTuple):
    """End a membership after the units sent to the group so far; what is sent to the link now follows them."""

    link: int
    group: str


class Close(NamedTuple):
    """Close a link when everything sent to it has gone out (bounded by the kernel's linger time)."""

    link: int
    reason: str


class Respond(NamedTuple):
    """Answer a Request. With `stream` the head goes out and the link becomes a plain one: Send, Join and Data."""

    link: int
    status: int
    headers: dict[str, str]
    body: bytes
    stream: bool


class Move(NamedTuple):
    """Hand a link and the state that goes with it to the session `to`, created first if `create`."""

    link: int
    to: str
    guest: Any
    create: bool


class Wake(NamedTuple):
    """Deliver Tick(tag) in `after` ms; a Wake with the same tag replaces the earlier one, after < 0 cancels it."""

    after: int
    tag: str


class Log(NamedTuple):
    """A line in the server's log: level "debug" "info" "warning" "error", a sentence."""

    level: str
    text: str


class Count(NamedTuple):
    """Something that may happen per frame: counted, and said once a second."""

    what: str


class End(NamedTuple):
    """The session is over; links it still has are closed with this reason."""

    reason: str


Event = (
    Opened | Data | Closed | Request | Joined | Refused | Tick | Congested | Drained | Restarted | Stopping
)
Command = Send | Ring | SendAll | Join | Leave | Close | Respond | Move | Wake | Log | Count | End
