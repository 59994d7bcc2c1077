"""The same upgrade by OTP and by streamd: `python -m scripts.bench.otp [--quick]`.

1,000 sessions are upgraded while a client of each asks it questions (asking.py), in four stories:

    plain      every session's state is converted: a configuration record into its parameter sets and back
    failing    the same, but the migration is wrong for one of them: it has two picture parameter sets
    stuck      one session computes for 8 s when the upgrade begins
    newcomers  connections go on coming during the upgrade, each with a session of its own

OTP: the release in otp/, of version 1 and 2. Each session is a gen_server that owns a TCP connection and answers a line;
its code_change is what patches/codec_fix.py does to media.h264. The operator's way is that of the Design Principles:
appup, relup, a release package, unpack_release, install_release, make_permanent. streamd: the real server with a real
RTMP publisher for every broadcast, ten of them live, and a WebSocket viewer that pings; codec_fix.py is loaded.

What is the same: clients, questions, number of sessions, the change of state. What is not: an OTP session here holds a
record and nothing else, while a streamd session receives and muxes a broadcast and has a publisher besides; OTP's
processes run on all processors, all of streamd's sessions on one.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from scripts.bench import measure
from scripts.bench.measure import Process, median, running, scratch

COUNT, LIVE, ROUNDS = 1_000, 10, 3
STORIES = ("plain", "failing", "stuck", "newcomers")
BUSY_MS = 8_000
NEWCOMERS = 100  # a second
CALM = 1.0  # s of questions before an upgrade, for comparison
PROBATION = 5.0  # s
PATIENCE = 120.0
SOURCE = measure.HERE / "otp"
ERLANG = Path("/usr/lib/erlang")
MISSING = "OTP is not compared: there is no Erlang here (Debian: apt install erlang-base)."

# What a computing session runs. In streamd no session can wait inside a step, but it can compute.
BUSY_PATCH = """
from __future__ import annotations

AMENDS = "protocol.websocket@1"
VERSION = 2
LONG = 400_000_000


def pong(data: bytes) -> bytes:
    if data == b"busy":
        for _ in range(LONG):
            pass
    return frame(PONG, data)
"""


class Seen(NamedTuple):
    """One upgrade as its clients saw it; times in ms. `pause` is the longest wait of any session's client, of the busy
    one's not; `calm` the same without an upgrade. `outcome` in words."""

    calm: float
    pause: float
    total: float
    lost: int
    newcomers: int
    newcomers_lost: int
    outcome: str


# ---- OTP -----------------------------------------------------------------------------------------------------


def erlang() -> Path | None:
    """The runtime's programs."""
    return next(iter(sorted(ERLANG.glob("erts-*/bin"))), None) if shutil.which("erlc") else None


def target_system(place: Path) -> Path:
    """A directory with the release of version 1 and the package of version 2, as it is installed on a host."""
    root, programs = place / "target", erlang()
    assert programs is not None
    for name in ("kernel", "stdlib", "sasl"):
        found = next(ERLANG.glob(f"lib/{name}-*"))
        shutil.copytree(found, root / "lib" / found.name)
    for version in "12":
        into = root / "lib" / f"relay-{version}" / "ebin"
        into.mkdir(parents=True)
        sources = [
            SOURCE / "relay_app.erl",
            SOURCE / "relay_door.erl",
            SOURCE / f"v{version}" / "relay_session.erl",
        ]
        subprocess.run(["erlc", "-Werror", "-o", into, *sources], check=True)
        (into / "relay.app").write_text((SOURCE / "relay.app").read_text().replace("VERSION", version))
    shutil.copy(SOURCE / "relay.appup", root / "lib" / "relay-2" / "ebin")
    tools = root / "tools"
    tools.mkdir()
    subprocess.run(
        ["erlc", "-Werror", "-o", tools, SOURCE / "build.erl", SOURCE / "operator.erl"], check=True
    )
    (root / "bin").mkdir()
    shutil.copy(ERLANG / "bin" / "start_clean.boot", root / "bin" / "start.boot")
    subprocess.run(
        [programs / "erlexec", "-noshell", "-pa", tools, "-run", "build", "main"],
        env=environment(root),
        check=True,
    )
    for unpacked in (root / "lib" / "relay-2", root / "releases" / "2"):
        shutil.rmtree(unpacked)  # it comes in the package
    return root


def environment(root: Path) -> dict[str, str]:
    """As bin/erl sets it for a target system in `root`."""
    return {**os.environ, "ROOTDIR": str(root), "BINDIR": str(erlang()), "EMU": "beam", "PROGNAME": "erl"}


