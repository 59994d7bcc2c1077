"""What releases leave on disk: their directories, which one a restart boots, and the history.

    releases/0007/        complete plain source: `diff -r 0006 0007` is the patch
    releases/0007.json    parent, patches with their texts, who, when, sha256, the shipped code it came from
    kept.json             the number that a restart boots
    history.jsonl         every request that changed or tried to change something; only ever appended to

The rule this file keeps: a file is whole or absent. Everything is written beside its place, synced, and renamed.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO


@dataclass
class Record:
    """What is known of a release besides its source. `patches` are those applied since the shipped code, in order."""

    number: int
    parent: int | None
    shipped: str  # digest of the package's own live code that it grew from
    sha256: str
    modules: dict[str, list[int]] = field(
        default_factory=dict
    )  # changed against the parent: name -> [from, to]
    patches: list[dict[str, str]] = field(default_factory=list)
    by: dict[str, int] = field(default_factory=dict)
    at: str = ""


class Store:
    """The state directory. Raises OSError (full disk, permissions) with the path in its text."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.releases = root / "releases"
        self.releases.mkdir(parents=True, exist_ok=True)
        self._history = root / "history.jsonl"

    def lock(self) -> None:
        """Keep the directory for this process until it ends. Raises OSError with a sentence if another has it."""
        self._lock = (self.root / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            sentence = f"another streamd uses {self.root}; stop it, or give this one another --state"
            raise OSError(errno.EAGAIN, sentence) from error
        for leftover in self.releases.glob("*.new"):  # of a load that was cut off
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()

    # ---- releases

    def path(self, number: int) -> Path:
        return self.releases / f"{number:04d}"

    def numbers(self) -> list[int]:
        return sorted(int(item.stem) for item in self.releases.glob("*.json") if item.stem.isdigit())

    def next_number(self) -> int:
        """A number no release has had: also not one whose directory was removed."""
        used = [int(item.stem) for item in self.releases.iterdir() if item.stem.isdigit()]
        said: list[int] = [item["release"] for item in self.history() if type(item.get("release")) is int]
        return max([0, *used, *said]) + 1

    def write_tree(self, number: int, texts: Mapping[str, tuple[str, str]]) -> Path:
        """Make releases/NNNN from module name -> (path below it, text)."""
        final = self.path(number)
        fresh = final.with_suffix(".new")
        shutil.rmtree(fresh, ignore_errors=True)
        for place, text in texts.values():
            file = fresh / place
            file.parent.mkdir(parents=True, exist_ok=True)
            _write_synced(file, text)
        shutil.rmtree(final, ignore_errors=True)
        fresh.rename(final)
        return final

    def write_record(self, record: Record) -> None:
        self._replace(self.path(record.number).with_suffix(".json"), json.dumps(asdict(record), indent=1))

    def read_record(self, number: int) -> Record:
        """Raises LookupError if there is no such release or its record cannot be read."""
        path = self.path(number).with_suffix(".json")
        try:
            return Record(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise LookupError(f"release {number}: {path}: {error}") from error

    def remove(self, number: int) -> None:
        self.path(number).with_suffix(".json").unlink(missing_ok=True)
        for path in (self.path(number), self.path(number).with_suffix(".new")):
            shutil.rmtree(path, ignore_errors=True)

    # ---- what a restart boots

    @property
    def kept(self) -> int | None:
        try:
            number = json.loads((self.root / "kept.json").read_text(encoding="utf-8"))["release"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return number if isinstance(number, int) else None

    def keep(self, number: int) -> None:
        self._replace(self.root / "kept.json", json.dumps({"release": number}))

    # ---- history

    def note(self, **entry: Any) -> None:
        """Append one line and sync it: what is answered has been written down."""
        line = json.dumps({"at": datetime.now(UTC).isoformat(timespec="milliseconds"), **entry}).encode()
        with self._history.open("ab+") as file:
            if file.tell() and _last_byte(file) != b"\n":
                line = b"\n" + line  # a torn line, of a crash, must not take this one with it
            file.write(line + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def history(self, last: int = 0) -> list[dict[str, Any]]:
        """The entries, oldest first; only the last so many if given. A torn line, of a crash, is passed over."""
        try:
            lines = self._history.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        entries = []
        for line in lines[-last:] if last else lines:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict):
                entries.append(entry)
        return entries

    def _replace(self, path: Path, text: str) -> None:
        fresh = path.with_name(path.name + ".new")
        _write_synced(fresh, text)
        fresh.rename(path)
        handle = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _last_byte(file: BinaryIO) -> bytes:
    file.seek(-1, os.SEEK_END)
    return file.read(1)


def _write_synced(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
