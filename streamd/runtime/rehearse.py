"""The server's side of a rehearsal: a child process that is asked, bounded, and gone afterwards.

    async with Rehearsal(bounds) as child:
        merged = await child.merge(...)      text and code of the new release
        await child.open(...)                import it there
        report = await child.migrate(...)    every session's state there and back, its last events again
        report = await child.shadow(...)     and the events that come from now on

The rule this file keeps: nothing that the child does or leaves undone holds the loop or reaches a session. It is made
in a thread, spoken to in messages of less than a millisecond's packing, and killed and reaped when the block is left,
however it is left. If it dies or falls silent, the page of memory that it shares says at which session and event, and
its last traceback in which function.
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

import msgpack

from streamd.runtime.migrate import MigrationError
from streamd.runtime.patchfile import PatchError
from streamd.runtime.release import ReleaseError
from streamd.runtime.spawn import spawn
from streamd.runtime.state import StateError, check_plain
from streamd.runtime.vocabulary import Event
from streamd.runtime.wire import LENGTH, PAGE, Place, ReleaseFact, SessionCopy, flat, message

__all__ = ["ChildBounds", "ChildFailed", "Merged", "PatchInfo", "Rehearsal", "ReleaseFact", "SessionCopy"]

Progress = Callable[[int, int], Awaitable[None]]  # sessions done and how many there are; seconds, in shadow

PROGRAM = "import sys; sys.path[:0] = sys.argv[1:]; from streamd.runtime import rehearsal; rehearsal.main()"
PATHS = (str(Path(__file__).parents[2]), str(Path(str(msgpack.__file__)).parents[1]))
ENVIRONMENT = ("LD_LIBRARY_PATH",)  # what a child gets of ours
SPAWN_SECONDS = 10.0
SLICE = 0.001  # s: how long packing may hold the loop
LAST_WORDS = 16_384  # bytes of the child's tracebacks that are kept
DYING = 2.0  # s between the end of a child's socket and its own
ASKED = 0.1  # s that a child has to say where it is, before it is killed
MOST_BEHIND = 4096  # events that a shadow may be behind, over all sessions
TURN = 0.02  # s between two looks at what the sessions have done
LARGEST = 8 << 20  # bytes of one answer
MOST = 64 << 20  # bytes of all answers to one request
MOST_ITEMS = 100_000  # in one list or map of an answer
FRAME = re.compile(r'File "(.+)", line (\d+) in (.+)')
KERNEL = str(Path(__file__).parent)
Shape = type | tuple[type, ...]
NUMBER = (int, float)
PATCH: dict[str, Shape] = {
    "name": str,
    "sha256": str,
    "kind": str,
    "module": str,
    "base": int,
    "version": int,
    "text": str,
    "differs": str,
    "renames": str,
}
ROW: dict[str, Shape] = {
    "name": str,
    "ok": bool,
    "why": str,
    "up_ms": NUMBER,
    "lower_ms": NUMBER,
    "events": int,
}
FOUND: dict[str, Shape] = {"name": str, "sentence": str}
REPORT: dict[str, Shape] = {
    "failures": list,
    "differences": list,
    "records": list,
    "kinds": list,
    "different": int,
    "ends": int,
    "cured": int,
    "events": int,
    "tried": int,
    "predicted_pause_ms": NUMBER,
}
ERRORS: dict[str, type[Exception]] = {
    "ReleaseError": ReleaseError,
    "MigrationError": MigrationError,
    "StateError": StateError,
}


@dataclass(frozen=True)
class ChildBounds:
    """What a rehearsal may use: bytes; seconds of processor time; seconds for each request; for replays; for a step."""

    memory: int = 1 << 30
    cpu_seconds: float = 60
    seconds: float = 60
    replay_seconds: float = 10
    step_seconds: float = 1.0

    def shadowing(self, seconds: float) -> ChildBounds:
        """The same for a rehearsal that goes on as a shadow for so long: whatever happens meanwhile is done twice there,
        and one process cannot use more than the time there is."""
        return replace(self, cpu_seconds=self.cpu_seconds + seconds)


class ChildFailed(Exception):
    """The child did not answer: the sentence says why, and at which session, function and event that was."""

    def __init__(self, stage: str, sentence: str) -> None:
        super().__init__(sentence)
        self.stage = stage


@dataclass(frozen=True)
class PatchInfo:
    """What the child has read in a patch."""

    name: str
    sha256: str
    kind: str
    module: str
    base: int
    version: int
    text: str
    differs: str
    renames: str


@dataclass(frozen=True)
class Merged:
    """A whole new tree: module name -> text; the patches it is made of; and the packed code of what has changed."""

    texts: dict[str, str]
    patches: list[PatchInfo]
    codes: dict[str, bytes]


class Rehearsal:
    """One child process. Its requests are made one after the other."""

    def __init__(self, bounds: ChildBounds) -> None:
        self.bounds = bounds
        self._loop = asyncio.get_running_loop()
        self._keeper: _Keeper | None = None
        self._socket: socket.socket | None = None
        self._pipe = -1
        self._page: mmap.mmap | None = None
        self._words = b""
        self._held = bytearray()  # read, and not yet taken
        self._taken = 0  # bytes of answers to the present request
        self._given = 0  # sessions that it has been given with it
        self._stage = "spawn"
        self._enough = False  # the child wants no more sessions
        self._broken: Exception | None = None  # why no more could be given
        self._failed = False

    # ---- birth and death

    async def __aenter__(self) -> Rehearsal:
        try:
            await self._spawn()
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._end()

    @property
    def pid(self) -> int:
        return self._keeper.pid if self._keeper is not None else 0

    async def _spawn(self) -> None:
        """Raises ChildFailed."""
        memory = -1
        try:
            ours, theirs = socket.socketpair()
            self._socket = ours
            ours.setblocking(False)
            memory = os.memfd_create("streamd-rehearsal", os.MFD_CLOEXEC)
            os.ftruncate(memory, PAGE)
            self._page = mmap.mmap(memory, PAGE)
            self._pipe, words = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            if memory >= 0:
                os.close(memory)
            raise ChildFailed("spawn", f"no process for the rehearsal: {error}") from error
        self._loop.add_reader(self._pipe, self._hear)
        self._keeper = _Keeper(self._loop, theirs, memory, words)
        try:
            self._keeper.start()
        except RuntimeError as error:  # no more threads: it has not begun, and its end would never be told
            self._keeper.close()
            self._keeper = None
            raise ChildFailed("spawn", f"no process for the rehearsal: {error}") from error
        try:
            async with asyncio.timeout(SPAWN_SECONDS):
                await asyncio.shield(self._keeper.began)
                await self._loop.sock_sendall(ours, message("begin", os.getpid(), asdict(self.bounds)))
                answer = await self._answer()
        except TimeoutError:  # which is an OSError
            raise ChildFailed(
                "spawn", f"the process for the rehearsal did not start within {SPAWN_SECONDS:g} s"
            ) from None
        except OSError as error:
            raise ChildFailed("spawn", f"no process for the rehearsal: {error}") from error
        except _Gone:
            raise ChildFailed("spawn", str(await self._dead())) from None
        if answer != ["ready"]:
            raise self._misshapen()

    async def _end(self) -> None:
        """Kill the child, if it lives, and see that it is reaped; nothing of it stays here."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._keeper is not None:
            self._keeper.kill()
        try:
            if self._keeper is not None:
                await asyncio.shield(self._keeper.ended)  # if we are cancelled, its thread reaps all the same
        finally:
            if self._pipe >= 0:
                self._loop.remove_reader(self._pipe)
                os.close(self._pipe)
                self._pipe = -1
            if self._page is not None:
                self._page.close()
                self._page = None

    def _hear(self) -> None:
        """The tracebacks of the child, the end of them."""
        try:
            fresh = os.read(self._pipe, LAST_WORDS)
        except OSError:
            return
        if not fresh:
            self._loop.remove_reader(self._pipe)
        self._words = (self._words + fresh)[-LAST_WORDS:]

    # ---- requests

    async def merge(
        self,
        patches: Sequence[tuple[str, str]],
        texts: Mapping[str, str],
        versions: Mapping[str, int],
        root: str,
    ) -> Merged:
        """Parse, merge and compile there. `patches` are (path, text); the code is that of files below `root`.

        Raises PatchError and ReleaseError as patchfile and release do, and ChildFailed.
        """
        found: list[PatchInfo] = []
        fresh: dict[str, str] = {}
        codes: dict[str, bytes] = {}
        removed: set[str] = set()
        request = message("merge", list(patches), dict(texts), dict(versions), root)
        async with self._asked("merge", _one(request)):
            while True:
                match await self._answer():
                    case ["patch", facts] if len(found) < len(patches):
                        found.append(self._patch(facts))
                    case ["text", str(name), str(text)]:
                        fresh[name] = text
                    case ["code", str(name), bytes(code)]:
                        codes[name] = code
                    case ["removed", [*names]] if all(type(name) is str for name in names):
                        removed.update(names)
                    case ["merged"] if len(found) == len(patches):
                        break
                    case _:
                        raise self._misshapen()
        whole = {name: text for name, text in texts.items() if name not in removed}
        return Merged({**whole, **fresh}, found, codes)

    async def compile(self, files: Mapping[str, tuple[str, str]]) -> dict[str, bytes]:
        """The packed code of each module: name -> (file, text). Raises ReleaseError, ChildFailed."""
        codes: dict[str, bytes] = {}
        async with self._asked("import", _one(message("compile", dict(files)))):
            while True:
                match await self._answer():
                    case ["code", str(name), bytes(code)]:
                        codes[name] = code
                    case ["compiled"]:
                        break
                    case _:
                        raise self._misshapen()
        return codes

    async def open(
        self,
        releases: Sequence[ReleaseFact],
        current: int,
        target: int,
        settings: Mapping[str, Any],
        specimens: Sequence[str],
    ) -> None:
        """Import the running release and the new one there. Raises ReleaseError, ChildFailed."""
        facts = [
            (
                item.number,
                item.path,
                item.parent,
                dict(item.modules),
                dict(item.renames),
                item.irreversible,
                dict(item.codes),
            )
            for item in releases
        ]
        request = message("open", facts, current, target, dict(settings), list(specimens))
        async with self._asked("import", _one(request)):
            if await self._answer() != ["opened"]:
                raise self._misshapen()

    async def migrate(
        self, sessions: Iterator[SessionCopy], back: bool, replay: bool, progress: Progress, count: int = 0
    ) -> dict[str, Any]:
        """Try every session there, and the specimens. Gives the report. Raises ChildFailed.

        `count` is how many sessions there are, for `progress`. `back`: they must come back as they went.
        """
        requests = self._copied(message("migrate", back, replay), sessions)
        async with self._asked("rehearse", requests):
            return await self._reported(progress, count)

    async def shadow(
        self,
        sessions: Iterator[SessionCopy],
        taped: list[tuple[str, Event]],
        seconds: float,
        progress: Progress,
        back: bool = True,
    ) -> dict[str, Any]:
        """Let both releases handle what happens from now on, for so long. Gives a report. Raises ChildFailed.

        `taped` is where somebody appends (session, event in kept form) from the moment on at which a session is taken
        out of `sessions`; it is emptied here.
        """
        tape = _Tape(taped)
        requests = self._followed(message("shadow", back), sessions, tape, seconds, progress)
        bound = asyncio.create_task(tape.bound())
        try:
            async with self._asked("shadow", requests, seconds):
                return await self._reported(None, 0)
        finally:
            bound.cancel()
            await asyncio.gather(bound, return_exceptions=True)

    async def _reported(self, progress: Progress | None, count: int) -> dict[str, Any]:
        rows: list[dict[str, Any]] = []
        while True:
            match await self._answer():
                case ["done", int(done), [*fresh]] if len(rows) + len(fresh) <= self._given:
                    rows += (self._checked(row, ROW) for row in fresh)
                    if progress is not None:
                        await progress(done, max(count, done))
                case ["enough"]:
                    self._enough = True
                case ["report", report]:
                    return self._whole(rows, report)
                case _:
                    raise self._misshapen()

    async def _copied(self, first: bytes, sessions: Iterator[SessionCopy]) -> AsyncGenerator[bytes, None]:
        """The messages of a migration, with the loop turning in between."""
        yield first
        began = monotonic()
        for copy in sessions:
            if self._enough:
                break
            self._given += 1
            for data in _packed(copy):
                yield data
                if monotonic() - began > SLICE:
                    await asyncio.sleep(0)
                    began = monotonic()
        yield message("end")

    async def _followed(
        self,
        first: bytes,
        sessions: Iterator[SessionCopy],
        tape: _Tape,
        seconds: float,
        progress: Progress,
    ) -> AsyncGenerator[bytes, None]:
        """The messages of a shadow: sessions, and what has happened to those that were sent."""
        yield first
        for copy in sessions:
            self._given += 1
            for data in _packed(copy):
                yield data
            for data in tape.messages():
                yield data
            await asyncio.sleep(0)
        deadline, told = monotonic() + seconds, -1
        while not self._enough and (left := deadline - monotonic()) > 0:
            for data in tape.messages():
                yield data
            if int(seconds - left) > told:
                told = int(seconds - left)
                await progress(told, round(seconds))
            await asyncio.sleep(min(TURN, left))
        for data in tape.messages():
            yield data
        yield message("end")

    # ---- messages

    @contextlib.asynccontextmanager
    async def _asked(
        self, stage: str, requests: AsyncGenerator[bytes, None], more: float = 0.0
    ) -> AsyncIterator[None]:
        """Send requests while the block reads the answers. Raises ChildFailed at the child's death or silence."""
        if self._socket is None or self._failed:
            await requests.aclose()
            raise ChildFailed(stage, "the process for the rehearsal has ended")
        self._stage, self._enough, self._broken = stage, False, None
        self._taken = self._given = 0
        sender = asyncio.create_task(self._send_all(requests))
        seconds = self.bounds.seconds + more
        try:
            async with asyncio.timeout(seconds) as limit:
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            raise await self._silent(seconds) from None
        except _Gone:
            if self._broken is not None:
                raise self._broken from None
            raise await self._dead() from None
        finally:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)

    async def _send_all(self, requests: AsyncGenerator[bytes, None]) -> None:
        assert self._socket is not None
        try:
            async with contextlib.aclosing(requests):
                async for data in requests:
                    await self._loop.sock_sendall(self._socket, data)
        except OSError:
            pass  # it has died, and whoever reads its answers is about to find out
        except Exception as error:  # of whoever gives the sessions
            self._broken = error
            if isinstance(error, MemoryError):
                self._broken = ChildFailed(self._stage, "there is no memory to copy the sessions' states")
            self._socket.shutdown(socket.SHUT_RDWR)

    async def _answer(self) -> list[Any]:
        """The next message. Raises what the child says has been raised, ChildFailed, and _Gone."""
        size: int = LENGTH.unpack(await self._exactly(LENGTH.size))[0]
        self._taken += size
        if size > LARGEST or self._taken > MOST:
            raise self._misshapen("more than it could have to say")
        data = await self._exactly(size)
        try:
            answer = msgpack.unpackb(
                data,
                strict_map_key=False,
                max_array_len=MOST_ITEMS,
                max_map_len=MOST_ITEMS,
                max_ext_len=0,
            )
        except (
            Exception
        ):  # whatever msgpack makes of what is no msgpack: ValueError, TypeError, RecursionError
            raise self._misshapen() from None
        match answer:
            case ["failed", "PatchError", str(stage), str(text)]:
                raise PatchError(text, stage)
            case ["failed", str(kind), _, str(text)] if kind in ERRORS:
                raise ERRORS[kind](text)
            case ["memory"]:
                self._failed = True
                raise ChildFailed(
                    self._stage,
                    f"{self._where()} more than {self.bounds.memory >> 20} MB of memory were needed "
                    "([rehearsal] memory)",
                )
        if not isinstance(answer, list):
            raise self._misshapen()
        return answer

    def _checked(self, told: Any, shape: Mapping[str, Shape]) -> dict[str, Any]:
        """A map as it came, if it has what is read of it. Raises ChildFailed."""
        if isinstance(told, dict) and all(
            name in told and isinstance(told[name], kinds) for name, kinds in shape.items()
        ):
            return told
        raise self._misshapen()

    def _patch(self, told: Any) -> PatchInfo:
        facts = self._checked(told, PATCH)
        return PatchInfo(**{name: facts[name] for name in PATCH})

    def _whole(self, rows: list[dict[str, Any]], told: Any) -> dict[str, Any]:
        report = self._checked(told, REPORT)
        for item in (*report["failures"], *report["differences"]):
            self._checked(item, FOUND)
        if not all(type(kind) is str for kind in report["kinds"]):
            raise self._misshapen()
        return {**report, "sessions": rows}

    def _misshapen(self, what: str = "something that is no answer") -> ChildFailed:
        """A patch has got hold of the socket, or of the memory, of that process."""
        self._failed = True
        return ChildFailed(self._stage, f"{self._where()} the process for the rehearsal said {what}")

    async def _exactly(self, size: int) -> bytes:
        assert self._socket is not None
        while len(self._held) < size:
            try:
                fresh = await self._loop.sock_recv(self._socket, 65_536)
            except OSError:
                fresh = b""
            if not fresh:
                raise _Gone
            self._held += fresh
        data = bytes(self._held[:size])
        del self._held[:size]
        return data

    # ---- what is left to say of a child that failed

    async def _silent(self, seconds: float) -> ChildFailed:
        assert self._keeper is not None
        self._failed = True
        self._keeper.signal(signal.SIGUSR1)
        await asyncio.sleep(ASKED)
        self._keeper.kill()
        return ChildFailed(
            self._stage,
            f"{self._where()} the rehearsal took longer than {seconds:g} s ([rehearsal] seconds) and was ended",
        )

    async def _dead(self) -> ChildFailed:
        assert self._keeper is not None
        self._failed = True
        try:
            async with asyncio.timeout(DYING):
                code = await asyncio.shield(self._keeper.ended)
            self._hear()
            cause = self._cause(code)
        except TimeoutError:
            cause = "the rehearsal closed its connection to the server"
        return ChildFailed(self._stage, f"{self._where()} {cause}")

    def _cause(self, code: int) -> str:
        bounds = self.bounds
        if code == -signal.SIGXCPU:
            return f"the rehearsal had used its {bounds.cpu_seconds:g} s of processor time ([rehearsal] cpu_seconds)"
        if code == -signal.SIGVTALRM:
            return "a call of C code did not return and could not be interrupted"
        if code == -signal.SIGKILL:
            return "the rehearsal was killed; had the machine no memory left?"
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            return f"the rehearsal died of {name}"
        last = self._words.decode("utf-8", "replace").strip().rpartition("\n")[2]
        return f"the rehearsal ended with code {code}{f': {last}' if last else ''}"

    def _where(self) -> str:
        """Session, function and event, as far as they are known: the beginning of a sentence."""
        assert self._page is not None
        name, doing = Place(self._page).told()
        function = _function(self._words.decode("utf-8", "replace"))
        return f"{f'{name}: ' if name else ''}in {doing or 'its start'}{function}:"


