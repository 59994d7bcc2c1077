"""One change at a time, one draft at a time, and each of them in the history.

The rule this file keeps: what is answered has been written down, and what moves sessions has been written down before
it begins; so after a crash the history tells what had begun and did not end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from streamd.runtime import telling
from streamd.runtime.library import NOBODY
from streamd.runtime.migrate import MigrationError
from streamd.runtime.patchfile import PatchError
from streamd.runtime.rehearse import ChildFailed
from streamd.runtime.release import Release, ReleaseError
from streamd.runtime.state import StateError
from streamd.runtime.store import Store
from streamd.runtime.wishes import Refusal

log = logging.getLogger("streamd")


WAYS_BACK = ("rollback", "unpin")  # lead to the release that they name


class Ledger:
    """The locks, and the history. `busy` is of those who move sessions or releases; `drafts` of those who read, merge and
    rehearse, which may take an hour and must keep no rollback waiting. Whoever needs both takes `drafts` first."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.busy = asyncio.Lock()
        self.drafts = asyncio.Lock()

    @asynccontextmanager
    async def one(
        self, verb: str, paths: Sequence[str], by: dict[str, int], drafts: bool = False
    ) -> AsyncIterator[dict[str, Any]]:
        """One at a time; and whatever comes of it is in the history before it is answered."""
        async with self.drafts if drafts else self.busy:
            entry: dict[str, Any] = {"verb": verb, **by, "paths": list(paths), "result": "ok"}
            try:
                yield entry
            except PatchError as error:
                entry.update(result="refused", stage=error.stage, text=str(error))
                raise Refusal(error.stage, str(error)) from error
            except ReleaseError as error:
                entry.update(result="refused", stage="import", text=str(error))
                raise Refusal("import", str(error)) from error
            except ChildFailed as error:
                entry.update(result="refused", stage=error.stage, text=str(error))
                raise Refusal(error.stage, f"{error}. Nothing was changed") from error
            except (MigrationError, StateError) as error:
                entry.update(result="refused", stage="rehearse", text=str(error))
                raise Refusal("rehearse", str(error)) from error
            except (TimeoutError, ConnectionError) as error:  # OSErrors that are no disk's
                entry.update(result="failed", stage="bug", text=telling.told(error))
                raise
            except OSError as error:
                entry.update(result="failed", stage="disk", text=str(error))
                raise Refusal("disk", f"{error}; nothing was changed") from error
            except Refusal as error:
                entry.update(result="refused", stage=error.stage, text=str(error))
                raise
            except BaseException as error:
                entry.update(result="failed", stage="bug", text=telling.told(error))
                raise
            finally:
                log.log(
                    logging.INFO if entry["result"] == "ok" else logging.WARNING,
                    "%s: %s",
                    verb,
                    entry.get("text", ""),
                )
                try:
                    await asyncio.to_thread(lambda: self.store.note(**entry))
                except OSError as error:  # a full disk does not make undone what was done
                    log.error("%s is not in the history: %s", verb, error)

    def started(self, release: Release, warnings: Sequence[str]) -> None:
        """Write down a start, which even a full disk must not prevent."""
        said = [f"{item[:1].upper()}{item[1:]}{'' if item.endswith('.') else '.'}" for item in warnings]
        text = " ".join([f"started on release {release.number}.", *said])
        entry = {"verb": "start", **NOBODY, "paths": [], "result": "ok"}
        try:
            self.store.note(**entry, release=release.number, sha256=release.sha256, text=text)
        except OSError as error:
            log.error("the start is not in the history: %s", error)

    async def begin(self, note: dict[str, Any], number: int) -> None:
        """From here on a look into the history after a crash must find that something had begun. Raises OSError."""
        text = f"{note['verb']} {'to' if note['verb'] in WAYS_BACK else 'of'} release {number}"
        entry = {**note, "result": "began", "release": number, "text": text}
        await asyncio.to_thread(lambda: self.store.note(**entry))

    async def begin_anyway(self, note: dict[str, Any], number: int) -> None:
        """The same for what a full disk must not bar: a way back, and the next wave of what has begun."""
        try:
            await self.begin(note, number)
        except OSError as error:
            log.error("the history was not written: %s", error)

    def cut_off(self) -> str:
        """A sentence for a change that had begun when the process ended, as the history tells it."""
        ended: set[str] = set()  # one change at a time: what has an end, has it after its beginning
        for entry in reversed(self.store.history()):
            verb = entry.get("verb")
            if verb == "start":
                break
            number = entry.get("release")
            if entry.get("result") == "began" and verb not in ended:
                return f"the {entry.get('text')} was cut off by the end of the process"
            if entry.get("probation") and not ended & {"probation", "rollback"}:
                return f"the probation of release {number} was cut off by the end of the process"
            ended.add(verb)
        return ""
