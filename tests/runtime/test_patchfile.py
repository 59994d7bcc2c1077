"""Patches as text: what is found, read and trusted, how it merges, and every sentence that says no."""

from __future__ import annotations

import ast
import os
import stat
from pathlib import Path

import pytest

from streamd.runtime.patchfile import PatchError, check_live_source, find, merge, parse, read, versions_of
from streamd.runtime.release import read_tree
from tests.fake_live import FIX, amend

BASE = '''"""A module."""

from __future__ import annotations

import struct
from streamd.runtime.state import state

VERSION = 1

# the size of a box
SIZE = 4
LEFT, RIGHT = 1, 2


@state
class Track:
    config: bytes = b""


# reads a box
@decorated
def read(data):
    return data[:SIZE]


def upgrade(old):
    return old


def upgrade_fault(reason):
    return reason


def last():
    return """text


# not a comment


"""
'''


def patch_of(text: str, name: str = "fix.py"):
    return parse(Path(name), text)


def amended(body: str, base: str = BASE, head: str = 'AMENDS = "media.box@1"\nVERSION = 2\n') -> str:
    texts = {"": "VERSION = 1\n", "media": "", "media.box": base}
    merged = merge([patch_of(head + body)], texts, versions_of(texts))
    ast.parse(merged["media.box"])
    return merged["media.box"]


# ---- merge


def test_a_namesake_is_replaced_where_it_stands_with_its_decorators_and_comment():
    text = amended("\n\n# reads a larger box\n@other\n@more\ndef read(data):\n    return data\n")
    assert (
        "# reads a larger box\n@other\n@more\ndef read(data):\n    return data\n\n\ndef upgrade_fault" in text
    )
    assert "@decorated" not in text
    assert "# reads a box" not in text
    assert text.startswith('"""A module."""\n\nfrom __future__')
    assert "VERSION = 2\n\n# the size of a box\nSIZE = 4\n" in text
    assert "AMENDS" not in text


def test_what_is_new_stands_before_the_next_namesake_or_at_the_end():
    text = amended(
        "\n\ndef helper():\n    return 1\n\n\nMORE = 8\n\n\ndef read(data):\n    return helper()\n\n\nEND = 9\n"
    )
    order = ["class Track", "def helper", "MORE = 8", "def read", "def last", "END = 9"]
    assert sorted(order, key=text.index) == order


def test_the_migrations_of_the_base_are_dropped_and_nothing_else_is():
    text = amended("\n\ndef downgrade(new):\n    return new\n")
    assert "def upgrade(" not in text
    assert "def upgrade_fault(" in text
    assert "def downgrade(" in text
    text = amended("\n\ndef upgrade(old):\n    return {}\n")
    assert text.count("def upgrade(") == 1
    assert "return {}" in text


def test_text_inside_the_module_is_left_alone():
    assert 'text\n\n\n# not a comment\n\n\n"""' in amended("\n\nSIZE = 5\n")


@pytest.mark.parametrize(
    ("line", "times"),
    [
        ("import struct", 1),
        ("import binascii", 1),
        ("from streamd.runtime.state import state", 1),
    ],
)
def test_imports_are_added_once_after_those_of_the_base(line, times):
    text = amended(f"{line}\n\nSIZE = 5\n")
    assert text.splitlines().count(line) == times
    assert text.index(line) < text.index("VERSION")


def test_of_an_import_only_what_is_new_is_added_among_its_own_kind():
    text = amended("import zlib\nfrom streamd.runtime.state import field, state\n\nSIZE = 5\n")
    assert (
        "import struct\nimport zlib\nfrom streamd.runtime.state import state\nfrom streamd.runtime.state import field\n"
        in text
    )


def test_a_patch_without_a_definition_is_refused():
    texts = {"": "VERSION = 1\n", "media": "", "media.box": BASE}
    with pytest.raises(PatchError, match=r"a.py changes nothing: it defines nothing besides VERSION"):
        merge([patch_of('AMENDS = "media.box@1"\nVERSION = 2\n', "a.py")], texts, versions_of(texts))


