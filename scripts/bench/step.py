"""What it costs that code can be changed: `python -m scripts.bench.step [--quick]`.

A session calls `session.release.step(state, event)`: two attributes more than a call that could never be patched. The
difference is measured on a step that does nothing, with the loop around it taken off, and set against real steps: a
picture of a 1 Mbps publisher, which is muxed for three kinds of viewers, and the smallest there is, a viewer's pong.
And the memory that sessions and viewers take in the server's process, by the growth of its resident set.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scripts.bench import broadcast, measure
from scripts.bench.measure import median, running, scratch
from streamd.runtime.release import Release
from streamd.runtime.vocabulary import Data, Event, Joined, Move, Opened, Request

ROUNDS, CALLS, MEMORY = 15, 200_000, 1_000
TARGET = 0.01  # of a step


def direct(calls: int, step: Callable[[Any, Any], list[Any]], state: Any, event: Any) -> float:
    """Seconds of CPU for so many calls."""
    started = time.process_time()
    for _ in range(calls):
        step(state, event)
    return time.process_time() - started


def indirect(calls: int, session: Any, state: Any, event: Any) -> float:
    started = time.process_time()
    for _ in range(calls):
        session.release.step(state, event)
    return time.process_time() - started


def indirection(release: Release, rounds: int, calls: int) -> tuple[float, float]:
    """ns of a call without and with the release in between: medians of rounds, in turns."""

    def nothing(_state: Any, _event: Any) -> list[Any]:
        return []

    kept, release.step = release.step, nothing
    session = Session(release)
    plain, patched = [], []
    for _ in range(rounds):
        plain.append(direct(calls, nothing, None, None) / calls * 1e9)
        patched.append(indirect(calls, session, None, None) / calls * 1e9)
    release.step = kept
    return median(plain), median(patched)


class Session:
    """As the kernel's: slots, a release in one of them."""

    __slots__ = ("release",)

    def __init__(self, release: Release) -> None:
        self.release = release


# ---- real steps ----------------------------------------------------------------------------------------------


def door(release: Release, event: Event, more: list[Event]) -> Any:
    """The guest that a door hands over after these events."""
    state = release.begin("door/1", {}, 0)
    for item in (event, *more):
        for command in release.step(state, item):
            if type(command) is Move:
                return command.guest
    sys.exit("the door did not hand over")


def live(release: Release) -> Any:
    """The state of a broadcast with a publisher."""
    said = Data(0, 1, broadcast.publishing("bench"))
    guest = door(release, Opened(0, 1, "rtmp", "peer", bytes(32)), [said])
    state = release.begin("live/bench", {}, 0)
    release.step(state, Joined(0, 1, guest, "peer"))
    return state


def pictures(release: Release, rounds: int, seconds: int) -> float:
    """µs of a step that takes one message of a publisher, pictures and sound as they come."""
    messages = broadcast.until(seconds * 1000)
    events = [
        Data(message.time, 1, unit)
        for message, unit in zip(messages, broadcast.chunks(messages), strict=True)
    ]
    took = []
    for _ in range(rounds):
        state, step = live(release), release.step
        started = time.process_time()
        for event in events:
            step(state, event)
        took.append((time.process_time() - started) / len(events) * 1e6)
    return median(took)


