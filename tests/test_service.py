"""The systemd unit: it verifies, it is fenced in, and it agrees with the configuration."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from streamd import places
from streamd.config import Config, load

UNIT = Path(__file__).parents[1] / "systemd" / "streamd.service"
SYSUSERS = UNIT.with_name("streamd.sysusers")

# `systemd-analyze security` goes from 0 (nothing exposed) to 10; what is left is the network, which is the job,
# and the user namespace that would hide who sent a patch.
MAX_EXPOSURE = 2.0

needs_systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze here")


def settings() -> dict[str, list[str]]:
    """Key -> values, in the order of the file; keys of the sections do not overlap."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text(encoding="utf-8").splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


@pytest.fixture
def installed(tmp_path):
    """A copy of the unit whose program exists on this machine."""
    program = tmp_path / "streamd"
    program.write_text("#!/bin/sh\n", encoding="utf-8")
    program.chmod(0o755)
    text = UNIT.read_text(encoding="utf-8")
    text = re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={program}", text)
    text = text.replace("file:///opt/streamd/docs/operating.md", "https://example.org")
    copy = tmp_path / UNIT.name
    copy.write_text(text, encoding="utf-8")
    return copy


@needs_systemd
def test_systemd_has_nothing_to_say_against_the_unit(installed):
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", installed], capture_output=True, text=True, timeout=60
    )
    # other units of the machine that runs the test may have faults of their own
    ours = [line for line in (done.stdout + done.stderr).splitlines() if UNIT.name in line]
    assert ours == []
    assert done.returncode == 0


@needs_systemd
def test_the_unit_exposes_little(installed):
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", installed],
        capture_output=True,
        text=True,
        timeout=60,
    )
    said = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert said, done.stdout + done.stderr
    assert float(said[1]) <= MAX_EXPOSURE


def test_the_unit_agrees_with_the_configuration():
    unit, config = settings(), Config()
    assert unit["Type"] == ["notify"]
    assert unit["NotifyAccess"] == ["main"]
    assert int(unit["WatchdogSec"][0]) == 30
    assert float(unit["TimeoutStopSec"][0]) > config.server.drain_seconds
    assert int(unit["LimitNOFILE"][0]) > config.server.max_connections
    assert unit["RuntimeDirectory"] == [Path(places.SERVICE_RUNTIME).name]
    assert unit["ExecStart"] == ["/opt/streamd/.venv/bin/streamd --config /etc/streamd/streamd.toml"]


def test_in_the_service_everything_written_lies_where_the_unit_allows_it():
    state = [f"/var/lib/{name}" for name in settings()["StateDirectory"][0].split()]
    env = {"RUNTIME_DIRECTORY": "/run/streamd", "STATE_DIRECTORY": ":".join(state)}
    for line in settings()["Environment"]:
        env |= dict(pair.split("=", 1) for pair in line.split())
    server = load(UNIT.parents[1] / "config" / "streamd.toml", env, {}).server
    assert (server.admin, server.state) == ("/run/streamd/admin.sock", "/var/lib/streamd")
    assert server.patches in state


def test_the_user_of_the_unit_is_the_one_that_is_made():
    assert settings()["User"] == settings()["Group"] == ["streamd"]
    assert "\nu streamd - " in SYSUSERS.read_text(encoding="utf-8")
