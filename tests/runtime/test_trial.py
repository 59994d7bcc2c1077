"""After the move: probation, canaries, waves, pins, key units, pauses; and what a failure costs, which is nothing."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from time import thread_time
from typing import Any

import pytest

from streamd.runtime import probation
from streamd.runtime.admin import Caller
from streamd.runtime.commands import BadCommand
from streamd.runtime.mover import resumed
from streamd.runtime.release import Release
from streamd.runtime.selection import Selection
from streamd.runtime.session import CannotDescribe
from streamd.runtime.state import lift, lower
from streamd.runtime.verbs import Verbs
from streamd.runtime.wishes import Bounds, Refusal, Wishes, silent
from tests.fake_live import BY, FIX, TREE, World, amend, running, until, write_tree

SHORT = Bounds(
    max_bytes=65_536, specimens=("door/0", "live/specimen"), probation_seconds=1.0, probation_events=1, keyframe_seconds=0.5
)  # fmt: skip
NOTHING = amend("media.codec", 1, "# what nobody calls\ndef more() -> str:\n    return ''\n")
# right in every rehearsal: it fails in front of a frame that has not come yet
FAILS_LATER = amend(
    "media.codec",
    1,
    "def count(track: Track) -> None:\n    track.frames += 1\n    if track.frames > 3:\n        raise IndexError('frame 3')\n",
)
DIFFERS_LATER = amend(
    "media.codec", 1, "def count(track: Track) -> None:\n    track.frames += 1 if track.frames < 3 else 2\n"
)
HANGS_LATER = FAILS_LATER.replace("raise IndexError('frame 3')", "while True:\n            pass")
BLAMES_LATER = FAILS_LATER.replace("raise IndexError", "raise PeerError").replace(
    "def count", "from streamd.runtime.vocabulary import PeerError\n\n\ndef count"
)
NONSENSE_LATER = amend(
    "handlers.room",
    1,
    "def answers(room: Room, link: int):\n    commands = []\n"
    "    while link in room.guests and (line := lines.pull(room.guests[link].reader)) is not None:\n"
    "        room.track.frames += 1\n        commands += answer(room, link, *line.partition(' ')[::2])\n"
    "    return commands if room.track.frames < 4 else [None]\n",
)
BREAKS_DOORS = amend(
    "handlers.door",
    1,
    "def step(door: Door, event):\n    if type(event) is Opened and event.link > 1:\n        raise KeyError('who')\n"
    "    return opened(door, event)\n\n\ndef opened(door: Door, event):\n    match event:\n        case Opened(link=link):\n"
    "            door.link = link\n            return [Send(link, b'hello\\n')]\n    return []\n",
)


@pytest.fixture
async def world(tmp_path):
    async with running(tmp_path, bounds=SHORT) as made:
        made.sessions.watchdog.start()
        try:
            yield made
        finally:
            made.sessions.watchdog.stop()


async def load(world: World, *texts: str, **wishes: Any) -> dict[str, Any]:
    return await world.load(*texts, accept_differences=wishes.pop("accept", False), **wishes)


async def ended(world: World) -> dict[str, Any]:
    """The history's last word on the probation that is going on."""

    def said() -> list[dict[str, Any]]:
        history = world.store.history()
        return [item for item in history if item["verb"] == "probation" and item["result"] != "began"]

    await until(lambda: world.upgrades.trials.trial is None and said())
    return said()[-1]


# ---- probation


async def test_a_probation_that_sees_nothing_passes_and_lets_the_old_release_go(world):
    client = await world.guest()
    answer = await load(world, NOTHING)
    assert answer["probation"]["seconds"] == 1.0
    assert "On probation for 1 s: streamd-ctl status." in answer["text"]
    assert sorted(world.upgrades.library.releases) == [1, 2]
    assert world.session().guard is not None
    assert await client.ask("count") == "2"
    entry = await ended(world)
    assert (entry["result"], entry["release"]) == ("ok", 2)
    assert entry["text"].startswith("Probation passed: ")
    assert sorted(world.upgrades.library.releases) == [2]
    assert world.session().guard is None
    assert await client.ask("count") == "4"


