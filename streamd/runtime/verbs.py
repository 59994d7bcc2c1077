"""What an operator may ask of a running server: each verb of streamd-ctl, from arguments to answer.

The rule this file keeps: arguments are checked here, with a sentence, before anything is asked of the rest; what
only looks never waits for what changes.
"""

from __future__ import annotations

import ast
import asyncio
import difflib
import logging
import os
from collections.abc import Callable
from datetime import datetime, timedelta
from time import monotonic
from typing import Any

from streamd.runtime.admin import Caller, Verb
from streamd.runtime.link import describe_link, now_ms
from streamd.runtime.release import Release, read_tree
from streamd.runtime.selection import EVERYONE, LIVE, Selection
from streamd.runtime.session import CannotDescribe, Session, Sessions
from streamd.runtime.upgrade import Upgrades
from streamd.runtime.watchdog import StepOverrun
from streamd.runtime.wishes import Progress, Refusal, Wishes

log = logging.getLogger("streamd")

RELEASES_TOLD = 50  # a long life has many; the history tells of all
DAY = 86_400.0  # the most seconds that any flag takes
# Verbs that change nothing and may be asked by whoever may only look.
LOOKS = frozenset({"status", "sessions", "trace", "diff", "history", "modules"})

TEMPLATE = '''"""{stem}: say here what was wrong, and what is right now."""

from __future__ import annotations

from streamd.live.{module} import *  # for your editor; AMENDS does the work

AMENDS = "{module}@{version}"
VERSION = {next}
# DIFFERS = "SendAll, Join: which commands are answered otherwise, and why"

# Write the definitions that change, whole; each replaces its namesake. {module} has:
{names}
# If a @state record changes in more than fields added with a default, convert it both ways:
#
# def upgrade(old: dict) -> dict:      # fields of version {version} -> fields of version {next}
#     return {{**old}}
#
# def downgrade(new: dict) -> dict:    # and back
#     return {{**new}}
#
# Try it with: streamd-ctl check {file}
'''


