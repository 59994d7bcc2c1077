"""The seal on what live code may not change: the interpreter's builtins, the kernel, the modules of every release.

The rule this file keeps: what is found changed is found by identity, name by name, against a copy taken before; only
whether there is anything to find is asked of the values (`==`, which live code cannot define). Nothing here calls a
builtin once a seal has been taken, for that may be the very thing broken.

A patch that reaches for these (the law refuses what it can see of that in the text) would change the running code
behind everybody's back, and a rollback would leave it changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

# what the interpreter itself adds to a namespace when it comes to need it
UNSEALED = frozenset({"__warningregistry__", "__annotations__", "__abstractmethods__", "_abc_impl"})
# modules whose classes live code holds in its hands
OPEN_CLASSES = frozenset({"streamd.runtime.vocabulary", "streamd.runtime.state"})
NONE = object()


class Seal:
    """A copy of the namespaces of `modules`, and of the classes that the kernel gives to live code."""

    def __init__(self, modules: Iterable[ModuleType]) -> None:
        self._modules: list[tuple[str, dict[str, Any], dict[str, Any]]] = []
        self._classes: list[tuple[str, type, Mapping[str, Any], dict[str, Any]]] = []
        for module in modules:
            namespace = vars(module)
            self._modules.append((module.__name__, namespace, dict(namespace)))
            if module.__name__ in OPEN_CLASSES:
                self._classes += [
                    (f"{module.__name__}.{name}", value, vars(value), dict(vars(value)))
                    for name, value in namespace.items()
                    if isinstance(value, type) and value.__module__ == module.__name__
                ]

    def broken(self) -> list[str]:
        """What is no longer as it was, by its full name: "builtins.len", "live@1.media.h264.learn"."""
        found = []
        # an empty namespace is that of a release which was let go of
        for name, namespace, copy in self._modules:
            if namespace != copy and namespace:
                found += [f"{name}.{key}" for key in _changed(namespace, copy)]
        for name, _, namespace_of_class, copy in self._classes:
            if namespace_of_class != copy:
                found += [f"{name}.{key}" for key in _changed(namespace_of_class, copy)]
        return found

    def mend(self) -> None:
        """Put everything back as it was."""
        for _, namespace, copy in self._modules:
            if namespace != copy and namespace:
                for key in _changed(namespace, copy):
                    if key in copy:
                        namespace[key] = copy[key]
                    else:
                        del namespace[key]
        for _, cls, namespace_of_class, copy in self._classes:
            if namespace_of_class != copy:
                for key in _changed(namespace_of_class, copy):
                    if key in copy:
                        _SETATTR(cls, key, copy[key])
                    else:
                        _DELATTR(cls, key)


_SETATTR = type.__setattr__
_DELATTR = type.__delattr__


def _changed(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    changed = [key for key, value in before.items() if now.get(key, NONE) is not value]
    return [key for key in [*changed, *[key for key in now if key not in before]] if key not in UNSEALED]
