"""Patches: text merged into text. Read one, check it, merge it; nothing of a refused patch is ever executed.

    AMENDS = "media.h264@1"    the file's top-level definitions replace their namesakes, new ones are added
    REPLACES = "media.h264@1"  the file is the module
    ADDS = "media.av2"         a new module
    REMOVES = "media.h264@1"   the module goes; the file says nothing else
    ADDS and RENAMES = "media.h264@1"  the module lives on under the name that is added, and the file is the module
    DIFFERS = "SendAll: ..."   beside any of them: commands that are answered otherwise on purpose, and why

The rule this file keeps: everything is learnt from the syntax tree, and every refusal is a sentence that names
file, line and what to write instead. What live code may be is the law's affair (law.py).
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from streamd.runtime import source
from streamd.runtime.law import KERNEL, all_bound, check_live_source
from streamd.runtime.source import (
    PACKAGE,
    PatchError,
    bound,
    constant,
    error_at,
    imports_of,
    lines_of,
    versions_of,
)
from streamd.runtime.vocabulary import Command

__all__ = [
    "KERNEL",
    "PACKAGE",
    "Patch",
    "PatchError",
    "changes",
    "check_live_source",
    "contained",
    "decode",
    "explained",
    "find",
    "merge",
    "parse",
    "read",
    "read_bytes",
    "shadows",
    "versions_of",
]

KINDS = ("AMENDS", "REPLACES", "ADDS", "REMOVES")
HEADERS = (*KINDS, "RENAMES", "DIFFERS")
# upgrade, upgrade_Track, upgrade_session
MIGRATIONS = re.compile(r"(upgrade|downgrade)(_[A-Z]\w*|_session)?|resumed")
MODULE = r"[a-z_][a-z0-9_]*(?:\.[a-z_][a-z0-9_]*)*"
HEADER_VALUE = re.compile(rf"({MODULE})@(\d{{1,9}})")
COMMANDS = frozenset(kind.__name__ for kind in get_args(Command))
DIFFERENCE = re.compile(r"[A-Z][A-Za-z]*(?: *, *[A-Z][A-Za-z]*)* *: *\S[^\n]*")
LONGEST_REASON = 500  # characters of DIFFERS: it is one sentence, and stands in status and history


@dataclass(frozen=True)
class Patch:
    """One file that was read and understood.

    `base` is the version of `module` that it wants, 0 for ADDS; `version` the one it makes, 0 for REMOVES. `renames`
    is the module that lives on as this one, "" for none, and `renamed_base` the version which that one must have.
    """

    path: Path
    text: str
    kind: str
    module: str
    base: int
    version: int
    sha256: str
    tree: ast.Module
    differs: str = ""
    renames: str = ""
    renamed_base: int = 0

    def __str__(self) -> str:
        return self.path.name

    @property
    def takes(self) -> tuple[str, ...]:
        """The modules that this patch has for itself in a load."""
        return (self.module, self.renames) if self.renames else (self.module,)

    @property
    def gone(self) -> str:
        """The module that is no more when this patch has been merged, "" for none."""
        return self.module if self.kind == "REMOVES" else self.renames


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
    return parse(path, decode(path, read_bytes(path, root, max_bytes)))


def read_bytes(path: Path, root: Path, max_bytes: int) -> bytes:
    """The bytes of a patch file, as a signature covers them. Raises PatchError if they may not be trusted."""
    root = root.resolve()
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise PatchError(f"{path}: {error.strerror}") from error
    with os.fdopen(handle, "rb") as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode):
            raise PatchError(f"{path} is not a regular file")
        # a directory on the way may have become a link since the path was looked at
        if not Path(os.readlink(f"/proc/self/fd/{handle}")).is_relative_to(root):
            raise PatchError(f"{path} leads out of the patches directory {root}")
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
    return raw


def decode(path: Path, raw: bytes) -> str:
    """The text of a patch, as Python reads it: a mark of the byte order means nothing, every line ends in a line feed.

    Raises PatchError.
    """
    try:
        return raw.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise PatchError(
            f"{path}:{line}: not UTF-8 (byte 0x{raw[error.start]:02x}); save the file as UTF-8"
        ) from error


def parse(path: Path, text: str) -> Patch:
    """Understand a patch's header. Raises PatchError."""
    tree = source.parse(path, text)
    words = {name: node for node in tree.body for name in bound(node) if name in (*HEADERS, "VERSION")}
    heads = [name for name in KINDS if name in words]
    if len(heads) != 1:
        raise PatchError(
            f'{path}: a patch has one header, such as AMENDS = "media.h264@1"; this has {len(heads)}'
        )
    kind = heads[0]
    module, base = _header(path, text, words[kind], kind)
    renames, renamed_base = "", 0
    if "RENAMES" in words:
        if kind != "ADDS":
            raise error_at(path, text, words["RENAMES"], f"RENAMES goes with ADDS, not with {kind}")
        renames, renamed_base = _header(path, text, words["RENAMES"], "RENAMES")
        if renames == module:
            raise error_at(path, text, words["RENAMES"], f"{module} cannot become itself; use REPLACES")
    version = _version(path, text, words, kind, base or renamed_base)
    differs = _differs(path, text, words["DIFFERS"]) if "DIFFERS" in words else ""
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    return Patch(path, text, kind, module, base, version, sha256, tree, differs, renames, renamed_base)


