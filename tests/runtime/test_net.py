"""Links and groups on real sockets: what a viewer gets, in which order, and what it costs the others."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop

from streamd.runtime.group import Group
from streamd.runtime.link import (
    FIRST_READ,
    LEAST_READ,
    LONG_STEP,
    READ_SIZE,
    Limits,
    Link,
    describe_link,
    now_ms,
)
from streamd.runtime.net import VISITS, Net, bound_socket
from streamd.runtime.trace import Counters
from streamd.runtime.vocabulary import Closed, Congested, Data, Drained, Event
from tests.fake_live import until

LONG = 1_000_000  # ms: no lag or slowness counts
UNIT = 20_000  # bytes

# both loops; the hook that newer versions of pytest-asyncio want does not exist in older ones
pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture")


@pytest.fixture(params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy], ids=["asyncio", "uvloop"])
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    return request.param()


class Ear:
    """An owner that writes down what it hears, and answers with `react`."""

    name = "ear"

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.reasons: list[str] = []
        self.react: Callable[[Event], None] = lambda event: None
        self.resting = 0.0

    def deliver(self, event: Event) -> None:
        self.events.append(event)
        self.react(event)

    def lost(self, link: Link, reason: str) -> None:
        self.reasons.append(reason)
        self.react(Closed(0, link.number, reason))

    def rest(self) -> float:
        return self.resting

    def kinds(self) -> list[str]:
        return [type(event).__name__ for event in self.events]

    def data(self) -> bytes:
        return b"".join(event.data for event in self.events if isinstance(event, Data))


class Bench:
    """A Net, an Ear, and peers at the other end of socket pairs."""

    def __init__(self, **limits: Any) -> None:
        self.ear = Ear()
        self.loop = asyncio.get_running_loop()
        self.net = Net(self.loop, Limits(**{"linger_seconds": 0.2, **limits}), Counters(), self.arrive)
        self.arrived: list[Link] = []
        self.peers: list[socket.socket] = []

    def arrive(self, link: Link, _listener: str) -> None:
        link.owner = self.ear
        self.arrived.append(link)

    def link(self) -> tuple[Link, socket.socket]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            theirs = socket.socket()
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
            theirs.connect(listener.getsockname())
            ours, _ = listener.accept()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        ours.setblocking(False)
        theirs.setblocking(False)
        link = self.net.new_link("peer", self.ear)
        link.adopt(ours)
        self.peers.append(theirs)
        return link, theirs

    def group(self, max_bytes: int = 1 << 20, max_lag: int = LONG, max_slow: int = LONG) -> Group:
        return Group(self.net, self.ear, "g", max_bytes, max_lag, max_slow)

    async def read(self, sock: socket.socket, end: bytes = b"") -> bytes:
        """Everything up to `end`, or to the end of the connection."""
        got = bytearray()
        async with asyncio.timeout(5):
            while data := await self.loop.sock_recv(sock, 65_536):
                got += data
                if end and got.endswith(end):
                    break
        return bytes(got)

    def close(self) -> None:
        self.net.stop_listening()
        for link in list(self.net.links.values()):
            link.fail("test over")
        for peer in self.peers:
            peer.close()


@pytest.fixture
async def bench():
    benches: list[Bench] = []

    def make(**limits: Any) -> Bench:
        benches.append(Bench(**limits))
        return benches[-1]

    yield make
    for item in benches:
        item.close()


def unit(number: int) -> bytes:
    return f"{number}:".encode() + b"x" * UNIT + b"\n"


def numbers(raw: bytes) -> list[str]:
    """The units and other lines of what a peer got; a unit that is not whole is no number."""
    found = []
    for line in raw.split(b"\n"):
        head, colon, body = line.partition(b":")
        found.append(head.decode() if not colon or body == b"x" * UNIT else f"torn {head!r} {len(body)}")
    return found[:-1]


async def jam(bench: Bench, group: Group, link: Link, number: int = 0) -> int:
    """Append units until the member's socket is full and one is half sent; the number of units."""
    before = -1
    while not link.out or link.pending != before:
        assert number < 1000
        before = link.pending
        group.append(unit(number), number == 0)
        number += 1
        if link.group is group:
            group.visit(link, now_ms(), {})  # the pump itself comes back after its interval only
        await asyncio.sleep(0.001)
    assert 0 < len(link.out[0]) <= UNIT + 10
    return number


