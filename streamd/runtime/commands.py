"""What a step may answer: every command is checked before the first is carried out, and two answers can be compared.

The rule this file keeps: what passes `check` can be carried out, whatever the state of the world. A value that would
only fail on its way to a socket, a timer or the log is found here, while the step can still be said to have done
nothing.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Container, Mapping
from typing import Any, NamedTuple, get_origin, get_type_hints

from streamd.runtime.state import is_record
from streamd.runtime.vocabulary import (
    Close,
    Count,
    End,
    Join,
    Leave,
    Log,
    Move,
    Respond,
    Ring,
    Send,
    SendAll,
    Wake,
)

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
STARTS = ("key", "next")
MOST = 1000  # commands of one step, and for each of its links:
MOST_PER_LINK = 16
MOST_BYTES = 67_108_864  # of payloads in one answer, each counted once
LONGEST_TEXT = 65_536  # characters that a log line, a reason or a name may have
LONGEST_WAKE = 366 * 24 * 3600 * 1000  # ms
SWITCHING = 101  # RFC 9110 15.2.2: the one answer below 200 that is not followed by another
SEPARATORS = ("\r", "\n", "\0")  # a header value with one of them would be two headers (RFC 9110 5.5)
TOKEN = frozenset(
    "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
)  # RFC 9110 5.6.2


class BadCommand(Exception):
    """Live code answered with something that is not a command; a bug of that module."""


def _shape(command: type) -> tuple[type | None, ...]:
    """The exact type of each of a command's fields; None for any."""
    return tuple(
        None if hint is Any else get_origin(hint) or hint for hint in get_type_hints(command).values()
    )


SHAPES = {
    kind: _shape(kind)
    for kind in (Send, Ring, SendAll, Join, Leave, Close, Respond, Move, Wake, Log, Count, End)
}


def check(commands: Any, groups: Container[str], links: int = 0, event: Any = None) -> None:
    """Raise BadCommand unless every one of them can be carried out by a session that has these groups and so many
    links. The bytes of `event` allow for more commands: each of them may have been a message."""
    if type(commands) is not list:
        raise BadCommand(f"step returned {type(commands).__name__}, not a list of commands")
    if len(commands) > MOST:
        most = MOST + MOST_PER_LINK * links + len(getattr(event, "data", b""))
        if len(commands) > most:
            raise BadCommand(f"step returned {len(commands)} commands; here it may return {most}")
    size = 0
    made: set[str] = set()  # groups that exist once the commands so far are carried out
    for command in commands:
        kind = type(command)
        if kind is SendAll:  # those of every message
            group, data, key = command
            if type(group) is not str:
                raise BadCommand(f"SendAll.group is {type(group).__name__}")
            if type(data) is not bytes:
                raise BadCommand(f"SendAll carries {type(data).__name__}, not bytes")
            if type(key) is not bool:
                raise BadCommand(f"SendAll.key is {type(key).__name__}")
            if group not in groups and group not in made:
                raise BadCommand(f"SendAll to group {group!r}, which has no Ring")
            size += len(data)
        elif kind is Send:
            link, data = command
            if type(data) is not bytes:
                raise BadCommand(f"Send carries {type(data).__name__}, not bytes")
            if type(link) is not int:
                raise BadCommand(f"Send.link is {type(link).__name__}")
            size += len(data)
        elif kind in SHAPES:
            _check_fields(command, kind, SHAPES[kind])
            _check_values(command)
            if kind is Ring:
                made.add(command.group)
            elif kind is Join:
                if command.group not in groups and command.group not in made:
                    raise BadCommand(f"Join to group {command.group!r}, which has no Ring")
                size += len(command.head)
            elif kind is Respond:
                size += len(command.body)
        else:
            raise BadCommand(f"step returned {kind.__name__}, which is not a command")
    if size > MOST_BYTES and (size := _distinct(commands)) > MOST_BYTES:
        raise BadCommand(f"step returned {size} bytes to send; it may return {MOST_BYTES}")


def _check_fields(command: Any, kind: type, shapes: tuple[type | None, ...]) -> None:
    for name, value, shape in zip(command._fields, command, shapes, strict=True):
        if shape is not None and type(value) is not shape:
            raise BadCommand(f"{kind.__name__}.{name} is {type(value).__name__}")
        if shape is str:
            _check_text(f"{kind.__name__}.{name}", value)


def _check_text(where: str, text: str) -> None:
    if len(text) > LONGEST_TEXT:
        raise BadCommand(f"{where} is {len(text)} characters long")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise BadCommand(f"{where} is no text: it holds half a character") from None


def _check_values(command: Any) -> None:
    """What a field's type cannot tell."""
    match command:
        case Wake(after=after) if after > LONGEST_WAKE:
            raise BadCommand(f"Wake.after is {after}, more than a year")
        case Ring(max_bytes=size, max_lag=lag, max_slow=slow) if min(size, lag, slow) < 0:
            raise BadCommand(f"Ring of {size} bytes, {lag} ms and {slow} ms: none may be negative")
        case Join(start=start) if start not in STARTS:
            raise BadCommand(f"Join.start is {start!r}")
        case Log(level=level) if level not in LEVELS:
            raise BadCommand(f"Log.level is {level!r}")
        case Move(guest=guest) if guest is not None and not is_record(guest):
            raise BadCommand(f"Move.guest is {type(guest).__name__}, which is no record")
        case Respond(status=status, headers=headers, stream=stream):
            if not (200 <= status <= 599 or (status == SWITCHING and stream)):
                raise BadCommand(f"Respond.status is {status}")
            for name, value in headers.items():
                _check_header(name, value)


