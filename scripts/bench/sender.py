"""The bare sender in Python: the same as sender.c, and the same arguments, with socket.send in a loop.

python -m scripts.bench.sender PORT COUNT INTERVAL-MS TAGS-FILE
"""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path

SEND_BUFFER = 262_144  # [network] send_buffer


def records(path: Path) -> list[tuple[int, bytes]]:
    data, at, found = path.read_bytes(), 0, []
    while at < len(data):
        ms, size = (
            int.from_bytes(data[at : at + 4], "little"),
            int.from_bytes(data[at + 4 : at + 8], "little"),
        )
        found.append((ms, data[at + 8 : at + 8 + size]))
        at += 8 + size
    return found


def welcome(listener: socket.socket, head: bytes) -> socket.socket:
    viewer, _ = listener.accept()
    viewer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    viewer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    viewer.recv(4096)
    viewer.sendall(head)
    viewer.setblocking(False)
    return viewer


def turns(tags: list[tuple[int, bytes]], interval: float) -> list[tuple[float, bytes]]:
    """What is sent when: ms, and the tags that have come due joined."""
    if not interval:
        return [(float(ms), tag) for ms, tag in tags]
    due: dict[float, list[bytes]] = {}
    for ms, tag in tags:
        due.setdefault((int(ms / interval) + 1) * interval, []).append(tag)
    return [(when, b"".join(parts)) for when, parts in due.items()]


def main(port: int, count: int, interval: float, path: Path) -> None:
    (_, head), *tags = records(path)
    plan = turns(tags, interval)
    listener = socket.create_server(("127.0.0.1", port), backlog=1024)
    print("ready", flush=True)
    viewers = [welcome(listener, head) for _ in range(count)]
    begun = time.monotonic()
    for when, data in plan:
        time.sleep(max(0.0, begun + when / 1000 - time.monotonic()))
        missed = 0
        for viewer in viewers:
            try:
                missed += viewer.send(data) != len(data)
            except BlockingIOError:
                missed += 1
            except OSError:
                return
        if missed:
            print(f"sender.py: missed {missed}", file=sys.stderr)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4]))
