"""streamd-ctl against a fake admin socket: requests, output, exit codes, completion."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
from datetime import datetime

import pytest
from click.testing import CliRunner

from streamd import ctl, ctl_show, ctl_wire
from tests.fake_admin import (
    BROADCAST,
    CARET,
    DIFFERENT,
    HISTORY,
    LOADED,
    PROBATION,
    REFUSAL,
    STATUS,
    FakeAdmin,
)


@pytest.fixture
def server(tmp_path):
    fake = FakeAdmin(tmp_path / "admin.sock")
    yield fake
    fake.close()


@pytest.fixture
def typed(server):
    """Type a command line; --admin is understood."""

    def typed(*words: str, admin: str = server.path):
        return CliRunner().invoke(ctl.cli, ["--admin", admin, *words])

    return typed


@pytest.mark.parametrize(
    ("words", "verb", "args"),
    [
        (["load", "patches/a.py", "b"], "load", {"paths": ["patches/a.py", "b"]}),
        (["check", "../a.py"], "check", {"paths": ["../a.py"]}),
        (["check", "--shadow", "1min", "a.py"], "check", {"paths": ["a.py"], "shadow": 60.0}),
        (["plan", "a.py"], "plan", {"paths": ["a.py"]}),
        (["pin", "live/show"], "pin", {"name": "live/show"}),
        (["unpin", "show"], "unpin", {"name": "show"}),
        (["rollback"], "rollback", {"to": None}),
        (["rollback", "--to", "3"], "rollback", {"to": 3}),
        (["keep"], "keep", {}),
        (["status"], "status", {}),
        (["sessions"], "sessions", {"name": None}),
        (["sessions", "live/show"], "sessions", {"name": "live/show"}),
        (["trace", "live/show"], "trace", {"name": "live/show"}),
        (["diff"], "diff", {"from": None, "to": None}),
        (["diff", "1", "2"], "diff", {"from": 1, "to": 2}),
        (["history"], "history", {"last": 20}),
        (["history", "--last", "5"], "history", {"last": 5}),
        (["history", "--verify"], "history", {"last": 20, "verify": True}),
        (["new-patch", "media.h264"], "new-patch", {"module": "media.h264"}),
        (["purge"], "purge", {}),
        (["stop"], "stop", {}),
    ],
)
def test_every_verb_sends_its_request_and_prints_one_json_object_wherever_json_stands(
    server, typed, words, verb, args
):
    for line in (["--json", *words], [words[0], "--json", *words[1:]], [*words, "--json"]):
        result = typed(*line)
        answer = server.records(verb, args)[-1]
        assert json.loads(result.stdout) == answer
        assert result.exit_code == (0 if answer["ok"] else 1)
        expected = {"v": 1, "verb": verb, "args": args, "cwd": os.getcwd(), "json": True}
        assert server.requests.pop() == expected
        assert result.stderr == ""


def test_without_json_the_servers_sentence_is_printed(server, typed):
    result = typed("load", "codec_fix.py")
    assert (result.exit_code, result.stdout, result.stderr) == (0, LOADED["text"] + "\n", "")
    assert server.requests[0]["json"] is False


def test_a_refusal_goes_to_stderr_with_its_stage_and_exits_with_1(typed):
    result = typed("check", "bad.py")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"Refused at read: {REFUSAL['error']}\n"


@pytest.mark.parametrize(
    ("flags", "args"),
    [
        ("--accept-differences --wait", {"accept_differences": True, "wait": True}),
        ("--shadow 10 --probation 2min", {"shadow": 10.0, "probation": 120.0}),
        ("--probation 0", {"probation": 0.0}),
        ("--only live/a* --only live/b", {"only": ["live/a*", "live/b"]}),
        ("--percent 10", {"percent": 10.0}),
        ("--waves 1,10%,100 --bake 30s", {"waves": [1.0, 10.0, 100.0], "bake": 30.0}),
        ("--at keyframe --max-pause 10ms", {"at": "keyframe", "max_pause": 10.0}),
        ("--max-pause 0.5s", {"max_pause": 500.0}),
        ("--irreversible old-state-is-wrong", {"irreversible": "old-state-is-wrong"}),
    ],
)
def test_every_flag_of_load_is_sent_as_it_was_meant_and_no_other(server, typed, flags, args):
    assert typed("load", "a.py", *flags.split()).exit_code == 0
    assert server.requests.pop()["args"] == {"paths": ["a.py"], **args}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 30),
        ("30s", 30),
        (" 30 s ", 30),
        ("1.5min", 90),
        ("2m", 120),
        ("1H", 3600),
        ("250ms", 0.25),
        (".5s", 0.5),
    ],
)
def test_a_time_is_written_as_people_write_it(text, seconds):
    assert ctl.seconds(text) == seconds


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("load a.py --shadow soon", "'soon' is no time; write 30s, 500ms, 2min or 1h."),
        ("load a.py --shadow -1", "'-1' is no time"),
        ("load a.py --shadow 2days", "'2days' is no time"),
        ("load a.py --probation 25h", "'25h' is longer than a day."),
        ("load a.py --max-pause 10", "'10' has no unit; write 10ms or 10s."),
        ("load a.py --waves 10,1", "each wave is larger than the one before"),
        ("load a.py --waves 1,101", "the last at most 100: 1,10,100."),
        ("load a.py --waves all", "'all' are no waves; write growing percentages, as in 1,10,100."),
        (
            "load a.py --percent 10 --waves 1,10",
            "--percent is one wave and --waves are several: give one of them.",
        ),
        ("load a.py --bake 30s", "--bake is the time between --waves; for a single move it is --probation."),
        ("plan a.py --wait", "No such option"),
        ("check a.py --percent 3", "No such option"),
    ],
)
def test_a_flag_that_makes_no_sense_is_refused_with_what_to_write(server, typed, line, sentence):
    result = typed(*line.split())
    assert (result.exit_code, server.requests) == (2, [])
    assert sentence in " ".join(result.stderr.split())


def test_an_irreversible_release_needs_a_reason(server, typed):
    result = typed("load", "a.py", "--irreversible", " ")
    assert (result.exit_code, server.requests) == (2, [])
    assert "say why, in a sentence" in result.stderr


WRONG_LINES = (
    "",
    "lod",
    "load",
    "diff 1",
    "diff 1 2 3",
    "diff a b",
    "rollback --to x",
    "trace",
    "new-patch",
    "completion tcsh",
    "--timeout 0 status",
)


@pytest.mark.parametrize("line", WRONG_LINES)
def test_a_wrong_command_line_exits_with_2_and_asks_nobody(server, typed, line):
    assert typed(*line.split()).exit_code == 2
    assert server.requests == []


def test_status_shows_releases_sessions_and_what_to_type_next(typed):
    out = typed("status").stdout
    assert "streamd 1.0.0, process 4242, up 2 h 1 min. rtmp 0.0.0.0:1935, http 0.0.0.0:8080." in out
    assert "a restart boots release 1. To change that: streamd-ctl keep" in out
    rows = {line.split()[0]: line for line in out.splitlines() if "  " in line}
    assert "kept leaving" in rows["1"]
    assert "as shipped" in rows["1"]
    assert all(word in rows["2"] for word in ("running", "media.h264@2", "codec_fix.py", "root"))
    assert all(
        word in rows["live/show"] for word in ("192.0.2.7:51234", "42", "2510", "h264 1280x720", "1 d 2 h")
    )
    assert "door/17" not in rows
    assert "1 connection at the door." in out


def test_status_of_a_quiet_server(server, typed):
    server.answers["status"] = [{**STATUS, "kept": 2, "sessions": []}]
    out = typed("status").stdout
    assert "Release 2 runs; a restart boots release 2.\n" in out
    assert "Nobody publishes." in out


def test_status_tells_of_a_probation_mixed_releases_pins_and_what_no_rollback_crosses(server, typed):
    releases = [
        STATUS["releases"][0],
        {**STATUS["releases"][1], "irreversible": "the old ring is gone", "differs": "it answers HEAD"},
    ]
    server.answers["status"] = [
        {**STATUS, "releases": releases, "probation": PROBATION, "mixed": True, "pins": ["live/show"]}
    ]
    out = typed("status").stdout
    assert (
        "Release 2 is on probation, wave 1 of 3: 21 s left of 30 s, 2 sessions guarded by release 1, 4,021 events.\n"
        "2 differences; the first: live/show, Data: SendAll has 12 bytes, and had 14\n" in out
    )
    assert "Sessions are on several releases" in out
    assert "Pinned to their releases: live/show." in out
    assert "No rollback crosses release 2: the old ring is gone" in out
    assert "Release 2 is meant to act differently: it answers HEAD" in out
    assert "2 pinned" in out
    assert "streamd-ctl keep" not in out  # not while it is on probation


def test_of_the_releases_that_are_only_on_disk_the_latest_are_shown(server, typed):
    old = [{**STATUS["releases"][0], "number": n, "state": "stored"} for n in range(100, 120)]
    server.answers["status"] = [{**STATUS, "releases": [*old, *STATUS["releases"]], "doors": 5}]
    out = typed("status").stdout
    assert [n for n in range(100, 120) if f"\n{n} " in out] == list(range(112, 120))
    assert "and 12 older on disk" in out
    assert "5 connections at the door." in out


def test_one_session_in_detail_without_anything_a_terminal_would_obey(server, typed):
    peers = [{"link": 3, "peer": "192.0.2.9:1", "lag_ms": 12}]
    server.answers["sessions"] = [{"ok": True, "sessions": [{**BROADCAST, "peers": peers}]}]
    out, _, table = typed("sessions", "live/show").stdout.partition("\npeers\n")
    lines = dict(line.split(None, 1) for line in out.splitlines())
    assert lines["viewers_by.flv"] == "30"
    assert lines["publisher.encoder"] == "OBS"
    assert [line.split() for line in table.splitlines()] == [
        ["LINK", "PEER", "LAG_MS"],
        ["3", "192.0.2.9:1", "12"],
    ]
    assert lines["title"] == "5 \ufffd [red]\ufffd[31m"


def test_json_keeps_every_character_of_a_title_but_shows_a_terminal_none_to_obey(typed):
    out = typed("--json", "status").stdout
    assert not [c for c in out if ord(c) < 32 and c != "\n"]
    assert "\x80" not in out
    assert json.loads(out)["sessions"][0]["title"] == BROADCAST["title"]


def test_trace_history_and_diff_are_tables_and_text(typed):
    assert typed("trace", "live/show").stdout.splitlines()[1].split(None, 4) == [
        "1",
        "Data",
        "3",
        "1400",
        "SendAll, Send",
    ]
    line = typed("history").stdout.splitlines()[1]
    assert all(word in line for word in ("root", "load", "codec_fix.py", "loaded", "cdcdcdcdcdcd"))
    assert typed("diff").stdout.splitlines()[-1] == "+VERSION = 2"


@pytest.fixture
def two_hours_east(monkeypatch):
    monkeypatch.setenv("TZ", "UTC-2")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_times_are_local_and_short_and_have_the_year_only_where_it_is_another(two_hours_east):
    year = datetime.now().year
    assert ctl_show.moment(f"{year}-06-20T23:22:05.120+00:00") == "06-21 01:22:05"
    assert ctl_show.moment("2020-11-20T13:22:05+00:00") == "2020-11-20 15:22:05"
    assert ctl_show.clock("2026-11-20T13:22:05.120+00:00") == "15:22:05.120"
    assert (ctl_show.moment(None), ctl_show.moment("soon"), ctl_show.clock(7)) == (None, "soon", 7)


def test_a_trace_shows_the_clock(server, typed, two_hours_east):
    event = {"at": "2026-11-20T13:22:05.120+00:00", "kind": "Data"}
    server.answers["trace"] = [{"ok": True, "name": "live/show", "events": [event]}]
    assert typed("trace", "live/show").stdout.splitlines()[1].split()[:2] == ["15:22:05.120", "Data"]


def test_a_verified_history_says_so_and_a_broken_one_exits_with_1(server, typed):
    sound = {"entries": 42, "problems": [], "head": "ab" * 32}
    server.answers["history"] = [{**HISTORY, "verified": sound, "text": "42 entries, each chained."}]
    result = typed("history", "--verify")
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, "42 entries, each chained.")
    problems = ["line 3 does not follow from line 2", "line 7 is missing"]
    broken = {"ok": False, "stage": "history", "error": "it is not as it was written."}
    server.answers["history"] = [{**HISTORY, **broken, "verified": {**sound, "problems": problems}}]
    result = typed("history", "--head", "cd" * 32)
    assert server.requests.pop()["args"] == {"last": 20, "verify": True, "head": "cd" * 32}
    assert result.exit_code == 1
    assert "codec_fix.py" in result.stdout
    assert result.stdout.splitlines()[-2:] == problems
    assert result.stderr == "Refused at history: it is not as it was written.\n"


def test_a_source_line_with_its_caret_is_printed_as_it_comes(typed):
    result = typed("load", "crooked.py")
    assert result.exit_code == 1
    assert result.stderr == f"Refused at merge: {CARET['error']}\n"
    assert result.stderr.splitlines()[2].endswith("             ^")


def test_source_that_reads_otherwise_than_it_runs_is_shown_as_what_it_is(server, typed):
    server.answers["diff"] = [{"ok": True, "text": "+if a: \u202e# }\u2066"}]
    assert typed("diff").stdout == "+if a: \ufffd# }\ufffd\n"
    assert "\\u202e" in typed("--json", "diff").stdout


def test_a_probation_that_fails_exits_with_1_and_names_the_crash_report(typed):
    result = typed("load", "--wait", "raises.py")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Failed on probation: live/show: IndexError\nCrash report: /var/crash/7.json\n"


def test_where_nobody_can_be_asked_differences_are_a_refusal(server, typed):
    result = typed("load", "differs.py")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"Refused: {DIFFERENT['error']}\n"
    assert len(server.requests) == 1
    assert typed("load", "--accept-differences", "differs.py").exit_code == 0


def test_paths_are_shown_as_a_shell_takes_them(server, typed):
    server.answers["history"] = [{"ok": True, "entries": [{"paths": ["my patches/a.py", "b.py"]}]}]
    assert "'my patches/a.py', b.py" in typed("history").stdout
    assert typed("status", admin="/no where/a.sock").stderr.startswith("'/no where/a.sock': there is no such")


def test_nothing_to_diff_is_said(server, typed):
    server.answers["diff"] = [{"ok": True, "text": ""}]
    assert typed("diff").stdout == "No difference.\n"


# ---- no server -------------------------------------------------------------------------------------------


def test_no_socket_a_dead_one_and_a_path_too_long_exit_with_3_and_say_what_to_do(server, typed, tmp_path):
    server.close()
    for admin, sentence in (
        (str(tmp_path / "none.sock"), "there is no such socket. Is streamd running?"),
        (server.path, "the socket is left over and nobody listens. Start streamd again"),
        ("x" * 200, "Say where the server's socket is: streamd-ctl --admin PATH."),
    ):
        result = typed("status", admin=admin)
        assert (result.exit_code, result.stdout) == (3, "")
        assert result.stderr.startswith(admin)
        assert sentence in result.stderr
        answer = json.loads(typed("--json", "status", admin=admin).stdout)
        assert answer == {"ok": False, "stage": "connect", "error": result.stderr.strip()}


def test_a_socket_that_the_user_may_not_use_exits_with_3_and_says_what_to_do():
    script = (
        "import os, sys; from streamd.ctl import cli\n"
        "if os.getuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "cli(['--admin', sys.argv[1], 'status'])"
    )
    # not tmp_path: what lies below that is hidden from others, and only a socket they see can be refused
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX) as listener:
        os.chmod(directory, 0o755)
        path = os.path.join(directory, "a.sock")
        listener.bind(path)
        listener.listen()
        os.chmod(path, 0)
        done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == f"{path}: you may not use it. Join the group that owns it, or try sudo.\n"


def test_without_admin_the_usual_places_are_tried_and_named(monkeypatch, server):
    monkeypatch.delenv("STREAMD_ADMIN", raising=False)
    monkeypatch.setattr(ctl_wire, "find_admin_path", lambda env: None)
    result = CliRunner().invoke(ctl.cli, ["status"])
    assert result.exit_code == 3
    assert "there is no admin socket at " in result.stderr
    assert "/run/streamd/admin.sock" in result.stderr
    monkeypatch.setattr(ctl_wire, "find_admin_path", lambda env: server.path)
    assert CliRunner().invoke(ctl.cli, ["stop"]).stdout == "stopping.\n"
    monkeypatch.setenv("STREAMD_ADMIN", "/nowhere.sock")
    assert CliRunner().invoke(ctl.cli, ["status"]).stderr.startswith("/nowhere.sock: ")


@pytest.mark.parametrize(
    ("records", "sentence"),
    [
        ([None], "The server closed the connection before it answered."),
        (
            [{"progress": "moving", "done": 1, "of": 2}, None],
            "The server closed the connection before it answered.",
        ),
        (["wait"], "The server said nothing for 0.1 s (--timeout). It may still carry the request out"),
        ([b"\xc1HTTP"], "What answered there is not streamd's admin socket."),
        ([b"SSH-2.0"], "What answered there is not streamd's admin socket."),
    ],
)
def test_a_server_that_does_not_answer_exits_with_3(server, typed, records, sentence):
    server.answers["load"] = records
    result = typed("--timeout", "0.1", "load", "a.py")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.startswith(sentence)


def test_a_refusal_before_the_request_was_read_is_printed(server, typed):
    server.requests_of = lambda connection, unpacker: iter([{"verb": "check", "args": {"paths": ["bad.py"]}}])
    result = typed("load", "x" * 1_000_000)
    assert result.exit_code == 1
    assert REFUSAL["error"] in result.stderr


# ---- a terminal ------------------------------------------------------------------------------------------


# s: whatever says nothing for so long is not going to
HANGS = 20


def on_a_terminal(*words: str, columns: int = 160, typing: bytes = b"", code: int | None = None) -> str:
    """What a person sees: everything written to a pseudo-terminal, controls and all."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 30, columns, 0, 0))
    env = {**os.environ, "TERM": "xterm"}
    for name in ("NO_COLOR", "COLUMNS", "LINES"):
        env.pop(name, None)
    command = [sys.executable, "-m", "streamd.ctl", *words]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env) as process:
        os.close(theirs)
        os.write(ours, typing)
        seen = b""
        try:
            while select.select([ours], [], [], HANGS)[0] and (data := os.read(ours, 65_536)):
                seen += data
        except OSError:
            pass  # EIO: the other side is closed
        try:
            found = process.wait(HANGS)
        finally:
            process.kill()
    os.close(ours)
    assert code in (None, found)
    return seen.decode()


