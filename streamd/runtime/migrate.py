"""The way of a lowered state from one release to another: each release's own migrations, up or down.

    upgrade, upgrade_Track, downgrade_Track    the fields of one record; a "@" in what is returned makes it another record
    upgrade_session, downgrade_session         the whole state, for what moves from one module's record to another's

The rule this file keeps: a migration sees copies, and what it returns is checked to be plain before anything else
sees it. A release knows the way to its parent and back (its changed modules hold the `upgrade` and `downgrade`), so
the way between any two goes over their nearest common ancestor.

Up, the whole state comes first and then its records, innermost first; down, the records and then the whole, and
where several modules have an upgrade_session, in the order of their names up and against it down. So what is written
for one direction always meets the shape that its counterpart has left.
"""

from __future__ import annotations

import linecache
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from streamd.runtime import telling
from streamd.runtime.release import Release
from streamd.runtime.state import TAG, StateError, check_plain, copied, fields_of, walk_records

Step = Callable[[dict[str, Any]], dict[str, Any]]
Fields = dict[str, bool]  # of a record: name -> whether it has a default
NAMED = re.compile(r"(upgrade|downgrade)_([A-Z]\w*)")


class MigrationError(Exception):
    """A migration raised, or returned what cannot be state; names module, function and record."""


@dataclass(frozen=True)
class Steps:
    """One release's share of a way: what to do with the whole state first, with each record of a tag, and last."""

    before: tuple[Step, ...] = ()
    records: Mapping[str, Step] = field(default_factory=dict)
    after: tuple[Step, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.before or self.records or self.after)


def steps_up(
    old: Release, new: Release, modules: Mapping[str, list[int]], renames: Mapping[str, str] | None = None
) -> Steps:
    """What takes the records of the changed modules from `old` to its child `new`.

    `renames` are modules that live on under another name: old name -> new name.
    """
    return _steps(old, new, modules, dict(renames or {}), "upgrade")


def steps_down(
    new: Release, old: Release, modules: Mapping[str, list[int]], renames: Mapping[str, str] | None = None
) -> Steps:
    """The way back; the functions are those of `new`, which alone knows both. `renames` as for the way up."""
    return _steps(
        new, old, modules, {fresh: former for former, fresh in (renames or {}).items()}, "downgrade"
    )


def steps_barred(
    new: Release, old: Release, modules: Mapping[str, list[int]], renames: Mapping[str, str], sentence: str
) -> Steps:
    """A way back that lets by what the release did not change and refuses the rest, with `sentence`."""

    def refuse(_record: dict[str, Any]) -> dict[str, Any]:
        raise MigrationError(sentence)

    changed = sorted({*modules, *renames.values()})
    records: dict[str, Step] = {}
    for module in changed:
        namespace, goals = _namespace(new, module), _tags(old, module)
        for tag, fields in _tags(new, module).items():
            written = namespace.get(f"upgrade_{tag.partition(':')[2]}") or namespace.get("upgrade")
            if written is not None or goals.get(tag) != fields:
                records[tag] = refuse
    return Steps((refuse,) if _session_steps(new, changed, "upgrade") else (), records)


def apply(lowered: Any, steps: Steps) -> Any:
    """The state converted: the whole, and every record of the changed modules, innermost first.

    What holds no such record is shared with `lowered`, which stays as it was: a step gets copies all the way down.
    """
    for step in steps.before:
        lowered = step(copied(lowered))
    records = steps.records
    if records:

        def change(record: dict[str, Any]) -> dict[str, Any]:
            step = records.get(record[TAG])
            return step(copied(record)) if step is not None else record

        lowered = walk_records(lowered, change)
    for step in steps.after:
        lowered = step(copied(lowered))
    return lowered


def _steps(
    source: Release, target: Release, modules: Mapping[str, list[int]], renames: dict[str, str], verb: str
) -> Steps:
    up = verb == "upgrade"
    holder = target if up else source
    whole = _session_steps(holder, sorted({*modules, *renames, *renames.values()}), verb)
    records: dict[str, Step] = {}
    for module in sorted({*modules, *renames} - {*renames.values()}):
        there = renames.get(module, module)
        namespace = _namespace(holder, there if up else module)
        where = there if up else module
        tags = _tags(source, module)
        goals = _tags(target, there)
        _check_names(namespace, where, tags, verb)
        for tag, fields in tags.items():
            name = tag.partition(":")[2]
            function = namespace.get(f"{verb}_{name}") or namespace.get(verb)
            final = f"{there}:{name}"
            if function is not None:
                records[tag] = _written(function, f"{where}.{function.__name__}", final, target)
            elif final in goals and goals[final] != fields and not whole:
                records[tag] = _implied(final, fields, goals[final], verb)
            elif final in goals and final != tag:
                records[tag] = _retagged(final)
    return Steps(whole, records) if up else Steps((), records, whole[::-1])


def _namespace(release: Release, module: str) -> dict[str, Any]:
    return vars(release.modules[module]) if module in release.modules else {}


