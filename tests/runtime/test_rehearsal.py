"""The process that rehearses: what it reports, and that it alone comes to grief whatever a patch does.

The candidates here are written to disk as they are: they need not have passed the law, for what the law does not see
must not hurt either.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic, thread_time
from types import SimpleNamespace
from typing import Any

import msgpack
import pytest

from streamd.runtime.drafting import _around
from streamd.runtime.journal import BLAMED, FAILED, Checkpoint, Entry
from streamd.runtime.patchfile import PatchError
from streamd.runtime.rehearse import (
    ChildBounds,
    ChildFailed,
    Merged,
    Rehearsal,
    ReleaseFact,
    SessionCopy,
    _Tape,
)
from streamd.runtime.release import Release, ReleaseError
from streamd.runtime.state import StateError, lift, lower
from streamd.runtime.tryout import MOST_FAILURES
from streamd.runtime.vocabulary import Data, Event, Joined, PeerError, Tick
from streamd.runtime.wire import LENGTH, MOST_NAMED, MOST_NUMBERS, Around, LinkFact
from tests.fake_live import FIX, TREE, amend, write_tree

BOUNDS = ChildBounds(memory=256 << 20, cpu_seconds=20, seconds=20, replay_seconds=5, step_seconds=0.2)
CODEC = TREE["media/codec.py"]
ROOM = TREE["handlers/room.py"]
LINK = 7
MIGRATION = """

def upgrade(old: dict) -> dict:
    {up}


def downgrade(new: dict) -> dict:
    {down}
"""


def codec(extra: str = "") -> dict[str, str]:
    """The tree with another media.codec, which has more at its end."""
    return {**TREE, "media/codec.py": CODEC.replace("VERSION = 1", "VERSION = 2") + extra}


def with_word(body: str, head: str = "") -> dict[str, str]:
    """The tree in which every "version" is answered by `body`."""
    text = CODEC.replace("VERSION = 1", "VERSION = 2").replace('    return "codec 1"', f"    {body}")
    return {**TREE, "media/codec.py": text.replace("VERSION = 2", f"{head}\n\nVERSION = 2")}


def migrating(up: str = "return old", down: str = "return new") -> dict[str, str]:
    return codec(MIGRATION.format(up=up, down=down))


async def silent(_done: int, _of: int) -> None:
    """Nobody watches."""


def children() -> set[int]:
    """The processes that are children of this one, zombies included."""
    found = set()
    for task in os.listdir("/proc/self/task"):
        with suppress(FileNotFoundError), open(f"/proc/self/task/{task}/children") as file:
            found |= set(map(int, file.read().split()))
    return found


def descriptors() -> set[str]:
    return {f"{item} {os.readlink(f'/proc/self/fd/{item}')}" for item in _listed("/proc/self/fd")}


def _listed(path: str) -> list[str]:
    handle = os.open(path, os.O_RDONLY)
    try:
        own = str(handle)
        return [item for item in os.listdir(handle) if item != own and os.path.exists(f"{path}/{item}")]
    finally:
        os.close(handle)


@pytest.fixture(autouse=True)
async def _leaves_nothing() -> AsyncIterator[None]:
    """No child, thread or descriptor stays behind, whatever the test has done."""
    await asyncio.sleep(0)
    before = children(), threading.active_count(), len(_listed("/proc/self/fd"))
    yield
    deadline = monotonic() + 5
    while (after := (children(), threading.active_count(), len(_listed("/proc/self/fd")))) != before:
        assert monotonic() < deadline, f"{before} has become {after}: {descriptors()}"
        await asyncio.sleep(0.01)


class Stage:
    """A running release on disk and in memory, a candidate on disk, and sessions that have lived."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.old = Release(1, write_tree(root / "0001"), None).load()
        self.copies: list[SessionCopy] = []

    def session(
        self, name: str = "live/a", lines: Iterable[str] = ("version", "count"), times: int = 3
    ) -> None:
        """A room with one guest that has said these lines, each so many times; and what it will be replayed from."""
        room = self.old.begin(name, {}, 0)
        door, reader = self.old.modules["handlers.door"], self.old.modules["protocol.lines"]
        first = Checkpoint(self.old, lower(room))
        said = [Data(10, LINK, f"{line}\n".encode()) for line in list(lines) * times]
        events: list[Event] = [Joined(1, LINK, door.Guest(LINK, reader.Reader()), "peer"), *said]
        entries = []
        for event in events:
            kept = event._replace(guest=lower(event.guest)) if isinstance(event, Joined) else event
            before = lower(room)
            try:
                answer = len(self.old.step(room, event))
            except PeerError:
                answer = BLAMED
            except Exception:
                answer, room = FAILED, self.lifted(before)
            entries.append(Entry(kept, answer, self.old))
        self.copies.append(SessionCopy(name, 1, lower(room), (first, entries), [], 1))

    def lifted(self, lowered: Any) -> Any:
        return lift(lowered, self.old.record)

    def facts(self, candidate: dict[str, str]) -> list[ReleaseFact]:
        write_tree(self.root / "0002", candidate)
        return [
            ReleaseFact(1, str(self.root / "0001"), None, {}, codes=dict(self.old.codes())),
            ReleaseFact(2, str(self.root / "0002"), 1, {"media.codec": [1, 2]}),
        ]

    async def open(
        self, child: Rehearsal, candidate: dict[str, str], specimens: tuple[str, ...] = ()
    ) -> None:
        await child.open(self.facts(candidate), 1, 2, {}, list(specimens))

    async def report(
        self,
        candidate: dict[str, str],
        bounds: ChildBounds = BOUNDS,
        specimens: tuple[str, ...] = (),
        back: bool = True,
    ) -> dict[str, Any]:
        """What the rehearsal says of a candidate."""
        async with Rehearsal(bounds) as child:
            await self.open(child, candidate, specimens)
            return await child.migrate(iter(self.copies), back, True, silent)

    async def failure(self, candidate: dict[str, str], bounds: ChildBounds = BOUNDS) -> dict[str, Any]:
        """The one failure of a candidate's rehearsal."""
        report = await self.report(candidate, bounds)
        assert len(report["failures"]) == 1, report
        assert [row["ok"] for row in report["sessions"]] == [False]
        failure: dict[str, Any] = report["failures"][0]
        assert report["sessions"][0]["why"] == failure["sentence"]
        assert failure["name"] == "live/a"
        return failure


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    made.session()
    yield made
    made.old.discard()


# ---- what a good patch gets told