def age(group: Group, ms: int) -> None:
    group.times[:] = [time - ms for time in group.times]


# ---- the ring


async def test_a_ring_is_bounded_in_bytes_and_keeps_one_unit_at_least(bench):
    group = bench().group(max_bytes=1000)
    for number in range(10):
        group.append(b"%d" % number * 300, number in (0, 8))
    assert (len(group.units), group.size, group.base, group.end) == (3, 900, 7, 10)
    assert list(group.keys) == [8]
    group.append(b"x" * 5000, False)
    assert (group.units, group.size, list(group.keys)) == ([b"x" * 5000], 5000, [])
    group.append(b"y", True)
    assert (group.units, list(group.keys)) == ([b"y"], [11])
    assert len(group.times) == len(group.units)


async def test_a_ring_that_is_made_smaller_is_cut_at_once(bench):
    group = bench().group()
    for number in range(10):
        group.append(b"x" * 100, number == 0)
    group.shape(250, 1, 2)
    assert (len(group.units), group.size, group.base, list(group.keys)) == (2, 200, 8, [])


async def test_what_is_older_than_the_lag_and_the_latest_key_goes_by_and_by(bench):
    group = bench().group(max_lag=100)
    for number in range(1000):
        group.append(b"x", number % 300 == 0)
    assert len(group.units) == 1000
    age(group, 1000)
    group.append(b"x", False)
    assert group.base == 256
    assert list(group.keys) == [300, 600, 900]
    assert group.size == len(group.units) == 745


@pytest.mark.parametrize(
    ("units", "start", "later", "expected"),
    [
        (["0", "K1", "2"], "key", ["3"], ["head", "K1", "2", "3"]),
        (["K0", "1", "K2", "3"], "key", [], ["head", "K2", "3"]),
        (["0", "1"], "key", ["2", "K3", "4"], ["head", "K3", "4"]),
        ([], "key", ["0", "K1"], ["head", "K1"]),
        (["K0", "1"], "next", ["2", "K3"], ["head", "2", "K3"]),
    ],
)
async def test_a_member_starts_at_the_latest_key_or_with_the_next_unit(bench, units, start, later, expected):
    at = bench()
    group = at.group()
    link, peer = at.link()

    def append(names: list[str]) -> None:
        for name in names:
            group.append(f"{name}\n".encode(), name.startswith("K"))

    append(units)
    group.join(link, b"head\n", start)
    await asyncio.sleep(0)
    append(later)
    group.append(b"end\n", False)
    assert (await at.read(peer, b"end\n")).decode().split() == [*expected, "end"]
    assert at.ear.events == []
    assert describe_link(link)["group"] == "g"


async def test_an_empty_unit_is_sent_without_harm(bench):
    at = bench()
    group = at.group()
    link, peer = at.link()
    group.join(link, b"", "next")
    for data in (b"", b"a", b"", b"b\n"):
        group.append(data, True)
    assert await at.read(peer, b"\n") == b"ab\n"


async def test_a_half_sent_unit_is_completed_before_a_private_send_and_nothing_is_lost(bench):
    at = bench()
    group = at.group()
    link, peer = at.link()
    group.join(link, b"", "key")
    count = await jam(at, group, link)
    link.send(b"private\n")
    group.append(unit(count), False)
    group.append(b"end\n", False)
    got = numbers(await at.read(peer, b"end\n"))
    place = got.index("private")
    assert 0 < place <= count
    del got[place]
    assert got == [*map(str, range(count + 1)), "end"]
    assert link.pending == 0


async def test_a_member_that_leaves_or_changes_group_still_gets_the_rest_of_its_unit(bench):
    at = bench()
    group, other = at.group(), at.group()
    for leave in (lambda link: group.leave(link), lambda link: other.join(link, b"head\n", "next")):
        link, peer = at.link()
        group.join(link, b"", "next")
        count = await jam(at, group, link)
        leave(link)
        link.send(b"end\n")
        got = numbers(await at.read(peer, b"end\n"))
        assert got[0] in ("0", str(count - len(got) + 1)) or got[0].isdigit()
        assert not [item for item in got if item.startswith("torn")]
        assert got[-1] == "end"
        link.fail("done")


