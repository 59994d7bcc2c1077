"""The cases of OTP's own release_handler_SUITE (lib/sasl/test) that have a meaning here, answered one by one.

Each test says in its docstring which case it answers to, and what that case is about in OTP's words. Those without a
counterpart, and why:

    client1, client2, upgrade_gg    diskless clients and global groups of nodes; one server is one process here
    target_system, no_run_erl       building an installation is the package's affair
    no_dot_erlang                   no start-up file is read
    otp_10463_upgrade_script_regexp a patch names one exact version; there are no patterns to match

The words: a release that is `temporary` there has been loaded here, a `permanent` one is kept, an `old` one lies on
disk for a rollback.
"""

from __future__ import annotations

import gc
import inspect
import sys
import weakref
from pathlib import Path

import pytest

from streamd.runtime.wishes import Bounds, Refusal, silent
from tests.fake_live import BY, FIX, TREE, World, amend, running

AGAIN: list[World] = []


@pytest.fixture(autouse=True)
async def _close_again():
    yield  # the loop must still be there: connections linger
    while AGAIN:
        AGAIN.pop().close()


def restarted(world: World) -> World:
    """The same directories in a new process, as far as the kernel can tell."""
    world.close()
    again = World(world.root)
    AGAIN.append(again)
    return again


def word(base: int, says: str) -> str:
    return amend("media.codec", base, f"def word() -> str:\n    return {says!r}\n")


def replaces(module: str, base: int, text: str) -> str:
    """A whole module as a patch."""
    header = f'REPLACES = "{module}@{base}"\nVERSION = {base + 1}\n'
    return text.replace(f"VERSION = {base}\n", header)


ROOM = TREE["handlers/room.py"]
RENAMED = TREE["media/codec.py"].replace(
    "VERSION = 1\n", 'ADDS = "media.coder"\nRENAMES = "media.codec@1"\nVERSION = 2\n'
)
ROOM_OF_RENAMED = replaces(
    "handlers.room", 1, ROOM.replace("media import codec", "media import coder").replace("codec.", "coder.")
)
# a module that nobody has a record of, and what is left when it has gone
ADDED = 'from __future__ import annotations\n\nADDS = "media.extra"\nVERSION = 1\n\n\ndef word():\n    return "extra"\n'
USES_ADDED = amend(
    "media.codec",
    1,
    "from streamd.live.media import extra\n\n\ndef word() -> str:\n    return extra.word()\n",
)
WITHOUT_ADDED = amend("media.codec", 2, "def word() -> str:\n    return 'on its own'\n")
REMOVED = 'REMOVES = "media.extra@1"\n'
MANY = 10  # modules, as in OTP's many_mods
SESSIONS = 200


def live_modules(number: int) -> set[str]:
    return {name.partition(".")[2] for name in sys.modules if name.startswith(f"live@{number}.")}


async def refusal(world: World, *texts: str) -> Refusal:
    before = world.release, world.store.numbers(), [item.state for item in world.sessions.listed()]
    with pytest.raises(Refusal) as refused:
        await world.load(*texts)
    assert (world.release, world.store.numbers(), [item.state for item in world.sessions.listed()]) == before
    return refused.value


# ---- up and down, temporary and permanent, across restarts


async def test_upgrade(world):
    """upgrade: install, reboot, make permanent, install over it, go back, remove; after each, the right one runs."""
    assert (await world.load(FIX))["release"] == 2
    world = restarted(world)  # it was temporary
    assert (world.release, world.store.kept, world.warnings) == (1, 1, [])
    assert (await world.load(FIX))["release"] == 3  # once more, and permanent this time
    await world.upgrades.keep(BY)
    world = restarted(world)
    assert (world.release, world.store.kept, world.warnings) == (3, 3, [])
    client = await world.guest()
    assert await client.ask("version") == "codec 2 tail 2"
    await world.load(word(2, "three"))
    await world.load(word(3, "four"))
    assert await client.ask("version") == "four tail 2"
    await world.rollback()  # down by one
    assert await client.ask("version") == "three tail 2"
    await world.upgrades.keep(BY)
    await world.load(word(3, "another four"))
    assert await client.ask("version") == "another four tail 2"
    world = restarted(world)
    assert world.upgrades.current.modules["media.codec"].word() == "three"
    client = await world.guest()
    assert (await world.rollback(3))["modules"] == {"media.codec": [3, 2]}
    await world.upgrades.keep(BY)
    assert await client.ask("version") == "codec 2 tail 2"
    assert (await world.rollback(1))["modules"] == {"media.codec": [2, 1]}  # back to the oldest
    await world.upgrades.keep(BY)
    assert world.session().state.track.config == b""  # of a room that began with the parts of version 2, none
    assert await client.ask("version") == "codec 1 tail 1"
    removed = (await world.upgrades.purge(BY))["removed"]
    assert removed == [number for number in removed if number != 1]
    world = restarted(world)
    assert (world.release, world.store.numbers(), world.warnings) == (1, [1], [])