def on_screen(seen: str) -> list[str]:
    """The lines as they stay: what was written over is gone, and so are colours."""
    lines = [line.rpartition("\x1b[K")[2] for line in seen.replace("\r\n", "\n").split("\n") if line]
    return [line for line in (re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line).rstrip() for line in lines) if line]


def test_a_load_is_a_line_for_each_stage_and_ends_in_the_sentence(server):
    seen = on_a_terminal("--admin", server.path, "load", "a.py", "--wait")
    assert "rehearse   [##########..........]  1/2" in seen
    assert "probation  [####................]  8 s left" in seen
    assert [line.split()[0] for line in on_screen(seen)] == [
        *("read", "merge", "rehearse", "import", "move", "probation"),
        *("pauses", "release"),
    ]
    assert "rehearse   2/2           0.0 s" in on_screen(seen)
    assert "probation                0.0 s" in on_screen(seen)
    assert seen.endswith(f"\r\n{LOADED['text']}\r\n")


def test_a_refused_load_shows_what_failed_before_the_sentence(server):
    lines = on_screen(on_a_terminal("--admin", server.path, "load", "fails.py"))
    assert lines[2].endswith("failed")
    assert "live/studio1: upgrade raised KeyError: 'sps'" in lines
    assert any(line.strip() == "~~~^^^^^^^" for line in lines)
    assert lines[-1] == "Refused at rehearse: live/studio1: KeyError: 'sps'"


