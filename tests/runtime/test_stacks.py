"""Patches on patches, and loads of several modules between which state moves: up, used, and down again."""

from __future__ import annotations

import pytest

from streamd.runtime.state import lower, same
from streamd.runtime.wishes import Refusal
from tests.fake_live import BY, FIX, TREE, World, amend

AGAIN: list[World] = []


@pytest.fixture(autouse=True)
async def _close_again():
    yield  # the loop must still be there: connections linger
    while AGAIN:
        AGAIN.pop().close()


def restarted(world: World) -> World:
    world.close()
    again = World(world.root)
    AGAIN.append(again)
    return again


def whole(module: str, text: str, extra: str = "") -> str:
    """A module of the fake tree as a patch that replaces it."""
    return (
        text.replace("VERSION = 1\n", f'REPLACES = "{module}@1"\nVERSION = 2\n').rstrip() + f"\n\n\n{extra}"
    )


ROOM = TREE["handlers/room.py"]
FIELDS = "    heard: list[str] = field(factory=list)\n"

# the count of lines moves from the codec's record to the room's
COUNTS_IN_THE_ROOM = (
    whole(
        "handlers.room",
        ROOM.replace(FIELDS, FIELDS + "    lines: int = 0\n")
        .replace("room.track.frames += 1", "room.lines += 1")
        .replace("codec.count(room.track)", "room.lines += 1")
        .replace("{room.track.frames}", "{room.lines}")
        .replace("codec.Track(frames=7)", "codec.Track()"),
        """def upgrade_session(state):
    if state["@"] == "handlers.room:Room":
        state["lines"] = state["track"]["frames"]
        state["frames"] = [item.pop("frames") for item in tracks(state)]
    return state


def downgrade_session(state):
    if state["@"] == "handlers.room:Room":
        for item, frames in zip(tracks(state), state.pop("frames")):
            item["frames"] = frames
        state["track"]["frames"] = state.pop("lines")
    return state


def tracks(state):
    return [state["track"], *state["more"], *filter(None, state["named"].values())]
""",
    ).replace("    lines: int = 0\n", "    lines: int = 0\n    frames: list[int] = field(factory=list)\n"),
    whole(
        "media.codec",
        TREE["media/codec.py"]
        .replace("    frames: int = 0\n", "")
        .replace("def count(track: Track) -> None:\n    track.frames += 1\n", ""),
    ),
)

# one record becomes two, of which one is new and one is old; `what` is its part of the room
SPLIT = (
    whole(
        "media.codec",
        TREE["media/codec.py"]
        .replace("    config: bytes = b\"one:two\"\n    frames: int = 0\n", "    frames: int = 0\n    sets: Sets = field(factory=lambda: Sets())\n")
        .replace("import state", "import field, state")
        .replace("# says which", "@state\nclass Sets:\n    config: bytes = b\"one:two\"\n\n\n# says which"),
        """def upgrade(old):
    return {"frames": old["frames"], "sets": {"@": "media.codec:Sets", "config": old["config"]}}


def downgrade_Track(new):
    return {"frames": new["frames"], "config": new["sets"]["config"]}
""",
    ),
)  # fmt: skip


async def use(client) -> list[str]:
    """What only counts up, so that an answer shows the state behind it."""
    return [await client.ask("count") for _ in range(3)]


async def test_state_moves_from_one_module_s_record_to_another_s_and_back(world):
    client, door = await world.guest(), await world.connect()
    assert await use(client) == ["2", "4", "6"]
    before = lower(world.session().state)
    answer = await world.load(*COUNTS_IN_THE_ROOM)
    assert answer["modules"] == {"handlers.room": [1, 2], "media.codec": [1, 2]}
    assert (world.session().state.lines, hasattr(world.session().state.track, "frames")) == (6, False)
    await world.rollback()
    assert same(lower(world.session().state), before)
    await world.load(*COUNTS_IN_THE_ROOM)
    assert await use(client) == ["8", "10", "12"]
    door.say("join live/a", "count")
    assert [await door.hear() for _ in range(2)] == ["welcome to live/a", "14"]
    await world.rollback()
    assert await use(client) == ["16", "18", "20"]
    assert world.session().state.named["a"].frames == 7


