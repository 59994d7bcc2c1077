"""The arrows of the design and the rules of live code, read from the source: who may import whom, and what live code is.

The rules that live code keeps inside a file are the kernel's own (`law.check_live_source`): a patch is held
to what the shipped code is held to. Who may import whom is written here a second time, on purpose.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from streamd.runtime.law import check_live_source
from streamd.runtime.source import PatchError

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "streamd"
SOURCES = sorted(PACKAGE.rglob("*.py"))
LIVE = [path for path in SOURCES if path.is_relative_to(PACKAGE / "live")]

# part -> (the parts of streamd it may import, the packages of others)
ARROWS: dict[str, tuple[set[str], set[str]]] = {
    "server": (
        {"", "config", "logs", "runtime", "drivers", "signing"},
        {"aiohttp", "uvloop", "click", "msgspec", "watchfiles"},
    ),
    "ctl": (
        {"", "ctl_wire", "ctl_show", "ctl_report", "ctl_stages", "ctl_top", "ctl_files"},
        {"click"},
    ),
    "ctl_wire": ({"places"}, {"msgpack"}),
    "ctl_show": (set(), {"click", "rich"}),
    "ctl_report": ({"ctl_show"}, {"click"}),
    "ctl_stages": ({"ctl_show", "ctl_wire"}, set()),
    "ctl_top": ({"ctl_show", "ctl_wire"}, {"click", "rich"}),
    "ctl_files": ({"ctl_show"}, set()),
    "config": ({"places", "signing"}, {"msgspec"}),
    "signing": ({"runtime.patchfile"}, {"cryptography"}),
    "places": (set(), set()),
    "logs": (set(), set()),
    "runtime": ({"runtime"}, {"msgpack", "uvloop"}),
    "drivers": ({"runtime", "drivers"}, {"aiohttp", "uvloop", "watchfiles"}),
    "live.protocol": ({"live.protocol", "runtime.state", "runtime.vocabulary"}, set()),
    # a script tag of FLV is AMF by its own specification: the one thing media takes from protocol
    "live.media": (
        {"live.media", "live.protocol.amf", "live.protocol.amf0", "runtime.state", "runtime.vocabulary"},
        set(),
    ),
    "live.handlers": (
        {"live.handlers", "live.media", "live.protocol", "runtime.state", "runtime.vocabulary"},
        set(),
    ),
    "live": ({"live.handlers", "runtime.state", "runtime.vocabulary"}, set()),
}

# Standard library that would let live code wait, look at the clock, roll dice or do I/O.
NOT_IN_LIVE = set(
    "asyncio socket threading time os logging random subprocess importlib sys io selectors signal".split()
)


def name_of(path: Path) -> str:
    """ "live.media.h264" for streamd/live/media/h264.py, "" for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(name: str) -> str:
    """The longest part of ARROWS that a module belongs to."""
    while name and name not in ARROWS:
        name = name.rpartition(".")[0]
    return name


def imports_of(path: Path) -> list[tuple[int, str]]:
    """(line, full name) of everything a file imports; `from a import b` counts as a.b, wherever it stands."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: write the full name instead of dots"
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found


def is_below(name: str, above: str) -> bool:
    return name == above or (above != "" and name.startswith(f"{above}."))


def may_import(part: str, name: str) -> bool:
    ours, others = ARROWS[part]
    root, _, rest = name.partition(".")
    if root == "streamd":
        # the package itself is its __version__ and no more: `from streamd import server` is the module's arrow
        if "" in ours and rest == "__version__":
            return True
        return any(is_below(rest, above) for above in ours if above)
    if root in sys.stdlib_module_names:
        return not (part.startswith("live") and root in NOT_IN_LIVE)
    return root in others


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_import_follows_the_arrows(path):
    name = name_of(path)
    part = part_of(name)
    if not part:
        assert name == "", f"{name}: say in ARROWS what this part may import"
        assert imports_of(path) == [], "the package itself imports nothing: streamd-ctl starts with it"
        return
    wrong = [
        f"{path}:{line}: {part} may not import {imported}"
        for line, imported in imports_of(path)
        if not may_import(part, imported)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("part", "name", "allowed"),
    [
        ("server", "streamd.runtime.admin.Admin", True),
        ("server", "streamd.__version__", True),
        ("server", "streamd.live.handlers.door", False),
        ("ctl", "streamd.runtime.state", False),
        ("ctl", "streamd.drivers.http", False),
        ("ctl", "streamd.config.load", False),
        ("ctl", "streamd.ctl_show", True),
        ("ctl", "streamd.server", False),
        ("runtime", "streamd.live", False),
        ("runtime", "aiohttp.web", False),
        ("runtime", "msgpack", True),
        ("drivers", "streamd.runtime.link.Link", True),
        ("drivers", "streamd.live.handlers", False),
        ("live.protocol", "streamd.live.media.frame", False),
        ("live.media", "streamd.live.handlers.door", False),
        ("live.media", "streamd.live.media.frame.Frame", True),
        ("live.media", "streamd.live.protocol.amf0", True),
        ("live.media", "streamd.live.protocol.rtmp", False),
        ("live.handlers", "streamd.runtime.state.state", True),
        ("live.handlers", "streamd.runtime.net", False),
        ("live.handlers", "msgpack", False),
        ("live.handlers", "os.path", False),
        ("live.handlers", "struct", True),
        ("live", "streamd.live.handlers.door", True),
    ],
)
def test_the_arrows_are_those_of_the_design(part, name, allowed):
    assert may_import(part, name) is allowed


@pytest.mark.parametrize("path", LIVE, ids=lambda path: str(path.relative_to(ROOT)))
def test_live_code_keeps_its_rules(path):
    try:
        check_live_source(name_of(path).removeprefix("live").lstrip("."), path.read_text(encoding="utf-8"))
    except PatchError as e:
        pytest.fail(str(e))


@pytest.mark.parametrize("path", LIVE, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_live_module_ships_as_version_1(path):
    versions = [
        node.value.value
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Constant)
        and [target.id for target in node.targets if isinstance(target, ast.Name)] == ["VERSION"]
    ]
    is_package_below = path.name == "__init__.py" and path.parent != PACKAGE / "live"
    assert versions == ([] if is_package_below else [1])


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_opens_with_what_it_is_and_leaves_nothing_to_do(path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    if not tree.body:
        return  # an empty __init__
    assert ast.get_docstring(tree), "a file opens with what it is and the rule it keeps"
    unfinished = [word for word in ("TO" + "DO", "FIX" + "ME", "XX" + "X") if word in text]
    assert unfinished == []
    if len(tree.body) > 1 and path != PACKAGE / "__init__.py":
        assert "from __future__ import annotations" in text


def test_the_tree_was_found():
    assert {part_of(name_of(path)) for path in SOURCES} >= {"runtime", "live.media", "live.protocol", "ctl"}
