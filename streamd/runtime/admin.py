"""The admin socket: requests in, progress and one answer out, msgpack both ways over a unix socket.

    -> {"v": 1, "verb": "load", "args": {"paths": [...]}, "cwd": "/home/op"}
    <- {"progress": "rehearse", "done": 12, "of": 42}     none or more
    <- {"ok": true, ..., "text": "..."}                    exactly one; {"ok": false, "stage", "error"} on refusal

The rule this file keeps: a request runs to its end whether or not its client stays to hear it, and a client that
sends nonsense, too much or nothing costs its own connection only. Who asks is what the operating system says
(SO_PEERCRED), never what the request says.

Who may do what: the socket's mode says who may ask at all; of those, `Roles` says who may change something and who
may only look. Root and the server's own user always may: they could replace the server anyway.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import grp
import logging
import os
import socket
import stat
import struct
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack

from streamd.runtime import telling
from streamd.runtime.supervisor import CrashReports
from streamd.runtime.wishes import Progress, Refusal

log = logging.getLogger("streamd")

VERSION = 1
MAX_REQUEST = 1_048_576  # bytes; paths and names, never payloads
IDLE = 60.0  # seconds a client may think before it asks
PARTING = 1.0  # s that requests still running have for their answers when the server stops
# Connections of one user at a time: descriptors are for viewers, and somebody who may only look must not be able to
# take them, nor keep the operator out.
MAX_CONNECTIONS = 32
OWN_CONNECTIONS = 256  # of root and of the server's own user, who are the operator
CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7))
SO_PEERGROUPS = 59  # asm-generic/socket.h; Python has no name for it
GROUPS_BYTES = 1024  # the most that socket.getsockopt takes: 256 groups
NOT_ALLOWED = "uid {uid} gid {gid} may not ask this server; be its user, root, or in the socket's group"
NOT_TO_CHANGE = (
    "uid {uid} gid {gid} may look, but not {verb}; [admin] load of the server's configuration says who may"
)
NOT_TO_LOOK = (
    "uid {uid} gid {gid} may not ask for {verb}; [admin] look of the server's configuration says who may"
)

Verb = Callable[[dict[str, Any], "Caller", Progress], Awaitable[dict[str, Any]]]


class Caller:
    """Who asks, and from where."""

    __slots__ = ("by", "cwd")

    def __init__(self, by: dict[str, int], cwd: str) -> None:
        self.by = by
        self.cwd = cwd


@dataclass(frozen=True)
class Circle:
    """Some users and groups, by number."""

    uids: frozenset[int] = frozenset()
    gids: frozenset[int] = frozenset()

    def has(self, by: dict[str, int], groups: Collection[int]) -> bool:
        return by["uid"] in self.uids or not self.gids.isdisjoint((by["gid"], *groups))

    def __bool__(self) -> bool:
        return bool(self.uids or self.gids)


@dataclass(frozen=True)
class Roles:
    """Who may change something, and who may look; an empty circle is everyone who may ask."""

    load: Circle = Circle()
    look: Circle = Circle()

    def refusal(self, verb: str, only_looks: bool, by: dict[str, int], groups: Collection[int]) -> str:
        """Why somebody may not ask for a verb, "" if he may."""
        if by["uid"] in (0, os.geteuid()):
            return ""
        may_change = not self.load or self.load.has(by, groups)
        may_look = may_change or not self.look or self.look.has(by, groups)
        if may_change or (only_looks and may_look):
            return ""
        return (NOT_TO_CHANGE if may_look else NOT_TO_LOOK).format(verb=verb, **by)


class Admin:
    """Serves verbs at a socket's path. Answers live exactly as long as the connection.

    `looks` are the verbs that change nothing.
    """

    def __init__(
        self,
        path: Path,
        verbs: dict[str, Verb],
        reports: CrashReports,
        group: str = "",
        looks: Collection[str] = frozenset(),
        roles: Roles = Roles(),
    ) -> None:
        self.path = path
        self.verbs = verbs
        self.reports = reports
        self.group = group
        self.looks = looks
        self.roles = roles
        self._gid = -1  # of the socket, as last seen
        self._connections: Counter[int] = Counter()  # uid -> how many
        self._server: asyncio.Server | None = None
        self._running: set[asyncio.Task[Any]] = set()

    async def open(self) -> None:
        """Listen. Raises OSError with a sentence if the path is taken by a living server or by something else, or
        lies where others could put a socket of their own."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_directory(self.path.parent)
        _clear_stale(self.path)
        old = os.umask(0o117)  # born 0660: there is no moment at which others could connect
        try:
            self._server = await asyncio.start_unix_server(self._serve, str(self.path), backlog=64)
        except OSError as error:
            raise OSError(error.errno, f"admin socket {self.path}: {error.strerror}") from error
        finally:
            os.umask(old)
        if self.group:
            try:
                os.chown(self.path, -1, grp.getgrnam(self.group).gr_gid)
            except (KeyError, OSError) as error:
                raise OSError(
                    errno.EPERM, f"admin socket cannot be given to group {self.group!r}: {error}"
                ) from error

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        if self._running:
            await asyncio.wait(self._running, timeout=PARTING)
        self.path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        by, groups = _credentials(writer)
        uid = by["uid"]
        refusal = "" if may_ask(by, groups, self._group_now()) else NOT_ALLOWED.format(**by)
        most = OWN_CONNECTIONS if uid in (0, os.geteuid()) else MAX_CONNECTIONS
        if self._connections[uid] >= most:
            refusal = f"uid {uid} has {most} connections open already; close one of them"
        if refusal:
            log.warning("admin: uid %d gid %d pid %d was refused: %s", uid, by["gid"], by["pid"], refusal)
            _write(writer, {"ok": False, "stage": "request", "error": refusal})
            writer.close()
            return
        self._connections[uid] += 1
        try:
            await self._converse(reader, writer, by, groups)
        finally:
            self._connections[uid] -= 1
            writer.close()

    async def _converse(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        by: dict[str, int],
        groups: Collection[int],
    ) -> None:
        """Request after request, until the client hangs up, sends nonsense, or nothing for too long."""
        unpacker = msgpack.Unpacker(max_buffer_size=MAX_REQUEST, strict_map_key=True)
        try:
            while True:
                data = await asyncio.wait_for(reader.read(65_536), IDLE)
                if not data:
                    break
                unpacker.feed(data)
                for request in unpacker:
                    await self._answer(request, by, groups, writer)
        except (TimeoutError, ConnectionError):
            pass
        except (ValueError, msgpack.UnpackException) as error:
            await self._say(
                writer, {"ok": False, "stage": "request", "error": f"not a msgpack request: {error}"}
            )

    async def _answer(
        self, request: Any, by: dict[str, int], groups: Collection[int], writer: asyncio.StreamWriter
    ) -> None:
        error = self._misread(request)
        if not error:
            verb = request["verb"]
            error = self.roles.refusal(verb, verb in self.looks, by, groups)
            if error:
                log.warning("admin: %s of uid %d gid %d pid %d was refused", verb, *by.values())
        if error:
            await self._say(writer, {"ok": False, "stage": "request", "error": error})
            return

        async def progress(stage: str, done: int, of: int) -> None:
            # nobody waits for a client that does not read, least of all a load
            if writer.transport.get_write_buffer_size() < MAX_REQUEST:
                _write(writer, {"progress": stage, "done": done, "of": of})

        caller = Caller(by, str(request.get("cwd") or "/"))
        task = asyncio.create_task(
            self._perform(request["verb"], request.get("args") or {}, caller, progress)
        )
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        await self._say(writer, await asyncio.shield(task))

    def _group_now(self) -> int:
        """The socket's group: as it is, or as it last was if somebody has taken the path away."""
        with contextlib.suppress(OSError):
            self._gid = self.path.lstat().st_gid
        return self._gid

    def _misread(self, request: Any) -> str:
        if not isinstance(request, dict) or not isinstance(request.get("verb"), str):
            return "a request is a map with v, verb and args"
        if request.get("v") != VERSION:
            return f"this server speaks version {VERSION}, the request version {request.get('v')!r}; use its own streamd-ctl"
        if request["verb"] not in self.verbs:
            return f"no verb {request['verb']!r}; there are {', '.join(sorted(self.verbs))}"
        return "" if isinstance(request.get("args") or {}, dict) else "args is a map"

    async def _perform(
        self, verb: str, args: dict[str, Any], caller: Caller, progress: Progress
    ) -> dict[str, Any]:
        try:
            return {"ok": True, **await self.verbs[verb](args, caller, progress)}
        except Refusal as error:
            return {**error.facts, "ok": False, "stage": error.stage, "error": str(error)}
        except Exception as error:
            path = self.reports.write(f"verb {verb}", error, {"args": args})
            return {
                "ok": False,
                "stage": "bug",
                "error": f"{verb} failed with {telling.told(error)}; crash report in {path}",
            }

    async def _say(self, writer: asyncio.StreamWriter, answer: dict[str, Any]) -> None:
        _write(writer, answer)
        with contextlib.suppress(ConnectionError, TimeoutError):
            await asyncio.wait_for(writer.drain(), IDLE)