def _check_names(namespace: Mapping[str, Any], where: str, tags: Mapping[str, Fields], verb: str) -> None:
    """Raise MigrationError where a migration is for no record, or for one cannot say which."""
    names = [tag.partition(":")[2] for tag in tags]
    if namespace.get(verb) is not None and len(names) > 1:
        many = ", ".join(f"{verb}_{name}" for name in names)
        raise MigrationError(f"{where} has several records; name its migrations {many}")
    if namespace.get(verb) is not None and not names:
        raise MigrationError(f"{where}.{verb} is for no record: there is none in {_side(verb)}")
    for name in namespace:
        found = NAMED.fullmatch(name)
        if found and found[1] == verb and found[2] not in names:
            known = ", ".join(names) or "none"
            raise MigrationError(f"{where}.{name} is for no record of {_side(verb)}, which has {known}")


def _side(verb: str) -> str:
    return "the release before" if verb == "upgrade" else "this release"


def _tags(release: Release, module: str) -> dict[str, Fields]:
    """The records a module defines: tag -> its fields and whether each has a default."""
    held = _namespace(release, module).values()
    own = [
        item
        for item in held
        if isinstance(item, type) and item.__module__ == release.modules[module].__name__
    ]
    return {item.__state_tag__: fields_of(item) for item in own if "__state_tag__" in vars(item)}  # type: ignore[attr-defined]


# ---- steps ---------------------------------------------------------------------------------------------------


def _session_steps(holder: Release, modules: list[str], verb: str) -> tuple[Step, ...]:
    """The migrations of the whole state that the changed modules hold, in the order of their names."""
    found = [(module, _namespace(holder, module).get(f"{verb}_session")) for module in modules]
    return tuple(
        _whole(function, f"{module}.{verb}_session") for module, function in found if function is not None
    )


def _whole(function: Callable[[dict[str, Any]], Any], where: str) -> Step:
    """A migration of the whole state, tags included: of a session, or of a guest on its way to another session."""

    def step(state: dict[str, Any]) -> dict[str, Any]:
        changed = _called(function, where, state, "state")
        if not isinstance(changed.get(TAG), str):
            raise MigrationError(
                f'{where} returned a state without its "{TAG}", which says what record it is'
            )
        return changed

    return step


def _written(function: Callable[[dict[str, Any]], Any], where: str, final: str, target: Release) -> Step:
    """A migration that the patch's author wrote. It gets the fields and gives them; a tag if it is another record."""
    known: set[str] = set()

    def step(record: dict[str, Any]) -> dict[str, Any]:
        fields = {name: value for name, value in record.items() if name != TAG}
        changed = _called(function, where, fields, record[TAG])
        tag = changed.get(TAG, final)
        if not isinstance(tag, str):
            raise MigrationError(f'{where} returned "{TAG}": {tag!r}, which is no name of a record')
        if tag not in known:
            try:
                target.record(tag)
            except StateError as error:
                said = "" if TAG in changed else f'; return "{TAG}" to say what it becomes'
                raise MigrationError(f"{where}: {error}{said}") from error
            known.add(tag)
        return {**changed, TAG: tag}

    return step


def _called(
    function: Callable[[dict[str, Any]], Any], where: str, given: dict[str, Any], path: str
) -> dict[str, Any]:
    """What a migration returns. Raises MigrationError unless that is a plain dict."""
    try:
        changed = function(given)
    except Exception as error:
        raise MigrationError(f"{where} raised {telling.told(error)}{_line(error, function)}") from error
    if type(changed) is not dict:
        raise MigrationError(f"{where} returned {type(changed).__name__}, not a dict of fields")
    try:
        check_plain(changed, path)
    except (StateError, RecursionError) as error:
        raise MigrationError(f"{where} returned state that is not plain: {error}") from error
    return changed


def _line(error: BaseException, function: Callable[..., Any]) -> str:
    """Where in the migration's own file it was, with the source line: " (line 12: return old["x"])"."""
    file = getattr(getattr(function, "__code__", None), "co_filename", None)
    number, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file:
            number = trace.tb_lineno
        trace = trace.tb_next
    shown = linecache.getline(str(file), number).strip() if number else ""
    return f" (line {number}: {shown})" if shown else ""


def _implied(tag: str, fields: Fields, goal: Fields, verb: str) -> Step:
    """Fields that were added with a default need no migration: up they appear, down they go again."""
    if verb == "upgrade":
        lost = sorted(fields.keys() - goal.keys())
        bare = sorted(name for name in goal.keys() - fields.keys() if not goal[name])
        if lost:
            raise MigrationError(f"{tag} loses {', '.join(lost)}: write upgrade() and downgrade() for it")
        if bare:
            raise MigrationError(
                f"{tag} gains {', '.join(bare)} without a default: give one, or write upgrade()"
            )
        return _retagged(tag)
    keep = frozenset(goal)
    return lambda record: {
        **{name: value for name, value in record.items() if name in keep},
        TAG: tag,
    }


def _retagged(tag: str) -> Step:
    return lambda record: record if record[TAG] == tag else {**record, TAG: tag}
