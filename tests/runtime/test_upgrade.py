"""The patch path: load, refuse without effect, roll back, keep, restart; and what may go wrong on the way."""

from __future__ import annotations

import asyncio
import gc
import inspect
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest

from streamd.runtime import mover
from streamd.runtime.release import Release, digest, read_tree
from streamd.runtime.state import lower, same
from streamd.runtime.wishes import Bounds, Refusal, Wishes, silent
from tests.fake_live import BY, FIX, World, amend, running, until, write_tree

COUNT_DOUBLED = amend("media.codec", 1, "def count(track):\n    track.frames += 2\n")
ADDED = 'from __future__ import annotations\n\nADDS = "media.extra"\nVERSION = 1\n\n\ndef word():\n    return "extra"\n'
USES_ADDED = amend(
    "media.codec",
    1,
    "from streamd.live.media import extra\n\n\ndef word() -> str:\n    return extra.word()\n",
)
RENAMES = amend(
    "handlers.room",
    1,
    """
import types


@state
class Room:
    name: str
    title: str
    guests: dict[int, Guest] = field(factory=dict)
    track: codec.Track = field(factory=codec.Track)
    more: list[codec.Track] = field(factory=list)
    named: dict[str, codec.Track | None] = field(factory=dict)
    heard: list[str] = field(factory=list)


def begin(name: str, settings) -> Room:
    return Room(name, name.upper())


def upgrade(old: dict) -> dict:
    return {**old, "title": old["name"].upper()}


def downgrade(new: dict) -> dict:
    return {name: value for name, value in new.items() if name != "title"}
""",
)


def resumed(body: str, base: int = 1) -> str:
    return amend(
        "media.codec",
        base,
        f"from streamd.runtime.vocabulary import Send\n\n\ndef resumed(state, now):\n    {body}\n",
    )


def migration(up: str = "return old", down: str = "return new") -> str:
    return amend(
        "media.codec",
        1,
        f"def upgrade(old: dict) -> dict:\n    {up}\n\n\ndef downgrade(new: dict) -> dict:\n    {down}\n",
    )


