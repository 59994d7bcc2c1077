"""What goes to the process that rehearses, and the page that tells what it was at."""

from __future__ import annotations

import marshal
import mmap
from typing import Any

import pytest

from streamd.runtime.journal import Checkpoint, Entry
from streamd.runtime.release import Release
from streamd.runtime.vocabulary import Data, Restarted, Tick
from streamd.runtime.wire import LENGTH, PAGE, PIECE, Place, SessionCopy, event_of, flat, outline


def unpacked(raw: bytes) -> tuple[object, ...]:
    assert LENGTH.unpack_from(raw)[0] == len(raw) - LENGTH.size
    values: tuple[object, ...] = marshal.loads(raw[LENGTH.size :])
    return values


def test_a_session_goes_in_messages_none_of_which_is_large(tree):
    release = Release(1, tree, None)
    entries = [Entry(Data(number, 7, bytes(10_000)), 1, release) for number in range(50)]
    copy = SessionCopy(
        "live/a", 1, {"@": "x:Y", "pair": (1, 2)}, (Checkpoint(release, {}), entries), ["g"], 3
    )
    raw = list(copy.messages())
    told: list[Any] = [unpacked(item) for item in raw]
    assert [item[0] for item in told[:2]] == ["session", "checkpoint"]
    assert told[0] == ("session", "live/a", 1, {"@": "x:Y", "pair": (1, 2)}, ["g"], 3)
    assert told[-1] == ("go",)
    assert sum(len(item[1]) for item in told[2:-1]) == 50
    assert max(map(len, raw)) < PIECE + 15_000


@pytest.mark.parametrize("event", [Data(1, 2, b"x"), Tick(1, "x"), Restarted(1, [2, 3])])
def test_an_event_comes_back_as_it_went(event):
    assert event_of(*flat(event)) == event
    assert type(event_of(*flat(event))) is type(event)


def test_an_event_in_words_shows_no_payload():
    assert outline(Data(1, 7, b"secret")) == "Data of link 7, 6 bytes"
    assert outline(Tick(1, "x")) == "Tick"


def test_the_page_tells_session_and_event_and_forgets_the_event_with_what_is_done_next():
    place = Place(mmap.mmap(-1, PAGE))
    assert place.told() == ("", "")
    place.doing("upgrade", "live/a")
    assert place.told() == ("live/a", "upgrade")
    place.doing("new code")
    place.event(Data(1, 7, b"abc"), 3, 9)
    assert place.told() == ("live/a", "new code, event 3 of 9 (Data of link 7, 3 bytes)")
    place.event(Tick(1, "x"), 4, 0)
    assert place.told() == ("live/a", "new code, event 4 (Tick)")
    place.doing("downgrade")
    assert place.told() == ("live/a", "downgrade")


@pytest.mark.parametrize("raw", [b"\xff" * PAGE, bytes(range(256)) * (PAGE // 256)])
def test_a_page_that_was_overwritten_is_read_all_the_same(raw):
    page = mmap.mmap(-1, PAGE)
    page[:] = raw
    name, doing = Place(page).told()
    assert isinstance(name, str)
    assert isinstance(doing, str)


def test_names_longer_than_the_page_are_cut():
    place = Place(mmap.mmap(-1, PAGE))
    place.doing("x" * 9999, "ä" * 9999)
    assert [len(item) <= 1000 for item in place.told()] == [True, True]
