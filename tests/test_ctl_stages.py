"""The view of a request's progress: one line a stage, written over until the stage is done."""

from __future__ import annotations

import io
import os

import pytest

from streamd import ctl_stages
from streamd.ctl_stages import ERASE, Stages


class Clock:
    now = 100.0


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(ctl_stages, "monotonic", lambda: Clock.now)
    Clock.now = 100.0
    return Clock


@pytest.fixture
def out(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    return io.StringIO()


def lines(out: io.StringIO) -> list[str]:
    """What stays on the screen, the last line being the one that is still written over."""
    return [line.rpartition(ERASE)[2] for line in out.getvalue().split("\n")]


def test_a_finished_stage_stays_with_its_figures_and_its_time(clock, out):
    view = Stages(out)
    for stage, done, of, seconds in (
        *(("read", 0, 1, 0.1), ("read", 1, 1, 0.1)),
        *(("rehearse", 0, 42, 0.5), ("rehearse", 12, 42, 0.5)),
        *(("rehearse", 42, 42, 0.2), ("import", 0, 1, 0.0)),
    ):
        Clock.now += seconds
        view({"progress": stage, "done": done, "of": of})
    assert lines(out) == [
        "read       1/1           0.2 s",
        "rehearse   42/42         1.2 s",
        "import     [....................]  0/1",
    ]
    view.end()
    assert lines(out)[-2:] == ["import     0/1           0.0 s", ""]


def test_what_came_after_a_finished_stage_was_the_next_one(clock, out):
    view = Stages(out)
    view({"progress": "read", "done": 1, "of": 1})
    Clock.now += 3
    view({"progress": "merge", "done": 1, "of": 1, "text": "media.h264 1 -> 2"})
    view.end()
    assert lines(out) == [
        "read       1/1           0.0 s",
        "merge      1/1           3.0 s  media.h264 1 -> 2",
        "",
    ]


def test_a_probation_shows_the_seconds_left_and_each_wave_has_its_own(clock, out):
    view = Stages(out)
    view({"progress": "wave", "done": 1, "of": 2})
    view({"progress": "probation", "done": 9, "of": 30})
    assert lines(out)[-1] == "probation  [######..............]  21 s left"
    view({"progress": "probation", "done": 30, "of": 30})
    assert lines(out)[-1].endswith("until each session has had its events")
    view({"progress": "probation", "done": 0, "of": 30})
    assert lines(out)[1:] == [
        "probation                0.0 s",
        "probation  [....................]  30 s left",
    ]


def test_time_passes_while_nothing_comes(clock, out):
    view = Stages(out)
    view.tick()
    assert out.getvalue() == ""
    view({"progress": "merge"})
    Clock.now += 7
    view.tick()
    assert lines(out) == ["merge        7 s"]


@pytest.mark.parametrize(
    ("stage", "last"),
    [
        ("", ["rehearse   1/2           0.0 s  failed", ""]),
        ("rehearse", ["rehearse   1/2           0.0 s  failed", ""]),
        ("disk", ["rehearse   1/2           0.0 s  failed", ""]),
        ("import", ["rehearse   1/2           0.0 s", "import                   0.0 s  failed", ""]),
    ],
)
def test_the_stage_that_failed_is_marked(clock, out, stage, last):
    view = Stages(out)
    view({"progress": "rehearse", "done": 1, "of": 2})
    view.end("failed", stage)
    assert lines(out) == last


def test_a_line_is_never_wider_than_the_terminal(monkeypatch, out):
    monkeypatch.setattr(os, "get_terminal_size", lambda fd: os.terminal_size((24, 10)))
    monkeypatch.setattr(out, "fileno", lambda: 1)
    view = Stages(out)
    view({"progress": "merge", "done": 1, "of": 1, "text": "\x1b[31m" + "x" * 100})
    view({"progress": "移" * 30, "done": 1, "of": 1})
    view.end()
    assert "\x1b[31m" not in out.getvalue()
    assert [len(line) <= 23 for line in lines(out)] == [True] * 3
    assert len(lines(out)[1]) == 11  # each of them is two columns wide
