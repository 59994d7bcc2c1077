"""The live view: rates between two samples, a screenful and no more, and a terminal that is given back."""

from __future__ import annotations

import copy
import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest
from click.testing import CliRunner
from rich.console import Console

from streamd import ctl, ctl_top
from tests.fake_admin import BROADCAST, PROBATION, STATUS, FakeAdmin


@pytest.fixture
def server(tmp_path):
    fake = FakeAdmin(tmp_path / "admin.sock")
    yield fake
    fake.close()


def status(steps: int, sent: int, count: int = 1) -> dict:
    sessions = [
        {**BROADCAST, "name": f"live/studio{n}", "steps": steps, "received": steps * 1000, "sent": sent}
        for n in range(count)
    ]
    return {**copy.deepcopy(STATUS), "sessions": sessions}


def test_rates_are_what_happened_between_two_samples():
    first = ctl_top.sampled(status(100, 1_000_000), 10.0, None)
    assert first.rates == {}
    second = ctl_top.sampled(status(300, 5_000_000), 12.0, first)
    assert second.rates == {"live/studio0": (100.0, 800_000.0, 16_000_000.0)}
    assert ctl_top.rows(second)[0][4:] == ("800 kb/s", "16.0 Mb/s", "100", "0.31")


def test_a_count_that_went_down_is_no_rate():
    before = ctl_top.sampled(status(100, 1000), 10.0, None)
    assert ctl_top.sampled(status(200, 900), 11.0, before).rates == {}
    assert ctl_top.sampled(status(200, 2000, count=2), 11.0, before).rates.keys() == {"live/studio0"}


def test_those_with_the_most_viewers_stand_first_and_a_pinned_one_says_so():
    found = status(1, 1, count=3)
    for session, viewers in zip(found["sessions"], (1, 30, 30)):
        session["viewers"] = viewers
    found["pins"] = ["live/studio2"]
    rows = ctl_top.rows(ctl_top.sampled(found, 0.0, None))
    assert [row[:2] for row in rows] == [
        ("live/studio1", 2),
        ("live/studio2", "2 pinned"),
        ("live/studio0", 2),
    ]


@pytest.mark.parametrize("size", [(80, 24), (200, 60), (80, 10), (40, 24)])
def test_a_view_never_leaves_the_screen(size):
    found = status(1, 1, count=100) | {"probation": PROBATION, "doors": 2}
    sample = ctl_top.sampled(found, 0.0, None)
    console = Console(width=size[0], height=size[1], force_terminal=True)
    for lost in ("", "The server said nothing."):
        with console.capture() as capture:
            console.print(ctl_top.view(sample, console, lost))
        lines = capture.get().splitlines()
        # the rest of what is too small for the head alone is cut off by the screen
        assert len(lines) <= max(size[1], 20)
        if size[1] >= 24:
            assert f"and {100 - sum('live/studio' in line for line in lines)} more" in capture.get()


def test_a_view_tells_of_the_probation_and_of_the_releases_in_memory():
    found = status(1, 1) | {"probation": PROBATION}
    found["releases"].append({**STATUS["releases"][0], "number": 99, "state": "stored"})
    console = Console(width=80, height=24, force_terminal=True)
    with console.capture() as capture:
        console.print(ctl_top.view(ctl_top.sampled(found, 0.0, None), console))
    assert "on probation, wave 1 of 3: 21 s left of 30 s" in capture.get()
    assert "release 2    running" in capture.get()
    assert "release 99" not in capture.get()


def test_without_a_terminal_it_is_one_sample(server):
    answers = iter([[status(100, 1_000_000)], [status(200, 2_000_000)], *[[status(300, 3_000_000)]] * 2])
    server.answers["status"] = lambda args: next(answers)
    result = CliRunner().invoke(ctl.cli, ["--admin", server.path, "top", "--every", "50ms"])
    assert result.exit_code == 0
    assert result.stdout.startswith("streamd 1.0.0, up 2 h 1 min, release 2 (kept: 1).")
    row = result.stdout.splitlines()[-1]
    assert row.split()[:4] == ["live/studio0", "2", "live", "42"]
    assert row.count("Mb/s") == 2
    answer = json.loads(
        CliRunner().invoke(ctl.cli, ["--admin", server.path, "--json", "top", "--every", "0"]).stdout
    )
    assert answer["ok"]
    assert len(server.requests) == 4


def test_without_a_server_it_exits_with_3(tmp_path):
    result = CliRunner().invoke(ctl.cli, ["--admin", str(tmp_path / "none"), "top"])
    assert (result.exit_code, result.stdout) == (3, "")


class Screen:
    """`top` on a pseudo-terminal."""

    def __init__(self, path: str) -> None:
        self.ours, self.theirs = pty.openpty()
        self.resize(80, 24)
        command = [sys.executable, "-m", "streamd.ctl", "--admin", path, "top", "--every", "100ms"]
        env = {**os.environ, "TERM": "xterm"}
        for name in ("COLUMNS", "LINES"):
            env.pop(name, None)
        self.process = subprocess.Popen(
            command,
            stdin=self.theirs,
            stdout=self.theirs,
            stderr=self.theirs,
            env=env,
            start_new_session=True,
        )
        self.seen = ""

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("4H", lines, columns, 0, 0))

    def until(self, text: str) -> None:
        """Read on until this has been shown, from here on."""
        self.seen = ""
        deadline = time.monotonic() + 20
        while text not in self.seen:
            assert select.select([self.ours], [], [], max(deadline - time.monotonic(), 0))[0], self.seen[
                -2000:
            ]
            self.seen += os.read(self.ours, 65_536).decode()

    def ended(self) -> int:
        """The exit code, and nothing left behind: the usual screen, the cursor, echo and lines."""
        self.until("\x1b[?1049l")
        code = self.process.wait(20)
        flags = termios.tcgetattr(self.theirs)[3]
        assert flags & termios.ECHO
        assert flags & termios.ICANON
        os.close(self.ours)
        os.close(self.theirs)
        return code


@pytest.mark.parametrize(
    "end",
    [
        lambda screen: os.write(screen.ours, b"q"),
        lambda screen: screen.process.send_signal(signal.SIGINT),
        lambda screen: screen.process.send_signal(signal.SIGTERM),
    ],
    ids=["q", "ctrl-c", "terminated"],
)
def test_it_ends_with_the_terminal_as_it_was(server, end):
    screen = Screen(server.path)
    screen.until("live/show")
    end(screen)
    assert screen.ended() == 0


def test_a_server_that_goes_away_and_comes_back_is_waited_for(server, tmp_path):
    screen = Screen(server.path)
    screen.until("live/show")
    server.close()
    screen.until("Trying again; q ends.")
    os.unlink(server.path)
    second = FakeAdmin(tmp_path / "admin.sock")
    screen.until("42 viewers")
    # one that hangs does not hold the view
    second.answers["status"] = ["wait"]
    time.sleep(0.3)
    os.write(screen.ours, b"q")
    assert screen.ended() == 0
    second.close()


def test_a_resized_terminal_is_drawn_anew(server):
    server.answers["status"] = [status(1, 1, count=40)]
    screen = Screen(server.path)
    screen.until("and 25 more")
    screen.resize(100, 30)
    screen.until("and 19 more")
    os.write(screen.ours, b"q")
    assert screen.ended() == 0
