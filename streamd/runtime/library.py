"""The releases there are: in memory, on disk, and the one that a start begins with.

The rule this file keeps: a release is written whole before it is imported, and imported only if it is what was
written. What nothing runs on is let go of; its directory stays, for a rollback.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from streamd.runtime import patchfile
from streamd.runtime.patchfile import Patch, PatchError
from streamd.runtime.release import Release, ReleaseError, digest, read_tree
from streamd.runtime.store import Record, Store
from streamd.runtime.ways import Ways

log = logging.getLogger("streamd")

BRIEFS = 64  # records without texts that are kept at hand
NOBODY = {"uid": -1, "gid": -1, "pid": 0}  # the server itself, at its start


class Library:
    """Releases by their number, and what is known of each."""

    def __init__(self, store: Store, shipped: Path) -> None:
        self.store = store
        self.shipped = shipped
        self.releases: dict[int, Release] = {}
        self.records: dict[int, Record] = {}
        self.ways = Ways(self.brief, self.held)
        self.package: dict[str, tuple[Path, str]] = {}  # its live code as it was at the start
        self.drafts: set[int] = set()  # releases that are being made
        self._briefs: dict[int, Record] = {}
        self._like: Release | None = None  # the last one imported: most of its text is in the next

    # ---- start

    def boot(self) -> tuple[Release, list[str]]:
        """Import the release that a start begins with; and what the operator should know.

        That is the last kept one. If the package has been upgraded since (or the directory was touched), the
        kept patches are merged into the new code one by one: those that fit go in, those that it contains by now are
        dropped, and the others are named.
        """
        texts = self.package = read_tree(self.shipped)
        shipped = digest(texts)
        kept, warnings = self._kept(shipped)
        if kept is None:
            kept, warnings = self._regrow(
                shipped, {name: text for name, (_, text) in texts.items()}, warnings
            )
        self.add(kept, self.store.read_record(kept.number))
        return kept, warnings

    def _kept(self, shipped: str) -> tuple[Release | None, list[str]]:
        number = self.store.kept
        if number is None:
            return None, []
        try:
            record = self.store.read_record(number)
            release = self.stored(number)
            if record.shipped != shipped:
                return None, [
                    f"the package has changed since release {number} was kept"
                ] if record.patches else []
            return release.load(), []
        except (LookupError, OSError, ReleaseError) as error:
            return None, [f"the kept release {number} cannot be used: {error}"]

    def stored(self, number: int) -> Release:
        """A release on disk, not yet imported. Raises LookupError, and ReleaseError if it is not what was written."""
        record = self.record(number)
        release = Release(number, self.store.path(number), record.parent)
        if release.sha256 != record.sha256:
            raise ReleaseError(f"release {number} was changed on disk and is not trusted")
        return release

    def _regrow(self, shipped: str, texts: dict[str, str], warnings: list[str]) -> tuple[Release, list[str]]:
        """The shipped code with every kept patch that still fits it and runs with it.

        Patches that were loaded together go in together or not at all: one may not work without the other.
        """
        number = self.store.next_number()
        applied: list[dict[str, str]] = []
        waiting = _loads(self._kept_patches())
        while waiting:
            refused, refusals = [], []
            for place, load in enumerate(waiting):
                names = ", ".join(item["name"] for item in load)
                try:
                    patches = _parsed(load)
                    later = [patch for after in waiting[place + 1 :] for patch in _parsed(after)]
                    versions = patchfile.versions_of(texts)
                    fresh = [
                        item for item in patches if not patchfile.contained(item, texts, versions, later)
                    ]
                    merged = patchfile.merge(fresh, texts, versions) if fresh else texts
                    if fresh:
                        self.write(number, None, merged).load().discard()
                except (PatchError, ReleaseError) as error:
                    refused.append(load)
                    refusals.append(f"kept patch {names} is left out: {error}")
                    continue
                if dropped := [item for item in patches if item not in fresh]:
                    warnings.append(f"dropped, for the package has it now: {', '.join(map(str, dropped))}")
                texts = merged
                kept = {item.sha256 for item in fresh}
                applied += [item for item in load if item["sha256"] in kept]
            if len(refused) == len(waiting):
                warnings += refusals
                break
            waiting = refused  # what one lacked, a later one may have added
        release = self.write(number, None, texts).load()
        self.store.write_record(
            Record(number, None, shipped, release.sha256, patches=applied, at=now(), by=NOBODY)
        )
        self.store.keep(number)
        return release, warnings

    def _kept_patches(self) -> list[dict[str, str]]:
        try:
            return self.store.read_record(self.store.kept or 0).patches
        except LookupError:
            return []

    # ---- releases that come and go

    def write(self, number: int, parent: int | None, texts: Mapping[str, str]) -> Release:
        """Make the directory of a release, which is not imported yet."""
        packages = {name.rpartition(".")[0] for name in texts if name} | {""}
        packages |= {name for name in texts if (self.shipped / Path(*name.split("."))).is_dir() and name}
        tree = {
            name: (
                "/".join([*(name.split(".") if name else ()), "__init__.py"])
                if name in packages
                else f"{name.replace('.', '/')}.py",
                text,
            )
            for name, text in texts.items()
        }
        return Release(number, self.store.write_tree(number, tree), parent)

    def add(self, release: Release, record: Record) -> None:
        self.releases[release.number], self.records[release.number] = release, record
        self.drafts.discard(release.number)
        self._like = release

    def record(self, number: int) -> Record:
        """Raises LookupError."""
        if number not in self.records:
            self.records[number] = self.store.read_record(number)
        return self.records[number]

    def brief(self, number: int) -> Record:
        """The record without the texts of its patches, for a table. Raises LookupError."""
        if number not in self._briefs:
            if len(self._briefs) >= BRIEFS:
                self._briefs.clear()
            record = self.record(number)
            named = [{"name": item["name"], "sha256": item["sha256"]} for item in record.patches]
            self._briefs[number] = replace(record, patches=named)
        return self._briefs[number]

    def held(self, number: int) -> Release:
        """The release in memory, imported again from its directory if it has been let go of."""
        if number not in self.releases:
            self.releases[number] = self.stored(number).load(self._like)
        return self.releases[number]

    def forget(self, number: int) -> None:
        """Let go of a release in memory."""
        self.ways.forget(number)
        release = self.releases.pop(number, None)
        if release is not None:
            if release is self._like:
                self._like = next(reversed(self.releases.values()), None)
            release.discard()

    def trim(self) -> None:
        """Forget the records of releases that no way from those in memory passes; they can be read again."""
        needed = {step for number in (*self.releases, *self.drafts) for step in self.ways.ancestors(number)}
        self.records = {number: self.records[number] for number in needed if number in self.records}

    def remove(self, number: int) -> None:
        """Forget a release that was never to run, or did not come to; on disk as well."""
        self.forget(number)
        self.drafts.discard(number)
        for known in (self.records, self._briefs):
            known.pop(number, None)
        self.store.remove(number)

    def patched(self, number: int) -> dict[str, int]:
        """The modules in which a release differs from the shipped code, with their versions; 0 for one removed."""
        modules: dict[str, int] = {}
        for step in reversed(self.ways.ancestors(number)):
            modules |= {name: to for name, (_, to) in self.brief(step).modules.items()}
        return modules

    def stack(self, number: int) -> list[Patch]:
        """The patches since the shipped code, in the order in which they were loaded."""
        return _parsed(self.record(number).patches)


def _parsed(patches: list[dict[str, str]]) -> list[Patch]:
    return [patchfile.parse(Path(item["name"]), item["text"]) for item in patches]


def _loads(patches: list[dict[str, str]]) -> list[list[dict[str, str]]]:
    """Kept patches by the load they came with."""
    loads: dict[str, list[dict[str, str]]] = {}
    for place, item in enumerate(patches):
        loads.setdefault(item.get("load", f"alone {place}"), []).append(item)
    return list(loads.values())


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
