"""A whole streamd as a process of its own, the operator's command beside it, and encoders that publish to it.

The rule this file keeps: nothing here reaches into the server. What is known of it is what its log, its admin socket
(by way of streamd-ctl) and its ports say. Everything is on 127.0.0.1, on ports that the system picks, in a directory
that is gone afterwards; processes are ended by their own ids.

    async with running(publisher_grace=1.0) as streamd:
        encoder = await Encoder.connect(streamd, "studio1")
        await encoder.send_all(media_samples.plain())
        answer = await streamd.ctl("load", "codec_fix.py")
        await streamd.until(lambda status: status["sessions"], "a broadcast begins")
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

from streamd.live.media import flv
from tests import rtmp_client

ROOT = Path(__file__).parents[2]
START = 30.0  # seconds that a start may take on a machine that does much else
PATIENCE = 30.0  # seconds that any other condition may take
POLL = 0.02
CHUNK = 1024  # bytes; every key picture of the samples has more than two


async def eventually(holds: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """Wait until `holds()` (or what it gives to await) is true, and give that; AssertionError with `what` after
    `seconds`."""
    deadline = monotonic() + seconds
    while True:
        found = holds()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return found
        assert monotonic() < deadline, f"after {seconds:g} s still not: {what}"
        await asyncio.sleep(POLL)


# ---- the server --------------------------------------------------------------------------------------------


class Streamd:
    """One server with its directories. It may be stopped and started again on the same state."""

    def __init__(self, root: Path, tables: dict[str, dict[str, Any]], package: Path = ROOT) -> None:
        """`tables`: of the configuration file. `package`: the directory that the package streamd lies in."""
        self.root = root
        self.package = package
        self.patches = root / "patches"
        self.admin = root / "admin.sock"
        self.log = root / "streamd.log"
        self.process: asyncio.subprocess.Process | None = None
        self.rtmp = self.http = ""
        self.since = 0  # where the log of this start begins
        self.patches.mkdir()
        for file in (ROOT / "patches").glob("*.py"):
            shutil.copy(file, self.patches)
        server = {"admin": str(self.admin), "state": str(root / "state"), "patches": str(self.patches)}
        given = {"log": {"format": "json"}, **tables}
        ports = {"rtmp": "127.0.0.1:0", "http": "127.0.0.1:0"}
        self.tables = given | {"server": server | ports | given.get("server", {})}

    def env(self) -> dict[str, str]:
        mine = {name: value for name, value in os.environ.items() if not name.startswith("STREAMD_")}
        return mine | {"PYTHONPATH": str(self.package)}

    async def start(self) -> dict[str, Any]:
        """Start it and wait for its line `ready`, which is given."""
        assert self.process is None
        config = self.root / "streamd.toml"
        config.write_text(toml(self.tables), encoding="utf-8")
        with self.log.open("ab") as log:
            self.since = log.tell()
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "streamd.server", "--config", str(config)),
                stdin=asyncio.subprocess.DEVNULL,
                stderr=log,
                cwd=self.root,
                env=self.env(),
            )
        ready: dict[str, Any] = await eventually(self._ready, "the server is ready", START)
        self.rtmp, self.http = ready["rtmp"], ready["http"]
        assert ready["pid"] == self.process.pid
        return ready

    def _ready(self) -> dict[str, Any] | None:
        assert self.process is not None
        assert self.process.returncode is None, f"streamd did not start:\n{self.text()}"
        return next((line for line in self.lines() if line["message"].startswith("ready")), None)

    async def stop(self) -> int:
        """SIGTERM; the exit status."""
        return await self._end(lambda process: process.terminate())

    async def kill(self) -> int:
        """As a power cut would end it."""
        return await self._end(lambda process: process.kill())

    async def _end(self, how: Callable[[asyncio.subprocess.Process], None]) -> int:
        assert self.process is not None
        process, self.process = self.process, None
        if process.returncode is None:
            how(process)
        try:
            return await asyncio.wait_for(process.wait(), PATIENCE)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise

    def text(self) -> str:
        """The log of this start."""
        with self.log.open("rb") as log:
            log.seek(self.since)
            return log.read().decode()

    def lines(self) -> list[dict[str, Any]]:
        """The same, line by line; what is no JSON (a traceback of an early death) as a message without level."""
        whole = self.text().rpartition("\n")[0].splitlines()
        return [
            json.loads(line) if line.startswith("{") else {"level": "", "message": line} for line in whole
        ]

    def complaints(self) -> list[str]:
        """Messages of level error, and what was not meant for the log at all."""
        return [line["message"] for line in self.lines() if line["level"] in ("error", "critical", "")]

    # ---- the operator

    async def ctl(self, *words: str, code: int | None = 0) -> dict[str, Any]:
        """streamd-ctl --json with these words; the answer. AssertionError unless it exits with `code` (None: with any)."""
        out = await output(
            *(sys.executable, "-m", "streamd.ctl", "--admin", str(self.admin), "--json", *words),
            code=code,
            cwd=self.root,
            env=self.env(),
        )
        found: dict[str, Any] = json.loads(out)
        return found

    async def status(self) -> dict[str, Any]:
        return await self.ctl("status")

    async def session(self, name: str) -> dict[str, Any]:
        """What streamd-ctl sessions NAME says: groups and peers included."""
        found = (await self.ctl("sessions", f"live/{name}"))["sessions"]
        assert len(found) == 1
        return dict(found[0])

    async def until(self, holds: Callable[[dict[str, Any]], Any], what: str) -> dict[str, Any]:
        """Wait for a status of which it holds, and give that."""

        async def look() -> dict[str, Any] | None:
            status = await self.status()
            return status if holds(status) else None

        return dict(await eventually(look, what))

    def patch(self, name: str, text: str) -> str:
        """Write a patch of our own; its name, for `ctl("load", ...)`."""
        path = self.patches / name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o644)
        return name

    # ---- addresses

    def rtmp_url(self, name: str) -> str:
        return f"rtmp://{self.rtmp}/live/{name}"

    def flv_url(self, name: str) -> str:
        return f"http://{self.http}/live/{name}.flv"

    def page_url(self, name: str) -> str:
        return f"http://{self.http}/live/{name}"


def toml(tables: dict[str, dict[str, Any]]) -> str:
    """Tables of plain values as TOML, which writes strings, numbers and truth values as JSON does."""
    lines = []
    for name, values in tables.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    return "\n".join(lines) + "\n"


@contextlib.asynccontextmanager
async def running(
    tables: dict[str, dict[str, Any]] | None = None,
    package: Path = ROOT,
    complains: bool = False,
    **live: Any,
) -> AsyncIterator[Streamd]:
    """A server that runs, and is stopped afterwards. `live`: keys of [live]; `tables`: other tables.

    A server that said something of level error has failed the test, unless it has reason to (`complains`).
    """
    # not pytest's directory, which is too long a path for a unix socket
    root = Path(tempfile.mkdtemp(prefix="streamd-test-"))
    streamd = Streamd(root, {"live": live, **(tables or {})}, package)
    try:
        await streamd.start()
        yield streamd
        assert complains or streamd.complaints() == []
    except BaseException:
        print(f"--- the end of streamd's log\n{streamd.log.read_text(encoding='utf-8')[-20_000:]}")
        raise
    finally:
        if streamd.process is not None:
            await streamd.stop()
        shutil.rmtree(root, ignore_errors=True)


# ---- other programs ----------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def program(*words: str, **how: Any) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that is gone at the end of the block."""
    process = await asyncio.create_subprocess_exec(*words, **{"stdin": asyncio.subprocess.DEVNULL, **how})
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def output(*words: str, code: int | None = 0, seconds: float = 2 * PATIENCE, **how: Any) -> bytes:
    """Run a program to its end: what it wrote. AssertionError unless it exits with `code` (None: with any), in time."""
    async with program(
        *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, **how
    ) as process:
        try:
            out, err = await asyncio.wait_for(process.communicate(), seconds)
        except TimeoutError:
            raise AssertionError(f"{' '.join(words)} does not end") from None
    said = f"{' '.join(words)} exits with {process.returncode}:\n{out[-4000:].decode(errors='replace')}"
    assert code is None or process.returncode == code, said + err[-4000:].decode(errors="replace")
    return out