class Node:
    """A running node of the release and its operator."""

    def __init__(self, process: Process, port: int) -> None:
        self.process, self.port, self.restarts = process, port, 0

    def hear(self) -> str:
        """The next line of the operator's; the log's are skipped."""
        while True:
            line = self.process.hear(PATIENCE)
            if line == "ready" or line.startswith("answer "):
                return line

    def obey(self, word: str) -> tuple[float, str]:
        """(ms, what release_handler answered); a node that starts again has not answered."""
        self.process.say(word)
        began, line = time.monotonic(), self.hear()
        if line == "ready":
            self.restarts += 1
            return (time.monotonic() - began) * 1000, "the node restarted"
        _, took, answer = line.split(" ", 2)
        return float(took), answer


@contextlib.contextmanager
def node(target: Path, place: Path) -> Iterator[Node]:
    root, port, programs = place / "root", measure.free_port(), erlang()
    assert programs is not None
    shutil.copytree(target, root)
    command: list[str | Path] = [
        programs / "erlexec", "-noshell", "-boot", root / "releases" / "1" / "start", "-pa", root / "tools",
        "-sasl", "releases_dir", f'"{root / "releases"}"', "-relay", "port", str(port), "-run", "operator", "start",
    ]  # fmt: skip
    with running("the Erlang node", command, measure.ANY, environment(root)) as process:
        started = Node(process, port)
        started.hear()
        yield started


def upgrade_otp(story: str, count: int, target: Path) -> Seen:
    with scratch() as place, node(target, place) as system:
        arguments = ["relay", system.port, count, 0, 0, int(story == "failing")]
        with asking(arguments) as clients:
            system.obey("unpack")
            calm = look(clients, lambda: time.sleep(CALM))

            def install() -> tuple[float, str]:
                return system.obey("install")

            seen, (took, answer) = during(clients, story, install)
            system.obey("permanent")
            after = look(clients, lambda: time.sleep(0.1))
    return Seen(
        calm["longest_ms"],
        seen["longest_ms"],
        took,
        lost_of(seen, after),
        seen["newcomers"],
        seen["newcomers_lost"],
        otp_outcome(answer, system.restarts > 0, seen, after),
    )


def otp_outcome(answer: str, restarted: bool, seen: dict[str, Any], after: dict[str, Any]) -> str:
    if answer.startswith("{ok"):
        words = ["install: ok"]
    else:
        words = [f"install: {next(word for word in re.findall('[a-z_]+', answer) if word != 'error')}"]
    if restarted:
        words.append("the node restarted itself")
    if seen["chosen_lost"] and seen["lost"] == 1:
        words.append("the busy one crashed on its unconverted state")
    elif after["chosen_lost"] and after["lost"] == 1:
        words.append("make_permanent killed the busy one")
    versions = sorted(after["versions"].items())
    return "; ".join([*words, ", ".join(f"{number:,} on version {version}" for version, number in versions)])


# ---- streamd -------------------------------------------------------------------------------------------------


def narrow(text: str) -> str:
    """codec_fix.py with a migration that believes in one picture parameter set."""
    wide = 'sps, pps, rest = parse_config(old["config"])'
    assert wide in text
    return text.replace(wide, 'sps, (only,), rest = parse_config(old["config"])\n    pps = [only]')


def upgrade_streamd(story: str, count: int, _target: Path | None) -> Seen:
    live = min(LIVE, count)
    with scratch() as place:
        patches = place / "patches"
        patches.mkdir(mode=0o755)
        fix = (measure.ROOT / "patches" / "codec_fix.py").read_text()
        (patches / "codec_fix.py").write_text(narrow(fix) if story == "failing" else fix)
        (patches / "busy.py").write_text(BUSY_PATCH)
        command: list[str | Path] = [sys.executable, "-m", "scripts.bench.serve", place / "state", patches]
        with running("streamd", command, measure.ANY) as server:
            ports = json.loads(server.hear())
            said = [
                "scripts.bench.publishers",
                ports["rtmp"],
                count,
                live,
                120,
                "bench",
                int(story == "failing"),
            ]
            with running("publishers", [sys.executable, "-m", *map(str, said)], -1) as publishers:
                publishers.hear(PATIENCE)
                told(server, f"settled {count}")
                with asking(["websocket", ports["http"], count, live, ports["rtmp"], 0]) as clients:
                    return streamd_seen(story, server, clients, patches, PROBATION if count == COUNT else 1.0)


