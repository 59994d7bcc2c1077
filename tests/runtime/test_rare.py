"""What is made up for a rehearsal: only what could be the next event."""

from __future__ import annotations

from streamd.runtime.rare import GONE, made_up, told
from streamd.runtime.vocabulary import Closed, Congested, Drained, Refused, Restarted, Stopping, Tick
from streamd.runtime.wire import Around, LinkFact

AROUND = Around(
    [LinkFact(3, "", 10), LinkFact(5, "flv", 9000), LinkFact(7, "ws", 0), LinkFact(9, "flv", 0)],
    [3, 5, 7, 9],
    ["ping", "rate"],
)


def test_one_member_of_each_group_three_links_that_close_each_timer_and_the_end_last():
    events = list(made_up(AROUND, "live/a", 100))
    members = [item for item in events if isinstance(item, Congested | Drained)]
    assert {(type(item), item.link, item.group) for item in members} == {
        (kind, link, group) for kind in (Congested, Drained) for link, group in ((5, "flv"), (7, "ws"))
    }
    assert len(members) == 4
    others = [item for item in events if item not in members]
    assert others[0] == Refused(100, 3, "live/a", "no such session")
    assert others[1:4] == [Closed(100, number, GONE) for number in (3, 9, 5)]
    assert others[4:6] == [Tick(100, "ping"), Tick(100, "rate")]
    assert others[6] == Restarted(100, [3, 5, 7, 9])
    assert isinstance(others[7], Stopping)
    assert len(others) == 8
    assert {item.now for item in events} == {100}


def test_a_link_closes_once_and_nobody_is_not_made_up():
    one = Around([LinkFact(3, "", 10)], [3], [])
    assert [type(item) for item in made_up(one, "live/a", 1)] == [Refused, Closed, Restarted, Stopping]
    assert [type(item) for item in made_up(Around(), "live/a", 1)] == [Restarted, Stopping]


def test_the_words_say_that_it_was_made_up():
    assert told(Stopping(1, 2)) == "a made-up Stopping"
    assert told(Closed(1, 7, "x")) == "a made-up Closed of link 7"
    assert told(Tick(1, "ping")) == "a made-up Tick 'ping'"
