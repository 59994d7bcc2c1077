"""One event, one step, then its commands: order, crashes, restarts, invalid commands, moves and timers."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest

from streamd.runtime.net import now_ms
from streamd.runtime.session import Sessions
from streamd.runtime.vocabulary import (
    Close,
    Data,
    Join,
    Leave,
    Move,
    Respond,
    Ring,
    Send,
    Tick,
)
from tests.fake_live import FIX, World, amend, running, until


def heard(world: World, name: str = "live/a") -> list[str]:
    return world.session(name).state.heard


async def test_a_connection_gets_a_door_and_moves_on_with_what_it_has_sent(world):
    client = await world.connect()
    assert [item.name for item in world.sessions.listed()] == ["door/1"]
    client.say("join live/a", "version", "count")
    assert [await client.hear() for _ in range(3)] == ["welcome to live/a", "codec 1 tail 1", "3"]
    assert [item.name for item in world.sessions.listed()] == ["live/a"]
    other = await world.guest()
    assert await other.ask("count") == "5"
    client.leave()
    await until(lambda: heard(world) == ["1 left: closed by peer"])
    assert list(world.session().links) == [2]


async def test_a_move_to_nobody_is_refused_unless_it_may_create(world):
    client = await world.connect()
    assert await client.ask("find live/none") == "refused live/none: no such session"
    assert await client.hear() == ""
    world.rooms(1)
    client = await world.connect()
    assert await client.ask("find live/0") == "welcome to live/0"


async def test_a_server_that_stops_begins_nothing_new_and_tells_everyone(world):
    client = await world.guest()
    late = await world.connect()
    world.sessions.tell_stopping(now_ms() + 1000)
    assert await client.hear() == ""
    assert await late.ask("join live/b") == "refused live/b: stopping"


async def test_a_step_that_fails_has_done_nothing_and_costs_its_own_connection(world):
    culprit, other = await world.guest(), await world.guest()
    assert await culprit.ask("crash") == ""
    assert await other.ask("version") == "codec 1 tail 1"
    assert heard(world) == ["1 left: the server failed to handle this connection; see its log"]
    (report,) = world.reports.directory.iterdir()
    told = json.loads(report.read_text())
    assert told["where"] == "live/a"
    assert told["reason"] == "ZeroDivisionError: integer division or modulo by zero"
    assert told["event"] == {"is": "Data", "now": told["event"]["now"], "link": 1, "data": b"crash\n".hex()}
    assert told["state"]["@"] == "handlers.room:Room"
    assert told["last_events"][-1]["kind"] == "Data"
    assert told["release"] == 1


async def test_repeated_crashes_bring_back_the_last_checkpoint(world):
    steady = await world.guest()
    assert await steady.ask("count") == "2"
    assert list(world.sessions._checkpoints()) == []
    assert await steady.ask("count") == "4"
    for _ in range(3):
        assert await (await world.guest()).ask("crash") == ""
    assert await steady.hear() == "restarted"
    assert "restarted with [1]" in world.session().state.heard
    assert await steady.ask("count") == "4"
    assert world.reports.count == 3


async def test_a_session_without_a_checkpoint_begins_anew_and_one_past_the_intensity_ends(tmp_path):
    async with running(tmp_path, intensity=(3, 60.0)) as world:
        steady, elsewhere = await world.guest(), await world.guest("live/b")
        before = world.session().state
        for _ in range(3):
            assert await (await world.guest()).ask("crash") == ""
        assert world.session().state is not before
        assert await steady.hear() == "restarted"
        assert await (await world.guest()).ask("crash") == ""
        assert await steady.hear() == ""
        assert "live/a" not in world.sessions.by_name
        assert await elsewhere.ask("version") == "codec 1 tail 1"
        assert await (await world.guest()).ask("version") == "codec 1 tail 1"


async def test_a_checkpoint_of_state_that_is_not_plain_is_counted_and_the_old_one_kept(world):
    client = await world.guest()
    list(world.sessions._checkpoints())
    before = world.session().journal.latest
    await client.ask("count")
    world.session().state.heard = {1, 2}
    list(world.sessions._checkpoints())
    assert world.session().journal.latest is before
    assert "no checkpoint: state: set is not plain data" in world.counters.totals


async def test_a_peer_s_fault_is_no_crash(world, caplog):
    caplog.set_level(logging.INFO)
    culprit, other = await world.guest(), await world.guest()
    assert await culprit.ask("peer it lies") == ""
    assert await other.ask("version") == "codec 1 tail 1"
    assert heard(world) == ["1 left: it lies"]
    assert world.reports.count == 0
    assert world.counters.totals["peer errors"] == 1
    assert "closed: it lies" in caplog.text


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("none", "step returned NoneType, which is not a command"),
        ("text", "step returned str, which is not a command"),
        ("str", "Send carries str, not bytes"),
        ("array", "SendAll carries bytearray, not bytes"),
        ("group", "SendAll to group 'no such group', which has no Ring"),
        ("join", "Join to group 'no such group', which has no Ring"),
        ("wake", "Wake.after is str"),
        ("level", "Log.level is 'shout'"),
        ("ring", "Ring.max_bytes is float"),
        ("link", "Close.link is str"),
    ],
)
async def test_an_invalid_command_is_a_crash_before_any_is_carried_out(world, what, sentence):
    client = await world.guest()
    assert await client.ask(f"bad {what}") == ""
    (report,) = world.reports.directory.iterdir()
    assert json.loads(report.read_text())["reason"] == f"BadCommand: {sentence}"


async def test_commands_for_links_that_are_gone_do_nothing(world):
    (room,) = world.rooms(1)
    gone: list[Any] = [Send(9, b"x"), Leave(9, "g"), Close(9, ""), Move(9, "live/x", None, True)]
    room.home.carry_out(
        room,
        Tick(0, ""),
        [*gone, Respond(9, 200, {}, b"", True), Ring("g", 9, 9, 9), Join(9, "g", b"", "key")],
    )
    assert world.reports.count == 0
    assert "live/x" not in world.sessions.by_name


async def test_nothing_is_carried_out_after_the_end(world):
    client = await world.guest()
    session = world.session()
    assert await client.ask("end all over") == ""
    assert session.ended
    assert session.timers == {}
    session.deliver(Tick(0, "late"))
    assert session.steps == 2


async def test_events_that_a_step_causes_come_after_its_commands(world):
    client = await world.guest()
    client.say("close bye now", "version")
    assert await client.rest() == b"bye\n"
    assert heard(world) == ["1 left: bye now"]
    assert [entry["kind"] for entry in world.session().journal.told()] == ["Joined", "Data", "Closed"]


async def test_a_timer_rings_once_is_replaced_by_its_tag_and_can_be_called_off(world):
    client = await world.guest()
    client.say(
        "wake 60000 far",
        "wake 60000 again",
        "wake 1 again",
        "wake 1 never",
        "wake -1 never",
        "wake -5 unknown",
    )
    assert await client.hear() == "tick again"
    assert list(world.session().timers) == ["far"]
    assert await client.ask("version") == "codec 1 tail 1"
    assert heard(world) == ["tick again"]


async def test_a_suspended_session_keeps_its_mail_in_order(world):
    client = await world.guest()
    session = world.session()
    session.suspend()
    client.say("count")
    await until(lambda: len(session.mailbox) == 1)
    client.say("version")
    await until(lambda: len(session.mailbox) == 2)
    session.deliver(Tick(0, "x"))
    assert heard(world) == []
    session.resume()
    assert [await client.hear() for _ in range(3)] == ["2", "codec 1 tail 1", "tick x"]
    assert not session.mailbox


async def test_a_guest_moves_between_sessions_and_leaves_its_group_behind(world):
    client, other = await world.guest(), await world.guest()
    assert await client.ask("version") == "codec 1 tail 1"
    client.say("ring 1000 5000 5000", "enter")
    assert await client.hear() == "head"
    client.say("key one")
    assert await client.hear() == "one"
    assert await client.ask("go live/b") == "welcome to live/b"
    other.say("key two", "version")
    assert await other.hear() == "codec 1 tail 1"
    assert await client.ask("version") == "codec 1 tail 1"
    assert not world.session().groups["all"].members
    assert list(world.session("live/b").links) == [1]


async def test_a_guest_is_converted_on_its_way_to_another_release(world):
    """While a move is going on, half of the sessions run the next release."""
    client = await world.guest("live/old")
    await world.load(amend("handlers.door", 1, GUEST))
    old, new = world.session("live/old"), world.rooms(1)[0]
    world.point(old, 1)
    assert (old.release.number, new.release.number) == (1, 2)
    assert not hasattr(old.state.guests[1], "since")
    assert await client.ask("go live/0") == "welcome to live/0"
    assert new.state.guests[1].since == 5
    assert await client.ask("go live/old") == "welcome to live/old"
    assert not hasattr(old.state.guests[1], "since")


GUEST = """
@state
class Guest:
    link: int
    reader: lines.Reader
    since: int = 5
