"""The process that rehearses: it merges, compiles, imports and tries a new release, and may come to grief in the server's place.

    python -I -S -c "... from streamd.runtime import rehearsal; rehearsal.main()" PATHS...
    0  a socket to the server: requests in, answers out (wire.py)
    1  the page of memory in which it notes what it is at
    2  a pipe for tracebacks

The rule this file keeps: nothing that goes wrong here goes further. The process has bounds of memory, processor time
and file size that the kernel enforces, may become nothing else, has no descriptor but these, and dies with the server's
thread that made it. It serves one request after the other and imports as little as it can, for it is made anew for
every load: no event loop, no inspection.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import marshal
import mmap
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import msgpack

from streamd.runtime import patchfile, tryout
from streamd.runtime.changes import record_changes
from streamd.runtime.migrate import MigrationError
from streamd.runtime.patchfile import PatchError
from streamd.runtime.release import ReleaseError, compiled, pack
from streamd.runtime.seal import Seal
from streamd.runtime.state import StateError
from streamd.runtime.telling import kind_of
from streamd.runtime.tryout import Copy, Failed, Kept, Pair, Troupe, Tryout
from streamd.runtime.vocabulary import Event
from streamd.runtime.watchdog import Watchdog
from streamd.runtime.wire import LENGTH, PAGE, Around, LinkFact, Place, ReleaseFact, event_of

SOCKET, PAGE_FD, PIPE = 0, 1, 2  # where the server has put them
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38  # linux/prctl.h
LARGEST_FILE = 1 << 20  # bytes; nothing here writes any but the kernel's own compiled modules
DESCRIPTORS = 64
NICE = 10
GRACE = 2  # s of processor time between SIGXCPU, which leaves a traceback, and SIGKILL
RESERVE = 1 << 20  # bytes to be able to say that there is no memory left
TOLD_EVERY = 0.02  # s between two messages about progress
STEP_MEMORY = 4  # a step may take that part of the process's memory
SERVED = (PatchError, ReleaseError, MigrationError, StateError)


def main() -> None:
    """Serve until the server closes the socket."""
    first = _read()
    if first is None:
        return
    _, parent, bounds = first
    _confine(parent, bounds)
    place = Place(_page())
    watchdog = Watchdog(bounds["step_seconds"], bounds["memory"] // STEP_MEMORY)
    watchdog.start()
    Rehearsing(place, watchdog, bounds).serve()


def _page() -> mmap.mmap:
    page = mmap.mmap(PAGE_FD, PAGE)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, PAGE_FD)  # whatever prints, prints to nobody
    os.close(null)
    return page


def _confine(parent: int, bounds: dict[str, Any]) -> None:
    """Give up what is not needed, for good."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)  # it has gone before it could be watched
    for number in map(int, os.listdir("/proc/self/fd")):
        if number > PIPE:
            with contextlib.suppress(OSError):  # the one that listed them
                os.close(number)
    with contextlib.suppress(OSError):
        os.nice(NICE)
    cpu = max(int(bounds["cpu_seconds"]), 1)
    memory = int(bounds["memory"])
    for what, soft, hard in (
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_FSIZE, LARGEST_FILE, LARGEST_FILE),
        (resource.RLIMIT_NOFILE, DESCRIPTORS, DESCRIPTORS),
        (resource.RLIMIT_CPU, cpu, cpu + GRACE),
        (resource.RLIMIT_AS, memory, memory),
    ):
        with contextlib.suppress(ValueError, OSError):  # lower already, by the service's own bounds
            resource.setrlimit(what, (soft, hard))
    faulthandler.enable(PIPE, all_threads=False)
    for number in (signal.SIGXCPU, signal.SIGVTALRM):
        faulthandler.register(number, PIPE, all_threads=False, chain=True)  # and then what it is for: to die
    faulthandler.register(signal.SIGUSR1, PIPE, all_threads=False)  # the server asks before it kills
    gc.disable()


def _most_resident() -> int:
    """kB that this process has had in memory at the most. Not ru_maxrss: that begins with what the server had, whose
    memory it shared until exec (getrusage(2), "resource usage metrics are preserved")."""
    with open("/proc/self/status", "rb") as status:
        for line in status:
            if line.startswith(b"VmHWM:"):
                return int(line.split()[1])
    return 0


# ---- messages ------------------------------------------------------------------------------------------------


def _read() -> tuple[Any, ...] | None:
    """The next request; None when the server has gone or is done."""
    head = _exactly(LENGTH.size)
    if head is None:
        return None
    body = _exactly(*LENGTH.unpack(head))
    return marshal.loads(body) if body is not None else None


def _exactly(size: int) -> bytearray | None:
    held = bytearray(size)
    view = memoryview(held)
    done = 0
    while done < size:
        try:
            count = os.readv(SOCKET, [view[done:]])
        except OSError:
            return None
        if not count:
            return None
        done += count
    return held


