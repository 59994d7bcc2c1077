"""Patches: text merged into text. Read one, check it, merge it; nothing of a refused patch is ever executed.

    AMENDS = "media.h264@1"    the file's top-level definitions replace their namesakes, new ones are added
    REPLACES = "media.h264@1"  the file is the module
    ADDS = "media.av2"         a new module

The rule this file keeps: everything is learnt from the syntax tree, and every refusal is a sentence that names
file, line and what to write instead. `check_live_source` is the law for live code, for shipped modules and
patches alike.
"""

from __future__ import annotations

import ast
import hashlib
import io
import os
import re
import stat
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "streamd.live"
HEADERS = ("AMENDS", "REPLACES", "ADDS")
MIGRATIONS = re.compile(r"(upgrade|downgrade)(_[A-Z]\w*)?|resumed")  # upgrade, or upgrade_Track
HEADER_VALUE = re.compile(r"([a-z_][a-z0-9_]*(?:\.[a-z_][a-z0-9_]*)*)@(\d+)")
KERNEL = frozenset({"streamd.runtime.state", "streamd.runtime.vocabulary"})
# Which live modules a package may import, as prefixes (DESIGN.md, "Arrows"): protocol and media their own kind,
# policy both. A script tag of FLV is AMF by its own specification (Annex E.4.4), hence the one exception.
MAY_IMPORT = {
    "protocol": ("protocol",),
    "media": ("media", "protocol.amf"),
    "handlers": ("handlers", "media", "protocol"),
}
FORBIDDEN = frozenset(
    "asyncio socket threading time os logging random subprocess importlib sys io selectors signal multiprocessing "
    "concurrent ctypes builtins pathlib shutil tempfile secrets gc inspect queue ssl select sched".split()
)
FORBIDDEN_CALLS = frozenset(
    {"open", "exec", "eval", "compile", "__import__", "input", "print", "globals", "breakpoint"}
)
MUTABLE_CALLS = frozenset(
    "list dict set bytearray deque defaultdict OrderedDict Counter count cycle iter open".split()
)
CACHES = frozenset({"cache", "lru_cache", "cached_property"})


class PatchError(Exception):
    """Why a patch is refused, as a sentence; `stage` is the step of the patch path that refused it."""

    def __init__(self, sentence: str, stage: str = "read") -> None:
        super().__init__(sentence)
        self.stage = stage


@dataclass(frozen=True)
class Patch:
    """One file that was read and understood. `base` is the version it wants, 0 for ADDS."""

    path: Path
    text: str
    kind: str
    module: str
    base: int
    version: int
    sha256: str
    tree: ast.Module

    def __str__(self) -> str:
        return self.path.name


# ---- read ----------------------------------------------------------------------------------------------------


def find(paths: Sequence[str], cwd: str, root: Path) -> list[Path]:
    """The files that `paths` name: from `cwd`, then from the patches directory `root`; a directory means the
    `*.py` in it. Raises PatchError where nothing is found or something lies outside `root`."""
    files: list[Path] = []
    root = root.resolve()
    paths = [given for given in paths if given]
    for given in paths:
        tried = [
            Path(cwd, given),
            root / given,
            root / Path(given).name if given.startswith("patches/") else None,
        ]
        path = next((item for item in tried if item is not None and os.path.lexists(item)), None)
        if path is None:
            raise PatchError(f"{given}: no such file, neither from {cwd} nor in the patches directory {root}")
        try:
            real = path.resolve()
        except (OSError, RuntimeError) as error:  # a link that leads to itself
            raise PatchError(f"{given}: {error}") from error
        if not real.is_relative_to(root):
            how = (
                "is a link that leads out of"
                if Path(os.path.abspath(path)).is_relative_to(root)
                else "is outside"
            )
            raise PatchError(f"{given} {how} the patches directory {root}; copy it there first")
        if real.is_dir():
            inside = sorted(item for item in real.glob("*.py") if not item.name.startswith((".", "_")))
            if not inside:
                raise PatchError(f"{given}: a directory without a patch (*.py) in it")
            files += [item for item in find([str(item) for item in inside], "/", root) if item not in files]
        elif real not in files:
            files.append(real)
    if not files:
        raise PatchError("no patch was named")
    return files


def read(path: Path, root: Path, max_bytes: int) -> Patch:
    """Read one patch file. Raises PatchError if it may not be trusted or cannot be understood."""
    return parse(path, _read_trusted(path, root.resolve(), max_bytes))


