"""What live code has raised, in words: for an answer, a report, the log.

The rule this file keeps: to tell of an exception runs no code of its own. A `__str__` that loops or raises is never
called, a text of any length is cut, and what it was given is shown only where that is plain and short. So nothing here
can be held up or fail, wherever it is asked.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from streamd.runtime.watchdog import LIVE

LONGEST = 400  # characters of an exception's text
FRAMES = 30  # of a traceback that are told
CAUSES = 5  # exceptions behind an exception that are told
SIMPLE = (str, bytes, int, float, bool, type(None))
SHOWN = 4  # things that an exception was given, where it cannot be asked for its text
PLAIN = 4096  # characters or bytes of what an exception was given; to make a text of more is not worth it

ARGS: Any = BaseException.__dict__["args"]
TRACEBACK: Any = BaseException.__dict__["__traceback__"]
CAUSE: Any = BaseException.__dict__["__cause__"]
CONTEXT: Any = BaseException.__dict__["__context__"]
SUPPRESSED: Any = BaseException.__dict__["__suppress_context__"]
NAME: Any = type.__dict__["__name__"]


def kind_of(value: object) -> str:
    """The name of its class."""
    return cut(NAME.__get__(type(value)))


def cut(text: str, longest: int = LONGEST) -> str:
    """The beginning of a text, as text of the plain kind that every encoding takes."""
    short = str.__getitem__(text, slice(longest))
    more = "..." if str.__len__(text) > longest else ""
    return short.encode("utf-8", "backslashreplace").decode() + more


def text_of(error: BaseException) -> str:
    """What an exception says; "" if nothing."""
    try:
        given = ARGS.__get__(error)
        if not _speaks_for_itself(error) and all(map(_is_short, given)):
            return cut(str(error))
        return ", ".join(map(_shown, given[:SHOWN])) + (", ..." if len(given) > SHOWN else "")
    except Exception:  # of the standard library's own texts, where attributes are not what they should be
        return ""


def told(error: BaseException) -> str:
    """Its class, and what it says: "ValueError: no such thing"."""
    text = text_of(error)
    return f"{kind_of(error)}{': ' if text else ''}{text}"


def placed(error: BaseException) -> str:
    """The same, and where in live code it was raised: "ValueError: no such thing (media.h264:86 in learn)"."""
    place = ""
    for frame, line in _frames(TRACEBACK.__get__(error)):
        module = str(frame.f_globals.get("__name__", ""))
        if module.startswith(LIVE):
            name = module.partition(".")[2] or "__init__"
            place = f" ({name}:{line} in {frame.f_code.co_name})"
    return told(error) + place


def frames(error: BaseException) -> list[str]:
    """A traceback as the interpreter would print it, but for its length; what was behind the exception comes first."""
    chain: list[tuple[BaseException, str]] = []
    link, seen, following = error, set(), ""
    while len(chain) < CAUSES and id(link) not in seen:
        seen.add(id(link))
        chain.append((link, following))
        cause, context = CAUSE.__get__(link), CONTEXT.__get__(link)
        if cause is not None:
            link, following = (
                cause,
                "\nThe above exception was the direct cause of the following exception:\n\n",
            )
        elif context is not None and not SUPPRESSED.__get__(link):
            link, following = (
                context,
                "\nDuring handling of the above exception, another exception occurred:\n\n",
            )
    lines: list[str] = []
    for link, following in reversed(chain):
        trace = TRACEBACK.__get__(link)
        if trace is not None:
            lines.append("Traceback (most recent call last):\n")
            lines += traceback.format_list(traceback.extract_tb(trace, -FRAMES))
        lines.append(f"{told(link)}\n")
        if following:
            lines.append(following)
    return lines


def _frames(trace: TracebackType | None) -> Iterator[tuple[Any, int]]:
    while trace is not None:
        yield trace.tb_frame, trace.tb_lineno
        trace = trace.tb_next


def _speaks_for_itself(error: BaseException) -> bool:
    """Whether its text would be made by live code."""
    for name in ("__str__", "__repr__"):
        owner = next((cls for cls in type.mro(type(error)) if name in vars(cls)), object)
        if str(owner.__module__).startswith(LIVE):
            return True
    return False


def _is_short(value: object) -> bool:
    if type(value) in (str, bytes):
        return len(value) <= PLAIN  # type: ignore[arg-type]
    return type(value) in SIMPLE


def _shown(value: object) -> str:
    if type(value) is str:
        return cut(value)
    if type(value) is bytes:
        return cut(repr(value[:LONGEST]))
    return cut(repr(value)) if type(value) in SIMPLE else f"<{kind_of(value)}>"