async def test_who_waits_hears_the_verdict(world):
    client = await world.guest()
    seen: list[tuple[str, int, int]] = []

    async def progress(stage: str, done: int, of: int) -> None:
        seen.append((stage, done, of))

    world.patch("fine.py", NOTHING)
    answer = await world.upgrades.load(["fine.py"], "/", BY, progress, Wishes(wait=True))
    assert "Probation passed" in answer["text"]
    stages = list(dict.fromkeys(stage for stage, _, _ in seen))
    assert stages == ["read", "merge", "rehearse", "import", "move", "probation"]
    assert await client.ask("count") == "2"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (FAILS_LATER, "IndexError: frame 3"),
        (BLAMES_LATER, "frame 3"),
        (DIFFERS_LATER, "Send"),
        (HANGS_LATER, "did not return within 0.2 s"),
        (NONSENSE_LATER, "NoneType, which is not a command"),
    ],
    ids=["raises", "blames the peer", "answers differently", "hangs", "nonsense"],
)
async def test_what_fails_on_probation_is_answered_by_the_old_code_and_nobody_sees_anything(
    world, text, sentence
):
    one, other = await world.guest(), await world.guest("live/b")
    assert await one.ask("count") == "2"
    waiting = asyncio.create_task(load(world, text, wait=True))
    await until(lambda: world.release == 2)
    assert await one.ask("count") == "4"  # by the old code, from the state before
    assert world.session().release.number == 1
    with pytest.raises(Refusal) as refused:
        await waiting
    assert refused.value.stage == "probation"
    assert "live/a" in str(refused.value)
    assert sentence in str(refused.value)
    assert "Everyone is back on release 1; nobody was cut off." in str(refused.value)
    assert {item.release.number for item in world.sessions.listed()} == {1}
    assert world.release == 1
    assert [await item.ask("count") for item in (one, other)] == ["6", "2"]
    entry = [item for item in world.store.history() if item["verb"] == "probation"][-1]
    assert entry["result"] == "failed"
    assert len(world.sessions.listed()) == 2
    assert sorted(world.upgrades.library.releases) == [1]


async def test_accepted_differences_do_not_fail_but_are_told(world):
    client = await world.guest()
    assert await client.ask("count") == "2"
    await load(world, DIFFERS_LATER.replace("VERSION", 'DIFFERS = "Send: counts faster"\nVERSION'))
    assert [await client.ask("count") for _ in range(2)] == ["5", "8"]
    entry = await ended(world)
    assert entry["result"] == "ok"
    assert "1 answers differed" in entry["text"] or "answers differed" in entry["text"]
    assert world.release == 2


async def test_a_failure_after_accepted_differences_converts_the_state_before_back(world):
    client = await world.guest()
    text = FIX.replace(
        "def tail()",
        "def count(track: Track) -> None:\n    track.frames += 10\n    if track.frames > 30:\n        raise IndexError('over')\n\n\ndef tail()",
    )
    await load(world, text.replace("VERSION", 'DIFFERS = "Send: counts faster"\nVERSION', 1))
    assert [await client.ask("count") for _ in range(2)] == ["11", "22"]
    assert await client.ask("count") == "24"
    entry = await ended(world)
    assert entry["result"] == "failed"
    assert world.session().state.track.config == b"one:two"


async def test_newcomers_on_probation_are_guarded_too(world):
    await world.guest()
    await load(world, BREAKS_DOORS.replace("VERSION", 'DIFFERS = "Send: doors"\nVERSION', 1))
    client = await world.connect()
    client.say("join live/b")
    assert await client.hear() == "welcome to live/b"
    assert (await ended(world))["result"] == "failed"
    assert world.release == 1


async def test_a_patch_that_cures_a_crash_is_not_blamed_for_being_different(world):
    client = await world.guest()
    text = amend("handlers.room", 1, (world.shipped / "handlers/room.py").read_text().split("def answer(")[1].join(
        ["def answer(", ""]).split("BAD =")[0].replace("+ [1 // 0]", ""))  # fmt: skip
    await load(world, text)
    assert await client.ask("crash") == "never said"
    entry = await ended(world)
    assert entry["result"] == "ok"
    assert "failed in the former release only" in entry["text"]


