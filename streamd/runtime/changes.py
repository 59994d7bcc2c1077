"""What a release changes of the records of its parent, in words, for whoever wants to know before loading it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from streamd.runtime.release import Release

Shapes = dict[str, dict[str, str]]  # record -> field -> its type as written


def record_changes(
    old: Release, new: Release, modules: Mapping[str, list[int]], renames: Mapping[str, str]
) -> list[dict[str, Any]]:
    """`{"record", "change", "how"}` of each record that the changed modules do not leave as it was; "change" is a list
    of fields, "how" says what takes the state there."""
    told = []
    former = {fresh: name for name, fresh in renames.items()}
    whole = [name for name in modules if "upgrade_session" in _namespace(new, name)]
    for module in sorted({*modules, *former} - {*renames}):
        before, after = _shapes(old, former.get(module, module)), _shapes(new, module)
        namespace = _namespace(new, module)
        for name in sorted({*before, *after}):
            change = _change(before.get(name), after.get(name))
            written = [
                f"{verb}()"
                for verb in ("upgrade", "downgrade")
                if name in before and (verb in namespace or f"{verb}_{name}" in namespace)
            ]
            if module in former and name in before:
                change.append(f"was {former[module]}:{name}")
            if not change and not written:
                continue
            how = (
                " and ".join(written)
                if written
                else "none needed"
                if name not in before or name not in after
                else "session migration"
                if whole
                else "defaults"
                if before[name] != after[name]
                else "renamed"
            )
            told.append({"record": f"{module}:{name}", "change": change, "how": how})
    return told


def _change(before: dict[str, str] | None, after: dict[str, str] | None) -> list[str]:
    if before is None:
        return ["new record"]
    if after is None:
        return ["gone"]
    return [
        *(f"+ {name}: {after[name]}" for name in after if name not in before),
        *(f"- {name}: {before[name]}" for name in before if name not in after),
        *(
            f"{name}: {before[name]} -> {kind}"
            for name, kind in after.items()
            if name in before and before[name] != kind
        ),
    ]


def _namespace(release: Release, module: str) -> Mapping[str, Any]:
    return vars(release.modules[module]) if module in release.modules else {}


def _shapes(release: Release, module: str) -> Shapes:
    """The records that a module defines."""
    namespace = _namespace(release, module)
    return {
        name: {
            item.name: item.type if isinstance(item.type, str) else item.type.__name__
            for item in fields(value)
        }
        for name, value in namespace.items()
        if isinstance(value, type)
        and "__state_tag__" in vars(value)
        and value.__module__ == namespace["__name__"]
    }