def test_an_import_is_not_lost_where_a_replaced_definition_follows_at_once():
    text = amended("import binascii\n\nSIZE = 5\n", base='"""Doc."""\nimport struct\nSIZE = 4\nVERSION = 1\n')
    assert text == '"""Doc."""\nimport struct\nimport binascii\nSIZE = 5\nVERSION = 2\n'


def test_an_import_stands_after_the_docstring_of_a_module_without_imports():
    text = amended("import struct\n", base='"""Doc."""\n\nVERSION = 1\n')
    assert text == '"""Doc."""\nimport struct\n\nVERSION = 2\n'


@pytest.mark.parametrize("odd", ["\x85", "\u2028", "\x0c", "\x1c"])
def test_lines_are_those_of_python(odd):
    base = f'"""Doc {odd} and {odd}."""\n\nVERSION = 1\nA = "{odd}"\nB = 2\n'
    text = amended(
        f'"""Patch {odd}."""\nAMENDS = "media.box@1"\nVERSION = 2\nX = "{odd}"\nB = 3\n', base, head=""
    )
    assert text == f'"""Doc {odd} and {odd}."""\n\nVERSION = 2\nA = "{odd}"\nX = "{odd}"\nB = 3\n'


def test_merging_is_the_same_as_what_the_shipped_module_would_have_been_written_as(tree):
    texts = {name: text for name, (_, text) in read_tree(tree).items()}
    merged = merge([patch_of(FIX)], texts, versions_of(texts))
    names = [node.name for node in ast.parse(merged["media.codec"]).body if hasattr(node, "name")]
    assert names == ["Track", "word", "both", "tail", "count", "upgrade", "downgrade"]
    assert merged.keys() == {"media.codec"}


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("print('x')\n", "fix.py:3: a patch has definitions only"),
        ("if True:\n    A = 1\n", "definitions only"),
        ("for x in ():\n    pass\n", "definitions only"),
        ("LEFT = 3\n", "media.box defines LEFT together with RIGHT; define RIGHT as well"),
        (
            "A = 1\n\n\ndef read(data):\n    pass\n\n\ndef read(data):\n    return 1\n",
            "read is defined a second time",
        ),
        ("A = 1; B = 2\n", "two statements share a line"),
    ],
)
def test_a_merge_that_would_run_or_lose_something_is_refused(body, sentence):
    with pytest.raises(PatchError, match=sentence):
        amended(body)


def test_names_defined_together_are_replaced_together():
    assert "LEFT, RIGHT" not in amended("LEFT = 3\nRIGHT = 4\n")
    assert "LEFT, RIGHT = 5, 6\n" in amended("LEFT, RIGHT = 5, 6\n")


def test_replaces_and_adds_are_the_file_without_its_header():
    texts = {"": "VERSION = 1\n", "media": "", "media.box": BASE}
    replaced = patch_of('"""New."""\n\nREPLACES = "media.box@1"\nVERSION = 2\nA = 1\n', "a.py")
    added = patch_of(
        '"""More."""\nVERSION = 1\nADDS = "media.crate"\nfrom streamd.live.media import box\n', "b.py"
    )
    assert merge([replaced, added], texts, versions_of(texts)) == {
        "media.box": '"""New."""\n\nVERSION = 2\nA = 1\n',
        "media.crate": '"""More."""\nVERSION = 1\nfrom streamd.live.media import box\n',
    }


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            'AMENDS = "media.box@3"\nVERSION = 4\n',
            r"made for media.box@3, but media.box@1 is running; .*set AMENDS to @1",
        ),
        ('REPLACES = "media.box@2"\nVERSION = 4\n', r"set REPLACES to @1"),
        (
            'AMENDS = "media.bax@1"\nVERSION = 2\n',
            r"media.bax, which is no module of the running release; there are media.box",
        ),
        ('AMENDS = "handlers.box@1"\nVERSION = 2\n', r"did you mean media.box\?"),
        ('AMENDS = "media@1"\nVERSION = 2\n', "no module"),
        ('ADDS = "media.box"\nVERSION = 2\n', r"adds media.box, which exists \(version 1\); use AMENDS"),
        ('ADDS = "audio.box"\nVERSION = 2\n', "there is no package audio"),
        ('ADDS = "media.box.inner"\nVERSION = 2\nfrom streamd.live.media.none import x\n', "."),
    ],
)
def test_a_patch_that_does_not_fit_is_refused(text, sentence):
    texts = {"": "VERSION = 1\n", "media": "", "media.box": BASE}
    with pytest.raises(PatchError, match=sentence) as refused:
        merge([patch_of(text)], texts, versions_of(texts))
    assert refused.value.stage in ("merge", "check")