class Verbs:
    """The verbs, bound to one server. `table` is what the admin socket serves."""

    def __init__(
        self,
        sessions: Sessions,
        upgrades: Upgrades,
        facts: Callable[[], dict[str, Any]],
        stop: Callable[[], None],
    ) -> None:
        self.sessions = sessions
        self.upgrades = upgrades
        self.facts = facts
        self.stop = stop
        self.started = monotonic()
        self.table: dict[str, Verb] = {
            "load": self.load,
            "check": self.check,
            "plan": self.plan,
            "rollback": self.rollback,
            "keep": self.keep,
            "pin": self.pin,
            "unpin": self.unpin,
            "purge": self.purge,
            "promote": self.promote,
            "status": self.status,
            "sessions": self.list_sessions,
            "trace": self.trace,
            "diff": self.diff,
            "history": self.history,
            "new-patch": self.new_patch,
            "modules": self.modules,
            "stop": self.stop_server,
        }

    # ---- what changes something

    async def load(self, args: dict[str, Any], caller: Caller, progress: Progress) -> dict[str, Any]:
        return await self.upgrades.load(_paths(args), caller.cwd, caller.by, progress, _wishes(args))

    async def check(self, args: dict[str, Any], caller: Caller, progress: Progress) -> dict[str, Any]:
        return await self.upgrades.check(_paths(args), caller.cwd, caller.by, progress, _wishes(args))

    async def plan(self, args: dict[str, Any], caller: Caller, progress: Progress) -> dict[str, Any]:
        return await self.upgrades.plan(_paths(args), caller.cwd, caller.by, progress, _wishes(args))

    async def rollback(self, args: dict[str, Any], caller: Caller, progress: Progress) -> dict[str, Any]:
        return await self.upgrades.rollback(_number(args, "to"), caller.by, progress)

    async def keep(self, _args: dict[str, Any], caller: Caller, _progress: Progress) -> dict[str, Any]:
        return await self.upgrades.keep(caller.by)

    async def pin(self, args: dict[str, Any], caller: Caller, _progress: Progress) -> dict[str, Any]:
        return await self.upgrades.pin(self._named(args.get("name")), caller.by)

    async def unpin(self, args: dict[str, Any], caller: Caller, _progress: Progress) -> dict[str, Any]:
        name = str(args.get("name"))
        known = name in self.upgrades.mover.pinned()
        return await self.upgrades.unpin(name if known else f"{LIVE}{name}", caller.by)

    async def promote(self, _args: dict[str, Any], caller: Caller, _progress: Progress) -> dict[str, Any]:
        return await self.upgrades.promote(caller.by)

    async def purge(self, _args: dict[str, Any], caller: Caller, _progress: Progress) -> dict[str, Any]:
        return await self.upgrades.purge(caller.by)

    async def stop_server(self, _args: dict[str, Any], caller: Caller, _progress: Progress) -> dict[str, Any]:
        note = {"verb": "stop", **caller.by, "result": "ok", "text": "asked to stop"}
        try:
            await asyncio.to_thread(lambda: self.upgrades.store.note(**note))
        except OSError as error:  # a full disk is no reason to go on
            log.error("the history was not written: %s", error)
        asyncio.get_running_loop().call_later(0.05, self.stop)  # the answer goes out first
        return {"text": "stopping: publishers are told, viewers get what is on its way"}

    async def new_patch(self, args: dict[str, Any], caller: Caller, _progress: Progress) -> dict[str, Any]:
        name = args.get("module")
        current = self.upgrades.current
        name = name.removeprefix("streamd.live.") if isinstance(name, str) else ""
        if not name or name not in current.versions:
            raise Refusal(
                "read",
                f"no live module {args.get('module')!r}; there are {', '.join(sorted(filter(None, current.versions)))}",
            )
        return await asyncio.to_thread(self._write_patch, name, current)

    def _write_patch(self, module: str, release: Release) -> dict[str, Any]:
        version = release.versions[module]
        root = self.upgrades.patches
        short = module.rpartition(".")[2] or "live"
        for number in range(1, 1000):
            path = root / (f"{short}_fix.py" if number == 1 else f"{short}_fix_{number}.py")
            text = TEMPLATE.format(
                stem=path.stem,
                module=module,
                version=version,
                next=version + 1,
                names=_outline(release.texts[module][1]),
                file=path.name,
            )
            try:
                handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            except FileExistsError:
                continue
            except OSError as error:
                raise Refusal(
                    "disk", f"{path}: {error.strerror}; the server must be able to write there"
                ) from error
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            return {
                "path": str(path),
                "text": f"{path} is ready to edit; then: streamd-ctl check {path.name}",
            }
        raise Refusal("disk", f"{root} has a thousand patches for {module} already")

    # ---- what only looks

    async def status(self, _args: dict[str, Any], _caller: Caller, _progress: Progress) -> dict[str, Any]:
        upgrades = self.upgrades
        kept = upgrades.store.kept
        numbers = upgrades.store.numbers()
        shown = {*numbers[-RELEASES_TOLD:], *upgrades.library.releases, kept}
        listed = self.sessions.listed(doors=False)
        return {
            **self.facts(),
            "pid": os.getpid(),
            "uptime_s": round(monotonic() - self.started, 1),
            "release": upgrades.current.number,
            "kept": kept,
            "releases": [self._release(number, kept) for number in numbers if number in shown],
            "older_releases": sum(1 for number in numbers if number not in shown),
            "probation": self._probation(),
            "mixed": bool(upgrades.mixed()),
            "pins": list(upgrades.mover.pinned()),
            "sessions": self._listed(listed),
            "doors": len(self.sessions.by_name) - len(listed),
            "crashes": self.sessions.reports.count,
            "counters": dict(self.sessions.counters.totals),
            "longest_slice_ms": round(self.sessions.net.longest_slice * 1000, 3)
            if self.sessions.net
            else 0.0,
            "text": f"release {upgrades.current.number} running, {kept} kept, {len(listed)} sessions",
        }

    def _probation(self) -> dict[str, Any] | None:
        trial = self.upgrades.trials.trial
        if trial is None:
            return None
        return {**trial.probation.told(), "wave": [trial.wave + 1, trial.waves]}

    def _release(self, number: int, kept: int | None) -> dict[str, Any]:
        upgrades = self.upgrades
        held = upgrades.library.releases.get(number)
        try:
            record = upgrades.library.brief(number)
        except LookupError:  # torn or touched; the rest of the table still matters
            return {
                "number": number,
                "state": "unreadable",
                "parent": None,
                "sessions": 0,
                "modules": {},
                "patches": [],
                "by": {},
                "at": "",
                "sha256": "",
                "differs": "",
                "irreversible": "",
                "signers": [],
            }
        words = [self._state(held)]
        if number in upgrades.trials.failed:
            words.append("failed")
        if upgrades.trials.trial is not None and held is upgrades.trials.trial.release:
            words.append("on probation")
        return {
            "number": number,
            "state": " ".join([*words, *(["kept"] if number == kept else [])]),
            "parent": record.parent,
            "sessions": len(self.sessions.pinned(held)) if held is not None else 0,
            "modules": upgrades.library.patched(number),
            "patches": [item["name"] for item in record.patches],
            "by": record.by,
            "at": record.at,
            "sha256": record.sha256,
            "differs": record.differs,
            "irreversible": record.irreversible,
            "signers": record.signers,
        }

    def _state(self, held: Release | None) -> str:
        upgrades = self.upgrades
        if held is None:
            return "stored"
        if held is upgrades.current:
            return "running"
        trial, canary = upgrades.trials.trial, upgrades.trials.canary
        ahead = (trial is not None and held is trial.release) or (
            canary is not None and held is canary.release
        )
        return "canary" if ahead else "leaving"

    def _listed(self, sessions: list[Session]) -> list[dict[str, Any]]:
        silent: dict[Release, str] = {}
        return [self._session(item, silent) for item in sessions]

    def _session(self, session: Session, silent: dict[Release, str]) -> dict[str, Any]:
        """A row. A release whose describe() has not returned once is `silent`: a thousand sessions must not wait for it."""
        told: dict[str, Any] = {"phase": silent.get(session.release)}
        try:
            if session.release not in silent:
                told = self.sessions.described(session.release, session.state)
        except CannotDescribe as error:  # a patch may have broken it; the rest of the table still matters
            told = {"phase": str(error)}
            if isinstance(error.__cause__, StepOverrun):
                silent[session.release] = str(error)
            trial = self.upgrades.trials.trial
            if trial is not None and session.release is trial.release:
                trial.probation.undescribed(session, str(error))
        links = session.links.values()
        return {
            "name": session.name,
            "release": session.release.number,
            "links": len(links),
            "steps": session.steps,
            "pause_ms": session.paused,
            "received": sum(item.received for item in links),
            "sent": sum(item.sent for item in links),
            **told,
        }

    async def list_sessions(
        self, args: dict[str, Any], _caller: Caller, _progress: Progress
    ) -> dict[str, Any]:
        name = args.get("name")
        if name is None:
            return {"sessions": self._listed(self.sessions.listed(doors=False))}
        session = self._named(name)
        groups = [
            {"group": item.name, "members": len(item.members), "units": len(item.units), "bytes": item.size}
            for item in session.groups.values()
        ]
        links = [describe_link(item) for item in session.links.values()]
        return {"sessions": [{**self._session(session, {}), "groups": groups, "peers": links}]}

    async def trace(self, args: dict[str, Any], _caller: Caller, _progress: Progress) -> dict[str, Any]:
        session = self._named(args.get("name"))
        offset = datetime.now().astimezone() - timedelta(milliseconds=now_ms())
        events = [
            {**event, "at": (offset + timedelta(milliseconds=event["at"])).isoformat(timespec="milliseconds")}
            for event in session.journal.told()
        ]
        return {"name": session.name, "steps": session.steps, "events": events}

    def _named(self, name: Any) -> Session:
        for key in (str(name), f"{LIVE}{name}"):
            if key in self.sessions.by_name:
                return self.sessions.by_name[key]
        known = [item.name for item in self.sessions.listed(doors=False)]
        raise Refusal("read", f"no session {name!r}; there are {', '.join(known) or 'none'}")

    async def diff(self, args: dict[str, Any], _caller: Caller, _progress: Progress) -> dict[str, Any]:
        upgrades = self.upgrades
        new = _number(args, "to")
        new = upgrades.current.number if new is None else new
        old = _number(args, "from")
        if old is None:
            try:
                old = upgrades.library.record(new).parent
            except LookupError as error:
                raise Refusal("read", str(error)) from error
            if old is None:
                return {
                    "text": f"release {new} is the code as shipped with the kept patches; it has no parent"
                }
        return {"text": await asyncio.to_thread(self._diff, old, new)}

    def _diff(self, old: int, new: int) -> str:
        texts = []
        for number in (old, new):
            path = self.upgrades.store.path(number)
            if not path.is_dir():
                known = ", ".join(map(str, self.upgrades.store.numbers()))
                raise Refusal("read", f"there is no release {number} on disk; there are {known}")
            texts.append(
                {
                    name: (str(file.relative_to(path.parent)), text)
                    for name, (file, text) in read_tree(path).items()
                }
            )
        before, after = texts
        lines: list[str] = []
        for name in sorted(before.keys() | after.keys()):
            (file, left), (other, right) = (
                before.get(name, ("/dev/null", "")),
                after.get(name, ("/dev/null", "")),
            )
            lines += difflib.unified_diff(left.splitlines(True), right.splitlines(True), file, other)
        return "".join(lines) or f"releases {old} and {new} have the same source"

    async def history(self, args: dict[str, Any], _caller: Caller, _progress: Progress) -> dict[str, Any]:
        last = _number(args, "last") or 0
        store = self.upgrades.store
        answer: dict[str, Any] = {"entries": await asyncio.to_thread(store.history, last)}
        if args.get("verify"):
            known = args.get("head")
            found = await asyncio.to_thread(store.verify, known if isinstance(known, str) else "")
            answer["verified"] = found._asdict()
            if found.problems:
                raise Refusal("history", found.sentence(), **answer)
            answer["text"] = found.sentence()
        return answer

    async def modules(self, _args: dict[str, Any], _caller: Caller, _progress: Progress) -> dict[str, Any]:
        """What a shell completes: live modules with their versions, and the patch files there are."""
        root = self.upgrades.patches
        found = await asyncio.to_thread(
            lambda: sorted(str(item.relative_to(root)) for item in root.rglob("*.py"))
        )
        versions = self.upgrades.current.versions
        return {
            "modules": {name: versions[name] for name in sorted(versions) if name},
            "patches": found[:1000],
        }