def _header(path: Path, text: str, node: ast.stmt, kind: str) -> tuple[str, int]:
    """(module, version) that a header names; version 0 for ADDS."""
    value = constant(node)
    found = (
        HEADER_VALUE.fullmatch(value if kind != "ADDS" else f"{value}@0") if isinstance(value, str) else None
    )
    if found is None:
        wanted = (
            '"media.h264@1": a module and the version that is running' if kind != "ADDS" else '"media.av2"'
        )
        raise error_at(path, text, node, f"{kind} must be a text such as {wanted}")
    return found[1], int(found[2])


def _version(path: Path, text: str, words: Mapping[str, ast.stmt], kind: str, above: int) -> int:
    if kind == "REMOVES":
        if "VERSION" in words:
            raise error_at(path, text, words["VERSION"], "what is removed has no VERSION")
        return 0
    version = constant(words["VERSION"]) if "VERSION" in words else None
    if type(version) is not int or version <= above:
        sentence = (
            f"write VERSION = {above + 1} (a whole number above {above}, the version it replaces)"
            if above
            else "write VERSION = 1 (a whole number above 0)"
        )
        if "VERSION" in words:
            raise error_at(path, text, words["VERSION"], sentence)
        raise PatchError(f"{path}: {sentence}")
    return version


def _differs(path: Path, text: str, node: ast.stmt) -> str:
    value = constant(node)
    found = DIFFERENCE.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None or len(found[0]) > LONGEST_REASON:
        raise error_at(
            path,
            text,
            node,
            'DIFFERS must name the commands that differ and say why, as in "SendAll, Join: newcomers get the title", in at '
            f"most {LONGEST_REASON} characters",
        )
    if odd := sorted(explained(found[0]) - COMMANDS):
        raise error_at(
            path, text, node, f"DIFFERS names {odd[0]}, which is none of {', '.join(sorted(COMMANDS))}"
        )
    return found[0]


def explained(differs: str) -> frozenset[str]:
    """The kinds of commands that a DIFFERS speaks of."""
    return frozenset(name.strip() for name in differs.partition(":")[0].split(",") if name.strip())


# ---- merge ---------------------------------------------------------------------------------------------------


def changes(patches: Sequence[Patch], versions: Mapping[str, int]) -> dict[str, list[int]]:
    """The modules that a load changes, with their versions before and after; 0 where there is none."""
    found = {patch.module: [versions.get(patch.module, 0), patch.version] for patch in patches}
    return found | {patch.gone: [versions.get(patch.gone, 0), 0] for patch in patches if patch.gone}