def _tell(*values: Any) -> None:
    body = msgpack.packb(values, unicode_errors="backslashreplace", default=kind_of)
    data = memoryview(LENGTH.pack(len(body)) + body)
    while data:
        try:
            data = data[os.write(SOCKET, data) :]
        except OSError:
            os._exit(0)  # nobody listens


# ---- requests ------------------------------------------------------------------------------------------------


class Rehearsing:
    """The requests, in the order in which they may come: merge, compile, open, migrate, shadow."""

    def __init__(self, place: Place, watchdog: Watchdog, bounds: dict[str, Any]) -> None:
        self.place = place
        self.watchdog = watchdog
        self.bounds = bounds
        self.codes: dict[str, bytes] = {}  # of what was merged here, and is about to be imported
        self.troupe: Troupe
        self.tryout: Tryout
        self.settings: dict[str, Any] = {}
        self.specimens: list[str] = []
        self.current = 0
        self._reserve = bytearray(RESERVE)
        self._told = 0.0

    def serve(self) -> None:
        verbs: dict[str, Callable[..., None]] = {
            "merge": self._merge,
            "compile": self._compile,
            "open": self._open,
            "migrate": self._migrate,
            "shadow": self._shadow,
        }
        _tell("ready")
        while (request := _read()) is not None:
            verb, *given = request
            self.place.doing(verb, "")
            try:
                verbs[verb](*given)
            except SERVED as error:
                _tell("failed", type(error).__name__, getattr(error, "stage", ""), str(error))
            except MemoryError:
                self._reserve = bytearray()
                gc.collect()
                _tell("memory")
                return

    # ---- from text to code

    def _merge(
        self,
        patches: list[tuple[str, str]],
        texts: dict[str, str],
        versions: dict[str, int],
        root: str,
    ) -> None:
        read = []
        for name, text in patches:
            self.place.doing(f"parse of {name}")
            tryout.hard(self.bounds["cpu_seconds"])
            read.append(patchfile.parse(Path(name), text))
        self.place.doing("merge")
        merged = patchfile.merge(read, texts, versions)
        for patch in read:
            _tell(
                "patch",
                {
                    "name": patch.path.name,
                    "sha256": patch.sha256,
                    "kind": patch.kind,
                    "module": patch.module,
                    "base": patch.base,
                    "version": patch.version,
                    "text": patch.text,
                    "differs": patch.differs,
                    "renames": patch.renames,
                },
            )
        _tell("removed", [name for name in texts if name not in merged])
        packages = {name.rpartition(".")[0] for name in merged if name} | {""}
        for name, text in merged.items():
            if texts.get(name) != text:
                self.place.doing(f"compilation of {name}")
                path = [root, *name.split(".")] if name else [root]
                file = "/".join([*path, "__init__.py"]) if name in packages else "/".join(path) + ".py"
                self.codes[name] = pack(compiled(text, file))
                _tell("text", name, text)
                _tell("code", name, self.codes[name])
        _tell("merged")

    def _compile(self, files: dict[str, tuple[str, str]]) -> None:
        for name, (file, text) in files.items():
            self.place.doing(f"compilation of {name}")
            tryout.hard(self.bounds["cpu_seconds"])
            _tell("code", name, pack(compiled(text, file)))
        _tell("compiled")

    # ---- from code to releases

    def _open(
        self,
        facts: list[tuple[Any, ...]],
        current: int,
        target: int,
        settings: dict[str, Any],
        specimens: list[str],
    ) -> None:
        known = [ReleaseFact(*fact) for fact in facts]
        for place, fact in enumerate(known):
            if fact.number == target and self.codes:
                known[place] = replace(fact, codes={**fact.codes, **self.codes})
        self.troupe = Troupe(known, self.place, self.watchdog)
        self.settings, self.specimens, self.current = settings, specimens, current
        self.troupe.held(current)
        before = Seal([sys.modules["builtins"], *_kernel(), *self.troupe.pack()])
        try:
            release = self.troupe.held(target)
        except ReleaseError as error:
            if isinstance(error.__cause__, MemoryError):
                most = f"a rehearsal may take {self.bounds['memory'] >> 20} MB ([rehearsal] memory)"
                raise ReleaseError(f"{error}; {most}") from error
            raise
        finally:
            broken = before.broken()
            before.mend()
            if broken:
                raise ReleaseError(
                    f"importing release {target} changes {', '.join(broken[:5])}, which is not its own"
                )
        self.target = release
        self.seal = Seal([sys.modules["builtins"], *_kernel(), *self.troupe.pack()])
        fact = self.troupe.facts[target]
        self.records: list[dict[str, Any]] = []
        if fact.parent is not None and fact.modules:
            self.records = record_changes(self.troupe.held(fact.parent), release, fact.modules, fact.renames)
        gc.collect()
        gc.freeze()
        _tell("opened")

    # ---- from sessions to a report

    def _migrate(self, back: bool, replay: bool) -> None:
        self.tryout = Tryout(self.troupe, self.target, self.seal, back, self.bounds["replay_seconds"])
        started = monotonic()
        done = 0
        rows: list[dict[str, Any]] = []
        for name in self.specimens:
            self.tryout.begin(name, self.settings, self.troupe.held(self.current))
        if self.tryout.over:
            _tell("enough")
        for copy in self._copies():
            if self.tryout.over:
                continue  # they were on their way already
            rows.append(self.tryout.take(copy, replay))
            done += 1
            tryout.tidy(done)
            if self.tryout.over:
                _tell("enough")
            rows = self._progress(rows, done)
        self._report(rows, started, done)

    def _copies(self) -> Iterator[Copy]:
        """The sessions that the server sends, until it says that there are no more."""
        copy: Copy | None = None
        while (message := _read()) is not None:
            match message:
                case ("session", name, release, lowered, groups, links):
                    copy = Copy(name, release, lowered, groups, links)
                case ("around", named, numbers, timers):
                    assert copy is not None
                    copy.around = Around([LinkFact(*item) for item in named], numbers, timers)
                case ("checkpoint", number, lowered):
                    assert copy is not None
                    copy.checkpoint = number, lowered
                case ("events", piece):
                    assert copy is not None
                    copy.events += [
                        Kept(event_of(kind, values), commands, source)
                        for kind, values, commands, source in piece
                    ]
                case ("go",):
                    assert copy is not None
                    yield copy
                    copy = None
                case ("end",):
                    return
        os._exit(0)

    def _progress(self, rows: list[dict[str, Any]], done: int) -> list[dict[str, Any]]:
        if monotonic() - self._told < TOLD_EVERY:
            return rows
        _tell("done", done, rows)
        self._told = monotonic()
        return []

    def _report(self, rows: list[dict[str, Any]], started: float, done: int) -> None:
        self._told = 0.0
        self._progress(rows, done)
        used = resource.getrusage(resource.RUSAGE_SELF)
        totals = self.tryout.report.totals()
        _tell(
            "report",
            {
                **totals,
                "records": self.records,
                "memory_mb": round(_most_resident() / 1024, 1),
                "cpu_seconds": round(used.ru_utime + used.ru_stime, 2),
                "seconds": round(monotonic() - started, 2),
            },
        )

    # ---- traffic that has not happened yet

    def _shadow(self, back: bool) -> None:
        """Sessions and their next events, as they come, until the server has had enough."""
        self.tryout = trial = Tryout(self.troupe, self.target, self.seal, back, self.bounds["cpu_seconds"])
        started = monotonic()
        pairs: dict[str, Pair] = {}
        rows: dict[str, dict[str, Any]] = {}
        while (message := _read()) is not None:
            match message:
                case ("session", name, number, lowered, groups, links):
                    copy = Copy(name, number, lowered, groups, links, (number, lowered))
                    rows[name] = tryout.fresh_row(copy)
                    self._shadowed(copy, rows[name], partial(self._pair, pairs, copy, rows[name]))
                case ("event", name, kind, values) if name in pairs:
                    self._follow(pairs, rows[name], event_of(kind, values))
                case ("lost", name) if name in pairs:
                    rows[name]["why"] = "fell behind: events came faster than they could be tried"
                    del pairs[name]
                case ("end",):
                    break
        for name, pair in pairs.items():
            self._shadowed(pair.copy, rows[name], pair.finish)
        trial.report.replayed = len(pairs)
        trial.report.not_replayed = len(rows) - len(pairs)
        self._report(list(rows.values()), started, len(rows))

    def _pair(self, pairs: dict[str, Pair], copy: Copy, row: dict[str, Any]) -> None:
        assert copy.checkpoint is not None
        pairs[copy.name] = Pair(self.tryout, copy, row, copy.checkpoint)

    def _follow(self, pairs: dict[str, Pair], row: dict[str, Any], event: Event) -> None:
        pair = pairs[row["name"]]
        kept = Kept(event, None, pair.copy.release)
        self._shadowed(pair.copy, row, partial(pair.take, kept, row["events"] + 1, 0))
        if pair.stopped or not row["ok"]:
            row["why"] = row["why"] or pair.stopped
            del pairs[row["name"]]

    def _shadowed(self, copy: Copy, row: dict[str, Any], action: Callable[[], None]) -> None:
        if self.tryout.over:
            return
        self.place.doing("shadow", copy.name)
        self.watchdog.headroom()
        try:
            action()
            self.tryout.look_at_the_seal()
        except Failed as failed:
            self.tryout.note(copy, row, failed)
            if self.tryout.over:
                _tell("enough")


def _kernel() -> list[Any]:
    return [module for name, module in list(sys.modules.items()) if name.startswith("streamd.runtime.")]
