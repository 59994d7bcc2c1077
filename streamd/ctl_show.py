"""What `streamd-ctl` prints for people: tables, details, a coloured diff.

The rules this file keeps: rich is imported when a table is printed and not before, and nothing that a publisher
or a patch wrote reaches the terminal with control characters or markup in it. Times are local, as in the log;
`--json` has the server's, in UTC.
"""

from __future__ import annotations

import json
import os
import pwd
import shlex
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import click

Answer = dict[str, Any]

# what turns the order of the characters around it (UAX #9): source could read otherwise than it runs
BIDI = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
# C0 and C1 control characters and DEL, but for tab and newline: a terminal obeys them
CONTROLS = {
    code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160), *BIDI) if code not in (9, 10)
}
# the same for JSON, which escapes C0 by itself
JSON_CONTROLS = {code: f"\\u{code:04x}" for code in (*range(127, 160), *BIDI)}

# wide enough that nothing is cut where a table goes into a file or a pipe
PIPE_WIDTH = 400
# a narrower terminal gets columns that stand closer
ROOMY_WIDTH = 100
# how far the text below a row is indented, and what the column that folds above it keeps at least
INDENT, FOLDED_WIDTH = 4, 12
# how long the name in the first column may be before it folds like the rest
NAME_WIDTH = 24

# releases that are only on disk: a long life has many, and `history` tells of all
SHOWN_STORED = 8


def clean(text: str) -> str:
    """Text of unknown origin, harmless to a terminal."""
    return text.translate(CONTROLS)


def cut(text: str, width: int) -> str:
    """As much of a line as fits into so many columns."""
    if text.isascii():
        return text[:width]
    from unicodedata import combining, east_asian_width

    for place, character in enumerate(text):
        width -= 0 if combining(character) else 2 if east_asian_width(character) in "WF" else 1
        if width < 0:
            return text[:place]
    return text