async def test_what_may_not_be_asked_during_a_probation_is_refused_with_the_time_left(world):
    await world.guest()
    await load(world, NOTHING)
    for asked in (load(world, FIX), world.upgrades.keep(BY)):
        with pytest.raises(Refusal, match=r"release 2 is on probation for another .* streamd-ctl rollback"):
            await asked
    assert (await ended(world))["result"] == "ok"
    assert (await world.upgrades.keep(BY))["release"] == 2


async def test_a_rollback_ends_a_probation(world):
    client = await world.guest()
    waiting = asyncio.create_task(load(world, FIX, accept=True, wait=True))
    await until(lambda: world.release == 2 and world.upgrades.trials.trial is not None)
    assert (await world.rollback())["release"] == 1
    with pytest.raises(Refusal, match="taken back by a rollback"):
        await waiting
    assert world.release == 1
    assert await client.ask("version") == "codec 1 tail 1"
    assert sorted(world.upgrades.library.releases) == [1]


async def test_a_burst_of_events_is_no_storm(world):
    await world.guest()
    await load(world, NOTHING)
    trial, session = world.upgrades.trials.trial, world.session()
    assert trial is not None
    for burst, sentence in ((0, ""), (200, ""), (10_000, "events a second, where there were")):
        session.steps += burst
        await trial.probation.look()
        assert sentence in (trial.probation.failure.sentence if trial.probation.failure else "")
    assert trial.probation.failure is not None
    assert (await ended(world))["result"] == "failed"


# ---- canaries and waves


async def test_strangers_at_the_door_of_the_old_code_are_no_canary_s_fault(world):
    await world.guest()
    await load(world, NOTHING, selection=Selection(("a",)))
    for _ in range(6):
        stranger = await world.connect()
        assert await stranger.ask("x" * 3000) == ""
    assert (await ended(world))["result"] == "ok"


async def test_a_release_that_somebody_is_still_on_is_not_dropped(world):
    client = await world.guest()
    await load(world, NOTHING, selection=Selection(("a",)), probation=0.0)
    canary = world.upgrades.trials.canary
    assert canary is not None
    await world.upgrades.drafting.drop(canary)
    assert await client.ask("count") == "2"


async def test_a_rollback_that_fails_leaves_pinned_sessions_where_they_are(world, monkeypatch):
    await world.guest()
    await world.guest("live/b")
    await world.upgrades.pin(world.session("live/b"), BY)
    await load(world, FIX, accept=True, probation=0.0)

    async def fails(*_given: Any) -> None:
        raise Refusal("move", "no")

    monkeypatch.setattr(world.upgrades.trials, "moving", fails)
    with pytest.raises(Refusal, match="no"):
        await world.rollback()
    assert [world.session(name).release.number for name in ("live/a", "live/b")] == [2, 1]
    assert world.release == 2


async def test_a_canary_moves_whom_it_names_and_the_same_load_again_moves_the_rest(world):
    one, other = await world.guest(), await world.guest("live/b")
    answer = await load(world, FIX, accept=True, selection=Selection(("b",)), probation=0.0)
    assert "running as a canary" in answer["text"]
    assert answer["sessions"] == 1
    assert [await item.ask("version") for item in (one, other)] == ["codec 1 tail 1", "codec 2 tail 2"]
    assert world.release == 1
    with pytest.raises(Refusal, match=r"several releases \(release 1: live/a; release 2: live/b\)"):
        await world.upgrades.keep(BY)
    with pytest.raises(Refusal, match="release 2 is a canary"):
        await load(world, NOTHING)
    newcomer = await world.guest("live/c")
    assert await newcomer.ask("version") == "codec 1 tail 1"
    other.say("go live/a")  # from release 2 to a session on release 1
    assert await other.hear() == "welcome to live/a"
    assert await other.ask("version") == "codec 1 tail 1"
    answer = await load(world, FIX, accept=True, probation=0.0)
    assert answer["release"] == 2
    assert world.release == 2
    assert {item.release.number for item in world.sessions.listed(doors=False)} == {2}
    assert (await world.upgrades.keep(BY))["release"] == 2