async def test_a_good_patch_migrates_there_and_back_and_is_compared(stage):
    report = await stage.report(codec("\n\nMORE = 1\n"), specimens=("door/0", "live/specimen"))
    (row,) = report["sessions"]
    assert row["ok"], report["failures"]
    assert (row["name"], row["release"], row["why"]) == ("live/a", 1, "")
    assert (row["events"], row["differences"], row["cured"]) == (7, 0, 0)
    assert row["up_ms"] > 0
    assert row["down_ms"] > 0
    assert row["lower_ms"] > 0
    assert report["failures"] == report["differences"] == []
    assert (report["events"], report["replayed"], report["not_replayed"]) == (7, 1, 0)
    assert 0 < report["predicted_pause_ms"] < 50
    assert report["memory_mb"] > 1
    assert report["growth_bytes"] == 0


async def test_what_differs_is_counted_and_the_first_difference_told_by_hash(stage):
    async with Rehearsal(BOUNDS) as child:
        merged = await merge(stage, child, FIX)
        await stage.open(child, paths(merged), ("live/specimen",))
        report = await child.migrate(iter(stage.copies), True, True, silent)
    assert report["failures"] == []
    assert report["different"] == 3
    first = report["differences"][0]
    assert first["name"] == "live/a"
    assert first["event"] == "event 2 (Data of link 7, 8 bytes)"
    assert "Send.data" in first["sentence"]
    assert "sha256" in first["sentence"]
    assert report["sessions"][0]["first_difference"].startswith(
        "event 2 (Data of link 7, 8 bytes): Send.data"
    )
    assert report["growth_bytes"] > 0, "the new record has one more field"


async def test_a_difference_in_number_and_a_peers_fault_that_is_one_no_longer_are_differences(stage):
    stage.copies.clear()
    stage.session(lines=["nonsense", "count"], times=1)
    candidate = {
        **codec(),
        "handlers/room.py": ROOM.replace('raise PeerError(f"what is {verb}?")', "return []").replace(
            "codec.count(room.track)", "return [Send(link, b'1'), Send(link, b'2')]"
        ),
    }
    report = await stage.report(candidate)
    assert report["failures"] == []
    assert [item["sentence"] for item in report["differences"]] == [
        "no longer the peer's fault: what is nonsense?",
        report["differences"][1]["sentence"],
    ]
    assert report["different"] == 2
    assert (report["ends"], report["kinds"]) == (0, ["PeerError", "Send"])


async def test_what_kinds_of_commands_differ_and_whether_something_ends_is_told(stage):
    candidate = {
        **codec(),
        "handlers/room.py": ROOM.replace(
            'return [Send(link, f"{room.track.frames}\\n".encode())]', 'return [Close(link, "enough")]'
        ),
    }
    assert candidate["handlers/room.py"] != ROOM
    report = await stage.report(candidate)
    assert (report["different"], report["ends"]) == (3, 3)
    assert report["kinds"] == ["Close", "Send"]
    assert (report["differences"][0]["kinds"], report["differences"][0]["ends"]) == (["Close", "Send"], True)
    report = await stage.report(with_word('return "other"'))
    assert (report["different"], report["ends"]) == (3, 0)


async def test_the_records_that_change_are_told(stage):
    async with Rehearsal(BOUNDS) as child:
        merged = await merge(stage, child, FIX)
        await stage.open(child, paths(merged))
        report = await child.migrate(iter([]), True, True, silent)
    assert report["records"] == [
        {
            "record": "media.codec:Track",
            "change": ["+ parts: list[bytes]", "+ added: str", "- config: bytes"],
            "how": "upgrade() and downgrade()",
        }
    ]


async def test_a_crash_that_the_patch_cures_is_good_news(stage):
    stage.copies.clear()
    stage.session(lines=["crash", "count"], times=2)
    candidate = {**codec(), "handlers/room.py": ROOM.replace(" + [1 // 0]", "")}
    report = await stage.report(candidate)
    assert report["failures"] == []
    assert report["cured"] == 2
    assert report["sessions"][0]["cured"] == 2
    assert report["different"] == 0, "there is nothing to compare with after a crash"


async def test_a_crash_that_stays_is_not_the_patchs_fault(stage):
    stage.copies.clear()
    stage.session(lines=["crash", "count"], times=2)
    report = await stage.report(codec())
    assert report["failures"] == []
    assert (report["cured"], report["different"], report["events"]) == (0, 0, 3)


async def test_an_event_that_both_fail_at_is_nobodys_fault_however_the_new_code_fails(stage):
    stage.copies.clear()
    stage.session(lines=["crash", "count"], times=2)
    candidate = {
        **codec(),
        "handlers/room.py": ROOM.replace(
            'return [Send(link, b"never said\\n")] + [1 // 0]', "while True: pass"
        ),
    }
    assert candidate["handlers/room.py"] != ROOM
    report = await stage.report(candidate)
    assert report["failures"] == []
    assert (report["cured"], report["different"], report["events"]) == (0, 0, 3)


async def test_what_the_running_code_does_not_do_again_is_not_compared(stage):
    _, entries = stage.copies[0].recent
    entries[2] = entries[2]._replace(commands=9)
    report = await stage.report(with_word('return "other"'))
    (row,) = report["sessions"]
    assert row["ok"]
    assert (
        row["why"] == "replayed 2 of 7 events: the running code did not do again what it had done at event 3"
    )
    assert (report["replayed"], report["not_replayed"], report["different"]) == (0, 1, 1)


async def test_a_session_without_events_is_migrated_and_that_is_said(stage):
    copy = stage.copies[0]
    stage.copies[:] = [SessionCopy(copy.name, 1, copy.lowered, None, [], 1)]
    report = await stage.report(codec())
    assert report["sessions"][0]["ok"]
    assert report["sessions"][0]["why"] == "there are no events to replay"
    assert (report["replayed"], report["not_replayed"]) == (0, 1)


async def test_replays_past_their_time_are_left_out_and_that_is_said(stage):
    for number in range(20):
        stage.session(f"live/{number}", times=50)
    report = await stage.report(codec(), ChildBounds(replay_seconds=0.01))
    assert all(row["ok"] for row in report["sessions"])
    said = [row["why"] for row in report["sessions"] if row["why"]]
    assert "not replayed: the 0.01 s for replays were used up" in said
    assert report["not_replayed"] == len(said) > 10


async def test_a_rollback_is_rehearsed_one_way_only(stage):
    report = await stage.report(migrating(down="raise ValueError('no way')"), back=False)
    assert report["failures"] == []
    assert report["sessions"][0]["down_ms"] == 0


# ---- what a bad patch gets told