def plain(value: Any) -> Any:
    """What JSON has no type for, as text."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def as_json(answer: Answer) -> str:
    return json.dumps(answer, ensure_ascii=False, default=plain).translate(JSON_CONTROLS)


# ---- the answers -----------------------------------------------------------------------------------------


def status(answer: Answer) -> None:
    """Releases, and who is live."""
    release, kept = answer.get("release"), answer.get("kept")
    version, pid = answer.get("version", ""), answer.get("pid", "?")
    places = f"rtmp {answer.get('rtmp', '-')}, http {answer.get('http', '-')}"
    click.echo(clean(f"streamd {version}, process {pid}, up {span(answer.get('uptime_s') or 0)}. {places}."))
    boots = "the code as shipped" if kept is None else f"release {kept}"
    advice = "" if release == kept or answer.get("probation") else " To change that: streamd-ctl keep"
    click.echo(f"Release {release} runs; a restart boots {boots}.{advice}")
    if on_probation := answer.get("probation"):
        click.echo(clean(probation(on_probation)))
    if answer.get("mixed"):
        click.echo("Sessions are on several releases: see the last column. keep waits until they are on one.")
    if pins := answer.get("pins"):
        click.echo(clean(f"Pinned to their releases: {listed(pins)}. To let one go: streamd-ctl unpin NAME"))
    click.echo()

    releases = answer.get("releases") or []
    stored = [r for r in releases if r.get("state") == "stored"]
    forgotten = stored[:-SHOWN_STORED]
    table(
        ("RELEASE", "STATE", "SESSIONS", "MODULES", "PATCHES", "BY", "AT"),
        (
            (
                r.get("number"),
                r.get("state"),
                r.get("sessions"),
                listed(f"{name}@{to}" for name, to in (r.get("modules") or {}).items()) or "as shipped",
                quoted(os.path.basename(str(patch)) for patch in r.get("patches") or ()),
                user(r.get("by")),
                moment(r.get("at")),
            )
            for r in releases
            if r not in forgotten
        ),
    )
    if forgotten:
        click.echo(f"and {len(forgotten)} older on disk")
    for line in notes(releases, release):
        click.echo(clean(line))
    click.echo()
    sessions(answer)


def notes(releases: Sequence[Answer], running: Any) -> Iterable[str]:
    """What was said of releases when they were loaded, and still matters."""
    parents = {r.get("number"): r.get("parent") for r in releases}
    below = set()
    while running is not None and running not in below:
        below.add(running)
        running = parents.get(running)
    for found in releases:
        number, stored = found.get("number"), "stored" in str(found.get("state"))
        if (reason := found.get("irreversible")) and (number in below or not stored):
            yield f"No rollback crosses release {number}: {reason}"
        if (reason := found.get("differs")) and not stored:
            yield f"Release {number} is meant to act differently: {reason}"


def probation(found: Answer) -> str:
    """What is known of the release that is being watched, as sentences."""
    wave, waves = found.get("wave") or (0, 0)
    which = f", wave {wave} of {waves}" if waves else ""
    said = [
        f"Release {found.get('release')} is on probation{which}: {span(found.get('left_s') or 0)} left "
        f"of {span(found.get('seconds') or 0)}, {counted(found.get('sessions'), 'session')} guarded by release "
        f"{found.get('old')}, {counted(found.get('events'), 'event')}."
    ]
    for count, noun, first in (
        (found.get("differences"), "difference", found.get("first_difference")),
        (found.get("cured"), "error cured", found.get("first_cure")),
    ):
        if count:
            words = f"{count} errors cured" if noun == "error cured" and count > 1 else counted(count, noun)
            said.append(f"{words}; the first: {first}" if first else f"{words}.")
    return "\n".join(said)


def sessions(answer: Answer) -> None:
    """A line for each broadcast; connections that have not said what they want are only counted."""
    found = answer.get("sessions") or []
    pins = answer.get("pins") or ()
    doors = answer.get("doors") or sum(1 for s in found if is_door(s))
    rows = [
        (
            s.get("name"),
            s.get("phase"),
            publisher(s.get("publisher")),
            s.get("viewers"),
            s.get("bitrate_kbps"),
            s.get("video"),
            s.get("audio"),
            span((s.get("uptime_ms") or 0) / 1000),
            f"{s.get('release')} pinned" if s.get("name") in pins else s.get("release"),
        )
        for s in found
        if not is_door(s)
    ]
    if rows:
        table(("SESSION", "PHASE", "PUBLISHER", "VIEWERS", "KBIT/S", "VIDEO", "AUDIO", "UP", "REL"), rows)
    else:
        click.echo("Nobody publishes.")
    if doors:
        click.echo(f"{doors} connection{'s' * (doors > 1)} at the door.")


def session(answer: Answer) -> None:
    """Everything about one session: its values, then a table for each list of records, such as its peers."""
    for found in answer.get("sessions") or ():
        tables = {}
        for key, value in flattened(found):
            if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
                tables[key] = value
            else:
                click.echo(clean(f"{key:<24} {listed(value) or '-'}"))
        for key, rows in tables.items():
            click.echo(clean(f"\n{key}"))
            heads = list(dict.fromkeys(head for row in rows for head in row))
            table(
                [clean(head).upper() for head in heads], ([row.get(head) for head in heads] for row in rows)
            )


def trace(answer: Answer) -> None:
    events = answer.get("events") or ()
    if not events:
        click.echo(clean(f"{answer.get('name')}: no events yet."))
        return
    table(
        ("AT", "EVENT", "LINK", "BYTES", "COMMANDS"),
        (
            (clock(e.get("at")), e.get("kind"), e.get("link"), e.get("size"), listed(e.get("commands")))
            for e in events
        ),
    )


def diff(answer: Answer) -> None:
    """The difference as `diff -u` writes it, coloured on a terminal."""
    text = clean(answer.get("text") or "").rstrip("\n")
    if not text:
        click.echo("No difference.")
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for line in text.splitlines():
        click.echo(click.style(line, **style_of(line)) if colour else line)


def history(answer: Answer) -> None:
    """A line for each entry, and its text at the end of it, or on a terminal below it."""
    heads = ("AT", "BY", "VERB", "PATHS", "RESULT", "RELEASE", "SHA256", "TEXT")
    rows = [
        (
            moment(e.get("at")),
            user(e),
            e.get("verb"),
            quoted(e.get("paths") or ()),
            e.get("result"),
            e.get("release"),
            str(e.get("sha256") or "")[:12],
            e.get("text"),
        )
        for e in answer.get("entries") or ()
    ]
    told_table(heads, rows, folded=heads.index("PATHS"))
    for problem in (answer.get("verified") or {}).get("problems") or ():
        click.echo(clean(str(problem)))
    if answer.get("ok") and answer.get("text"):
        click.echo(clean(str(answer["text"])))


# ---- pieces ----------------------------------------------------------------------------------------------


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    seen = sys.stdout.isatty()
    console = Console(width=None if seen else PIPE_WIDTH, highlight=False)
    made = Table(box=None, pad_edge=False, padding=(0, gap(console.width), 0, 0), header_style="bold")
    # Text, and not str: "[red]" in a title is no markup
    body = [[Text(cell) for cell in cells(row)] for row in rows]
    # what a row is about is whole for as long as there is room
    name_width = min(max((line[0].cell_len for line in body), default=0), NAME_WIDTH)
    for place, head in enumerate(heads):
        made.add_column(
            head,
            overflow="fold",
            no_wrap=head == "AT" or not seen,
            min_width=max(len(head), 0 if place else name_width),
        )
    for texts in body:
        made.add_row(*texts)
    if seen:
        console.print(made)
        return
    with console.capture() as capture:
        console.print(made)
    for line in capture.get().splitlines():
        click.echo(line.rstrip())  # a file or a pipe gets no padding


def told_table(heads: Sequence[str], rows: Sequence[Sequence[Any]], folded: int) -> None:
    """A table whose last column is a sentence: at the end of its row, or on a terminal below it."""
    if sys.stdout.isatty():
        table_with_text_below(heads, rows, folded)
    else:
        table(heads, rows)


def table_with_text_below(heads: Sequence[str], rows: Iterable[Sequence[Any]], folded: int) -> None:
    """A table on a terminal; the last cell of each row on lines of its own below it.

    Of the other columns only `folded` gives way where the terminal is narrow.
    """
    from rich.cells import cell_len
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    between = gap(console.width)
    lines = [(heads[:-1], ""), *((cells(row[:-1]), clean(str(row[-1] or ""))) for row in rows)]
    widths = [max(map(cell_len, column)) for column in zip(*(line for line, _ in lines), strict=True)]
    room = console.width - sum(widths) - between * (len(widths) - 1) + widths[folded]
    widths[folded] = min(widths[folded], max(room, FOLDED_WIDTH))
    for number, (line, text) in enumerate(lines):
        # a table for each row, so that something can stand between two
        made = Table(box=None, pad_edge=False, padding=(0, between, 0, 0), show_header=False)
        for width in widths:
            made.add_column(width=width, overflow="fold")
        made.add_row(*map(Text, line), style="" if number else "bold")
        console.print(made)
        if text:
            console.print(Padding(Text(text), (0, 0, 0, INDENT)))


def cells(row: Sequence[Any]) -> list[str]:
    """What stands in a row, "-" for nothing."""
    return ["-" if cell in (None, "") else clean(str(cell)) for cell in row]


def gap(width: int) -> int:
    """Between two columns."""
    return 2 if width >= ROOMY_WIDTH else 1


def style_of(line: str) -> dict[str, Any]:
    if line.startswith(("+++", "---", "diff ")):
        return {"bold": True}
    return {"+": {"fg": "green"}, "-": {"fg": "red"}, "@": {"fg": "cyan"}}.get(line[:1], {})


def is_door(found: Answer) -> bool:
    return found.get("kind") == "door" or str(found.get("name")).startswith("door/")


def publisher(found: Any) -> str | None:
    """Who publishes: the peer's address where the server says it."""
    if isinstance(found, dict):
        return str(found.get("peer") or "yes")
    return str(found) if found else None


