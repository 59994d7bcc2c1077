"""A release: one private, immutable import of one complete directory of live source.

The rule this file keeps: inside release 7 the module is `live@7.media.h264`, and `from streamd.live.media import
h264` written in any of its modules means that one. Release modules see only each other, so no chain of calls
ever mixes versions, whatever the order of loading.

The text is compiled here and never cached on disk (a stale .pyc can run old code); what is the same to the letter in
a release that is in memory is taken from there, and what another process of this server has compiled from the same
text is taken from it. The files stay where they are while the release lives, so tracebacks and `inspect.getsource`
show what really runs. The modules stand in sys.modules under their private names for the same reason; `discard` takes
them out, and when nothing else holds the release the collector removes it from memory.
"""

from __future__ import annotations

import builtins
import hashlib
import linecache
import marshal
import sys
import typing
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from importlib.util import MAGIC_NUMBER
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from streamd.runtime import telling
from streamd.runtime.patchfile import KERNEL, PACKAGE
from streamd.runtime.state import StateError, prepare

ENTRY = ("begin", "step", "describe")
PERMANENT = (list, dict, set, bytearray, deque)  # what a module of live code may not hold
MARK = MAGIC_NUMBER + bytes([sys.flags.optimize])  # packed code is of this interpreter, asserts and all


class ReleaseError(Exception):
    """The directory cannot be imported as a release; the message names file and line."""