@pytest.mark.parametrize("how", ["leaves", "is closed"])
async def test_whoever_goes_before_the_pump_has_come_still_gets_what_the_group_was_sent(bench, how):
    desk = bench(flush_few_ms=60_000.0, flush_many_ms=60_000.0)
    group = desk.group()
    link, peer = desk.link()
    group.join(link, b"", "next")
    group.last_pump = time.monotonic()  # the next visit is a minute away
    for number in range(3):
        group.append(unit(number), number == 0)
    if how == "leaves":
        group.leave(link)
        link.send(b"goodbye\n")
    link.close("over")
    told = ["0", "1", "2", "goodbye"] if how == "leaves" else ["0", "1", "2"]
    assert numbers(await desk.read(peer)) == told


async def test_whoever_is_further_behind_than_may_be_pending_goes_without_the_rest(bench):
    desk = bench(max_pending=3 * UNIT)
    group = desk.group()
    link, peer = desk.link()
    group.join(link, b"", "next")
    for number in range(5):
        group.append(unit(number), number == 0)
    group.leave(link)
    link.close("over")
    assert numbers(await desk.read(peer)) == []


async def test_a_member_that_lags_skips_to_the_latest_key_after_the_unit_that_is_half_sent(bench):
    at = bench()
    group = at.group(max_lag=1000)
    link, peer = at.link()
    group.join(link, b"", "key")
    count = await jam(at, group, link)
    half = link.cursor - 1
    for number in range(count, count + 5):
        group.append(unit(number), False)
    age(group, 5000)
    group.append(b"key\n", True)
    group.append(b"end\n", False)
    at.ear.react = lambda event: link.send(b"sorry\n") if isinstance(event, Congested) else None
    await until(lambda: at.ear.kinds() == ["Congested"])
    got = numbers(await at.read(peer, b"end\n"))
    assert got == [*map(str, range(half + 1)), "sorry", "key", "end"]
    await until(lambda: at.ear.kinds() == ["Congested", "Drained"])
    assert isinstance(at.ear.events[-1], Drained)
    assert at.ear.events[0][1:] == (link.number, "g")


async def test_a_member_that_lags_goes_on_where_it_is_while_there_is_no_newer_key(bench):
    at = bench()
    group = at.group(max_lag=1000)
    link, peer = at.link()
    group.join(link, b"", "key")
    count = await jam(at, group, link)
    group.append(unit(count), False)
    group.append(b"end\n", False)
    age(group, 5000)
    assert numbers(await at.read(peer, b"end\n")) == [*map(str, range(count + 1)), "end"]
    assert at.ear.kinds() == []


async def test_a_member_that_the_ring_laps_waits_for_the_next_key(bench):
    at = bench()
    group = at.group(max_bytes=5 * UNIT)
    link, peer = at.link()
    group.join(link, b"", "key")
    count = await jam(at, group, link)
    half = link.cursor - 1
    for number in range(count, count + 20):
        group.append(unit(number), False)
    assert link.cursor < group.base
    await until(lambda: at.ear.kinds() == ["Congested"])
    reading = asyncio.create_task(at.read(peer, b"end\n"))
    await until(lambda: not link.out)
    group.append(unit(999), False)
    group.append(b"key\n", True)
    group.append(b"end\n", False)
    assert numbers(await reading) == [*map(str, range(half + 1)), "key", "end"]
    await until(lambda: at.ear.kinds() == ["Congested", "Drained"])


async def test_one_member_that_is_stuck_does_not_hold_up_the_others(bench):
    at = bench()
    group = at.group()
    stuck, _ = at.link()
    group.join(stuck, b"", "next")
    count = await jam(at, group, stuck)
    link, peer = at.link()
    group.join(link, b"", "next")
    for number in range(count, count + 50):
        group.append(unit(number), False)
    group.append(b"end\n", False)
    assert numbers(await at.read(peer, b"end\n")) == [*map(str, range(count, count + 50)), "end"]
    assert stuck.out


async def test_a_member_that_stays_too_slow_is_closed_with_a_reason(bench):
    at = bench()
    group = at.group(max_slow=30_000)
    link, peer = at.link()
    group.join(link, b"", "next")
    await jam(at, group, link)

    def slow() -> list[str]:
        if not at.ear.reasons:
            group.append(unit(0), False)
            link.caught_up = now_ms() - 60_000
        return at.ear.reasons

    await until(slow)
    assert at.ear.reasons == ["too slow: behind for 60 s"]
    assert link.group is None
    assert not group.members
    got = numbers(await at.read(peer))
    assert not [item for item in got if item.startswith("torn")]