async def test_upgrade_restart(world):
    """upgrade_restart: an upgrade that goes over a restart of the emulator, up and down again.

    Here a restart between the two is an upgrade of the package: what was kept goes on in the new code, and again in the
    old one when the package is taken back.
    """
    await world.load(FIX)
    await world.upgrades.keep(BY)
    lines = world.shipped / "protocol/lines.py"
    before = lines.read_text()
    lines.write_text(before.replace("LONGEST = 1000", "LONGEST = 2000"))
    world = restarted(world)
    assert world.upgrades.current.modules["protocol.lines"].LONGEST == 2000
    assert world.upgrades.current.modules["media.codec"].word() == "codec 2"
    client = await world.guest()
    assert await client.ask("version") == "codec 2 tail 2"
    lines.write_text(before)
    world = restarted(world)
    assert world.upgrades.current.modules["protocol.lines"].LONGEST == 1000
    assert world.upgrades.current.modules["media.codec"].word() == "codec 2"
    client = await world.guest()
    assert await client.ask("version") == "codec 2 tail 2"


async def test_eval_appup(world):
    """eval_appup: one application up and down; the answer of a running process changes and changes back, and the
    application is told of its new configuration each way (here: `resumed` greets the new code)."""
    client = await world.guest()
    greeting = (
        "from streamd.runtime.vocabulary import Send\n\n\ndef word() -> str:\n    return 'codec 2'\n\n\n"
        "def resumed(state, now):\n"
        "    return [Send(link, b'val2\\n') for link in getattr(state, 'guests', ())]\n"
    )
    assert await client.ask("version") == "codec 1 tail 1"
    await world.load(amend("media.codec", 1, greeting))
    assert await client.hear() == "val2"
    assert await client.ask("version") == "codec 2 tail 1"
    await world.rollback()
    assert await client.ask("version") == "codec 1 tail 1"


async def test_eval_appup_with_restart(world):
    """eval_appup_with_restart: what would need a new emulator is refused by the application upgrade, not half done."""
    for module in ("runtime.session", "streamd.runtime.session", "server"):
        refused = await refusal(world, amend(module, 1, "def step():\n    return 1\n"))
        assert f"{module}, which is no module of the running release" in str(refused)


# ---- old code that is still in use


async def test_instructions(tmp_path):
    """instructions: what runs old code stands in the way of a soft purge, and a brutal one kills it.

    Here purge never kills: it says who holds on, and the release goes when they let go.
    """
    async with running(tmp_path) as world:
        one, other = await world.guest(), await world.guest("live/b")
        await world.upgrades.pin(world.session("live/a"), BY)
        await world.load(FIX)
        assert [await item.ask("version") for item in (one, other)] == ["codec 1 tail 1", "codec 2 tail 2"]
        answer = await world.upgrades.purge(BY)
        assert answer["pinned"] == [{"release": 1, "sessions": ["live/a"]}]
        assert "release 1 is pinned by live/a" in answer["text"]
        assert await one.ask("version") == "codec 1 tail 1"
        kept = weakref.ref(world.upgrades.library.releases[1].modules["media.codec"])
        await world.upgrades.unpin("live/a", BY)
        assert [await item.ask("version") for item in (one, other)] == ["codec 2 tail 2"] * 2
        assert (await world.upgrades.purge(BY))["pinned"] == []
        gc.collect()
        assert kept() is None
        assert live_modules(1) == set()
        assert 1 in world.store.numbers()  # on disk, for a rollback


async def test_supervisor_which_children_timeout(world):
    """supervisor_which_children_timeout: a suspended supervisor makes the whole upgrade fail.

    Here a session that takes no events moves like any other: nobody is asked anything. What waits for it is answered
    by the new code.
    """
    client = await world.guest()
    room = world.session()
    room.suspend()
    client.say("version")
    assert (await world.load(FIX))["sessions"] == 1
    room.resume()
    assert await client.hear() == "codec 2 tail 2"


