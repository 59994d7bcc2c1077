"""`streamd`: read the configuration, open the listeners, supervise, and run until told to stop.

The rule this file keeps: it joins the parts and decides nothing itself. The live code is named by its directory
and never imported: what runs is a release.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import sys
from importlib.resources import files
from pathlib import Path

import click

from streamd import __version__, logs
from streamd.config import Config, ConfigError, load, members, parse_address
from streamd.drivers import systemd
from streamd.drivers.http import Http
from streamd.drivers.watch import watch
from streamd.runtime.admin import Admin, Circle, Roles
from streamd.runtime.link import Limits, Link, now_ms
from streamd.runtime.net import Net
from streamd.runtime.rehearse import ChildBounds
from streamd.runtime.release import ReleaseError
from streamd.runtime.session import YOUNG, Sessions
from streamd.runtime.store import Store
from streamd.runtime.supervisor import CrashReports, Supervisor
from streamd.runtime.trace import Counters
from streamd.runtime.upgrade import Upgrades
from streamd.runtime.verbs import LOOKS, Verbs
from streamd.runtime.watchdog import StepBounds
from streamd.runtime.wishes import Bounds
from streamd.signing import Trust

log = logging.getLogger("streamd")

LIVE = Path(str(files("streamd").joinpath("live")))
SPECIMENS = ("door/0", "live/specimen")
# Young things are looked at every second and in every slice of a move; these are for what grows faster. A full
# collection is the longest stall there is: every few hours with thousands of sessions, and never in a move.
GC_THRESHOLDS = (5_000, 1, 1_000_000)


class Server:
    """One running streamd. `run` returns the exit status."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        state = Path(config.server.state)
        state.mkdir(mode=0o750, parents=True, exist_ok=True)
        supervision = config.supervision
        self.counters = Counters()
        self.reports = CrashReports(state / "crashes")
        self.supervisor = Supervisor(supervision.max_restarts, supervision.period_seconds, self.reports)
        self.sessions = Sessions(
            loop,
            self.counters,
            self.reports,
            config.live.settings(),
            lambda lowered, source, target: self.upgrades.convert(lowered, source, target),
            (supervision.max_restarts, supervision.period_seconds),
            StepBounds(
                step_seconds=supervision.step_seconds,
                guarded_ms=config.probation.step_ms,
                step_memory=supervision.step_memory,
                journal_bytes=supervision.journal_bytes,
                journal_total=supervision.journal_total,
            ),
        )
        network = config.network
        limits = Limits(
            max_connections=config.server.max_connections,
            send_buffer=network.send_buffer,
            max_pending=network.max_pending,
            linger_seconds=network.linger_seconds,
            backlog=network.backlog,
            flush_few_ms=network.flush_few_ms,
            flush_many_ms=network.flush_many_ms,
            slice_ms=network.slice_ms,
        )
        self.net = self.sessions.net = Net(loop, limits, self.counters, self._arrive)
        self.upgrades = Upgrades(
            self.sessions,
            Store(state),
            LIVE,
            Path(config.server.patches),
            _bounds(config),
            Trust(config.patches.keys, config.patches.require_signature),
        )
        self.http = Http(
            self.sessions, lambda: not self.stopping.is_set(), config.server.max_connections, network.backlog
        )
        self.verbs = Verbs(self.sessions, self.upgrades, self._facts, self.stopping.set)
        self.admin = Admin(
            Path(config.server.admin),
            self.verbs.table,
            self.reports,
            config.server.admin_group,
            LOOKS,
            _roles(config),
        )
        self.addresses: dict[str, str] = {}

    def _arrive(self, link: Link, listener: str) -> None:
        self.sessions.arrive(link, listener, os.urandom(32))

    def _facts(self) -> dict[str, str]:
        return {**self.addresses, "version": __version__}

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stopping.set)
        self.upgrades.store.lock()
        history = self.upgrades.store.verify()  # its head, in the log: what a cut-off end is held against
        log.log(logging.WARNING if history.problems else logging.INFO, "history: %s", history.sentence())
        if not Path(self.config.server.patches).is_dir():
            log.warning("the patches directory %s is not there yet", self.config.server.patches)
        for warning in self.upgrades.boot():
            log.warning("%s", warning)
        await self.admin.open()
        rtmp, http = parse_address(self.config.server.rtmp), parse_address(self.config.server.http)
        self.addresses["rtmp"] = _address(*self.net.listen("rtmp", rtmp.host, rtmp.port))
        self.addresses["http"] = _address(*await self.http.listen(http.host, http.port))
        self._start_tasks()
        self.sessions.watchdog.start()
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        log.info(
            "ready: rtmp %s, http %s, admin %s, release %d",
            self.addresses["rtmp"],
            self.addresses["http"],
            self.config.server.admin,
            self.upgrades.current.number,
            extra={**self.addresses, "admin": self.config.server.admin, "pid": os.getpid()},
        )
        systemd.notify(READY=1, STATUS=self._status())
        self.supervisor.failed.add_done_callback(lambda _: self.stopping.set())
        await self.stopping.wait()
        if self.supervisor.failed.done():
            log.error("stopping: %s", self.supervisor.failed.result())
        await self._drain()
        return 1 if self.supervisor.failed.done() else 0

    def _start_tasks(self) -> None:
        config = self.config
        self.supervisor.start("counters", self._say_counters)
        self.supervisor.start(
            "checkpoints", lambda: self.sessions.keep_checkpoints(config.supervision.checkpoint_seconds)
        )
        if systemd.watchdog_seconds():
            self.supervisor.start("watchdog", lambda: systemd.feed_watchdog(self._status))
        root = Path(config.server.patches)
        if config.patches.watch != "off":
            self.supervisor.start("patches", lambda: watch(root, config.patches.watch, self.upgrades))

    async def _say_counters(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self.counters.say()
            self.sessions.watchdog.headroom()
            gc.collect(YOUNG)

    def _status(self) -> str:
        broadcasts = len(self.sessions.listed(doors=False))
        return f"release {self.upgrades.current.number}, {broadcasts} broadcasts, {len(self.net.links)} connections"

    async def _drain(self) -> None:
        """Tell everybody, let what was sent go out, and be gone when the time is over."""
        self.stopping.set()
        systemd.notify(STOPPING=1)
        seconds = self.config.server.drain_seconds
        log.info("stopping: %d connections have up to %g s", len(self.net.links), seconds)
        self.net.stop_listening()
        self.http.stop_listening()
        deadline = now_ms() + int(seconds * 1000)
        self.sessions.tell_stopping(deadline)
        while self.net.links and now_ms() < deadline:
            await asyncio.sleep(0.02)
        if self.net.links:
            log.warning("stopping: %d connections were cut off", len(self.net.links))
        await self.upgrades.close()
        await self.supervisor.stop()
        await self.http.close()
        await self.admin.close()
        self.sessions.watchdog.stop()
        log.info("stopped")


def _bounds(config: Config) -> Bounds:
    """The limits of the patch path."""
    rehearsal, probation = config.rehearsal, config.probation
    return Bounds(
        max_bytes=config.patches.max_bytes,
        max_live=config.releases.max_live,
        slice_ms=config.network.slice_ms,
        specimens=SPECIMENS,
        probation_seconds=probation.seconds,
        probation_events=probation.events,
        probation_rise=probation.rise,
        keyframe_seconds=probation.keyframe_seconds,
        child=ChildBounds(
            memory=rehearsal.memory,
            cpu_seconds=rehearsal.cpu_seconds,
            seconds=rehearsal.seconds,
            replay_seconds=rehearsal.replay_seconds,
            step_seconds=config.supervision.step_seconds,
        ),
    )


def _roles(config: Config) -> Roles:
    """Who may load, and who may look."""
    load, look = (Circle(*members(getattr(config.admin, name), name)) for name in ("load", "look"))
    return Roles(load, look)


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _raise_descriptor_limit() -> None:
    """Use every descriptor the system allows: a viewer is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _serve(config: Config) -> int:
    return await Server(config).run()


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", "path", type=click.Path(path_type=Path), help="Configuration file (TOML).")
@click.option("--rtmp", metavar="ADDR:PORT", help="Where encoders and RTMP players connect.")
@click.option("--http", metavar="ADDR:PORT", help="Where players and browsers connect.")
@click.option("--admin", metavar="PATH", help="The admin socket, for streamd-ctl.")
@click.option("--state", metavar="DIR", help="Where releases and the history are kept.")
@click.option("--patches", metavar="DIR", help="The directory that patches are loaded from.")
@click.version_option(__version__, prog_name="streamd")
def main(path: Path | None, **flags: str | None) -> None:
    """A live media server whose code can be patched while people watch.

    Each flag is also a key of the configuration file and an environment variable STREAMD_RTMP, STREAMD_HTTP,
    STREAMD_ADMIN, STREAMD_STATE, STREAMD_PATCHES. Port 0 picks a free one and says which.
    """
    try:
        config = load(path, os.environ, flags)
    except ConfigError as error:
        print(f"streamd: {error}", file=sys.stderr)
        sys.exit(2)
    logs.set_up(config.log.format, config.log.level)
    _raise_descriptor_limit()
    factory = asyncio.new_event_loop
    if config.server.uvloop:
        import uvloop

        factory = uvloop.new_event_loop
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            sys.exit(runner.run(_serve(config)))
    except (OSError, ReleaseError) as error:
        reason = str(error)
        if isinstance(error, OSError) and error.strerror:
            reason = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        print(f"streamd: cannot start: {reason}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