async def test_a_member_that_waits_for_its_first_key_is_not_slow(bench):
    at = bench()
    group = at.group(max_slow=10)
    link, peer = at.link()
    group.join(link, b"", "key")
    link.caught_up -= 60_000
    group.append(b"x", False)
    await until(lambda: now_ms() - link.caught_up < 1000)
    group.append(b"key\n", True)
    assert await at.read(peer, b"\n") == b"key\n"
    assert at.ear.reasons == []


async def test_whoever_hears_of_a_skip_may_close_move_or_feed_the_ring(bench):
    for react in ("close", "fail", "leave", "append"):
        at = bench()
        group = at.group(max_bytes=3 * UNIT, max_lag=1000)
        link, _ = at.link()
        other, peer = at.link()
        group.join(link, b"", "next")
        count = await jam(at, group, link)
        group.join(other, b"", "next")

        def answer(
            event: Event, react: str = react, at: Bench = at, group: Group = group, link: Link = link
        ) -> None:
            if isinstance(event, Congested):
                at.ear.react = lambda event: None
                {
                    "close": lambda: link.close("no"),
                    "fail": lambda: link.fail("no"),
                    "leave": lambda: group.leave(link),
                    "append": lambda: group.append(unit(1) * 5, True),
                }[react]()

        at.ear.react = answer
        for number in range(count, count + 10):
            group.append(unit(number), False)
        age(group, 5000)
        group.append(b"key\n", True)
        await until(lambda at=at: "Congested" in at.ear.kinds())
        group.append(b"end\n", True)
        assert (await at.read(peer, b"end\n")).endswith(b"end\n")


async def test_an_odd_failure_of_one_member_does_not_stop_the_pump(bench, caplog):
    at = bench()
    group = at.group()
    odd, _ = at.link()
    link, peer = at.link()
    for item in (odd, link):
        group.join(item, b"", "next")
    odd.out.append("text")
    group.append(b"end\n", True)
    assert await at.read(peer, b"end\n") == b"end\n"
    assert at.ear.reasons == ["the server failed to send"]
    group.append(b"more\n", True)
    assert await at.read(peer, b"more\n") == b"more\n"


# ---- slices and coalescing


@pytest.mark.parametrize(
    ("members", "seconds"), [(0, 0.0), (1, 0.0), (20, 0.0), (260, 0.05), (500, 0.1), (5000, 0.1)]
)
async def test_the_interval_grows_with_the_audience(bench, members, seconds):
    group = bench().group()
    group.members = dict.fromkeys(range(members))
    assert group.interval() == pytest.approx(seconds)


async def test_units_that_come_within_an_interval_are_sent_together(bench):
    at = bench(flush_few_ms=50.0, flush_many_ms=50.0)
    group = at.group()
    link, peer = at.link()
    group.join(link, b"", "next")
    group.append(b"first\n", True)
    assert await at.read(peer, b"first\n")
    visits: list[int] = []
    visit = Group.visit

    def counted(self: Group, *args: Any) -> None:
        visits.append(self.end)
        visit(self, *args)

    Group.visit = counted  # type: ignore[method-assign, assignment]
    try:
        for number in range(20):
            group.append(b"%d\n" % number, False)
            await asyncio.sleep(0)
        assert visits == []
        assert (await at.read(peer, b"19\n")).count(b"\n") == 20
        assert visits[0] == 21
    finally:
        Group.visit = visit  # type: ignore[method-assign]


async def test_a_pump_goes_in_slices_and_everyone_gets_everything(bench):
    at = bench(slice_ms=0.0)
    groups = [at.group() for _ in range(2)]
    pairs = [at.link() for _ in range(60)]
    for number, (link, _) in enumerate(pairs):
        groups[number % 2].join(link, b"", "next")
    turns = 0
    going = True

    def turn() -> None:
        nonlocal turns
        turns += 1
        if going:
            at.loop.call_soon(turn)

    at.loop.call_soon(turn)
    for group in groups:
        for number in range(5):
            group.append(unit(number), True)
    for _, peer in pairs:
        assert numbers(await at.read(peer, unit(4))) == list("01234")
    going = False
    assert turns >= 60 // VISITS
    assert at.net.longest_slice > 0


