"""The way from one release to another: through their common ancestor, down first and then up.

The rule this file keeps: there is one way, and it is made of the migrations that the patches themselves brought. It
is the same in the server and in the process that rehearses for it, which is why nothing here awaits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from streamd.runtime import migrate
from streamd.runtime.migrate import MigrationError, Steps
from streamd.runtime.release import Release
from streamd.runtime.store import Record


class Ways:
    """Finds ways among the releases that `record` knows and `held` gives, importing them where need be.

    `record` raises LookupError for a release whose record is gone; `held` what importing raises. A way that has been
    found is remembered until `forget` is told of a release on it: its migrations are that release's functions.
    """

    def __init__(self, record: Callable[[int], Record], held: Callable[[int], Release]) -> None:
        self._record = record
        self._held = held
        self._found: dict[tuple[Release, Release], tuple[set[int], list[Steps]]] = {}

    def forget(self, number: int) -> None:
        """A release is let go of: forget the ways that lead over it."""
        for ends, (on_it, _) in [*self._found.items()]:  # at once: this may be another thread
            if number in on_it:
                self._found.pop(ends, None)

    def ancestors(self, number: int | None) -> list[int]:
        """The number, its parent, and so on up to the shipped code."""
        chain: list[int] = []
        while number is not None:
            try:
                parent = self._record(number).parent
            except LookupError:
                break  # torn or taken away: there is no way beyond it
            chain.append(number)
            number = parent
        return chain

    def passed(self, source: int, target: int) -> list[int]:
        """The releases whose migrations a way calls, those that are left first. Raises MigrationError."""
        down, up = self.ancestors(source), self.ancestors(target)
        meet = next((number for number in down if number in up), None)
        if meet is None:
            raise MigrationError(f"releases {source} and {target} have no common ancestor")
        return [*down[: down.index(meet)], *reversed(up[: up.index(meet)])]

    def way(self, source: Release, target: Release) -> list[Steps]:
        """What takes state of `source` to `target`, to be applied in order. Raises MigrationError."""
        if source is target:
            return []
        ends = source, target
        if ends not in self._found:
            self._found[ends] = self._find(source, target)
        return self._found[ends][1]

    def _find(self, source: Release, target: Release) -> tuple[set[int], list[Steps]]:
        """(the releases on the way, both ends among them; the way)"""
        on_it = {source.number, target.number}
        up = self.ancestors(target.number)
        steps = []
        for number in self.passed(source.number, target.number):
            record = self._record(number)
            assert record.parent is not None
            own, parent = self._held(number), self._held(record.parent)
            on_it |= {number, record.parent}
            if number in up:
                steps.append(migrate.steps_up(parent, own, record.modules, record.renames))
            elif record.irreversible:
                sentence = f"release {number} was loaded as irreversible ({record.irreversible}); there is no way back across it"
                steps.append(migrate.steps_barred(own, parent, record.modules, record.renames, sentence))
            else:
                steps.append(migrate.steps_down(own, parent, record.modules, record.renames))
        return on_it, steps

    def convert(self, lowered: Any, source: Release, target: Release) -> Any:
        """A lowered state of one release, for another. Raises MigrationError."""
        for steps in self.way(source, target):
            lowered = migrate.apply(lowered, steps)
        return lowered
