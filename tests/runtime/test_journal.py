"""The state before any event, from a checkpoint and what came since; and what a journal keeps and lets go."""

from __future__ import annotations

from typing import Any, cast

import pytest

from streamd.runtime import journal as module
from streamd.runtime.journal import BLAMED, FAILED, Checkpoint, Diverged, Entry, Journal, keep, replay, revive
from streamd.runtime.release import Release
from streamd.runtime.state import StateError, lower
from streamd.runtime.vocabulary import Closed, Data, Joined, PeerError, Request, Restarted, Tick


@pytest.fixture
def release(tree):
    made = Release(1, tree, None).load()
    yield made
    made.discard()


def point(text: str) -> Checkpoint:
    return Checkpoint(None, text)  # type: ignore[arg-type]


def data(number: int, size: int = 10) -> Any:
    return Data(number, 1, bytes(size))


def entry(number: int, commands: int) -> Entry:
    return Entry(data(number), commands, None)  # type: ignore[arg-type]


def same(lowered: Any, _source: Release, _target: Release) -> Any:
    return lowered


# ---- what is kept


def test_two_checkpoints_and_the_events_since_the_older_one():
    journal = Journal(point("a"))
    journal.note(data(1), 2)
    assert journal.recent() == (point("a"), [entry(1, 2)])
    journal.roll(point("b"))
    assert not journal.changed
    journal.note(data(2), BLAMED)
    assert journal.changed
    assert journal.since() == (point("b"), [entry(2, BLAMED)])
    assert journal.recent() == (point("a"), [entry(1, 2), entry(2, BLAMED)])
    journal.roll(point("c"))
    assert journal.recent() == (point("b"), [entry(2, BLAMED)])
    assert journal.since() == (point("c"), [])


def test_bytes_are_those_of_payloads_and_something_for_each_event():
    journal = Journal(point("a"))
    journal.note(data(1, 1000), 0)
    journal.note(Tick(2, "x"), 0)
    assert journal.fresh == 1000 + 2 * module.ENTRY_BYTES
    journal.roll(point("b"))
    journal.note(Joined(3, 1, {"@": "a:B", "rest": bytes(5000), "more": [{"n": "text"}]}, "peer"), 0)
    assert 5000 < journal.fresh < 6000
    assert journal.size == journal.fresh + 1000 + 2 * module.ENTRY_BYTES
    journal.note(Request(4, 1, "GET", "/", "", {"a": "x" * 3000}, "peer", "1.1"), 0)
    journal.note(Restarted(5, [1, 2]), 0)
    assert journal.fresh > 9000


def test_a_change_of_code_begins_it_anew_and_the_outline_of_what_was_stays():
    journal = Journal(point("a"))
    journal.note(data(1), 2)
    journal.reset(point("b"))
    assert journal.recent() == (point("b"), [])
    assert journal.size == 0
    journal.note(Tick(2, "x"), FAILED)
    assert journal.told() == [
        {"at": 1, "kind": "Data", "link": 1, "size": 10, "commands": 2},
        {"at": 2, "kind": "Tick", "link": 0, "size": 0, "commands": 0},
    ]
    assert journal.told(last=1)[0]["at"] == 2


def test_the_last_events_are_told_however_few_are_kept():
    journal = Journal(point("a"))
    for number in range(100):
        journal.note(data(number), 0)
        if number % 7 == 0:
            journal.roll(point("b"))
        expected = list(range(max(0, number - 63), number + 1))
        assert [item["at"] for item in journal.told()] == expected
    for number in range(100, 300):
        journal.note(data(number), 0)
    journal.roll(point("c"))
    journal.roll(point("d"))
    assert [item["at"] for item in journal.told()] == list(range(236, 300))


def test_without_a_checkpoint_only_outlines_are_kept():
    journal = Journal(None)
    for number in range(100):
        journal.note(data(number), 1)
    assert journal.since() is journal.recent() is None
    assert journal.events == []
    assert journal.size == 0
    assert [item["at"] for item in journal.told()] == list(range(36, 100))
    journal.roll(point("a"))
    journal.note(data(100), 1)
    assert journal.since() == (point("a"), [entry(100, 1)])
    assert journal.recent() == journal.since()


def test_what_is_too_much_is_let_go_and_the_checkpoint_stays():
    journal = Journal(point("a"))
    journal.note(data(1), 1)
    journal.lose()
    assert journal.since() is None
    assert journal.latest == point("a")
    assert journal.changed


# ---- events that outlive their step