def _check_header(name: Any, value: Any) -> None:
    if type(name) is not str or type(value) is not str:
        raise BadCommand(f"Respond.headers has {name!r}: {value!r}; both are text")
    if not name or not TOKEN.issuperset(name):
        raise BadCommand(f"Respond.headers has the name {name!r}")
    _check_text(f"Respond.headers[{name!r}]", value)
    if any(item in value for item in SEPARATORS):
        raise BadCommand(f"Respond.headers[{name!r}] would break the line: {value[:80]!r}")


def _payload(command: Any) -> bytes:
    match command:
        case SendAll(data=data) | Send(data=data):
            return data
        case Join(head=head):
            return head
        case Respond(body=body):
            return body
    return b""


def _distinct(commands: list[Any]) -> int:
    """Bytes of payload, those of one object for many links counted once."""
    payloads = map(_payload, commands)
    return sum(map(len, {id(data): data for data in payloads}.values()))


# ---- two answers to one event --------------------------------------------------------------------------------


class Difference(NamedTuple):
    """The first place where two answers part: its number, the command's name (or "count"), and a sentence."""

    place: int
    kind: str
    sentence: str


def difference(old: list[Any], new: list[Any], same_guest: Callable[[Any, Any], bool]) -> Difference | None:
    """Where the new answer differs from the old one first. Both have passed `check`; `same_guest` compares the guests
    of two Moves, which are records of two releases."""
    for place, (left, right) in enumerate(zip(old, new, strict=False)):
        kind = type(left)
        if kind is not type(right):  # named tuples of other kinds may be equal
            return Difference(place, kind.__name__, f"{_short(left)} has become {_short(right)}")
        if kind is Move:
            if left[:2] == right[:2] and left.create is right.create:
                if same_guest(left.guest, right.guest):
                    continue
                sentence = f"the guest of Move to {left.to!r} has changed"
                return Difference(place, kind.__name__, sentence)
        elif left == right:
            continue
        return Difference(place, kind.__name__, _told(left, right))
    if len(old) != len(new):
        longer = old if len(old) > len(new) else new
        place = min(len(old), len(new))
        word = "no longer" if longer is old else "now also"
        return Difference(
            place, "count", f"{len(old)} commands have become {len(new)}: {word} {_short(longer[place])}"
        )
    return None


def differing(old: list[Any], new: list[Any]) -> frozenset[str]:
    """The kinds of commands in which two answers differ. Guests of a Move are not looked at: `difference` does that."""
    kinds = {type(item) for item in (*old, *new)}
    return frozenset(kind.__name__ for kind in kinds if _of_kind(old, kind) != _of_kind(new, kind))


def _of_kind(commands: list[Any], kind: type) -> list[Any]:
    found: list[Any] = [item for item in commands if type(item) is kind]
    return [(item.link, item.to, item.create) for item in found] if kind is Move else found


def losses(old: list[Any], new: list[Any]) -> str:
    """What somebody loses by the new answer, as a sentence: a link that only it closes or takes out of its group, one
    that it does not answer, let in or hand over, a group that it sends nothing to any more. "" if nothing is lost."""
    before, after = Counter(map(_target, old)), Counter(map(_target, new))
    for kind, name in after:
        if kind in ENDINGS and (kind, name) not in before:
            return f"{ENDINGS[kind].format(name)}, which the running code does not"
    for (kind, name), count in before.items():
        if kind in GIFTS and (kind, name) not in after:
            return f"{GIFTS[kind].format(name)}, which the running code does"
        if kind is SendAll and after[kind, name] < count and _bytes_to(new, name) < _bytes_to(old, name):
            return (
                f"it sends {after[kind, name]} units to group {name!r}, where the running code sends {count}"
            )
    return ""


def _bytes_to(commands: list[Any], group: str) -> int:
    return sum(len(item.data) for item in commands if type(item) is SendAll and item.group == group)


def endings(commands: list[Any]) -> dict[str, str]:
    """The kinds of commands among these by which somebody loses a link or all, and the first of each in words."""
    found: dict[str, str] = {}
    for command in commands:
        if type(command) in ENDINGS:
            found.setdefault(type(command).__name__, _short(command))
    return found


ENDINGS: Mapping[type, str] = {
    Close: "it closes link {}",
    Leave: "it takes link {} out of its group",
    End: "it ends the session",
}
GIFTS: Mapping[type, str] = {
    Send: "it sends nothing to link {}",
    SendAll: "it sends nothing to group {!r}",
    Join: "it does not let link {} join",
    Respond: "it does not answer link {}",
    Move: "it does not hand link {} over",
}


def _target(command: Any) -> tuple[type, Any]:
    return type(command), command.group if type(command) is SendAll else getattr(command, "link", None)


def _told(left: Any, right: Any) -> str:
    """The first field in which two commands of one kind differ."""
    for name, before, after in zip(left._fields, left, right, strict=True):
        if before != after:
            return (
                f"{type(left).__name__}.{name} of {_short(left)} was {_value(before)} and is {_value(after)}"
            )
    return f"{_short(left)} has become {_short(right)}"


def _short(command: Any) -> str:
    """A command with its payloads by length only."""
    fields = (
        f"{name}={f'<{len(value)} bytes>' if type(value) is bytes else _value(value)}"
        for name, value in zip(command._fields, command, strict=True)
        if name != "guest"
    )
    return f"{type(command).__name__}({', '.join(fields)})"


def _value(value: Any) -> str:
    if type(value) is bytes:
        return f"{len(value)} bytes (sha256 {hashlib.sha256(value).hexdigest()[:12]})"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
