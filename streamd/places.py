"""Where things lie when nobody says: the admin socket and the state directory.

The rule this file keeps: the server and `streamd-ctl` look in the same places in the same order, so a command
typed on the server's machine finds it. Standard library only, and little of it: `streamd-ctl` starts with this.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping

SERVICE_RUNTIME = "/run/streamd"  # what RuntimeDirectory=streamd makes
SOCKET = "admin.sock"


def admin_paths(env: Mapping[str, str]) -> Iterator[str]:
    """Every place an admin socket may be, the most particular first.

    `$RUNTIME_DIRECTORY` is set by systemd for the service itself, and only there; it may name several
    directories, of which the first is meant (systemd.exec(5)).
    """
    if runtime := first(env.get("RUNTIME_DIRECTORY")):
        yield os.path.join(runtime, SOCKET)
    yield os.path.join(SERVICE_RUNTIME, SOCKET)
    if session := env.get("XDG_RUNTIME_DIR"):
        yield os.path.join(session, "streamd", SOCKET)
    yield os.path.join(tempfile.gettempdir(), f"streamd-{os.getuid()}", SOCKET)


def default_admin_path(env: Mapping[str, str]) -> str:
    """Where a server that was not told otherwise makes its admin socket; it makes the directory, mode 0700."""
    for path in admin_paths(env):
        made_by_systemd = os.path.dirname(path) == SERVICE_RUNTIME and not env.get("RUNTIME_DIRECTORY")
        if not made_by_systemd or os.access(SERVICE_RUNTIME, os.W_OK | os.X_OK):
            return path
    raise AssertionError("the temporary directory is always a place")


def find_admin_path(env: Mapping[str, str]) -> str | None:
    """The first admin socket that exists, for a client that was not told which; None if there is none.

    A directory in the shared /tmp counts only if it is ours: anyone may make one with our number in its name.
    """
    shared = tempfile.gettempdir()
    for path in admin_paths(env):
        try:
            # /run/streamd may be closed to us; then say so at the connection, rather than look further
            os.stat(path)
        except PermissionError:
            return path
        except OSError:
            continue
        directory = os.path.dirname(path)
        if os.path.dirname(directory) == shared and os.lstat(directory).st_uid != os.getuid():
            continue
        return path
    return None


def default_state_directory(env: Mapping[str, str]) -> str:
    """Where releases, history and crash reports are kept: systemd's StateDirectory, or the user's own."""
    if state := first(env.get("STATE_DIRECTORY")):
        return state
    home = env.get("XDG_STATE_HOME") or os.path.join(
        env.get("HOME") or os.path.expanduser("~"), ".local/state"
    )
    return os.path.join(home, "streamd")


def first(directories: str | None) -> str:
    """The first of the directories that systemd joins with colons, "" for none."""
    return (directories or "").partition(":")[0]