def _write(writer: asyncio.StreamWriter, answer: dict[str, Any]) -> None:
    # uvloop raises where asyncio shrugs: at a write to a connection that is gone
    if not writer.transport.is_closing():
        # live code may describe itself with anything, and the name of a file need not be UTF-8
        writer.write(msgpack.packb(answer, default=repr, unicode_errors="backslashreplace"))


def may_ask(by: dict[str, int], groups: Collection[int], group: int) -> bool:
    """Root, the server's own user, and members of the socket's group: what 0660 says, also where somebody has
    loosened the mode or handed a connected socket on."""
    return by["uid"] in (0, os.geteuid()) or group in (by["gid"], *groups)


def _credentials(writer: asyncio.StreamWriter) -> tuple[dict[str, int], tuple[int, ...]]:
    """uid, gid and pid of the peer, and its supplementary groups (unix(7), socket(7))."""
    sock = writer.get_extra_info("socket")
    pid, uid, gid = CREDENTIALS.unpack(
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    )
    try:
        groups = sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, GROUPS_BYTES)
    except OSError:  # more groups than that: then the first one has to do
        groups = b""
    return {"uid": uid, "gid": gid, "pid": pid}, struct.unpack(f"{len(groups) // 4}I", groups)


def _check_directory(directory: Path) -> None:
    """Refuse a directory in which others could replace the socket by one that answers in this server's name."""
    link, facts = directory.lstat(), directory.stat()  # a link that somebody else made he can turn elsewhere
    for owner in (link.st_uid, facts.st_uid):
        if owner not in (0, os.geteuid()):
            raise OSError(errno.EPERM, f"{directory} belongs to uid {owner}; give another --admin")
    if facts.st_mode & stat.S_IWOTH and not facts.st_mode & stat.S_ISVTX:
        raise OSError(
            errno.EPERM,
            f"{directory} is writable by others; say chmod o-w {directory}, or give another --admin",
        )


def _clear_stale(path: Path) -> None:
    """Remove the socket of a server that is gone; refuse to take it from one that lives."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise OSError(errno.EEXIST, f"{path} exists and is no socket; give another --admin")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except OSError:
            pass  # busy, or not ours to ask: it lives
    raise OSError(errno.EADDRINUSE, f"another streamd answers at {path}; stop it, or give another --admin")
