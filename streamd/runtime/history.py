"""The history: every request that changed or tried to change something, one line of JSON each, only ever appended to.

The rule this file keeps: each line names the one before it by hash ("prev": the sha256 of its bytes without the line
feed, "" in the first), so that a line that was changed, taken out or put in breaks the chain at that place, for
anyone who looks. Lines from before there was a chain stand at the beginning only.

What a chain cannot show by itself is that its end was cut off, or that the file was written anew from some line on:
for that, `head` (the sha256 of the last line) has to be written down elsewhere. It is in the log at every start.

A crash in the middle of a write leaves a torn line. The next entry starts on a line of its own and its `prev` is the
hash of the torn one: the tear is told, and no harm.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

BLOCK = 65_536  # bytes read at a time while looking for the beginning of the last line


class Verified(NamedTuple):
    """What a look at the whole history found. `problems` is empty if nobody has touched it."""

    entries: int
    problems: list[str]  # sentences, in the order of the file
    head: str  # sha256 of the last line, "" if there is none
    torn: list[str]  # lines that a crash cut off; the chain goes on over them
    unchained: int  # entries at the beginning that were written before there was a chain

    def sentence(self) -> str:
        """The whole of it for the operator, with the most telling problems."""
        if self.problems:
            more = f"; and {len(self.problems) - 3} more" if len(self.problems) > 3 else ""
            return f"the history is not as it was written: {'; '.join(self.problems[:3])}{more}"
        if not self.head:
            return "the history is empty"
        text = f"{self.entries} entries, each chained to the one before; the last has the sha256 {self.head}"
        if self.unchained:
            text += f"; the first {self.unchained} are from before there was a chain, and nothing vouches for them"
        if self.torn:
            text += f"; a crash left {len(self.torn)} torn: {self.torn[0]}"
        return text


class History:
    """One file. Raises OSError with the path in its text."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()  # entries come from several threads, and each names the one before

    def note(self, entry: dict[str, Any]) -> None:
        """Append one line and sync it: what is answered has been written down."""
        with self._lock, self._open(os.O_RDWR | os.O_CREAT | os.O_APPEND) as file:
            last, whole = _last_line(file)
            stamped = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), **entry}
            line = json.dumps({**stamped, "prev": _sha256(last) if last is not None else ""}).encode()
            file.write((b"" if whole else b"\n") + line + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def entries(self, last: int = 0) -> list[dict[str, Any]]:
        """The entries, oldest first; only the last so many if given. What is no entry is passed over."""
        found = []
        for line in reversed(self._lines()):
            entry = _entry(line)
            if entry is not None:
                found.append(entry)
                if len(found) == last:
                    break
        return found[::-1]

    def verify(self, known: str = "") -> Verified:
        """Follow the chain from the first line to the last. `known` is a head that was written down earlier:
        a history that no longer has that line was cut off or written anew."""
        lines = self._lines()
        problems, torn = [], []
        entries = unchained = 0
        chained = False
        before = None  # the line before, None at the first
        for number, line in enumerate(lines, 1):
            place = f"line {number}"
            entry = _entry(line)
            if entry is None:
                torn.append(f"{place} is torn: {_shown(line)}")
                before = line
                continue
            entries += 1
            prev = entry.get("prev")
            expected = "" if before is None else _sha256(before)
            if prev is None and not chained:
                unchained += 1
            elif prev is None:
                problems.append(f"{place} ({_told(entry)}) is not chained to the one before: it was put in")
            elif prev != expected:
                problems.append(f"{place} ({_told(entry)}) {_broken(prev, number)}")
            chained = chained or prev is not None
            before = line
        if known and known not in map(_sha256, lines):
            problems.append(f"no line has the sha256 {known}: the end was cut off, or written anew")
        return Verified(entries, problems, _sha256(lines[-1]) if lines else "", torn, unchained)

    def _lines(self) -> list[bytes]:
        try:
            with self._open(os.O_RDONLY) as file:
                raw = file.read()
        except FileNotFoundError:
            return []
        return [line for line in raw.split(b"\n") if line]

    def _open(self, flags: int) -> BinaryIO:
        # not through a link, and not into a pipe that somebody put there: the first would append to a stranger's
        # file, the second would wait for ever
        handle = os.open(self.path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o640)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise OSError(errno.EINVAL, f"{self.path} is no regular file")
        return os.fdopen(handle, "rb" if flags == os.O_RDONLY else "rb+")


def _last_line(file: BinaryIO) -> tuple[bytes | None, bool]:
    """The last line that has anything in it, and whether the file ends with a line feed (or is empty)."""
    end = file.seek(0, os.SEEK_END)
    tail = b""
    while end and b"\n" not in tail.rstrip(b"\n"):
        start = max(0, end - BLOCK)
        file.seek(start)
        tail = file.read(end - start) + tail
        end = start
    lines = [line for line in tail.split(b"\n") if line]
    return (lines[-1] if lines else None), not tail or tail.endswith(b"\n")


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line.decode())
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None


def _broken(prev: Any, number: int) -> str:
    if number == 1:
        return "is the first and names one before it: the beginning was cut off"
    return "does not follow from the one before: a line was changed, taken out or put in there"


def _told(entry: dict[str, Any]) -> str:
    return " ".join(str(entry.get(name, "?"))[:40] for name in ("verb", "at"))


def _shown(line: bytes) -> str:
    return repr(line[:60].decode("utf-8", "replace"))


def _sha256(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()
