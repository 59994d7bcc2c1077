"""What a session did last, and what went wrong how often.

The rule this file keeps: whatever may happen per frame is counted here and said once a second; nothing in a
hot path formats text. A traced event keeps sizes, never payloads.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any, NamedTuple

log = logging.getLogger("streamd")


class Traced(NamedTuple):
    """One step: ms, kind of event, its link or 0, bytes of its payload, and how many commands it was answered with
    (`journal.BLAMED` for a peer's fault, `journal.FAILED` for a crash)."""

    at: int
    kind: type
    link: int
    size: int
    commands: int

    @classmethod
    def of(cls, event: Any, commands: int) -> Traced:
        size = len(event.data) if hasattr(event, "data") else 0
        return cls(event.now, type(event), getattr(event, "link", 0), size, commands)

    def told(self) -> dict[str, Any]:
        return {**self._asdict(), "kind": self.kind.__name__, "commands": max(self.commands, 0)}


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