"""


async def test_a_guest_that_cannot_be_converted_costs_its_connection_only(world):
    client, other = await world.guest("live/old"), await world.guest("live/old")
    await world.load(FIX)
    old = world.session("live/old")
    world.point(old, 1)
    old.state.guests[1].link = "text"
    assert await client.ask("go live/b") == ""
    assert await other.ask("version") == "codec 1 tail 1"
    assert world.reports.count == 1


async def test_a_door_that_cannot_begin_is_closed_with_a_report(world, monkeypatch):
    def begin(*_args: Any) -> Any:
        raise RuntimeError("no doors today")

    world.upgrades.current.begin = begin
    reader, writer = await asyncio.open_connection(*world.address)
    assert await reader.read() == b""
    writer.close()
    assert world.reports.count == 1
    await until(lambda: not world.net.links)
    assert world.sessions.listed() == []


async def test_live_code_logs_and_counts(world, caplog):
    client = await world.guest()
    client.say("log late", "log late", "version")
    await client.hear()
    assert caplog.text.count("live/a: late") == 2
    caplog.clear()
    world.counters.say()
    world.counters.say()
    assert caplog.text.count("live/a: late (2 times in a second)") == 1
    assert world.counters.totals["late"] == 2


async def test_checkpoints_are_made_in_slices(world, monkeypatch):
    rooms = world.rooms(50)
    for room in rooms:
        room.deliver(Tick(0, "x"))
    monkeypatch.setattr("streamd.runtime.session.CHECKPOINT_SLICE", 0.0)
    assert len(list(world.sessions._checkpoints())) == 50
    assert all(room.journal.latest.lowered["heard"] == ["tick x"] for room in rooms)
    assert not any(room.journal.changed for room in rooms)
    task = asyncio.create_task(world.sessions.keep_checkpoints(0.001))
    rooms[0].deliver(Tick(0, "y"))
    await until(lambda: not rooms[0].journal.changed)
    task.cancel()


async def test_data_for_a_session_is_never_more_than_64_kib(world):
    client = await world.guest()
    client.writer.write(b"x" * 200_000)
    assert await client.rest() == b""
    sizes = [entry["size"] for entry in world.session().journal.told() if entry["kind"] == Data.__name__]
    assert sizes
    assert max(sizes) <= 65_536
    assert isinstance(world.sessions, Sessions)