async def test_a_canary_is_rolled_back_alone(world):
    await world.guest()
    other = await world.guest("live/b")
    await load(world, FIX, accept=True, selection=Selection(("live/b",)), probation=0.0)
    answer = await world.rollback()
    assert (answer["release"], answer["sessions"]) == (1, 1)
    assert await other.ask("version") == "codec 1 tail 1"
    assert sorted(world.upgrades.library.releases) == [1]


async def test_waves_move_a_growing_share_and_in_the_end_newcomers_too(world):
    world.rooms(20)
    await load(world, FIX, accept=True, selection=Selection((), (5.0, 50.0, 100.0)), bake=0.3, probation=0.1)
    counts: list[int] = []

    def moved() -> int:
        return sum(1 for item in world.sessions.listed() if item.release.number == 2)

    while world.upgrades.trials.trial is not None:
        if not counts or counts[-1] != moved():
            counts.append(moved())
        await asyncio.sleep(0.005)
    assert counts == sorted(counts)
    assert {1, 10, 20} <= {*counts}  # and what a look in the middle of a wave has seen
    assert world.release == 2


async def test_a_wave_that_fails_takes_every_wave_back(world):
    rooms = world.rooms(4)
    clients = [await world.guest(item.name) for item in rooms]
    for client in clients:
        assert await client.ask("count") == "2"
    await load(world, FAILS_LATER, selection=Selection((), (25.0, 100.0)), bake=0.1, probation=1.0)
    await until(lambda: world.release == 2)
    assert [await client.ask("count") for client in clients] == ["4"] * 4
    assert (await ended(world))["result"] == "failed"
    assert {item.release.number for item in rooms} == {1}


async def test_a_pinned_session_stays_through_loads_and_rollbacks_until_unpinned(world):
    one, other = await world.guest(), await world.guest("live/b")
    await world.upgrades.pin(world.session("live/b"), BY)
    await load(world, FIX, accept=True, probation=0.0)
    assert [await item.ask("version") for item in (one, other)] == ["codec 2 tail 2", "codec 1 tail 1"]
    with pytest.raises(Refusal, match="several releases"):
        await world.upgrades.keep(BY)
    answer = await world.upgrades.unpin("live/b", BY)
    assert answer["text"].startswith("live/b is on release 2, after a pause of ")
    assert await other.ask("version") == "codec 2 tail 2"
    with pytest.raises(Refusal, match="live/b is not pinned; pinned are: none"):
        await world.upgrades.unpin("live/b", BY)


async def test_a_pin_ends_with_its_session(world):
    room = world.rooms(1)[0]
    await world.upgrades.pin(room, BY)
    world.sessions.end(room, "over")
    assert world.upgrades.mover.pinned() == {}
    world.rooms(1)
    assert (await load(world, NOTHING, probation=0.0))["sessions"] == 1


async def test_at_key_each_session_moves_right_before_its_next_key_unit(world):
    one, other = await world.guest(), await world.guest("live/b")
    for client in (one, other):
        client.say("ring 100000 1000 10000", "enter")
    assert await one.hear() == "head"
    waiting = asyncio.create_task(load(world, FIX, accept=True, at_key=True, probation=0.0))
    await until(lambda: world.session().at_key is not None)
    one.say("say a", "version")
    assert await one.hear() == "codec 1 tail 1"
    one.say("key b", "version")
    assert sorted([await one.hear(), await one.hear()]) == ["b", "codec 2 tail 2"]
    assert world.session("live/b").release.number == 1
    answer = await waiting  # the other had none for as long as it may
    assert answer["sessions"] == 2
    assert world.session("live/b").release.number == 2


# ---- refusals and what is told


