"""Tasks are restarted with intensity; a crash is told once, precisely, and within bounds."""

from __future__ import annotations

import asyncio
import json

import pytest

from streamd.runtime.supervisor import REPORTS_KEPT, CrashReports, Intensity, Supervisor, plain
from streamd.runtime.vocabulary import Data


def test_intensity_counts_within_its_period_only():
    intensity = Intensity(2, 60.0)
    assert [intensity.exceeded() for _ in range(4)] == [False, False, True, True]
    assert not Intensity(1, 0.0).exceeded()
    assert Intensity(0, 60.0).exceeded()


async def test_a_task_that_fails_is_restarted_and_then_fails_the_process(tmp_path):
    supervisor = Supervisor(3, 60.0, CrashReports(tmp_path))
    starts = []

    async def work() -> None:
        starts.append(1)
        raise RuntimeError(f"broken {len(starts)}")

    supervisor.start("worker", work)
    assert await asyncio.wait_for(supervisor.failed, 5) == (
        "worker failed too often, last with RuntimeError: broken 4"
    )
    assert len(starts) == 4
    assert supervisor.reports.count == 4
    assert supervisor.tree() == {"worker": {"running": False, "restarts": 3}}
    await supervisor.stop()


async def test_a_task_that_fails_leaves_the_others_alone_and_one_that_ends_has_done_its_work(tmp_path):
    supervisor = Supervisor(3, 60.0, CrashReports(tmp_path))
    order, told = [], asyncio.Event()

    async def steady(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            order.append(name)

    async def once() -> None:
        if not told.is_set():
            told.set()
            raise RuntimeError("once")

    supervisor.start("first", lambda: steady("first"))
    supervisor.start("second", lambda: steady("second"))
    supervisor.start("once", once)
    while supervisor.tree()["once"]["running"] or not supervisor.tree()["once"]["restarts"]:
        await asyncio.sleep(0)
    assert supervisor.tree()["first"] == {"running": True, "restarts": 0}
    assert not supervisor.failed.done()
    await supervisor.stop()
    assert order == ["second", "first"]


def test_a_report_has_what_happened_and_stays_bounded(tmp_path):
    reports = CrashReports(tmp_path / "crashes")
    try:
        int("x")
    except ValueError as error:
        path = reports.write(
            "live/a", error, {"event": Data(1, 2, b"x" * 10_000), "state": {"a": [object()]}}
        )
    assert path is not None
    report = json.loads(path.read_text())
    assert report["where"] == "live/a"
    assert report["reason"].startswith("ValueError: invalid literal")
    assert report["event"]["is"] == "Data"
    assert report["event"]["data"].endswith("... 10000 bytes")
    assert 'int("x")' in "".join(report["traceback"])
    for number in range(REPORTS_KEPT + 5):
        reports.write("live/a", RuntimeError(str(number)), {})
    assert len(list(reports.directory.iterdir())) == REPORTS_KEPT
    assert reports.count == REPORTS_KEPT + 6


def test_a_report_that_cannot_be_written_is_told_in_the_log(tmp_path, caplog):
    (tmp_path / "crashes").write_text("a file, not a directory")
    assert CrashReports(tmp_path / "crashes").write("live/a", RuntimeError("lost"), {}) is None
    assert "crash report not written" in caplog.text
    assert "RuntimeError: lost" in caplog.text


class Unsayable:
    def __repr__(self) -> str:
        raise RuntimeError("not even this")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"a": (1, [2.5, None, True])}, {"a": [1, [2.5, None, True]]}),
        (b"\x00\xff", "00ff"),
        (bytearray(300), "00" * 256 + "... 300 bytes"),
        ({1: "x" * 5000}, {"1": "x" * 2000 + "..."}),
        (list(range(500)), list(range(200))),
        (dict.fromkeys(range(500), 0), {str(i): 0 for i in range(200)}),
        ([[[[[[[[[[1]]]]]]]]]], [[[[[[[[["..."]]]]]]]]]),
        (Unsayable(), "<Unsayable>"),
    ],
)
def test_a_report_holds_plain_bounded_data(value, told):
    assert plain(value) == told