async def test_otp_9395_check_old_code(world):
    """otp_9395_check_old_code: with many processes the search for old code must not be what takes the time.

    Here old code is not searched for: who runs what is the pinned release of each session.
    """
    rooms = world.rooms(SESSIONS)
    world.point(rooms[7], 1)
    await world.upgrades.pin(rooms[7], BY)
    await world.load(FIX)
    pinned = (await world.upgrades.purge(BY))["pinned"]
    assert pinned == [{"release": 1, "sessions": ["live/7"]}]
    await world.upgrades.unpin("live/7", BY)
    assert (await world.upgrades.purge(BY))["pinned"] == []


async def test_otp_9395_check_and_purge(world):
    """otp_9395_check_and_purge: a check leaves old code as it is; asked to purge, it is gone before the install."""
    await world.load(FIX)
    await world.load(word(2, "three"))
    before = world.store.numbers(), live_modules(3)
    await world.check(word(3, "four"))
    assert (world.store.numbers(), live_modules(3)) == before
    assert (live_modules(1), live_modules(2), live_modules(4)) == (set(), set(), set())
    await world.upgrades.purge(BY)
    assert (await world.load(word(3, "four")))["release"] in (4, 5)


# ---- many modules, many sessions


def many(kind: str) -> list[str]:
    """A patch for each of many modules."""
    texts = []
    for number in range(MANY):
        header = {
            "ADDS": f'ADDS = "media.m{number}"\nVERSION = 1\n',
            "AMENDS": f'AMENDS = "media.m{number}@1"\nVERSION = 2\n',
            "REMOVES": f'REMOVES = "media.m{number}@2"\n',
        }[kind]
        version = {"ADDS": 1, "AMENDS": 2}.get(kind)
        body = f"\n\ndef word():\n    return {version}\n" if version else ""
        texts.append(f"from __future__ import annotations\n\n{header}{body}")
    return texts


async def test_otp_9395_update_many_mods(world):
    """otp_9395_update_many_mods: many modules of many processes at once, up, down and up again."""
    world.rooms(SESSIONS)
    client = await world.guest()
    await world.load(*many("ADDS"))
    for _ in range(2):
        answer = await world.load(*many("AMENDS"))
        assert answer["sessions"] == SESSIONS + 1
        assert answer["modules"] == {f"media.m{number}": [1, 2] for number in range(MANY)}
        assert {item.release.number for item in world.sessions.listed()} == {answer["release"]}
        assert world.upgrades.current.modules["media.m7"].word() == 2
        await world.rollback()
        assert world.upgrades.current.modules["media.m7"].word() == 1
    assert await client.ask("version") == "codec 1 tail 1"


async def test_otp_9395_rm_many_mods(world):
    """otp_9395_rm_many_mods: the same, and the modules are removed."""
    world.rooms(SESSIONS)
    await world.load(*many("ADDS"))
    await world.load(*many("AMENDS"))
    before = live_modules(3)
    answer = await world.load(*many("REMOVES"))
    assert answer["modules"] == {f"media.m{number}": [2, 0] for number in range(MANY)}
    assert "media.m0 2 -> gone" in answer["text"]
    assert live_modules(4) == before - {f"media.m{number}" for number in range(MANY)}
    assert live_modules(3) == set()
    await world.rollback()
    assert live_modules(3) == before
    assert len(world.sessions.listed()) == SESSIONS


# ---- new, removed and renamed modules


async def test_otp_2760(world):
    """otp_2760: what is removed from a node is unloaded there; here with the release, and back with a rollback."""
    client = await world.guest()
    await world.load(ADDED, USES_ADDED)
    assert await client.ask("version") == "extra tail 1"
    assert "media.extra" in live_modules(2)
    answer = await world.load(REMOVED, WITHOUT_ADDED)
    assert answer["modules"] == {"media.extra": [1, 0], "media.codec": [2, 3]}
    assert await client.ask("version") == "on its own tail 1"
    assert not any("media.extra" in name for name in sys.modules)
    assert not (world.store.path(3) / "media/extra.py").exists()
    await world.rollback()
    assert await client.ask("version") == "extra tail 1"
    await world.rollback()
    assert await client.ask("version") == "codec 1 tail 1"


async def test_otp_9417(world):
    """otp_9417: a module can be removed although nothing had loaded it; what it did is done elsewhere from then on."""
    await world.load(ADDED)
    await world.load(REMOVED)
    assert "media.extra" not in live_modules(3)
    await world.upgrades.keep(BY)
    world = restarted(world)
    assert "media.extra" not in live_modules(3)
    assert world.release == 3
    refused = await refusal(world, REMOVED)
    assert "media.extra, which is no module of the running release" in str(refused)


