"""Patches as text: what is found, read and trusted, how it merges, and every sentence that says no."""

from __future__ import annotations

import ast
import os
import stat
from pathlib import Path

import pytest

from streamd.runtime.patchfile import (
    PatchError,
    changes,
    contained,
    decode,
    explained,
    find,
    merge,
    parse,
    read,
    read_bytes,
    shadows,
    versions_of,
)
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
    assert merged.keys() == texts.keys()
    assert [name for name in texts if merged[name] != texts[name]] == ["media.codec"]


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
        "": "VERSION = 1\n",
        "media": "",
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


def test_the_bytes_that_were_signed_and_the_text_that_is_read(root):
    (root / "fix.py").write_bytes(b"\xef\xbb\xbf" + FIX.replace("\n", "\r\n").encode())
    raw = read_bytes(root / "fix.py", root, 65_536)
    assert raw.startswith(b"\xef\xbb\xbf")
    assert b"\r\n" in raw
    assert decode(root / "fix.py", raw) == FIX


def test_a_directory_that_becomes_a_link_between_the_look_and_the_reading_leads_nowhere(root, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "fix.py").write_text(FIX)
    (root / "later").symlink_to(elsewhere)
    with pytest.raises(PatchError, match="leads out of the patches directory"):
        read_bytes(root / "later" / "fix.py", root, 65_536)


# ---- modules that go, or live on under another name


TREE = {
    "": "VERSION = 1\n",
    "media": "",
    "handlers": "",
    "media.box": BASE.replace("VERSION = 1", "VERSION = 3"),
    "media.flv": '"""FLV."""\n\nVERSION = 1\nHEAD = 9\n',
    "handlers.room": (
        "from __future__ import annotations\n\n"
        "from streamd.live.media import box, flv\nfrom streamd.live.media.box import read\n\n"
        "VERSION = 1\n\n\ndef head(data):\n    return read(data), box.SIZE, flv.HEAD\n\n\n"
        "def other():\n    return 1\n"
    ),
}
ROOM_WITHOUT = 'AMENDS = "handlers.room@1"\nVERSION = 2\n\n\ndef head(data):\n    return data, flv.HEAD\n'
ROOM_WITH_CRATE = (
    'from streamd.live.media import crate\n\nAMENDS = "handlers.room@1"\nVERSION = 2\n\n\n'
    "def head(data):\n    return crate.read(data), crate.SIZE, flv.HEAD\n"
)
GONE = '"""Boxes are out of use."""\n\nREMOVES = "media.box@3"\n'
CRATE = BASE.replace("VERSION = 1", 'ADDS = "media.crate"\nRENAMES = "media.box@3"\nVERSION = 4')


def load(*texts: str, tree: dict[str, str] = TREE) -> dict[str, str]:
    patches = [patch_of(text, f"{number}.py") for number, text in enumerate(texts)]
    merged = merge(patches, tree, versions_of(tree))
    for text in merged.values():
        ast.parse(text)
    return merged


def test_a_module_goes_and_its_importers_lose_the_import_with_the_same_load():
    merged = load(GONE, ROOM_WITHOUT)
    assert merged.keys() == TREE.keys() - {"media.box"}
    assert "from streamd.live.media import flv\n" in merged["handlers.room"]
    assert "box" not in merged["handlers.room"]
    assert merged["media.flv"] == TREE["media.flv"]


def test_an_import_that_loses_a_name_keeps_its_comment_and_a_parameter_of_that_name_is_no_use():
    room = TREE["handlers.room"].replace(
        "from streamd.live.media import", "# what is heard\nfrom streamd.live.media import", 1
    )
    tree = {
        **TREE,
        "handlers.room": room.replace("def other():\n    return 1", "def other(box):\n    return box.size"),
    }
    assert (
        "# what is heard\nfrom streamd.live.media import flv\n"
        in load(GONE, ROOM_WITHOUT, tree=tree)["handlers.room"]
    )


def test_a_module_lives_on_under_another_name():
    merged = load(CRATE, ROOM_WITH_CRATE)
    assert merged.keys() == TREE.keys() - {"media.box"} | {"media.crate"}
    assert "VERSION = 4\n" in merged["media.crate"]
    assert "ADDS" not in merged["media.crate"]
    assert "RENAMES" not in merged["media.crate"]
    assert "import crate\n" in merged["handlers.room"]
    assert "box" not in merged["handlers.room"]


