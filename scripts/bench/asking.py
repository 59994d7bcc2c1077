"""Clients that ask each session again and again: `python -m scripts.bench.asking relay|websocket PORT COUNT LIVE RTMP-PORT ODD`.

COUNT connections, each to a session of its own, are asked in turns, so often that some session is asked every
millisecond; whoever has not answered yet is not asked again. How long a question waits for its answer is what the
session's client sees of an upgrade. A client whose connection is lost comes back until it is answered, and has waited
for all of that time.

    relay      lines, as otp/v1/relay_session.erl has them: "ping 7" is answered by "pong 7 1"
    websocket  viewers of streamd's broadcasts live/bench1 to LIVE, live/bench-idle1 and so on: a ping frame by a pong

ODD is 1 where the last of all has two picture parameter sets.

Says "ready" when all have been answered, then takes a word a line on standard input:

    start [RATE]  forget what was; from now on RATE newcomers a second come, each with a session of its own
    busy MS       the client in the middle asks for something that keeps its session busy for so long
    stop          ask everybody once more, wait for the answers, and say what was seen as a line of JSON
"""

from __future__ import annotations

import gc
import heapq
import itertools
import json
import os
import select
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

from scripts.bench import broadcast, measure

RATE = 1_000  # questions a second, to all together
COMES_BACK = 0.02  # s between two attempts of a client that was cut off
PATIENCE = 15.0  # s that the last answers may take
BUSY = b"busy"
OPENING = 100  # ms of a broadcast that a newcomer publishes


class Client:
    """One connection. `asked`: when the oldest question without an answer was asked, 0 where there is none."""

    def __init__(self, port: int, name: str, newcomer: bool = False) -> None:
        self.port, self.name, self.newcomer = port, name, newcomer
        self.asked = self.longest = 0.0
        self.version = ""
        self.lost = 0
        self.begun = False
        self.sock: socket.socket | None = None
        self.rest = b""

    def connect(self) -> None:
        """Raises OSError."""
        self.rest, self.begun = b"", False
        self.sock = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.asked = self.asked or time.monotonic()
        self.sock.sendall(self.greeting())

    def ask(self, now: float) -> None:
        assert self.sock is not None
        if self.begun and not self.asked:
            self.asked = now
            self.sock.sendall(self.question())

    def answered(self, now: float) -> None:
        self.begun = True
        if self.asked:
            self.longest = max(self.longest, now - self.asked)
            self.asked = 0.0

    # ---- what the protocols differ in

    def greeting(self) -> bytes:
        raise NotImplementedError

    def question(self) -> bytes:
        raise NotImplementedError

    def busy(self, ms: int) -> bytes:
        raise NotImplementedError

    def answers(self) -> bool:
        """Take from `rest` what is whole; whether an answer was in it."""
        raise NotImplementedError


class Relay(Client):
    """The OTP release's lines. One of all has two picture parameter sets, as some encoders send."""

    odd = ""  # the name of that one

    def greeting(self) -> bytes:
        return f"begin {self.name} {broadcast.config(2 if self.name == self.odd else 1).hex()}\n".encode()

    def question(self) -> bytes:
        return b"ping 1\n"

    def busy(self, ms: int) -> bytes:
        return b"busy %d\n" % ms

    def answers(self) -> bool:
        *lines, self.rest = self.rest.split(b"\n")
        for line in lines:
            self.version = line.split()[-1].decode()
        return bool(lines)