def _paths(args: dict[str, Any]) -> list[str]:
    paths = args.get("paths")
    if not (
        isinstance(paths, list)
        and paths
        and all(isinstance(item, str) and "\0" not in item for item in paths)
    ):
        raise Refusal("read", "say which patch: a file or directory in the patches directory")
    return paths


def _wishes(args: dict[str, Any]) -> Wishes:
    """The flags of load, check and plan. Raises Refusal with the flag's name."""
    only, waves = args.get("only") or [], args.get("waves") or []
    if not (isinstance(only, list) and all(isinstance(item, str) and item for item in only)):
        raise Refusal("read", "only takes patterns of broadcasts' names, such as live/studio*")
    percent = _amount(args, "percent", EVERYONE)
    if not (isinstance(waves, list) and all(type(item) in (int, float) for item in waves)):
        raise Refusal("read", "waves takes percentages, such as 1,10,100")
    if percent is not None:
        if waves:
            raise Refusal("read", "give percent or waves, not both")
        waves = [percent]
    shares = tuple(map(float, waves)) or (EVERYONE,)
    if any(not 0 < item <= EVERYONE for item in shares) or list(shares) != sorted(set(shares)):
        raise Refusal("read", "waves are growing percentages of at most 100, such as 1,10,100")
    at, irreversible = args.get("at") or "", args.get("irreversible") or ""
    if at not in ("", "keyframe"):
        raise Refusal("read", f"at takes keyframe, not {at!r}")
    if not isinstance(irreversible, str):
        raise Refusal("read", "irreversible takes the reason, a sentence for the history")
    return Wishes(
        Selection(tuple(only), shares),
        accept_differences=bool(args.get("accept_differences")),
        wait=bool(args.get("wait")),
        shadow=_amount(args, "shadow", DAY) or 0.0,
        bake=_amount(args, "bake", DAY),
        at_key=at == "keyframe",
        max_pause=_amount(args, "max_pause", DAY),
        irreversible=irreversible,
        probation=_amount(args, "probation", DAY),
    )


def _amount(args: dict[str, Any], name: str, most: float) -> float | None:
    value = args.get(name)
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 <= value <= most:
        raise Refusal("read", f"{name} is a number from 0 to {most:g}, not {value!r}")
    return float(value)


def _number(args: dict[str, Any], name: str) -> int | None:
    value = args.get(name)
    if value is not None and (type(value) is not int or value < 0):
        raise Refusal("read", f"{name} is a release number, not {value!r}")
    return value


def _outline(text: str) -> str:
    """The top-level names of a module, as comment lines."""
    lines = []
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef):
            lines.append(f"#   def {node.name}({ast.unparse(node.args)})")
        elif isinstance(node, ast.ClassDef):
            lines.append(f"#   class {node.name}")
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            lines.append(
                f"#   {ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target)}"
            )
    return "\n".join(lines)
