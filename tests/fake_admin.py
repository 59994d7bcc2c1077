"""An admin socket whose answers are a table: what `streamd-ctl` is tested against."""

from __future__ import annotations

import socket
import threading
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
LOADED: dict[str, Any] = {
    "ok": True,
    "release": 3,
    "modules": {"media.h264": [1, 2]},
    "sessions": 2,
    "longest_pause_ms": 0.4,
    "total_ms": 120.0,
    "text": "release 3 running. media.h264 1 -> 2. Roll back with: streamd-ctl rollback",
}
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
ANSWERS: dict[str, list[Any]] = {
    "status": [STATUS],
    "sessions": [{"ok": True, "sessions": [BROADCAST, DOOR]}],
    "load": [
        {"progress": "rehearsing", "done": 1, "of": 2},
        {"progress": "moving", "done": 2, "of": 2},
        LOADED,
    ],
    "check": [REFUSAL],
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

    def __init__(self, path: Path) -> None:
        self.path = str(path)
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
            with connection:
                self.answer(connection)

    def answer(self, connection: socket.socket) -> None:
        unpacker = msgpack.Unpacker()
        for request in self.requests_of(connection, unpacker):
            self.requests.append(request)
            for record in self.answers.get(request["verb"], [REFUSAL]):
                if record is None:
                    return
                if record == "wait":  # until the client gives up
                    connection.recv(1)
                    return
                connection.sendall(record if isinstance(record, bytes) else msgpack.packb(record))
            return

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

    FakeAdmin(Path(sys.argv[1])).thread.join()
