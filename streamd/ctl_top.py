"""A live view of a server: who is live, at which rates, on which release, and how a probation is getting on.

The rules this file keeps: it asks only for what `status` answers, once a second, and a server that goes away and comes
back is waited for; whatever happens, the terminal is given back as it was; without a terminal it is one sample.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from time import monotonic, sleep
from types import FrameType
from typing import Any

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from streamd.ctl_show import Answer, cells, clean, counted, is_door, listed, probation, scaled, span, table
from streamd.ctl_wire import Listener, Unreachable

# a server that many look at should still serve
QUICKEST = 0.1
# lines of releases, however many there are: sessions are what one looks at
SHOWN_RELEASES = 4
HEADS = ("SESSION", "REL", "PHASE", "VIEWERS", "IN", "OUT", "STEPS/S", "PAUSE MS")
RIGHT = ("VIEWERS", "IN", "OUT", "STEPS/S", "PAUSE MS")
# a terminal narrower than this shows fewer columns, the last ones first
FULL_WIDTH, COLUMN_WIDTH = 72, 9

Ask = Callable[[Listener], Answer]


class Ended(Exception):
    """Whoever looked has seen enough."""


@dataclass
class Sample:
    """One answer of `status`, when it came, and each session's rates since the one before: steps/s, bit/s in and out."""

    status: Answer
    at: float
    rates: dict[str, tuple[float, float, float]] = field(default_factory=dict)


def sampled(status: Answer, at: float, before: Sample | None) -> Sample:
    """What has happened between two answers. A count that went down is no rate: the session is another one."""
    made = Sample(status, at)
    seconds = at - before.at if before else 0.0
    old = {s.get("name"): s for s in before.status.get("sessions") or ()} if before else {}
    for session in status.get("sessions") or ():
        former = old.get(session.get("name"))
        if former is None or seconds <= 0:
            continue
        steps, received, sent = (
            (session.get(key) or 0) - (former.get(key) or 0) for key in ("steps", "received", "sent")
        )
        if min(steps, received, sent) >= 0:
            made.rates[session["name"]] = steps / seconds, received * 8 / seconds, sent * 8 / seconds
    return made


def once(ask: Ask, seconds: float) -> Answer:
    """One sample: the second of two answers, with the rates between them."""
    status = ask(Listener())
    first = sampled(status, monotonic(), None)
    if not status.get("ok"):
        return status
    sleep(seconds)
    status = ask(Listener())
    if status.get("ok"):
        second = sampled(status, monotonic(), first)
        for session in status.get("sessions") or ():
            if rates := second.rates.get(session.get("name", "")):
                session["rates"] = dict(
                    zip(("steps_per_s", "in_bps", "out_bps"), map(round, rates), strict=True)
                )
    return status


def printed(status: Answer) -> None:
    """A sample for a pipe or a file."""
    rates = {
        s["name"]: (s["rates"]["steps_per_s"], s["rates"]["in_bps"], s["rates"]["out_bps"])
        for s in status.get("sessions") or ()
        if "rates" in s
    }
    sample = Sample(status, 0.0, rates)
    for line in head(sample):
        click.echo(clean(line))
    table(HEADS, rows(sample))


def watch(ask: Ask, seconds: float) -> Answer:
    """The view, until q or Ctrl-C. Raises Unreachable if nobody answers at the start."""
    sample = sampled(ask(Listener()), monotonic(), None)
    if not sample.status.get("ok"):
        return sample.status
    console = Console(highlight=False)
    with terminal() as events, Live(console=console, screen=True, auto_refresh=False) as live:
        lost = ""
        due = monotonic() + seconds
        while True:
            live.update(view(sample, console, lost), refresh=True)
            match events(max(due - monotonic(), 0.0)):
                case "end":
                    return sample.status
                case "resized":
                    continue
            due = monotonic() + seconds
            try:
                answer = ask(Asked(events))
                if answer.get("ok"):
                    sample, lost = sampled(answer, monotonic(), sample), ""
                else:
                    lost = str(answer.get("error") or "the server refused.")
            except Unreachable as e:
                lost = str(e)
            except Ended:
                return sample.status


class Asked(Listener):
    """While a server does not answer, a key still ends the view."""

    def __init__(self, events: Callable[[float], str]) -> None:
        self.events = events

    def tick(self) -> None:
        if self.events(0.0) == "end":
            raise Ended