# ---- links


async def test_bytes_come_in_at_most_64_kib_at_a_time_and_the_end_is_told(bench):
    at = bench()
    link, peer = at.link()
    await at.loop.sock_sendall(peer, b"x" * 300_000)
    peer.close()
    await until(lambda: at.ear.reasons)
    assert at.ear.data() == b"x" * 300_000
    assert max(len(event.data) for event in at.ear.events if isinstance(event, Data)) <= READ_SIZE
    assert at.ear.reasons == ["closed by peer"]
    assert link.received == 300_000
    assert not at.net.links


async def test_a_peer_whose_bytes_are_much_work_is_read_in_small_pieces(bench):
    at = bench()
    link, peer = at.link()

    def toil(_event: Event) -> None:
        until = time.monotonic() + 2 * LONG_STEP
        while time.monotonic() < until:
            pass

    at.ear.react = toil
    sending = asyncio.create_task(at.loop.sock_sendall(peer, b"x" * 40_000))
    await until(lambda: link.received == 40_000)
    await sending
    sizes = [len(event.data) for event in at.ear.events]
    assert (sizes[0], sizes[-2]) == (FIRST_READ, LEAST_READ)
    at.ear.react = lambda event: None
    await at.loop.sock_sendall(peer, b"x" * 1_000_000)
    await until(lambda: link.received == 1_040_000)
    assert max(len(event.data) for event in at.ear.events) > FIRST_READ


async def test_a_peer_that_does_not_read_is_cut_off_at_the_bound(bench):
    at = bench(max_pending=1_000_000)
    link, _ = at.link()
    for _ in range(100):
        link.send(b"x" * 100_000)
    assert len(at.ear.reasons) == 1
    assert at.ear.reasons[0].startswith("does not read: 10")
    assert link.sock is None
    assert link.pending == 0


async def test_sends_keep_their_order_when_the_socket_is_full(bench):
    at = bench()
    link, peer = at.link()
    for number in range(50):
        link.send(unit(number))
    link.send(b"")
    link.send(b"end\n")
    assert link.pending > 0
    assert numbers(await at.read(peer, b"end\n")) == [*map(str, range(50)), "end"]
    assert (link.pending, link.writing) == (0, False)
    link.send(b"more\n")
    assert await at.read(peer, b"more\n") == b"more\n"