def merge(patches: Sequence[Patch], texts: Mapping[str, str], versions: Mapping[str, int]) -> dict[str, str]:
    """The texts of a running release with the patches merged in: module name -> text, the whole new tree.

    `texts` and `versions` are those of the running release. Raises PatchError where one does not fit.
    """
    merged: dict[str, str] = {}
    gone = frozenset(patch.gone for patch in patches) - {""}
    taken: dict[str, Patch] = {}
    for patch in patches:
        for module in patch.takes:
            if other := taken.get(module):
                raise PatchError(
                    f"{other} and {patch} both patch {module}; load one, or make them one", "merge"
                )
            taken[module] = patch
        _check_fits(patch, texts, versions)
        if patch.kind == "AMENDS":
            merged[patch.module] = _amended(patch, texts[patch.module], gone)
        elif patch.kind != "REMOVES":
            merged[patch.module] = _without_headers(patch)
    tree = {name: text for name, text in {**texts, **merged}.items() if name not in gone}
    _check_gone(gone, patches, tree)
    known = frozenset(tree)
    for patch in patches:
        if patch.kind == "REMOVES":
            continue
        # the file first, whose lines are the author's; then what it makes of the module
        check_live_source(patch.module, patch.text, patch.path, known)
        check_live_source(patch.module, merged[patch.module], f"{patch.module} with {patch}", known)
        if patch.kind == "AMENDS" and all(bound(node) == ["VERSION"] for node in _definitions(patch)):
            raise PatchError(f"{patch} changes nothing: it defines nothing besides VERSION", "merge")
    return tree


def _check_fits(patch: Patch, texts: Mapping[str, str], versions: Mapping[str, int]) -> None:
    """Raise PatchError unless the running release is what the patch was made for."""
    running = versions.get(patch.module)
    if patch.kind == "ADDS":
        parent = patch.module.rpartition(".")[0]
        if patch.module in texts:
            raise PatchError(
                f"{patch} adds {patch.module}, which exists (version {running}); use AMENDS", "merge"
            )
        if parent not in texts or parent == patch.renames:
            raise PatchError(
                f"{patch} adds {patch.module}, but there is no package {parent or 'above it'}", "merge"
            )
        if patch.renames:
            _check_running(patch, "RENAMES", patch.renames, patch.renamed_base, texts, versions)
    else:
        if running is not None and running == patch.version:
            raise PatchError(
                f"{patch} makes {patch.module}@{patch.version}, which is running already; to load it anew, first: "
                "streamd-ctl rollback",
                "merge",
            )
        _check_running(patch, patch.kind, patch.module, patch.base, texts, versions)
    if inside := sorted(name for name in texts if patch.gone and name.startswith(f"{patch.gone}.")):
        raise PatchError(f"{patch} takes {patch.gone} away, which has modules: {', '.join(inside)}", "merge")
    if patch.kind == "REMOVES":
        _check_empty(patch)


def _check_running(
    patch: Patch,
    header: str,
    module: str,
    base: int,
    texts: Mapping[str, str],
    versions: Mapping[str, int],
) -> None:
    running = versions.get(module)
    if module not in texts or running is None:
        near = [name for name in versions if name.rpartition(".")[2] == module.rpartition(".")[2]]
        hint = (
            f"; did you mean {near[0]}?"
            if near
            else f"; there are {', '.join(sorted(filter(None, versions)))}"
        )
        raise PatchError(
            f"{patch} patches {module}, which is no module of the running release{hint}", "merge"
        )
    if running != base:
        raise PatchError(
            f"{patch} is made for {module}@{base}, but {module}@{running} is running; "
            f"look at what changed (streamd-ctl diff) and set {header} to @{running}",
            "merge",
        )


def _check_empty(patch: Patch) -> None:
    """Raise PatchError where a file that removes a module says anything else."""
    for place, node in enumerate(patch.tree.body):
        if place == 0 and isinstance(node, ast.Expr) and isinstance(constant(node), str):
            continue
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            continue
        if not set(bound(node)) & {"REMOVES", "DIFFERS"}:
            raise error_at(
                patch.path,
                patch.text,
                node,
                f"a file that removes {patch.module} has nothing else in it; what becomes of its records is said by "
                "upgrade_session and downgrade_session of another file of the load",
                "merge",
            )


def _check_gone(gone: frozenset[str], patches: Sequence[Patch], tree: Mapping[str, str]) -> None:
    """Raise PatchError if a module of the new tree still imports one that is no more."""
    if not gone:
        return
    files = {patch.module: patch for patch in patches}
    for name, text in sorted(tree.items()):
        for node in source.parse(name, text).body:
            for module in imports_of(node, gone):
                why = next(str(patch) for patch in patches if patch.gone == module)
                where = f"{name} with {files[name]}" if name in files else name
                advice = "" if name in files else f"; patch {name} in the same load"
                raise error_at(
                    where, text, node, f"still imports {module}, which {why} takes away{advice}", "merge"
                )


