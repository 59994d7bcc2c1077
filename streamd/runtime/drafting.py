"""From patch files to a release that has been rehearsed and imported: all that comes before the point of no return.

The rule this file keeps: nothing here touches a session. What fails leaves nothing behind, and every refusal names the
file and line, or the session, that is to blame.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from streamd.runtime import patchfile, sentences
from streamd.runtime.library import Library, now
from streamd.runtime.mover import Mover
from streamd.runtime.patchfile import PatchError
from streamd.runtime.rehearse import ChildFailed, Merged, Rehearsal, ReleaseFact, SessionCopy
from streamd.runtime.release import Release, ReleaseError
from streamd.runtime.session import Session, Sessions
from streamd.runtime.state import StateError
from streamd.runtime.store import Record
from streamd.runtime.vocabulary import Event
from streamd.runtime.wire import MOST_NAMED, MOST_NUMBERS, Around, LinkFact
from streamd.runtime.wishes import Bounds, Progress, Refusal, Wishes

log = logging.getLogger("streamd")

Verify = Callable[[Path, bytes], str]  # a patch's signer; raises PatchError
SWITCH_INTERVAL = 0.0005  # s: how long the importing thread may keep the interpreter from the loop


@dataclass
class Draft:
    """A merged release on disk, which may come to nothing."""

    release: Release
    record: Record
    codes: dict[str, bytes]
    explained: frozenset[str] = frozenset()  # kinds of commands that its patches say may differ
    again: bool = False  # it is the canary that runs already

    @property
    def number(self) -> int:
        return self.release.number


class Drafting:
    """Makes drafts of the running release and the patches that are named."""

    def __init__(
        self,
        sessions: Sessions,
        library: Library,
        mover: Mover,
        patches: Path,
        bounds: Bounds,
        verify: Verify | None,
    ) -> None:
        self.sessions = sessions
        self.library = library
        self.mover = mover
        self.patches = patches
        self.bounds = bounds
        self.verify = verify

    @property
    def current(self) -> Release:
        assert self.sessions.current is not None
        return self.sessions.current

    @asynccontextmanager
    async def drafted(
        self,
        paths: Sequence[str],
        cwd: str,
        by: dict[str, int],
        wishes: Wishes,
        canary: Draft | None,
        progress: Progress,
    ) -> AsyncIterator[tuple[Draft, Rehearsal, Merged]]:
        """Read the patches, let another process merge and compile them, and write the result to disk."""
        await progress("read", 0, len(paths))
        read = await asyncio.to_thread(self._read, paths, cwd)
        await progress("read", len(read), len(read))
        await progress("merge", 0, len(read))
        base = self.current
        async with Rehearsal(self.bounds.child.shadowing(wishes.shadow)) as child:
            number = await asyncio.to_thread(self.library.store.next_number)
            texts = {name: text for name, (_, text) in base.texts.items()}
            merged = await child.merge(
                [(str(path), text) for path, text, _ in read],
                texts,
                base.versions,
                str(self.library.store.path(number)),
            )
            await progress("merge", len(merged.patches), len(merged.patches))
            draft = _again(canary, merged, wishes)
            if draft is None:
                self._refuse_if_many()
                try:
                    draft = await self._write(
                        number, base, merged, [signer for _, _, signer in read], by, wishes
                    )
                except BaseException:  # a full disk leaves a part of it
                    await asyncio.to_thread(self.library.remove, number)
                    raise
            yield draft, child, merged

    def _read(self, paths: Sequence[str], cwd: str) -> list[tuple[Path, str, str]]:
        """(path, text, signer) of each patch; what is parsed is what was verified."""
        found = []
        for path in patchfile.find(paths, cwd, self.patches):
            raw = patchfile.read_bytes(path, self.patches, self.bounds.max_bytes)
            signer = self.verify(path, raw) if self.verify is not None else ""
            found.append((path, patchfile.decode(path, raw), signer))
        return found

    def _refuse_if_many(self) -> None:
        releases = self.library.releases
        if len(releases) >= self.bounds.max_live:
            held = ", ".join(
                f"{number} ({sentences.sessions(len(self.sessions.pinned(item)))})"
                for number, item in releases.items()
            )
            raise Refusal(
                "read",
                f"{len(releases)} releases live already, as many as [releases] max_live allows: {held}",
            )

    async def _write(
        self,
        number: int,
        base: Release,
        merged: Merged,
        signers: list[str],
        by: dict[str, int],
        wishes: Wishes,
    ) -> Draft:
        parent = self.library.record(base.number)
        release = await asyncio.to_thread(self.library.write, number, base.number, merged.texts)
        modules = {item.module: [item.base, item.version] for item in merged.patches}
        renames = {item.renames: item.module for item in merged.patches if item.renames}
        modules |= {name: [base.versions.get(name, 0), 0] for name in renames}
        record = Record(
            number,
            base.number,
            parent.shipped,
            release.sha256,
            modules,
            [
                *parent.patches,
                *(
                    {"name": item.name, "sha256": item.sha256, "text": item.text, "load": str(number)}
                    for item in merged.patches
                ),
            ],
            by,
            now(),
            renames=renames,
            differs=" ".join(item.differs for item in merged.patches if item.differs),
            irreversible=wishes.irreversible,
            signers=[item for item in signers if item],
        )
        self.library.records[number] = record
        self.library.drafts.add(number)
        explained = [patchfile.explained(item.differs) for item in merged.patches]
        return Draft(release, record, merged.codes, frozenset().union(*explained))

    async def tried(
        self, draft: Draft, child: Rehearsal, wishes: Wishes, progress: Progress
    ) -> tuple[dict[str, Any], Refusal | None]:
        """The report of the other process, which tries the draft on everybody it is meant for and then, if that was
        asked for, on what happens meanwhile; and why a load is refused on it, if it is."""
        report = await self._rehearsed(draft, child, wishes, progress)
        refusal = _verdict(report, draft, wishes)
        if wishes.shadow and refusal is None:
            report = await self._shadowed(draft, child, wishes, report, progress)
            refusal = _verdict(report, draft, wishes)
        return report, refusal

    async def _rehearsed(
        self, draft: Draft, child: Rehearsal, wishes: Wishes, progress: Progress
    ) -> dict[str, Any]:
        sessions = [item for item in self.mover.chosen(wishes.selection) if item.release is not draft.release]
        await progress("rehearse", 0, len(sessions))
        involved = {item.release.number for item in sessions} | {self.current.number, draft.number}
        await child.open(
            self._facts(involved, draft.number),
            self.current.number,
            draft.number,
            self.sessions.settings,
            list(self.bounds.specimens),
        )
        return await child.migrate(
            self._copies(sessions),
            back=not wishes.irreversible,
            replay=True,
            progress=lambda done, of: progress("rehearse", done, of),
            count=len(sessions),
        )

    async def _shadowed(
        self, draft: Draft, child: Rehearsal, wishes: Wishes, report: dict[str, Any], progress: Progress
    ) -> dict[str, Any]:
        """Let the other process follow what really happens for a while."""
        sessions = [item for item in self.mover.chosen(wishes.selection) if item.release is not draft.release]
        taped: list[tuple[str, Event]] = []
        copied: set[Session] = set()

        def tap(session: Session, event: Event, _commands: int) -> None:
            if session in copied:
                taped.append((session.name, event))

        def copies() -> Iterator[SessionCopy]:
            for session in sessions:
                if not session.ended:
                    copy = self._copy(session, recent=False)
                    copied.add(session)  # in the same breath: no event is missed and none is seen twice
                    yield copy

        self.sessions.taps.append(tap)
        try:
            seen = await child.shadow(
                copies(), taped, wishes.shadow, progress=lambda done, of: progress("shadow", done, of)
            )
        finally:
            self.sessions.taps.remove(tap)
        merged = {**report, "shadow": seen}
        for key in ("failures", "differences"):
            merged[key] = [*report[key], *seen[key]]
        merged["kinds"] = sorted({*report["kinds"], *seen["kinds"]})
        for key in ("different", "ends", "cured", "events"):
            merged[key] = report[key] + seen[key]
        return merged

    def _facts(self, involved: Iterable[int], target: int) -> list[ReleaseFact]:
        """What the other process needs to know of every release on a way between two of these."""
        numbers = {step for number in involved for step in self.library.ways.ancestors(number)}
        facts = []
        for number in sorted(numbers | {target}):
            record, path = self.library.record(number), str(self.library.store.path(number))
            held = self.library.releases.get(number)
            facts.append(
                ReleaseFact(
                    number,
                    path,
                    record.parent,
                    record.modules,
                    record.renames,
                    record.irreversible,
                    dict(held.codes()) if held is not None else {},
                )
            )
        return facts

    def _copies(self, sessions: Sequence[Session]) -> Iterator[SessionCopy]:
        for session in sessions:
            if not session.ended:
                yield self._copy(session)

    def _copy(self, session: Session, recent: bool = True) -> SessionCopy:
        """What the other process gets of a session. Raises Refusal if its state cannot be copied."""
        try:
            lowered = self.sessions.lower(session.state)
        except StateError as error:
            raise Refusal("rehearse", f"{session.name}: {error}. Nothing was changed") from error
        return SessionCopy(
            session.name,
            session.release.number,
            lowered,
            session.journal.recent() if recent else None,
            list(session.groups),
            len(session.links),
            _around(session) if recent else Around(),
        )

    async def bring_in(self, draft: Draft, progress: Progress) -> None:
        if draft.again:
            return
        await progress("import", 0, 1)
        with shared_interpreter():
            await asyncio.to_thread(draft.release.load, self.current, draft.codes)
        for name, (_, version) in draft.record.modules.items():
            if version and draft.release.versions.get(name) != version:
                raise Refusal(
                    "import",
                    f"{name} says VERSION = {draft.release.versions.get(name)} when run, but {version} in its text",
                )
        await asyncio.to_thread(self.library.store.write_record, draft.record)
        self.library.add(draft.release, draft.record)
        await progress("import", 1, 1)

    async def drop(self, draft: Draft) -> None:
        """Forget a release that was never to run, or did not come to."""
        used = draft.release is self.sessions.current or self.sessions.pinned(draft.release)
        if not used and not draft.again:  # who could not be brought back is still on it
            draft.release.discard()
            await asyncio.to_thread(self.library.remove, draft.number)

    def in_the_way(self, merged: Merged) -> tuple[list[str], list[str]]:
        """What of earlier patches these would replace, and patch files of no use any more; as sentences."""
        earlier = self.library.stack(self.current.number)
        loading = [patchfile.parse(Path(item.name), item.text) for item in merged.patches]
        shadowed = [sentence for patch in loading for sentence in patchfile.shadows(patch, earlier)]
        texts = {name: text for name, (_, text) in self.current.texts.items()}
        versions = self.current.versions
        known = {item.sha256 for item in (*earlier, *loading)}
        leftovers = []
        for path in sorted(self.patches.rglob("*.py")):
            if path.name.startswith((".", "_")):
                continue
            try:
                patch = patchfile.read(path, self.patches, self.bounds.max_bytes)
            except PatchError:
                continue
            running = versions.get(patch.module, 0)
            if patch.sha256 in known:
                continue
            if patchfile.contained(patch, texts, versions):
                leftovers.append(f"{path.name}: the running release has it already; delete it")
            elif patch.base < running:
                leftovers.append(
                    f"{path.name} is made for {patch.module}@{patch.base}, and {running} is running: it would be refused"
                )
        return shadowed, leftovers

    # ---- the way back

    async def rehearse_back(
        self, target: int, sessions: Sequence[Session], progress: Progress, chain: Sequence[int] = ()
    ) -> Release:
        """Import an earlier release, with the `chain` that leads to it, and take copies of sessions there. Raises
        Refusal if one cannot go.

        Where the other process cannot be had at all, the way back is gone without a rehearsal: whoever rolls back has
        a reason, and a session that fails on the way puts everyone where they were.
        """
        for passed in sorted({item.release.number for item in sessions}):
            self._refuse_crossing(passed, target)
        await progress("rehearse", 0, len(sessions))
        try:
            async with Rehearsal(self.bounds.child) as child:
                await self._import_again(chain, child)
                numbers = {item.release.number for item in sessions} | {target, self.current.number}
                await child.open(
                    self._facts(numbers, target), self.current.number, target, self.sessions.settings, []
                )
                report = await child.migrate(
                    self._copies(sessions),
                    back=False,
                    replay=False,
                    progress=lambda done, of: progress("rehearse", done, of),
                    count=len(sessions),
                )
        except ChildFailed as error:
            if error.stage != "spawn":
                raise
            log.warning("rolling back without a rehearsal: %s", error)
            await self._import_again(chain, None)
        else:
            if refusal := _failed(report):
                raise refusal
        return self.library.held(target)

    async def _import_again(self, chain: Sequence[int], child: Rehearsal | None) -> None:
        """Import releases that were let go of; the other process compiles them. Raises Refusal."""
        for number in chain:
            if number in self.library.releases:
                continue
            try:
                release = await asyncio.to_thread(self.library.stored, number)
                like = self.current.texts
                files = {
                    name: (str(file), text)
                    for name, (file, text) in release.texts.items()
                    if like.get(name, ("", ""))[1] != text
                }
                codes = await child.compile(files) if child is not None else {}
                with shared_interpreter():
                    await asyncio.to_thread(release.load, self.current, codes)
            except (ReleaseError, OSError, LookupError) as error:
                raise Refusal("import", f"release {number} cannot be imported again: {error}") from error
            self.library.releases[number] = release

    def _refuse_crossing(self, source: int, target: int) -> None:
        for number in self.library.ways.passed(source, target):
            record = self.library.record(number)
            if record.irreversible and number not in self.library.ways.ancestors(target):
                raise Refusal(
                    "read",
                    f"release {number} was loaded as irreversible ({record.irreversible}); no rollback crosses it",
                )

    def chain(self, to: int | None) -> list[int]:
        """The releases from the running one to the one to roll back to. Raises Refusal."""
        chain = self.library.ways.ancestors(self.current.number)
        if len(chain) < 2:
            raise Refusal(
                "read", f"release {chain[0]} is the code as shipped; there is nothing to roll back to"
            )
        target = chain[1] if to is None else to
        if target == chain[0]:
            raise Refusal("read", f"release {target} is running already")
        if target not in chain:
            known = ", ".join(map(str, chain[1:]))
            raise Refusal(
                "read", f"release {target} is no ancestor of release {chain[0]}; roll back to one of {known}"
            )
        self._refuse_crossing(chain[0], target)
        return chain[: chain.index(target) + 1]


def _around(session: Session) -> Around:
    """What rare events could be about: never more than that, for a session may have thousands of links."""
    timers, links = list(islice(session.timers, MOST_NAMED)), session.links
    if not links:
        return Around(timers=timers)
    first, last = next(iter(links.values())), next(reversed(links.values()))
    busiest = max(links.values(), key=lambda item: item.received)
    groups = islice(session.groups.values(), MOST_NAMED)
    members = [member for group in groups for member in islice(group.members, 1)]
    named = dict.fromkeys([first, busiest, *members])
    named.pop(last, None)  # it stands at the end
    facts = [
        LinkFact(item.number, item.group.name if item.group is not None else "", item.received)
        for item in (*named, last)
    ]
    return Around(facts, sorted(islice(links, MOST_NUMBERS)), timers)


def _again(canary: Draft | None, merged: Merged, wishes: Wishes) -> Draft | None:
    """The canary, if it is what is being loaded. Raises Refusal if it is something else."""
    if canary is None:
        return None
    if {name: text for name, (_, text) in canary.release.texts.items()} == merged.texts:
        if bool(wishes.irreversible) != bool(canary.record.irreversible):
            word = "with" if canary.record.irreversible else "without"
            raise Refusal(
                "read", f"release {canary.number} was loaded {word} --irreversible; load it again like that"
            )
        return replace(canary, again=True)
    raise Refusal(
        "read",
        f"release {canary.number} is a canary; load its own patches again without a selection to move everyone to it, or "
        "take it back with: streamd-ctl rollback",
    )


def _verdict(report: dict[str, Any], draft: Draft, wishes: Wishes) -> Refusal | None:
    """Why a load is refused on this report: for failures, for a pause too long, for differences that nobody has
    explained; None if it is not."""
    if failed := _failed(report):
        return failed
    if wishes.max_pause is not None and report["predicted_pause_ms"] > wishes.max_pause:
        return Refusal(
            "rehearse",
            f"a session would pause for {report['predicted_pause_ms']:.1f} ms, longer than the {wishes.max_pause:g} ms "
            "allowed. Nothing was changed",
            report=report,
        )
    unexplained = {*report["kinds"]} - draft.explained
    if not unexplained or wishes.accept_differences:
        return None
    told = report["differences"]
    first = next((item for item in told if unexplained & {*item["kinds"]}), told[0])
    made_up = f" and {report['tried']} made up" if report["tried"] else ""
    return Refusal(
        "differences",
        f"of {report['events']} events replayed{made_up} {report['different']} would be answered differently; the first in "
        f"{first['name']}, {first['event']}: {first['sentence']}. If that is what the patch is for, load it with "
        f'--accept-differences, or let it say so: DIFFERS = "{", ".join(sorted(unexplained))}: why". Nothing was changed',
        report=report,
    )


def _failed(report: dict[str, Any]) -> Refusal | None:
    failures = report["failures"]
    if not failures:
        return None
    more = f" ({len(failures) - 1} more failed)" if len(failures) > 1 else ""
    first = failures[0]
    return Refusal(
        "rehearse", f"{first['name']}: {first['sentence']}{more}. Nothing was changed", report=report
    )


@contextmanager
def shared_interpreter() -> Iterator[None]:
    """Let the loop have the interpreter back quickly while a thread compiles and imports."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