def test_two_files_of_a_load_may_not_patch_one_module():
    texts = {"": "VERSION = 1\n", "media": "", "media.box": BASE}
    two = [patch_of('AMENDS = "media.box@1"\nVERSION = 2\n', name) for name in ("a.py", "b.py")]
    with pytest.raises(PatchError, match=r"a.py and b.py both patch media.box; load one, or make them one"):
        merge(two, texts, versions_of(texts))


def test_versions_are_read_from_the_syntax_tree():
    texts = {
        "a": "VERSION = 3  # cured\n",
        "b": '"""\nVERSION = 9\n"""\nVERSION: int = 2\n',
        "c": "",
        "d": "VERSION = 'x'\n",
    }
    assert versions_of(texts) == {"a": 3, "b": 2}


# ---- the header


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "this has 0"),
        ("VERSION = 2\n", 'a patch has one header, such as AMENDS = "media.h264@1"; this has 0'),
        ('AMENDS = "a@1"\nREPLACES = "a@1"\nVERSION = 2\n', "this has 2"),
        ('AMENDS = "media.h264"\nVERSION = 2\n', r"fix.py:1: AMENDS must be a text such as"),
        ("AMENDS = 7\nVERSION = 2\n", "must be a text"),
        ('AMENDS = "media." + "h264@1"\nVERSION = 2\n', "must be a text"),
        ('AMENDS = "../etc/passwd@1"\nVERSION = 2\n', "must be a text"),
        ('AMENDS = "media..h264@1"\nVERSION = 2\n', "must be a text"),
        ('ADDS = "media.av2@1"\nVERSION = 2\n', "ADDS must be a text such as"),
        ('ADDS = "media/av2"\nVERSION = 2\n', "ADDS must be"),
        ('AMENDS = "media.h264@1"\n', r"write VERSION = 2 \(a whole number above 1"),
        ('AMENDS = "media.h264@1"\nVERSION = 1\n', "write VERSION = 2"),
        ('AMENDS = "media.h264@1"\nVERSION = "2"\n', "write VERSION = 2"),
        ('AMENDS = "media.h264@1"\nVERSION = True\n', "write VERSION = 2"),
        ('ADDS = "media.av2"\n', "write VERSION = 1"),
        (
            'AMENDS = "media.h264@1"\nVERSION = 2\n\ndef f(:\n',
            r"fix.py:4: invalid syntax\n    def f\(:\n          \^",
        ),
        ('AMENDS = "a@1"\nVERSION = 2\nx = """\n', r"fix.py:3: unterminated triple-quoted"),
        ("AMENDS = 'a@1'\nVERSION = 2\nx = " + "(" * 300 + ")" * 300, "too many nested parentheses"),
        ("a\0b", "null bytes"),
    ],
)
def test_a_bad_header_or_syntax_is_a_sentence(text, sentence):
    with pytest.raises(PatchError, match=sentence) as refused:
        patch_of(text)
    assert refused.value.stage == "read"


