"""The admin socket: who may ask, what is no request, and that a request outlives its client."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import uvloop

from streamd.runtime import admin
from streamd.runtime.admin import (
    MAX_CONNECTIONS,
    MAX_REQUEST,
    OWN_CONNECTIONS,
    Admin,
    Caller,
    Circle,
    Roles,
    may_ask,
)
from streamd.runtime.patchfile import PatchError
from streamd.runtime.supervisor import CrashReports
from streamd.runtime.verbs import Verbs
from streamd.runtime.wishes import Progress, Refusal
from tests.fake_live import FIX, World, running, until

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture")
ME = {"uid": os.getuid(), "gid": os.getgid(), "pid": os.getpid()}


@pytest.fixture(params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy], ids=["asyncio", "uvloop"])
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    return request.param()


class Desk:
    """An admin socket with verbs of its own."""

    def __init__(self, path: Path, tmp_path: Path) -> None:
        self.gate = asyncio.Event()
        self.finished = 0
        self.reports = CrashReports(tmp_path / "crashes")
        verbs = {name: getattr(self, name) for name in ("echo", "slow", "refuse", "bug", "odd", "chatter")}
        self.admin = Admin(path, verbs, self.reports)
        self.path = path

    async def echo(self, args: dict[str, Any], caller: Caller, _progress: Progress) -> dict[str, Any]:
        return {"args": args, "by": caller.by, "cwd": caller.cwd}

    async def slow(self, _args: dict[str, Any], _caller: Caller, progress: Progress) -> dict[str, Any]:
        await progress("work", 1, 2)
        await self.gate.wait()
        for number in range(5):
            await progress("work", 2, number)
            await asyncio.sleep(0)
        self.finished += 1
        return {"text": "done"}

    async def chatter(self, _args: dict[str, Any], _caller: Caller, progress: Progress) -> dict[str, Any]:
        for number in range(20_000):
            await progress("x" * 1000, number, number)
        self.finished += 1
        return {}

    async def refuse(self, *_: Any) -> dict[str, Any]:
        raise Refusal("merge", "it does not fit")

    async def bug(self, *_: Any) -> dict[str, Any]:
        raise RuntimeError("unexpected")

    async def odd(self, *_: Any) -> dict[str, Any]:
        return {"set": {1}, "text": "fine"}

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(str(self.path))

    async def ask(self, raw: bytes) -> list[dict[str, Any]]:
        """Everything that is answered until the server hangs up or has given a final answer."""
        reader, writer = await self.connect()
        writer.write(raw)
        answers = await hear(reader)
        writer.close()
        return answers


async def hear(reader: asyncio.StreamReader) -> list[dict[str, Any]]:
    unpacker = msgpack.Unpacker()
    answers: list[dict[str, Any]] = []
    while not answers or "ok" not in answers[-1]:
        data = await asyncio.wait_for(reader.read(65_536), 5)
        if not data:
            break
        unpacker.feed(data)
        answers += unpacker
    return answers


def request(verb: str, **more: Any) -> bytes:
    packed = msgpack.packb({"v": 1, "verb": verb, "args": {}, "cwd": "/here", **more})
    assert isinstance(packed, bytes)
    return packed


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    made = Desk(tmp_path / "run" / "admin.sock", tmp_path)
    await made.admin.open()
    yield made
    made.gate.set()
    await made.admin.close()
    assert not made.path.exists()


async def test_who_asks_is_what_the_system_says(desk):
    answer = {"ok": True, "args": {"a": [1]}, "by": ME, "cwd": "/here"}
    assert await desk.ask(request("echo", args={"a": [1]}, by={"uid": 0})) == [answer]


@pytest.mark.parametrize(
    ("uid", "gid", "groups", "allowed"),
    [
        (0, 0, (), True),
        (os.geteuid(), 77, (), True),
        (4_001, 50, (), True),
        (4_001, 77, (12, 50), True),
        (4_001, 77, (12, 51), False),
        (4_001, 77, (), False),
    ],
)
def test_root_the_servers_user_and_the_sockets_group_may_ask(uid, gid, groups, allowed):
    assert may_ask({"uid": uid, "gid": gid, "pid": 1}, groups, 50) is allowed


LOADERS = Circle(frozenset({4_001}), frozenset({40}))
LOOKERS = Circle(frozenset({4_002}), frozenset({41}))
LOADER, LOADER_BY_GROUP = (4_001, 77, ()), (4_009, 77, (12, 40))
LOOKER, LOOKER_BY_GROUP = (4_002, 77, ()), (4_009, 41, ())
SOMEBODY = (4_009, 77, (12,))


@pytest.mark.parametrize(
    ("roles", "who", "looks", "changes"),
    [
        (Roles(), SOMEBODY, True, True),
        (Roles(LOADERS), LOADER, True, True),
        (Roles(LOADERS), LOADER_BY_GROUP, True, True),
        (Roles(LOADERS), SOMEBODY, True, False),
        (Roles(LOADERS, LOOKERS), LOADER, True, True),
        (Roles(LOADERS, LOOKERS), LOOKER, True, False),
        (Roles(LOADERS, LOOKERS), LOOKER_BY_GROUP, True, False),
        (Roles(LOADERS, LOOKERS), SOMEBODY, False, False),
        (Roles(LOADERS, LOOKERS), (0, 0, ()), True, True),
        (Roles(LOADERS, LOOKERS), (os.geteuid(), 77, ()), True, True),
    ],
)
def test_who_may_change_something_may_look_and_not_the_other_way(roles, who, looks, changes):
    uid, gid, groups = who
    by = {"uid": uid, "gid": gid, "pid": 1}
    look, change = roles.refusal("status", True, by, groups), roles.refusal("load", False, by, groups)
    assert (not look, not change) == (looks, changes)
    if not looks:
        assert (
            look
            == f"uid {uid} gid {gid} may not ask for status; [admin] look of the server's configuration says who may"
        )
    if looks and not changes:
        assert (
            change
            == f"uid {uid} gid {gid} may look, but not load; [admin] load of the server's configuration says who may"
        )


NOBODY = (65_534, 65_534)


async def ask_as(desk: Desk, uid: int, gid: int, raw: bytes) -> list[dict[str, Any]]:
    """What somebody else is answered."""
    for place in (desk.path.parent, *desk.path.parent.parents):
        if not place.stat().st_mode & stat.S_IXOTH:
            place.chmod(place.stat().st_mode | stat.S_IXOTH)
    code = (
        "import contextlib,os,socket,sys; uid,gid=map(int,sys.argv[2:4]); os.setgroups([]); os.setgid(gid); os.setuid(uid)\n"
        "s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.settimeout(5)\n"
        "with contextlib.suppress(OSError):\n"  # who is refused is hung up on before he has asked
        "    s.sendall(sys.stdin.buffer.read()); s.shutdown(socket.SHUT_WR)\n"
        "while data := s.recv(4096): sys.stdout.buffer.write(data)"
    )
    asked = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        code,
        str(desk.path),
        str(uid),
        str(gid),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await asked.communicate(raw)
    unpacker = msgpack.Unpacker()
    unpacker.feed(said)
    return list(unpacker)


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@as_root
async def test_somebody_else_is_refused_even_where_the_mode_lets_him_connect(desk):
    desk.path.chmod(0o666)
    (answer,) = await ask_as(desk, *NOBODY, b"")
    assert not answer["ok"]
    assert "uid 65534 gid 65534 may not ask" in answer["error"]


@as_root
async def test_who_may_only_look_is_told_so_and_goes_on_looking(desk):
    os.chown(desk.path, -1, NOBODY[1])
    desk.admin.looks = {"echo"}
    desk.admin.roles = Roles(Circle(frozenset({4_001})))
    desk.gate.set()
    looked, refused, again = await ask_as(desk, *NOBODY, request("echo") + request("slow") + request("echo"))
    assert (looked["by"]["uid"], again["ok"]) == (NOBODY[0], True)
    assert refused == {
        "ok": False,
        "stage": "request",
        "error": "uid 65534 gid 65534 may look, but not slow; [admin] load of the server's configuration says who may",
    }
    assert desk.finished == 0
    desk.admin.roles = Roles(Circle(frozenset({4_001})), Circle(frozenset({4_002})))
    (refused,) = await ask_as(desk, *NOBODY, request("echo"))
    assert "may not ask for echo; [admin] look" in refused["error"]
    assert (await desk.ask(request("slow")))[-1]["ok"]  # the server's own user always may


@as_root
async def test_who_takes_all_connections_of_his_keeps_nobody_else_out(desk):
    os.chown(desk.path, -1, NOBODY[1])
    desk.admin._connections[NOBODY[0]] = MAX_CONNECTIONS
    (refused,) = await ask_as(desk, *NOBODY, request("echo"))
    assert refused["error"] == "uid 65534 has 32 connections open already; close one of them"
    assert (await desk.ask(request("echo")))[0]["ok"]
    desk.admin._connections[NOBODY[0]] -= 1
    assert (await ask_as(desk, *NOBODY, request("echo")))[0]["ok"]


async def test_connections_are_counted_until_they_end(desk):
    clients = [await desk.connect() for _ in range(OWN_CONNECTIONS)]
    await until(lambda: desk.admin._connections[os.getuid()] == OWN_CONNECTIONS)
    assert "256 connections open already" in (await desk.ask(request("echo")))[0]["error"]
    for _, writer in clients:
        writer.transport.abort()
    await until(lambda: desk.admin._connections[os.getuid()] == 0)
    assert (await desk.ask(request("echo")))[0]["ok"]


async def test_a_socket_whose_path_was_taken_away_still_answers_who_is_connected(desk):
    assert (await desk.ask(request("echo")))[0]["ok"]
    moved = desk.path.with_name("moved.sock")
    desk.path.rename(moved)
    reader, writer = await asyncio.open_unix_connection(str(moved))
    writer.write(request("echo"))
    assert (await hear(reader))[0]["ok"]
    writer.close()


@pytest.mark.parametrize("mode", [0o777, 0o1777])
async def test_a_directory_in_which_others_could_replace_the_socket_is_refused(tmp_path, mode):
    place = tmp_path / "open"
    place.mkdir()
    place.chmod(mode)
    desk = Desk(place / "a.sock", tmp_path)
    if mode & stat.S_ISVTX:  # as /tmp: nobody can take away what is not his
        await desk.admin.open()
        await desk.admin.close()
        return
    with pytest.raises(
        OSError, match=f"{place} is writable by others; say chmod o-w {place}, or give another --admin"
    ):
        await desk.admin.open()


@as_root
@pytest.mark.parametrize("kind", ["directory", "link"])
async def test_a_directory_that_somebody_else_made_in_tmp_is_refused(tmp_path, kind):
    place = tmp_path / "streamd-0"
    if kind == "link":
        (tmp_path / "mine").mkdir()
        place.symlink_to(tmp_path / "mine")
    else:
        place.mkdir()
    os.chown(place, *NOBODY, follow_symlinks=False)
    with pytest.raises(OSError, match=f"{place} belongs to uid 65534; give another --admin"):
        await Desk(place / "a.sock", tmp_path).admin.open()


async def test_the_socket_is_for_owner_and_group_from_its_birth_in_a_directory_of_its_own(desk):
    assert stat.S_IMODE(desk.path.stat().st_mode) == 0o660
    assert stat.S_IMODE(desk.path.parent.stat().st_mode) == 0o700
    assert os.umask(0o022) != 0o117
    os.umask(0o022)


async def test_requests_may_come_in_pieces_and_several_on_one_connection(desk):
    reader, writer = await desk.connect()
    for byte in request("echo"):
        writer.write(bytes([byte]))
        await asyncio.sleep(0)
    assert (await hear(reader))[-1]["cwd"] == "/here"
    writer.write(request("refuse") + request("echo"))
    answers = await hear(reader)
    while len(answers) < 2:
        answers += await hear(reader)
    assert answers[0] == {"ok": False, "stage": "merge", "error": "it does not fit"}
    assert answers[1]["ok"]
    writer.close()


async def test_progress_comes_before_the_answer(desk):
    desk.gate.set()
    answers = await desk.ask(request("slow"))
    assert answers[0] == {"progress": "work", "done": 1, "of": 2}
    assert answers[-1] == {"ok": True, "text": "done"}
    assert len(answers) == 7


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (msgpack.packb(7), "a request is a map with v, verb and args"),
        (msgpack.packb({"v": 1}), "a request is a map"),
        (msgpack.packb({"v": 1, "verb": 7}), "a request is a map"),
        (msgpack.packb({"v": 2, "verb": "echo"}), "this server speaks version 1, the request version 2"),
        (msgpack.packb({"verb": "echo"}), "the request version None"),
        (request("dance"), "no verb 'dance'; there are bug, chatter, echo, odd, refuse, slow"),
        (request("echo", args=[1]), "args is a map"),
        (b"\xc1", "not a msgpack request"),
        (b"GET / HTTP/1.1\r\n\r\n", "a request is a map"),
        (msgpack.packb({1: 2}), "not a msgpack request"),
        (b"\xa5\xff\xff\xff\xff\xff", "not a msgpack request"),
        (b"\xdb\x7f\xff\xff\xff" + b"x" * 2_000_000, "not a msgpack request"),
        (b"\x81" * 5000, "not a msgpack request"),
    ],
)
async def test_what_is_no_request_costs_its_own_connection_only(desk, raw, sentence):
    answer = (await desk.ask(raw))[0]
    assert answer["ok"] is False
    assert answer["stage"] == "request"
    assert sentence in answer["error"]
    assert (await desk.ask(request("echo")))[0]["ok"]
    assert desk.reports.count == 0


async def test_a_bug_in_a_verb_is_an_answer_and_a_report(desk):
    (answer,) = await desk.ask(request("bug"))
    assert (answer["ok"], answer["stage"]) == (False, "bug")
    assert "bug failed with RuntimeError: unexpected; crash report in" in answer["error"]
    assert desk.reports.count == 1


async def test_an_answer_that_cannot_be_packed_is_told_in_words(desk):
    assert await desk.ask(request("odd")) == [{"ok": True, "set": "{1}", "text": "fine"}]


@pytest.mark.parametrize("manner", ["close", "reset"])
async def test_a_request_runs_to_its_end_when_its_client_hangs_up(desk, manner):
    reader, writer = await desk.connect()
    writer.write(request("slow"))
    assert (await reader.read(100))[:1] == b"\x83"
    writer.transport.abort() if manner == "reset" else writer.close()
    await asyncio.sleep(0)
    desk.gate.set()
    await until(lambda: desk.finished == 1)
    assert (await desk.ask(request("echo")))[0]["ok"]
    assert desk.reports.count == 0


async def test_a_client_that_does_not_read_holds_nothing_up(desk):
    _, writer = await desk.connect()
    writer.transport.pause_reading()
    writer.write(request("chatter"))
    await until(lambda: desk.finished == 1)
    assert MAX_REQUEST < 20_000 * 1000
    writer.transport.abort()


async def test_what_only_looks_does_not_wait_for_what_works(desk):
    reader, writer = await desk.connect()
    writer.write(request("slow"))
    await reader.read(100)
    assert (await desk.ask(request("echo")))[0]["ok"]
    assert desk.finished == 0
    writer.close()


async def test_a_stale_socket_file_is_taken_over_and_a_living_one_is_not(desk, tmp_path):
    with pytest.raises(OSError, match=f"another streamd answers at {desk.path}"):
        await Desk(desk.path, tmp_path).admin.open()
    assert (await desk.ask(request("echo")))[0]["ok"]
    stale = tmp_path / "stale.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(stale))
    second = Desk(stale, tmp_path)
    await second.admin.open()
    assert (await second.ask(request("echo")))[0]["ok"]
    await second.admin.close()


async def test_a_living_server_that_is_too_busy_to_accept_is_not_taken_for_a_dead_one(tmp_path):
    path = tmp_path / "busy.sock"
    callers = []
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(path))
        busy.listen(0)
        for _ in range(3):  # fill its queue
            callers.append(socket.socket(socket.AF_UNIX))
            callers[-1].setblocking(False)
            try:
                callers[-1].connect(str(path))
            except BlockingIOError:
                break
        with pytest.raises(OSError, match="another streamd answers"):
            await Desk(path, tmp_path).admin.open()
        assert path.exists()
    for caller in callers:
        caller.close()


async def test_a_path_that_is_something_else_is_refused(tmp_path):
    path = tmp_path / "file"
    path.write_text("precious")
    with pytest.raises(OSError, match="exists and is no socket"):
        await Desk(path, tmp_path).admin.open()
    assert path.read_text() == "precious"
    with pytest.raises(OSError, match="admin socket cannot be given to group 'nobody-has-it'"):
        await Admin(tmp_path / "a.sock", {}, CrashReports(tmp_path), "nobody-has-it").open()


# ---- with the real verbs


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[tuple[World, Desk]]:
    async with running(tmp_path) as world:
        desk = Desk(tmp_path / "admin.sock", tmp_path)
        desk.admin = Admin(
            desk.path, Verbs(world.sessions, world.upgrades, dict, lambda: None).table, world.reports
        )
        await desk.admin.open()
        yield world, desk
        await desk.admin.close()


def loads(world: World, result: str) -> list[dict[str, Any]]:
    return [item for item in world.store.history() if (item["verb"], item["result"]) == ("load", result)]


async def test_a_load_goes_on_when_its_client_hangs_up_and_its_credentials_are_in_the_history(server):
    world, desk = server
    world.rooms(200)
    client = await world.guest()
    reader, writer = await desk.connect()
    paths = [world.patch("fix.py", FIX)]
    writer.write(request("load", args={"paths": paths, "accept_differences": True}))
    await reader.read(10)
    writer.transport.abort()
    await until(lambda: loads(world, "ok"), 20)
    for entry in (*loads(world, "began"), *loads(world, "ok")):
        assert {name: entry[name] for name in ME} == ME
        assert (entry["paths"], entry["release"]) == (paths, 2)
    assert await client.ask("version") == "codec 2 tail 2"
    assert {item.release.number for item in world.sessions.listed()} == {2}
    assert world.store.verify().problems == []


async def test_loads_of_two_clients_are_served_one_after_the_other(server):
    world, desk = server
    world.rooms(50)
    ask = request("load", args={"paths": [world.patch("fix.py", FIX)], "accept_differences": True})
    answers = [item[-1] for item in await asyncio.gather(desk.ask(ask), desk.ask(ask))]
    assert sorted(item["ok"] for item in answers) == [False, True]
    assert [item["stage"] for item in answers if not item["ok"]] == ["merge"]
    assert (len(loads(world, "ok")), len(loads(world, "refused"))) == (1, 1)


async def test_a_patch_by_nobody_that_is_known_is_refused_and_one_that_is_signed_says_by_whom(server):
    world, desk = server
    world.upgrades.drafting.verify = verify = Signers()
    ask = request("load", args={"paths": [world.patch("fix.py", FIX)], "accept_differences": True})
    refused = (await desk.ask(ask))[-1]
    assert (refused["ok"], refused["stage"], refused["error"]) == (False, "signature", "fix.py is not signed")
    assert loads(world, "refused")[0]["stage"] == "signature"
    verify.signer = "operator"
    assert (await desk.ask(ask))[-1]["ok"]
    assert verify.seen == [FIX.encode()] * 2
    assert world.store.read_record(2).signers == ["operator"]


class Signers:
    """Stands in for signing.Trust."""

    def __init__(self) -> None:
        self.signer = ""
        self.seen: list[bytes] = []

    def __call__(self, path: Path, raw: bytes) -> str:
        self.seen.append(raw)
        if not self.signer:
            raise PatchError(f"{path.name} is not signed", "signature")
        return self.signer


async def test_the_end_waits_once_for_all_that_run(desk, monkeypatch):
    monkeypatch.setattr(admin, "PARTING", 0.1)
    for _ in range(20):
        _, writer = await desk.connect()
        writer.write(request("slow"))
    await until(lambda: len(desk.admin._running) == 20)
    began = asyncio.get_running_loop().time()
    await desk.admin.close()
    assert asyncio.get_running_loop().time() - began < 1.5, "20 times 0.1 s are more"
