"""The history tells what happened, and shows at which line somebody else has written in it."""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from streamd.runtime import history
from streamd.runtime.history import History


@pytest.fixture
def made(tmp_path):
    """Five entries."""
    made = History(tmp_path / "history.jsonl")
    for number in range(1, 6):
        made.note({"verb": "load", "release": number, "text": "ä \n \u2028"})
    return made


def lines(made) -> list[bytes]:
    return made.path.read_bytes().splitlines()


def write(made, *lines: bytes) -> None:
    made.path.write_bytes(b"".join(line + b"\n" for line in lines))


def sha256(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def test_each_line_names_the_one_before_it(made):
    written = lines(made)
    assert [json.loads(line)["prev"] for line in written] == ["", *map(sha256, written[:-1])]
    found = made.verify()
    assert found == (5, [], sha256(written[-1]), [], 0)
    assert found.sentence() == (
        f"5 entries, each chained to the one before; the last has the sha256 {sha256(written[-1])}"
    )


def test_entries_of_several_threads_are_one_chain(made):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: made.note({"verb": "stop", "number": number}), range(40)))
    assert made.verify()[:2] == (45, [])


def test_nothing_yet_is_an_empty_history(tmp_path):
    made = History(tmp_path / "history.jsonl")
    assert made.entries() == []
    assert made.verify() == (0, [], "", [], 0)
    assert made.verify().sentence() == "the history is empty"
    assert not made.path.exists()
    assert made.verify("ab").problems == ["no line has the sha256 ab: the end was cut off, or written anew"]


def test_what_a_caller_says_of_prev_and_at_does_not_break_the_chain(made):
    made.note({"verb": "load", "prev": "x", "at": "noon"})
    assert made.verify().problems == []
    assert made.entries(1)[0]["at"] == "noon"


def changed(line: bytes) -> bytes:
    return line.replace(b'"load"', b'"keep"')


def forged(line: bytes, before: bytes) -> bytes:
    """A line that follows from the one before it as it now is."""
    return json.dumps({**json.loads(line), "prev": sha256(before)}).encode()


@pytest.mark.parametrize(
    ("what", "place"),
    [
        (lambda one, two, three, four, five: [one, changed(two), three, four, five], "line 3 "),
        (lambda one, two, three, four, five: [changed(one), two, three, four, five], "line 2 "),
        (lambda one, two, three, four, five: [one, three, four, five], "line 2 "),
        (lambda one, two, three, four, five: [two, three, four, five], "line 1 "),
        (lambda one, two, three, four, five: [one, two, two, three, four, five], "line 3 "),
        (lambda one, two, three, four, five: [one, three, two, four, five], "line 2 "),
        (lambda one, two, three, four, five: [one, two, b'{"verb": "x"}', three, four, five], "line 3 "),
        (lambda one, two, three, four, five: [one, two, b"torn", three, four, five], "line 4 "),
        (lambda one, two, three, four, five: [one, b"torn", three, four, five], "line 3 "),
        (lambda one, two, three, four, five: [one, two, three + b" ", four, five], "line 4 "),
        (lambda one, two, three, four, five: [one, two, three, four + b"\r", five], "line 5 "),
        (lambda one, two, three, four, five: [five], "line 1 "),
        (lambda one, two, three, four, five: [one, forged(changed(two), one), three, four, five], "line 3 "),
        (lambda one, two, three, four, five: [b'{"verb": "x"}', one, two, three, four, five], "line 2 "),
    ],
)
def test_a_line_that_was_changed_taken_out_or_put_in_breaks_the_chain_there(made, what, place):
    write(made, *what(*lines(made)))
    problems = made.verify().problems
    assert problems
    assert problems[0].startswith(place)
    made.note({"verb": "load"})
    assert made.verify().problems == problems  # going on does not mend it
    assert made.verify().sentence().startswith(f"the history is not as it was written: {place}")


def test_any_single_byte_is_noticed_unless_it_is_in_the_last_line(made):
    raw = made.path.read_bytes()
    head = made.verify().head
    last = raw.rindex(b"\n", 0, -1) + 1
    for place in range(0, len(raw) - 1, 7):
        made.path.write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
        assert made.verify().problems or place >= last, place
        assert made.verify(head).problems, place