@pytest.mark.parametrize(
    ("typing", "code", "asked"), [(b"y\n", 0, 2), (b"\n", 1, 1), (b"no\n", 1, 1), (b"\x04", 1, 1)]
)
def test_on_a_terminal_differences_are_shown_and_asked_about(server, typing, code, asked):
    seen = on_a_terminal("--admin", server.path, "load", "differs.py", typing=typing, code=code)
    before, question, after = seen.partition("Load it all the same? [y/N]: ")
    assert question
    assert "SendAll has 1,204 bytes, and had 1,190" in before
    assert DIFFERENT["error"][:40] in before
    assert (LOADED["text"] if code == 0 else "Not loaded. Nothing was changed.") in after
    assert [request["args"].get("accept_differences") for request in server.requests] == [None, True][:asked]


@pytest.mark.parametrize("line", ["status", "check a.py", "load a.py --wait", "top"])
def test_no_table_and_no_stage_is_wider_than_80_columns(server, line):
    typing = b"q" if line == "top" else b""
    seen = on_a_terminal("--admin", server.path, *line.split(), columns=80, typing=typing)
    # a sentence is the terminal's to wrap
    assert max(len(line) for line in on_screen(seen) if not line.endswith(".")) <= 80


@pytest.mark.parametrize("columns", [80, 100])
def test_on_a_terminal_no_time_is_folded_and_the_text_of_history_stands_below_its_entry(server, columns):
    at = f"{datetime.now().year}-06-20T12:00:05.120+00:00"
    short = ctl_show.moment(at)
    text = "release 2 running. media.h264 1 -> 2. 0 sessions moved, longest pause 0.0 ms. " * 2
    paths = ["codec_fix.py", "euro_fix.py", "/srv/streamd/patches/of_the_day/a_long_name.py"]
    entry = {**HISTORY["entries"][0], "at": at, "paths": paths, "text": text}
    server.answers["history"] = [{"ok": True, "entries": [entry, entry]}]
    lines = on_a_terminal("--admin", server.path, "history", columns=columns).splitlines()
    assert max(len(line.rstrip()) for line in lines[1:]) <= columns
    first, second = (n for n, line in enumerate(lines) if line.startswith(short))
    entry_lines = [line.rstrip() for line in lines[first:second]]
    assert entry_lines[0].split()[2:4] == ["root", "load"]
    assert entry_lines[0].endswith("cdcdcdcdcdcd")
    below = [line for line in entry_lines if line.startswith("    ") and line[4] != " "]
    assert " ".join(map(str.strip, below)) == text.strip()

    server.answers["status"] = [{**STATUS, "releases": [{**r, "at": at} for r in STATUS["releases"]]}]
    assert on_a_terminal("--admin", server.path, "status", columns=columns).count(short) == 2


