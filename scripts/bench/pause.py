"""What a load does to those who watch: `python -m scripts.bench.pause [--quick]`.

For 1, 100 and 1,000 broadcasts patches/codec_fix.py is loaded and rolled back in turns. Every broadcast has a
real RTMP publisher over TCP, in another process; the first few of them send in real time, the others have sent half a
second and stopped inside a message. The first broadcast of all has viewers. The patch changes the state of each.
Then, for fewer rounds, the same load is put on probation as it is by default, guarded by the old code.

The longest pause is the load's own figure: how long the loop was held at a time while sessions moved. The longest stall
is seen from inside the loop during the whole load, reading, rehearsal and import included; next to it stands the
same loop's stall in a time without a load. What probation costs is the server's processor time meanwhile, against that
without, with the same publishers and viewers.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from scripts.bench import measure
from scripts.bench.measure import Process, median, running, scratch

COUNTS, ROUNDS = (1, 100, 1_000), 7
LIVE, VIEWERS = 10, 100
TRIALS, TRIAL = 3, 10.0  # probations, and s of each that are looked at: two of its audits
PROBATION = 30.0  # s, [probation] seconds
PATIENCE = 120.0  # s that a verb may take
TARGET_MS = 5.0  # longest pause, and at so many sessions:
TARGET_AT = 1_000
HEAD = (
    "sessions", "total", "longest pause: median", "worst", "rollback: worst",
    "stall, idle: median", "worst", "stall, load: median", "worst", "stall, rollback: worst",
)  # fmt: skip
HEAD_PROBATION = (
    "sessions",
    "CPU without",
    "on probation",
    "ratio",
    "stall, without: worst",
    "on probation: worst",
)


def ask(server: Process, line: str) -> dict[str, Any]:
    server.say(line)
    told: dict[str, Any] = json.loads(server.hear(PATIENCE))
    if "error" in told:
        sys.exit(f"{line}: {told['error']}")
    return told


@contextlib.contextmanager
def broadcasts(count: int, place: Path) -> Iterator[tuple[Process, Path]]:
    """A server with so many, and the patch that it can load."""
    patches = place / "patches"
    patches.mkdir(mode=0o755)
    shutil.copy(measure.ROOT / "patches" / "codec_fix.py", patches)
    request = place / "request"
    request.write_bytes(b"GET /live/bench1.flv HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    program = measure.compiled("viewers.c", place)
    with (
        running(
            "streamd", [sys.executable, "-m", "scripts.bench.serve", place / "state", patches], measure.ANY
        ) as server,
        contextlib.ExitStack() as peers,
    ):
        ports = json.loads(server.hear())
        live = min(LIVE, count)
        command = [sys.executable, "-m", "scripts.bench.publishers", ports["rtmp"], count, live, 600]
        publishers = peers.enter_context(running("publishers", [str(item) for item in command], -1))
        publishers.hear(PATIENCE)
        ask(server, f"settled {count}")
        if program is not None:
            watching: list[str | Path] = [program, str(ports["http"]), str(VIEWERS), request]
            peers.enter_context(running("viewers", watching, -1)).hear()
        yield server, patches / "codec_fix.py"


def measured(server: Process, count: int, rounds: int, patch: Path) -> list[str]:
    """The row of loads and rollbacks with so many sessions."""
    loads, backs, idles = [], [], []
    for _ in range(rounds):
        loads.append(ask(server, f'load {patch} {{"probation": 0}}'))
        idles.append(ask(server, f"idle {loads[-1]['total_ms'] / 1000:.3f}"))
        backs.append(ask(server, "rollback"))
    if loads[-1]["sessions"] < count:
        sys.exit(f"only {loads[-1]['sessions']} of {count} sessions were moved")
    pauses = of(loads, "longest_pause_ms")
    figures = [
        median(of(loads, "total_ms")), median(pauses), max(pauses), max(of(backs, "longest_pause_ms")),
        median(of(idles, "stall_ms")), max(of(idles, "stall_ms")),
        median(of(loads, "stall_ms")), max(of(loads, "stall_ms")), max(of(backs, "stall_ms")),
    ]  # fmt: skip
    return [f"{count:,}", f"{figures[0]:.0f}", *(f"{figure:.1f}" for figure in figures[1:])]


def of(answers: Sequence[dict[str, Any]], key: str) -> list[float]:
    return [item[key] for item in answers]


def guarded(server: Process, count: int, rounds: int, seconds: float, patch: Path) -> list[str]:
    """The row of what probation costs with so many sessions."""
    without, on_probation = [], []
    for _ in range(rounds):
        without.append(busy(server, seconds))
        ask(server, f'load {patch} {{"probation": {PROBATION}}}')
        on_probation.append(busy(server, seconds))
        if ask(server, "status")["probation"] is None:
            sys.exit("the probation was over too soon")
        ask(server, "rollback")
    before, cost = median(of(without, "busy")), median(of(on_probation, "busy"))
    return [
        f"{count:,}", f"{before:.1%}", f"{cost:.1%}", f"{cost / before:.2f}",
        f"{max(of(without, 'stall_ms')):.1f}", f"{max(of(on_probation, 'stall_ms')):.1f}",
    ]  # fmt: skip


def busy(server: Process, seconds: float) -> dict[str, Any]:
    """The share of a processor that the server uses, and its loop's stall."""
    began, before = time.monotonic(), server.cpu()
    told = ask(server, f"idle {seconds}")
    return {**told, "busy": (server.cpu() - before) / (time.monotonic() - began)}


def main() -> None:
    chosen = measure.arguments("The pause of a load, by the number of sessions.")
    counts = (1, 20) if chosen.quick else COUNTS
    rounds = chosen.rounds or (1 if chosen.quick else ROUNDS)
    rows, costs = [], []
    for count in counts:
        measure.progress(f"pause: {count} sessions")
        with scratch() as place, broadcasts(count, place) as (server, patch):
            rows.append(measured(server, count, rounds, patch))
            trials, seconds = (1, 0.5) if chosen.quick else (min(TRIALS, rounds), TRIAL)
            costs.append(guarded(server, count, trials, seconds, patch))
    worst = {row[0]: float(row[3]) for row in rows}
    notes = [f"All in ms; {rounds} loads and {rounds} rollbacks for each row."]
    if (reached := worst.get(f"{TARGET_AT:,}")) is not None:
        verdict = "kept" if reached < TARGET_MS else "MISSED"
        notes.append(
            f"Target: longest pause at {TARGET_AT:,} sessions below {TARGET_MS:g} ms: {reached:.1f} ms, {verdict}."
        )
    measure.report("pause", HEAD, rows, notes)
    notes = [
        f"Share of a processor that the server uses with {LIVE} live publishers and {VIEWERS} viewers, and ms; {TRIALS} times",
        f"{TRIAL:g} s of a probation of {PROBATION:g} s.",
    ]
    measure.report("probation", HEAD_PROBATION, costs, notes)


if __name__ == "__main__":
    main()