def test_an_end_that_was_cut_off_or_written_anew_is_seen_by_who_noted_the_head(made):
    head = made.verify().head
    one, two, three, four, five = lines(made)
    made.note({"verb": "rollback"})
    assert made.verify(head).problems == []
    write(made, one, two, three, four)
    assert made.verify().problems == []
    assert made.verify(head).problems == [
        f"no line has the sha256 {head}: the end was cut off, or written anew"
    ]
    four = forged(changed(four), three)
    write(made, one, two, three, four, forged(five, four))
    assert made.verify().problems == []
    assert len(made.verify(head).problems) == 1


@pytest.mark.parametrize(
    "torn", [b'{"at": "2026', b'{"at": "\xc3', b"\xff\xfe\0", b"\0" * 4096, b"[1]\n", b"7\n", b"[" * 100_000]
)
def test_a_torn_line_is_told_and_the_chain_goes_on_over_it(made, torn):
    with made.path.open("ab") as file:
        file.write(torn)
    assert made.verify().problems == []
    for _ in range(2):
        made.note({"verb": "rollback"})
    found = made.verify()
    assert (found.entries, found.problems, len(found.torn)) == (7, [], 1)
    assert found.torn[0].startswith("line 6 is torn: ")
    assert "a crash left 1 torn: line 6 is torn" in found.sentence()
    assert [item["verb"] for item in made.entries(3)] == ["load", "rollback", "rollback"]


def test_a_cut_at_every_byte_leaves_a_history_that_goes_on(made):
    raw, last = made.path.read_bytes(), lines(made)[-1]
    whole = len(raw) - len(last) - 1  # up to here the line before is
    for end in range(whole, len(raw)):
        made.path.write_bytes(raw[:end])
        made.note({"verb": "start"})
        found = made.verify()
        assert found.problems == []
        assert len(found.torn) == (whole < end < len(raw) - 1)
        assert [item["verb"] for item in made.entries()] == ["load"] * (found.entries - 1) + ["start"]
        assert found.entries == 6 - len(found.torn) - (end == whole)


def test_empty_lines_mean_nothing(made):
    made.path.write_bytes(b"\n\n" + made.path.read_bytes().replace(b"\n", b"\n\n"))
    assert made.verify().problems == []
    made.note({"verb": "load"})
    assert made.verify().problems == []


def test_lines_from_before_there_was_a_chain_stand_at_the_beginning_only(made):
    one, *_ = lines(made)
    old = [b'{"verb": "load", "release": 1}', b'{"verb": "keep"}']
    write(made, *old)
    assert made.verify()[:2] == (2, [])
    made.note({"verb": "load"})
    found = made.verify()
    assert (found.entries, found.problems, found.unchained) == (3, [], 2)
    assert "the first 2 are from before there was a chain" in found.sentence()
    write(made, *lines(made), old[0])
    assert made.verify().problems == ["line 4 (load ?) is not chained to the one before: it was put in"]
    write(made, old[0], one)
    assert made.verify().problems[0].startswith("line 2 (load ")


def test_lines_of_any_length_are_chained(made, monkeypatch):
    monkeypatch.setattr(history, "BLOCK", 7)
    for size in (0, 1, 6, 7, 8, 100, 70_000):
        made.note({"verb": "load", "paths": ["x" * size]})
    assert made.verify()[:2] == (12, [])


def test_many_problems_are_told_in_one_sentence_of_bearable_length(made):
    write(made, *(line for line in lines(made) for _ in range(3)))
    found = made.verify()
    assert len(found.problems) == 10
    assert found.sentence().endswith("; and 7 more")


def test_nothing_is_written_through_a_link_or_into_a_pipe(tmp_path):
    target = tmp_path / "precious"
    target.write_text("mine\n")
    link = History(tmp_path / "link.jsonl")
    link.path.symlink_to(target)
    pipe = History(tmp_path / "pipe.jsonl")
    os.mkfifo(pipe.path)
    for made in (link, pipe):
        with pytest.raises(OSError):
            made.note({"verb": "load"})
        with pytest.raises(OSError):
            made.entries()
    assert target.read_text() == "mine\n"


def test_nobody_else_may_read_or_write_it(made):
    assert made.path.stat().st_mode & 0o137 == 0
