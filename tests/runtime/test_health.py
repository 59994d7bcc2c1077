"""Errors that are no exceptions: their rates before, and whether they have risen."""

from __future__ import annotations

from streamd.runtime.health import KINDS, OTHER, Health
from streamd.runtime.journal import Checkpoint, Journal
from streamd.runtime.vocabulary import Data

POINT = Checkpoint(None, None)  # type: ignore[arg-type]
MINUTE = 60_000


def test_a_steady_rate_of_errors_is_no_rise_and_a_flood_is():
    health = Health(None, 0)
    for now in range(0, 10 * MINUTE, 1000):
        health.note("late", now)
    before = health.before(10 * MINUTE)
    assert 0.9 < before.rates["late"] < 1.1
    for now in range(10 * MINUTE, 11 * MINUTE, 1000):
        health.note("late", now)
    assert health.worse(before, 10 * MINUTE, 11 * MINUTE, 3.0) == ""
    for now in range(11 * MINUTE, 11 * MINUTE + 10_000, 50):
        health.note("late", now)
    assert (
        health.worse(before, 10 * MINUTE, 11 * MINUTE + 10_000, 3.0)
        == "late: 260 in 70 s, where 69.4 were to be expected"
    )


def test_a_few_errors_where_there_were_none_say_nothing_yet():
    health = Health(None, 0)
    before = health.before(MINUTE)
    for _ in range(4):
        health.note("peer errors", MINUTE)
        assert health.worse(before, MINUTE, MINUTE + 1000, 3.0) == ""
    health.note("peer errors", MINUTE)
    assert health.worse(before, MINUTE, MINUTE + 1000, 3.0).startswith("peer errors: 5 in 1 s")


def test_a_young_session_is_measured_over_its_own_age():
    health = Health(None, 0)
    for now in range(0, 5000, 500):
        health.note("late", now)
    assert 1.5 < health.before(5000).rates["late"] < 2.5


def test_errors_long_ago_count_no_more():
    health = Health(None, 0)
    for _ in range(100):
        health.note("late", 0)
    assert health.before(20 * MINUTE).rates["late"] < 0.001


def test_a_flood_of_kinds_stays_bounded():
    health = Health(None, 0)
    for number in range(1000):
        health.note(f"kind {number}", 0)
    assert len(health.totals) == KINDS + 1
    assert health.totals[OTHER] == 1000 - KINDS


def received(journal: Journal, count: int, size: int, every: int, commands: int) -> None:
    journal.reset(POINT)
    for number in range(count):
        journal.note(Data(number * every, 1, bytes(size)), commands)


def test_less_for_the_same_bytes_is_worse():
    journal = Journal(POINT)
    health = Health(journal, 0)
    received(journal, 100, 2000, 33, 4)
    before = health.before(MINUTE)
    for count, size, every, commands in (
        (49, 2000, 33, 1),  # too few to tell
        (100, 9000, 33, 4),  # pictures have grown
        (100, 2000, 200, 4),  # the publisher pauses
        (50, 4000, 66, 8),  # it is read less often
    ):
        received(journal, count, size, every, commands)
        assert health.worse(before, MINUTE, MINUTE, 3.0) == ""
    received(journal, 100, 2000, 33, 1)
    assert (
        health.worse(before, MINUTE, MINUTE, 3.0)
        == "of the bytes received comes 25% of what came of them before"
    )