async def test_a_removed_module_that_is_still_imported(world):
    """otp_9417 and otp_2760, seen from whoever goes on using what was removed: OTP finds that at the first call."""
    await world.load(ADDED, USES_ADDED)
    refused = await refusal(world, REMOVED)
    assert refused.stage == "merge"
    assert (
        "still imports media.extra, which patch_0.py takes away; patch media.codec in the same load"
        in str(refused)
    )


async def test_a_renamed_module(world):
    """The relup's add_module and delete_module for one module that lives on under another name: its records follow."""
    client = await world.guest()
    assert await client.ask("count") == "2"
    answer = await world.load(RENAMED, ROOM_OF_RENAMED)
    assert answer["modules"] == {"media.coder": [0, 2], "media.codec": [1, 0], "handlers.room": [1, 2]}
    assert type(world.session().state.track).__module__ == "live@2.media.coder"
    assert world.session().state.named["a"].frames == 7
    assert await client.ask("version") == "codec 1 tail 1"
    assert await client.ask("count") == "5"
    assert "media.codec" not in live_modules(2)
    assert "media.codec, which is no module of the running release" in str(await refusal(world, FIX))
    await world.rollback()
    assert type(world.session().state.track).__module__ == "live@1.media.codec"
    assert await client.ask("count") == "7"
    refused = await refusal(world, RENAMED)
    assert "handlers.room" in str(refused)
    assert "still imports media.codec" in str(refused)


# ---- paths


async def test_otp_5761(world):
    """otp_5761: the code's directory is that of the release that runs, after each install, there and back.

    OTP changes it only with an option; here a release is one directory, and everything in it comes from there.
    """

    def directory(module: str) -> Path:
        file = inspect.getsourcefile(world.upgrades.current.modules[module].__dict__[NAMES[module]])
        return Path(str(file)).parent.parent

    NAMES = {"media.codec": "word", "handlers.room": "step"}
    for base in (1, 1):
        await world.load(word(base, "up"))
        assert {directory(name) for name in NAMES} == {world.store.path(world.release)}
        await world.rollback()
        assert {directory(name) for name in NAMES} == {world.store.path(1)}


async def test_otp_9402(world):
    """otp_9402: a new version without a changed module still changes the paths.

    Here a load without a change is refused, for it would say that something is cured; and of a module that is the same
    to the letter, what a traceback names is the running release's own file.
    """
    refused = await refusal(world, 'AMENDS = "media.codec@1"\nVERSION = 2\n')
    assert "changes nothing: it defines nothing besides VERSION" in str(refused)
    await world.load(FIX)
    same = world.upgrades.current.modules["handlers.room"].answer
    assert same.__code__.co_filename == str(world.store.path(2) / "handlers/room.py")


async def test_otp_9864(world, tmp_path):
    """otp_9864: a symbolic link inside a release does not keep it from being removed; what it leads to stays."""
    await world.load(FIX)
    await world.rollback()
    target = tmp_path / "elsewhere"
    target.mkdir()
    (target / "precious").write_text("x")
    (world.store.path(2) / "foo_symlink_dir").symlink_to(target)
    (world.store.path(2) / "media" / "self").symlink_to(world.store.path(2))
    assert (await world.upgrades.purge(BY))["removed"] == [2]
    assert not world.store.path(2).exists()
    assert (target / "precious").read_text() == "x"


# ---- specifications


async def test_upgrade_supervisor(world):
    """upgrade_supervisor: a new specification is in force after the upgrade, for whoever is started from then on."""
    begins = (
        "def begin(name: str, settings) -> Room:\n"
        "    return Room(name, more=[codec.Track(), codec.Track()], named={'new': codec.Track(frames=9)})\n"
    )
    await world.guest()
    await world.load(amend("handlers.room", 1, begins))
    assert world.session().state.named["a"].frames == 7
    await world.guest("live/b")
    assert world.session("live/b").state.named["new"].frames == 9
    assert len(world.session("live/b").state.more) == 2


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("def begin(name: str, settings) -> Room:\n    return Room(nome=name)\n", "TypeError"),
        ("def begin(name: str, settings) -> Room:\n    return Room(7)\n", "expected str, not int"),
        ("def kind(session):\n    raise LookupError('invalid shutdown')\n", "invalid shutdown"),
    ],
)
async def test_upgrade_supervisor_fail(world, body, sentence):
    """upgrade_supervisor_fail: a bad specification fails the upgrade, and OTP restarts the node to get back.

    Here it is found before anything has moved.
    """
    client = await world.guest()
    refused = await refusal(world, amend("handlers.room", 1, body))
    assert sentence in str(refused)
    assert await client.ask("version") == "codec 1 tail 1"