def user(by: Any) -> str | None:
    """The name of the user who asked, or the number where this machine knows no name."""
    if not isinstance(by, dict) or by.get("uid") is None or by["uid"] < 0:
        return None  # nobody: the server itself, at its start
    try:
        return pwd.getpwuid(by["uid"]).pw_name
    except (KeyError, TypeError, OverflowError):
        return str(by["uid"])


def listed(values: Any) -> str:
    """Several values in one cell; one value as it is; nothing for none."""
    if values is None:
        return ""
    return str(values) if isinstance(values, str | int | float) else ", ".join(map(str, values))


def quoted(paths: Iterable[Any]) -> str:
    """Paths as a shell takes them."""
    return listed(shlex.quote(str(path)) for path in paths)


def local(at: Any) -> datetime | None:
    """The server's time, here; None for what is no time."""
    try:
        return datetime.fromisoformat(at).astimezone()
    except (TypeError, ValueError, OverflowError):
        return None


def moment(at: Any) -> Any:
    """As "11-20 13:22:05", with the year in front where it is not this one."""
    if not (found := local(at)):
        return at
    this_year = found.year == datetime.now().year
    return f"{found:%m-%d %H:%M:%S}" if this_year else f"{found:%Y-%m-%d %H:%M:%S}"


def clock(at: Any) -> Any:
    """As "13:22:05.123"."""
    found = local(at)
    return found.time().isoformat("milliseconds") if found else at


def counted(count: Any, noun: str, plural: str = "") -> str:
    """ "1 session", "2,000 sessions"."""
    count = int(count or 0)
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def scaled(value: float, units: Sequence[str]) -> str:
    """A number with the unit that keeps it short; each unit is a thousand of the one before."""
    place = 0
    while abs(value) >= 1000 and place < len(units) - 1:
        value /= 1000
        place += 1
    return f"{value:.1f} {units[place]}" if place and abs(value) < 100 else f"{value:.0f} {units[place]}"


def flattened(value: Answer, prefix: str = "") -> Iterable[tuple[str, Any]]:
    """{"a": {"b": 1}} -> ("a.b", 1), one line each."""
    for key, inner in value.items():
        if isinstance(inner, dict) and inner:
            yield from flattened(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner


def span(seconds: float) -> str:
    """The two largest units of a time: "2 d 3 h", "14 s"."""
    left = int(seconds)
    parts: list[str] = []
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        count, left = divmod(left, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])