def test_what_a_load_changes_is_told_with_the_modules_that_go():
    versions = versions_of(TREE)
    patches = [patch_of(CRATE), patch_of(ROOM_WITH_CRATE)]
    assert changes(patches, versions) == {"media.crate": [0, 4], "handlers.room": [1, 2], "media.box": [3, 0]}
    assert changes([patch_of(GONE)], versions) == {"media.box": [3, 0]}
    assert (patch_of(GONE).version, patch_of(GONE).gone, patch_of(CRATE).gone) == (
        0,
        "media.box",
        "media.box",
    )
    assert (patch_of(CRATE).renames, patch_of(CRATE).renamed_base, patch_of(CRATE).base) == (
        "media.box",
        3,
        0,
    )


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        (
            (GONE,),
            "handlers.room:3: still imports media.box, which 0.py takes away; patch handlers.room in the same load\n"
            "    from streamd.live.media import box, flv\n    \\^",
        ),
        ((CRATE,), "still imports media.box, which 0.py takes away; patch handlers.room in the same load"),
        (
            (GONE, ROOM_WITHOUT.replace("return data,", "return box.read(data),")),
            r"handlers.room with 1.py:\d+: still uses box of media.box, which goes\n"
            r"    return box.read\(data\), flv.HEAD\n           \^",
        ),
        ((GONE, ROOM_WITHOUT.replace("return data,", "return read(data),")), "still uses read of media.box"),
        (
            (GONE, "from streamd.live.media import box\n" + ROOM_WITHOUT),
            "handlers.room with 1.py:.* still imports media.box, which 0.py takes away",
        ),
        (
            (GONE.replace("@3", "@2"),),
            "made for media.box@2, but media.box@3 is running; .*set REMOVES to @3",
        ),
        ((GONE.replace("box@3", "bax@3"),), "media.bax, which is no module of the running release"),
        ((GONE.replace("media.box@3", "media@1"),), "no module of the running release"),
        (
            (GONE + "\n\ndef f():\n    pass\n",),
            r"0.py:6: a file that removes media.box has nothing else in it",
        ),
        ((GONE + "VERSION = 4\n",), "0.py:4: what is removed has no VERSION"),
        ((CRATE.replace("@3", "@2").replace("= 4", "= 3"),), "made for media.box@2, .*set RENAMES to @3"),
        ((CRATE.replace("box@3", "bax@3"),), "media.bax, which is no module"),
        ((CRATE.replace("= 4", "= 3"),), r"write VERSION = 4 \(a whole number above 3"),
        ((CRATE.replace("media.crate", "media.box"),), "media.box cannot become itself; use REPLACES"),
        ((CRATE.replace("media.crate", "media.flv"),), "adds media.flv, which exists"),
        ((CRATE.replace("media.crate", "media.box.crate"),), "there is no package media.box"),
        ((CRATE, GONE), "0.py and 1.py both patch media.box"),
        ((ROOM_WITHOUT + 'RENAMES = "media.box@3"\n',), "RENAMES goes with ADDS, not with AMENDS"),
        ((CRATE.replace('"media.box@3"', '"media.box"'),), "RENAMES must be a text such as"),
    ],
)
def test_a_removal_or_a_new_name_that_does_not_fit_is_refused(texts, sentence):
    with pytest.raises(PatchError, match=sentence):
        load(*texts)


def test_a_module_with_modules_inside_stays():
    tree = {"": "VERSION = 1\n", "media": "", "media.box": "VERSION = 3\n", "media.box.lid": "VERSION = 1\n"}
    with pytest.raises(PatchError, match=r"takes media.box away, which has modules: media.box.lid"):
        load(GONE, tree=tree)


def test_a_difference_is_of_commands_that_there_are():
    text = amend("media.box", 3, "SIZE = 5\n").replace("VERSION", 'DIFFERS = "Send, Shout: louder"\nVERSION')
    with pytest.raises(PatchError, match="DIFFERS names Shout, which is none of Close, Count, End, Join"):
        patch_of(text)


