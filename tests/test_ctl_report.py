"""What a rehearsal found, as people read it."""

from __future__ import annotations

import sys

import pytest
from click.testing import CliRunner

from streamd import ctl, ctl_report
from tests.fake_admin import FAILED_REPORT, REPORT, SAME_REPORT, SHOW_REHEARSED, FakeAdmin


@pytest.fixture
def typed(tmp_path):
    fake = FakeAdmin(tmp_path / "admin.sock")
    yield lambda *words: CliRunner().invoke(ctl.cli, ["--admin", fake.path, *words])
    fake.close()


def test_check_is_a_row_for_each_session_then_what_differs_then_the_sentence(typed):
    result = typed("check", "differs.py")
    lines = result.stdout.splitlines()
    assert result.exit_code == 0
    assert lines[0].split() == "SESSION REL MIGRATED UP MS DOWN MS EVENTS DIFFER GROWTH CURED TEXT".split()
    # what has something to say comes first
    assert lines[1].split(None, 10) == [
        *("live/studio1", "1", "yes", "0.21", "0.18", "412", "2", "2.0", "kB", "1"),
        "SendAll to flv/video has 1,204 bytes, and had 1,190",
    ]
    assert lines[2].split() == ["live/show", "1", "yes", "0.21", "0.18", "412", "0", "0", "0", "-"]
    assert lines[4] == "What the new code does differently:"
    assert lines[6].split(None, 2) == ["live/studio1", "Data", "SendAll has 1,204 bytes, and had 1,190"]
    assert lines[-3].startswith(
        "824 events replayed in 2 sessions and 24 made-up events tried, 2 differences, 1 cured, steps take 1.02 times"
    )
    assert lines[-1].startswith("fits release 2")


def test_a_failure_has_the_traceback_the_event_and_the_state_that_caused_it(typed):
    result = typed("check", "fails.py")
    assert result.exit_code == 1
    assert result.stderr == "Refused at rehearse: live/studio1: KeyError: 'sps'\n"
    lines = result.stdout.splitlines()
    assert lines[1].split()[:3] == ["live/studio1", "1", "NO"]
    at = lines.index("live/studio1: upgrade raised KeyError: 'sps'")
    assert lines[at + 3] == '        return {"sps": old["sps"]}'
    assert lines[at + 4] == "                       ~~~^^^^^^^"
    assert [line.split() for line in lines[at + 6 : at + 8]] == [["event"], ["is", "Data"]]
    assert [*map(str.split, lines)][lines.index("  state") + 1] == ["@", "media.h264:Track"]
    assert lines[lines.index("  state") + 3].endswith("5 \ufffd")


def test_a_long_traceback_and_a_large_state_are_cut_where_it_matters_least(capsys):
    failure = {
        "name": "live/show",
        "sentence": "it failed",
        "traceback": [f"line {n}\n" for n in range(100)],
        "state": {"rows": {f"key{n}": "x" * 1000 for n in range(100)}},
    }
    ctl_report.wrong({"failures": [failure]})
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:3] == ["    ...", "    line 86"]
    assert "    line 99" in lines
    assert "    and 84 more values: see --json" in lines
    assert max(map(len, lines)) == ctl_report.LINE_WIDTH


def test_of_a_whole_session_the_records_of_the_module_that_failed_are_shown(capsys):
    track = {"@": "media.h264:Track", "config": "0142c01e"}
    state = {"@": "handlers.broadcast:Broadcast", "name": "live/show", "tracks": [{"video": track}]}
    ctl_report.wrong({"failures": [{**FAILED_REPORT["failures"][0], "state": state}]})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[lines.index("  state.tracks[0].video") + 1 :]] == [
        ["@", "media.h264:Track"],
        ["config", "0142c01e"],
        [],
    ]


def test_on_a_terminal_sessions_with_nothing_to_say_fill_a_screen_and_no_more(monkeypatch, capsys):
    found = {"sessions": [{**SHOW_REHEARSED, "name": f"live/{n}"} for n in range(100)]}
    found["sessions"][70] |= {"ok": False, "why": "KeyError"}
    ctl_report.report(found)
    assert len(capsys.readouterr().out.splitlines()) > 100
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    ctl_report.report(found)
    lines = capsys.readouterr().out.splitlines()
    assert "live/70" in lines[1]
    assert "KeyError" in lines[2]
    assert "and 79 more, all migrated" in lines


def test_more_differences_than_are_shown_are_counted(capsys):
    ctl_report.wrong({**REPORT, "different": 1002})
    assert "and 1,000 more" in capsys.readouterr().out


def test_a_session_that_became_slow_says_so():
    assert ctl_report._row({**SHOW_REHEARSED, "slower": 12.34})[-1] == "steps take 12.3 times as long"


def test_plan_says_what_would_happen_in_its_order(typed):
    out = typed("plan", "a.py").stdout
    lines = out.splitlines()
    assert lines[1].split() == ["media.h264", "1", "->", "2"]
    assert lines[2].split() == ["media.av2", "new", "->", "1"]
    assert ["live/show", "1", "2", "0.31"] in [line.split() for line in lines]
    assert ["live/final", "pinned", "2", "0.00"] in [line.split() for line in lines]
    assert "shadowed: media.h264.learn of codec_fix.py is replaced" in lines
    assert "leftover: old_fix.py: the running release has it already; delete it" in lines
    assert lines[-1] == "would make a release of 2 and move 1 session."


def test_figures_of_nothing_are_left_out():
    assert ctl_report.summary({}) == ""
    assert ctl_report.summary({"not_replayed": 1}) == "1 session not replayed."
    assert ctl_report.summary({"tried": 1}) == "1 made-up event tried."
    told = ctl_report.summary({"events": 7, "replayed": 1, "tried": 20, "not_tried": 3})
    assert (
        told == "7 events replayed in 1 session and 20 made-up events tried, not all of those in 3 sessions."
    )
    assert "steps take" not in ctl_report.summary({**SAME_REPORT, "replayed": 0})
    assert "failures" in FAILED_REPORT


@pytest.mark.parametrize(
    ("pauses", "line"),
    [
        ([], ""),
        ([("a", 0.1)], "pauses     a 0.10 ms"),
        (
            [(f"s{n}", n / 10) for n in range(7)],
            "pauses     s6 0.60 ms, s5 0.50 ms, s4 0.40 ms, s3 0.30 ms, s2 0.20 ms and 2 more",
        ),
    ],
)
def test_the_longest_pauses_are_said(pauses, line):
    assert ctl_report.pauses({"pauses": [{"name": name, "ms": ms} for name, ms in pauses]}) == line


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (12, "12 B"), (3100, "3.1 kB"), (-2e6, "-2.0 MB"), (5e9, "5.0 GB"), (512_300, "512 kB")],
)
def test_sizes_are_short(count, text):
    assert ctl_report.size(count) == text