@pytest.mark.parametrize("manner", ["keeps sending", "has half closed", "closes later"])
async def test_a_polite_close_delivers_the_last_bytes(bench, manner):
    at = bench(linger_seconds=5.0)
    host, port = at.net.listen("x", "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(host, port)
    await until(lambda: at.arrived)
    link = at.arrived[0]
    assert link.sock is not None
    link.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
    writer.write(b"x" * 500_000)
    await until(lambda: at.ear.events)
    for number in range(100):
        link.send(unit(number))
    link.send(b"the reason\n")
    link.close("enough")
    assert at.ear.reasons == ["enough"]
    link.send(b"too late")
    assert link.pending > 0
    if manner == "keeps sending":
        writer.write(b"x" * 2_000_000)
    elif manner == "has half closed":
        writer.write_eof()
    got = numbers(await asyncio.wait_for(reader.read(), 5))
    assert got == [*map(str, range(100)), "the reason"]
    heard = len(at.ear.events)
    writer.close()
    if manner != "has half closed":
        await until(lambda: not at.net.links)
    assert len(at.ear.events) == heard


async def test_a_peer_that_never_closes_is_shut_when_the_linger_time_is_over(bench):
    at = bench(linger_seconds=0.05)
    link, peer = at.link()
    link.send(b"bye\n")
    link.close("enough")
    link.close("twice")
    assert at.ear.reasons == ["enough"]
    assert await at.read(peer) == b"bye\n"
    await until(lambda: not at.net.links)
    assert link.sock is None


async def test_a_reset_is_a_loss_and_a_write_after_it_does_no_harm(bench):
    at = bench()
    host, port = at.net.listen("x", "127.0.0.1", 0)
    sock = socket.create_connection((host, port))
    await until(lambda: at.arrived)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
    link = at.arrived[0]
    await until(lambda: at.ear.reasons)
    assert at.ear.reasons == ["reset by peer"]
    link.send(b"x")
    link.close("x")
    link.fail("x")
    assert len(at.ear.reasons) == 1


# ---- arrivals


async def test_connections_above_the_bound_are_refused_and_counted(bench):
    at = bench(max_connections=2)
    host, port = at.net.listen("rtmp", "127.0.0.1", 0)
    peers = [await asyncio.open_connection(host, port) for _ in range(3)]
    assert await asyncio.wait_for(peers[2][0].read(), 5) == b""
    assert len(at.arrived) == 2
    assert at.net.counters.totals["refused: 2 connections are open already"] == 1
    for _, writer in peers:
        writer.close()
    await until(lambda: not at.net.links)
    _, writer = await asyncio.open_connection(host, port)
    await until(lambda: len(at.arrived) == 3)
    writer.close()


async def test_without_descriptors_newcomers_wait_in_the_backlog(bench):
    at = bench()
    host, port = at.net.listen("rtmp", "127.0.0.1", 0)
    sock = socket.socket()
    sock.setblocking(False)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 10, before[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        await at.loop.sock_connect(sock, (host, port))
        await until(lambda: at.net.counters.totals)
    finally:
        for handle in held:
            os.close(handle)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert list(at.net.counters.totals) == ["cannot accept: Too many open files; raise LimitNOFILE"]
    assert at.arrived == []
    await until(lambda: at.arrived)
    sock.close()


async def test_a_port_that_is_taken_is_said_with_its_address(bench):
    at = bench()
    host, port = at.net.listen("rtmp", "127.0.0.1", 0)
    with pytest.raises(OSError, match=f"{host}:{port}: Address already in use"):
        bound_socket(host, port, 1)
    at.net.stop_listening()
    bound_socket(host, port, 1).close()


def test_numbers_tells_torn_units() -> None:
    cases: Iterator[tuple[bytes, list[str]]] = iter(
        [(unit(1) + b"a\n", ["1", "a"]), (unit(2)[:-5] + b"\n", ["torn b'2' 19996"]), (b"", [])]
    )
    for raw, expected in cases:
        assert numbers(raw) == expected


# ---- reading at the pace of a large audience


async def test_while_its_owner_rests_a_publisher_is_read_once_for_many_packets(bench):
    at = bench()
    at.ear.resting = 0.05
    _, peer = at.link()
    for number in range(20):
        peer.sendall(b"%d " % number)
        await asyncio.sleep(0.005)
    await until(lambda: at.ear.data().endswith(b" 19 "))
    assert at.ear.data() == b"".join(b"%d " % number for number in range(20))
    assert 2 <= len(at.ear.events) <= 8


async def test_a_publisher_that_sends_a_lot_is_read_more_often(bench):
    at = bench()
    at.ear.resting = 0.2
    _, peer = at.link()
    sent = 40 * READ_SIZE
    await at.loop.sock_sendall(peer, bytes(sent) + b"end")
    await until(lambda: at.ear.data().endswith(b"end"))
    assert len(at.ear.data()) == sent + 3


async def test_a_peer_that_goes_while_nobody_reads_is_noticed(bench):
    at = bench()
    at.ear.resting = 0.02
    link, peer = at.link()
    peer.sendall(b"last words")
    await until(lambda: at.ear.data() == b"last words")
    peer.close()
    await until(lambda: at.ear.reasons == ["closed by peer"])
    assert link.sock is None


async def test_a_link_that_fails_while_nobody_reads_is_left_alone(bench):
    at = bench()
    at.ear.resting = 0.02
    link, peer = at.link()
    peer.sendall(b"words")
    await until(lambda: at.ear.data() == b"words")
    link.fail("enough")
    peer.close()
    await asyncio.sleep(0.05)
    assert at.ear.reasons == ["enough"]


async def test_when_the_audience_has_gone_each_packet_is_read_again(bench):
    at = bench()
    at.ear.resting = 0.02
    _, peer = at.link()
    peer.sendall(b"a")
    await until(lambda: at.ear.data() == b"a")
    at.ear.resting = 0.0
    for word in (b"b", b"c", b"d"):
        await asyncio.sleep(0.03)
        peer.sendall(word)
    await until(lambda: at.ear.data() == b"abcd")
    assert len(at.ear.events) == 4