def _read_trusted(path: Path, root: Path, max_bytes: int) -> str:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise PatchError(f"{path}: {error.strerror}") from error
    with os.fdopen(handle, "rb") as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode):
            raise PatchError(f"{path} is not a regular file")
        if facts.st_uid not in (0, os.geteuid(), root.stat().st_uid):
            raise PatchError(
                f"{path} belongs to uid {facts.st_uid}; it must belong to root or to the owner of {root}"
            )
        for place in (path, *(above for above in path.parents if above.is_relative_to(root))):
            if (facts if place is path else place.stat()).st_mode & stat.S_IWOTH:
                raise PatchError(f"{place} is writable by others; say: chmod o-w {place}")
        if facts.st_size > max_bytes:
            raise PatchError(
                f"{path} has {facts.st_size} bytes; a patch may have {max_bytes} ([patches] max_bytes)"
            )
        raw = file.read(max_bytes + 1)
    if len(raw) > max_bytes:
        raise PatchError(f"{path} grew past {max_bytes} bytes while it was read")
    try:
        # as Python reads it: a mark of the byte order means nothing, and every line ends in a line feed
        return raw.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise PatchError(
            f"{path}:{line}: not UTF-8 (byte 0x{raw[error.start]:02x}); save the file as UTF-8"
        ) from error


def parse(path: Path, text: str) -> Patch:
    """Understand a patch's header. Raises PatchError."""
    tree = _tree(path, text)
    words = {name: node for node in tree.body for name in _bound(node) if name in (*HEADERS, "VERSION")}
    heads = [name for name in HEADERS if name in words]
    if len(heads) != 1:
        raise PatchError(
            f'{path}: a patch has one header, such as AMENDS = "media.h264@1"; this has {len(heads)}'
        )
    kind = heads[0]
    value = _constant(words[kind])
    found = (
        HEADER_VALUE.fullmatch(value if kind != "ADDS" else f"{value}@0") if isinstance(value, str) else None
    )
    if found is None:
        wanted = (
            '"media.h264@1": a module and the version that is running' if kind != "ADDS" else '"media.av2"'
        )
        raise PatchError(f"{path}:{words[kind].lineno}: {kind} must be a text such as {wanted}")
    base = int(found[2])
    version = _constant(words["VERSION"]) if "VERSION" in words else None
    if type(version) is not int or version <= base:
        raise PatchError(
            f"{path}: write VERSION = {base + 1} (a whole number above {base}, the version it replaces)"
        )
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    return Patch(path, text, kind, found[1], base, version, sha256, tree)