class Viewer(Client):
    """A WebSocket viewer. What it is sent of the broadcast is skipped."""

    def greeting(self) -> bytes:
        lines = (
            f"GET /live/{self.name}.flv HTTP/1.1", "Host: 127.0.0.1", "Connection: Upgrade", "Upgrade: websocket",
            "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "", "",
        )  # fmt: skip
        return "\r\n".join(lines).encode()

    def question(self) -> bytes:
        return b"\x89\x80\x00\x00\x00\x00"

    def busy(self, ms: int) -> bytes:
        return b"\x89\x84\x00\x00\x00\x00" + BUSY

    def answers(self) -> bool:
        found = False
        if not self.begun:
            head, end, self.rest = self.rest.partition(b"\r\n\r\n")
            if not end:
                self.rest = head
                return False
            if b" 101 " not in head:
                raise ConnectionError(head.decode())
            found = True
        data, at = self.rest, 0
        while len(data) >= at + 2:
            size, start = data[at + 1], at + 2
            if size >= 126:
                start += 2 if size == 126 else 8
                if len(data) < start:
                    break
                size = int.from_bytes(data[at + 2 : start], "big")
            if len(data) < start + size:
                break
            found = found or data[at] == 0x8A
            at = start + size
        self.rest = data[at:]
        return found


class Publisher:
    """The encoder of a newcomer: its viewer comes when the server has said that it may publish."""

    def __init__(self, port: int, viewer: Viewer) -> None:
        self.viewer, self.heard = viewer, b""
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.sock.sendall(broadcast.publishing(viewer.name) + OPENED)

    def may_publish(self, data: bytes) -> bool:
        """True once."""
        if self.viewer.sock is not None:
            return False
        self.heard += data
        return b"NetStream.Publish.Start" in self.heard


OPENED = b"".join(broadcast.chunks(broadcast.until(OPENING)))