async def test_release_handler_which_releases(world):
    """release_handler_which_releases: which releases there are, and of each whether it is permanent, current or old."""

    def told() -> dict[int, str]:
        current, kept = world.release, world.store.kept
        return {
            number: "current" if number == current else "permanent" if number == kept else "old"
            for number in world.store.numbers()
        }

    assert (told(), world.store.kept) == ({1: "current"}, 1)
    await world.load(FIX)
    assert told() == {1: "permanent", 2: "current"}
    await world.load(word(2, "three"))
    await world.upgrades.keep(BY)
    assert (told(), world.store.kept) == ({1: "old", 2: "old", 3: "current"}, 3)
    record = world.upgrades.library.record(3)
    assert (record.parent, record.modules, record.by) == (2, {"media.codec": [2, 3]}, BY)
    assert [item["name"] for item in record.patches] == ["patch_0.py", "patch_0.py"]


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (FIX + "\n\ndef broken(:\n", "def broken(:\n               ^"),
        (FIX + "\n\nword()\n", "this statement would run\n    word()\n    ^"),
        (FIX + "\n\nimport asyncio\n", "may not import asyncio"),
        (FIX + "\n\ndef late():\n    exec('1')\n", "does not call exec()\n    exec('1')\n    ^"),
        ('ADDS = "illegal instruction"\nVERSION = 1\n', "ADDS must be a text such as"),
    ],
    ids=["syntax", "would run", "import", "call", "header"],
)
async def test_install_release_syntax_check(world, text, where):
    """install_release_syntax_check: the check finds illegal instructions, those after the point of no return too."""
    before = world.store.numbers(), live_modules(2)
    with pytest.raises(Refusal) as refused:
        await world.check(text)
    assert where in str(refused.value)
    assert "patch.py:" in str(refused.value)
    assert (world.store.numbers(), live_modules(2)) == before


@pytest.mark.parametrize(
    "version", ["'atom'", "('of', 'terms')", "['list', 'of']", "'a string'", "2.5", "-1", "None"]
)
async def test_otp_2740(world, version):
    """otp_2740: versions that are tuples, lists, atoms or texts. Here a version is a whole number, and that is said."""
    refused = await refusal(world, FIX.replace("VERSION = 2", f"VERSION = {version}"))
    assert "write VERSION = 2 (a whole number above 1, the version it replaces)" in str(refused)


async def test_otp_2740_numeric(world):
    """otp_2740: a numeric version works, however large."""
    (world.shipped / "media/codec.py").write_text(
        TREE["media/codec.py"].replace("VERSION = 1", "VERSION = 231894")
    )
    again = restarted(world)
    assert (await again.load(FIX.replace("@1", "@231894").replace("= 2", "= 231895")))["release"] == 3


# ---- unicode


async def test_unicode_upgrade(tmp_path):
    """unicode_upgrade: names, descriptions and values that are not ASCII, in paths, code, state and what is told of it."""
    root = tmp_path / "unicode_αβ"
    root.mkdir()
    async with running(root) as world:
        client = await world.guest("live/straße")
        assert await client.ask("wake 0 Ünïcödé_αβ") == "tick Ünïcödé_αβ"
        text = FIX.replace('"codec 2"', '"codec αβ"').replace("codec_fix:", "codec_fix αβ €:")
        name = world.patch("φix_αβ.py", text.replace("VERSION", 'DIFFERS = "Send: says αβ"\nVERSION'))
        answer = await world.upgrades.load([name], str(root), BY, silent)
        assert answer["release"] == 2
        assert await client.ask("version") == "codec αβ tail 2"
        assert world.session("live/straße").state.heard == ["tick Ünïcödé_αβ"]
        assert world.store.history()[-1]["paths"] == ["φix_αβ.py"]
        await world.upgrades.keep(BY)
        again = restarted(world)
        record = again.upgrades.library.record(2)
        assert (record.patches[0]["name"], record.differs) == ("φix_αβ.py", "Send: says αβ")
        assert again.upgrades.current.modules["media.codec"].word() == "codec αβ"


async def test_target_system_unicode(tmp_path):
    """target_system_unicode: an installation below a path that is not ASCII starts, loads and refuses with that path."""
    root = tmp_path / "αβ γ"
    root.mkdir()
    async with running(root, bounds=Bounds(max_bytes=65_536)) as world:
        with pytest.raises(Refusal, match=r"αβ γ/patches/ключ.py:1: '\(' was never closed"):
            await world.upgrades.check([world.patch("ключ.py", "(")], "/", BY, silent)
        await world.load(FIX)
        assert (world.release, world.store.path(2).exists()) == (2, True)
