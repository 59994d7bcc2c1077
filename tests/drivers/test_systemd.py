"""What the service manager hears, and that nothing is said where nobody listens."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from streamd.drivers.systemd import feed_watchdog, notify, watchdog_seconds


@pytest.fixture
def manager(tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield sock


def test_a_message_is_lines_of_values(manager):
    notify(READY=1, STATUS="release 7")
    assert manager.recv(1000) == b"READY=1\nSTATUS=release 7"


def test_an_abstract_socket_is_found(monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0streamd-test-{os.getpid()}")
        sock.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@streamd-test-{os.getpid()}")
        notify(STOPPING=1)
        assert sock.recv(1000) == b"STOPPING=1"


@pytest.mark.parametrize("address", [None, "", "nonsense", "/nowhere/at/all", "@nobody-listens"])
def test_nothing_happens_where_nobody_listens(monkeypatch, address):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify(READY=1)


@pytest.mark.parametrize(
    ("microseconds", "pid", "seconds"),
    [
        (None, None, 0.0),
        ("30000000", None, 30.0),
        ("30000000", "mine", 30.0),
        ("30000000", "1", 0.0),
        ("soon", None, 0.0),
    ],
)
def test_the_watchdog_s_period_is_the_manager_s(monkeypatch, microseconds, pid, seconds):
    for name, value in (("WATCHDOG_USEC", microseconds), ("WATCHDOG_PID", pid)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, str(os.getpid()) if value == "mine" else value)
    assert watchdog_seconds() == seconds


async def test_the_watchdog_is_fed_three_times_a_period_with_what_is_going_on(manager, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "30000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    manager.setblocking(False)
    loop = asyncio.get_running_loop()
    started = loop.time()
    task = asyncio.create_task(feed_watchdog(lambda: "all is well"))
    for _ in range(4):
        message = await asyncio.wait_for(loop.sock_recv(manager, 1000), 5)
        assert message == b"WATCHDOG=1\nSTATUS=all is well"
    assert loop.time() - started >= 0.029
    task.cancel()


async def test_there_is_nothing_to_feed_without_a_watchdog(monkeypatch):
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    await feed_watchdog(lambda: "never asked")
