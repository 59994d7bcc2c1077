"""What a rehearsal found, for people: a row for each session, then what failed and where, then what differs.

The rule this file keeps: what is wrong is shown whole, what is well is shown as far as a screen goes; all of it is in
`--json`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import click

from streamd.ctl_show import Answer, clean, counted, flattened, listed, scaled, table, told_table

# sessions about which there is nothing to say, on a terminal
SHOWN_WELL = 20
# of a traceback and of a state record; the place that matters is at the end of the one and near the top of the other
TRACE_LINES, STATE_LINES = 14, 16
SHOWN_RECORDS = 3
LINE_WIDTH = 160
# pauses worth a mention, and differences that fit a screen
SHOWN_PAUSES, SHOWN_DIFFERENCES = 5, 5
# the module that a line of a traceback is in: releases are plain source
MODULE = re.compile(r'File ".*/releases/\d+/([\w/]+)\.py"')

HEADS = ("SESSION", "REL", "MIGRATED", "UP MS", "DOWN MS", "EVENTS", "DIFFER", "GROWTH", "CURED", "TEXT")


def check(answer: Answer) -> None:
    """The report, then the sentence."""
    report(answer.get("report") or {})
    click.echo(clean(answer.get("text") or "Done."))


def report(found: Answer) -> None:
    """Everything a rehearsal reports."""
    _sessions(found.get("sessions") or ())
    wrong(found)
    if told := summary(found):
        click.echo(clean(f"{told}\n"))


def wrong(found: Answer) -> None:
    """What failed and what differs."""
    for failure in found.get("failures") or ():
        for line in _failure(failure):
            click.echo(clean(line))
        click.echo()
    if differences := found.get("differences") or ():
        click.echo("What the new code does differently:")
        shown = differences[:SHOWN_DIFFERENCES] if sys.stdout.isatty() else differences
        table(("SESSION", "EVENT", "DIFFERENCE"), [_difference(item) for item in shown])
        if (more := int(found.get("different") or 0) - len(shown)) > 0:
            click.echo(f"and {more:,} more")
        click.echo()


def _difference(found: Answer) -> tuple[Any, Any, Any]:
    event = found.get("event")
    event = (event.get("is") or event.get("kind")) if isinstance(event, dict) else event
    return found.get("name"), event, found.get("sentence")


def summary(found: Answer) -> str:
    """The figures of the whole rehearsal, in a sentence or two."""
    said = []
    happened = []
    if replayed := found.get("replayed"):
        happened.append(f"{counted(found.get('events'), 'event')} replayed in {counted(replayed, 'session')}")
    if tried := found.get("tried"):
        happened.append(f"{counted(tried, 'made-up event')} tried")
    if happened:
        said.append(" and ".join(happened))
    if untried := found.get("not_tried"):
        said.append(f"not all of those in {counted(untried, 'session')}")
    if skipped := found.get("not_replayed"):
        said.append(f"{counted(skipped, 'session')} not replayed")
    if different := found.get("different"):
        said.append(counted(different, "difference"))
    if cured := found.get("cured"):
        said.append(f"{cured} cured")
    if (slower := found.get("slower")) and replayed:
        said.append(f"steps take {slower:.2f} times as long")
    if growth := found.get("growth_bytes"):
        said.append(f"state grew by {size(growth)}")
    if (pause := found.get("predicted_pause_ms")) is not None:
        said.append(f"predicted pause {pause:.1f} ms")
    if memory := found.get("memory_mb"):
        said.append(f"{memory:.0f} MB and {found.get('seconds') or 0:.1f} s in the child")
    return f"{', '.join(said)}." if said else ""


def plan(answer: Answer) -> None:
    """What a load would do, in the order in which it would."""
    if modules := answer.get("modules"):
        rows = modules.items() if isinstance(modules, dict) else ((name, None) for name in modules)
        table(("MODULE", "VERSION"), [(name, _versions(change)) for name, change in rows])
        click.echo()
    if records := answer.get("records"):
        table(
            ("RECORD", "CHANGE", "HOW"),
            [(r.get("record"), listed(r.get("change")), r.get("how")) for r in records],
        )
        click.echo()
    if sessions := answer.get("sessions") or ():
        _shortened(
            ("SESSION", "WAVE", "FROM", "PAUSE MS"),
            [(s.get("name"), _wave(s), s.get("release"), _ms(s.get("pause_ms"))) for s in sessions],
        )
        click.echo()
    found = answer.get("report") or {}
    wrong(found)
    if told := summary(found):
        click.echo(clean(f"{told}\n"))
    for line in answer.get("shadowed") or ():
        click.echo(clean(f"shadowed: {line}"))
    for line in answer.get("leftovers") or ():
        click.echo(clean(f"leftover: {line}"))
    click.echo(clean(answer.get("text") or "Done."))


def pauses(answer: Answer) -> str:
    """The longest of the pauses there were, in a line; "" where nobody moved."""
    found = sorted(answer.get("pauses") or (), key=lambda p: -(p.get("ms") or 0))
    told = [f"{p.get('name')} {_ms(p.get('ms'))} ms" for p in found[:SHOWN_PAUSES]]
    if not told:
        return ""
    more = f" and {len(found) - len(told):,} more" if len(found) > len(told) else ""
    return f"pauses     {listed(told)}{more}"


# ---- pieces ----------------------------------------------------------------------------------------------


def _sessions(found: Sequence[Answer]) -> None:
    """Those with something to say first."""
    rows = [_row(session) for session in found]
    telling = [row for row in rows if row[-1]]
    well = [row for row in rows if not row[-1]]
    if not rows:
        return
    shown = well if not sys.stdout.isatty() else well[:SHOWN_WELL]
    told_table(HEADS, [*telling, *shown], folded=0)
    if len(shown) < len(well):
        click.echo(f"and {len(well) - len(shown):,} more, all migrated")
    click.echo()


def _row(found: Answer) -> tuple[Any, ...]:
    text = "; ".join(str(part) for part in (found.get("why"), found.get("first_difference")) if part)
    slower = found.get("slower") or 0
    if slower >= 2:
        text = "; ".join(filter(None, (text, f"steps take {slower:.1f} times as long")))
    growth = found.get("growth_bytes")
    return (
        found.get("name"),
        found.get("release"),
        "yes" if found.get("ok") else "NO",
        _ms(found.get("up_ms")),
        _ms(found.get("down_ms")),
        found.get("events"),
        found.get("differences"),
        size(growth) if growth else growth,
        found.get("cured"),
        text,
    )


def _shortened(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    shown = rows[:SHOWN_WELL] if sys.stdout.isatty() else rows
    table(heads, shown)
    if len(shown) < len(rows):
        click.echo(f"and {len(rows) - len(shown):,} more")


def _failure(found: Answer) -> Iterator[str]:
    yield f"{found.get('name')}: {found.get('sentence')}"
    trace = found.get("traceback") or ""
    lines = ("".join(trace) if isinstance(trace, list | tuple) else str(trace)).splitlines()
    if len(lines) > TRACE_LINES:
        yield "    ..."
    yield from (f"    {line}" for line in lines[-TRACE_LINES:])
    if event := found.get("event"):
        yield from _value("event", event)
    if state := found.get("state"):
        # of a whole session, what belongs to the module that failed
        inside = [m[1].replace("/", ".") for line in lines if (m := MODULE.search(line))]
        records = list(_records(state, f"{inside[-1]}:")) if inside else []
        for name, record in records[:SHOWN_RECORDS] or [("state", state)]:
            yield from _value(name, record)


def _records(value: Any, tag: str, path: str = "state") -> Iterator[tuple[str, Any]]:
    """Records of one module, wherever in a lowered state they are."""
    if isinstance(value, dict):
        if str(value.get("@")).startswith(tag):
            yield path, value
            return
        for key, inner in value.items():
            yield from _records(inner, tag, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            yield from _records(inner, tag, f"{path}[{place}]")


def _value(name: str, value: Any) -> Iterator[str]:
    """An event or a state record: one line for each value in it."""
    lines = list(flattened(value)) if isinstance(value, dict) else [("", value)]
    yield f"  {name}"
    for key, inner in lines[:STATE_LINES]:
        text = f"    {key:<24} {inner if inner is not None else '-'}"
        yield text if len(text) <= LINE_WIDTH else f"{text[: LINE_WIDTH - 3]}..."
    if len(lines) > STATE_LINES:
        yield f"    and {len(lines) - STATE_LINES} more values: see --json"


def _wave(found: Answer) -> Any:
    return found.get("wave") or ("pinned" if found.get("pinned") else "stays")


def _versions(change: Any) -> str:
    """[3, 4] -> "3 -> 4"; a module that comes or goes has 0."""
    if not isinstance(change, list | tuple) or len(change) != 2:
        return listed(change)
    old, new = change
    return f"{old or 'new'} -> {new or 'gone'}"


def _ms(value: Any) -> Any:
    return f"{value:.2f}" if isinstance(value, int | float) else value


def size(count: float) -> str:
    """ "12 B", "3.1 kB", "-2.0 MB"."""
    return scaled(count, ("B", "kB", "MB", "GB"))
