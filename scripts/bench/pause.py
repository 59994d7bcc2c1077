"""What a load does to those who watch: `python -m scripts.bench.pause [--quick]`.

For 1, 100, 1,000 and 5,000 broadcasts patches/codec_fix.py is loaded and rolled back in turns. Every broadcast has a
real RTMP publisher over TCP, in another process; the first few of them send in real time, the others have sent half a
second and stopped inside a message. The first broadcast of all has viewers. The patch changes the state of each.

The longest pause is the load's own figure: how long the loop was held at a time while sessions moved. The longest stall
is seen from inside the loop during the whole load, reading, rehearsal and import included; next to it stands the
same loop's stall in a time without a load.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.bench import measure
from scripts.bench.measure import median, running, scratch

COUNTS, ROUNDS = (1, 100, 1_000, 5_000), 7
LIVE, VIEWERS = 10, 100
TARGET_MS = 5.0  # longest pause, and at so many sessions:
TARGET_AT = 1_000
HEAD = (
    "sessions", "total", "longest pause: median", "worst", "rollback: worst",
    "stall, idle: median", "worst", "stall, load: median", "worst", "stall, rollback: worst",
)  # fmt: skip


def ask(server: measure.Process, line: str) -> dict[str, Any]:
    server.say(line)
    told: dict[str, Any] = json.loads(server.hear(120))
    if "error" in told:
        sys.exit(f"{line}: {told['error']}")
    return told


def wait_for(server: measure.Process, count: int) -> None:
    for _ in range(600):
        if ask(server, "sessions")["sessions"] >= count:
            return
    sys.exit(f"the server has fewer than {count} broadcasts")


def one(count: int, rounds: int, place: Path) -> list[str]:
    """The row for so many sessions."""
    patches = place / "patches"
    patches.mkdir(mode=0o755)
    shutil.copy(measure.ROOT / "patches" / "codec_fix.py", patches)
    patch = str(patches / "codec_fix.py")
    request = place / "request"
    request.write_bytes(b"GET /live/bench1.flv HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    program = measure.compiled("viewers.c", place)
    measure.progress(f"pause: {count} sessions")
    with running(
        "streamd", [sys.executable, "-m", "scripts.bench.serve", place / "state", patches], measure.ANY
    ) as server:
        ports = json.loads(server.hear())
        live = min(LIVE, count)
        command = [sys.executable, "-m", "scripts.bench.publishers", ports["rtmp"], count, live, 600]
        with running("publishers", [str(item) for item in command], -1) as publishers:
            publishers.hear(120)
            wait_for(server, count)
            if program is None:
                return measured(server, count, rounds, patch)
            with running("viewers", [program, str(ports["http"]), str(VIEWERS), request], -1) as viewers:
                viewers.hear()
                return measured(server, count, rounds, patch)


def measured(server: measure.Process, count: int, rounds: int, patch: str) -> list[str]:
    loads, backs, idles = [], [], []
    for _ in range(rounds):
        loads.append(ask(server, f"load {patch}"))
        idles.append(ask(server, f"idle {loads[-1]['total_ms'] / 1000:.3f}"))
        backs.append(ask(server, "rollback"))
    if loads[-1]["sessions"] < count:
        sys.exit(f"only {loads[-1]['sessions']} of {count} sessions were moved")

    def of(answers: Sequence[dict[str, Any]], key: str) -> list[float]:
        return [item[key] for item in answers]

    pauses = of(loads, "longest_pause_ms")
    figures = [
        median(of(loads, "total_ms")), median(pauses), max(pauses), max(of(backs, "longest_pause_ms")),
        median(of(idles, "stall_ms")), max(of(idles, "stall_ms")),
        median(of(loads, "stall_ms")), max(of(loads, "stall_ms")), max(of(backs, "stall_ms")),
    ]  # fmt: skip
    return [f"{count:,}", f"{figures[0]:.0f}", *(f"{figure:.1f}" for figure in figures[1:])]


def main() -> None:
    chosen = measure.arguments("The pause of a load, by the number of sessions.")
    counts = (1, 20) if chosen.quick else COUNTS
    rounds = chosen.rounds or (2 if chosen.quick else ROUNDS)
    rows = []
    for count in counts:
        with scratch() as place:
            rows.append(one(count, rounds, place))
    worst = {row[0]: float(row[3]) for row in rows}
    notes = [f"All in ms; {rounds} loads and {rounds} rollbacks for each row."]
    if (reached := worst.get(f"{TARGET_AT:,}")) is not None:
        verdict = "kept" if reached < TARGET_MS else "MISSED"
        notes.append(
            f"Target: longest pause at {TARGET_AT:,} sessions below {TARGET_MS:g} ms: {reached:.1f} ms, {verdict}."
        )
    measure.report("pause", HEAD, rows, notes)


if __name__ == "__main__":
    main()