class _Gone(Exception):
    """The child's end of the socket is closed."""


class _Tape:
    """The events that a shadow has yet to send, bounded: whoever falls behind is left out of it."""

    def __init__(self, taped: list[tuple[str, Event]]) -> None:
        self.taped = taped
        self.lost: dict[str, bool] = {}  # session -> whether the child has been told

    async def bound(self) -> None:
        """Look now and then, also while a message waits for the child to read."""
        while True:
            await asyncio.sleep(TURN)
            if len(self.taped) > MOST_BEHIND:
                self.lost |= {name: False for name, _ in self.taped if name not in self.lost}
                self.taped.clear()

    def messages(self) -> Iterator[bytes]:
        """All that there are now."""
        for name, told in [*self.lost.items()]:  # `bound` may add to it meanwhile
            if not told:
                self.lost[name] = True
                yield message("lost", name)
        taped = self.taped[:]
        self.taped.clear()
        for name, event in taped:
            if name not in self.lost:
                yield message("event", name, *flat(event))


class _Keeper(threading.Thread):
    """Starts the child and waits for its end; a thread of its own, for the child dies with the thread that made it."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, theirs: socket.socket, memory: int, words: int
    ) -> None:
        super().__init__(name="streamd rehearsal", daemon=True)
        self.began: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[int] = loop.create_future()
        self.pid = 0
        self._loop = loop
        self._files = (theirs.detach(), memory, words)
        self._lock = threading.Lock()
        self._over = False  # asked to end, or ended and reaped: its number may be another's

    def run(self) -> None:
        error: OSError | None = None
        try:
            if not self._over:
                pid = spawn(
                    [sys.executable, "-I", "-S", *["-O"] * sys.flags.optimize, "-c", PROGRAM, *PATHS],
                    self._files,
                    {name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
                )
                with self._lock:
                    self.pid = pid
                    if self._over:  # while it was being made
                        os.kill(pid, signal.SIGKILL)
        except OSError as failure:
            error = failure
        except Exception as failure:  # of ctypes: whoever waits has to hear of it
            error = OSError(str(failure))
        finally:
            self.close()
        self._tell(self._say_began, error)
        code = 0
        if self.pid:
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            with self._lock:
                self._over = True
                code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self._tell(self._say_ended, code)

    def close(self) -> None:
        """Let go of the child's ends, which it has by now, or never will."""
        for number in self._files:
            os.close(number)

    def kill(self) -> None:
        """Also before it has begun."""
        self.signal(signal.SIGKILL, last=True)

    def signal(self, number: int, last: bool = False) -> None:
        with self._lock:
            if self.pid and not self._over:
                os.kill(self.pid, number)
            self._over = self._over or last

    def _tell(self, say: Callable[[Any], None], what: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(say, what)
        except RuntimeError:
            pass  # the loop has been closed: nobody is interested any more

    def _say_began(self, error: OSError | None) -> None:
        if self.began.done():
            return
        if error is None:
            self.began.set_result(None)
        else:
            self.began.set_exception(error)
            self.began.exception()  # whoever waited may have gone

    def _say_ended(self, code: int) -> None:
        if not self.ended.done():
            self.ended.set_result(code)


def _packed(copy: SessionCopy) -> Iterator[bytes]:
    """Raises StateError for what cannot be packed."""
    try:
        yield from copy.messages()
    except MemoryError:
        raise StateError(f"{copy.name}: its state is larger than can be copied") from None
    except ValueError as error:  # an atom that is none: lower() shares those as they are
        check_plain(copy.lowered, f"{copy.name}: state")
        raise StateError(f"{copy.name}: its state cannot be packed: {error}") from error


async def _one(data: bytes) -> AsyncGenerator[bytes, None]:
    yield data


def _function(words: str) -> str:
    """The innermost function outside the kernel in the child's last traceback: " at codec.py:12 in word"."""
    _, _, last = words.rpartition("(most recent call first)")
    frames = [found.groups() for found in map(FRAME.search, last.splitlines()) if found]
    outside = [frame for frame in frames if not frame[0].startswith(KERNEL)]
    if not outside:
        return ""
    file, line, function = outside[0]
    return f" at {file}:{line} in {function}"
