"""How a session fares: errors that are no exceptions, and whether there are more of them than there were.

The rule this file keeps: only errors cost anything. They are counted where they happen, in a total and in a sum that
decays, so that the rate of the last minute is known without a clock that ticks. What may be healthy at any number
(steps, commands) the journal adds up, and it is read when somebody asks.
"""

from __future__ import annotations

from math import exp
from typing import NamedTuple

from streamd.runtime.journal import Journal

PERIOD = 60.0  # s: an error weighs 1/e after it
KINDS = 64  # of errors that a session tells apart
OTHER = "other errors"
LEAST_MORE = 5  # errors more than before that say anything
LEAST_EVENTS, LEAST_BYTES = 50, 65_536  # of publishers' reads before what came of them is compared
LEAST_SHARE = 0.5  # of the commands that there were before

PEER_ERRORS = "peer errors"
CONGESTION = "congested viewers"
WARNINGS = "warnings in the log"
ERRORS = (PEER_ERRORS, CONGESTION, WARNINGS)


class Yield(NamedTuple):
    """What came of publishers' bytes. Both fall where some of it is lost: the one alone when messages grow, the
    other alone when the publisher pauses."""

    commands_a_byte: float
    commands_a_second: float


class Rates(NamedTuple):
    """What `worse` compares with: errors a second and totals at the time, and what came of the bytes received (None if
    too little came)."""

    rates: dict[str, float]
    totals: dict[str, int]
    yielded: Yield | None


class Health:
    """Counts of errors, by kind. `journal` is the session's, or None where several sessions share one health."""

    __slots__ = ("_at", "_began", "_decayed", "_journal", "totals")

    def __init__(self, journal: Journal | None, now: int) -> None:
        self.totals: dict[str, int] = {}
        self._decayed: dict[str, float] = {}
        self._at: dict[str, int] = {}
        self._began = now
        self._journal = journal

    def note(self, kind: str, now: int) -> None:
        """One error more."""
        if kind not in self.totals and len(self.totals) >= KINDS:
            kind = OTHER
        self.totals[kind] = self.totals.get(kind, 0) + 1
        self._decayed[kind] = self._left(kind, now) + 1.0
        self._at[kind] = now

    def _left(self, kind: str, now: int) -> float:
        return self._decayed.get(kind, 0.0) * exp((self._at.get(kind, now) - now) / 1000 / PERIOD)

    def before(self, now: int) -> Rates:
        """What the session's errors are like now, to be compared with later."""
        age = max((now - self._began) / 1000, 1.0)
        seconds = PERIOD * (1 - exp(-age / PERIOD))  # what the sum has been over
        rates = {kind: self._left(kind, now) / seconds for kind in self.totals}
        return Rates(rates, dict(self.totals), self._yield())

    def worse(self, before: Rates, since: int, now: int, rise: float) -> str:
        """A sentence if something goes wrong more than `rise` times as often since then as it did before; else ""."""
        elapsed = max((now - since) / 1000, 0.0)
        for kind, total in self.totals.items():
            if kind not in before.totals and kind not in ERRORS:
                continue  # something new is counted, which may as well be good
            came = total - before.totals.get(kind, 0)
            expected = before.rates.get(kind, 0.0) * elapsed
            if came - expected >= LEAST_MORE and came > rise * expected:
                return f"{kind}: {came} in {elapsed:.0f} s, where {expected:.1f} were to be expected"
        if before.yielded is not None and before.yielded.commands_a_byte:
            yielded = self._yield()
            if yielded is not None:
                share = max(later / former for later, former in zip(yielded, before.yielded, strict=True))
                if share < LEAST_SHARE:
                    return f"of the bytes received comes {share:.0%} of what came of them before"
        return ""

    def _yield(self) -> Yield | None:
        """Of the events in the journal; None where they say nothing."""
        if self._journal is None:
            return None
        reads, size, commands, first, last = self._journal.received
        if reads < LEAST_EVENTS or size < LEAST_BYTES or last == first:
            return None
        return Yield(commands / size, commands / (last - first) * 1000)
