"""An admin socket whose answers are a table: what `streamd-ctl` is tested against, and looked at with.

python -m tests.fake_admin /tmp/admin.sock         answers at once
python -m tests.fake_admin /tmp/admin.sock 0.2     takes so many seconds between two records
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgpack

PUBLISHER: dict[str, Any] = {"peer": "192.0.2.7:51234", "encoder": "OBS"}
BROADCAST: dict[str, Any] = {
    "name": "live/show",
    "kind": "broadcast",
    "phase": "live",
    "release": 2,
    "links": 43,
    "publisher": PUBLISHER,
    "viewers": 42,
    "viewers_by": {"flv": 30, "ws": 10, "rtmp": 2},
    "bitrate_kbps": 2510,
    "video": "h264 1280x720",
    "audio": "aac 48000 Hz",
    "title": "5 \x80 [red]\x1b[31m",
    "uptime_ms": 93_784_000,
    "steps": 5000,
    "received": 31_000_000,
    "sent": 1_300_000_000,
    "pause_ms": 0.31,
}
DOOR: dict[str, Any] = {"name": "door/17", "kind": "door", "phase": "handshake", "release": 2, "links": 1}
STATUS: dict[str, Any] = {
    "ok": True,
    "release": 2,
    "kept": 1,
    "releases": [
        {
            "number": 1,
            "state": "kept leaving",
            "parent": None,
            "sessions": 0,
            "modules": {},
            "patches": [],
            "by": None,
            "at": "2026-03-01T10:00:00+00:00",
            "sha256": "ab" * 32,
        },
        {
            "number": 2,
            "state": "running",
            "parent": 1,
            "sessions": 2,
            "modules": {"media.h264": 2},
            "patches": ["/srv/patches/codec_fix.py"],
            "by": {"uid": 0, "gid": 0, "pid": 4711},
            "at": "2026-03-01T11:00:00+00:00",
            "sha256": "cd" * 32,
        },
    ],
    "sessions": [BROADCAST, DOOR],
    "rtmp": "0.0.0.0:1935",
    "http": "0.0.0.0:8080",
    "pid": 4242,
    "uptime_s": 7265,
    "version": "1.0.0",
}
PROBATION: dict[str, Any] = {
    "release": 2,
    "old": 1,
    "left_s": 21.4,
    "seconds": 30.0,
    "events": 4021,
    "sessions": 2,
    "wave": [1, 3],
    "differences": 2,
    "first_difference": "live/show, Data: SendAll has 12 bytes, and had 14",
    "cured": 0,
    "first_cure": "",
    "strict": False,
}
SHOW_REHEARSED: dict[str, Any] = {
    "name": "live/show",
    "release": 1,
    "ok": True,
    "why": "",
    "up_ms": 0.21,
    "down_ms": 0.18,
    "lower_ms": 0.1,
    "events": 412,
    "differences": 0,
    "first_difference": "",
    "growth_bytes": 0,
    "slower": 1.02,
    "cured": 0,
}
REPORT: dict[str, Any] = {
    "sessions": [
        SHOW_REHEARSED,
        {
            **SHOW_REHEARSED,
            "name": "live/studio1",
            "differences": 2,
            "first_difference": "SendAll to flv/video has 1,204 bytes, and had 1,190",
            "growth_bytes": 2048,
            "cured": 1,
        },
    ],
    "failures": [],
    "differences": [
        {"name": "live/studio1", "event": "Data", "sentence": "SendAll has 1,204 bytes, and had 1,190"},
        {"name": "live/studio1", "event": "Tick", "sentence": "2 commands instead of 3"},
    ],
    "different": 2,
    "cured": 1,
    "events": 824,
    "replayed": 2,
    "not_replayed": 0,
    "tried": 24,
    "not_tried": 0,
    "predicted_pause_ms": 0.31,
    "slower": 1.02,
    "growth_bytes": 2048,
    "memory_mb": 38.0,
    "seconds": 0.9,
}
SAME_REPORT: dict[str, Any] = {**REPORT, "sessions": [SHOW_REHEARSED], "differences": [], "different": 0}
FAILED_REPORT: dict[str, Any] = {
    **SAME_REPORT,
    "sessions": [
        SHOW_REHEARSED,
        {**SHOW_REHEARSED, "name": "live/studio1", "ok": False, "why": "KeyError: 'sps'", "events": 17},
    ],
    "failures": [
        {
            "name": "live/studio1",
            "sentence": "upgrade raised KeyError: 'sps'",
            "traceback": (
                "Traceback (most recent call last):\n"
                '  File "/var/lib/streamd/releases/0003/media/h264.py", line 71, in upgrade\n'
                '    return {"sps": old["sps"]}\n'
                "                   ~~~^^^^^^^\n"
                "KeyError: 'sps'\n"
            ),
            "event": {"is": "Data", "link": 3, "at": 91_222, "data": "09f0... 1400 bytes"},
            "state": {"@": "media.h264:Track", "config": "0142c01e", "title": "5 \x80"},
        }
    ],
}
LOADED: dict[str, Any] = {
    "ok": True,
    "release": 3,
    "modules": {"media.h264": [1, 2]},
    "sessions": 2,
    "longest_pause_ms": 0.4,
    "pauses": [{"name": "live/show", "ms": 0.31}, {"name": "live/studio1", "ms": 0.4}],
    "predicted_pause_ms": 0.31,
    "total_ms": 120.0,
    "report": SAME_REPORT,
    "probation": PROBATION,
    "text": "release 3 running. media.h264 1 -> 2. Roll back with: streamd-ctl rollback",
}
DIFFERENT: dict[str, Any] = {
    "ok": False,
    "stage": "differences",
    "error": "of 824 events replayed 2 would be answered differently. Load it with --accept-differences. "
    "Nothing was changed",
    "report": REPORT,
}
PROMOTED: dict[str, Any] = {
    "ok": True,
    "release": 2,
    "modules": {"media.h264": 2},
    "files": {"streamd/live/media/h264.py": "VERSION = 2\n", "streamd/live/media/old.py": None},
    "shipped": {
        "streamd/live/media/h264.py": sha256(b"VERSION = 1\n").hexdigest(),
        "streamd/live/media/old.py": sha256(b"OLD = 1\n").hexdigest(),
    },
    "text": "release 2 differs from the package in 2 files",
}
CARET: dict[str, Any] = {
    "ok": False,
    "stage": "merge",
    "error": "crooked.py, line 4: invalid syntax\n    def learn(track:\n             ^",
}
STAGES: list[dict[str, Any]] = [
    {"progress": "read", "done": 1, "of": 1},
    {"progress": "merge", "done": 1, "of": 1, "text": "media.h264 1 -> 2"},
    {"progress": "rehearse", "done": 0, "of": 2},
    {"progress": "rehearse", "done": 1, "of": 2},
    {"progress": "rehearse", "done": 2, "of": 2},
    {"progress": "import", "done": 1, "of": 1},
]
MOVES: list[dict[str, Any]] = [{"progress": "move", "done": 2, "of": 2}]


def loaded(args: dict[str, Any]) -> list[Any]:
    """What a load answers: what the name of the patch says."""
    name, watched = str(args["paths"][0]), []
    if "crooked" in name:
        return [*STAGES[:1], CARET]
    if "fails" in name:
        return [
            *STAGES[:5],
            {
                **DIFFERENT,
                "stage": "rehearse",
                "error": "live/studio1: KeyError: 'sps'",
                "report": FAILED_REPORT,
            },
        ]
    if "differs" in name and not args.get("accept_differences"):
        return [*STAGES[:5], DIFFERENT]
    if args.get("wait"):
        watched = [{"progress": "probation", "done": n, "of": 10} for n in range(11)]
    if "raises" in name:
        failed = {
            "ok": False,
            "stage": "probation",
            "error": "live/show: IndexError",
            "report_path": "/var/crash/7.json",
        }
        return [*STAGES, *MOVES, *watched[:4], failed]
    if args.get("shadow"):
        watched = [{"progress": "shadow", "done": n, "of": 10} for n in range(11)] + watched
    return [*STAGES, *MOVES, *watched, LOADED]


def checked(args: dict[str, Any]) -> list[Any]:
    if "bad" in args["paths"][0]:
        return [REFUSAL]
    if "fails" in args["paths"][0]:
        return loaded(args)
    report = REPORT if "differs" in args["paths"][0] else SAME_REPORT
    text = "fits release 2: media.h264 1 -> 2. Load with: streamd-ctl load a.py"
    return [*STAGES[:-1], {"ok": True, "release": 2, "sessions": 2, "report": report, "text": text}]


REFUSAL: dict[str, Any] = {
    "ok": False,
    "stage": "read",
    "error": "patches/bad.py, line 3: there is no module media.h265.",
}
HISTORY: dict[str, Any] = {
    "ok": True,
    "entries": [
        {
            "at": "2026-03-01T11:00:00+00:00",
            "uid": 0,
            "gid": 0,
            "pid": 4711,
            "verb": "load",
            "paths": ["codec_fix.py"],
            "result": "loaded",
            "release": 2,
            "sha256": "cd" * 32,
            "text": "release 2 running",
        }
    ],
}
ANSWERS: dict[str, list[Any] | Callable[[dict[str, Any]], list[Any]]] = {
    "status": [STATUS],
    "sessions": [{"ok": True, "sessions": [BROADCAST, DOOR]}],
    "load": loaded,
    "check": checked,
    "plan": [
        *STAGES[:-1],
        {
            "ok": True,
            "release": 2,
            "modules": {"media.h264": [1, 2], "media.av2": [0, 1]},
            "records": [
                {"record": "media.h264:Track", "change": "+sps +pps -config", "how": "upgrade, downgrade"}
            ],
            "sessions": [
                {"name": "live/show", "wave": 1, "release": 2, "pinned": False, "pause_ms": 0.31},
                {"name": "live/final", "wave": 0, "release": 2, "pinned": True, "pause_ms": 0.0},
            ],
            "shadowed": ["media.h264.learn of codec_fix.py is replaced"],
            "leftovers": ["old_fix.py: the running release has it already; delete it"],
            "report": SAME_REPORT,
            "text": "would make a release of 2 and move 1 session.",
        },
    ],
    "pin": [{"ok": True, "name": "live/show", "release": 2, "text": "live/show stays on release 2."}],
    "unpin": [{"ok": True, "name": "live/show", "release": 2, "text": "live/show is on release 2."}],
    "promote": [PROMOTED],
    "rollback": [{"ok": True, "release": 1, "text": "release 1 running."}],
    "keep": [{"ok": True, "text": "release 2 is what a restart boots."}],
    "trace": [
        {
            "ok": True,
            "name": "live/show",
            "events": [{"at": 1, "kind": "Data", "link": 3, "size": 1400, "commands": ["SendAll", "Send"]}],
        }
    ],
    "diff": [
        {
            "ok": True,
            "text": "--- 1/media/h264.py\n+++ 2/media/h264.py\n@@ -1 +1 @@\n-VERSION = 1\n+VERSION = 2\n",
        }
    ],
    "history": [HISTORY],
    "new-patch": [{"ok": True, "path": "/srv/patches/h264_fix.py", "text": "wrote /srv/patches/h264_fix.py"}],
    "purge": [{"ok": True, "collected": [1], "removed": [], "pinned": [], "text": "release 1 is gone."}],
    "stop": [{"ok": True, "text": "stopping."}],
    "modules": [
        {"ok": True, "modules": ["media.aac", "media.h264", "protocol.text"], "patches": ["euro_fix.py"]}
    ],
}


class FakeAdmin:
    """Answers each verb with the records of `answers`; keeps the requests. None in a row of records: hang up."""

    def __init__(self, path: Path, pause: float = 0.0) -> None:
        self.path = str(path)
        self.pause = pause
        self.answers = dict(ANSWERS)
        self.requests: list[dict[str, Any]] = []
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(self.path)
        self.listener.listen()
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return  # closed
            with connection, suppress(ConnectionError):  # who asked has gone
                self.answer(connection)

    def answer(self, connection: socket.socket) -> None:
        unpacker = msgpack.Unpacker()
        for request in self.requests_of(connection, unpacker):
            self.requests.append(request)
            for record in self.records(request["verb"], request["args"]):
                if record is None:
                    return
                if record == "wait":  # until the client gives up
                    connection.recv(1)
                    return
                time.sleep(self.pause)
                connection.sendall(record if isinstance(record, bytes) else msgpack.packb(record))
            return

    def records(self, verb: str, args: dict[str, Any]) -> list[Any]:
        found = self.answers.get(verb, [REFUSAL])
        return found(args) if callable(found) else found

    def requests_of(self, connection: socket.socket, unpacker: msgpack.Unpacker):
        while data := connection.recv(65_536):
            unpacker.feed(data)
            yield from unpacker

    def close(self) -> None:
        if self.listener.fileno() < 0:
            return  # a test has ended it before
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(5)


if __name__ == "__main__":  # a server to look at the output with
    import sys

    FakeAdmin(Path(sys.argv[1]), float((*sys.argv, "0")[2])).thread.join()