# ---- finding and trusting


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "patches"
    root.mkdir(mode=0o755)
    (root / "fix.py").write_text(amend("media.codec", 1, ""))
    (root / "set").mkdir(mode=0o755)
    for name in ("b.py", "a.py", "_not.py", ".hidden.py", "notes.txt"):
        (root / "set" / name).write_text(amend("media.codec", 1, ""))
    return root


@pytest.mark.parametrize(
    ("given", "cwd", "names"),
    [
        (["fix.py"], "/", ["fix.py"]),
        (["patches/fix.py"], "/", ["fix.py"]),
        (["patches/fix.py"], "HERE", ["fix.py"]),
        (["../patches/fix.py"], "ROOT", ["fix.py"]),
        (["ROOT/fix.py"], "/", ["fix.py"]),
        (["set"], "/", ["a.py", "b.py"]),
        (["set/", "fix.py", "set/a.py"], "/", ["a.py", "b.py", "fix.py"]),
        (["set/a.py", "set"], "/", ["a.py", "b.py"]),
        (["fix.py", "./fix.py"], "/", ["fix.py"]),
    ],
)
def test_a_path_is_looked_up_from_the_caller_and_then_in_the_patches_directory(root, given, cwd, names):
    given = [item.replace("ROOT", str(root)) for item in given]
    cwd = cwd.replace("ROOT", str(root)).replace("HERE", str(root.parent))
    assert [item.name for item in find(given, cwd, root)] == names


def test_what_lies_outside_is_refused(root, tmp_path):
    outside = tmp_path / "outside.py"
    outside.write_text("")
    (root / "way_out.py").symlink_to(outside)
    (root / "dir_out").symlink_to(tmp_path)
    (root / "set" / "c.py").symlink_to(outside)
    (root / "loop.py").symlink_to(root / "loop.py")
    (root / "empty").mkdir()
    for given, sentence in [
        ("none.py", "none.py: no such file, neither from / nor in the patches directory"),
        (str(outside), "outside.py is outside the patches directory .*; copy it there first"),
        ("../outside.py", "is outside"),
        ("/etc/passwd", "/etc/passwd is outside"),
        ("way_out.py", "way_out.py is a link that leads out of the patches directory"),
        ("dir_out/outside.py", "is a link that leads out"),
        ("set", "c.py is a link that leads out"),
        ("loop.py", "loop.py: "),
        ("empty", "empty: a directory without a patch"),
    ]:
        with pytest.raises(PatchError, match=sentence):
            find([given], "/", root)
    with pytest.raises(PatchError, match="no patch was named"):
        find([], "/", root)


def test_what_may_not_be_trusted_is_refused(root):
    def refusal(path: Path, most: int = 65_536) -> str:
        with pytest.raises(PatchError) as refused:
            read(path, root, most)
        return str(refused.value)

    fix = root / "fix.py"
    assert read(fix, root, 65_536).module == "media.codec"
    fix.chmod(0o646)
    assert f"fix.py is writable by others; say: chmod o-w {fix}" in refusal(fix)
    fix.chmod(0o644)
    (root / "set").chmod(0o757)
    assert f"{root / 'set'} is writable by others" in refusal(root / "set" / "a.py")
    (root / "set").chmod(0o755)
    large = root / "large.py"
    with large.open("wb") as file:
        file.truncate(50 << 20)
    assert "large.py has 52428800 bytes; a patch may have 65536" in refusal(large)
    latin = root / "latin.py"
    latin.write_bytes(b'# one\n# caf\xe9\nAMENDS = "media.codec@1"\n')
    assert "latin.py:2: not UTF-8 (byte 0xe9); save the file as UTF-8" in refusal(latin)
    os.mkfifo(root / "pipe.py", 0o644)
    assert "pipe.py is not a regular file" in refusal(root / "pipe.py")
    assert "gone.py: No such file" in refusal(root / "gone.py")
    if os.geteuid() == 0:
        os.chown(fix, 12345, 12345)
        assert "fix.py belongs to uid 12345" in refusal(fix)
        os.chown(root, 12345, 12345)
        assert read(fix, root, 65_536)
    assert stat.S_IMODE(fix.stat().st_mode) == 0o644


