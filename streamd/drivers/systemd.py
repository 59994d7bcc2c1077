"""The service manager's side channel: ready, status, stopping, and a watchdog that a hung loop cannot feed.

sd_notify(3): datagrams of VARIABLE=value lines to the unix socket named by NOTIFY_SOCKET. Without one every call
does nothing, so the server runs the same in a terminal.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable


def notify(**values: str | int) -> None:
    """Send one message, for example notify(READY=1, STATUS="release 7"). Never raises: nobody may listen."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    message = "\n".join(f"{name}={value}" for name, value in values.items()).encode()
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock,
    ):
        sock.connect("\0" + address[1:] if address.startswith("@") else address)
        sock.send(message)


def watchdog_seconds() -> float:
    """How often systemd wants a sign of life at the least; 0 if it does not."""
    if os.environ.get("WATCHDOG_PID") not in (None, str(os.getpid())):
        return 0.0
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 if microseconds.isdigit() else 0.0


async def feed_watchdog(status: Callable[[], str]) -> None:
    """Say that the loop turns, three times in each period, and what it is doing."""
    period = watchdog_seconds()
    while period:
        notify(WATCHDOG=1, STATUS=status())
        await asyncio.sleep(period / 3)
