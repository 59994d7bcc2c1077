"""What a rehearsal takes: `python -m scripts.bench.rehearsal [--quick]`.

`check` of patches/codec_fix.py with 1, 100 and 1,000 broadcasts, as pause.py makes them: a process of its own imports
the merged release, takes a copy of every session's real state there and back, and replays each session's last real
events on both. The stall is the longest time that an event waited for the server's loop meanwhile; next to it stands
the same loop's stall in as long a time without a check.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scripts.bench import measure
from scripts.bench.measure import median, scratch
from scripts.bench.pause import ask, broadcasts

COUNTS, ROUNDS = (1, 100, 1_000), 7
SETTLE = 12.0  # s: by then there is a checkpoint, and events since, to rehearse with
HEAD = (
    "sessions", "check", "of which rehearsal", "events replayed", "child's memory MB",
    "stall, idle: median", "worst", "stall, check: median", "worst", "predicted pause", "real",
)  # fmt: skip


def row(count: int, rounds: int, settle: float) -> list[str]:
    checks, idles, loads = [], [], []
    with scratch() as place, broadcasts(count, place) as (server, patch):
        ask(server, f"idle {settle}")
        for _ in range(rounds):
            checks.append(ask(server, f"check {patch}"))
            idles.append(ask(server, f"idle {checks[-1]['total_ms'] / 1000:.3f}"))
            loads.append(ask(server, f'load {patch} {{"probation": 0}}'))
            ask(server, "rollback")
    reports = [item["report"] for item in checks]

    def of(answers: Sequence[dict[str, Any]], key: str) -> list[float]:
        return [item[key] for item in answers]

    return [
        f"{count:,}",
        f"{median(of(checks, 'total_ms')):.0f}",
        f"{median(of(reports, 'seconds')) * 1000:.0f}",
        f"{median(of(reports, 'events')):,.0f}",
        f"{median(of(reports, 'memory_mb')):.0f}",
        f"{median(of(idles, 'stall_ms')):.1f}",
        f"{max(of(idles, 'stall_ms')):.1f}",
        f"{median(of(checks, 'stall_ms')):.1f}",
        f"{max(of(checks, 'stall_ms')):.1f}",
        f"{median(of(loads, 'predicted_pause_ms')):.2f}",
        f"{median([max(item['ms'] for item in load['pauses']) for load in loads]):.2f}",
    ]


def main() -> None:
    chosen = measure.arguments("The time of a rehearsal, by the number of sessions.")
    rounds = chosen.rounds or (1 if chosen.quick else ROUNDS)
    rows = []
    for count in (5,) if chosen.quick else COUNTS:
        measure.progress(f"rehearsal: {count} sessions")
        rows.append(row(count, rounds, 0.5 if chosen.quick else SETTLE))
    notes = [
        f"All in ms; medians of {rounds} rounds. The predicted pause is the longest that the rehearsal expects of any",
        "one session, the real one what the load had afterwards.",
    ]
    measure.report("rehearsal", HEAD, rows, notes)


if __name__ == "__main__":
    main()
