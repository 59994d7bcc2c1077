"""What the operator chose, as the plain numbers that the handlers calculate with.

The rule this file keeps: the server has validated the values already; here seconds become milliseconds, once, and a
session keeps what it began with.
"""

from __future__ import annotations

from collections.abc import Mapping

from streamd.runtime.state import state

VERSION = 1


@state
class Settings:
    """Times in ms, sizes in bytes. The names are those of the configuration."""

    publisher_grace: int = 30_000  # how long viewers are kept after their publisher has gone
    publisher_timeout: int = 20_000  # a publisher that sends no byte for so long has gone
    handshake_timeout: int = 10_000  # to say what it wants a connection has so long
    wait_for_publisher: int = 0  # a viewer of nothing waits so long before it is told so
    takeover: bool = False  # a second publisher replaces the first instead of being refused
    gop_cache_bytes: int = 16 << 20  # of each ring
    viewer_max_lag: int = 5_000  # a viewer further behind skips to a key frame
    viewer_max_slow: int = 60_000  # a viewer behind for so long without a break is closed
    max_message_bytes: int = 8 << 20
    page: bool = True


def read(plain: Mapping[str, object]) -> Settings:
    """Settings from the server's plain values (seconds as numbers); a missing key keeps its default, others are ignored."""
    chosen = Settings()
    chosen.publisher_grace = milliseconds(plain, "publisher_grace", chosen.publisher_grace)
    chosen.publisher_timeout = milliseconds(plain, "publisher_timeout", chosen.publisher_timeout)
    chosen.handshake_timeout = milliseconds(plain, "handshake_timeout", chosen.handshake_timeout)
    chosen.wait_for_publisher = milliseconds(plain, "wait_for_publisher", chosen.wait_for_publisher)
    chosen.viewer_max_lag = milliseconds(plain, "viewer_max_lag", chosen.viewer_max_lag)
    chosen.viewer_max_slow = milliseconds(plain, "viewer_max_slow", chosen.viewer_max_slow)
    chosen.gop_cache_bytes = number(plain, "gop_cache_bytes", chosen.gop_cache_bytes)
    chosen.max_message_bytes = number(plain, "max_message_bytes", chosen.max_message_bytes)
    chosen.takeover = bool(plain.get("takeover", chosen.takeover))
    chosen.page = bool(plain.get("page", chosen.page))
    return chosen


def milliseconds(plain: Mapping[str, object], key: str, default: int) -> int:
    value = plain.get(key)
    return int(value * 1000) if isinstance(value, int | float) else default


def number(plain: Mapping[str, object], key: str, default: int) -> int:
    value = plain.get(key)
    return int(value) if isinstance(value, int | float) else default
