"""Source text: parsed, cut into lines, pointed at."""

from __future__ import annotations

import ast
import time

import pytest

from streamd.runtime.source import (
    DEEPEST,
    PatchError,
    error_at,
    imports_of,
    lines_of,
    live_imports,
    parse,
    versions_of,
)


def shown(text: str, place: str) -> str:
    """What is said of the first name `place` in the text."""
    node = next(node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name) and node.id == place)
    return str(error_at("a.py", text, node, "no"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = here\n", "a.py:1: no\n    x = here\n        ^"),
        ("if 1:\n    x = here\n", "a.py:2: no\n    x = here\n        ^"),
        ("if 1:\n\tx =\there\n", "a.py:2: no\n    x =\there\n       \t^"),
        ("x = 'é€' + here\n", "a.py:1: no\n    x = 'é€' + here\n               ^"),
        ("'\x85\u2028'; x = here", "a.py:1: no\n    '\x85\u2028'; x = here\n              ^"),
    ],
    ids=["plain", "indented", "tab", "wide characters", "odd line ends"],
)
def test_a_caret_stands_below_what_is_meant(text, expected):
    assert shown(text, "here") == expected


def test_of_a_long_line_the_part_around_the_place_is_shown():
    line, caret = shown("x = " + "1 + " * 50 + "here + " + "1 + " * 50 + "1\n", "here").splitlines()[1:]
    assert line[caret.index("^") :].startswith("here")
    assert len(line) < 130


def test_a_place_without_a_line_is_told_without_one():
    assert str(error_at("a.py", "x\n", ast.parse("x"), "no")) == "a.py: no"


def test_a_syntax_error_is_shown_where_it_is():
    with pytest.raises(PatchError) as refused:
        parse("a.py", "if 1:\n    def f(:\n")
    assert str(refused.value) == "a.py:2: invalid syntax\n    def f(:\n          ^"


def test_what_is_too_deep_to_be_walked_is_refused_at_its_line():
    assert parse("a.py", "x = " + "1 + " * (DEEPEST - 20) + "1\n")
    with pytest.raises(PatchError, match=r"a.py:1: nested more than 200 levels deep"):
        parse("a.py", "x = " + "1 + " * DEEPEST + "1\n")


def test_a_large_module_is_looked_through_in_no_time():
    text = "def f(x):\n    return [x.a[1] + 2 for _ in x]\n\n\n" * 2000
    started = time.process_time()
    parse("a.py", text)
    assert time.process_time() - started < 2.0


def test_lines_are_those_of_the_syntax_tree():
    assert lines_of("a\x0cb\u2028c\nd") == ["a\x0cb\u2028c\n", "d"]


def test_versions_are_what_the_texts_say():
    texts = {
        "a": "VERSION = 3  # cured\n",
        "b": '"""\nVERSION = 9\n"""\nVERSION: int = 2\n',
        "c": "",
        "d": "VERSION = 'x'\n",
    }
    assert versions_of(texts) == {"a": 3, "b": 2}
    with pytest.raises(PatchError, match=r"media.a:1: "):
        versions_of({"media.a": "("})


@pytest.mark.parametrize(
    ("line", "imports", "modules"),
    [
        ("from streamd.live.media import h264, flv", [("media", "h264"), ("media", "flv")], ["media.h264"]),
        ("from streamd.live.media.h264 import learn", [("media.h264", "learn")], ["media.h264"]),
        ("from streamd.live import media", [("", "media")], []),
        ("from streamd.runtime.state import state", [], []),
        ("import streamd.live.media.h264", [], []),
        ("from .media import h264", [], []),
    ],
)
def test_imports_of_live_code_are_read_from_a_statement(line, imports, modules):
    (node,) = ast.parse(line).body
    assert live_imports(node) == imports
    assert imports_of(node, frozenset({"media.h264"})) == modules
