"""What releases leave on disk: their directories, which one a restart boots, and the history.

    releases/0007/        complete plain source: `diff -r 0006 0007` is the patch
    releases/0007.json    parent, patches with their texts, who, when, sha256, the shipped code it came from
    kept.json             the number that a restart boots
    history.jsonl         every request that changed or tried to change something (history.py)

The rule this file keeps: a file is whole or absent. Everything is written beside its place, synced, and renamed;
what was cut off on the way there (*.new, and a directory that has no record yet) is removed at the next start.

Whoever may write here decides what the server runs: the digests find accidents, not the owner. So the directory has
to belong to the server's user or root, and nobody else may write into it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from streamd.runtime.history import History, Verified


@dataclass
class Record:
    """What is known of a release besides its source. `patches` are those applied since the shipped code, in order.

    A record that another version of streamd wrote may have more fields, which are passed over, or fewer.
    """

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
    renames: dict[str, str] = field(
        default_factory=dict
    )  # modules that live on under another name: old -> new
    differs: str = ""  # what behaves otherwise than in the parent, and why
    irreversible: str = ""  # why no state made here can be brought back to the parent; "" where it can
    signers: list[str] = field(default_factory=list)  # of the patches of this load that were signed


FIELDS = tuple(item.name for item in fields(Record))


class Store:
    """The state directory. Raises OSError (full disk, permissions) with the path in its text."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.releases = root / "releases"
        self.releases.mkdir(parents=True, exist_ok=True)
        self._history = History(root / "history.jsonl")

    def lock(self) -> None:
        """Keep the directory for this process until it ends. Raises OSError with a sentence if another has it, or if
        others could write into it."""
        for place in (self.root, self.releases):
            facts = place.stat()
            if facts.st_uid not in (0, os.geteuid()):
                owner = f"{place} belongs to uid {facts.st_uid}, who could change what this server runs"
                raise OSError(errno.EPERM, f"{owner}; say: chown {os.geteuid()} {place}")
            if facts.st_mode & stat.S_IWOTH:
                raise OSError(errno.EPERM, f"{place} is writable by others; say: chmod o-w {place}")
        handle = os.open(self.root / "lock", os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
        self._lock = os.fdopen(handle, "w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            sentence = f"another streamd uses {self.root}; stop it, or give this one another --state"
            raise OSError(errno.EAGAIN, sentence) from error
        self._sweep()

    def _sweep(self) -> None:
        """Remove what a load, or a keep, left that was cut off."""
        unfinished = [*self.root.glob("*.new"), *self.releases.glob("*.new")]
        known = set(self.numbers())
        unfinished += [
            item for item in self.releases.iterdir() if item.name.isdecimal() and int(item.name) not in known
        ]
        for item in unfinished:
            shutil.rmtree(item) if item.is_dir() and not item.is_symlink() else item.unlink()

    # ---- releases

    def path(self, number: int) -> Path:
        return self.releases / f"{number:04d}"

    def numbers(self) -> list[int]:
        return sorted(int(item.stem) for item in self.releases.glob("*.json") if item.stem.isdecimal())

    def next_number(self) -> int:
        """A number no release has had: also not one whose directory was removed."""
        used = [int(item.stem) for item in self.releases.iterdir() if item.stem.isdecimal()]
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
        for directory in (fresh, *(item for item in fresh.rglob("*") if item.is_dir())):
            _sync_directory(directory)
        shutil.rmtree(final, ignore_errors=True)
        fresh.rename(final)
        _sync_directory(self.releases)
        return final

    def write_record(self, record: Record) -> None:
        self._replace(self.path(record.number).with_suffix(".json"), json.dumps(asdict(record), indent=1))

    def read_record(self, number: int) -> Record:
        """Raises LookupError if there is no such release or its record cannot be read."""
        path = self.path(number).with_suffix(".json")
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            return Record(**{name: known[name] for name in FIELDS if name in known})
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
        self._history.note(entry)

    def history(self, last: int = 0) -> list[dict[str, Any]]:
        """The entries, oldest first; only the last so many if given. A torn line, of a crash, is passed over."""
        return self._history.entries(last)

    def verify(self, known: str = "") -> Verified:
        """Whether the history is as it was written; `known` is a head that was written down elsewhere."""
        return self._history.verify(known)

    def _replace(self, path: Path, text: str) -> None:
        fresh = path.with_name(path.name + ".new")
        _write_synced(fresh, text)
        fresh.rename(path)
        _sync_directory(path.parent)


def _write_synced(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with path.open("x", encoding="utf-8") as file:  # never through a link
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