def _without_headers(patch: Patch) -> str:
    lines = lines_of(patch.text)
    for node in reversed(patch.tree.body):
        if set(bound(node)) & set(HEADERS):
            del lines[node.lineno - 1 : node.end_lineno]
    return "".join(lines)


def _amended(patch: Patch, base: str, gone: frozenset[str]) -> str:
    """Replace namesakes where they stand; put what is new before the next namesake, or at the end.

    The base's own migrations go: they lead to the version that is being left. So do its imports of modules that are
    no more.
    """
    lines, patch_lines = lines_of(base), lines_of(patch.text)
    body = source.parse(patch.module, base).body
    spans = _spans(patch.module, base, body, lines)
    imports = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    known = {
        (module, name, called)
        for node in imports
        for module, name, called in _imported(node)
        if (called or name) not in _of_gone(node, gone)
    }
    old = {name: node for node in body for name in bound(node)}
    edits: dict[int, tuple[int, str]] = {}  # first line -> (line after, new text); lines count from 0
    for name, node in old.items():
        if MIGRATIONS.fullmatch(name):
            first, after = spans[id(node)]
            edits[first] = after, ""
    lost: dict[str, str] = {}  # name in the module -> the module that is no more
    for node in imports:
        if dropped := _of_gone(node, gone):
            lost |= dropped
            left = [item for item in node.names if (item.asname or item.name) not in dropped]
            first, after = spans[id(node)]
            if left:  # what is said above it still holds
                kept = ast.ImportFrom(node.module, left, 0)  # type: ignore[union-attr]
                edits[node.lineno - 1] = after, f"{ast.unparse(kept)}\n"
            else:
                edits[first] = after, ""
    fresh = ""
    fresh_imports = {True: "", False: ""}  # of streamd, of the standard library
    patch_spans = _spans(patch.path, patch.text, patch.tree.body, patch_lines)
    definitions = list(_definitions(patch))
    _check_names(patch, definitions, old)
    for node in definitions:
        text = "".join(patch_lines[slice(*patch_spans[id(node)])]).rstrip("\n") + "\n"
        if isinstance(node, ast.Import | ast.ImportFrom):
            if wanted := _without(node, known):
                fresh_imports[_ours(node)] += text if wanted is node else f"{ast.unparse(wanted)}\n"
            continue
        namesakes = {id(old[name]): old[name] for name in bound(node) if name in old}
        if not namesakes:
            fresh += _spaced(node, text)
            continue
        for place, namesake in enumerate(namesakes):
            first, after = spans[namesake]
            edits[first] = after, (fresh + _spaced(node, text)).strip("\n") + "\n" if not place else ""
        fresh = ""
    docstring = [node for node in body[:1] if isinstance(node, ast.Expr)]
    for ours, fresh_lines in fresh_imports.items():
        if fresh_lines:
            above = [node for node in imports if ours or not _ours(node)]
            last = max(map(_after, (*docstring, *above)), default=0)
            after, text = edits.get(last, (last, ""))
            edits[last] = after, fresh_lines + text
    parts, done = [], 0
    for first, (after, text) in sorted(edits.items()):
        parts += ["".join(lines[done:first]), text]
        done = after
    merged = _joined([*parts, "".join(lines[done:]), "\n" + fresh if fresh else ""])
    _check_lost(patch, merged, lost)
    return merged


def _of_gone(node: ast.Import | ast.ImportFrom, gone: frozenset[str]) -> dict[str, str]:
    """Of the names that a statement imports, those of modules that are no more, and of which."""
    found = {}
    for module, name in source.live_imports(node):
        inner = f"{module}.{name}".strip(".")
        if module in gone or inner in gone:
            item = next(item for item in node.names if item.name == name)
            found[item.asname or item.name] = module if module in gone else inner
    return found