def test_differences_that_are_meant_are_named_with_a_reason():
    text = amend("media.box", 3, "SIZE = 5\n").replace(
        "VERSION", 'DIFFERS = "SendAll: boxes are larger"\nVERSION'
    )
    assert patch_of(text).differs == "SendAll: boxes are larger"
    assert explained(patch_of(text).differs) == {"SendAll"}
    assert patch_of(FIX).differs == ""
    assert "DIFFERS" not in load(text)["media.box"]
    assert (
        "DIFFERS"
        not in load(CRATE.replace("VERSION", 'DIFFERS = "Log: x"\nVERSION'), ROOM_WITH_CRATE)["media.crate"]
    )
    for bad in ('""', "7", '"Send: a\\nb"', '"Send: ' + "x" * 501 + '"', "WORD", '"boxes are larger"'):
        with pytest.raises(PatchError, match=r"fix.py:4: DIFFERS must name the commands that differ"):
            patch_of(
                text.replace('"SendAll: boxes are larger"', bad).replace(
                    "from __future__ import annotations\n", "\n"
                )
            )


# ---- stacks


def stacked(*texts: str, tree: dict[str, str] = TREE):
    """The patches, one load each, and the tree with all of them."""
    patches = [patch_of(text, f"{number}.py") for number, text in enumerate(texts)]
    for patch in patches:
        tree = merge([patch], tree, versions_of(tree))
    return patches, tree


LARGER = 'AMENDS = "media.box@3"\nVERSION = 4\n\nSIZE = 5\n\n\ndef read(data):\n    return data[1:]\n'
LARGEST = 'AMENDS = "media.box@4"\nVERSION = 5\n\nSIZE = 6\n'
WHOLE = 'REPLACES = "media.box@5"\nVERSION = 6\nSIZE = 7\n\n\ndef read(data):\n    return data\n'


def test_a_patch_that_the_package_has_by_now_is_recognised():
    patches, tree = stacked(LARGER, LARGEST)
    versions = versions_of(tree)
    assert not any(contained(patch, TREE, versions_of(TREE)) for patch in patches)
    assert contained(patches[1], tree, versions)
    assert not contained(patches[0], tree, versions)
    assert contained(patches[0], tree, versions, [patches[1]])
    other = {**tree, "media.box": tree["media.box"].replace("SIZE = 6", "SIZE = 6  # octets\n")}
    assert contained(patches[1], other, versions)
    cured = {**tree, "media.box": tree["media.box"].replace("SIZE = 6", "SIZE = 8")}
    assert not contained(patches[1], cured, versions)
    assert not contained(patches[1], tree, {**versions, "media.box": 4})


def test_modules_that_came_went_or_were_renamed_are_recognised():
    patches = [patch_of(CRATE), patch_of(ROOM_WITH_CRATE)]
    tree = merge(patches, TREE, versions_of(TREE))
    assert all(contained(patch, tree, versions_of(tree)) for patch in patches)
    assert contained(patch_of(GONE), tree, versions_of(tree))
    assert not contained(patch_of(GONE), TREE, versions_of(TREE))
    both = {**tree, "media.box": TREE["media.box"]}
    assert not contained(patches[0], both, versions_of(both))
    before = patch_of(LARGER.replace("@3", "@2").replace("= 4", "= 3"))
    assert contained(before, tree, versions_of(tree), patches)
    patches, tree = stacked(LARGER, LARGEST, WHOLE)
    assert contained(patches[0], tree, versions_of(tree), patches[1:])
    more = {**tree, "media.box": tree["media.box"] + "\n\nMORE = 1\n"}
    assert not contained(patches[2], more, versions_of(more))


def test_what_a_patch_takes_from_an_earlier_one_is_told():
    patches, _ = stacked(LARGER, LARGEST, WHOLE)
    assert shadows(patches[0], []) == []
    assert shadows(patches[1], patches[:1]) == ["1.py replaces SIZE of media.box, which 0.py had put there"]
    assert shadows(patches[2], patches[:2]) == [
        "2.py replaces SIZE, read of media.box, which 0.py had put there",
        "2.py replaces SIZE of media.box, which 1.py had put there",
    ]
    assert shadows(patch_of(ROOM_WITHOUT), patches) == []
    after = 'AMENDS = "media.crate@4"\nVERSION = 5\n\nSIZE = 8\n\n\ndef more():\n    return 1\n'
    assert shadows(patch_of(after), [patch_of(LARGER, "0.py"), patch_of(CRATE, "1.py")]) == [
        "fix.py replaces SIZE of media.box, which 0.py had put there",
        "fix.py replaces SIZE of media.crate, which 1.py had put there",
    ]
