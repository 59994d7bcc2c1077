"""kill -9 at every step of a load, a rollback, a keep, a purge and a start: the next start boots a whole release, and
the history tells the truth.

Once with a small server that is killed right before each call that changes its state directory and at each record of
progress (killed.py), and once with streamd itself, at each record of progress that its operator sees.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from typing import Any

import msgpack
import pytest

from streamd.runtime.release import digest, read_tree
from streamd.runtime.store import Store
from tests.scenarios.harness import ROOT, Streamd, output, running
from tests.scenarios.killed import STORIES

pytestmark = pytest.mark.scenario

# What has to be among the steps of a story, so that a trap that no longer springs is noticed.
AMONG = {
    "first start": {"os.rename /releases/0001.new", "os.rename /kept.json.new", "fsync /history.jsonl"},
    "load": {
        "progress read 0/1",
        "progress merge 1/1",
        "os.rename /releases/0002.new",
        "progress rehearse 0/3",
        "progress import 1/1",
        "os.rename /releases/0002.json.new",
        "progress move 0/3",
        "progress move 3/3",
        "fsync /history.jsonl",
    },
    "refused load": {"os.rename /releases/0002.new", "os.rmdir /releases/0002", "fsync /history.jsonl"},
    "rollback": {"progress rehearse 0/3", "progress move 0/3", "fsync /history.jsonl"},
    "keep": {"fsync /kept.json.new", "os.rename /kept.json.new", "fsync /history.jsonl"},
    "purge": {"os.remove /releases/0002.json", "os.rmdir /releases/0002", "fsync /history.jsonl"},
    "start on what was kept": {"open /lock", "fsync /history.jsonl"},
    "start after an upgrade": {"os.rename /releases/0003.new", "os.rename /kept.json.new"},
}


@pytest.mark.parametrize("story", STORIES)
async def test_after_a_kill_at_any_step_a_whole_release_boots_and_the_history_tells_the_truth(
    tmp_path, story
):
    said = await output(
        *(sys.executable, "-m", "tests.scenarios.killed", story, str(tmp_path)),
        seconds=300,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    turns = [json.loads(line) for line in said.splitlines()]
    assert [item for item in turns if item["wrong"]] == []
    assert turns[-1]["at"] == "", "it never came through"
    assert {item["at"] for item in turns} >= AMONG[story]


# ---- streamd itself ----------------------------------------------------------------------------------------------

PROBATION = {"probation": {"seconds": 0.5, "events": 0}}


async def killed_at(streamd: Streamd, record: int) -> str:
    """Ask for a load and kill the server at the operator's n-th record of progress; which stage that was, "" if the
    load was over before."""
    reader, writer = await asyncio.open_unix_connection(str(streamd.admin))
    args = {"paths": ["codec_fix.py"], "wait": True}
    writer.write(msgpack.packb({"v": 1, "verb": "load", "args": args, "cwd": str(streamd.patches)}))
    unpacker = msgpack.Unpacker()
    seen = 0
    answer: dict[str, Any] = {}
    with contextlib.closing(writer):
        while data := await asyncio.wait_for(reader.read(65_536), 60):
            unpacker.feed(data)
            for answer in unpacker:
                if "ok" in answer:
                    assert answer["ok"], answer
                    return ""
                seen += 1
                if seen == record:
                    await streamd.kill()
                    return str(answer["progress"])
    raise AssertionError(f"streamd hung up after {answer}")


async def test_streamd_killed_at_each_record_of_progress_starts_on_what_was_kept():
    stages = []
    async with running(PROBATION, complains=True) as streamd:
        shipped = (await streamd.status())["release"]
        for record in range(1, 100):
            stage = await killed_at(streamd, record)
            if not stage:
                break
            stages.append(stage)
            await streamd.start()
            assert (await streamd.status())["release"] == shipped
            verified = (await streamd.ctl("history", "--verify"))["verified"]
            assert verified["problems"] == []
            state = Store(streamd.root / "state")
            assert list(state.root.rglob("*.new")) == []
            for number in state.numbers():
                assert digest(read_tree(state.path(number))) == state.read_record(number).sha256
            assert state.history()[-1]["verb"] == "start"
        status = await streamd.status()
        assert status["release"] != shipped  # the last load, which nobody killed
    assert list(dict.fromkeys(stages)) == ["read", "merge", "rehearse", "import", "move", "probation"]