@contextmanager
def terminal() -> Iterator[Callable[[float], str]]:
    """Keys without Return and without echo. Gives a function that waits: "end", "resized", or "" after so long."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def tell(number: int, _frame: FrameType | None) -> None:
        os.write(writer, b"r" if number == signal.SIGWINCH else b"q")

    def wait(seconds: float) -> str:
        ready, _, _ = select.select([reader, *keys], [], [], seconds)
        if reader in ready:
            return "end" if b"q" in os.read(reader, 64) else "resized"
        if ready:
            pressed = os.read(keys[0], 64)
            # nothing to read: the terminal is gone
            return (
                "end"
                if not pressed or b"q" in pressed or b"Q" in pressed or b"\x03" in pressed
                else "resized"
            )
        return ""

    keys = [sys.stdin.fileno()] if sys.stdin.isatty() else []
    before = termios.tcgetattr(keys[0]) if keys else None
    caught = (signal.SIGWINCH, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = {number: signal.signal(number, tell) for number in caught}
    # a stopped process could not give the terminal back
    handlers[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    try:
        if keys:
            tty.setcbreak(keys[0], termios.TCSADRAIN)
        yield wait
    finally:
        if before:
            termios.tcsetattr(keys[0], termios.TCSADRAIN, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)


# ---- what is drawn ---------------------------------------------------------------------------------------


def view(sample: Sample, console: Console, lost: str = "") -> RenderableType:
    """A screenful, and no more."""
    width, height = console.width, console.height
    lines = [f"{lost} Trying again; q ends."] if lost else head(sample)
    top = [Text(clean(line), style="red" if lost else "") for line in "\n".join(lines).splitlines()]
    releases = _releases(sample.status)
    body = rows(sample)
    used = sum(len(line.wrap(console, width)) for line in top) + len(releases) + 3
    room = max(height - used, 1)
    shown = body if len(body) <= room else body[: max(room - 1, 1)]
    made = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="reverse", expand=True)
    count = len(HEADS) - max(0, -(-(FULL_WIDTH - width) // COLUMN_WIDTH))
    for name in HEADS[: max(count, 1)]:
        if name == "SESSION":
            made.add_column(name, ratio=1, no_wrap=True, overflow="ellipsis")
        else:
            made.add_column(name, no_wrap=True, justify="right" if name in RIGHT else "left")
    for row in shown:
        made.add_row(*map(Text, cells(row[: len(made.columns)])))
    rest = [Text(f"and {len(body) - len(shown):,} more", style="dim")] if len(shown) < len(body) else []
    nobody = [] if body else [Text("Nobody publishes.")]
    return Group(*top, Text(""), *releases, Text(""), made, *rest, *nobody)


def _releases(status: Answer) -> list[Text]:
    """Those in memory, the newest first."""
    found = [
        r
        for r in status.get("releases") or ()
        if r.get("state") not in ("stored", "stored kept", "unreadable")
    ]
    lines = [
        Text(
            clean(
                f"release {r.get('number'):<4} {r.get('state'):<21} {counted(r.get('sessions'), 'session'):<14} "
                + (listed(f"{name}@{to}" for name, to in (r.get("modules") or {}).items()) or "as shipped")
            ),
            no_wrap=True,
            overflow="ellipsis",
        )
        for r in reversed(found)
    ]
    more = (
        [Text(f"and {len(lines) - SHOWN_RELEASES} more", style="dim")] if len(lines) > SHOWN_RELEASES else []
    )
    return [*lines[:SHOWN_RELEASES], *more]


def head(sample: Sample) -> list[str]:
    """The server in a few lines."""
    status, found = sample.status, [s for s in sample.status.get("sessions") or () if not is_door(s)]
    steps, received, sent = (sum(rates[n] for rates in sample.rates.values()) for n in range(3))
    lines = [
        f"streamd {status.get('version', '')}, up {span(status.get('uptime_s') or 0)}, release {status.get('release')}"
        f" (kept: {'shipped' if status.get('kept') is None else status['kept']}). {datetime.now():%H:%M:%S}",
        f"{counted(len(found), 'session')}, {counted(sum(s.get('viewers') or 0 for s in found), 'viewer')}, "
        f"{status.get('doors') or 0} at the door; in {bits(received)}, out {bits(sent)}, {steps:,.0f} steps/s; "
        f"longest slice {status.get('longest_slice_ms') or 0:.1f} ms, {counted(status.get('crashes'), 'crash', 'crashes')}",
    ]
    if on_probation := status.get("probation"):
        lines.append(probation(on_probation))
    return lines


def rows(sample: Sample) -> list[tuple[Any, ...]]:
    """A row for each broadcast, those with the most viewers first: rates would make them jump."""
    found = [s for s in sample.status.get("sessions") or () if not is_door(s)]
    pins = sample.status.get("pins") or ()
    made = []
    for session in sorted(found, key=lambda s: (-(s.get("viewers") or 0), str(s.get("name")))):
        name = session.get("name", "")
        rates = sample.rates.get(name)
        pause = session.get("pause_ms")
        made.append(
            (
                name,
                f"{session.get('release')} pinned" if name in pins else session.get("release"),
                session.get("phase"),
                session.get("viewers"),
                bits(rates[1]) if rates else None,
                bits(rates[2]) if rates else None,
                f"{rates[0]:,.0f}" if rates else None,
                f"{pause:.2f}" if isinstance(pause, int | float) else None,
            )
        )
    return made


def bits(rate: float) -> str:
    """Bits a second: "640 kb/s", "2.5 Mb/s"."""
    return scaled(rate, ("b/s", "kb/s", "Mb/s", "Gb/s"))
