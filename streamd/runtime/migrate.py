"""The way of a lowered state from one release to another: each release's own migrations, up or down.

The rule this file keeps: a migration sees copies, one record at a time, and what it returns is checked to be
plain before anything else sees it. A release knows the way to its parent and back (its changed modules hold the
`upgrade` and `downgrade`), so the way between any two goes over their nearest common ancestor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from streamd.runtime.release import Release
from streamd.runtime.state import TAG, StateError, check_plain, copied, fields_of, walk_records

Step = Callable[[dict[str, Any]], dict[str, Any]]
Steps = Mapping[str, Step]  # tag -> what to do with a record of that tag


class MigrationError(Exception):
    """A migration raised, or returned what cannot be state; names module, function and record."""


def steps_up(old: Release, new: Release, modules: Mapping[str, list[int]]) -> Steps:
    """What takes the records of the changed modules from `old` to its child `new`."""
    return _steps(old, new, modules, "upgrade")


def steps_down(new: Release, old: Release, modules: Mapping[str, list[int]]) -> Steps:
    """The way back; the functions are those of `new`, which alone knows both."""
    return _steps(new, old, modules, "downgrade")


def _steps(source: Release, target: Release, modules: Mapping[str, list[int]], verb: str) -> Steps:
    holder = target if verb == "upgrade" else source
    steps: dict[str, Step] = {}
    for module in modules:
        tags = _tags(source, module)
        for tag, fields in tags.items():
            name = tag.partition(":")[2]
            namespace = vars(holder.modules[module]) if module in holder.modules else {}
            function = namespace.get(f"{verb}_{name}") or namespace.get(verb)
            if function is namespace.get(verb) is not None and len(_tags(holder, module)) != 1:
                many = ", ".join(f"{verb}_{item.partition(':')[2]}" for item in _tags(holder, module))
                raise MigrationError(f"{module} has several records; name its migrations {many}")
            goal = _tags(target, module).get(tag)
            if function is not None:
                steps[tag] = _written(function, f"{module}.{function.__name__}", tag)
            elif goal is not None and goal != fields:
                steps[tag] = _implied(tag, fields, goal, verb)
    return steps


def _tags(release: Release, module: str) -> dict[str, dict[str, bool]]:
    """The records a module defines: tag -> its fields and whether each has a default."""
    held = vars(release.modules[module]).values() if module in release.modules else ()
    own = [
        item
        for item in held
        if isinstance(item, type) and item.__module__ == release.modules[module].__name__
    ]
    return {item.__state_tag__: fields_of(item) for item in own if "__state_tag__" in vars(item)}  # type: ignore[attr-defined]


def _written(function: Callable[[dict[str, Any]], Any], where: str, tag: str) -> Step:
    """A migration that the patch's author wrote. It gets and gives the fields; the tag is ours."""

    def step(record: dict[str, Any]) -> dict[str, Any]:
        fields = {name: value for name, value in record.items() if name != TAG}
        try:
            changed = function(fields)
        except Exception as error:
            raise MigrationError(f"{where} raised {type(error).__name__}: {error}") from error
        if type(changed) is not dict:
            raise MigrationError(f"{where} returned {type(changed).__name__}, not a dict of fields")
        try:
            check_plain(changed, tag)
        except (StateError, RecursionError) as error:
            raise MigrationError(f"{where} returned state that is not plain: {error}") from error
        return {**changed, TAG: tag}

    return step


def _implied(tag: str, fields: Mapping[str, bool], goal: Mapping[str, bool], verb: str) -> Step:
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
        return lambda record: record
    keep = frozenset(goal)
    return lambda record: {name: value for name, value in record.items() if name == TAG or name in keep}


def apply(lowered: Any, steps: Steps) -> Any:
    """The state with every record of the changed modules converted, innermost first.

    What holds no such record is shared with `lowered`, which stays as it was: a step gets copies all the way down.
    """
    if not steps:
        return lowered

    def change(record: dict[str, Any]) -> dict[str, Any]:
        step = steps.get(record[TAG])
        return step(copied(record)) if step is not None else record

    return walk_records(lowered, change)
