"""What a viewer costs: `python -m scripts.bench.fanout [--quick]`.

One broadcast of 1 Mbps and 30 pictures a second goes to 100, 500, 1,000 and 2,000 viewers of HTTP-FLV. The same bytes
go to as many viewers from a bare sender in C and one in Python, which gather them for as long as streamd does with an
audience of that size; and from nginx-rtmp over RTMP, message by message as it does by default, where it is installed.
Every sender is a process on one processor, the load generator and the publisher are others on another. The senders
take turns within each round.

A figure is CPU time of the sender's process, user and system, in µs for a viewer and a second. On loopback that
includes the receiving side of TCP, which is the same for all.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from scripts.bench import broadcast, measure
from scripts.bench.measure import Process, median, running, scratch
from streamd.runtime.link import Limits

COUNTS, ROUNDS, SECONDS = (100, 500, 1_000, 2_000), 3, 5.0
SETTLE = 1.5  # s after the last viewer's first byte: the GOP that everyone gets at the start is over
TARGET, TARGET_AT = 1.3, 1_000
NGINX_MODULES = Path("/usr/lib/nginx/modules/ngx_rtmp_module.so")
SENDERS = ("streamd", "C", "Python", "nginx-rtmp")
NGINX = """
load_module {module};
daemon off; master_process off; pid {place}/nginx.pid; error_log {place}/error.log error;
worker_rlimit_nofile 20000;
events {{ worker_connections 8192; }}
rtmp {{ server {{ listen 127.0.0.1:{port}; chunk_size 65536; application live {{ live on; }} }} }}
"""


class Sample(NamedTuple):
    """`cost` µs of CPU per viewer and second; `received` share of the broadcast's bytes that came; `gap` ms."""

    cost: float
    received: float
    gap: float
    closed: int


def interval(viewers: int) -> float:
    """ms for which streamd gathers what it sends to so many viewers (streamd.runtime.net, Group.interval)."""
    limits = Limits()
    crowd = min(1.0, max(0, viewers - 20) / 480)
    return limits.flush_few_ms + crowd * (limits.flush_many_ms - limits.flush_few_ms)


