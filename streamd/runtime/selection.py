"""Who moves first: the sessions that a load was told to begin with, wave after wave.

The rule this file keeps: a choice depends on nothing but names, so that it is the same in the plan, in the move and
when it is asked for again; and whoever was in an earlier wave is in every later one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from streamd.runtime.session import DOOR

LIVE = "live/"
EVERYONE = 100.0


@dataclass(frozen=True)
class Selection:
    """`only`: patterns of names, none for all; `shares`: percent of the broadcasts in each wave, ascending."""

    only: tuple[str, ...] = ()
    shares: tuple[float, ...] = (EVERYONE,)

    @property
    def whole(self) -> bool:
        """True if in the end nobody is left out, newcomers included."""
        return not self.only and self.shares[-1] >= EVERYONE

    def matches(self, name: str) -> bool:
        """`live/studio*` and `studio*` both mean the broadcast live/studio1."""
        return not self.only or any(
            fnmatchcase(name, item) or fnmatchcase(name, LIVE + item) for item in self.only
        )

    def chosen(self, wave: int, names: Sequence[str]) -> list[str]:
        """Those of `names` that are in a wave (counted from 0) or in one before it.

        A share of the broadcasts is at least one of them; connections that have not yet said what they want are
        moved only with everybody else.
        """
        named = [name for name in names if self.matches(name)]
        share = self.shares[wave]
        if share >= EVERYONE:
            return named if self.whole else [name for name in named if self.only or not name.startswith(DOOR)]
        broadcasts = sorted((name for name in named if not name.startswith(DOOR)), key=_rank)
        return broadcasts[: math.ceil(len(broadcasts) * share / EVERYONE)]


def _rank(name: str) -> bytes:
    """An order that has nothing to do with who is who."""
    return hashlib.sha256(name.encode()).digest()