def _tree(path: Path | str, text: str) -> ast.Module:
    try:
        return ast.parse(text, str(path))
    except SyntaxError as error:
        shown = (error.text or "").rstrip("\n")
        caret = f"\n    {shown}\n    {' ' * max(0, (error.offset or 1) - 1)}^" if shown else ""
        raise PatchError(f"{path}:{error.lineno}: {error.msg}{caret}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise PatchError(f"{path}: cannot be parsed: {error}") from error


def _constant(node: ast.stmt) -> object:
    value = getattr(node, "value", None)
    return value.value if isinstance(value, ast.Constant) else None


def _bound(node: ast.stmt) -> list[str]:
    """The names that a top-level definition binds."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    targets = (
        node.targets
        if isinstance(node, ast.Assign)
        else [node.target]
        if isinstance(node, ast.AnnAssign)
        else []
    )
    names = []
    for target in targets:
        inner = target.elts if isinstance(target, ast.Tuple | ast.List) else [target]
        names += [item.id for item in inner if isinstance(item, ast.Name)]
    return names


# ---- merge ---------------------------------------------------------------------------------------------------


def versions_of(texts: Mapping[str, str]) -> dict[str, int]:
    """VERSION of each module as its text says. Raises PatchError where a text is no Python."""
    found = {
        name: _constant(node)
        for name, text in texts.items()
        for node in _tree(name, text).body
        if "VERSION" in _bound(node)
    }
    return {name: version for name, version in found.items() if type(version) is int}


def merge(patches: Sequence[Patch], texts: Mapping[str, str], versions: Mapping[str, int]) -> dict[str, str]:
    """The texts of a running release with the patches merged in: module name -> new text, changed ones only.

    `texts` and `versions` are those of the running release. Raises PatchError where one does not fit.
    """
    merged: dict[str, str] = {}
    for place, patch in enumerate(patches):
        if patch.module in merged:
            other = next(item for item in patches[:place] if item.module == patch.module)
            raise PatchError(
                f"{other} and {patch} both patch {patch.module}; load one, or make them one", "merge"
            )
        merged[patch.module] = _merge_one(patch, texts, versions)
    known = frozenset(texts) | frozenset(merged)
    for patch in patches:
        # the file first, whose lines are the author's; then what it makes of the module
        check_live_source(patch.module, patch.text, patch.path, known)
        check_live_source(patch.module, merged[patch.module], f"{patch.module} with {patch}", known)
        if patch.kind == "AMENDS" and all(_bound(node) == ["VERSION"] for node in _definitions(patch)):
            raise PatchError(f"{patch} changes nothing: it defines nothing besides VERSION", "merge")
    return merged


def _merge_one(patch: Patch, texts: Mapping[str, str], versions: Mapping[str, int]) -> str:
    running = versions.get(patch.module)
    if patch.kind == "ADDS":
        parent = patch.module.rpartition(".")[0]
        if patch.module in texts:
            raise PatchError(
                f"{patch} adds {patch.module}, which exists (version {running}); use AMENDS", "merge"
            )
        if parent not in texts:
            raise PatchError(
                f"{patch} adds {patch.module}, but there is no package {parent or 'above it'}", "merge"
            )
        return _without_header(patch)
    if patch.module not in texts or running is None:
        near = [name for name in versions if name.rpartition(".")[2] == patch.module.rpartition(".")[2]]
        hint = (
            f"; did you mean {near[0]}?"
            if near
            else f"; there are {', '.join(sorted(filter(None, versions)))}"
        )
        raise PatchError(
            f"{patch} patches {patch.module}, which is no module of the running release{hint}", "merge"
        )
    if running == patch.version:
        raise PatchError(
            f"{patch} makes {patch.module}@{patch.version}, which is running already; to load it anew, first: "
            "streamd-ctl rollback",
            "merge",
        )
    if running != patch.base:
        raise PatchError(
            f"{patch} is made for {patch.module}@{patch.base}, but {patch.module}@{running} is running; "
            f"look at what changed (streamd-ctl diff) and set {patch.kind} to @{running}",
            "merge",
        )
    if patch.kind == "REPLACES":
        return _without_header(patch)
    return _amended(patch, texts[patch.module])


def _without_header(patch: Patch) -> str:
    header = next(node for node in patch.tree.body if patch.kind in _bound(node))
    lines = _lines(patch.text)
    del lines[header.lineno - 1 : header.end_lineno]
    return "".join(lines)


def _amended(patch: Patch, base: str) -> str:
    """Replace namesakes where they stand; put what is new before the next namesake, or at the end.

    The base's own migrations go: they lead to the version that is being left.
    """
    lines, patch_lines = _lines(base), _lines(patch.text)
    body = _tree(patch.module, base).body
    spans = _spans(patch.module, body, lines)
    imports = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    known = {name for node in imports for name in _imported(node)}
    old = {name: node for node in body for name in _bound(node)}
    edits: dict[int, tuple[int, str]] = {}  # first line -> (line after, new text); lines count from 0
    for name, node in old.items():
        if MIGRATIONS.fullmatch(name):
            first, after = spans[id(node)]
            edits[first] = after, ""
    fresh = ""
    fresh_imports = {True: "", False: ""}  # of streamd, of the standard library
    patch_spans = _spans(patch.path, patch.tree.body, patch_lines)
    definitions = list(_definitions(patch))
    _check_names(patch, definitions, old)
    for node in definitions:
        text = "".join(patch_lines[slice(*patch_spans[id(node)])]).rstrip("\n") + "\n"
        if isinstance(node, ast.Import | ast.ImportFrom):
            if wanted := _without(node, known):
                fresh_imports[_ours(node)] += text if wanted is node else f"{ast.unparse(wanted)}\n"
            continue
        namesakes = {id(old[name]): old[name] for name in _bound(node) if name in old}
        if not namesakes:
            fresh += _spaced(node, text)
            continue
        for place, namesake in enumerate(namesakes):
            first, after = spans[namesake]
            edits[first] = after, (fresh + _spaced(node, text)).strip("\n") + "\n" if not place else ""
        fresh = ""
    docstring = [node for node in body[:1] if isinstance(node, ast.Expr)]
    for ours, lines_of in fresh_imports.items():
        if lines_of:
            above = [node for node in imports if ours or not _ours(node)]
            last = max(map(_after, (*docstring, *above)), default=0)
            after, text = edits.get(last, (last, ""))
            edits[last] = after, lines_of + text
    parts, done = [], 0
    for first, (after, text) in sorted(edits.items()):
        parts += ["".join(lines[done:first]), text]
        done = after
    return _joined([*parts, "".join(lines[done:]), "\n" + fresh if fresh else ""])


def _imported(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, str, str | None]]:
    """(module, name, as) of each name that a statement imports."""
    module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
    for item in node.names:
        yield module, item.name, item.asname


def _without(
    node: ast.Import | ast.ImportFrom, known: Collection[tuple[str, str, str | None]]
) -> ast.Import | ast.ImportFrom | None:
    """The statement without what is imported already; None if nothing is left."""
    left = [item for item, name in zip(node.names, _imported(node), strict=True) if name not in known]
    if len(left) == len(node.names):
        return node
    if not left:
        return None
    return ast.ImportFrom(node.module, left, 0) if isinstance(node, ast.ImportFrom) else ast.Import(left)


def _ours(node: ast.Import | ast.ImportFrom) -> bool:
    return any((module or name).partition(".")[0] == "streamd" for module, name, _ in _imported(node))


def _check_names(patch: Patch, definitions: Sequence[ast.stmt], old: Mapping[str, ast.stmt]) -> None:
    """Raise PatchError where a name is defined twice, or where replacing one would take another away."""
    mine: set[str] = set()
    for node in definitions:
        for name in _bound(node):
            if name in mine:
                raise PatchError(f"{patch.path}:{node.lineno}: {name} is defined a second time", "merge")
            mine.add(name)
    for name in sorted(mine & old.keys()):
        lost = ", ".join(item for item in _bound(old[name]) if item not in mine)
        if lost:
            raise PatchError(
                f"{patch}: {patch.module} defines {name} together with {lost}; define {lost} as well", "merge"
            )


def _definitions(patch: Patch) -> Iterator[ast.stmt]:
    """The statements of an AMENDS file that are merged. Raises PatchError at anything that would run on import."""
    for place, node in enumerate(patch.tree.body):
        if place == 0 and isinstance(node, ast.Expr) and isinstance(_constant(node), str):
            continue  # the patch's own docstring
        if isinstance(node, ast.ImportFrom) and node.module == f"{PACKAGE}.{patch.module}":
            continue  # for the author's editor
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            continue  # every live module has it
        if patch.kind in _bound(node):
            continue
        if not isinstance(node, ast.Import | ast.ImportFrom) and not _bound(node):
            raise PatchError(
                f"{patch.path}:{node.lineno}: a patch has definitions only; this statement would run", "merge"
            )
        yield node


def _lines(text: str) -> list[str]:
    """The lines as the syntax tree counts them; str.splitlines would also cut at U+0085, U+2028 and form feeds."""
    return io.StringIO(text).readlines()


def _spans(where: object, body: Sequence[ast.stmt], lines: Sequence[str]) -> dict[int, tuple[int, int]]:
    """id of a statement -> its first line, decorators and the comment right above included; and the line after."""
    spans = {}
    floor = 0
    for node in body:
        decorators = getattr(node, "decorator_list", [])
        first: int = min([node.lineno, *(item.lineno for item in decorators)]) - 1
        if first < floor:
            raise PatchError(
                f"{where}:{node.lineno}: two statements share a line; give each its own", "merge"
            )
        while first > floor and lines[first - 1].startswith("#"):
            first -= 1
        floor = _after(node)
        spans[id(node)] = first, floor
    return spans


def _joined(parts: Sequence[str]) -> str:
    """The texts one after the other, with at most two blank lines where they meet."""
    merged = ""
    for part in parts:
        gap = len(merged) - len(merged.rstrip("\n")) + len(part) - len(part.lstrip("\n"))
        merged = merged.rstrip("\n") + "\n" * min(gap, 3) + part.lstrip("\n")
    return merged.strip("\n") + "\n"


def _after(node: ast.stmt) -> int:
    assert node.end_lineno is not None
    return node.end_lineno


def _spaced(node: ast.stmt, text: str) -> str:
    return f"\n\n{text}\n\n" if isinstance(node, ast.FunctionDef | ast.ClassDef) else text


# ---- the law for live code -----------------------------------------------------------------------------------


def check_live_source(
    module: str, text: str, path: Path | str = "", known: frozenset[str] = frozenset()
) -> None:
    """Raise PatchError unless `text` keeps the rules of live code (DESIGN.md, "Arrows").

    `known` are the modules of the release; if given, an import of any other live module is refused here
    instead of failing at import time.
    """
    where = path or f"{module}.py"
    tree = _tree(where, text)

    def refuse(node: ast.AST, sentence: str) -> None:
        raise PatchError(f"{where}:{getattr(node, 'lineno', 0)}: {sentence}", "check")

    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    for statement in (*tree.body, *(item for cls in classes for item in cls.body)):
        if isinstance(statement, ast.Assign | ast.AnnAssign) and _mutable(statement.value):
            name = ", ".join(_bound(statement))
            refuse(
                statement,
                f"{name} is a mutable value at module level; use a tuple, frozenset or MappingProxyType",
            )
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        match node:
            case ast.AsyncFunctionDef() | ast.Await() | ast.AsyncFor() | ast.AsyncWith():
                refuse(node, "live code never awaits: answer with a command, such as Wake or Connect")
            case ast.Global() | ast.Nonlocal():
                refuse(node, "live code has no global variables: what lasts is in @state")
            case ast.Import() | ast.ImportFrom():
                if id(node) not in top:
                    refuse(node, "imports stand at the top of the file")
                for sentence in _bad_imports(module, node, known):
                    refuse(node, sentence)
            case ast.Call(func=ast.Name(id=name)) if name in FORBIDDEN_CALLS:
                refuse(node, f"live code does not call {name}()")
            case ast.arguments() if any(map(_mutable, (*node.defaults, *node.kw_defaults))):
                refuse(
                    (node.posonlyargs + node.args + node.kwonlyargs)[0],
                    "a mutable default argument is hidden state; use None or a tuple",
                )
            case ast.FunctionDef() | ast.ClassDef():
                for item in node.decorator_list:
                    if _last_name(item) in CACHES:
                        refuse(item, "a cache is hidden state, and keeps old code alive; keep it in @state")
            case ast.Attribute(attr="__globals__" | "__builtins__" | "__subclasses__" | "__code__"):
                refuse(node, f"live code does not reach for {node.attr}")
            case _:
                pass


def _bad_imports(module: str, node: ast.Import | ast.ImportFrom, known: frozenset[str]) -> Iterator[str]:
    if isinstance(node, ast.ImportFrom) and node.level:
        yield f"write the full name: from {PACKAGE}. ..."
        return
    names = [item.name for item in node.names] if isinstance(node, ast.Import) else [node.module or ""]
    for name in names:
        root = name.partition(".")[0]
        if root in FORBIDDEN:
            yield f"live code may not import {name}: I/O, time, logging and randomness are commands or come with the event"
        elif (
            root == "streamd"
            and name not in KERNEL
            and name != PACKAGE
            and not name.startswith(PACKAGE + ".")
        ):
            yield f"live code may not import {name}; of the kernel only {' and '.join(sorted(KERNEL))}"
        elif root != "streamd" and root not in sys.stdlib_module_names:
            yield f"live code may not import {name}: it has the standard library and streamd.live only"
        elif isinstance(node, ast.Import) and root == "streamd":
            yield f"write: from {name.rpartition('.')[0]} import {name.rpartition('.')[2]}"
        elif isinstance(node, ast.ImportFrom) and (name == PACKAGE or name.startswith(PACKAGE + ".")):
            short = name[len(PACKAGE) + 1 :]
            allowed = MAY_IMPORT.get(module.partition(".")[0], ("",))
            bad = [
                item.name for item in node.names if not f"{short}.{item.name}".strip(".").startswith(allowed)
            ]
            if bad:
                yield f"{module} may not import {', '.join(bad)} from {name}: only {', '.join(allowed)}"
            elif known and short not in known:
                yield f"there is no live module {short}"


def _mutable(value: ast.expr | None) -> bool:
    match value:
        case (
            ast.List()
            | ast.Dict()
            | ast.Set()
            | ast.ListComp()
            | ast.DictComp()
            | ast.SetComp()
            | ast.GeneratorExp()
        ):
            return True
        case ast.Call():
            return _last_name(value) in MUTABLE_CALLS
        case ast.Tuple():
            return any(map(_mutable, value.elts))
        case _:
            return False


def _last_name(node: ast.expr) -> str:
    match node:
        case ast.Call():
            return _last_name(node.func)
        case ast.Attribute():
            return node.attr
        case ast.Name():
            return node.id
        case _:
            return ""