async def test_a_record_is_split_and_put_together_again(world):
    client = await world.guest()
    await use(client)
    await world.load(*SPLIT)
    track = world.session().state.track
    assert (track.sets.config, track.frames) == (b"one:two", 6)
    assert await use(client) == ["8", "10", "12"]
    await world.rollback()
    assert world.session().state.track.config == b"one:two"
    assert await use(client) == ["14", "16", "18"]


async def test_a_stack_goes_down_step_by_step_or_in_one_stride_after_much_has_happened_on_it(world):
    client = await world.guest()
    await world.load(FIX)
    await world.load(amend("media.codec", 2, "def tail() -> str:\n    return 'tail 3'\n"))
    await world.load(
        amend(
            "media.codec",
            3,
            "@state\nclass Track:\n    parts: list[bytes] = field(factory=list)\n    frames: int = 0\n"
            "    added: str = 'new'\n    later: int = 5\n",
        )
    )
    for number in range(300):
        assert await client.ask("count") == str(2 * number + 2)
    late = await world.guest("live/late")
    assert await late.ask("version") == "codec 2 tail 3"
    assert (await world.rollback())["modules"] == {"media.codec": [4, 3]}
    assert (await world.rollback(1))["modules"] == {"media.codec": [3, 1]}
    assert world.session().state.track.config == b"one:two"
    assert [await item.ask("version") for item in (client, late)] == ["codec 1 tail 1"] * 2
    assert await client.ask("count") == "603"


async def test_a_migration_that_forgets_one_of_the_modules_is_refused(world):
    client = await world.guest()
    room, codec = COUNTS_IN_THE_ROOM
    with pytest.raises(Refusal, match=r"media.codec:Track loses frames: write upgrade\(\) and downgrade\(\)"):
        await world.load(codec, room.partition("def upgrade_session")[0])
    with pytest.raises(Refusal, match=r"media.codec:Track has no field 'frames'"):
        await world.load(codec, room.replace('*state["more"], ', ""))
    with pytest.raises(Refusal, match=r"downgrade does not restore|no field 'lines'"):
        await world.load(codec, room.replace("def downgrade_session", "def backwards"))
    assert world.release == 1
    assert await use(client) == ["2", "4", "6"]


async def test_what_is_irreversible_is_not_crossed_and_says_why(world):
    client = await world.guest()
    one_way = FIX.partition("\n\ndef downgrade")[0] + "\n"
    with pytest.raises(Refusal):
        await world.load(one_way)
    await world.load(one_way, irreversible="the old encoder is gone")
    await world.load(amend("media.codec", 2, "def tail() -> str:\n    return 'tail 3'\n"))
    assert await client.ask("version") == "codec 2 tail 3"
    with pytest.raises(Refusal, match=r"release 2 was loaded as irreversible \(the old encoder is gone\)"):
        await world.rollback(1)
    assert (await world.rollback())["release"] == 2
    with pytest.raises(Refusal, match="the old encoder is gone"):
        await world.rollback()
    assert await client.ask("version") == "codec 2 tail 2"


async def test_what_was_promoted_into_the_package_is_recognised_and_dropped(world):
    await world.load(FIX)
    await world.load(amend("media.codec", 2, "def word() -> str:\n    return 'codec 3'\n"))
    await world.load(amend("handlers.door", 1, "def knock() -> str:\n    return 'who'\n"))
    await world.upgrades.keep(BY)
    files = (await world.upgrades.promote(BY))["files"]
    assert set(files) == {"streamd/live/media/codec.py", "streamd/live/handlers/door.py"}
    codec = files["streamd/live/media/codec.py"]
    (world.shipped / "media/codec.py").write_text(f"{codec}\n\n# committed\n")
    again = restarted(world)
    assert again.upgrades.current.modules["media.codec"].word() == "codec 3"
    assert again.upgrades.current.modules["handlers.door"].knock() == "who"
    assert [item for item in again.warnings if "dropped" in item] == [
        "dropped, for the package has it now: patch_0.py",
        "dropped, for the package has it now: patch_0.py",
    ]
    assert len(again.upgrades.library.record(again.release).patches) == 1
    once_more = restarted(again)
    assert (once_more.release, once_more.warnings) == (again.release, [])