# ---- an encoder of our own ---------------------------------------------------------------------------------


class Sent(NamedTuple):
    """A frame that was published; `digest` as in rtmp_client, `key` for a key picture."""

    type: int
    dts: int
    digest: str
    key: bool


def is_frame(type: int, payload: bytes) -> bool:
    """True for a picture or a piece of sound; False for sequence headers and script data."""
    return type in (flv.VIDEO, flv.AUDIO) and payload[1] == 1


class Encoder:
    """A publisher that remembers the frames it has sent, and can be stopped half-way through a chunk."""

    def __init__(self, client: rtmp_client.Client) -> None:
        self.client = client
        self.sent: list[Sent] = []
        self.stopping = False
        self.half_read = 0  # bytes of the message that was cut last
        self._cut = False
        self._half = asyncio.Event()
        self._go_on = asyncio.Event()

    @classmethod
    async def connect(cls, streamd: Streamd, name: str) -> Encoder:
        return cls(await rtmp_client.publish(streamd.rtmp, name, chunk=CHUNK))

    async def run(self, tags: Iterable[flv.Tag]) -> None:
        """Send tags at the pace of their timestamps, to the end or until `stopping`."""
        started, first = monotonic(), -1
        for tag in tags:
            if self.stopping:
                return
            first = tag.dts if first < 0 else first
            ahead = (tag.dts - first) / 1000 - (monotonic() - started)
            if ahead > 0:
                await asyncio.sleep(ahead)
            await self.send(tag)

    async def send_all(self, tags: Iterable[flv.Tag]) -> None:
        """Send tags at once."""
        for tag in tags:
            await self.send(tag)

    async def send(self, tag: flv.Tag) -> None:
        type, dts, payload = tag
        if is_frame(type, payload):
            key = type == flv.VIDEO and payload[0] >> 4 == flv.KEY
            self.sent.append(Sent(type, dts, rtmp_client.digest(payload), key))
        chunks = self.client.chunks(type, payload, dts)
        if self._cut and len(chunks) > 2:
            self._cut = False
            first, second = chunks[:2]
            middle = len(second) // 2
            self.half_read = CHUNK + middle - 1  # the second chunk's header is one byte
            await self.client.write(first + second[:middle])
            self._half.set()
            await self._go_on.wait()
            chunks[:2] = [second[middle:]]
        await self.client.write(b"".join(chunks))

    @contextlib.asynccontextmanager
    async def half_a_chunk(self, streamd: Streamd, name: str) -> AsyncIterator[None]:
        """For the length of the block: the server has read a chunk and a half of a message, the rest is not sent."""
        self._half.clear()
        self._go_on.clear()
        self._cut = True
        try:
            await asyncio.wait_for(self._half.wait(), PATIENCE)
            await eventually(lambda: _quiet(streamd, name, self), "the server has read what was sent")
            yield
        finally:
            self._go_on.set()

    async def close(self) -> None:
        """End the stream in good order, then the connection."""
        await self.client.command("FCUnpublish", None, "")
        await self.client.command("deleteStream", None, 1)
        await self.client.close()


async def _quiet(streamd: Streamd, name: str, encoder: Encoder) -> bool:
    """True if the server has received every byte that the encoder wrote."""
    own = encoder.client.writer.get_extra_info("sockname")
    peers = {peer["peer"]: peer for peer in (await streamd.session(name))["peers"]}
    return bool(peers[f"{own[0]}:{own[1]}"]["received"] == encoder.client.written)
