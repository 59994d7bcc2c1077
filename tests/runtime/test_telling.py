"""An exception in words: whatever it is, and without a step of code of its own."""

from __future__ import annotations

import json
from time import monotonic
from typing import Any

import pytest

from streamd.runtime import telling
from streamd.runtime.preview import plain
from streamd.runtime.supervisor import CrashReports

LIVE = """
class Silent(Exception):
    pass

class Unspeakable(Exception):
    def __str__(self):
        while True:
            pass

class Twice(Exception):
    def __str__(self):
        raise self
    __repr__ = __str__

class Again(Twice):
    pass

class Odd:
    def __repr__(self):
        while True:
            pass

class Words(str):
    def __getitem__(self, key):
        raise SystemExit

class Novel(ValueError):
    pass

def learn(error):
    raise error

def deep():
    deep()
"""
CODE: dict[str, Any] = {"__name__": "live@9.media.h264"}
exec(compile(LIVE, "live@9/media/h264.py", "exec"), CODE)
TOLD = [
    (ValueError("no such thing"), "ValueError: no such thing"),
    (ValueError(), "ValueError"),
    (KeyError("a"), "KeyError: 'a'"),
    (OSError(2, "No such file", "/x"), "FileNotFoundError: [Errno 2] No such file: '/x'"),
    (ValueError("no " * (16 << 20)), f"ValueError: {('no ' * 200)[:400]}..."),
    (KeyError("no " * (16 << 20)), f"KeyError: {('no ' * 200)[:400]}..."),
    (ValueError(10**5000), "ValueError"),
    (ValueError("\ud800"), "ValueError: \\ud800"),
    (ValueError([[1], 2], "b"), "ValueError: <list>, b"),
    (ValueError(CODE["Odd"]()), "ValueError: <Odd>"),
    (ValueError(CODE["Words"]("x")), "ValueError: <Words>"),
    (CODE["Silent"]("a"), "Silent: a"),
    (CODE["Unspeakable"]("a", 1, None, b"x", 2), "Unspeakable: a, 1, None, b'x', ..."),
    (CODE["Twice"](), "Twice"),
    (CODE["Again"]("a"), "Again: a"),
    (CODE["Novel"]("a"), "Novel: a"),
]


@pytest.mark.parametrize(("error", "told"), TOLD, ids=lambda item: type(item).__name__)
def test_an_exception_is_told_without_its_help(error, told):
    began = monotonic()
    assert telling.told(error) == told
    assert monotonic() - began < 1


@pytest.mark.parametrize("error", [error for error, _ in TOLD], ids=lambda item: type(item).__name__)
def test_a_report_of_it_is_short_and_says_where_in_live_code_it_was(tmp_path, error):
    with pytest.raises(type(error)) as raised:
        CODE["learn"](error)
    assert telling.placed(raised.value) == f"{telling.told(error)} (media.h264:31 in learn)"
    began = monotonic()
    facts = {"state": {"odd": error, "more": [CODE["Odd"]()]}}
    path = CrashReports(tmp_path).write("live/a", error, facts)
    assert monotonic() - began < 1
    assert path is not None
    assert path.stat().st_size < 10_000
    report = json.loads(path.read_text())
    assert report["reason"] == telling.told(error)
    assert report["state"] == {"odd": f"<{type(error).__name__}>", "more": ["<Odd>"]}


def test_a_traceback_is_that_of_the_interpreter_but_bounded():
    try:
        try:
            CODE["learn"](KeyError("a"))
        except KeyError as cause:
            raise ValueError("b") from cause
    except ValueError as error:
        text = "".join(telling.frames(error))
    first, second = text.split("\nThe above exception was the direct cause of the following exception:\n\n")
    assert first.startswith("Traceback (most recent call last):\n  File ")
    assert "File \"live@9/media/h264.py\", line 31, in learn\nKeyError: 'a'\n" in first
    assert second.endswith("ValueError: b\n")
    with pytest.raises(RecursionError) as raised:
        CODE["deep"]()
    assert len("".join(telling.frames(raised.value))) < 5000


def test_exceptions_that_stand_behind_each_other_in_a_ring_end():
    one, other = ValueError("1"), ValueError("2")
    one.__context__, other.__context__ = other, one
    assert "".join(telling.frames(one)).count("ValueError") == 2


class Named(tuple):
    _fields = ("a",)

    def _asdict(self):
        raise SystemExit


def test_nothing_that_a_report_shows_runs_code_of_its_own():
    assert plain(CODE["Words"]("x" * 10)) == "x" * 10
    assert plain({CODE["Words"]("key"): 1, 2: 3}) == {"key": 1, "2": 3}
    assert plain(Named((1,))) == "<Named>"
    assert plain(10**5000) == "a number of 16610 bits"