@pytest.mark.parametrize(
    ("candidate", "sentence"),
    [
        (migrating(up="raise ValueError('no')"), "media.codec.upgrade raised ValueError: no"),
        (migrating(down="raise ValueError('no')"), "media.codec.downgrade raised ValueError: no"),
        (migrating(up="return [old]"), "media.codec.upgrade returned list"),
        (migrating(up="return {**old, 'config': upgrade}"), "function is not plain data"),
        (migrating(up="return {**old, 'frames': 'many'}"), "expected int, not str 'many'"),
        (migrating(up="return {**old, 'frames': 0}"), "downgrade does not restore what upgrade was given"),
        (migrating(up="raise SystemExit(3)"), "upgrade: SystemExit: 3"),
        (migrating(up="raise KeyboardInterrupt"), "upgrade: KeyboardInterrupt"),
        (migrating(up="return upgrade(old)"), "RecursionError"),
        (migrating(up="while True: pass"), "did not return within 0.2 s"),
        (migrating(down="while True: pass"), "did not return within 0.2 s"),
        (migrating(up="raise MemoryError"), "MemoryError"),
        (with_word("return [1 // 0]"), "ZeroDivisionError"),
        (with_word("return word()"), "RecursionError"),
        (with_word("raise SystemExit"), "SystemExit"),
        (with_word("raise KeyboardInterrupt"), "KeyboardInterrupt"),
        (with_word("while True: pass"), "did not return within 0.2 s"),
        (codec("\n\ndef resumed(state, now):\n    return [None]\n"), "media.codec.resumed: it returned NoneType, which is not a command"),
        (codec("\n\ndef resumed(state, now):\n    return 1 // 0\n"), "media.codec.resumed raised ZeroDivisionError"),
        (codec("\n\ndef resumed(state, now):\n    while True: pass\n"), "did not return within 0.2 s"),
        ({**codec(), "__init__.py": TREE["__init__.py"].replace('return {"kind"', 'while True: pass\n    return {"kind"')},
         "did not return within 0.2 s"),
        ({**codec(), "__init__.py": TREE["__init__.py"].replace('return {"kind"', '1 // 0\n    return {"kind"')},
         "describe() of the new code raised ZeroDivisionError"),
        ({**codec(), "handlers/room.py": ROOM.replace("codec.count(room.track)", "return [None]")}, "cannot be carried out"),
        ({**codec(), "handlers/room.py": ROOM.replace("            return answers(room, link)", "            return None")}, "not a list of commands"),
        ({**codec(), "handlers/room.py": ROOM.replace("codec.count(room.track)", "room.heard.append(answer)")},
         "function is not plain data"),
    ],
)  # fmt: skip
async def test_a_bad_patch_is_told_what_it_does(stage, candidate, sentence):
    failure = await stage.failure(candidate)
    assert sentence in failure["sentence"]
    assert failure["state"], "the state that made it fail goes with it"


async def test_a_failure_names_the_event_and_shows_traceback_and_the_state_before_it(stage):
    failure = await stage.failure(with_word("return [1 // 0]"))
    assert failure["sentence"] == (
        "the new code fails at event 2 (Data of link 7, 8 bytes): "
        "ZeroDivisionError: integer division or modulo by zero (media.codec:21 in word)"
    )
    assert failure["event"] == {"is": "Data", "now": 10, "link": 7, "data": b"version\n".hex()}
    assert failure["state"]["@"] == "handlers.room:Room"
    assert failure["state"]["track"]["frames"] == 0, "before the event"
    assert "media/codec.py" in failure["traceback"][-2]
    assert "return [1 // 0]" in "".join(failure["traceback"])


async def test_a_crash_late_in_the_session_is_shown_with_the_state_right_before_it(stage):
    text = CODEC.replace("VERSION = 1", "VERSION = 2").replace(
        "track.frames += 1", "track.frames += 1\n    assert track.frames < 9"
    )
    failure = await stage.failure({**TREE, "media/codec.py": text})
    assert failure["state"]["track"]["frames"] == 7
    assert "event 7" in failure["sentence"]


async def test_downgrade_must_also_bring_back_what_the_new_code_has_made(stage):
    text = CODEC.replace("VERSION = 1", "VERSION = 2").replace(
        "track.frames += 1", "track.frames += 1\n    track.config = b'new'"
    )
    down = "if new['config'] == b'new': raise ValueError('what is new?')\n    return new"
    failure = await stage.failure(
        {**TREE, "media/codec.py": text + MIGRATION.format(up="return old", down=down)}
    )
    assert failure["sentence"].startswith(
        "after 7 events on the new code: media.codec.downgrade raised ValueError"
    )


async def test_endless_allocation_is_bounded(stage):
    failure = await stage.failure(with_word("hold = []\n    while True: hold.append(bytearray(1 << 20))"))
    assert "MB of memory" in failure["sentence"] or "MemoryError" in failure["sentence"]
    failure = await stage.failure(with_word("return bytes(1 << 40)"))
    assert "MemoryError" in failure["sentence"]


async def test_state_that_grows_without_end_is_a_failure(stage):
    text = CODEC.replace("VERSION = 1", "VERSION = 2").replace(
        "track.frames += 1", "track.frames += 1\n    track.config += bytes(1 << 20)"
    )
    failure = await stage.failure({**TREE, "media/codec.py": text})
    assert "its state grew by 31" in failure["sentence"]


async def test_right_but_slow_is_a_failure(stage):
    stage.copies.clear()
    stage.session(times=20)
    failure = await stage.failure(
        with_word('x = 0\n    for i in range(100_000): x += i\n    return "codec 1"')
    )
    assert "times as long as the running code" in failure["sentence"]


@pytest.mark.parametrize(
    ("head", "body", "name"),
    [
        ("import builtins", "builtins.len = None", "builtins.len"),
        ("import streamd.runtime.vocabulary as kernel", "kernel.Send.extra = 1", "streamd.runtime.vocabulary.Send.extra"),
        ("import sys", "sys.modules['live@1.media.codec'].word = tail", "live@1.media.codec.word"),
        ("import sys", "sys.modules['streamd.runtime.state'].lower = tail", "streamd.runtime.state.lower"),
    ],
)  # fmt: skip
async def test_a_patch_that_reaches_beyond_itself_is_found_at_run_time_and_at_import(stage, head, body, name):
    if "kernel" in head:
        head = "import sys\nkernel = sys.modules['streamd.runtime.vocabulary']"
    failure = await stage.failure(with_word(f'{body}\n    return "codec 1"', head))
    assert failure["sentence"] == f"the new code changed {name}, which is not its own"
    candidate = codec(f"\n\n{head}\n{body}\n")
    async with Rehearsal(BOUNDS) as child:
        with pytest.raises(ReleaseError, match="importing release 2 changes"):
            await stage.open(child, candidate)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("1 // 0", "ZeroDivisionError"),
        ("while True: pass", "StepOverrun: did not return within 0.4 s"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("HOLD = bytes(1 << 40)", r"MemoryError; a rehearsal may take 256 MB \(\[rehearsal\] memory\)"),
        ("TABLE = [].copy()", "TABLE is a mutable value"),
    ],
)
async def test_an_import_that_fails_is_told_with_file_and_line(stage, text, sentence):
    async with Rehearsal(BOUNDS) as child:
        with pytest.raises(ReleaseError, match=sentence) as told:
            await stage.open(child, codec(f"\n\n{text}\n"))
    assert "codec" in str(told.value)