def pong(release: Release, rounds: int, calls: int) -> float:
    """µs of the smallest step: a WebSocket viewer answers a ping."""
    state = live(release)
    messages = broadcast.until(1_000)
    for message, unit in zip(messages, broadcast.chunks(messages), strict=True):
        release.step(state, Data(message.time, 1, unit))
    headers = {
        "upgrade": "websocket", "connection": "Upgrade", "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    }  # fmt: skip
    guest = door(release, Request(0, 2, "GET", "/live/bench.flv", "", headers, "peer", "1.1"), [])
    release.step(state, Joined(0, 2, guest, "peer"))
    event = Data(0, 2, b"\x8a\x80\x00\x00\x00\x00")
    return median([direct(calls, release.step, state, event) / calls * 1e6 for _ in range(rounds)])


# ---- memory --------------------------------------------------------------------------------------------------


def memory(count: int, place: Path) -> dict[str, float]:
    """Bytes of resident memory for a connection that says nothing, an idle broadcast, and an HTTP-FLV viewer."""
    grown = {}
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "scripts.bench.serve",
        place / "state",
        measure.ROOT / "patches",
    ]
    with running("streamd", command) as server:
        ports = json.loads(server.hear())
        grown["a door: a connection that says nothing"] = joined(
            server, place, ports["rtmp"], count, b"\x03", "links"
        )
    shutil.rmtree(place / "state")
    with running("streamd", command) as server:
        ports = json.loads(server.hear())
        before = server.resident()
        publishers = [
            sys.executable,
            "-m",
            "scripts.bench.publishers",
            str(ports["rtmp"]),
            str(count),
            "0",
            "600",
        ]
        with running("publishers", publishers) as encoders:
            encoders.hear(120)
            settle(server, "sessions", count)
            grown["a broadcast and its publisher, with half a second in four rings"] = (
                server.resident() - before
            ) / count
            request = b"GET /live/bench-idle1.flv HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
            grown["a viewer"] = joined(server, place, ports["http"], count, request, "links", count)
    return grown


def joined(
    server: measure.Process, place: Path, port: int, count: int, request: bytes, what: str, already: int = 0
) -> float:
    """Growth per connection that sends `request` and stays."""
    program = measure.compiled("viewers.c", place)
    if program is None:
        return float("nan")
    file = place / "request"
    file.write_bytes(request)
    before = server.resident()
    with running("viewers", [program, str(port), str(count), file]):
        settle(server, what, already + count)
        return (server.resident() - before) / count


def settle(server: measure.Process, what: str, count: int) -> None:
    for _ in range(600):
        server.say("sessions")
        if json.loads(server.hear())[what] >= count:
            time.sleep(0.5)
            return
        time.sleep(0.05)
    sys.exit(f"the server does not reach {count} {what}")


def main() -> None:
    chosen = measure.arguments("The cost of the indirection, and the memory of sessions and viewers.")
    measure.raise_descriptor_limit()
    rounds = chosen.rounds or (2 if chosen.quick else ROUNDS)
    calls, seconds, count = (5_000, 2, 20) if chosen.quick else (CALLS, 20, MEMORY)
    release = Release(1, measure.ROOT / "streamd" / "live", None).load()
    plain, patched = indirection(release, rounds, calls)
    extra = patched - plain
    steps = {
        "a message of a publisher": pictures(release, rounds, seconds),
        "a viewer's pong": pong(release, rounds, calls // 20),
    }
    rows = [
        [name, f"{cost:.2f}", f"{plain:.0f}", f"{patched:.0f}", f"{extra:.1f}", f"{extra / cost / 10:.3f} %"]
        for name, cost in steps.items()
    ]
    worst = max(extra / cost / 1000 for cost in steps.values())
    notes = [
        f"Medians of {rounds} rounds of {calls:,} calls.",
        f"Target: below {TARGET:.0%} of a step: {worst:.2%}, {'kept' if worst < TARGET else 'MISSED'}.",
    ]
    measure.report(
        "step",
        ("a step of", "µs", "direct call ns", "through the release ns", "difference ns", "share"),
        rows,
        notes,
    )
    with scratch() as place:
        grown = memory(count, place)
    rows = [[name, f"{size / 1000:.1f}"] for name, size in grown.items()]
    measure.report(
        "memory",
        ("resident memory of", "kB"),
        rows,
        [
            f"Growth of the server's process for {count:,} of each, divided; the system's own buffers are not in it."
        ],
    )


if __name__ == "__main__":
    main()