class Release:
    """One version of all live code. `step(state, event)` is what every session calls."""

    def __init__(self, number: int, path: Path, parent: int | None) -> None:
        self.number = number
        self.path = path
        self.parent = parent
        self.texts = read_tree(path)
        self.sha256 = digest(self.texts)
        self.modules: dict[str, ModuleType] = {}
        self.versions: dict[str, int] = {}
        self._codes: dict[str, CodeType] = {}
        self._packed: dict[str, bytes] = {}
        self.begin: Callable[[str, dict[str, Any], int], Any]
        self.step: Callable[[Any, Any], list[Any]]
        self.describe: Callable[[Any], dict[str, Any]]

    def __repr__(self) -> str:
        return f"<release {self.number}>"

    def record(self, tag: str) -> type:
        """The @state class of a tag such as "media.h264:Track". Raises StateError if this release has none."""
        module, _, name = tag.partition(":")
        cls = getattr(self.modules.get(module), name, None)
        if getattr(cls, "__state_tag__", None) != tag:
            raise StateError(f"release {self.number} has no state record {tag}")
        return cls  # type: ignore[return-value]

    def discard(self) -> None:
        """Take the modules out of sys.modules and linecache; what nobody holds is then collected.

        Emptying them breaks most cycles, so nearly all of it goes at once and without a full collection.
        """
        modules, self.modules = self.modules, {}
        for module in modules.values():
            if sys.modules.get(module.__name__) is module:
                del sys.modules[module.__name__]
            linecache.cache.pop(str(module.__file__), None)
            vars(module).clear()
        for name in ENTRY:
            vars(self).pop(name, None)
        for forget in getattr(typing, "_cleanups", ()):
            forget()  # typing remembers every Optional[Track] it was asked for

    # ---- the private import

    def load(self, like: Release | None = None, codes: Mapping[str, bytes] | None = None) -> Release:
        """Import every module. Raises ReleaseError; nothing of a failed import stays behind.

        A text that is the same in `like` is not compiled again, nor is one whose `packed` code is among `codes`: the
        compiler never lets go of the interpreter, so each module it spares the loop is some milliseconds of silence
        less. Code that another version of the interpreter has packed is passed over.
        """
        if like is not None:
            same = {
                name for name, (_, text) in self.texts.items() if like.texts.get(name, ("", ""))[1] == text
            }
            self._codes = {name: code for name, code in like._codes.items() if name in same}
            self._packed = {name: code for name, code in like._packed.items() if name in same}
        for name, packed in (codes or {}).items():
            if name in self.texts and name not in self._codes and packed.startswith(MARK):
                self._codes[name] = marshal.loads(packed[len(MARK) :])
                self._packed[name] = packed
        try:
            for name in sorted(self.texts):
                self._module(name)
            self._check()
        except BaseException:
            self.discard()
            raise
        loaded = {name: vars(module) for name, module in self.modules.items()}
        self.versions = {name: held["VERSION"] for name, held in loaded.items() if "VERSION" in held}
        entry = self.modules[""]
        self.begin, self.step, self.describe = (getattr(entry, name) for name in ENTRY)
        return self

    def codes(self) -> Iterator[tuple[str, bytes]]:
        """The packed code of each module, for another process of the same interpreter.

        One at a time: packing a large one takes 0.1 ms, when it is asked for the first time.
        """
        for name, code in list(self._codes.items()):
            if name not in self._packed:
                self._packed[name] = pack(code)
            yield name, self._packed[name]

    def _private(self, name: str) -> str:
        return f"live@{self.number}.{name}" if name else f"live@{self.number}"

    def _module(self, name: str) -> ModuleType:
        if name in self.modules:
            return self.modules[name]
        if name not in self.texts:
            raise ImportError(f"no module {PACKAGE}.{name} in release {self.number}")
        parent, _, short = name.rpartition(".")
        package = self._module(parent) if name else None
        file, text = self.texts[name]
        module = ModuleType(self._private(name))
        is_package = file.name == "__init__.py"
        module.__file__ = str(file)
        module.__package__ = module.__name__ if is_package else self._private(parent)
        if is_package:
            module.__path__ = []  # a package, and nothing below it can be found by the ordinary import
        vars(module)["__builtins__"] = {**vars(builtins), "__import__": self._import}
        self.modules[name] = sys.modules[module.__name__] = module
        try:
            former = self._codes.get(name)
            code = _moved(former, str(file)) if former else compiled(text, str(file))
            self._codes[name] = code
            exec(code, vars(module))
        except ReleaseError:
            raise
        except BaseException as error:  # SystemExit too: it would end the server
            raise ReleaseError(f"{file}: {_where(error, str(file))}{telling.told(error)}") from error
        if package is not None:
            setattr(package, short, module)
        return module

    def _import(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: tuple[str, ...] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """What `import` means inside a release."""
        if name != PACKAGE and not name.startswith(PACKAGE + "."):
            if level or (name.startswith("streamd") and name not in KERNEL):
                raise ImportError(f"live code may not import {'.' * level}{name}")
            return builtins.__import__(name, globals, locals, fromlist or (), 0)
        if not fromlist:
            raise ImportError(f"write `from {name.rpartition('.')[0]} import ...` for live code")
        short = name[len(PACKAGE) + 1 :]
        module = self._module(short)
        for item in fromlist:
            inner = f"{short}.{item}" if short else item
            if item != "*" and not hasattr(module, item) and inner in self.texts:
                self._module(inner)
        return module

    def _check(self) -> None:
        """What the syntax tree cannot show: entry points, versions, mutable values, state that can be compiled."""
        for name in ENTRY:
            if not callable(getattr(self.modules[""], name, None)):
                raise ReleaseError(f"{self.path}/__init__.py must define {name}()")
        for name, module in self.modules.items():
            for key, value in vars(module).items():
                if isinstance(value, PERMANENT) and key not in (
                    "__builtins__",
                    "__annotations__",
                    "__path__",
                    "__all__",
                ):
                    raise ReleaseError(
                        f"{name}: {key} is a mutable value at module level; use a tuple or frozenset"
                    )
                if (
                    isinstance(value, type)
                    and "__state_tag__" in vars(value)
                    and value.__module__ == module.__name__
                ):
                    try:
                        prepare(value)
                    except StateError as error:
                        raise ReleaseError(f"{name}: {error}") from error


def compiled(text: str, file: str) -> CodeType:
    """Raises ReleaseError where the text is no Python."""
    try:
        return compile(text, file, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f":{error.lineno}" if isinstance(error, SyntaxError) else ""
        said = error.msg if isinstance(error, SyntaxError) else str(error) or type(error).__name__
        raise ReleaseError(f"{file}{line}: {said}") from error


def pack(code: CodeType) -> bytes:
    """A module's code for another process, and which interpreter's it is."""
    return MARK + marshal.dumps(code)


def _moved(code: CodeType, file: str) -> CodeType:
    """The same code, of another file of the same text: tracebacks must name the one that belongs to the release."""
    if code.co_filename == file:
        return code
    inner = tuple(_moved(item, file) if isinstance(item, CodeType) else item for item in code.co_consts)
    return code.replace(co_filename=file, co_consts=inner)


def _where(error: BaseException, file: str) -> str:
    line = None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file:
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"line {line}: " if line else ""


def read_tree(root: Path) -> dict[str, tuple[Path, str]]:
    """Module name -> (file, text) of every source file below `root`; "" is the package itself."""
    texts = {}
    for file in sorted(root.rglob("*.py")):
        parts = list(file.relative_to(root).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        try:
            texts[".".join(parts)] = (file, file.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise ReleaseError(f"{file} is not UTF-8: {error}") from error
    if "" not in texts:
        raise ReleaseError(f"{root} has no __init__.py")
    return texts


def digest(texts: Mapping[str, tuple[Path, str]]) -> str:
    """One sha256 over names and texts, the same wherever the directory lies."""
    total = hashlib.sha256()
    for name in sorted(texts):
        body = texts[name][1].encode()
        total.update(f"{name} {len(body)}\n".encode() + body)
    return total.hexdigest()