def test_a_diff_is_coloured(server):
    assert "\x1b[32m+VERSION = 2" in on_a_terminal("--admin", server.path, "diff")


def test_no_verb_loads_what_it_does_not_need(server):
    """Start-up time is imports: a tab key waits for this."""
    script = (
        "import sys; from streamd.ctl import cli\n"
        f"try: cli(['--admin', {server.path!r}, *sys.argv[1:]])\n"
        "finally: print(*sys.modules, file=sys.stderr)"
    )

    def modules(*words: str) -> set[str]:
        done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return set(done.stderr.split())

    heavy = {
        "asyncio",
        "aiohttp",
        "uvloop",
        "msgspec",
        "rich",
        "streamd.config",
        "streamd.runtime",
        "streamd.server",
    }
    assert heavy.isdisjoint(modules("load", "a.py"))
    assert heavy & modules("status") == {"rich"}


# ---- completion ------------------------------------------------------------------------------------------


@pytest.fixture
def tab(server, tmp_path, monkeypatch):
    """What the shell is offered after these words."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def tab(*words: str, admin: str = server.path) -> list[str]:
        line = ["streamd-ctl", "--admin", admin, *words]
        env = {**os.environ, "_STREAMD_CTL_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(line)}
        env["COMP_CWORD"] = str(len(line) - 1)
        done = subprocess.run(
            [sys.executable, "-c", "from streamd.ctl import main; main()"],
            env=env,
            capture_output=True,
            text=True,
        )
        assert done.stderr == ""
        return [offer.partition(",")[2] for offer in done.stdout.splitlines() if offer]

    return tab


def test_names_come_from_the_running_server(server, tab):
    assert tab("new-patch", "media.") == ["media.aac", "media.h264"]
    assert tab("sessions", "live/") == ["live/show"]
    assert tab("trace", "d") == ["door/17"]
    assert tab("rollback", "--to", "1") == ["1"]
    assert tab("pin", "live/") == ["live/show"]
    assert tab("load", "a.py", "--only", "live/") == ["live/show"]
    assert tab("load", "--at", "") == ["keyframe"]
    assert "--accept-differences" in tab("load", "--acc")
    server.answers["status"] = [{**STATUS, "pins": ["live/final"]}]
    assert tab("unpin", "live/") == ["live/final"]
    assert "rollback" in tab("ro")


def test_patches_come_from_here_and_from_the_servers_directory(tab):
    for name in ("eels.py", "notes.txt", ".hidden.py"):
        open(name, "w").close()
    os.makedirs("eastern/__pycache__")
    open("eastern/b.py", "w").close()
    assert tab("load", "e") == ["eastern/", "eels.py", "euro_fix.py"]
    assert tab("load", "eastern/") == ["eastern/b.py"]
    assert tab("sign", "e") == ["eastern/", "eels.py"]
    assert tab("plan", "eu") == ["euro_fix.py"]


def test_completion_without_a_server_offers_nothing_and_says_nothing(tab):
    assert tab("new-patch", "m", admin="/nowhere.sock") == []
    assert tab("sessions", "l", admin="/nowhere.sock") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_is_printed_for_each_shell(typed, server, shell):
    result = typed("completion", shell)
    assert result.exit_code == 0
    assert f"_STREAMD_CTL_COMPLETE={shell}_complete" in result.stdout
    assert server.requests == []


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (0.9, "0 s"), (61, "1 min 1 s"), (3600, "1 h"), (3601, "1 h 1 s"), (93_784, "1 d 2 h")],
)
def test_times_are_said_in_their_two_largest_units(seconds, words):
    assert ctl_show.span(seconds) == words
