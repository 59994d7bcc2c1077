"""What safety costs a step: `python -m scripts.bench.guard [--quick]`.

A publisher's messages, 77 a second of a 1 Mbps broadcast, are handed to a session with 1 and with 1,000 viewers:

    plain       as outside of a probation
    no journal  the same, but the event is not noted for a replay
    guarded     on probation: patches/codec_fix.py is loaded, and the release before handles every event as well

and outside of steps: a checkpoint of that session, and making its state anew from the checkpoint and the events since,
which is what a failed step costs. All in µs of CPU, in a real server, in turns.
"""

from __future__ import annotations

import json
import shutil
import sys
from typing import Any

from scripts.bench import measure
from scripts.bench.measure import Process, median, running, scratch
from scripts.bench.pause import PATIENCE, ask

VIEWERS, ROUNDS = (1, 1_000), 9
SLICE = 4_000  # ms of the broadcast, a turn
SINCE = 3_000  # ms; half of [supervision] journal_bytes, which brings the next checkpoint, is little more of this broadcast
PAIRS = 3  # of plain and without the journal, a round
HELD = 600.0  # s of probation: longer than a turn
TARGET, TARGET_AT = 2.0, 1_000
HEAD = ("viewers", "plain", "no journal", "journal's share", "guarded", "guarded / plain")
HEAD_PAST = ("viewers", "checkpoint", "state anew", "events replayed", "an event")


def one(viewers: int, rounds: int, ms: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """(µs of a step by kind, µs of what has to do with the past)."""
    with scratch() as place:
        patches = place / "patches"
        patches.mkdir(mode=0o755)
        shutil.copy(measure.ROOT / "patches" / "codec_fix.py", patches)
        request = place / "request"
        request.write_bytes(b"GET /live/bench-idle1.flv HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        program = measure.compiled("viewers.c", place)
        if program is None:
            sys.exit("guard: the viewers need a C compiler (Debian: apt install gcc libc6-dev)")
        with running(
            "streamd", [sys.executable, "-m", "scripts.bench.serve", place / "state", patches], 0
        ) as server:
            ports = json.loads(server.hear())
            command = [sys.executable, "-m", "scripts.bench.publishers", str(ports["rtmp"]), "1", "0", "3600"]
            with running("publishers", command, -1) as publishers:
                publishers.hear()
                ask(server, "settled 1")
                with running("viewers", [program, str(ports["http"]), str(viewers), request], -1) as crowd:
                    crowd.hear(PATIENCE)
                    return turns(server, str(patches / "codec_fix.py"), rounds, ms)


def turns(
    server: Process, patch: str, rounds: int, ms: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    costs: dict[str, list[float]] = {"plain": [], "no journal": [], "guarded": []}
    past: dict[str, list[float]] = {"checkpoint_us": [], "recompute_us": [], "events": []}
    for _ in range(rounds):
        for _ in range(PAIRS):
            for kind, line in (("plain", f"steps {ms}"), ("no journal", f"unwritten {ms}")):
                costs[kind].append(ask(server, line)["us"])
        told: dict[str, Any] = ask(server, f"recompute {SINCE}")
        for key, values in past.items():
            values.append(told[key])
        ask(server, f"load {patch} " + json.dumps({"probation": HELD}))
        costs["guarded"].append(ask(server, f"steps {ms}")["us"])
        if ask(server, "status")["probation"]["differences"]:
            sys.exit("guard: the patch answers otherwise, and is not compared any more")
        ask(server, "rollback")
    return costs, past


def main() -> None:
    chosen = measure.arguments("What the guard and the journal cost a step.")
    measure.raise_descriptor_limit()
    counts = (1, 20) if chosen.quick else VIEWERS
    rounds = chosen.rounds or (2 if chosen.quick else ROUNDS)
    rows, past_rows, ratios = [], [], {}
    for viewers in counts:
        measure.progress(f"guard: {viewers} viewers")
        costs, past = one(viewers, rounds, 500 if chosen.quick else SLICE)
        plain, bare, guarded = (median(costs[kind]) for kind in ("plain", "no journal", "guarded"))
        ratios[viewers] = ratio = guarded / plain
        pairs = zip(costs["plain"], costs["no journal"], strict=True)
        share = median([1 - without / with_it for with_it, without in pairs])
        rows.append(
            [
                f"{viewers:,}", f"{plain:.1f}", f"{bare:.1f}", f"{share:.1%}", f"{guarded:.1f}",
                f"{ratio:.2f}",
            ]
        )  # fmt: skip
        checkpoint, again, events = (median(past[key]) for key in ("checkpoint_us", "recompute_us", "events"))
        past_rows.append(
            [f"{viewers:,}", f"{checkpoint:,.0f}", f"{again:,.0f}", f"{events:.0f}", f"{again / events:.1f}"]
        )
    notes = [f"µs of CPU of a step; medians of {rounds} rounds in turns."]
    if (reached := ratios.get(TARGET_AT)) is not None:
        verdict = "kept" if reached <= TARGET else "MISSED"
        notes.append(
            f"Target: at {TARGET_AT:,} viewers at most {TARGET:g} times the plain step: {reached:.2f}, {verdict}."
        )
    measure.report("guard", HEAD, rows, notes)
    since = f"µs of CPU, {SINCE / 1000:g} s of the broadcast after the checkpoint."
    measure.report("the state before an event", HEAD_PAST, past_rows, [since])


if __name__ == "__main__":
    main()
