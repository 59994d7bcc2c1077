"""What an operator may ask: each verb's answer, and what a wrong argument is told."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from streamd.runtime.admin import Caller
from streamd.runtime.verbs import Verbs
from streamd.runtime.wishes import Refusal, silent
from tests.fake_live import BY, FIX, World, until


class Operator:
    def __init__(self, world: World) -> None:
        self.world = world
        self.stopped: list[int] = []
        facts = {"rtmp": "127.0.0.1:1", "http": "127.0.0.1:2", "version": "x"}
        self.verbs = Verbs(world.sessions, world.upgrades, lambda: facts, lambda: self.stopped.append(1))

    async def ask(self, verb: str, **args: Any) -> dict[str, Any]:
        return await self.verbs.table[verb](args, Caller(BY, str(self.world.root)), silent)

    async def refused(self, verb: str, **args: Any) -> str:
        with pytest.raises(Refusal) as refusal:
            await self.ask(verb, **args)
        return str(refusal.value)


@pytest.fixture
async def operator(world: World) -> Operator:
    return Operator(world)


async def test_status_tells_releases_and_sessions(operator, world):
    client = await world.guest()
    await world.connect()
    await operator.ask("load", paths=[world.patch("fix.py", FIX)])
    status = await operator.ask("status")
    assert (status["release"], status["kept"], status["pid"], status["doors"]) == (2, 1, os.getpid(), 1)
    assert (status["rtmp"], status["http"], status["version"]) == ("127.0.0.1:1", "127.0.0.1:2", "x")
    first, second = status["releases"]
    assert (first["number"], first["state"], first["parent"], first["sessions"]) == (
        1,
        "stored kept",
        None,
        0,
    )
    assert (second["number"], second["state"], second["parent"], second["sessions"]) == (2, "running", 1, 2)
    assert (second["modules"], second["patches"], second["by"]) == ({"media.codec": 2}, ["fix.py"], BY)
    (told,) = status["sessions"]
    assert told["received"] > 0 < told["sent"]
    assert {name: told[name] for name in ("name", "release", "links", "kind")} == {
        "name": "live/a", "release": 2, "links": 1, "kind": "room"
    }  # fmt: skip
    assert status["probation"] is None
    assert (status["mixed"], status["pins"]) == (False, [])
    assert await client.ask("version") == "codec 2 tail 2"


@pytest.mark.parametrize(
    "told", [{"set": {1, 2}, "big": 2**70, "bytes": b"x", "deep": [[[[[[[[[[[1]]]]]]]]]]]}, None, 7]
)
async def test_status_survives_a_session_that_describes_itself_badly(operator, world, told):
    def fails(_state: Any) -> dict[str, Any]:
        raise KeyError(7)

    world.rooms(1)
    world.upgrades.current.describe = lambda state: told
    (session,) = (await operator.ask("status"))["sessions"]
    assert session["name"] == "live/0"
    world.upgrades.current.describe = fails
    (session,) = (await operator.ask("status"))["sessions"]
    assert session["phase"] == "describe() failed: KeyError: 7"


async def test_status_survives_a_record_that_cannot_be_read(operator, world):
    await operator.ask("load", paths=[world.patch("fix.py", FIX)])
    (world.store.releases / "0009.json").write_text("{")
    status = await operator.ask("status")
    assert [item["number"] for item in status["releases"]] == [1, 2, 9]
    assert status["releases"][2]["state"] == "unreadable"


async def test_one_session_is_told_with_its_groups_and_peers(operator, world):
    client = await world.guest()
    client.say("ring 1000 5000 5000", "enter")
    await client.hear()
    for name in ("live/a", "a"):
        (told,) = (await operator.ask("sessions", name=name))["sessions"]
        assert told["groups"] == [{"group": "all", "members": 1, "units": 0, "bytes": 0}]
        assert told["peers"][0]["group"] == "all"
    assert [item["name"] for item in (await operator.ask("sessions"))["sessions"]] == ["live/a"]


async def test_the_last_events_of_a_session_are_told(operator, world):
    client = await world.guest()
    await client.ask("version")
    trace = await operator.ask("trace", name="live/a")
    assert (trace["name"], trace["steps"]) == ("live/a", 2)
    assert [(item["kind"], item["link"], item["size"], item["commands"]) for item in trace["events"]] == [
        ("Joined", 1, 0, 1), ("Data", 1, 8, 1)
    ]  # fmt: skip


async def test_differences_are_the_patch(operator, world):
    assert "has no parent" in (await operator.ask("diff"))["text"]
    await operator.ask("load", paths=[world.patch("fix.py", FIX)])
    text = (await operator.ask("diff"))["text"]
    assert "--- 0001/media/codec.py\n+++ 0002/media/codec.py\n" in text
    assert '-    return "codec 1"\n+    return "codec 2"\n' in text
    assert text.count("+++ ") == 1
    back = (await operator.ask("diff", **{"from": 2, "to": 1}))["text"]
    assert '+    return "codec 1"\n' in back
    assert (await operator.ask("diff", **{"from": 2, "to": 2}))[
        "text"
    ] == "releases 2 and 2 have the same source"
    assert await operator.refused("diff", to=9) == "release 9: " + str(world.store.releases / "0009.json") + (
        ": [Errno 2] No such file or directory: '" + str(world.store.releases / "0009.json") + "'"
    )
    assert (
        await operator.refused("diff", **{"from": 9, "to": 1})
        == "there is no release 9 on disk; there are 1, 2"
    )


async def test_a_new_patch_is_ready_to_check(operator, world):
    first = await operator.ask("new-patch", module="media.codec")
    second = await operator.ask("new-patch", module="streamd.live.media.codec")
    assert [Path(item["path"]).name for item in (first, second)] == ["codec_fix.py", "codec_fix_2.py"]
    text = Path(first["path"]).read_text()
    assert (
        "#   class Track\n#   def word()\n#   def both()\n#   def tail()\n#   def count(track: Track)\n"
        in text
    )
    assert "changes nothing" in await operator.refused("check", paths=["codec_fix.py"])
    Path(first["path"]).write_text(f'{text}\n\ndef tail() -> str:\n    return "another"\n')
    checked = await operator.ask("check", paths=["codec_fix.py"])
    assert checked["modules"] == {"media.codec": [1, 2]}
    for name in (None, "", "streamd.live.", "media", "media.none", 7, ["media.codec"]):
        assert "no live module" in await operator.refused("new-patch", module=name)


async def test_modules_are_named_for_completion(operator, world):
    told = await operator.ask("modules")
    assert told["modules"] == dict.fromkeys(
        ("handlers.door", "handlers.room", "media.codec", "protocol.lines"), 1
    )


async def test_history_is_told_and_can_be_cut(operator, world):
    await operator.ask("load", paths=[world.patch("fix.py", FIX)])
    await operator.ask("rollback", to=None)
    await operator.ask("keep")
    assert [(item["verb"], item["result"]) for item in (await operator.ask("history"))["entries"]] == [
        ("start", "ok"), ("load", "began"), ("load", "ok"), ("rollback", "began"), ("rollback", "ok"),
        ("keep", "began"), ("keep", "ok"),
    ]  # fmt: skip
    verified = (await operator.ask("history", verify=True))["verified"]
    assert (verified["entries"], verified["problems"]) == (7, [])
    assert [item["verb"] for item in (await operator.ask("history", last=1))["entries"]] == ["keep"]


async def test_stop_is_answered_first_and_in_the_history(operator, world):
    assert (await operator.ask("stop"))["text"].startswith("stopping")
    assert operator.stopped == []
    await until(lambda: operator.stopped == [1])
    assert world.store.history()[-1]["verb"] == "stop"


@pytest.mark.parametrize(
    ("verb", "args", "sentence"),
    [
        ("load", {}, "say which patch"),
        ("load", {"paths": []}, "say which patch"),
        ("load", {"paths": "fix.py"}, "say which patch"),
        ("load", {"paths": [7]}, "say which patch"),
        ("check", {"paths": ["a\0b"]}, "say which patch"),
        ("rollback", {"to": "1"}, "to is a release number, not '1'"),
        ("rollback", {"to": True}, "to is a release number"),
        ("rollback", {"to": -1}, "to is a release number"),
        ("rollback", {}, "release 1 is the code as shipped; there is nothing to roll back to"),
        ("diff", {"from": 1.5}, "from is a release number"),
        ("history", {"last": "x"}, "last is a release number"),
        ("trace", {}, "no session None; there are none"),
        ("trace", {"name": ["x"]}, "no session ['x']"),
        ("trace", {"name": "live/none"}, "no session 'live/none'"),
        ("sessions", {"name": 7}, "no session 7"),
    ],
)
async def test_a_wrong_argument_is_a_sentence(operator, verb, args, sentence):
    assert sentence in await operator.refused(verb, **args)