async def test_a_newborn_session_that_cannot_begin_is_a_failure(stage):
    candidate = {
        **codec(),
        "handlers/room.py": ROOM.replace(
            "    return Room(name, more", "    1 // 0\n    return Room(name, more"
        ),
    }
    report = await stage.report(candidate, specimens=("door/0", "live/specimen"))
    assert [item["name"] for item in report["failures"]] == ["new live/specimen"]
    assert "begin: ZeroDivisionError" in report["failures"][0]["sentence"]


async def test_after_many_failures_alike_no_more_are_tried(stage):
    for number in range(MOST_FAILURES + 20):
        stage.session(f"live/{number}")
    report = await stage.report(migrating(up="raise ValueError('no')"))
    assert len(report["failures"]) == MOST_FAILURES


async def test_after_an_overrun_nothing_more_is_tried(stage):
    for number in range(20):
        stage.session(f"live/{number}")
    started = monotonic()
    report = await stage.report(migrating(up="while True: pass"))
    assert len(report["failures"]) == 1
    assert monotonic() - started < 5


# ---- when the process itself comes to grief


async def test_a_loop_in_c_is_ended_by_the_kernel_and_told_with_session_function_and_event(stage):
    with pytest.raises(ChildFailed) as failed:
        await stage.report(with_word("return sum(range(10**13))"), BOUNDS)
    assert failed.value.stage == "rehearse"
    told = str(failed.value)
    assert told.startswith("live/a: in new code, event 2 of 7 (Data of link 7, 8 bytes) at ")
    assert told.endswith("in word: a call of C code did not return and could not be interrupted")
    assert "media/codec.py:21" in told


async def test_a_loop_in_c_is_ended_by_the_clock_on_the_wall(stage):
    bounds = ChildBounds(memory=256 << 20, seconds=1.5, step_seconds=30)
    started = monotonic()
    with pytest.raises(ChildFailed) as failed:
        await stage.report(migrating(up="return sum(range(10**13))"), bounds)
    assert monotonic() - started < 6
    told = str(failed.value)
    assert told.startswith("live/a: in upgrade at ")
    assert "in upgrade: the rehearsal took longer than 1.5 s" in told


async def test_processor_time_is_bounded(stage):
    bounds = ChildBounds(cpu_seconds=1, seconds=20, step_seconds=30)
    with pytest.raises(
        ChildFailed, match=r"had used its 1 s of processor time \(\[rehearsal\] cpu_seconds\)"
    ) as failed:
        await stage.report(with_word("while True: pass"), bounds)
    assert "event 2 of 7" in str(failed.value)
    assert "in word:" in str(failed.value)


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        ("posix._exit(3)", "the rehearsal ended with code 3"),
        ("posix.kill(posix.getpid(), 9)", "the rehearsal was killed"),
        ("posix.kill(posix.getpid(), 11)", "the rehearsal died of SIGSEGV"),
    ],
)
async def test_a_process_that_dies_is_told_with_session_and_event(stage, body, cause):
    with pytest.raises(ChildFailed) as failed:
        await stage.report(with_word(f'{body}\n    return "codec 1"', "import posix"))
    assert str(failed.value).startswith("live/a: in new code, event 2 of 7")
    assert cause in str(failed.value)


async def test_a_process_that_closes_its_connection_is_ended(stage):
    with pytest.raises(ChildFailed, match=r"live/a: in .*: the rehearsal (closed its connection|ended)"):
        await stage.report(with_word('posix.close(0)\n    return "codec 1"', "import posix"))


async def test_a_state_that_needs_more_memory_than_there_is_says_so(stage):
    lowered = {**stage.copies[0].lowered, "heard": ["x" * (1 << 20) + str(number) for number in range(100)]}
    stage.copies[:] = [SessionCopy("live/large", 1, lowered, None, [], 1)]
    with pytest.raises(ChildFailed, match="more than 96 MB of memory were needed"):
        await stage.report(codec(), ChildBounds(memory=96 << 20))


async def test_what_is_printed_or_written_goes_nowhere(stage, capfd):
    report = await stage.report(with_word('print("hello"); return "codec 1"'))
    assert report["failures"] == []
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


async def test_the_process_gives_up_what_it_does_not_need(stage):
    async with Rehearsal(BOUNDS) as child:
        status = Path(f"/proc/{child.pid}/status").read_text()
        limits = Path(f"/proc/{child.pid}/limits").read_text().splitlines()
        files = sorted(os.listdir(f"/proc/{child.pid}/fd"))
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        bounds = {line[:26].strip(): line[26:].split()[:2] for line in limits[1:]}
        environment = Path(f"/proc/{child.pid}/environ").read_bytes()
        nice = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[16]
    assert fields["NoNewPrivs"].strip() == "1"
    assert fields["Threads"].strip() == "1"
    assert bounds["Max core file size"] == ["0", "0"]
    assert bounds["Max cpu time"] == ["20", "22"]
    assert int(bounds["Max address space"][1]) == 256 << 20
    assert int(nice) >= 10
    assert len(files) == 5, "socket, nothing, pipe, the page, and what the watchdog reads"
    assert b"HOME" not in environment