async def test_a_pause_that_would_be_too_long_is_refused_before_anything_moves(world):
    world.rooms(2)
    with pytest.raises(Refusal, match=r"would pause for .* ms, longer than the 0 ms allowed"):
        await load(world, FIX, accept=True, max_pause=0.0)
    assert world.release == 1
    answer = await load(world, FIX, accept=True, max_pause=1000.0, probation=0.0)
    assert {item["name"] for item in answer["pauses"]} == {"live/0", "live/1"}
    assert answer["predicted_pause_ms"] > 0


async def test_an_unexplained_difference_is_a_question_and_an_explained_one_is_not(world):
    client = await world.guest()
    assert await client.ask("version") == "codec 1 tail 1"
    text = amend("media.codec", 1, "def word() -> str:\n    return 'codec 2'\n")
    with pytest.raises(Refusal) as refused:
        await load(world, text)
    assert refused.value.stage == "differences"
    assert "--accept-differences" in str(refused.value)
    assert refused.value.facts["report"]["different"] == 1
    explained = text.replace("VERSION = 2", 'VERSION = 2\nDIFFERS = "Send: says another word"')
    answer = await load(world, explained, probation=0.0)
    assert world.upgrades.library.record(answer["release"]).differs == "Send: says another word"
    await world.rollback()
    assert (await load(world, text, accept=True, probation=0.0))["release"] == 3


async def test_what_is_irreversible_needs_no_way_back_and_has_none_after_its_probation(world):
    client = await world.guest()
    text = FIX.split("def downgrade")[0].replace("VERSION", 'DIFFERS = "Send: another word"\nVERSION', 1)
    with pytest.raises(Refusal):
        await load(world, text)
    await load(world, text, irreversible="the old field cannot hold it")
    assert await client.ask("version") == "codec 2 tail 2"
    assert (await world.rollback())["release"] == 1  # the probation has the old state still
    assert await client.ask("version") == "codec 1 tail 1"
    await load(world, text, irreversible="the old field cannot hold it", probation=0.0)
    with pytest.raises(Refusal, match=r"was loaded as irreversible \(the old field cannot hold it\)"):
        await world.rollback()
    assert await client.ask("version") == "codec 2 tail 2"


async def test_a_plan_says_what_a_load_would_do_and_does_nothing(world):
    world.rooms(4)
    await load(world, NOTHING, probation=0.0)
    world.patch("old.py", FIX)
    world.patch("again.py", amend("media.codec", 2, "def more() -> str:\n    return 'x'\n"))
    answer = await world.upgrades.plan(["again.py"], "/", BY, silent, Wishes(Selection((), (25.0, 100.0))))
    assert answer["modules"] == {"media.codec": [2, 3]}
    assert [row["wave"] for row in answer["sessions"]] == [1, 2, 2, 2]
    assert all(row["pause_ms"] > 0 for row in answer["sessions"])
    assert any("more" in item for item in answer["shadowed"])
    assert any("old.py" in item for item in answer["leftovers"])
    assert world.release == 2
    assert world.store.numbers() == [1, 2]


async def test_promote_gives_the_merged_files_and_an_upgraded_package_drops_the_patch(world):
    await load(world, FIX, accept=True, probation=0.0)
    await world.upgrades.keep(BY)
    answer = await world.upgrades.promote(BY)
    assert list(answer["files"]) == ["streamd/live/media/codec.py"]
    (world.shipped / "media/codec.py").write_text(answer["files"]["streamd/live/media/codec.py"])
    world.close()
    again = World(world.root)
    try:
        assert any("the package has it now" in item for item in again.warnings)
        assert again.upgrades.current.modules["media.codec"].word() == "codec 2"
        assert again.upgrades.library.record(again.release).patches == []
    finally:
        again.close()


async def test_a_load_that_the_end_of_the_process_cut_off_is_told_at_the_next_start(world):
    world.store.note(
        verb="load", uid=0, gid=0, pid=1, paths=["x.py"], result="began", release=7, text="load of release 7"
    )
    world.close()
    again = World(world.root)
    try:
        assert again.warnings == ["the load of release 7 was cut off by the end of the process"]
        assert again.store.history()[-1]["verb"] == "start"
    finally:
        again.close()
    once_more = World(world.root)
    assert once_more.warnings == []
    once_more.close()


