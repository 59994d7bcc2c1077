"""What a publisher costs: `python -m scripts.bench.ingest [--quick]`.

10 and 100 encoders publish 1 Mbps each over RTMP, 30 pictures and 47 audio frames a second, from another process and
in real time; nobody watches. A figure is CPU time of the server's process per publisher-second. nginx-rtmp takes the
same bytes in turn where it is installed; it does less with them, for it relays messages as they are and muxes
nothing that nobody has asked for.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from scripts.bench import measure
from scripts.bench.fanout import NGINX, NGINX_MODULES
from scripts.bench.measure import Process, median, running, scratch

COUNTS, ROUNDS, SECONDS = (10, 100), 3, 5.0
SETTLE = 8.0  # s: the rings are full, and memory grows no more


@contextlib.contextmanager
def streamd(place: Path) -> Iterator[tuple[Process, int]]:
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "scripts.bench.serve",
        place / "state",
        measure.ROOT / "patches",
    ]
    with running("streamd", command, 0) as server:
        yield server, json.loads(server.hear())["rtmp"]


@contextlib.contextmanager
def nginx(place: Path) -> Iterator[tuple[Process, int]]:
    port, file = measure.free_port(), place / "nginx.conf"
    file.write_text(NGINX.format(module=NGINX_MODULES, place=place, port=port))
    with running("nginx", ["nginx", "-c", file, "-p", place], 0) as server:
        time.sleep(0.5)
        yield server, port


def idle_cost(server: Process, seconds: float) -> float:
    """CPU seconds in a second without publishers."""
    before = server.cpu()
    time.sleep(seconds)
    return (server.cpu() - before) / seconds


def sample(server: Process, port: int, count: int, seconds: float, settle: float) -> float:
    """µs of CPU per publisher-second, less what the server does anyway."""
    idle = idle_cost(server, settle / 4)
    command = [sys.executable, "-m", "scripts.bench.publishers", str(port), str(count), str(count), "600"]
    with running("publishers", command, -1) as publishers:
        publishers.hear()
        time.sleep(settle)
        begun, before = time.monotonic(), server.cpu()
        time.sleep(seconds)
        return ((server.cpu() - before) / (time.monotonic() - begun) - idle) * 1e6 / count


def main() -> None:
    chosen = measure.arguments("CPU per 1 Mbps publisher.")
    counts, seconds = ((5,), 1.0) if chosen.quick else (COUNTS, SECONDS)
    rounds = chosen.rounds or (1 if chosen.quick else ROUNDS)
    settle = 0.4 if chosen.quick else SETTLE
    kinds = {"streamd": streamd, **({"nginx-rtmp": nginx} if NGINX_MODULES.exists() else {})}
    rows = []
    for count in counts:
        costs: dict[str, list[float]] = {name: [] for name in kinds}
        for _ in range(rounds):
            for name, serve in kinds.items():
                measure.progress(f"ingest: {count} publishers to {name}")
                with scratch() as place, serve(place) as (server, port):
                    costs[name].append(sample(server, port, count, seconds, settle))
        middle = {name: median(taken) for name, taken in costs.items()}
        other = middle.get("nginx-rtmp")
        rows.append(
            [
                f"{count:,}",
                f"{middle['streamd']:,.0f}",
                f"{other:,.0f}" if other else "-",
                f"{middle['streamd'] / other:.1f}" if other else "-",
                f"{1e6 / middle['streamd']:.0f}",
            ]
        )
    head = ("publishers", "streamd", "nginx-rtmp", "ratio", "publishers a core")
    notes = [f"µs of CPU per publisher-second; medians of {rounds} rounds of {seconds:g} s."]
    measure.report("ingest", head, rows, notes)


if __name__ == "__main__":
    main()
