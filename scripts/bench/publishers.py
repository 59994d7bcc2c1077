"""Encoders in a process of their own: `python -m scripts.bench.publishers PORT COUNT LIVE SECONDS [NAME [ODD]]`.

COUNT connections publish live/NAME1 and so on over RTMP. The first LIVE of them send in real time for SECONDS, each a
little later than the one before, as encoders do that know nothing of each other. The others send `OPENING` ms of the
broadcast and then stop in the middle of a message: an idle session with all the state of a real one. The last ODD of
them announce two picture parameter sets instead of one. Prints "ready" when all have begun. What the server answers is
read and thrown away.
"""

from __future__ import annotations

import heapq
import select
import socket
import sys
import time

from scripts.bench import broadcast, measure

OPENING = 500  # ms


def connect(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def begin(port: int, count: int, name: str, opening: bytes, odd: int = 0) -> list[socket.socket]:
    """Connect everybody; the idle ones have then done all they ever do."""
    socks = []
    for number in range(count):
        sock = connect(port)
        pps = 1 if number < count - odd else 2
        sock.sendall(broadcast.publishing(f"{name}{number + 1}", pps=pps) + opening)
        socks.append(sock)
    return socks


def forget_answers(socks: list[socket.socket]) -> None:
    poll = select.poll()
    table = {sock.fileno(): sock for sock in socks}
    for number in table:
        poll.register(number, select.POLLIN)
    for number, _ in poll.poll(0):
        if not table[number].recv(65_536):
            sys.exit("the server closed a publisher's connection")


def publish(socks: list[socket.socket], messages: list[broadcast.Message], units: list[bytes]) -> None:
    """Send in real time until it is over; a blocking send holds everybody up, which a server must not cause."""
    begun = time.monotonic()
    # the phases of encoders are spread over one picture's time
    due = [(begun + at / len(socks) / broadcast.RATE, at, 0) for at in range(len(socks))]
    origins = [when for when, _, _ in due]
    heapq.heapify(due)
    tidied = begun
    while due:
        when, at, number = due[0]
        now = time.monotonic()
        if when > now:
            time.sleep(min(when - now, 0.01))
            if now - tidied > 1:
                forget_answers(socks)
                tidied = now
            continue
        socks[at].sendall(units[number])
        if number + 1 < len(units):
            heapq.heapreplace(due, (origins[at] + messages[number + 1].time / 1000, at, number + 1))
        else:
            heapq.heappop(due)


def main(port: int, count: int, live: int, seconds: int, name: str, odd: int) -> None:
    measure.raise_descriptor_limit()
    messages = broadcast.until(seconds * 1000 if live else 0)
    units = broadcast.chunks(messages)  # before anybody is connected: it is some seconds of work
    active = begin(port, live, name, b"")
    start = b"".join(broadcast.chunks(broadcast.until(OPENING)))
    idle = begin(port, count - live, f"{name}-idle", start[: -broadcast.SOUND_BYTES // 2], odd)
    print("ready", flush=True)
    if active:
        publish(active, messages, units)
    else:
        time.sleep(seconds)
    forget_answers(idle)


if __name__ == "__main__":
    name = sys.argv[5] if len(sys.argv) > 5 else "bench"
    odd = int(sys.argv[6]) if len(sys.argv) > 6 else 0
    port, count, live, seconds = map(int, sys.argv[1:5])
    main(port, count, live, seconds, name, odd)