# ---- shadow


async def test_a_shadow_tries_the_new_code_on_what_happens_meanwhile_before_it_is_used(world):
    client = await world.guest()
    assert await client.ask("count") == "2"
    waiting = asyncio.create_task(load(world, FAILS_LATER, shadow=1.0))
    await until(lambda: world.sessions.taps)
    heard = []
    while not waiting.done():
        heard.append(await client.ask("count"))
        await asyncio.sleep(0.02)
    with pytest.raises(Refusal, match=r"live/a: .*IndexError: frame 3"):
        await waiting
    assert heard == [str(number) for number in range(4, 2 * len(heard) + 4, 2)]
    assert world.release == 1
    assert world.sessions.taps == []
    assert world.store.numbers() == [1]


async def test_a_shadow_that_sees_nothing_is_followed_by_the_load(world):
    client = await world.guest()
    waiting = asyncio.create_task(load(world, NOTHING, shadow=0.3, probation=0.0))
    await until(lambda: world.sessions.taps)
    newcomer = await world.guest("live/b")
    assert await newcomer.ask("count") == "2"
    assert await client.ask("count") == "2"
    answer = await waiting
    assert answer["report"]["shadow"]["events"] >= 1
    assert world.release == 2
    assert await client.ask("count") == "4"


# ---- what is asked of the new code beside its steps

DESCRIBES_BADLY_LATER = amend(
    "handlers.room",
    1,
    "def kind(session):\n    while isinstance(session, Room) and session.track.frames > 3:\n        pass\n    return 'room'\n",
)
HANGS_ON_THE_WAY_BACK = amend(
    "media.codec",
    1,
    "def downgrade(new: dict) -> dict:\n    while new['frames'] > 9:\n        pass\n    return new\n\n\n"
    "def upgrade(old: dict) -> dict:\n    return old\n",
)
ENDS_ALL = amend(
    "handlers.room",
    1,
    "def resumed(session, now):\n    return [End('we start anew')] if isinstance(session, Room) else []\n",
)


async def test_code_that_does_not_return_from_describe_fails_its_probation(world):
    client = await world.guest()
    assert await client.ask("count") == "2"
    waiting = asyncio.create_task(load(world, DESCRIBES_BADLY_LATER, wait=True, probation=2.0))
    await until(lambda: world.release == 2)
    assert await client.ask("count") == "4"
    with pytest.raises(
        Refusal, match=r"failed in live/a: describe\(\) failed: StepOverrun: did not return within 0.2 s"
    ):
        await waiting
    assert world.session().release.number == 1
    assert await client.ask("count") == "6"


async def test_who_asks_for_the_status_meanwhile_gets_it(world):
    client = await world.guest()
    assert await client.ask("count") == "2"
    await load(world, DESCRIBES_BADLY_LATER, probation=60.0)
    verbs = Verbs(world.sessions, world.upgrades, dict, lambda: None)
    assert (await verbs.list_sessions({}, Caller(BY, "/"), silent))["sessions"][0]["kind"] == "room"
    assert await client.ask("count") == "4"
    (row,) = (await verbs.list_sessions({}, Caller(BY, "/"), silent))["sessions"]
    assert row["phase"].startswith("describe() failed: StepOverrun")
    entry = await ended(world)
    assert entry["result"] == "failed"
    assert "live/a: describe() failed" in entry["text"]
    (row,) = (await verbs.list_sessions({}, Caller(BY, "/"), silent))["sessions"]
    assert (row["kind"], row["release"]) == ("room", 1)


async def test_a_describe_that_fails_in_both_is_nothing_new(world):
    world.rooms(1)
    await load(world, NOTHING, probation=60.0)
    trial = world.upgrades.trials.trial
    assert trial is not None
    for release in (trial.old, trial.release):
        release.describe = {}.pop
    with pytest.raises(CannotDescribe, match=r"describe\(\) failed"):
        world.sessions.described(trial.release, world.sessions.listed()[0].state)
    trial.probation.undescribed(world.sessions.listed()[0], "describe() failed")
    await trial.probation.audit()
    assert trial.probation.failure is None
    assert (await world.rollback())["release"] == 1