def streamd_seen(story: str, server: Process, clients: Process, patches: Path, probation: float) -> Seen:
    if story == "stuck":
        told(server, f"load {patches / 'busy.py'} " + json.dumps({"probation": 0.0}))
    calm = look(clients, lambda: time.sleep(CALM))

    def load() -> tuple[float, dict[str, Any]]:
        began = time.monotonic()
        answer = told(
            server, f"load {patches / 'codec_fix.py'} " + json.dumps({"probation": probation, "wait": True})
        )
        moved = answer["stages"].get("probation", (time.monotonic() - began) * 1000)
        return moved, answer

    seen, (took, answer) = during(clients, story, load)
    after = look(clients, lambda: time.sleep(0.1))
    status = told(server, "status")
    words = [
        f"refused at {answer['stage']}, nothing was changed"
        if "error" in answer
        else "moved, probation passed"
    ]
    if story == "stuck":
        words.append("the busy step was ended" if seen["chosen_ms"] < BUSY_MS / 2 else "everyone waited")
    on = [
        f"{item['sessions']:,} on release {item['number']}" for item in status["releases"] if item["sessions"]
    ]
    return Seen(
        calm["longest_ms"],
        seen["longest_ms"],
        took,
        lost_of(seen, after),
        seen["newcomers"],
        seen["newcomers_lost"],
        "; ".join([*words, ", ".join(on)]),
    )


def told(server: Process, line: str) -> dict[str, Any]:
    server.say(line)
    answer: dict[str, Any] = json.loads(server.hear(PATIENCE))
    return answer


# ---- both ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def asking(arguments: list[Any]) -> Iterator[Process]:
    command = [sys.executable, "-m", "scripts.bench.asking", *map(str, arguments)]
    with running("the clients", command, -1) as clients:
        clients.hear(PATIENCE)
        yield clients


def look(clients: Process, wait: Callable[[], None]) -> dict[str, Any]:
    """What the clients see meanwhile."""
    clients.say("start")
    wait()
    return told(clients, "stop")


def during(
    clients: Process, story: str, upgrade: Callable[[], tuple[float, Any]]
) -> tuple[dict[str, Any], Any]:
    """What the clients see of an upgrade, and what comes of it."""
    clients.say(f"start {NEWCOMERS}" if story == "newcomers" else "start")
    time.sleep(0.5)
    if story == "stuck":
        clients.say(f"busy {BUSY_MS}")
        time.sleep(0.1)
    answer = upgrade()
    time.sleep(0.5)
    return told(clients, "stop"), answer


def lost_of(seen: dict[str, Any], after: dict[str, Any]) -> int:
    lost: int = seen["lost"] + after["lost"]
    return lost


def row(story: str, name: str, rounds: list[Seen]) -> list[str]:
    pauses = [item.pause for item in rounds]
    come, gone = (sum(getattr(item, field) for item in rounds) for field in ("newcomers", "newcomers_lost"))
    return [
        story,
        name,
        f"{median([item.calm for item in rounds]):.1f}",
        f"{median(pauses):.1f}",
        f"{max(pauses):.1f}",
        f"{median([item.total for item in rounds]):.0f}",
        f"{max(item.lost for item in rounds):,}",
        f"{gone} of {come}" if come else "-",
        max((item.outcome for item in rounds), key=[item.outcome for item in rounds].count),
    ]


def main() -> None:
    chosen = measure.arguments("The same upgrade by OTP and by streamd.")
    count = 20 if chosen.quick else COUNT
    rounds = chosen.rounds or (1 if chosen.quick else ROUNDS)
    rows = []
    with scratch() as place:
        systems: dict[str, Callable[[str, int, Path], Seen]] = {"streamd": upgrade_streamd}
        target = place
        if erlang() is not None:
            target, systems = target_system(place), {"OTP": upgrade_otp, **systems}
        for story in ("plain",) if chosen.quick else STORIES:
            seen: dict[str, list[Seen]] = {name: [] for name in systems}
            for number in range(rounds):
                for name, upgrade in systems.items():
                    measure.progress(f"otp: {story} with {name}, round {number + 1} of {rounds}")
                    seen[name].append(upgrade(story, count, target))
            rows += [row(story, name, seen[name]) for name in systems]
    head = (
        "story", "by", "calm", "longest pause: median", "worst", "total", "clients cut off", "newcomers cut off", "outcome",
    )  # fmt: skip
    notes = [
        f"{count:,} sessions, {rounds} rounds. Times in ms; the pause is the longest wait of any session's client for an",
        "answer, of the busy one's not; calm is the same in a second without an upgrade. Clients cut off: in the worst round.",
    ]
    if "OTP" not in systems:
        notes.append(MISSING)
    measure.report("otp", head, rows, notes)


if __name__ == "__main__":
    main()
