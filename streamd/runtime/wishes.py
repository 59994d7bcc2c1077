"""What may be asked of the patch path, within which limits, and how it says no.

The rule this file keeps: every answer that is no is one `Refusal`, with the step of the path that said so and a sentence
that says what to do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from streamd.runtime.rehearse import ChildBounds
from streamd.runtime.selection import Selection

Progress = Callable[[str, int, int], Awaitable[None]]  # stage, done, of


class Refusal(Exception):
    """The answer is no, nothing has changed; `stage` is the step of the patch path that said so, `facts` go with it."""

    def __init__(self, stage: str, sentence: str, **facts: Any) -> None:
        super().__init__(sentence)
        self.stage = stage
        self.facts = facts


@dataclass(frozen=True)
class Bounds:
    """Limits of the patch path."""

    max_bytes: int = 1_048_576  # of one patch file
    max_live: int = 4  # releases in memory at once
    slice_ms: float = 1.0  # how long a move may hold the loop
    specimens: tuple[str, ...] = ()  # names of sessions made only for a rehearsal, so that one is never empty
    probation_seconds: float = 0.0
    probation_events: int = 20  # of each session that has any
    probation_rise: float = 3.0  # of an error rate, against the time before
    keyframe_seconds: float = 10.0
    child: ChildBounds = field(default_factory=ChildBounds)


@dataclass(frozen=True)
class Wishes:
    """What the operator asks of a load, besides the paths. Times in seconds, `max_pause` in ms."""

    selection: Selection = field(default_factory=Selection)
    accept_differences: bool = False
    wait: bool = False
    shadow: float = 0.0
    bake: float | None = None
    at_key: bool = False
    max_pause: float | None = None
    irreversible: str = ""
    probation: float | None = None


async def silent(_stage: str, _done: int, _of: int) -> None:
    """The progress of what nobody watches."""