async def test_a_move_that_would_cut_somebody_off_is_a_difference_that_has_to_be_accepted(world):
    client = await world.guest()
    with pytest.raises(
        Refusal, match=r"handlers.room.resumed answers End\(reason='we start anew'\)"
    ) as refused:
        await load(world, ENDS_ALL)
    assert refused.value.stage == "differences"
    assert refused.value.facts["report"]["ends"] >= 1
    assert await client.ask("count") == "2"
    await load(world, ENDS_ALL, accept=True)
    assert await client.hear() == ""
    assert world.sessions.listed() == []


async def test_what_only_the_move_itself_shows_to_cut_somebody_off_is_not_done(world):
    await world.guest()
    text = TREE["handlers/room.py"].replace("VERSION = 1", "VERSION = 2") + ENDS_ALL.partition("\n\n\n")[2]
    new = Release(99, write_tree(world.root / "new", {**TREE, "handlers/room.py": text}), 1).load()
    session, old = world.session(), world.upgrades.current
    state = lift(lower(session.state), new.record)
    with pytest.raises(
        BadCommand, match=r"handlers.room.resumed answers End\(.*\), which no rehearsal has shown"
    ):
        resumed(state, old, new, session, frozenset({"Close"}))
    assert resumed(state, old, new, session, frozenset({"End"})) == [("we start anew",)]
    assert resumed(state, old, new, session) == [("we start anew",)]
    new.discard()


async def test_code_that_does_not_let_anybody_go_back_is_asked_once(world):
    rooms = world.rooms(30)
    await load(world, HANGS_ON_THE_WAY_BACK, probation=60.0)
    for room in rooms:
        room.state.track.frames = 10
        assert room.guard is not None
        room.guard.differences = 1  # so that the guard's own state is only the second best
    began = thread_time()
    assert (await world.rollback())["release"] == 1
    assert thread_time() - began < 1.5
    assert all(room.release.number == 1 and not room.ended for room in rooms)


async def test_a_probation_that_has_nobody_left_to_watch_ends(world):
    client = await world.guest()
    waiting = asyncio.create_task(load(world, NOTHING, wait=True, probation=60.0))
    await until(lambda: world.release == 2)
    client.say("end bye")
    answer = await asyncio.wait_for(waiting, 10)
    assert "Probation passed" in answer["text"]


async def test_a_probation_waits_only_for_those_that_were_there(world):
    client = await world.guest()
    await load(world, NOTHING, probation=60.0)
    trial = world.upgrades.trials.trial
    assert trial is not None
    assert await client.ask("count") == "2"
    await (await world.guest("live/b")).ask("count")
    assert [item.name for item in trial.probation._waited_for(1000)] == ["live/a"]
    await world.rollback()


# ---- who waits for whom


async def test_a_rollback_does_not_wait_for_a_rehearsal_and_what_was_drafted_before_it_is_refused(world):
    await world.guest()
    await load(world, NOTHING, probation=0.0)
    more = amend("media.codec", 2, "def still_more() -> str:\n    return ''\n")
    waiting = asyncio.create_task(load(world, more, shadow=1.0))
    await until(lambda: world.sessions.taps)
    assert (await world.rollback())["release"] == 1
    assert not waiting.done()
    with pytest.raises(Refusal, match="release 1 is running by now; load it again"):
        await waiting
    assert world.release == 1
    assert world.store.numbers() == [1, 2]


