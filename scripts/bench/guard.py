"""What safety costs a step: `python -m scripts.bench.guard [--quick]`.

Publishers' messages, 77 a second of a 1 Mbps broadcast, are handed to two sessions with 1 and with 1,000 viewers each.
patches/codec_fix.py is loaded for one of them alone and is on probation there, so that the release before handles every
event of it as well; the other session is left alone:

    plain       the session that is left alone
    no journal  the same, but its events are not noted for a replay
    guarded     the session on probation
    even        what the two sessions' ratio was before the load, when neither was guarded

and outside of steps: a checkpoint of a session, and making its state anew from the checkpoint and the events since,
which is what a failed step costs. All in µs of CPU, in a real server, in turns of a few milliseconds.
"""

from __future__ import annotations

import json
import shutil
import sys
from contextlib import ExitStack
from typing import Any

from scripts.bench import measure
from scripts.bench.measure import Process, median, running, scratch
from scripts.bench.pause import PATIENCE, ask

VIEWERS, ROUNDS = (1, 1_000), 9
TURN, TURNS = 2_000, 3  # ms of the broadcast, and so often in a round
SINCE = 3_000  # ms; half of [supervision] journal_bytes, which brings a checkpoint, is little more of this broadcast
HELD = 600.0  # s of probation: longer than a round
TARGET, TARGET_AT = 2.0, 1_000
HEAD = ("viewers", "plain", "no journal", "journal's share", "guarded", "guarded / plain", "even")
HEAD_PAST = ("viewers", "checkpoint", "state anew", "events replayed", "an event")
KINDS = ("tried", "plain", "no journal")

Costs = dict[str, list[float]]


def one(viewers: int, rounds: int, times: int) -> tuple[Costs, Costs, Costs]:
    """µs of steps before the load and on probation, by kind; and µs of what has to do with the past."""
    with scratch() as place, ExitStack() as peers:
        patches = place / "patches"
        patches.mkdir(mode=0o755)
        shutil.copy(measure.ROOT / "patches" / "codec_fix.py", patches)
        program = measure.compiled("viewers.c", place)
        if program is None:
            sys.exit("guard: the viewers need a C compiler (Debian: apt install gcc libc6-dev)")
        serving = [sys.executable, "-m", "scripts.bench.serve", str(place / "state"), str(patches)]
        server = peers.enter_context(running("streamd", serving, 0))
        ports = json.loads(server.hear())
        command = [sys.executable, "-m", "scripts.bench.publishers", str(ports["rtmp"]), "2", "0", "3600"]
        peers.enter_context(running("publishers", command, -1)).hear()
        ask(server, "settled 2")
        for number in (1, 2):
            request = place / f"request{number}"
            request.write_bytes(b"GET /live/bench-idle%d.flv HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % number)
            crowd = running("viewers", [program, str(ports["http"]), str(viewers), request], -1)
            peers.enter_context(crowd).hear(PATIENCE)
        return rounds_of(server, str(patches / "codec_fix.py"), rounds, times)


def rounds_of(server: Process, patch: str, rounds: int, times: int) -> tuple[Costs, Costs, Costs]:
    before: Costs = {kind: [] for kind in KINDS}
    guarded: Costs = {kind: [] for kind in KINDS}
    past: Costs = {"checkpoint_us": [], "recompute_us": [], "events": []}
    wishes = json.dumps({"only": ["live/bench-idle1"], "probation": HELD})
    for _ in range(rounds):
        told: dict[str, Any] = ask(server, f"recompute {SINCE}")
        for key, values in past.items():
            values.append(told[key])
        for costs in (before, guarded):
            if costs is guarded:
                ask(server, f"load {patch} {wishes}")
            told = ask(server, f"turns {TURN} {times}")
            for kind, values in costs.items():
                values += told[kind]
        trial = ask(server, "status")["probation"]
        if trial is None or trial["differences"] or trial["sessions"] != 1:
            sys.exit(f"guard: the probation is not what it should be: {trial}")
        ask(server, "rollback")
    return before, guarded, past


def ratio(costs: Costs, kind: str, to: str) -> float:
    return median([one / other for one, other in zip(costs[kind], costs[to], strict=True)])


def main() -> None:
    chosen = measure.arguments("What the guard and the journal cost a step.")
    measure.raise_descriptor_limit()
    counts = (1, 20) if chosen.quick else VIEWERS
    rounds = chosen.rounds or (1 if chosen.quick else ROUNDS)
    rows, past_rows, ratios = [], [], {}
    for viewers in counts:
        measure.progress(f"guard: {viewers} viewers")
        before, guarded, past = one(viewers, rounds, 2 if chosen.quick else TURNS)
        ratios[viewers] = ratio(guarded, "tried", "plain")
        everything = {kind: before[kind] + guarded[kind] for kind in KINDS}
        rows.append(
            [
                f"{viewers:,}", f"{median(guarded['plain']):.1f}", f"{median(guarded['no journal']):.1f}",
                f"{1 - ratio(everything, 'no journal', 'plain'):.1%}", f"{median(guarded['tried']):.1f}",
                f"{ratios[viewers]:.2f}", f"{ratio(before, 'tried', 'plain'):.2f}",
            ]
        )  # fmt: skip
        checkpoint, again, events = (median(past[key]) for key in ("checkpoint_us", "recompute_us", "events"))
        past_rows.append(
            [f"{viewers:,}", f"{checkpoint:,.0f}", f"{again:,.0f}", f"{events:.0f}", f"{again / events:.1f}"]
        )
    notes = [
        f"µs of CPU of a step; medians of {rounds} rounds of {TURNS} turns, ratios of neighbouring turns."
    ]
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