def test_a_kept_event_is_of_no_release_and_not_shared(release):
    guest = release.modules["handlers.door"].Guest(1, release.modules["protocol.lines"].Reader())
    kept: Any = keep(Joined(5, 1, guest, "peer"))
    guest.reader.rest += b"later"
    assert kept.guest == {
        "@": "handlers.door:Guest",
        "link": 1,
        "reader": {"@": "protocol.lines:Reader", "rest": b""},
    }
    first, second = (cast(Joined, revive(kept, release, release, same)) for _ in range(2))
    assert type(first.guest) is type(guest)
    assert first.guest.reader is not second.guest.reader
    headers = {"a": "b"}
    request = Request(1, 1, "GET", "/", "", headers, "peer", "1.1")
    headers["c"] = "d"
    kept = keep(request)
    assert type(kept) is Request
    headers.clear()
    assert kept.headers == {"a": "b", "c": "d"}
    assert cast(Request, revive(kept, release, release, same)).headers is not kept.headers
    links = [1, 2]
    assert cast(Restarted, keep(Restarted(1, links))).links is not links
    assert keep(data(1)) == data(1)
    none = keep(Joined(5, 1, None, "peer"))
    assert revive(none, release, release, same) == none
    with pytest.raises(StateError):
        keep(Joined(5, 1, {1, 2}, "peer"))


# ---- replay


def test_a_replay_brings_the_state_back_and_edits_nothing_of_its_source(release):
    state = release.begin("live/a", {}, 0)
    before = lower(state)
    guest = release.modules["handlers.door"].Guest(1, release.modules["protocol.lines"].Reader())
    events: list[Any] = [
        Joined(1, 1, guest, "peer"),
        Data(2, 1, b"cou"),
        Data(3, 1, b"nt\nspoil a b\n"),
        Data(4, 1, b"peer it lies\n"),
        Data(5, 1, b"crash\n"),
        Closed(6, 1, "gone"),
    ]
    entries = []
    for event in events:
        kept = keep(event)
        if event.now == 5:
            entries.append(Entry(kept, FAILED, release))
            continue
        try:
            entries.append(Entry(kept, len(release.step(state, event)), release))
        except PeerError:
            entries.append(Entry(kept, BLAMED, release))
    seen = []
    for _ in range(2):
        again = replay(
            release, before, entries, same, lambda entry, answer: seen.append((entry.event.now, answer))
        )
        assert lower(again) == lower(state)
    assert [now for now, _ in seen[:5]] == [1, 2, 3, 4, 6]
    assert isinstance(seen[3][1], PeerError)
    assert before == lower(release.begin("live/a", {}, 0))


@pytest.mark.parametrize(
    ("line", "commands", "sentence"),
    [
        (b"count\n", 2, "Data at 1 was answered with 2 commands, and now with 1 commands"),
        (b"count\n", BLAMED, "Data at 1 was answered with a peer's fault, and now with 1 commands"),
        (b"peer x\n", 1, "Data at 1 was answered with 1 commands, and now with a peer's fault"),
        (b"crash\n", 1, "Data at 1 raised ZeroDivisionError: integer division or modulo by zero"),
    ],
)
def test_a_replay_that_goes_otherwise_says_so(release, line, commands, sentence):
    state = release.begin("live/a", {}, 0)
    guest = release.modules["handlers.door"].Guest(1, release.modules["protocol.lines"].Reader())
    release.step(state, Joined(1, 1, guest, "peer"))
    with pytest.raises(Diverged) as caught:
        replay(release, lower(state), [Entry(Data(1, 1, line), commands, release)], same)
    assert str(caught.value) == sentence


def test_what_came_of_publishers_reads_is_added_up_over_both_stretches():
    journal = Journal(point("a"))
    assert journal.received == (0, 0, 0, 0, 0)
    journal.note(Tick(1, "x"), 5)
    journal.note(data(2, 100), 3)
    journal.note(data(3, 100), FAILED)
    journal.note(data(4, 50), BLAMED)
    assert journal.received == (2, 150, 3, 2, 4)
    journal.roll(point("b"))
    assert journal.received == (2, 150, 3, 2, 4)
    journal.note(data(5, 7), 1)
    assert journal.received == (3, 157, 4, 2, 5)
    journal.roll(point("c"))
    assert journal.received == (1, 7, 1, 5, 5)
    journal.lose()
    assert journal.received == (0, 0, 0, 0, 0)
    journal.roll(point("d"))
    journal.note(data(6, 9), 2)
    journal.reset(point("e"))
    assert journal.received == (0, 0, 0, 0, 0)