async def test_a_bug_in_the_probation_itself_takes_everyone_back(world, monkeypatch):
    client = await world.guest()
    await load(world, NOTHING, probation=5.0)
    monkeypatch.setattr(world.upgrades.trials.trial.probation, "look", lambda: 1 // 0)
    entry = await ended(world)
    assert entry["result"] == "failed"
    assert "the probation itself: ZeroDivisionError" in entry["text"]
    assert {item.release.number for item in world.sessions.listed()} == {1}
    assert world.session().guard is None
    assert world.sessions.probation is None
    assert await client.ask("count") == "2"


async def test_a_canary_loaded_again_keeps_what_was_said_of_it(world):
    await world.guest()
    text = FIX.replace("VERSION", 'DIFFERS = "Send: another word"\nVERSION', 1)
    await load(world, text, selection=Selection(("a",)), probation=0.0)
    with pytest.raises(Refusal, match="release 2 was loaded without --irreversible; load it again like that"):
        await load(world, text, irreversible="why", probation=0.0)
    assert (await load(world, text, probation=0.0))["release"] == 2


# ---- nothing holds the loop or waits for what cannot come


async def test_a_door_is_not_waited_for_at_key(tmp_path):
    async with running(tmp_path, bounds=replace(SHORT, keyframe_seconds=3600)) as world:
        await world.connect()
        async with asyncio.timeout(60):
            await load(world, NOTHING, at_key=True, probation=0.0)
        assert world.session("door/1").release.number == 2
        assert world.session("door/1").paused is not None


async def test_a_look_at_many_sessions_lets_the_loop_turn_and_ends_with_the_probation(world, monkeypatch):
    monkeypatch.setattr(probation, "SLICE", 0.0)
    world.rooms(50)
    await load(world, NOTHING, probation=60.0)
    watched = world.upgrades.trials.trial.probation
    look = asyncio.create_task(watched.look())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not look.done()
    watched.ended.set()
    await look
    assert watched.failure is None


async def test_whoever_is_put_back_is_put_back_in_slices_and_to_the_end(tmp_path):
    async with running(tmp_path, bounds=Bounds(slice_ms=0.0)) as world:
        rooms = world.rooms(20)
        old = world.upgrades.current
        await load(world, FIX, accept=True, probation=60.0)
        assert {item.release.number for item in rooms} == {2}
        back = asyncio.create_task(world.upgrades.mover.put_back(dict.fromkeys(rooms, old)))
        for _ in range(10):
            await asyncio.sleep(0)
        assert any(item.release is old for item in rooms)
        assert not all(item.release is old for item in rooms)
        back.cancel()
        with pytest.raises(asyncio.CancelledError):
            await back
        assert all(item.release is old for item in rooms)
        await world.upgrades.trials.close()


async def test_a_way_is_found_once_and_keeps_no_release(world, monkeypatch):
    room = world.rooms(1)[0]
    await load(world, FIX, accept=True, probation=1.0)
    ways = world.upgrades.library.ways
    old, new = (world.upgrades.library.releases[number] for number in (1, 2))
    found = ways.way(old, new)
    assert ways.way(old, new) is found
    await ended(world)
    assert room.release is new
    assert sorted(world.upgrades.library.releases) == [2]
    assert not ways._found


async def test_a_time_out_is_no_full_disk(world):
    with pytest.raises(TimeoutError):
        async with world.upgrades.ledger.one("load", [], BY):
            raise TimeoutError("late")
    assert world.store.history()[-1]["stage"] == "bug"


async def test_who_is_pinned_to_a_canary_stays_there_when_the_rest_goes_back(world):
    one, other = await world.guest(), await world.guest("live/b")
    text = FIX.replace("VERSION", 'DIFFERS = "Send: another word"\nVERSION', 1)
    await load(world, text, selection=Selection(("b",)), probation=0.0)
    await world.upgrades.pin(world.session("live/b"), BY)
    await load(world, text, probation=30.0)
    assert await one.ask("version") == "codec 2 tail 2"
    answer = await world.rollback()
    assert "live/b pinned to another release" in answer["text"]
    assert [await item.ask("version") for item in (one, other)] == ["codec 1 tail 1", "codec 2 tail 2"]


@pytest.mark.parametrize("verb", ["load", "check", "plan"])
async def test_a_selection_of_nobody_is_a_mistake(world, verb):
    world.rooms(1)
    world.patch("fix.py", FIX)
    wishes = Wishes(Selection(("typo*",)))
    with pytest.raises(Refusal, match="nobody is in that selection; live are live/0"):
        await getattr(world.upgrades, verb)(["fix.py"], "/", BY, silent, wishes)
    assert world.store.numbers() == [1]