async def test_the_process_dies_with_the_server(stage, tmp_path):
    """Nobody is left to close anything: the kernel ends it."""
    program = (
        "import asyncio, sys, os, signal\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        "from streamd.runtime.rehearse import ChildBounds, Rehearsal\n"
        "async def main():\n"
        "    async with Rehearsal(ChildBounds()) as child:\n"
        "        os.kill(child.pid, signal.SIGSTOP)\n"  # so that it cannot end by itself
        "        print(child.pid, flush=True)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await parent.communicate()
    deadline = monotonic() + 5
    while os.path.exists(f"/proc/{int(out)}") and "Z" not in _state_of(int(out)):
        assert monotonic() < deadline, "it lives on"
        await asyncio.sleep(0.01)


def _state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


async def test_whoever_is_cancelled_leaves_nothing_behind(stage):
    async def work() -> None:
        await stage.report(migrating(up="return sum(range(10**13))"), ChildBounds(step_seconds=30))

    for seconds in (0.0, 0.01, 0.05, 0.15, 0.6):
        task = asyncio.create_task(work())
        await asyncio.sleep(seconds)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_block_that_raises_leaves_nothing_behind(stage):
    with pytest.raises(RuntimeError, match="mine"):
        async with Rehearsal(BOUNDS) as child:
            await stage.open(child, codec())
            raise RuntimeError("mine")


async def test_what_the_giver_of_sessions_raises_is_raised(stage):
    def copies() -> Iterator[SessionCopy]:
        yield stage.copies[0]
        raise RuntimeError("not plain")

    async with Rehearsal(BOUNDS) as child:
        await stage.open(child, codec())
        with pytest.raises(RuntimeError, match="not plain"):
            await child.migrate(copies(), True, True, silent)


async def test_running_state_that_cannot_be_packed_is_refused_by_name_and_path(stage):
    copy = stage.copies[0]
    spoilt = {**copy.lowered, "name": print}
    async with Rehearsal(BOUNDS) as child:
        await stage.open(child, codec())
        with pytest.raises(StateError, match=r"live/a: state.name: builtin_function_or_method is not plain"):
            await child.migrate(iter([SessionCopy("live/a", 1, spoilt, None, [], 1)]), True, True, silent)


async def test_a_process_that_cannot_be_made_is_a_failure_to_spawn(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(ChildFailed, match="no process for the rehearsal") as failed:
        async with Rehearsal(BOUNDS):
            pass
    assert failed.value.stage == "spawn"


@pytest.mark.parametrize(
    ("name", "error"),
    [("_Keeper.start", RuntimeError("can't start new thread")), ("spawn", TypeError("of ctypes"))],
    ids=["no thread", "no call"],
)
async def test_nobody_waits_for_the_end_of_what_has_not_begun(monkeypatch, name, error):
    def fails(*_given: Any) -> None:
        raise error

    monkeypatch.setattr(f"streamd.runtime.rehearse.{name}", fails)
    with pytest.raises(ChildFailed, match=f"no process for the rehearsal: {error}") as failed:
        async with asyncio.timeout(5), Rehearsal(BOUNDS):
            pass
    assert failed.value.stage == "spawn"


async def test_a_process_that_takes_its_time_is_not_waited_for(monkeypatch):
    monkeypatch.setattr("streamd.runtime.rehearse.SPAWN_SECONDS", 0.0)
    with pytest.raises(ChildFailed, match="did not start within 0 s") as failed:
        async with Rehearsal(BOUNDS):
            pass
    assert failed.value.stage == "spawn"


def test_who_falls_behind_while_others_are_being_told_is_told_next():
    tape = _Tape([])
    tape.lost = {"live/a": False}
    told = tape.messages()
    next(told)
    tape.lost |= {"live/b": False}
    assert [*told] == []
    assert len([*tape.messages()]) == 1


async def test_a_process_that_cannot_start_says_why(monkeypatch):
    monkeypatch.setattr("streamd.runtime.rehearse.PATHS", ("/nowhere",))
    with pytest.raises(ChildFailed, match="ModuleNotFoundError: No module named 'streamd'") as failed:
        async with Rehearsal(BOUNDS):
            pass
    assert failed.value.stage == "spawn"


# ---- merging


async def merge(stage: Stage, child: Rehearsal, *texts: str) -> Merged:
    patches = [(f"/patches/patch_{place}.py", text) for place, text in enumerate(texts)]
    tree = {name: text for name, (_, text) in stage.old.texts.items()}
    return await child.merge(patches, tree, stage.old.versions, str(stage.root / "0002"))


def paths(merged: Merged) -> dict[str, str]:
    """A tree as `write_tree` wants it."""
    packages = {name.rpartition(".")[0] for name in merged.texts if name} | {""}
    return {
        "/".join([*(name.split(".") if name else ()), "__init__.py"])
        if name in packages
        else f"{name.replace('.', '/')}.py": text
        for name, text in merged.texts.items()
    }


async def test_merging_gives_the_whole_tree_and_code_that_runs_here(stage):
    async with Rehearsal(BOUNDS) as child:
        merged = await merge(stage, child, FIX)
    (info,) = merged.patches
    assert (info.name, info.kind, info.module) == ("patch_0.py", "AMENDS", "media.codec")
    assert (info.base, info.version, info.text) == (1, 2, FIX)
    assert set(merged.texts) == set(stage.old.texts)
    assert set(merged.codes) == {"media.codec"}
    release = Release(2, write_tree(stage.root / "0002", paths(merged)), 1)
    release.load(stage.old, merged.codes)
    try:
        word = release.modules["media.codec"].word
        assert word() == "codec 2"
        assert word.__code__.co_filename == str(stage.root / "0002/media/codec.py")
    finally:
        release.discard()


async def test_what_merging_refuses_is_refused_with_stage_and_caret(stage):
    async with Rehearsal(BOUNDS) as child:
        with pytest.raises(PatchError, match="is running") as refused:
            await merge(stage, child, amend("media.codec", 5, "def word() -> str:\n    return 'x'\n"))
        assert refused.value.stage == "merge"
        with pytest.raises(PatchError) as refused:
            await merge(stage, child, amend("media.codec", 1, "def word( -> str:\n    return 'x'\n"))
        assert refused.value.stage == "read"
        assert "^" in str(refused.value)
        assert "/patches/patch_0.py:7" in str(refused.value)
        with pytest.raises(ReleaseError, match=r"0002/media/codec.py:\d+: 'return' outside function"):
            await merge(stage, child, 'REPLACES = "media.codec@1"\nVERSION = 2\n\nreturn\n')
        merged = await merge(stage, child, FIX)
    assert merged.patches, "a refusal does not end the process"


async def test_code_is_compiled_there(stage):
    async with Rehearsal(BOUNDS) as child:
        codes = await child.compile({"media.codec": ("/x/codec.py", CODEC)})
        with pytest.raises(ReleaseError, match=r"/x/codec.py:1"):
            await child.compile({"media.codec": ("/x/codec.py", "def")})
    assert set(codes) == {"media.codec"}


# ---- what the server notices of it


async def test_a_thousand_sessions_are_rehearsed_while_the_loop_turns(stage):
    stage.copies.clear()
    for number in range(1000):
        stage.session(f"live/{number}", times=2)
    held = Held()
    told: list[tuple[int, int]] = []

    async def progress(done: int, of: int) -> None:
        told.append((done, of))

    facts = stage.facts(codec())
    started = monotonic()
    gc.collect()
    gc.disable()
    try:
        async with Rehearsal(ChildBounds()) as child:
            await child.open(facts, 1, 2, {}, ["door/0"])
            with held:
                report = await child.migrate(iter(stage.copies), True, True, progress, 1000)
    finally:
        gc.enable()
    assert len(report["sessions"]) == 1000
    assert all(row["ok"] for row in report["sessions"])
    assert report["events"] == 5000
    assert told[-1] == (1000, 1000)
    assert monotonic() - started < 20  # 1 s where nothing else runs
    assert held.longest < 0.02, f"{held.longest * 1000:.1f} ms"  # 1 to 2 ms


class Held:
    """How much processor time the loop's thread spends between two turns of the loop, at the most; in s."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._task: asyncio.Task[None] | None = None

    async def _turn(self) -> None:
        last = thread_time()
        while True:
            await asyncio.sleep(0)
            now = thread_time()
            self.longest = max(self.longest, now - last)
            last = now

    def __enter__(self) -> Held:
        self._task = asyncio.create_task(self._turn())
        return self

    def __exit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()


# ---- what happens rarely

AROUND = Around(
    [LinkFact(5, "all", 0), LinkFact(LINK, "", 900), LinkFact(9, "all", 0)], [5, LINK, 9], ["ping"]
)
KINDS = ["Congested", "Drained", "Refused", "Closed", "Closed", "Closed", "Tick", "Restarted", "Stopping"]


def in_room(old: str, new: str) -> dict[str, str]:
    """The tree with another room."""
    assert old in ROOM
    return {**codec(), "handlers/room.py": ROOM.replace(old, new)}


def rarely(stage: Stage, replayed: bool = True) -> None:
    """Let the session have links and a timer; with or without events to replay."""
    (copy,) = stage.copies
    recent = copy.recent if replayed else None
    stage.copies[:] = [SessionCopy(copy.name, 1, copy.lowered, recent, ["all"], 3, AROUND)]


@pytest.mark.parametrize("replayed", [True, False])
async def test_one_event_of_each_rare_kind_is_made_up_and_counted_by_itself(stage, replayed):
    rarely(stage, replayed)
    report = await stage.report(codec(), specimens=("door/0", "live/specimen"))
    (row,) = report["sessions"]
    assert row["ok"], report["failures"]
    assert (row["tried"], report["tried"]) == (len(KINDS), len(KINDS))
    assert (row["events"], report["events"]) == ((7, 7) if replayed else (0, 0))
    assert (report["not_tried"], report["fail_alike"], report["cured"], report["different"]) == (0, 0, 0, 0)


async def test_a_session_that_nobody_is_in_is_restarted_and_stopped(stage):
    assert (await stage.report(codec()))["tried"] == 2


STOPS = 'return [End("stopping")]'
CONGESTED = 'room.heard.append(f"{link} congested")'


@pytest.mark.parametrize("replayed", [True, False])
@pytest.mark.parametrize(
    ("candidate", "sentence"),
    [
        (in_room(STOPS, "return [1 // 0]"),
         "at a made-up Stopping, the new code fails: ZeroDivisionError: integer division or modulo by zero (handlers.room:"),
        (in_room(STOPS, "return 1"),
         "at a made-up Stopping, the new code answers what cannot be carried out: step returned int, not a list"),
        (in_room(STOPS, "raise SystemExit"), "at a made-up Stopping, the new code fails: SystemExit"),
        (in_room(STOPS, "while True: pass"), "at a made-up Stopping, the new code fails: StepOverrun: did not return within 0.2 s"),
        (in_room(CONGESTED, 'return [SendAll("nobody", b"", True)]'),
         "at a made-up Congested of link 5, the new code answers what cannot be carried out: SendAll to group 'nobody'"),
        (in_room('room.heard.append(f"{link} drained")', "raise KeyError(link)"),
         "at a made-up Drained of link 5, the new code fails: KeyError: 5"),
        (in_room("    return []\n\n\ndef answers", "    return [None] if type(event).__name__ == 'Refused' else []\n\n\ndef answers"),
         "at a made-up Refused of link 5, the new code answers what cannot be carried out"),
        (in_room("room.guests.pop(link, None)", "room.guests.pop(link)"),
         "at a made-up Closed of link 5, the new code fails: KeyError: 5"),
        (in_room('room.heard.append(f"{link} left', 'assert link != 7\n            room.heard.append(f"{link} left'),
         "at a made-up Closed of link 7, the new code fails: AssertionError"),
        (in_room('room.heard.append(f"{link} left', 'assert link != 9\n            room.heard.append(f"{link} left'),
         "at a made-up Closed of link 9, the new code fails: AssertionError"),
        (in_room('room.heard.append(f"tick {tag}")', 'assert tag != "ping"'),
         "at a made-up Tick 'ping', the new code fails: AssertionError"),
        (in_room('room.heard.append(f"restarted with {links}")', "links.remove(8)"),
         "at a made-up Restarted, the new code fails: ValueError"),
    ],
)  # fmt: skip
async def test_a_patch_that_fails_at_what_happens_rarely_is_told_that_it_was_made_up(
    stage, candidate, sentence, replayed
):
    rarely(stage, replayed)
    failure = await stage.failure(candidate)
    assert failure["sentence"].startswith(sentence)
    assert failure["event"]["is"] in KINDS
    assert failure["state"]["@"] == "handlers.room:Room"
    assert failure["state"]["track"]["frames"] == 9, "as the last real event has left it"


@pytest.mark.parametrize(
    ("candidate", "event", "kinds", "ends"),
    [
        (in_room(STOPS, "return []"), "a made-up Stopping", ["End"], False),
        (in_room(CONGESTED, "return [Send(link, b'x')]"), "a made-up Congested of link 5", ["Send"], False),
        (in_room(CONGESTED, "return [Close(link, 'slow')]"), "a made-up Congested of link 5", ["Close"], True),
        (in_room(CONGESTED, "raise PeerError('slow')"), "a made-up Congested of link 5", ["PeerError"], True),
        (in_room("for link in links]", "for link in links[1:]]"), "a made-up Restarted", ["Send"], True),
    ],
)  # fmt: skip
async def test_another_answer_to_what_is_made_up_is_a_difference_like_any_other(
    stage, candidate, event, kinds, ends
):
    rarely(stage)
    report = await stage.report(candidate)
    assert report["failures"] == []
    (difference,) = report["differences"]
    assert (difference["name"], difference["event"]) == ("live/a", event)
    assert (difference["kinds"], difference["ends"]) == (kinds, ends)
    assert (report["different"], report["kinds"], report["ends"]) == (1, kinds, int(ends))
    assert report["sessions"][0]["first_difference"] == f"{event}: {difference['sentence']}"


async def test_one_made_up_event_does_not_spoil_the_next(stage):
    """Most of them leave something in the room."""
    rarely(stage)
    report = await stage.report(
        in_room(STOPS, f"assert not room.heard and 7 in room.guests\n            {STOPS}")
    )
    assert report["failures"] == []
    assert report["tried"] == len(KINDS)


async def test_a_group_that_only_a_made_up_event_makes_is_none_in_the_next(stage, tmp_path):
    rings = in_room('room.heard.append(f"tick {tag}")', 'return [Ring("new", 1, 1, 1)]')
    stage.old.discard()
    stage.old = Release(1, write_tree(tmp_path / "0001", rings), None).load()
    rarely(stage)
    other = rings["handlers/room.py"].replace(STOPS, 'return [SendAll("new", b"", True)]')
    failure = await stage.failure({**rings, "handlers/room.py": other})
    assert failure["sentence"].endswith("SendAll to group 'new', which has no Ring")


@pytest.mark.parametrize("replayed", [True, False])
async def test_a_made_up_event_that_both_fail_at_is_nobodys_fault_and_one_that_is_cured_is_told(
    stage, tmp_path, replayed
):
    bad = in_room(STOPS, "return [1 // 0]")
    stage.old.discard()
    stage.old = Release(1, write_tree(tmp_path / "0001", bad), None).load()
    rarely(stage, replayed)
    for other in ("raise SystemExit", "return None", "return [1 // 0]"):
        report = await stage.report(in_room(STOPS, other))
        assert report["failures"] == report["differences"] == []
        assert (report["fail_alike"], report["cured"], report["tried"]) == (1, 0, len(KINDS))
    report = await stage.report(codec())
    assert report["failures"] == report["differences"] == []
    assert (report["fail_alike"], report["cured"], report["sessions"][0]["cured"]) == (0, 1, 1)


async def test_what_a_made_up_event_makes_the_new_code_change_is_found(stage):
    rarely(stage)
    reach = "import sys; sys.modules['builtins'].len = None"
    failure = await stage.failure(in_room(STOPS, f"{reach}\n            {STOPS}"))
    assert failure["sentence"] == (
        "at a made-up Stopping, the new code changed builtins.len, which is not its own"
    )
    reach = "import sys; sys.modules['live@1.media.codec'].word = None"
    failure = await stage.failure(in_room(STOPS, f"{reach}\n            {STOPS}"))
    assert failure["sentence"] == (
        "at one of the made-up events, the new code changed live@1.media.codec.word, which is not its own"
    )


async def test_a_loop_in_c_at_a_made_up_event_is_told_as_one(stage):
    rarely(stage)
    with pytest.raises(ChildFailed) as failed:
        await stage.report(in_room(STOPS, "return sum(range(10**13))"))
    assert str(failed.value).startswith("live/a: in new code, at a made-up Stopping at ")


async def test_what_the_replay_did_not_get_to_is_made_up_for_the_state_that_arrived(stage):
    """Neither a replay that parted nor one with a cured crash ends where the session is."""
    rarely(stage)
    _, entries = stage.copies[0].recent
    entries[2] = entries[2]._replace(commands=9)
    report = await stage.report(codec())
    assert (report["events"], report["tried"], report["different"]) == (2, len(KINDS), 0)
    entries[2] = entries[2]._replace(commands=FAILED)
    report = await stage.report(codec())
    assert (report["cured"], report["tried"], report["different"]) == (1, len(KINDS), 0)


async def test_made_up_events_take_a_part_of_the_time_for_replays_and_what_is_left_out_is_counted(stage):
    for number in range(20):
        stage.session(f"live/{number}", times=50)
    report = await stage.report(codec(), ChildBounds(replay_seconds=0.01))
    assert all(row["ok"] for row in report["sessions"])
    assert report["not_tried"] > 10
    assert report["tried"] <= 2 * (21 - report["not_tried"]) + 1
    slow = in_room(STOPS, f"for _ in range(3_000_000): pass\n            {STOPS}")
    report = await stage.report(slow, ChildBounds(replay_seconds=1.0))
    assert report["not_tried"] > 5
    assert report["replayed"] > 15, "what has really happened goes before"


async def test_a_rollback_makes_nothing_up(stage):
    rarely(stage)
    async with Rehearsal(BOUNDS) as child:
        await stage.open(child, in_room(STOPS, "return [1 // 0]"))
        report = await child.migrate(iter(stage.copies), False, False, silent)
    assert report["failures"] == []
    assert (report["tried"], report["not_tried"]) == (0, 0)


class Spectator:
    """As much of a link as is told of it."""

    def __init__(self, number: int, group: Any) -> None:
        self.number = number
        self.group = group
        self.received = 1000 if number == 500 else 3


def test_of_a_thousand_links_a_few_are_named():
    groups = {f"group {n}": SimpleNamespace(name=f"group {n}", members={}) for n in range(1000)}
    first = groups["group 0"]
    links = {number: Spectator(number, first if number > 1 else None) for number in range(1, 1001)}
    first.members = dict.fromkeys(links[number] for number in (300, 400))
    timers = dict.fromkeys(map(str, range(1000)))
    around = _around(SimpleNamespace(links=links, groups=groups, timers=timers))  # type: ignore[arg-type]
    assert around.named == [(1, "", 3), (500, "group 0", 1000), (300, "group 0", 3), (1000, "group 0", 3)]
    assert around.numbers == list(range(1, MOST_NUMBERS + 1))
    assert around.timers == [str(number) for number in range(MOST_NAMED)]
    alone = SimpleNamespace(links={7: Spectator(7, None)}, groups={}, timers={})
    assert _around(alone) == Around([LinkFact(7, "", 3)], [7], [])  # type: ignore[arg-type]
    assert _around(SimpleNamespace(links={}, groups={}, timers={"x": 1})) == Around(timers=["x"])  # type: ignore[arg-type]


# ---- traffic that has not happened yet


class Traffic:
    """Sessions that live on while they are followed, as the server's taps would tell of them."""

    def __init__(self, stage: Stage, names: Iterable[str]) -> None:
        self.stage = stage
        self.rooms = {name: stage.old.begin(name, {}, 0) for name in names}
        self.taped: list[tuple[str, Event]] = []
        self.copied: set[str] = set()

    def copies(self) -> Iterator[SessionCopy]:
        for name, room in self.rooms.items():
            self.copied.add(name)
            yield SessionCopy(name, 1, lower(room), None, [], 1)

    def happens(self, event: Event) -> None:
        for name, room in self.rooms.items():
            self.stage.old.step(room, event)
            if name in self.copied:
                self.taped.append((name, event))

    async def goes_on(self, *events: Event) -> None:
        while True:
            for event in events:
                self.happens(event)
            await asyncio.sleep(0.02)


async def shadowed(
    stage: Stage, candidate: dict[str, str], *events: Event, seconds: float = 0.4
) -> dict[str, Any]:
    traffic = Traffic(stage, ["live/a", "live/b"])
    told: list[tuple[int, int]] = []

    async def progress(done: int, of: int) -> None:
        told.append((done, of))

    async with Rehearsal(BOUNDS) as child:
        await stage.open(child, candidate)
        task = asyncio.create_task(traffic.goes_on(*events))
        try:
            report = await child.shadow(traffic.copies(), traffic.taped, seconds, progress)
        finally:
            task.cancel()
    assert told[0][0] == 0
    return report


async def test_a_shadow_follows_what_happens_on_both_releases(stage):
    report = await shadowed(stage, codec(), Tick(5, "x"))
    assert report["failures"] == []
    assert report["events"] > 10
    assert report["different"] == 0
    assert (report["replayed"], report["not_replayed"]) == (2, 0)
    assert {row["name"] for row in report["sessions"]} == {"live/a", "live/b"}
    assert all(row["events"] for row in report["sessions"])


async def test_a_shadow_tells_of_differences_and_failures(stage):
    ticks = 'room.heard.append(f"tick {tag}")'
    assert ticks in ROOM
    other = {**codec(), "handlers/room.py": ROOM.replace(ticks, "return [Send(1, b'x')]")}
    report = await shadowed(stage, other, Tick(5, "x"))
    assert report["failures"] == []
    assert report["different"] > 5
    bad = {**codec(), "handlers/room.py": ROOM.replace(ticks, "raise ValueError(tag)")}
    report = await shadowed(stage, bad, Tick(5, "x"))
    assert len(report["failures"]) == 2
    assert "ValueError: x" in report["failures"][0]["sentence"]


async def test_a_shadow_whose_new_code_hangs_ends_and_says_so(stage):
    ticks = 'room.heard.append(f"tick {tag}")'
    bad = {**codec(), "handlers/room.py": ROOM.replace(ticks, "while True: pass")}
    started = monotonic()
    report = await shadowed(stage, bad, Tick(5, "x"), seconds=15)
    assert monotonic() - started < 8, "it does not wait for the end of its time"
    assert "did not return" in report["failures"][0]["sentence"]


async def test_a_session_whose_events_come_too_fast_is_left_out(stage, monkeypatch):
    monkeypatch.setattr("streamd.runtime.rehearse.MOST_BEHIND", 50)
    traffic = Traffic(stage, ["live/a"])
    async with Rehearsal(BOUNDS) as child:
        await stage.open(child, codec())

        async def flood() -> None:
            while True:
                for _ in range(200):
                    traffic.happens(Tick(5, "x"))
                traffic.rooms["live/a"].heard.clear()
                await asyncio.sleep(0.05)

        task = asyncio.create_task(flood())
        try:
            report = await child.shadow(traffic.copies(), traffic.taped, 1.0, silent)
        finally:
            task.cancel()
    (row,) = report["sessions"]
    if report["not_replayed"]:  # it depends on who looks first
        assert row["why"].startswith("fell behind")
    assert len(traffic.taped) < 10_000


# ---- exceptions that defend themselves

UNSPEAKABLE = """
class Unspeakable(Exception):
    def __str__(self):
        while True:
            pass
    __repr__ = __str__
"""


@pytest.mark.parametrize(
    ("candidate", "sentence"),
    [
        (with_word("raise Unspeakable", UNSPEAKABLE), "Unspeakable (media.codec:"),
        (with_word("raise ValueError('no ' * (16 << 20))"), "ValueError: no no"),
        (codec(f"{UNSPEAKABLE}\n\ndef resumed(state, now):\n    raise Unspeakable\n"), "media.codec.resumed raised Unspeakable"),
        ({**codec(UNSPEAKABLE + MIGRATION.format(up="raise Unspeakable", down="return new"))}, "media.codec.upgrade raised Unspeakable"),
    ],
    ids=["unspeakable", "a novel", "resumed", "upgrade"],
)  # fmt: skip
async def test_an_exception_is_told_whatever_it_is(stage, candidate, sentence):
    failure = await stage.failure(candidate)
    assert sentence in failure["sentence"]
    assert len(failure["sentence"]) < 1000
    assert len("".join(failure["traceback"])) < 20_000


async def test_an_import_that_fails_unspeakably_is_refused_with_a_sentence(stage):
    async with Rehearsal(BOUNDS) as child:
        with pytest.raises(ReleaseError, match=r"line .*: Unspeakable$"):
            await stage.open(child, codec(f"{UNSPEAKABLE}\nraise Unspeakable\n"))


async def test_a_resumed_that_cuts_somebody_off_is_a_difference(stage):
    extra = "\nfrom streamd.runtime.vocabulary import Close, Log\n\n\ndef resumed(state, now):\n"
    report = await stage.report(codec(f"{extra}    return [Log('info', 'x'), Close(7, 'enough')]\n"))
    assert (report["different"], report["ends"], report["kinds"]) == (1, 1, ["Close"])
    (difference,) = report["differences"]
    assert difference["name"] == "live/a"
    assert (
        difference["sentence"]
        == "the move itself: media.codec.resumed answers Close(link=7, reason='enough')"
    )
    assert report["sessions"][0]["first_difference"] == difference["sentence"]
    report = await stage.report(codec(f"{extra}    return [Log('info', 'x')]\n"))
    assert (report["different"], report["ends"]) == (0, 0)


# ---- what is no answer


def answers(*told: Any) -> bytes:
    packed = [msgpack.packb(item) for item in told]
    return b"".join(LENGTH.pack(len(item)) + item for item in packed)


PATCH = {
    "name": "x",
    "sha256": "",
    "kind": "",
    "module": "",
    "base": 1,
    "version": 2,
    "text": "",
    "differs": "",
}
NO_ANSWERS = [
    LENGTH.pack(3) + b"\xc1\xc1\xc1",
    LENGTH.pack(5) + b"\xdd\xff\xff\xff\xff",
    LENGTH.pack(9 << 20),
    answers("text"),
    answers([]),
    answers(["failed", "KeyError", "", "x"]),
    answers(["failed", "ReleaseError", "", 5]),
    answers(["patch", PATCH]),
    answers(["patch", 5]),
    answers(["text", "a"]),
    answers(["text", 1, "a"]),
    answers(["code", "a", "text"]),
    answers(["removed", [[]]]),
    answers(["merged"]),
    answers(["done", 1, [{}]]),
    answers(["report", {"failures": []}]),
]


@pytest.mark.parametrize("said", NO_ANSWERS)
async def test_what_is_no_answer_is_a_failure_of_the_child(stage, said):
    async with Rehearsal(BOUNDS) as child:
        child._held += said
        with pytest.raises(ChildFailed, match="the process for the rehearsal said "):
            await child.merge([("x", FIX)], {}, {}, "/")
        with pytest.raises(ChildFailed, match="has ended"):
            await child.compile({})


@pytest.mark.parametrize(
    "said",
    [
        answers(
            ["done", 2, [{"name": "a", "ok": True, "why": "", "up_ms": 0, "lower_ms": 0, "events": 1}] * 2]
        ),
        answers(["done", 1, [{"name": "a"}]]),
        answers(["report", {"failures": []}]),
        answers(["report", []]),
    ],
)
async def test_a_report_that_is_none_is_a_failure_of_the_child(stage, said):
    async with Rehearsal(BOUNDS) as child:
        await stage.open(child, codec("\n\nMORE = 1\n"))
        child._held += said
        with pytest.raises(ChildFailed, match="said something that is no answer"):
            await child.migrate(iter(stage.copies), True, True, silent)


def test_a_long_shadow_has_processor_time_in_proportion():
    assert ChildBounds(cpu_seconds=60).shadowing(3600) == ChildBounds(cpu_seconds=3660)
