"""Source text as the author wrote it: parsed, cut into lines, pointed at.

The rule this file keeps: a sentence about a line shows the line, with a caret under what is meant.
"""

from __future__ import annotations

import ast
import io
from collections.abc import Mapping
from pathlib import Path

PACKAGE = "streamd.live"
SHOWN = 120  # characters of a source line; terminals are not wider
DEEPEST = 200  # levels of a syntax tree; whoever walks it does so by recursion


class PatchError(Exception):
    """Why a patch is refused, as a sentence; `stage` is the step of the patch path that refused it."""

    def __init__(self, sentence: str, stage: str = "read") -> None:
        super().__init__(sentence)
        self.stage = stage


def parse(where: Path | str, text: str) -> ast.Module:
    """The syntax tree of a text that is said to be `where`. Raises PatchError."""
    try:
        tree = ast.parse(text, str(where))
    except SyntaxError as error:
        shown = (error.text or "").rstrip("\n")
        line = f":{error.lineno}" if error.lineno else ""
        caret = _pointed(shown, (error.offset or 1) - 1) if shown else ""
        raise PatchError(f"{where}{line}: {error.msg}{caret}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise PatchError(f"{where}: cannot be parsed: {error}") from error
    level: list[ast.AST] = [tree]
    for _ in range(DEEPEST):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
    deep = next((node for node in level if hasattr(node, "lineno")), None)
    if deep is not None:
        raise error_at(where, text, deep, f"nested more than {DEEPEST} levels deep; write it in parts")
    return tree


def lines_of(text: str) -> list[str]:
    """The lines as the syntax tree counts them; str.splitlines would also cut at U+0085, U+2028 and form feeds."""
    return io.StringIO(text).readlines()


def error_at(where: Path | str, text: str, node: ast.AST, sentence: str, stage: str = "read") -> PatchError:
    """A refusal that shows the line of `node`; the columns of a syntax tree count bytes of UTF-8."""
    number: int = getattr(node, "lineno", 0)
    lines = lines_of(text)
    if not 0 < number <= len(lines):
        return PatchError(f"{where}: {sentence}", stage)
    line = lines[number - 1].rstrip("\n")
    column = len(line.encode()[: getattr(node, "col_offset", 0)].decode(errors="replace"))
    return PatchError(f"{where}:{number}: {sentence}{_pointed(line, column)}", stage)


def _pointed(line: str, column: int) -> str:
    """The line below the sentence, and a caret below its column; tabs stay, so that the caret stands right."""
    bare = line.lstrip()
    left = max(0, column - (len(line) - len(bare)))
    if left >= SHOWN:
        bare, left = bare[left - SHOWN // 2 :], SHOWN // 2
    space = "".join("\t" if item == "\t" else " " for item in bare[:left])
    return f"\n    {bare[:SHOWN].rstrip()}\n    {space}^"


def bound(node: ast.stmt) -> list[str]:
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


def constant(node: ast.stmt) -> object:
    """The literal that a statement is or assigns; None if it is none."""
    value = getattr(node, "value", None)
    return value.value if isinstance(value, ast.Constant) else None


def versions_of(texts: Mapping[str, str]) -> dict[str, int]:
    """VERSION of each module as its text says. Raises PatchError where a text is no Python."""
    found = {
        name: constant(node)
        for name, text in texts.items()
        for node in parse(name, text).body
        if "VERSION" in bound(node)
    }
    return {name: version for name, version in found.items() if type(version) is int}


def live_imports(node: ast.stmt) -> list[tuple[str, str]]:
    """(module, name) of what a statement imports of live code: ("media", "h264") of `from streamd.live.media import h264`."""
    if not isinstance(node, ast.ImportFrom) or node.level or node.module is None:
        return []
    if node.module != PACKAGE and not node.module.startswith(PACKAGE + "."):
        return []
    return [(node.module[len(PACKAGE) + 1 :], item.name) for item in node.names]


def imports_of(node: ast.stmt, modules: frozenset[str]) -> list[str]:
    """Those of `modules` that a statement imports, by name or something from inside."""
    return sorted(
        {
            module if module in modules else f"{module}.{name}".strip(".")
            for module, name in live_imports(node)
            if module in modules or f"{module}.{name}".strip(".") in modules
        }
    )