def test_files_as_other_editors_write_them_are_read(root):
    (root / "fix.py").write_bytes(b"\xef\xbb\xbf" + FIX.replace("\n", "\r\n").encode())
    assert read(root / "fix.py", root, 65_536).text == FIX


# ---- the law


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("async def f():\n    pass", "fix.py:4: live code never awaits"),
        ("def f():\n    async def g():\n        await h()", "never awaits"),
        ("def f():\n    global X", "no global variables"),
        ("def f():\n    x = 1\n    def g():\n        nonlocal x", "no global variables"),
        ("def f():\n    import struct", "fix.py:5: imports stand at the top"),
        ("import asyncio", "may not import asyncio: I/O, time, logging and randomness are commands"),
        ("import os.path as p", "may not import os.path"),
        ("from time import monotonic", "may not import time"),
        ("from concurrent.futures import Future", "may not import concurrent.futures"),
        ("import aiohttp", "may not import aiohttp: it has the standard library and streamd.live only"),
        ("import msgpack", "may not import msgpack"),
        ("from streamd.runtime.net import Link", "may not import streamd.runtime.net; of the kernel only"),
        ("from streamd.runtime import state", "may not import streamd.runtime"),
        ("import streamd.runtime.state", "write: from streamd.runtime import state"),
        ("import streamd.live.media.codec", "write: from streamd.live.media import codec"),
        ("from . import codec", "write the full name"),
        (
            "from streamd.live.handlers import room",
            "media.codec may not import room from streamd.live.handlers",
        ),
        ("from streamd.live.media.none import x", "there is no live module media.none"),
        ("CACHE = {}", "CACHE is a mutable value"),
        ("CACHE = dict()", "mutable value"),
        ("CACHE: list[int] = [1]", "mutable value"),
        ("CACHE = [x for x in ()]", "mutable value"),
        ("CACHE = (1, [])", "mutable value"),
        ("import collections\nCACHE = collections.defaultdict(int)", "mutable value"),
        ("CACHE = (x for x in ())", "mutable value"),
        ("class Odd:\n    seen = []", "seen is a mutable value"),
        ("def f(a, seen=[]):\n    pass", "a mutable default argument is hidden state"),
        ("def f(seen={}, /):\n    pass", "a mutable default argument is hidden state"),
        ("def f(*, seen={}):\n    pass", "a mutable default argument is hidden state"),
        ("F = lambda seen=[]: seen", "a mutable default argument is hidden state"),
        ("import functools\n\n@functools.cache\ndef f():\n    pass", "a cache is hidden state"),
        (
            "from functools import lru_cache\n\n@lru_cache(maxsize=1)\ndef f():\n    pass",
            "a cache is hidden state",
        ),
        ("def f():\n    open('/etc/passwd')", r"does not call open\(\)"),
        ("def f():\n    eval('1')", r"does not call eval\(\)"),
        ("def f():\n    return f.__globals__", "does not reach for __globals__"),
    ],
)
def test_the_law_for_live_code_is_kept_with_the_line_of_the_patch(tree, line, sentence):
    texts = {name: text for name, (_, text) in read_tree(tree).items()}
    patch = patch_of(f'AMENDS = "media.codec@1"\nVERSION = 2\n\n{line}\n')
    with pytest.raises(PatchError, match=sentence) as refused:
        merge([patch], texts, versions_of(texts))
    assert refused.value.stage == "check"


@pytest.mark.parametrize(
    "text",
    [
        "import struct\nfrom types import MappingProxyType\nT = MappingProxyType({1: [2]})\nS = struct.Struct('>I')\n",
        "from streamd.live.media import codec\nX = (1, (2, frozenset((3,))))\n",
        "def f(a=(), *, b=None):\n    seen = []\n    return [x for x in seen]\n",
    ],
)
def test_the_law_allows_what_is_needed(text):
    check_live_source("media.codec", text)