def _check_lost(patch: Patch, merged: str, lost: Mapping[str, str]) -> None:
    """Raise PatchError where a module that was amended still uses what it imported of a module that is no more."""
    if not lost:
        return
    where = f"{patch.module} with {patch}"
    tree = source.parse(where, merged)
    own = all_bound(tree)  # a parameter of that name is no use of the module
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in lost and node.id not in own:
            raise error_at(
                where, merged, node, f"still uses {node.id} of {lost[node.id]}, which goes", "merge"
            )


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
        for name in bound(node):
            if name in mine:
                raise error_at(patch.path, patch.text, node, f"{name} is defined a second time", "merge")
            mine.add(name)
    for name in sorted(mine & old.keys()):
        lost = ", ".join(item for item in bound(old[name]) if item not in mine)
        if lost:
            raise PatchError(
                f"{patch}: {patch.module} defines {name} together with {lost}; define {lost} as well", "merge"
            )


def _definitions(patch: Patch) -> Iterator[ast.stmt]:
    """The statements of an AMENDS file that are merged. Raises PatchError at anything that would run on import."""
    for place, node in enumerate(patch.tree.body):
        if place == 0 and isinstance(node, ast.Expr) and isinstance(constant(node), str):
            continue  # the patch's own docstring
        if isinstance(node, ast.ImportFrom) and node.module == f"{PACKAGE}.{patch.module}":
            continue  # for the author's editor
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            continue  # every live module has it
        if set(bound(node)) & set(HEADERS):
            continue
        if not isinstance(node, ast.Import | ast.ImportFrom) and not bound(node):
            raise error_at(
                patch.path,
                patch.text,
                node,
                "a patch has definitions only; this statement would run",
                "merge",
            )
        yield node


def _spans(
    where: Path | str, text: str, body: Sequence[ast.stmt], lines: Sequence[str]
) -> dict[int, tuple[int, int]]:
    """id of a statement -> its first line, decorators and the comment right above included; and the line after."""
    spans = {}
    floor = 0
    for node in body:
        decorators = getattr(node, "decorator_list", [])
        first: int = min([node.lineno, *(item.lineno for item in decorators)]) - 1
        if first < floor:
            raise error_at(where, text, node, "two statements share a line; give each its own", "merge")
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


# ---- stacks of patches ---------------------------------------------------------------------------------------


def contained(
    patch: Patch, texts: Mapping[str, str], versions: Mapping[str, int], later: Sequence[Patch] = ()
) -> bool:
    """True if the code already has what the patch brings: its version is reached, its definitions are there.

    Compared by syntax tree, so that comments and spaces do not count; migrations lead from a version that is gone
    and are not asked about, nor is what a patch of `later` has replaced.
    """
    mine = [item for item in later if patch.module in (*item.takes, item.renames)]
    for item in mine:
        if item.kind != "AMENDS":  # took the whole module
            return contained(item, texts, versions, later[later.index(item) + 1 :])
    if patch.gone and patch.gone in texts:
        return False
    if patch.kind == "REMOVES":
        return True
    if patch.module not in texts or versions.get(patch.module, 0) < patch.version:
        return False
    replaced = frozenset(name for item in mine for name in _meanings(item.tree.body))
    wanted = _meanings(patch.tree.body)
    there = _meanings(source.parse(patch.module, texts[patch.module]).body)
    if patch.kind != "AMENDS" and not mine and wanted.keys() != there.keys():
        return False
    return all(there.get(name) == text for name, text in wanted.items() if name not in replaced)


def _meanings(body: Sequence[ast.stmt]) -> dict[str, str]:
    """Each name that is defined, with its definition in a form in which places and spaces do not show."""
    ours = {"VERSION", *HEADERS}
    return {
        name: ast.dump(node)
        for node in body
        for name in bound(node)
        if name not in ours and not MIGRATIONS.fullmatch(name)
    }


def shadows(patch: Patch, earlier: Sequence[Patch]) -> list[str]:
    """Sentences on what this patch replaces although an earlier patch of the stack had put it there."""
    names, sentences = {*patch.takes}, []
    mine = _meanings(patch.tree.body)
    for former in reversed(earlier):
        if former.module not in names:
            continue
        if patch.kind == "AMENDS":
            again = [name for name in _meanings(former.tree.body) if name in mine]
        elif former.kind != "AMENDS":
            again = ["all"]
        else:
            again = list(_meanings(former.tree.body))
        names |= {former.renames} - {""}
        if again:
            sentences.append(
                f"{patch} replaces {', '.join(again)} of {former.module}, which {former} had put there"
            )
    return sentences[::-1]
