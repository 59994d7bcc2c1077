"""One request to the admin socket, its records and its answer.

The rule this file keeps: whatever goes wrong on the way is an `Unreachable` with a sentence that says what to do, and
no third-party import but msgpack, because a shell asks at every tab.

The wire: a unix stream socket, msgpack maps one after another. One request
`{"v": 1, "verb": ..., "args": {...}, "cwd": ..., "json": ...}`, then any number of progress records
`{"progress": ..., "done": ..., "of": ...}`, then one answer `{"ok": ..., "text": ...}` or
`{"ok": false, "stage": ..., "error": ...}`.
"""

from __future__ import annotations

import os
import shlex
import socket
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import msgpack

from streamd.places import admin_paths, find_admin_path

PROTOCOL = 1
# Longer than a rehearsal of thousands of sessions goes without a word.
TIMEOUT_SECONDS = 60.0
# How often whoever shows the progress is given a turn while the server says nothing.
TICK_SECONDS = 0.1
MAX_ANSWER = 256 << 20

Answer = dict[str, Any]


class Unreachable(Exception):
    """No server answered. The message says why and what to do."""


class Options:
    """What stands before or after the verb: --admin, --json, --timeout."""

    admin: str | None = None
    json: bool = False
    timeout: float = TIMEOUT_SECONDS


class Listener:
    """Who is told how a request gets on. This one keeps it to itself."""

    def __call__(self, record: Answer) -> None:
        """A progress record has come."""

    def tick(self) -> None:
        """A moment has passed without one."""


def socket_path(admin: str | None) -> str:
    """Where the server is: the flag, STREAMD_ADMIN, or the first usual place that has a socket."""
    if path := admin or os.environ.get("STREAMD_ADMIN") or find_admin_path(os.environ):
        return path
    places = ", ".join(map(shlex.quote, admin_paths(os.environ)))
    raise Unreachable(
        f"No streamd runs here: there is no admin socket at {places}. "
        "Start one (systemctl start streamd, or scripts/run), or say where it is: streamd-ctl --admin PATH."
    )


def connect(path: str, timeout: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout)
    try:
        connection.connect(path)
        return connection
    except FileNotFoundError:
        why = "there is no such socket. Is streamd running? Its log line `ready` names its admin socket."
    except ConnectionRefusedError:
        why = "the socket is left over and nobody listens. Start streamd again: it will take its place."
    except PermissionError:
        why = "you may not use it. Join the group that owns it, or try sudo."
    except TimeoutError:
        why = f"nobody took the call for {timeout:g} s. The server hangs; its log may say why."
    except OSError as e:
        why = f"{(e.strerror or str(e)).lower()}. Say where the server's socket is: streamd-ctl --admin PATH."
    connection.close()
    raise Unreachable(f"{shlex.quote(path)}: {why}")


def records(connection: socket.socket, timeout: float, tick: Callable[[], None]) -> Iterator[Answer]:
    """The records of an answer as they come; ends where the server closes."""
    unpacker = msgpack.Unpacker(max_buffer_size=MAX_ANSWER)
    heard = monotonic()
    connection.settimeout(min(TICK_SECONDS, timeout))
    while True:
        try:
            data = connection.recv(65_536)
        except TimeoutError:
            if monotonic() - heard < timeout:
                tick()
                continue
            raise Unreachable(
                f"The server said nothing for {timeout:g} s (--timeout). It may still carry the request out: "
                "see streamd-ctl history."
            ) from None
        except OSError as e:
            raise Unreachable(f"The server dropped the line ({e.strerror}): see its log.") from None
        if not data:
            return
        heard = monotonic()
        unpacker.feed(data)
        try:
            for record in unpacker:
                if not isinstance(record, dict):
                    raise ValueError("not a map")
                yield record
        except (ValueError, msgpack.UnpackException):
            raise Unreachable("What answered there is not streamd's admin socket.") from None


def here() -> str:
    try:
        return os.getcwd()
    except OSError:
        return "/"  # the directory was deleted under us; absolute paths still work


def ask(options: Options, verb: str, args: dict[str, Any], listener: Listener | None = None) -> Answer:
    """One request, one answer; every progress record goes to `listener`."""
    listener = listener or Listener()
    with connect(socket_path(options.admin), options.timeout) as connection:
        request = {"v": PROTOCOL, "verb": verb, "args": args, "cwd": here(), "json": options.json}
        try:
            connection.sendall(msgpack.packb(request))
        except OSError:
            pass  # a server that refuses before it has read everything has said why: read that
        for record in records(connection, options.timeout, listener.tick):
            if "ok" in record:
                return record
            listener(record)
    raise Unreachable(
        "The server closed the connection before it answered. See its log, and streamd-ctl history."
    )
