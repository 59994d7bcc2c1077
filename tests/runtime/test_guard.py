"""The old code answers for whatever the new code cannot, and nobody outside has seen anything."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from streamd.runtime.commands import SHAPES, Difference
from streamd.runtime.guard import Guard
from streamd.runtime.health import CONGESTION
from streamd.runtime.link import now_ms
from streamd.runtime.migrate import MigrationError
from streamd.runtime.probation import Probation
from streamd.runtime.release import Release
from streamd.runtime.session import CannotBegin, Session
from streamd.runtime.state import lift, lower
from streamd.runtime.vocabulary import Congested, Event, Tick
from streamd.runtime.watchdog import StepBounds
from tests.fake_live import TREE, World, running, until, write_tree

WORD = "media/codec.py"
ROOM = "handlers/room.py"
DOOR = "handlers/door.py"
DIVISION = "ZeroDivisionError: integer division or modulo by zero"
PLACED = re.compile(rf"{DIVISION} \(handlers\.room:\d+ in answer\)")
COUNTING = "            codec.count(room.track)\n"
GUEST = "    link: int\n    reader: lines.Reader\n\n\ndef step(door"


MADE: list[Release] = []


@pytest.fixture(autouse=True)
def discarded() -> Iterator[None]:
    yield
    while MADE:
        MADE.pop().discard()


class Trial:
    """A probation that only listens."""

    def __init__(self, world: World, old: Release, new: Release, strict: bool) -> None:
        self.world = world
        self.old = old
        self.new = new
        self.strict = strict
        self.may_lose = False
        self.lost = False
        self.reversible = True
        self.allowed = frozenset(kind.__name__ for kind in SHAPES) - {"SendAll"}
        self.failures: list[tuple[str, str, str]] = []
        self.reports: list[Path | None] = []
        self.differences: list[Difference] = []
        self.cures: list[str] = []

    def failed(self, session: Session, event: Event, sentence: str, report: Path | None) -> None:
        self.failures.append((session.name, type(event).__name__, sentence))
        self.reports.append(report)
        self.world.sessions.current = self.old

    objection = Probation.objection

    def differed(self, session: Session, event: Event, difference: Difference) -> None:
        self.differences.append(difference)

    def cured(self, session: Session, event: Event, sentence: str) -> None:
        self.cures.append(sentence)

    def report(self) -> dict[str, Any]:
        (path,) = [item for item in self.reports if item is not None]
        told: dict[str, Any] = json.loads(path.read_text())
        return told


def on_probation(
    world: World,
    *changes: tuple[str, str, str],
    strict: bool = True,
    convert: Callable[[Any, Release, Release], Any] | None = None,
) -> Trial:
    """Everyone runs the tree with texts replaced in it: (file, what stands there, what shall)."""
    texts = dict(TREE)
    for file, before, after in changes:
        assert before in texts[file]
        texts[file] = texts[file].replace(before, after)
    old = world.sessions.current
    assert old is not None
    new = Release(99, write_tree(world.root / "new", texts), old.number).load()
    MADE.append(new)
    world.sessions.convert = convert or (lambda lowered, source, target: lowered)
    trial = Trial(world, old, new, strict)
    for session in world.sessions.listed():
        former = session.state
        lowered = world.sessions.convert(lower(former), old, new)
        session.change_code(new, lift(lowered, new.record), lowered, Guard(trial, former))
    world.sessions.current = new
    world.sessions.probation = trial
    return trial


def raising(what: str, verb: str = "count") -> tuple[str, str, str]:
    """The answer to a line fails, after half of it has been done."""
    return ROOM, COUNTING, f"{COUNTING}            room.heard.append('half')\n            {what}\n"


BAD = [
    ("1 // 0", "ZeroDivisionError: integer division or modulo by zero"),
    ("raise SystemExit(3)", "SystemExit: 3"),
    ("raise KeyboardInterrupt", "KeyboardInterrupt (handlers.room:"),
    ("raise MemoryError", "MemoryError (handlers.room:"),
    ("return kind(room) + 1", 'TypeError: can only concatenate str (not "int") to str'),
    ("return answer(room, link, verb, rest)", "RecursionError: maximum recursion depth exceeded"),
    ("return [None]", "BadCommand: step returned NoneType, which is not a command"),
    (
        "return [SendAll('none', b'x', False)]",
        "BadCommand: SendAll to group 'none', which has no Ring",
    ),
    (
        "return [Log('info', 'x')] * 5000",
        "BadCommand: step returned 5000 commands; here it may return 1038",
    ),
    ("raise PeerError('liar')", "it answers otherwise: the peer is now blamed: liar"),
    ("return [Send(link, b'9\\n')]", "it answers otherwise: Send.data of Send(link=1, data=<2 bytes>) was"),
    ("return []", "it answers otherwise: 1 commands have become 0: no longer Send(link=1, data=<2 bytes>)"),
]


@pytest.mark.parametrize(("what", "sentence"), BAD)
async def test_whatever_the_new_code_does_wrong_the_old_code_has_answered(world, what, sentence):
    client, other = await world.guest(), await world.guest()
    assert await client.ask("count") == "2"
    trial = on_probation(world, raising(what))
    assert await other.ask("version") == "codec 1 tail 1"
    assert trial.failures == []
    assert await client.ask("count") == "5"
    assert await client.ask("count") == "7"
    ((name, kind, said),) = trial.failures
    assert (name, kind) == ("live/a", "Data")
    assert said.startswith(sentence)
    session = world.session()
    assert session.release is trial.old
    assert session.guard is None
    assert session.state.heard == []
    assert list(session.links) == [1, 2]
    told = trial.report()
    assert told["release"] == 99
    assert told["release_before"] == 1
    assert told["event"]["data"] == b"count\n".hex()
    assert told["state"]["track"]["frames"] == 3
    assert told["old_answer"] == [{"is": "Send", "link": 1, "data": b"5\n".hex()}]
    assert session.journal.told()[-2]["kind"] == "Data"


async def test_what_does_not_return_is_interrupted_and_the_old_code_answers(tmp_path):
    async with running(tmp_path) as world:
        world.sessions.bounds = StepBounds(guarded_ms=100.0)
        world.sessions.watchdog.start()
        try:
            client = await world.guest()
            trial = on_probation(world, raising("while True: pass"))
            assert await client.ask("count") == "2"
            assert trial.failures == [
                ("live/a", "Data", "StepOverrun: did not return within 0.1 s (handlers.room:97 in answer)")
            ]
            assert world.sessions.watchdog.seconds == 1.0
        finally:
            world.sessions.watchdog.stop()


async def test_as_long_as_both_answer_alike_commands_are_carried_out_once(world):
    client = await world.guest()
    trial = on_probation(world, (ROOM, '"""A room:', '"""The same room:'))
    client.say("ring 1000 5000 5000", "enter")
    assert await client.hear() == "head"
    client.say("key one", "log late", "count", "wake 30 x")
    assert [await client.hear() for _ in range(3)] == ["6", "one", "tick x"]
    assert world.counters.totals["late"] == 1
    session = world.session()
    assert session.guard is not None
    assert session.guard.events >= 3
    assert session.guard.exact
    assert lower(session.guard.state) == lower(session.state)
    assert trial.failures == []
    assert session.steps == session.guard.events + 1


async def test_both_blaming_the_peer_is_no_difference(world):
    client, other = await world.guest(), await world.guest()
    trial = on_probation(world, (ROOM, "raise PeerError(rest)", "raise PeerError(f'{rest}!')"))
    assert await client.ask("peer it lies") == ""
    assert await other.ask("version") == "codec 1 tail 1"
    assert trial.failures == []
    assert world.session().state.heard == ["1 left: it lies!"]


async def test_a_crash_of_both_is_not_the_patch_s_fault(world):
    client, other = await world.guest(), await world.guest()
    trial = on_probation(
        world, (ROOM, 'case "crash":', "case \"crash\":\n            room.heard.append('half')")
    )
    assert await other.ask("count") == "2"
    assert await client.ask("crash") == ""
    assert await other.ask("count") == "4"
    assert trial.failures == []
    session = world.session()
    assert session.release is trial.new
    assert session.state.heard == ["1 left: the server failed to handle this connection; see its log"]
    assert session.guard is not None
    assert lower(session.guard.state) == lower(session.state)
    assert world.reports.count == 1


async def test_a_cure_is_told_and_ends_the_comparison(world):
    client = await world.guest()
    trial = on_probation(
        world,
        (ROOM, '[Send(link, b"never said\\n")] + [1 // 0]', '[Send(link, b"cured\\n")]'),
        raising("1 // 0"),
    )
    assert await client.ask("crash") == "cured"
    assert trial.cures == [f"the old code fails there: {DIVISION} (handlers.room:98 in answer)"]
    assert await client.ask("version") == "codec 1 tail 1"
    assert trial.failures == []
    # no state of the old code is left: it gets the new code's, brought back
    assert await client.ask("count") == "4"
    ((_, kind, said),) = trial.failures
    assert kind == "Data"
    assert PLACED.fullmatch(said)
    assert world.session().release is trial.old
    assert await client.ask("count") == "6"


async def test_after_a_cure_what_both_fail_at_is_a_crash_like_any_other(world):
    client, other = await world.guest(), await world.guest()
    trial = on_probation(world, (ROOM, '[Send(link, b"never said\\n")] + [1 // 0]', '[Send(link, b"x\\n")]'))
    assert await client.ask("crash") == "x"
    client.say("bad str")
    assert await client.hear() == ""
    assert trial.failures == []
    assert await other.ask("count") == "3"
    assert world.session().release is trial.new


# ---- differences that were explained


LOUDER = (WORD, 'return "tail 1"', 'return "tail 2"')


async def test_explained_differences_are_counted_and_the_new_code_answers(world):
    client = await world.guest()
    trial = on_probation(world, LOUDER, strict=False)
    assert await client.ask("version") == "codec 1 tail 2"
    assert await client.ask("count") == "3"
    assert [item.kind for item in trial.differences] == ["Send"]
    session = world.session()
    assert session.guard is not None
    assert not session.guard.exact
    assert session.release is trial.new


async def test_after_a_difference_the_old_code_goes_on_from_the_new_code_s_state(world):
    client = await world.guest()
    trial = on_probation(
        world,
        LOUDER,
        (ROOM, 'case "version":', 'case "version":\n            room.track.frames += 100'),
        raising("1 // 0"),
        strict=False,
    )
    assert await client.ask("version") == "codec 1 tail 2"
    assert await client.ask("count") == "103"  # of the old code, on what the new one had counted
    ((_, kind, said),) = trial.failures
    assert kind == "Data"
    assert PLACED.fullmatch(said)
    assert await client.ask("version") == "codec 1 tail 1"
    assert world.session().state.heard == []


async def test_where_there_is_no_way_back_the_guard_s_own_state_is_good_enough(world):
    client = await world.guest()
    old = world.sessions.current

    def convert(lowered: Any, _source: Release, target: Release) -> Any:
        if target is old:
            raise MigrationError("downgrade raised KeyError")
        return lowered

    trial = on_probation(world, LOUDER, raising("1 // 0"), strict=False, convert=convert)
    assert await client.ask("version") == "codec 1 tail 2"
    assert await client.ask("count") == "3"
    assert len(trial.failures) == 1
    assert world.session().release is old


LOSSES = [
    ("raise PeerError('no')", "it blames the peer, which the running code does not: no"),
    ("return [Send(link, b'x'), Close(link, 'no')]", "it closes link 1, which the running code does not"),
    (
        "return [Send(link, b'x'), Leave(link, 'g')]",
        "it takes link 1 out of its group, which the running code does not",
    ),
    ("return [Send(link, b'x'), End('no')]", "it ends the session, which the running code does not"),
    ("return []", "it sends nothing to link 1, which the running code does"),
    ("return [Log('info', 'muted')]", "it sends nothing to link 1, which the running code does"),
]


@pytest.mark.parametrize(("what", "sentence"), LOSSES)
async def test_a_difference_that_costs_somebody_is_a_failure_although_explained(world, what, sentence):
    client = await world.guest()
    trial = on_probation(world, raising(what), strict=False)
    assert await client.ask("count") == "2"
    assert [item[2] for item in trial.failures] == [sentence]
    assert world.session().release is trial.old


async def test_unless_it_was_seen_and_accepted(world):
    client, other = await world.guest(), await world.guest()
    trial = on_probation(world, raising("raise PeerError('no')"), strict=False)
    trial.may_lose = True
    assert await client.ask("count") == ""
    assert [item.sentence for item in trial.differences] == ["the peer is now blamed: no"]
    assert await other.ask("version") == "codec 1 tail 1"


async def test_code_that_is_far_slower_is_a_failure(world):
    client = await world.guest()
    trial = on_probation(world, raising("sum(range(1_500_000))"))
    for number in range(40):
        assert await client.ask("count") == str(2 * number + 2)
        if trial.failures:
            break
    assert number >= 19
    assert " ms, " in trial.failures[0][2]
    assert trial.failures[0][2].endswith(" times as long as the running code")


async def test_what_both_count_and_blame_is_nobody_s_doing(world):
    client, other = await world.guest(), await world.guest()
    on_probation(world, LOUDER, strict=False)
    session = world.session()
    client.say("log late")
    assert await client.ask("count") == "3"
    assert await client.ask("peer no") == ""
    assert session.health.totals == {}
    assert await other.ask("version") == "codec 1 tail 2"
    other.say("log late\nversion")
    assert await other.hear() == "codec 1 tail 2"


# ---- sessions that come, go and hand over


async def test_who_begins_during_the_probation_is_guarded_from_its_first_event_on(world):
    trial = on_probation(world, (ROOM, "welcome to", "WELCOME to"))
    client = await world.connect()
    assert world.sessions.listed()[0].guard is not None
    assert await client.ask("join live/a") == "welcome to live/a"
    assert [item[:2] for item in trial.failures] == [("live/a", "Joined")]
    assert world.session().release is trial.old
    assert world.session().state.guests[1].reader.rest == b""
    assert [session.name for session in world.sessions.listed()] == ["live/a"]
    assert await client.ask("count") == "2"


async def test_a_door_that_the_new_code_fails_to_open_is_opened_by_the_old(world):
    trial = on_probation(
        world, (DOOR, "verb, _, name = line.partition", "1 // 0\n            verb, _, name = line.partition")
    )
    client = await world.guest()
    assert [item[:2] for item in trial.failures] == [("door/1", "Data")]
    assert await client.ask("count") == "2"
    assert world.session().release is trial.old


@pytest.mark.parametrize("what", ["1 // 0", "raise SystemExit"])
async def test_a_session_that_the_new_code_fails_to_begin_is_begun_by_the_old(world, what):
    trial = on_probation(world, (ROOM, "    return Room(name", f"    {what}\n    return Room(name"))
    client = await world.guest()
    assert trial.failures[0][0] == "live/a"
    assert "live/a cannot begin" in trial.failures[0][2]
    assert world.session().release is trial.old
    assert await client.ask("count") == "2"


async def test_a_session_that_only_the_new_code_can_begin_is_begun_by_it(world):
    def begin(*_: Any) -> Any:
        raise RuntimeError("no rooms today")

    client = await world.connect()
    trial = on_probation(world, (ROOM, '"""A room:', '"""The same room:'))
    trial.old.begin = begin
    assert await client.ask("join live/a") == "welcome to live/a"
    assert trial.cures == ["live/a cannot begin: RuntimeError: no rooms today"]
    trial.new.begin = begin
    with pytest.raises(CannotBegin):
        world.rooms(1)
    assert trial.failures == []


def with_since(old: Release | None) -> Callable[[Any, Release, Release], Any]:
    """Guests of the new release have a field more, wherever they are."""

    def walk(value: Any, back: bool) -> Any:
        if isinstance(value, dict):
            value = {key: walk(item, back) for key, item in value.items()}
            if value.get("@") == "handlers.door:Guest":
                value.pop("since", None)
                return value if back else {**value, "since": 5}
        return [walk(item, back) for item in value] if isinstance(value, list) else value

    return lambda lowered, source, target: lowered if source is target else walk(lowered, target is old)


async def test_guests_are_handed_over_in_the_records_of_both_releases(world):
    client = await world.guest()
    old = world.sessions.current
    trial = on_probation(
        world,
        (DOOR, GUEST, GUEST.replace("Reader\n", "Reader\n    since: int = 5\n", 1)),
        convert=with_since(old),
    )
    newcomer = await world.guest("live/b")
    assert await client.ask("go live/b") == "welcome to live/b"
    assert await newcomer.ask("go live/a") == "welcome to live/a"
    assert trial.failures == []
    for name, link in (("live/a", 2), ("live/b", 1)):
        session = world.session(name)
        assert session.guard is not None
        assert session.state.guests[link].since == 5
        assert not hasattr(session.guard.state.guests[link], "since")
        assert session.guard.state.guests[link] is not session.state.guests[link]


async def test_without_a_way_back_guests_still_reach_the_old_code(world):
    client = await world.guest()
    await world.guest("live/b")
    old = world.sessions.current
    there = with_since(old)

    def convert(lowered: Any, source: Release, target: Release) -> Any:
        if target is old and source is not old:
            raise MigrationError("irreversible")
        return there(lowered, source, target)

    trial = on_probation(
        world,
        (DOOR, GUEST, GUEST.replace("Reader\n", "Reader\n    since: int = 5\n", 1)),
        raising("1 // 0"),
        convert=convert,
    )
    trial.reversible = False
    assert await client.ask("go live/b") == "welcome to live/b"
    assert await (await world.guest("live/b")).ask("version") == "codec 1 tail 1"
    assert trial.failures == []
    assert await client.ask("count") == "3"
    assert [item[0] for item in trial.failures] == ["live/b"]
    assert sorted(world.session("live/b").state.guests) == [1, 2, 3]


async def test_a_guest_of_the_wrong_content_is_a_difference(world):
    client = await world.guest()
    on = (ROOM, "[Move(link, rest, room.guests.pop(link), True)]")
    trial = on_probation(
        world,
        (
            *on,
            "[room.guests[link].reader.rest.extend(b'x'), Move(link, rest, room.guests.pop(link), True)][1:]",
        ),
    )
    assert await client.ask("go live/b") == "welcome to live/b"
    assert trial.failures[0][2] == "it answers otherwise: the guest of Move to 'live/b' has changed"
    assert world.session("live/b").state.guests[1].reader.rest == b""


async def test_a_guest_that_there_is_no_way_back_for_stays_with_the_old_code(world):
    client = await world.guest()
    old = world.sessions.current

    def convert(lowered: Any, source: Release, target: Release) -> Any:
        if target is old and source is not old:
            raise MigrationError("downgrade raised KeyError")
        return lowered

    trial = on_probation(world, (ROOM, '"""A room:', '"""The same room:'), convert=convert)
    assert await client.ask("go live/b") == "welcome to live/b"
    assert trial.failures[0] == (
        "live/a",
        "Data",
        "a guest cannot be brought back: MigrationError: downgrade raised KeyError",
    )
    assert world.session("live/a").release is old
    assert await client.ask("count") == "2"


async def test_a_guest_that_waits_while_the_code_changes_is_converted(world):
    """It was handed over in the records of the release that its new session has left meanwhile."""
    client = await world.guest()
    target = world.rooms(1)[0]
    old = world.sessions.current
    trial = on_probation(
        world,
        (DOOR, GUEST, GUEST.replace("Reader\n", "Reader\n    since: int = 5\n", 1)),
        convert=with_since(old),
    )
    target.suspend()
    client.say("go live/0")
    await until(lambda: len(target.mailbox) == 1)
    assert target.mailbox[0].guest.since == 5
    assert target.guard is not None
    target.change_code(trial.old, target.guard.state, lower(target.guard.state))
    assert target.mailbox[0].guest.link == 1
    assert not hasattr(target.mailbox[0].guest, "since")
    target.resume()
    assert await client.hear() == "welcome to live/0"


async def test_a_guest_that_waits_while_its_session_goes_on_probation_is_of_both_releases(world):
    client = await world.guest()
    (target,) = world.rooms(1)
    target.suspend()
    client.say("go live/0")
    await until(lambda: len(target.mailbox) == 1)
    old = world.sessions.current
    there = with_since(old)

    def convert(lowered: Any, source: Release, target: Release) -> Any:
        if target is old and source is not old:
            raise MigrationError("irreversible")
        return there(lowered, source, target)

    trial = on_probation(
        world, (DOOR, GUEST, GUEST.replace("Reader\n", "Reader\n    since: int = 5\n", 1)), convert=convert
    )
    target.resume()
    assert await client.hear() == "welcome to live/0"
    assert target.guard is not None
    assert target.state.guests[1].since == 5
    assert target.guard.state.guests[1].link == 1
    assert trial.failures == []


async def test_a_guest_that_waits_and_cannot_be_converted_is_let_go(world):
    client = await world.guest()
    target = world.rooms(1)[0]
    trial = on_probation(world, (ROOM, '"""A room:', '"""The same room:'))
    target.suspend()
    client.say("go live/0")
    await until(lambda: len(target.mailbox) == 1)

    def convert(lowered: Any, source: Release, target: Release) -> Any:
        raise MigrationError("no")

    world.sessions.convert = convert
    assert target.guard is not None
    target.guard.guests.clear()
    target.change_code(trial.old, target.guard.state, lower(target.guard.state))
    target.resume()
    assert await client.hear() == ""
    assert target.links == {}
    assert target.state.heard == []


async def test_a_session_that_ends_in_its_last_guarded_step_has_ended_once(world):
    client = await world.guest()
    trial = on_probation(world, (ROOM, "End(rest), Wake", "End(f'{rest}!'), Wake"))
    assert await client.ask("end all over") == ""
    assert trial.failures[0][0] == "live/a"
    assert "live/a" not in world.sessions.by_name


# ---- what only a checkpoint finds


async def test_state_that_is_not_plain_is_a_failure_that_a_checkpoint_finds(world):
    client = await world.guest()
    trial = on_probation(world, (ROOM, COUNTING, f"{COUNTING}            room.heard = lambda: 1\n"))
    assert await client.ask("count") == "2"
    assert trial.failures == []
    list(world.sessions._checkpoints())
    assert trial.failures == [
        ("live/a", "Tick", "what it keeps is no state: state: function is not plain data")
    ]
    session = world.session()
    assert session.release is trial.old
    assert await client.ask("count") == "4"
    assert session.state.heard == []


async def test_a_thousand_sessions_that_fail_write_one_report(world):
    rooms = world.rooms(20)
    trial = on_probation(world, (ROOM, 'room.heard.append(f"tick {tag}")', "1 // 0"))
    for room in rooms:
        room.deliver(Tick(now_ms(), "x"))
    assert len(trial.failures) == 20
    assert world.reports.count == 1
    assert all(room.state.heard == ["tick x"] and room.release is trial.old for room in rooms)


async def test_after_a_failure_elsewhere_the_new_code_is_not_asked_any_more(world):
    client = await world.guest()
    assert await client.ask("count") == "2"
    trial = on_probation(world, raising("1 // 0"))
    trial.lost = True
    world.sessions.current = trial.old
    assert await client.ask("count") == "4"
    assert world.session().release is trial.old
    assert world.session().guard is None
    assert trial.failures == []
    assert world.reports.count == 0
    assert await client.ask("count") == "6"


async def test_a_guest_that_comes_after_a_failure_is_taken_in_by_the_old_code(world):
    await world.guest()
    client = await world.connect()
    trial = on_probation(world, raising("1 // 0"))
    trial.lost = True
    world.sessions.current = trial.old
    client.say("join live/a")
    assert await client.hear() == "welcome to live/a"
    assert {item.release for item in world.sessions.listed()} == {trial.old}
    assert trial.failures == []


async def test_state_that_cannot_be_copied_in_time_is_a_failure_that_a_checkpoint_finds(world):
    world.sessions.watchdog.limit(0.2)
    world.sessions.watchdog.start()
    try:
        client = await world.guest()
        assert await client.ask("count") == "2"
        laughs = "laughs = []\n            for _ in range(60):\n                laughs = [laughs, laughs]\n"
        trial = on_probation(
            world, (ROOM, COUNTING, f"{COUNTING}            {laughs}            room.heard.append(laughs)\n")
        )
        assert await client.ask("count") == "4"
        list(world.sessions._checkpoints())
    finally:
        world.sessions.watchdog.stop()
    ((_, _, sentence),) = trial.failures
    assert "it cannot be copied: StepOverrun" in sentence
    assert await client.ask("count") == "6"


@pytest.mark.parametrize(
    "what", ["raise Unspeakable", "raise ValueError('no ' * (16 << 20))", "raise ValueError(Unspeakable)"]
)
async def test_an_exception_that_cannot_be_told_is_a_failure_like_any_other(world, what):
    client = await world.guest()
    assert await client.ask("count") == "2"
    speech = "class Unspeakable(Exception):\n    def __str__(self):\n        while True:\n            pass\n    __repr__ = __str__\n\n\n"
    trial = on_probation(world, raising(what), (ROOM, "@state\nclass Room", f"{speech}@state\nclass Room"))
    began = monotonic()
    assert await client.ask("count") == "4"
    assert monotonic() - began < 2
    ((_, _, sentence),) = trial.failures
    assert "handlers.room:" in sentence
    assert len(sentence) < 600
    assert len(json.dumps(trial.report())) < 20_000


async def test_what_a_checkpoint_finds_is_found_after_the_commands_of_its_event(world):
    client = await world.guest()
    leaves = "return [Move(link, rest, room.guests.pop(link), True)]"
    trial = on_probation(
        world,
        (DOOR, GUEST, GUEST.replace("Reader\n", "Reader\n    since: int = 5\n", 1)),
        (ROOM, leaves, f"room.heard = lambda: 1\n            {leaves}"),
        convert=with_since(world.sessions.current),
    )
    await world.guest("live/b")
    world.sessions.bounds = StepBounds(journal_bytes=2)
    session = world.session()
    session.journal.bound = 0
    session.state.guests[1].since = 9
    assert await client.ask("go live/b") == "welcome to live/b"
    ((_, event, _),) = trial.failures
    assert event == "Tick"
    assert session.release is trial.old
    assert world.session("live/b").state.guests[1].since == 9, "it went over in the new code's own record"


async def test_viewers_that_are_late_are_held_against_code_that_has_answered_otherwise_only(world):
    client = await world.guest()
    on_probation(world, LOUDER, strict=False)
    session = world.session()
    session.deliver(Congested(now_ms(), 1, "all"))
    assert session.health.totals == {}
    assert await client.ask("count") == "2"
    assert session.guard is not None
    session.guard.differences = 1
    session.deliver(Congested(now_ms(), 1, "all"))
    assert session.health.totals == {CONGESTION: 1}
