"""Bits of a header, most significant first.

The rule this file keeps: reading past the end is the peer's fault, and says of what.
"""

from __future__ import annotations

from streamd.runtime.vocabulary import PeerError

VERSION = 1

MAX_ZEROS = 32  # of an Exp-Golomb number's prefix: no syntax element has more bits


class Bits:
    """A reader of `data`; `what` names it in the PeerError, for example "an AAC sequence header"."""

    __slots__ = ("at", "end", "value", "what")

    def __init__(self, data: bytes, what: str) -> None:
        self.value = int.from_bytes(data, "big")
        self.end = len(data) * 8
        self.at = 0
        self.what = what

    def u(self, count: int) -> int:
        """`count` bits as an unsigned number. PeerError past the end."""
        self.at += count
        if self.at > self.end:
            raise PeerError(f"{self.what} ends too early")
        return self.value >> (self.end - self.at) & ((1 << count) - 1)

    def ue(self) -> int:
        """An unsigned Exp-Golomb number (ITU-T H.264, 9.1) of at most MAX_ZEROS bits."""
        zeros = 0
        while not self.u(1):
            zeros += 1
            if zeros > MAX_ZEROS:
                raise PeerError(f"{self.what} has an Exp-Golomb number of more than {MAX_ZEROS} bits")
        return (1 << zeros) - 1 + self.u(zeros)

    def se(self) -> int:
        """A signed Exp-Golomb number (ITU-T H.264, 9.1.1)."""
        code = self.ue()
        return (code + 1) // 2 if code & 1 else -(code // 2)

    def left(self) -> int:
        """Bits that have not been read."""
        return self.end - self.at
