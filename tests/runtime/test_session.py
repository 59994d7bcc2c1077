"""One event, one step, then its commands: order, crashes, restarts, invalid commands, moves and timers."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest

from streamd.runtime.journal import ENTRY_BYTES, SPELL
from streamd.runtime.link import now_ms
from streamd.runtime.session import Sessions
from streamd.runtime.state import lower
from streamd.runtime.vocabulary import (
    Close,
    Congested,
    Count,
    Data,
    Join,
    Leave,
    Move,
    Respond,
    Ring,
    Send,
    Tick,
)
from streamd.runtime.watchdog import StepBounds
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


# ---- the state before the event


def breaking(world: World, what: str) -> None:
    """From now on a line "spoil" breaks the release that runs, after half of it has been done."""
    room: Any = world.upgrades.current.modules["handlers.room"]
    former = room.answer

    def answer(state: Any, link: int, verb: str, rest: str) -> Any:
        if verb != "spoil":
            return former(state, link, verb, rest)
        state.heard.append("half")
        state.guests.clear()
        scope = {**vars(room), "room": state, "__name__": "live@1.broken"}
        exec(f"def answer(link):\n    {what}", scope)
        return scope["answer"](link)

    room.answer = answer


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("1 // 0", "ZeroDivisionError: integer division or modulo by zero"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("return answer(link)", "RecursionError: maximum recursion depth exceeded"),
        ("return b'x' * 10 ** 11", "MemoryError"),
        ("while True: pass", "StepOverrun: did not return within 0.1 s"),
        ("return [Send(link, None)]", "BadCommand: Send carries NoneType, not bytes"),
    ],
)
async def test_whatever_live_code_raises_the_state_is_that_before_the_event(world, what, reason):
    world.sessions.watchdog.limit(0.1)
    world.sessions.watchdog.start()
    try:
        culprit, other = await world.guest(), await world.guest()
        assert await other.ask("count") == "2"
        list(world.sessions._checkpoints())
        assert await other.ask("count") == "4"
        assert await culprit.ask("peer it lies") == ""
        breaking(world, what)
        spoiler = await world.guest()
        assert await spoiler.ask("spoil") == ""
        assert await other.ask("count") == "7"
    finally:
        world.sessions.watchdog.stop()
    state = world.session().state
    assert list(state.guests) == [2]
    assert state.heard == [
        "1 left: it lies",
        "3 left: the server failed to handle this connection; see its log",
    ]
    (report,) = world.reports.directory.iterdir()
    told = json.loads(report.read_text())
    assert told["reason"] == reason
    assert told["state"]["track"]["frames"] == 5
    assert told["last_events"][-1]["kind"] == "Data"


async def test_state_that_cannot_be_replayed_is_that_of_the_last_checkpoint(world):
    steady, culprit = await world.guest(), await world.guest()
    assert await steady.ask("count") == "2"
    list(world.sessions._checkpoints())
    assert await steady.ask("count") == "4"
    world.session().journal.answers[-1] = 7  # as if the first time something else had come of it
    assert await culprit.ask("crash") == ""
    assert await steady.hear() == "restarted"
    assert await steady.ask("count") == "4"


async def test_state_that_is_not_plain_goes_back_to_the_last_checkpoint_by_replay(world):
    steady, culprit = await world.guest(), await world.guest()
    world.session().state.heard = {1, 2}
    list(world.sessions._checkpoints())
    assert await culprit.ask("crash") == ""
    assert await steady.ask("count") == "2"
    assert world.session().state.heard == ["2 left: the server failed to handle this connection; see its log"]


async def test_a_tick_whose_step_crashes_rings_again_after_a_while(tmp_path):
    async with running(tmp_path, intensity=(5, 0.05)) as world:
        client = await world.guest()
        room: Any = world.upgrades.current.modules["handlers.room"]
        room.Tick = None  # a pattern that is no class: TypeError
        client.say("wake 1 beat")
        await until(lambda: world.reports.count == 1)
        room.Tick = Tick
        assert await client.hear() == "tick beat"
        assert world.reports.count == 1


async def test_a_command_that_fails_is_left_out_and_the_rest_is_carried_out(world):
    client, other = await world.guest(), await world.guest()
    session = world.session()

    def broken(*_: Any) -> Any:
        raise OSError("no")

    world.sessions._carry[Count] = broken
    session.home.carry_out(session, Data(0, 1, b""), [Count("x"), Send(2, b"after\n")])
    assert await other.hear() == "after"
    assert await client.hear() == ""
    assert world.reports.count == 1


async def test_two_sessions_never_share_a_guest(world):
    client = await world.guest()
    session = world.session()
    before = session.state.guests[1]
    assert await client.ask("go live/b") == "welcome to live/b"
    after = world.session("live/b").state.guests[1]
    assert after is not before
    assert after.reader is not before.reader


# ---- the journal's bounds


async def test_a_journal_past_its_bytes_makes_a_checkpoint_at_once(world):
    world.sessions.bounds = StepBounds(journal_bytes=400_000)
    (room,) = world.rooms(1)
    most = 0
    for number in range(2000):
        room.deliver(Tick(number, "x"))
        most = max(most, room.journal.size)
    assert most <= 400_000 + ENTRY_BYTES  # of the event that it was noticed at
    assert room.journal.recent()[0].lowered["heard"]
    assert room.journal.since()[0].lowered["heard"] == room.state.heard[: -len(room.journal.since()[1])]


async def test_past_the_bytes_of_all_journals_only_small_ones_are_left_alone(world):
    world.sessions.bounds = StepBounds(journal_total=100_000)
    busy, quiet = world.rooms(2)
    quiet.deliver(Tick(0, "x"))
    for number in range(1000):
        world.sessions._journalled = (0.0, 0)
        busy.deliver(Tick(number, "x"))
        assert busy.journal.size <= 100_000 + 2 * (SPELL + ENTRY_BYTES)
    assert quiet.journal.since()[1]


async def test_a_journal_that_is_full_with_state_that_is_not_plain_lets_go(world):
    world.sessions.bounds = StepBounds(journal_bytes=200_000)
    (room,) = world.rooms(1)
    room.state.more = {1}
    for number in range(1000):
        room.deliver(Tick(number, "x"))
    assert not room.journal.whole
    assert room.journal.size == 0
    room.state.more = []
    list(world.sessions._checkpoints())
    assert room.journal.whole


# ---- taps, health, and a change of code at a key unit


async def test_a_tap_gets_every_event_in_kept_form(world):
    seen: list[Any] = []
    world.sessions.taps.append(lambda session, event, answer: seen.append((session.name, event, answer)))
    client = await world.guest()
    assert await client.ask("count") == "2"
    assert await client.ask("peer no") == ""
    assert [(name, type(event).__name__, answer) for name, event, answer in seen] == [
        ("door/1", "Opened", 1),
        ("door/1", "Data", 1),
        ("live/a", "Joined", 1),
        ("live/a", "Data", 1),
        ("live/a", "Data", -1),
        ("live/a", "Closed", 0),
    ]
    assert seen[2][1].guest["@"] == "handlers.door:Guest"


async def test_what_goes_wrong_is_counted_by_session(world):
    client, other = await world.guest(), await world.guest()
    session = world.session()
    client.say("log late", "log late")
    assert await client.ask("version") == "codec 1 tail 1"
    session.deliver(Congested(now_ms(), 1, "all"))
    assert await other.ask("peer no") == ""
    assert session.health.totals == {
        "warnings in the log": 2,
        "late": 2,
        "congested viewers": 1,
        "peer errors": 1,
    }
    stranger = await world.connect()
    assert await stranger.ask("x" * 3000) == ""
    assert world.sessions.door_health.totals == {"peer errors": 1}


async def test_code_changes_right_before_what_makes_a_key_unit(world):
    client = await world.guest()
    client.say("ring 1000 5000 5000", "enter next")
    assert await client.hear() == "head"
    session = world.session()
    seen: list[Any] = []

    def change() -> None:
        seen.append(lower(session.state))
        session.change_code(session.release, session.state, lower(session.state))

    session.at_key = change
    client.say("say one")
    assert await client.hear() == "one"
    frames = session.state.track.frames
    assert not seen
    client.say("key two")
    assert await client.hear() == "two"
    client.say("key three")
    assert await client.hear() == "three"
    assert [item["track"]["frames"] for item in seen] == [frames]
    assert session.state.track.frames == frames + 2
    assert session.groups["all"].end == 3


async def test_code_changes_after_a_key_unit_where_the_state_before_it_is_not_to_be_had(world):
    client = await world.guest()
    client.say("ring 1000 5000 5000", "enter next")
    assert await client.hear() == "head"
    session = world.session()
    session.journal.lose()
    seen: list[int] = []
    session.at_key = lambda: seen.append(session.groups["all"].end)
    client.say("key one")
    assert await client.hear() == "one"
    assert seen == [1]