class Crowd:
    """All clients and the one loop they live in."""

    def __init__(self, kind: type[Client], port: int, names: list[str], rtmp: int) -> None:
        self.kind, self.port, self.rtmp = kind, port, rtmp
        self.clients = [kind(port, name) for name in names]
        self.newcomers: list[Client] = []
        self.numbers = itertools.count(1)
        self.poll = select.epoll()
        self.by_number: dict[int, Client | Publisher] = {}
        self.away: list[tuple[float, int, Client]] = []
        self.chosen = self.clients[len(self.clients) // 3]

    # ---- connections

    def join(self, client: Client) -> None:
        try:
            client.connect()
        except OSError:
            self.retry(client)
            return
        assert client.sock is not None
        self.listen(client, client.sock)

    def listen(self, who: Client | Publisher, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.by_number[sock.fileno()] = who
        self.poll.register(sock.fileno(), select.EPOLLIN)

    def retry(self, client: Client) -> None:
        client.asked = client.asked or time.monotonic()
        heapq.heappush(self.away, (time.monotonic() + COMES_BACK, id(client), client))

    def lose(self, client: Client) -> None:
        assert client.sock is not None
        self.forget(client.sock)
        client.lost += 1
        client.sock, client.begun = None, False
        if not client.newcomer:
            self.retry(client)

    def forget(self, sock: socket.socket) -> None:
        self.poll.unregister(sock.fileno())
        del self.by_number[sock.fileno()]
        sock.close()

    def welcome(self) -> None:
        """A newcomer."""
        client = self.kind(self.port, f"new{next(self.numbers)}", True)
        self.newcomers.append(client)
        if self.rtmp:
            assert isinstance(client, Viewer)
            client.asked = time.monotonic()
            try:
                publisher = Publisher(self.rtmp, client)
            except OSError:
                client.lost += 1
            else:
                self.listen(publisher, publisher.sock)
        else:
            self.join(client)

    # ---- one turn

    def turn(self, seconds: float) -> bool:
        """Handle what comes within so many seconds; whether there is a line on standard input."""
        told = False
        for number, _ in self.poll.poll(max(0.0, seconds)):
            who = self.by_number.get(number)
            if number == 0:
                told = True
            elif who is not None:
                self.read(who)
        while self.away and self.away[0][0] <= time.monotonic():
            self.join(heapq.heappop(self.away)[2])
        return told

    def read(self, who: Client | Publisher) -> None:
        assert who.sock is not None
        try:
            data = who.sock.recv(262_144)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if isinstance(who, Publisher):
            if not data:
                self.forget(who.sock)
                who.viewer.lost += 1
            elif who.may_publish(data):
                self.join(who.viewer)
            return
        who.rest += data
        try:
            if not data:
                raise ConnectionError
            if who.answers():
                who.answered(time.monotonic())
        except ConnectionError:
            self.lose(who)

    def ask(self, client: Client) -> None:
        if client.sock is not None:
            try:
                client.ask(time.monotonic())
            except OSError:
                self.lose(client)

    def settle(self, clients: list[Client], patience: float) -> None:
        """Until everybody has answered."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline and any(item.asked or not item.begun for item in clients):
            self.turn(0.05)

    # ---- the whole

    def run(self) -> None:
        for client in self.clients:
            self.join(client)
            self.turn(0)
        self.settle(self.clients, 60)
        if not all(client.begun for client in self.clients):
            sys.exit("not everybody was let in")
        self.poll.register(0, select.EPOLLIN)
        gc.collect()
        gc.disable()
        print("ready", flush=True)
        rate, turns = 0.0, itertools.cycle(self.clients)
        next_question = next_newcomer = time.monotonic()
        while True:
            now = time.monotonic()
            if now >= next_question:
                self.ask(next(turns))
                next_question = max(next_question, now - 0.05) + 1 / RATE
            if rate and now >= next_newcomer:
                self.welcome()
                next_newcomer = max(next_newcomer, now - 0.05) + 1 / rate
            if self.turn(next_question - time.monotonic()):
                word, *more = os.read(0, 4096).decode().split() or ["end"]
                if word == "start":
                    rate, next_newcomer = float(more[0]) if more else 0.0, time.monotonic()
                    self.start()
                elif word == "busy":
                    assert self.chosen.sock is not None
                    self.chosen.asked = time.monotonic()
                    self.chosen.sock.sendall(self.chosen.busy(int(more[0])))
                elif word == "stop":
                    rate = 0.0
                    print(json.dumps(self.stop()), flush=True)
                else:
                    return

    def start(self) -> None:
        self.newcomers.clear()
        for client in self.clients:
            client.longest, client.lost = 0.0, 0

    def stop(self) -> dict[str, Any]:
        everybody = [*self.clients, *self.newcomers]
        self.settle([item for item in everybody if not (item.newcomer and item.lost)], PATIENCE)
        for client in everybody:
            self.ask(client)
        self.settle([item for item in everybody if not (item.newcomer and item.lost)], PATIENCE)
        others = [item for item in self.clients if item is not self.chosen]
        versions: dict[str, int] = {}
        for client in self.clients:
            versions[client.version] = versions.get(client.version, 0) + 1
        return {
            "longest_ms": ms(others),
            "chosen_ms": ms([self.chosen]),
            "chosen_lost": bool(self.chosen.lost),
            "lost": sum(bool(item.lost) for item in self.clients),
            "silent": sum(bool(item.asked) for item in self.clients),
            "newcomers": len(self.newcomers),
            "newcomers_lost": sum(bool(item.lost or item.asked) for item in self.newcomers),
            "newcomers_ms": ms(self.newcomers),
            "versions": versions,
        }


def ms(clients: list[Client]) -> float:
    """The longest wait of any; one that is not over counts as far as it has come."""
    now = time.monotonic()
    waits = (max(item.longest, now - item.asked if item.asked else 0.0) for item in clients)
    return round(max(waits, default=0.0) * 1000, 3)


def names(count: int, live: int) -> Iterator[str]:
    """As publishers.py names its broadcasts."""
    yield from (f"bench{number + 1}" for number in range(live))
    yield from (f"bench-idle{number + 1}" for number in range(count - live))


def main(kind: str, port: int, count: int, live: int, rtmp: int, odd: int) -> None:
    measure.raise_descriptor_limit()
    called = list(names(count, live))
    if odd:
        Relay.odd = called[-1]
    Crowd(Relay if kind == "relay" else Viewer, port, called, rtmp).run()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
