"""How a request gets on, on a terminal: a line for each stage of the patch path.

    read                    0.0 s
    rehearse   42/42        0.9 s
    move       42/42        0.0 s
    probation  [########............]  18 s left

The rule this file keeps: a stage that is over stays as a line with its figures and its time; only the last line is ever
written over, and it is never wider than the terminal, however that is resized meanwhile. Plain escape sequences, for
whoever loads a patch in a hurry waits for no import.
"""

from __future__ import annotations

import os
import sys
from time import monotonic
from typing import TextIO

from streamd.ctl_show import clean, cut
from streamd.ctl_wire import Answer, Listener

STAGES = ("read", "merge", "rehearse", "shadow", "import", "wave", "move", "probation")
# what they count is seconds
TIMED = ("shadow", "probation")
BAR_WIDTH = 20
# of a terminal that does not know its own
USUAL_WIDTH = 80
ERASE = "\r\x1b[K"
RED, DIM, NORMAL = "\x1b[31m", "\x1b[2m", "\x1b[0m"


class Stages(Listener):
    """Progress records in, lines out. Call `end` before anything else is written."""

    def __init__(self, out: TextIO) -> None:
        self.out = out
        self.colour = not os.environ.get("NO_COLOR")
        self.name = ""
        self.done = self.of = 0
        self.text = ""
        self.began = self.heard = monotonic()

    def __call__(self, record: Answer) -> None:
        name = clean(str(record.get("progress") or ""))
        done, of = int(record.get("done") or 0), int(record.get("of") or 0)
        # the clock of a probation starts again with the next wave
        if name != self.name or (name in TIMED and done < self.done):
            # what came after the last of a stage was the next one, whenever that said so
            ended = self.heard if not self.name or 0 < self.of <= self.done else monotonic()
            self._leave(ended)
            self.name, self.began = name, ended
        self.heard = monotonic()
        self.done, self.of = done, of
        self.text = clean(str(record.get("text") or ""))
        self.tick()

    def tick(self) -> None:
        if not self.name:
            return
        if self.of > 0:
            filled = BAR_WIDTH * min(self.done, self.of) // self.of
            bar = f"[{'#' * filled}{'.' * (BAR_WIDTH - filled)}]"
            figures = f"{self.done}/{self.of}"
            if self.name in TIMED:
                left = self.of - self.done
                figures = f"{left} s left" if left > 0 else "until each session has had its events"
        else:
            bar, figures = "", f"{monotonic() - self.began:.0f} s"
        self._write(ERASE + self._fitting(f"{self.name:<10} {bar}  {figures}  {self.text}"))

    def end(self, failed: str = "", stage: str = "") -> None:
        """The answer is there. `failed` is a word for the stage that did not succeed, which the server may name."""
        if failed and self.name and stage in STAGES and stage != self.name:
            self({"progress": stage})
        self._leave(monotonic(), failed)
        self.name = ""

    def _leave(self, ended: float, failed: str = "") -> None:
        if not self.name:
            return
        # what counts seconds has said everything with its time, unless it was cut short
        counts = self.of > 0 and (failed or self.name not in TIMED)
        figures = f"{self.done}/{self.of}" if counts else ""
        seconds = f"{ended - self.began:.1f} s"
        line = self._fitting(f"{self.name:<10} {figures:<11} {seconds:>7}  {failed or self.text}")
        if self.colour:
            line = f"{RED if failed else DIM}{line}{NORMAL}"
        self._write(f"{ERASE}{line}\n")

    def _fitting(self, line: str) -> str:
        try:
            width = os.get_terminal_size(self.out.fileno()).columns or USUAL_WIDTH
        except OSError:
            width = USUAL_WIDTH
        # a line that reaches the last column is wrapped by some terminals, and then cannot be written over
        return cut(line.rstrip(), max(width - 1, 1))

    def _write(self, text: str) -> None:
        self.out.write(text)
        self.out.flush()


def stages() -> Stages | None:
    """A view of the progress if somebody looks."""
    return Stages(sys.stderr) if sys.stderr.isatty() else None