class Snapshot:
    """Everything that a refusal must not have changed."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.facts = self._facts()
        self.states = {item.name: (item.state, lower(item.state)) for item in world.sessions.listed()}

    def _facts(self) -> list[Any]:
        world = self.world
        return [
            world.release,
            world.store.kept,
            world.store.numbers(),
            sorted(item.name for item in world.store.releases.iterdir()),
            sorted(world.upgrades.library.releases),
            sorted(world.upgrades.library.records),
            sorted(name for name in sys.modules if name.startswith("live@")),
            [(item.name, item.release.number, item.suspended) for item in world.sessions.listed()],
            gc.isenabled(),
            sys.getswitchinterval(),
        ]

    def check(self) -> None:
        assert self._facts() == self.facts
        for item in self.world.sessions.listed():
            state, lowered = self.states[item.name]
            assert item.state is state
            assert same(lower(item.state), lowered)


async def refusal(world: World, *texts: str) -> Refusal:
    """The answer of a load that must be refused and must not have changed anything."""
    before = Snapshot(world)
    with pytest.raises(Refusal) as refused:
        await world.load(*texts)
    before.check()
    last = world.store.history()[-1]
    assert (last["verb"], last["result"], last["stage"], last["text"]) == (
        "load", "refused", refused.value.stage, str(refused.value)
    )  # fmt: skip
    return refused.value


# ---- load and rollback


async def test_a_load_moves_everyone_and_a_rollback_moves_them_back(world):
    client = await world.guest()
    door = await world.connect()
    answer = await world.load(FIX)
    assert answer["release"] == 2
    assert answer["modules"] == {"media.codec": [1, 2]}
    assert answer["sessions"] == 2
    assert answer["text"].startswith(
        "release 2 running. media.codec 1 -> 2. 2 sessions moved, longest pause "
    )
    assert answer["text"].endswith("Roll back with: streamd-ctl rollback")
    track = world.session().state.track
    assert (track.parts, track.added) == ([b"one", b"two"], "new")
    assert [item.parts for item in world.session().state.more] == [[b"one", b"two"]]
    assert world.session().state.named["a"].frames == 7
    assert await client.ask("version") == "codec 2 tail 2"
    door.say("join live/a", "version")
    assert [await door.hear() for _ in range(2)] == ["welcome to live/a", "codec 2 tail 2"]
    answer = await world.rollback()
    assert answer["text"].startswith("back on release 1. media.codec 2 -> 1. 1 session moved")
    assert world.session().state.track.config == b"one:two"
    assert [await item.ask("version") for item in (client, door)] == ["codec 1 tail 1"] * 2


async def test_the_release_on_disk_is_the_patch_and_source_and_tracebacks_point_into_it(world):
    await world.load(FIX)
    codec = world.upgrades.current.modules["media.codec"]
    path = world.store.path(2) / "media/codec.py"
    assert inspect.getsourcefile(codec.word) == str(path)
    assert inspect.getsource(codec.word) == 'def word() -> str:\n    return "codec 2"\n'
    assert "# says which version runs" not in path.read_text()
    changed = [
        name for name, (_, text) in read_tree(world.store.path(2)).items()
        if text != read_tree(world.store.path(1))[name][1]
    ]  # fmt: skip
    assert changed == ["media.codec"]


async def test_half_read_lines_go_on_where_they_were(world):
    client = await world.guest()
    client.writer.write(b"vers")
    await until(lambda: world.session().state.guests[1].reader.rest == b"vers")
    await world.load(FIX)
    client.writer.write(b"ion\nver")
    assert await client.hear() == "codec 2 tail 2"
    await until(lambda: world.session().state.guests[1].reader.rest == b"ver")
    await world.rollback()
    client.writer.write(b"sion\n")
    assert await client.hear() == "codec 1 tail 1"


async def test_several_files_are_one_release_all_or_nothing(world):
    client = await world.guest()
    answer = await world.load(USES_ADDED, ADDED, RENAMES)
    assert answer["modules"] == {"media.codec": [1, 2], "media.extra": [0, 1], "handlers.room": [1, 2]}
    assert "media.extra new -> 1" in answer["text"]
    assert world.release == 2
    assert await client.ask("version") == "extra tail 1"
    assert world.session().state.title == "LIVE/A"
    await world.rollback()
    assert await client.ask("version") == "codec 1 tail 1"
    assert (
        "handlers.room"
        in (
            await refusal(world, USES_ADDED, ADDED, RENAMES.replace("@1", "@7").replace("N = 2", "N = 8"))
        ).args[0]
    )


async def test_a_directory_is_one_load(world):
    for name, text in {"a.py": USES_ADDED, "b.py": ADDED, "_c.py": "("}.items():
        world.patch(f"set/{name}", text)
    answer = await world.upgrades.load(["set"], "/", BY, silent)
    assert set(answer["modules"]) == {"media.codec", "media.extra"}


async def test_replaces_is_the_whole_module(world):
    client = await world.guest()
    text = (world.shipped / "media/codec.py").read_text().replace("codec 1", "replaced")
    text = text.replace("VERSION = 1", 'REPLACES = "media.codec@1"\nVERSION = 5')
    assert (await world.load(text))["modules"] == {"media.codec": [1, 5]}
    assert await client.ask("version") == "replaced tail 1"


async def test_fields_with_defaults_and_nested_records_need_no_migration_of_the_room(world):
    client = await world.guest()
    body = "@state\nclass Track:\n    config: bytes = b''\n    frames: int = 0\n    extra: list[int] = field(factory=list)\n"
    await world.load(amend("media.codec", 1, f"from streamd.runtime.state import field\n\n\n{body}"))
    assert world.session().state.named["a"].extra == []
    assert await client.ask("count") == "2"
    await world.rollback()
    assert not hasattr(world.session().state.track, "extra")
    assert await client.ask("count") == "4"


async def test_no_call_mixes_releases_however_the_modules_call_each_other(world):
    await world.guest()
    await world.load(FIX)
    release = world.upgrades.current
    held = release.modules["handlers.room"].codec
    assert held is release.modules["media.codec"]
    assert held.both() == "codec 2 tail 2"
    for module in release.modules.values():
        for value in vars(module).values():
            owner = getattr(value, "__module__", "")
            assert not isinstance(owner, str) or not owner.startswith("live@") or owner.startswith("live@2")


# ---- what is refused


@pytest.mark.parametrize(
    ("text", "stage", "sentence"),
    [
        (amend("media.codec", 1, "def f(:\n"), "read", "invalid syntax\n    def f(:\n          ^"),
        (amend("media.codec", 3, ""), "merge", "made for media.codec@3, but media.codec@1 is running"),
        (amend("media.kodec", 1, ""), "merge", "media.kodec, which is no module of the running release"),
        (FIX.replace("VERSION = 2\n", ""), "read", "write VERSION = 2"),
        ("A = 1\n", "read", "a patch has one header"),
        (amend("media.codec", 1, "async def f():\n    pass\n"), "check", "patch_0.py:7: live code never awaits"),
        (amend("media.codec", 1, "def f():\n    await x\n"), "check", "never awaits"),
        (amend("media.codec", 1, "import time\n"), "check", "may not import time"),
        (amend("media.codec", 1, "SEEN = {}\n"), "check", "SEEN is a mutable value"),
        (amend("media.codec", 1, "SEEN = {}.copy()\n"), "import", "SEEN is a mutable value"),
        (amend("media.codec", 1, "SEEN = 1 // 0\n"), "import", "ZeroDivisionError"),
        (amend("media.codec", 1, "def f(a=exit()):\n    pass\n"), "import", "name 'exit' is not defined"),
        (amend("media.codec", 1, "from streamd.live.media import none\n"), "import", "cannot import name 'none'"),
        (amend("handlers.room", 1, "Room = None\n"), "rehearse", "new live/specimen: begin: TypeError"),
        (amend("handlers.room", 1, "def begin(name, settings):\n    return {}['x']\n"), "rehearse", "new live/specimen: begin: KeyError: 'x'"),
        (amend("handlers.room", 1, "def kind(session):\n    return nothing\n"), "rehearse", "describe() of the new code raised NameError"),
        (migration("return {'config': len}"), "rehearse", "returned state that is not plain: media.codec:Track.config: builtin"),
        (migration("return {'config': {1}}"), "rehearse", "set is not plain data"),
        (migration("return {**old, 'frames': '7'}"), "rehearse", "media.codec:Track.frames: expected int, not str '7'"),
        (migration("return {**old, 'frames': 1.0}"), "rehearse", "expected int, not float"),
        (migration("return {**old, 'odd': 1}"), "rehearse", "has no field 'odd'"),
        (migration("return None"), "rehearse", "media.codec.upgrade returned NoneType"),
        (migration("raise ValueError(old['config'])"), "rehearse", "media.codec.upgrade raised ValueError: b'one:two'"),
        (migration(down="return {**new, 'frames': 0}"), "rehearse", "downgrade does not restore what upgrade was given: state.named.a.frames was 7 and came back as 0"),
        (migration(down="del new['frames']; return new"), "rehearse", "frames is missing"),
        (migration(down="raise KeyError('gone')"), "rehearse", "media.codec.downgrade raised KeyError: 'gone'"),
        (amend("media.codec", 1, "@state\nclass Track:\n    config: bytes = b''\n"), "rehearse", "loses frames: write upgrade() and downgrade()"),
        (amend("media.codec", 1, "@state\nclass Track:\n    config: bytes\n    frames: int\n    more: int\n"), "rehearse", "gains more without a default"),
        (amend("media.codec", 1, "class Track:\n    config = b''\n"), "import", "is not a type that state may have"),
        (resumed("return [Send(1, 'text')]"), "rehearse", "Send carries str, not bytes"),
        (resumed("return 7"), "rehearse", "not a list of commands"),
        (resumed("return state.none"), "rehearse", "media.codec.resumed raised AttributeError"),
    ],
)  # fmt: skip
async def test_a_patch_that_must_be_refused_is_refused_without_effect(world, text, stage, sentence):
    client = await world.guest()
    assert await client.ask("count") == "2"
    refused = await refusal(world, text)
    assert sentence in str(refused)
    assert refused.stage == stage
    assert await client.ask("count") == "4"
    assert (await world.load(FIX))["release"] == 2


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda patches, outside: patches / "none.py", "no such file"),
        (lambda patches, outside: outside, "is outside the patches directory"),
        (lambda patches, outside: link(patches / "link.py", outside), "is a link that leads out of"),
        (lambda patches, outside: written(patches / "w.py", FIX.encode(), 0o646), "is writable by others"),
        (
            lambda patches, outside: written(patches / "l.py", FIX.encode() + b"# caf\xe9\n"),
            "not UTF-8 (byte 0xe9)",
        ),
        (
            lambda patches, outside: written(patches / "big.py", FIX.encode() + b"#" * (50 << 20)),
            "a patch may have 65536",
        ),
    ],
)
async def test_a_file_that_may_not_be_loaded_is_refused_without_effect(world, tmp_path, make, sentence):
    path = make(world.patches, written(tmp_path / "outside.py", FIX.encode()))
    before = Snapshot(world)
    for verb in (world.upgrades.load, world.upgrades.check):
        with pytest.raises(Refusal) as refused:
            await verb([str(path)], "/", BY, silent)
        assert sentence in str(refused.value)
        assert refused.value.stage == "read"
    before.check()


def link(path: Path, to: Path) -> Path:
    path.symlink_to(to)
    return path


def written(path: Path, raw: bytes, mode: int = 0o644) -> Path:
    path.write_bytes(raw)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(("count", "culprit"), [(100, 56), (1000, 777)])
async def test_one_migration_that_fails_among_many_disturbs_none(world, count, culprit):
    rooms = world.rooms(count)
    rooms[culprit].state.track.config = b"no colon"
    client = await world.guest()
    refused = await refusal(world, FIX.replace('old["config"].split(b":")', 'list(split(old["config"]))').replace(
        "def word", 'def split(config):\n    one, two = config.split(b":")\n    return one, two\n\n\ndef word'))  # fmt: skip
    assert str(refused) == (
        f"live/{culprit}: media.codec.upgrade raised ValueError: not enough values to unpack (expected 2, got 1) "
        '(line 19: one, two = config.split(b":")). Nothing was changed'
    )
    assert await client.ask("version") == "codec 1 tail 1"


async def test_state_that_is_not_plain_already_is_named_with_its_session(world):
    (room,) = world.rooms(1)
    room.state.heard = {1}
    with pytest.raises(Refusal, match=r"live/0: state: set is not plain data. Nothing was changed"):
        await world.load(FIX)


# ---- during the move


async def test_a_session_created_during_the_move_starts_on_the_right_release(tmp_path):
    bounds = Bounds(slice_ms=0.0)
    async with running(tmp_path, bounds=bounds) as world:
        world.rooms(30)
        born: dict[int, int] = {}

        async def newcomers() -> None:
            number = 1000
            while True:
                session = world.sessions.create(f"live/{number}")
                born[number] = session.release.number
                assert session.release is world.upgrades.current
                assert same(
                    lower(session.state.track), lower(world.upgrades.current.modules["media.codec"].Track())
                )
                number += 1
                await asyncio.sleep(0)

        tasks: list[asyncio.Task[None]] = []

        async def progress(stage: str, _done: int, _of: int) -> None:
            if stage == "import" and not tasks:
                tasks.append(asyncio.create_task(newcomers()))
            await asyncio.sleep(0)

        world.patch("fix.py", FIX)
        await world.upgrades.load(["fix.py"], "/", BY, progress, Wishes(accept_differences=True))
        tasks[0].cancel()
        assert set(born.values()) == {1, 2}
        assert {item.release.number for item in world.sessions.listed()} == {2}
        assert all(
            item.state.track.parts == [b"one", b"two"]
            for item in world.sessions.listed()
            if item.name < "live/9" and born.get(int(item.name[5:])) != 2
        )


async def test_a_migration_that_succeeds_in_rehearsal_but_fails_in_the_move_puts_everybody_back(tmp_path):
    async with running(tmp_path, bounds=Bounds(slice_ms=0.0)) as world:
        rooms = world.rooms(20)
        client = await world.guest("live/0")

        async def progress(stage: str, done: int, of: int) -> None:
            if stage == "rehearse" and done == of:
                rooms[10].state.track.config = b"spoilt"

        text = FIX.replace('{"parts"', '{"parts" if old["config"] != b"spoilt" else 1 // 0')
        path = world.patch("late.py", text)
        with pytest.raises(Refusal) as refused:
            await world.upgrades.load([path], "/", BY, progress)
        if refused.value.stage == "rehearse":
            pytest.fail("the state was spoilt too early for this test")
        assert refused.value.stage == "move"
        assert "live/10: media.codec.upgrade raised ZeroDivisionError" in str(refused.value)
        assert "Everyone is back where they were" in str(refused.value)
        assert {item.release.number for item in world.sessions.listed()} == {1}
        assert world.release == 1
        assert world.store.numbers() == [1]
        assert sorted(world.upgrades.library.releases) == [1]
        assert all(item.state.track.config == b"one:two" for item in rooms if item is not rooms[10])
        assert await client.ask("version") == "codec 1 tail 1"
        assert len(world.sessions.listed()) == 20
        assert not any(item.suspended for item in world.sessions.listed())
        rooms[10].state.track.config = b"one:two"
        assert (await world.load(FIX))["sessions"] == 20


async def test_an_odd_error_in_the_move_puts_everybody_back_too(world, monkeypatch):
    rooms = world.rooms(3)
    check = mover.resumed

    def failing(state: Any, source: Release, target: Release, session: Any, allowed: Any) -> Any:
        if session is rooms[2] and target.number == 2:
            raise RuntimeError("what nobody thought of")
        return check(state, source, target, session, allowed)

    monkeypatch.setattr(mover, "resumed", failing)
    with pytest.raises(Refusal, match=r"what nobody thought of. Everyone is back where they were"):
        await world.load(FIX)
    assert {item.release.number for item in rooms} == {world.release} == {1}
    assert gc.isenabled()


async def test_a_load_that_is_cancelled_in_the_move_puts_everybody_back(tmp_path):
    async with running(tmp_path, bounds=Bounds(slice_ms=0.0)) as world:
        rooms = world.rooms(20)
        task = asyncio.create_task(world.load(FIX))
        while not any(item.release.number == 2 for item in rooms):
            await asyncio.sleep(0)
        assert any(item.release.number == 1 for item in rooms)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert {item.release.number for item in rooms} == {world.release} == {1}
        assert world.store.history()[-1]["result"] == "failed"


async def test_a_load_while_another_runs_waits_and_never_interleaves(world):
    world.rooms(50)
    stages: list[tuple[int, str]] = []

    def progress(number: int) -> Any:
        async def note(stage: str, _done: int, _of: int) -> None:
            stages.append((number, stage))
            await asyncio.sleep(0)

        return note

    paths = [
        world.patch(f"{n}.py", amend("media.codec", n, f"def word() -> str:\n    return 'codec {n + 1}'\n"))
        for n in (1, 2, 3)
    ]
    answers: list[Any] = await asyncio.gather(
        *(world.upgrades.load([path], "/", BY, progress(number)) for number, path in enumerate(paths)),
        world.upgrades.check([paths[0]], "/", BY, progress(9)),
        return_exceptions=True,
    )
    assert [item["release"] for item in answers[:3]] == [2, 3, 4]
    assert isinstance(answers[3], Refusal)
    numbers = [number for number, _ in stages]
    assert numbers == sorted(numbers)
    assert {item.release.number for item in world.sessions.listed()} == {4}


async def test_the_loop_turns_and_timers_ring_while_many_sessions_move(tmp_path):
    async with running(tmp_path, bounds=Bounds(slice_ms=0.2)) as world:
        world.rooms(500)
        client = await world.guest()
        answers = []

        async def talk() -> None:
            while True:
                answers.append(await client.ask("version"))

        task = asyncio.create_task(talk())
        move = await world.load(FIX)
        task.cancel()
        assert {*answers} <= {"codec 1 tail 1", "codec 2 tail 2"}
        assert answers == sorted(answers)
        assert len(answers) > 5
        assert move["sessions"] == 501


async def test_resumed_commands_are_carried_out_right_after_the_switch(world):
    client = await world.guest()
    text = resumed(
        "return [Send(link, f'{word()} {state.track.frames} {now > 0}\\n'.encode()) for link in getattr(state, 'guests', ())]"
    )
    await world.load(text)
    assert await client.hear() == "codec 1 0 True"
    assert await client.ask("count") == "2"
    await world.rollback()
    assert await client.ask("count") == "4"
    await world.load(text)
    assert await client.hear() == "codec 1 4 True"
    await world.load(amend("protocol.lines", 1, "MARK = 1\n"))
    assert await client.ask("count") == "6"


# ---- history of releases


def word(base: int, text: str) -> str:
    return amend("media.codec", base, f"def word() -> str:\n    return '{text}'\n")


async def test_rollback_goes_any_number_of_steps_over_collected_ancestors(world):
    client = await world.guest()
    await world.load(FIX)
    for base in (2, 3, 4):
        await world.load(word(base, f"codec {base + 1}"))
    assert sorted(world.upgrades.library.releases) == [5]
    assert await client.ask("version") == "codec 5 tail 2"
    await world.rollback()
    assert await client.ask("version") == "codec 4 tail 2"
    answer = await world.rollback(1)
    assert answer["modules"] == {"media.codec": [4, 1]}
    assert world.session().state.track.config == b"one:two"
    assert await client.ask("version") == "codec 1 tail 1"
    assert sorted(world.upgrades.library.releases) == [1]


async def test_after_a_rollback_a_different_load_makes_a_sibling(world):
    client = await world.guest()
    await world.load(FIX)
    await world.rollback()
    answer = await world.load(COUNT_DOUBLED)
    assert answer["release"] == 3
    assert world.store.read_record(3).parent == 1
    assert await client.ask("count") == "3"
    with pytest.raises(Refusal, match="release 2 is no ancestor of release 3; roll back to one of 1"):
        await world.rollback(2)
    assert [item["text"] for item in world.store.read_record(3).patches] == [COUNT_DOUBLED]


@pytest.mark.parametrize(
    ("loads", "to", "sentence"),
    [
        (0, None, "release 1 is the code as shipped; there is nothing to roll back to"),
        (1, 2, "release 2 is running already"),
        (1, 9, "release 9 is no ancestor of release 2; roll back to one of 1"),
        (1, 0, "release 0 is no ancestor"),
    ],
)
async def test_a_rollback_to_nowhere_is_refused(world, loads, to, sentence):
    for _ in range(loads):
        await world.load(FIX)
    before = Snapshot(world)
    with pytest.raises(Refusal, match=sentence):
        await world.rollback(to)
    before.check()


async def test_a_rollback_that_cannot_convert_somebody_changes_nothing(world):
    world.rooms(5)
    await world.load(FIX)
    world.session("live/3").state.track.parts = ["text"]
    before = Snapshot(world)
    with pytest.raises(
        Refusal, match=r"live/3: .*Track.parts: expected bytes, not str 'text'. Nothing was changed"
    ):
        await world.rollback()
    before.check()
    world.session("live/3").state.track.parts = []
    assert (await world.rollback())["release"] == 1


async def test_an_ancestor_that_was_changed_on_disk_is_not_rolled_back_to(world):
    await world.load(FIX)
    path = world.store.path(1) / "media/codec.py"
    path.write_text(path.read_text() + "\n# touched\n")
    with pytest.raises(Refusal, match=r"release 1 .*was changed on disk and is not trusted"):
        await world.rollback()
    assert world.release == 2


async def test_check_goes_as_far_as_the_rehearsal_and_leaves_nothing(world):
    world.rooms(3)
    before = Snapshot(world)
    answer = await world.check(FIX)
    before.check()
    assert answer["modules"] == {"media.codec": [1, 2]}
    assert answer["text"].startswith(
        "fits release 1: media.codec 1 -> 2. 3 sessions rehearsed there and back, 0 events replayed."
    )
    with pytest.raises(Refusal, match="does not restore"):
        await world.check(migration(down="return {**new, 'frames': 0}"))
    before.check()
    assert [item["verb"] for item in world.store.history()] == ["start", "check", "check"]


async def test_too_many_live_releases_are_refused_with_who_holds_them(tmp_path):
    async with running(tmp_path, bounds=Bounds(max_live=2)) as world:
        (room,) = world.rooms(1)
        await world.load(FIX)
        world.point(room, 1)
        with pytest.raises(Refusal, match=r"2 releases live already, .*: 2 \(0 sessions\), 1 \(1 session\)"):
            await world.load(word(2, "x"))
        world.sessions.end(room, "gone")
        assert (await world.load(word(2, "x")))["release"] == 3


# ---- memory


@pytest.mark.parametrize("text", [FIX, migration(down="return {}"), amend("media.codec", 1, "X = 1 // 0\n")])
async def test_a_release_that_nothing_pins_is_collected_after_a_load_and_after_a_refused_load(world, text):
    client = await world.guest()
    loaded: list[weakref.ref[Any]] = []
    first = world.upgrades.current
    load = Release.load

    def watched(self: Release, like: Release | None = None, codes: Any = None) -> Release:
        loaded.append(weakref.ref(self))
        load(self, like, codes)
        codec = self.modules["media.codec"]
        loaded.extend(
            weakref.ref(item) for item in (codec, codec.word, codec.Track, self.modules["handlers.room"].Room)
        )
        return self

    Release.load = watched  # type: ignore[method-assign]
    try:
        try:
            await world.load(text)
        except Refusal:
            loaded_is_current = False
        else:
            loaded_is_current = True
    finally:
        Release.load = load  # type: ignore[method-assign]
    assert await client.ask("count") in ("2", "3")
    if loaded_is_current:
        codec = first.modules.get("media.codec")
        assert codec is None
        loaded = [weakref.ref(first)]
    del first
    gc.collect()
    assert [item() for item in loaded] == [None] * len(loaded)


async def test_twenty_loads_and_rollbacks_leave_one_release_in_memory(world):
    await world.guest()
    world.rooms(3)
    for _ in range(20):
        await world.load(FIX)
        await world.rollback()
    gc.collect()
    assert len([item for item in gc.get_objects() if isinstance(item, Release)]) == 1
    assert {name.split(".")[0] for name in sys.modules if name.startswith("live@")} == {"live@1"}
    assert (
        len(
            [
                item
                for item in gc.get_objects()
                if isinstance(item, type) and item.__name__ == "Track" and hasattr(item, "__state_tag__")
            ]
        )
        <= 3
    )


async def test_purge_removes_what_no_way_leads_to_and_says_who_pins_the_rest(world):
    (room,) = world.rooms(1)
    await world.load(FIX)
    await world.rollback()
    await world.load(COUNT_DOUBLED)
    world.point(room, 1)
    answer = await world.upgrades.purge(BY)
    assert answer["removed"] == [2]
    assert answer["pinned"] == [{"release": 1, "sessions": ["live/0"]}]
    assert answer["text"] == "removed release 2; release 1 is pinned by live/0"
    assert world.store.numbers() == [1, 3]
    assert not world.store.path(2).exists()
    assert (await world.load(word(2, "x")))["release"] == 4


# ---- restart

AGAIN: list[World] = []


@pytest.fixture(autouse=True)
def _close_again():
    yield
    while AGAIN:
        AGAIN.pop().close()


def restarted(world: World) -> World:
    """The same state directory in a new process, as far as the kernel can tell."""
    world.close()
    again = World(world.root)
    AGAIN.append(again)
    return again


async def test_a_restart_boots_the_last_kept_release_and_after_keep_the_kept_one(world):
    await world.load(FIX)
    again = restarted(world)
    assert (again.release, again.store.kept, again.warnings) == (1, 1, [])
    await again.load(COUNT_DOUBLED)
    assert (await again.upgrades.keep(BY))["text"] == "release 3 is kept: a restart boots it"
    await again.load(word(2, "more"))
    again = restarted(again)
    assert (again.release, again.warnings) == (3, [])
    answer = await again.rollback()
    assert answer["release"] == 1
    assert answer["text"].endswith("A restart boots release 3; change that with: streamd-ctl keep")
    assert restarted(again).release == 3


@pytest.mark.parametrize("how", ["text", "gone", "binary", "record"])
async def test_a_release_that_was_changed_on_disk_is_not_trusted_but_grown_again(world, how):
    await world.load(FIX)
    await world.upgrades.keep(BY)
    path = world.store.path(2) / "media/codec.py"
    if how == "text":
        path.write_text(path.read_text().replace("codec 2", "codec evil"))
    elif how == "gone":
        path.unlink()
    elif how == "binary":
        path.write_bytes(b"\xff")
    else:
        world.store.path(2).with_suffix(".json").write_text("{")
    again = restarted(world)
    assert again.release == 3
    assert len(again.warnings) == 1
    assert "release 2" in again.warnings[0]
    expected = "codec 1" if how == "record" else "codec 2"
    assert again.upgrades.current.modules["media.codec"].word() == expected


async def test_an_upgraded_package_takes_over_the_kept_patches_that_still_fit_and_names_the_others(world):
    await world.load(FIX)
    await world.load(USES_ADDED.replace("codec", "other").replace("media.other@1", "protocol.lines@1").replace(
        "from streamd.live.media import extra", "").replace("return extra.word()", "return 'x'"))  # fmt: skip
    await world.load(amend("handlers.door", 1, "def knock():\n    return 'who'\n"))
    await world.upgrades.keep(BY)
    codec = world.shipped / "media/codec.py"
    codec.write_text(codec.read_text().replace("VERSION = 1", "VERSION = 7  # the package has its own cure"))
    again = restarted(world)
    assert again.release == 5
    assert again.warnings[0] == "the package has changed since release 4 was kept"
    assert len(again.warnings) == 2
    assert again.warnings[1].startswith(
        "kept patch patch_0.py is left out: patch_0.py is made for media.codec@1, but media.codec@7"
    )
    modules = again.upgrades.current.modules
    assert (modules["media.codec"].word(), modules["protocol.lines"].word()) == ("codec 1", "x")
    assert modules["handlers.door"].knock() == "who"
    once_more = restarted(again)
    assert (once_more.release, once_more.warnings) == (5, [])


async def test_kept_patches_that_need_each_other_survive_an_upgrade_in_any_order(world):
    await world.load(USES_ADDED, ADDED)
    await world.upgrades.keep(BY)
    lines = world.shipped / "protocol/lines.py"
    lines.write_text(lines.read_text() + "\n# new\n")
    again = restarted(world)
    assert again.warnings == ["the package has changed since release 2 was kept"]
    assert again.upgrades.current.modules["media.codec"].word() == "extra"


async def test_one_kept_patch_that_no_longer_runs_does_not_take_the_others_with_it(world):
    await world.load(amend("handlers.room", 1, "from streamd.live.media.codec import tail\n"))
    await world.load(FIX)
    await world.upgrades.keep(BY)
    codec = world.shipped / "media/codec.py"
    codec.write_text(codec.read_text().replace("def tail", "def tale").replace("{tail()}", "{tale()}"))
    again = restarted(world)
    assert again.upgrades.current.modules["media.codec"].word() == "codec 2"
    lines = world.shipped / "protocol/lines.py"
    lines.write_text(lines.read_text().replace("LONGEST", "MOST"))
    assert digest(read_tree(again.shipped)) != again.upgrades.library.records[again.release].shipped


async def test_an_upgraded_package_without_kept_patches_is_simply_booted(world):
    codec = world.shipped / "media/codec.py"
    codec.write_text(codec.read_text().replace("codec 1", "codec new"))
    again = restarted(world)
    assert (again.release, again.warnings) == (2, [])
    assert again.upgrades.current.modules["media.codec"].word() == "codec new"


async def test_a_package_that_cannot_be_imported_is_no_start(tmp_path):
    tree = write_tree(tmp_path / "live")
    (tree / "media/codec.py").write_text("(")
    with pytest.raises(Exception, match="never closed"):
        World(tmp_path)


# ---- history


async def test_every_request_is_in_the_history_before_it_is_answered(world):
    await world.load(FIX)
    await world.rollback()
    with pytest.raises(Refusal):
        await world.load("(")
    await world.upgrades.keep(BY)
    entries = world.store.history()
    assert [(item["verb"], item["result"], item.get("release")) for item in entries] == [
        ("start", "ok", 1), ("load", "began", 2), ("load", "ok", 2), ("rollback", "began", 1), ("rollback", "ok", 1),
        ("load", "refused", None), ("keep", "began", 1), ("keep", "ok", 1),
    ]  # fmt: skip
    assert all(item["uid"] == 1000 and item["pid"] == 4711 for item in entries[1:])
    assert len(entries[1]["sha256"]) == 64
    assert entries[1]["paths"] == ["patch_0.py"]


async def test_without_a_history_nothing_is_loaded_but_what_was_loaded_can_be_taken_back(world, caplog):
    await world.load(FIX)
    (world.store.root / "history.jsonl").unlink()
    (world.store.root / "history.jsonl").mkdir()
    world.store.next_number = lambda: 3
    with pytest.raises(Refusal, match="nothing was changed"):
        await world.load(word(2, "x"))
    assert world.release == 2
    assert (await world.rollback())["release"] == 1
    assert "rollback is not in the history" in caplog.text


async def test_a_full_disk_refuses_a_load_without_effect(world, monkeypatch):
    def full(*_args: Any) -> Any:
        raise OSError(28, "No space left on device", "releases")

    before = Snapshot(world)
    monkeypatch.setattr(world.store, "write_tree", full)
    with pytest.raises(Refusal, match=r"No space left on device.*nothing was changed"):
        await world.load(FIX)
    monkeypatch.undo()
    monkeypatch.setattr(world.store, "write_record", full)
    with pytest.raises(Refusal, match="No space left"):
        await world.load(FIX)
    before.check()
    assert world.store.history()[-1]["stage"] == "disk"
