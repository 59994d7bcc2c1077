"""What a session did last, and what went wrong how often.

The rule this file keeps: whatever may happen per frame is counted here and said once a second; nothing in a
hot path formats text. A traced event keeps sizes, never payloads, so a ring costs a few kilobytes.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from typing import Any, NamedTuple

log = logging.getLogger("streamd")

KEPT = 64  # events per session: about two seconds of a publisher's reads


class Traced(NamedTuple):
    """One step: ms, kind of event, its link or 0, bytes of its payload, how many commands it was answered with."""

    at: int
    kind: type
    link: int
    size: int
    commands: int


class Trace:
    """The last steps of one session."""

    __slots__ = ("events", "steps")

    def __init__(self) -> None:
        self.events: deque[Traced] = deque(maxlen=KEPT)
        self.steps = 0

    def note(self, event: Any, commands: int) -> None:
        size = len(event.data) if hasattr(event, "data") else 0
        self.events.append(Traced(event.now, type(event), getattr(event, "link", 0), size, commands))
        self.steps += 1

    def told(self) -> list[dict[str, Any]]:
        return [{**entry._asdict(), "kind": entry.kind.__name__} for entry in self.events]


class Counters:
    """Totals since start, and what is new since they were last said."""

    def __init__(self) -> None:
        self.totals: Counter[str] = Counter()
        self._fresh: Counter[tuple[str, str]] = Counter()

    def count(self, where: str, what: str) -> None:
        self.totals[what] += 1
        if len(self._fresh) < 1000 or (where, what) in self._fresh:  # a flood of names stays bounded
            self._fresh[where, what] += 1

    def say(self) -> None:
        """Log one line for each place and kind since the last call; called once a second."""
        fresh, self._fresh = self._fresh, Counter()
        for (where, what), times in fresh.items():
            log.warning("%s: %s%s", where, what, f" ({times} times in a second)" if times > 1 else "")