class Bench:
    """The programs and files of one run."""

    def __init__(self, place: Path, seconds: float, settle: float = SETTLE) -> None:
        program = measure.compiled("viewers.c", place)
        if program is None:
            sys.exit("The viewers are a C program; install a compiler (Debian: apt install gcc libc6-dev).")
        self.viewers = program
        self.sender = measure.compiled("sender.c", place)
        self.place = place
        self.seconds = seconds
        self.settle = settle
        self.life = int(seconds + SETTLE + 30)
        self.flv = place / "flv-request"
        self.flv.write_bytes(b"GET /live/bench1.flv HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        self.rtmp = place / "rtmp-request"
        self.rtmp.write_bytes(broadcast.playing("bench1"))
        self.tags = place / "tags"
        messages = broadcast.until(self.life * 1000)
        self.tags.write_bytes(broadcast.tags_file(messages))
        self.rate = self.tags.stat().st_size / self.life

    def offered(self) -> list[str]:
        """The senders that there are on this machine."""
        nginx = shutil.which("nginx") is not None and NGINX_MODULES.exists()
        return [name for name in SENDERS if name != "nginx-rtmp" or nginx]

    def sample(self, name: str, viewers: int) -> Sample:
        measure.progress(f"fanout: {viewers} viewers of {name}")
        if name == "streamd":
            with self._streamd() as (server, port):
                return self._watch(server, port, self.flv, viewers)
        if name == "nginx-rtmp":
            with self._nginx() as (server, port):
                return self._watch(server, port, self.rtmp, viewers)
        assert self.sender is not None
        program = [self.sender] if name == "C" else [sys.executable, "-m", "scripts.bench.sender"]
        port = measure.free_port()
        with running(
            name, [*program, str(port), str(viewers), f"{interval(viewers):.3f}", self.tags], 0
        ) as server:
            server.hear()
            return self._watch(server, port, self.flv, viewers)

    @contextlib.contextmanager
    def _streamd(self) -> Iterator[tuple[Process, int]]:
        state = self.place / "state"
        with running(
            "streamd", [sys.executable, "-m", "scripts.bench.serve", state, measure.ROOT / "patches"], 0
        ) as server:
            ports = json.loads(server.hear())
            with self._publisher(ports["rtmp"]):
                yield server, ports["http"]
        shutil.rmtree(state)

    @contextlib.contextmanager
    def _nginx(self) -> Iterator[tuple[Process, int]]:
        port, file = measure.free_port(), self.place / "nginx.conf"
        file.write_text(NGINX.format(module=NGINX_MODULES, place=self.place, port=port))
        with running("nginx", ["nginx", "-c", file, "-p", self.place], 0) as server:
            time.sleep(0.5)
            with self._publisher(port):
                yield server, port

    @contextlib.contextmanager
    def _publisher(self, port: int) -> Iterator[None]:
        command = [sys.executable, "-m", "scripts.bench.publishers", str(port), "1", "1", str(self.life)]
        with running("publisher", command, -1) as publisher:
            publisher.hear()
            time.sleep(1.2)  # the broadcast has begun, and its tracks are known
            yield

    def _watch(self, server: Process, port: int, request: Path, count: int) -> Sample:
        with running("viewers", [self.viewers, str(port), str(count), request], -1) as viewers:
            viewers.hear()
            time.sleep(self.settle)
            begun, before = time.monotonic(), server.cpu()
            viewers.say()
            time.sleep(self.seconds)
            spent, took = server.cpu() - before, time.monotonic() - begun
            viewers.say()
            told = json.loads(viewers.hear())
        received = told["bytes"] / count / (self.rate * took)
        return Sample(spent * 1e6 / count / took, received, told["gap_ms"], told["closed"])


def row(count: int, samples: dict[str, list[Sample]]) -> list[str]:
    cost = {name: median([item.cost for item in taken]) for name, taken in samples.items()}
    cells = [f"{count:,}", f"{interval(count):.0f}"]
    cells += [f"{cost[name]:.0f}" if name in cost else "-" for name in SENDERS]
    cells += [f"{ratio(samples, 'streamd', name):.2f}" if name in cost else "-" for name in SENDERS[1:]]
    streamd = samples["streamd"]
    cells += [
        f"{min(item.received for item in streamd):.0%}",
        f"{median([item.gap for item in streamd]):.0f}",
    ]
    return cells


def ratio(samples: dict[str, list[Sample]], one: str, other: str) -> float:
    """The median of the rounds' ratios: what disturbs a round disturbs both."""
    return median([left.cost / right.cost for left, right in zip(samples[one], samples[other], strict=True)])


def main() -> None:
    chosen = measure.arguments("CPU per viewer-second, next to a bare sender and nginx-rtmp.")
    measure.raise_descriptor_limit()
    counts, seconds = ((50,), 1.0) if chosen.quick else (COUNTS, SECONDS)
    rounds = chosen.rounds or (1 if chosen.quick else ROUNDS)
    rows, notes = (
        [],
        [f"µs of CPU per viewer-second; medians of {rounds} rounds of {seconds:g} s; ratios within a round."],
    )
    with scratch() as place:
        bench = Bench(place, seconds, 0.3 if chosen.quick else SETTLE)
        for count in counts:
            samples: dict[str, list[Sample]] = {name: [] for name in bench.offered()}
            for _ in range(rounds):
                for name, taken in samples.items():
                    taken.append(bench.sample(name, count))
            rows.append(row(count, samples))
            lost = [
                f"{name} closed {item.closed}"
                for name, taken in samples.items()
                for item in taken
                if item.closed
            ]
            notes += [f"{count:,} viewers: {', '.join(lost)} connections"] if lost else []
            if count == TARGET_AT:
                reached = ratio(samples, "streamd", "C")
                verdict = "kept" if reached <= TARGET else "MISSED"
                notes.append(
                    f"Target: at {count:,} viewers at most {TARGET} times the bare sender in C: {reached:.2f}, {verdict}."
                )
    head = (
        "viewers",
        "interval ms",
        *SENDERS,
        *(f"streamd / {name}" for name in SENDERS[1:]),
        "received",
        "gap ms",
    )
    measure.report("fanout", head, rows, notes)


if __name__ == "__main__":
    main()
