"""A release is a private import: whole, immutable, true to its source, and gone when nothing holds it."""

from __future__ import annotations

import gc
import inspect
import linecache
import sys
import traceback
import weakref
from pathlib import Path
from types import CodeType

import pytest

from streamd.runtime.release import Release, ReleaseError, digest, read_tree
from streamd.runtime.state import StateError
from streamd.runtime.vocabulary import Opened
from tests.fake_live import TREE, write_tree


def load(tree: Path, number: int = 1) -> Release:
    return Release(number, tree, None).load()


def change(tree: Path, name: str, old: str, new: str) -> Path:
    text = (tree / name).read_text()
    assert old in text
    (tree / name).write_text(text.replace(old, new))
    return tree


def test_the_modules_are_named_after_the_release_and_see_each_other(tree):
    release = load(tree, 7)
    try:
        assert set(release.modules) == {
            "", "handlers", "handlers.door", "handlers.room", "media", "media.codec", "protocol", "protocol.lines"
        }  # fmt: skip
        room = release.modules["handlers.room"]
        assert room.__name__ == "live@7.handlers.room"
        assert room.codec is release.modules["media.codec"]
        assert sys.modules["live@7.handlers.room"] is room
        assert release.modules[""].handlers is release.modules["handlers"]
        assert release.versions["media.codec"] == 1
        assert release.record("media.codec:Track") is room.codec.Track
        assert "streamd.live" not in {name for name in sys.modules if "fake" in name}
    finally:
        release.discard()


def test_two_releases_share_nothing(tree, tmp_path):
    other = change(write_tree(tmp_path / "other"), "media/codec.py", "codec 1", "codec 2")
    first, second = load(tree, 1), load(other, 2)
    try:
        codecs = [item.modules["handlers.room"].codec for item in (first, second)]
        assert [codec.both() for codec in codecs] == ["codec 1 tail 1", "codec 2 tail 1"]
        assert codecs[0].Track is not codecs[1].Track
        assert codecs[0].Track.__state_tag__ == codecs[1].Track.__state_tag__
        assert first.sha256 != second.sha256
    finally:
        first.discard()
        second.discard()


def test_source_and_tracebacks_are_those_of_the_directory(tree):
    release = load(tree, 3)
    try:
        codec = release.modules["media.codec"]
        assert inspect.getsource(codec.word) == 'def word() -> str:\n    return "codec 1"\n'
        assert inspect.getsource(codec.Track).startswith("@state\nclass Track:")
        room = release.begin("live/a", {}, 0)
        with pytest.raises(ZeroDivisionError) as caught:
            release.modules["handlers.room"].answer(room, 1, "crash", "")
        last = traceback.extract_tb(caught.value.__traceback__)[-1]
        assert last.filename == str(tree / "handlers/room.py")
        assert last.line == 'return [Send(link, b"never said\\n")] + [1 // 0]'
    finally:
        release.discard()
    assert str(tree / "media/codec.py") not in linecache.cache


def test_nothing_is_left_of_a_release_that_nobody_holds(tree):
    release = load(tree, 4)
    codec = release.modules["media.codec"]
    room = release.begin("live/a", {}, 0)
    assert release.step(release.begin("door/1", {}, 0), Opened(0, 1, "x", "y", b""))
    inspect.getsource(codec.word)
    left = [
        weakref.ref(item)
        for item in (release, codec, codec.word, codec.Track, type(room), room.track.__class__)
    ]
    release.discard()
    del release, codec, room
    gc.collect()
    assert [item() for item in left] == [None] * len(left)
    assert not [name for name in sys.modules if name.startswith("live@4")]


def test_a_type_built_by_typing_does_not_keep_a_release(tree):
    change(tree, "media/codec.py", "from streamd.runtime.state import state\n",
           "from typing import Optional, Union\n\nfrom streamd.runtime.state import field, state\n")  # fmt: skip
    change(tree, "media/codec.py", "# says which", "@state\nclass Two:\n    a: Optional[Track] = None\n    "
           "b: Union[Track, int] = 0\n\n\n# says which")  # fmt: skip
    release = load(tree, 5)
    left = weakref.ref(release.modules["media.codec"].Track)
    release.discard()
    del release
    gc.collect()
    assert left() is None, [type(item) for item in gc.get_referrers(left())]


def test_nothing_is_left_of_a_refused_import(tree):
    seen: list[weakref.ref[object]] = []
    (tree / "media/codec.py").write_text(TREE["media/codec.py"] + "\n\n1 // 0\n")
    release = Release(6, tree, None)
    with pytest.raises(ReleaseError, match=r"media/codec.py: line \d+: ZeroDivisionError"):
        release.load()
    seen.append(weakref.ref(release))
    del release
    gc.collect()
    assert seen[0]() is None
    assert not [name for name in sys.modules if name.startswith("live@6")]


@pytest.mark.parametrize(
    ("name", "old", "new", "sentence"),
    [
        ("media/codec.py", "VERSION = 1", "VERSION = (", r"media/codec.py:\d+: '\(' was never closed"),
        ("media/codec.py", "VERSION = 1", "VERSION = 1\nraise SystemExit(3)", r"line \d+: SystemExit: 3"),
        ("media/codec.py", "VERSION = 1", "VERSION = 1\nraise KeyboardInterrupt", "KeyboardInterrupt"),
        ("media/codec.py", "VERSION = 1", "VERSION = 1\nTABLE = [].copy()", "media.codec: TABLE is a mutable value"),
        ("media/codec.py", "VERSION = 1", "VERSION = 1\nTABLE = {}.copy()", "use a tuple or frozenset"),
        ("media/codec.py", "VERSION = 1", "VERSION = 1\nfrom collections import deque\nQ = deque()", "Q is a mutable"),
        ("media/codec.py", "frames: int = 0", "frames: set[int] = 0", r"media.codec: media.codec:Track.frames: set\[int\]"),
        ("media/codec.py", "frames: int = 0", "frames: Missing = 0", "an annotation is no type"),
        ("media/codec.py", "VERSION = 1", "from streamd.live.media import none", "ImportError: cannot import name 'none'"),
        ("media/codec.py", "VERSION = 1", "from streamd.live.none import x", "no module streamd.live.none"),
        ("media/codec.py", "VERSION = 1", "from streamd.runtime.net import Link", "may not import streamd.runtime.net"),
        ("media/codec.py", "VERSION = 1", "from . import x", r"may not import \."),
        ("media/codec.py", "VERSION = 1", "import streamd.live.media", "write `from streamd.live import"),
        ("__init__.py", "def describe", "def told", r"__init__.py must define describe\(\)"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_release_is_refused_with_file_and_reason(tree, name, old, new, sentence):
    change(tree, name, old, new)
    with pytest.raises(ReleaseError, match=sentence):
        load(tree, 8)
    assert not [item for item in sys.modules if item.startswith("live@8")]


def test_modules_that_need_each_other_are_imported(tree):
    change(tree, "media/codec.py", "VERSION = 1", "from streamd.live.media import other\n\nVERSION = 1")
    (tree / "media/other.py").write_text("from streamd.live.media import codec\n\nVERSION = 1\n")
    release = load(tree, 9)
    try:
        assert release.modules["media.other"].codec is release.modules["media.codec"]
    finally:
        release.discard()


def test_an_unknown_record_is_named(tree):
    release = load(tree, 10)
    try:
        for tag in ("media.codec:None", "media.none:Track", "media.codec:word", "nonsense"):
            with pytest.raises(StateError, match=f"release 10 has no state record {tag}"):
                release.record(tag)
    finally:
        release.discard()


def test_the_digest_depends_on_names_and_texts_not_on_the_place(tree, tmp_path):
    copy = write_tree(tmp_path / "elsewhere" / "copy")
    assert digest(read_tree(tree)) == digest(read_tree(copy))
    (copy / "media/codec.py").rename(copy / "media/codec2.py")
    assert digest(read_tree(tree)) != digest(read_tree(copy))


@pytest.mark.parametrize(
    ("raw", "sentence"), [(b"\xff\xfe", "codec.py is not UTF-8"), (None, "has no __init__.py")]
)
def test_a_directory_that_is_no_tree_is_refused(tree, raw, sentence):
    if raw is None:
        (tree / "__init__.py").unlink()
    else:
        (tree / "media/codec.py").write_bytes(raw)
    with pytest.raises(ReleaseError, match=sentence):
        Release(11, tree, None)


def test_a_text_that_a_former_release_has_is_not_compiled_again_and_is_its_own_all_the_same(
    tree, tmp_path, monkeypatch
):
    other = change(write_tree(tmp_path / "other"), "media/codec.py", "codec 1", "codec 2")
    first = load(tree, 1)
    compiled: list[str] = []

    def compiler(text: str, file: str, mode: str, dont_inherit: bool) -> CodeType:
        compiled.append(file)
        return compile(text, file, mode, dont_inherit=dont_inherit)

    monkeypatch.setattr("streamd.runtime.release.compile", compiler, raising=False)
    second = Release(2, other, None).load(first)
    third = Release(3, tree, None).load(second)
    try:
        changed = [str(other / "media/codec.py"), str(tree / "media/codec.py")]
        assert compiled == changed
        rooms = [item.modules["handlers.room"] for item in (first, second, third)]
        assert [room.codec.both() for room in rooms] == ["codec 1 tail 1", "codec 2 tail 1", "codec 1 tail 1"]
        assert second.step.__code__.co_filename == str(other / "__init__.py")
        assert rooms[1].Room is not rooms[0].Room
        assert second.step.__globals__ is vars(second.modules[""])
    finally:
        for release in (first, second, third):
            release.discard()


def test_packed_code_is_not_compiled_again_and_bears_the_name_of_the_release_it_runs_in(
    tree, tmp_path, monkeypatch
):
    first = load(tree, 1)
    packed = dict(first.codes())
    other = write_tree(tmp_path / "other")

    def compiler(*_: object, **__: object) -> CodeType:
        raise AssertionError("compiled")

    monkeypatch.setattr("streamd.runtime.release.compile", compiler, raising=False)
    second = Release(2, other, None).load(codes=packed)
    try:
        assert set(packed) == set(first.modules)
        word = second.modules["media.codec"].word
        assert word() == "codec 1"
        assert word.__code__.co_filename == str(other / "media/codec.py")
        assert word is not first.modules["media.codec"].word
        assert dict(second.codes()).keys() == packed.keys()
    finally:
        first.discard()
        second.discard()


@pytest.mark.parametrize("spoilt", [b"", b"\x00\x00\r\n\x00", b"nonsense"])
def test_code_that_another_interpreter_has_packed_is_passed_over(tree, spoilt):
    release = Release(3, tree, None).load(codes={"media.codec": spoilt, "no.such": spoilt})
    try:
        assert release.modules["media.codec"].word() == "codec 1"
    finally:
        release.discard()


def test_nothing_is_left_of_a_release_of_packed_code(tree):
    first = load(tree, 4)
    packed = dict(first.codes())
    first.discard()
    release = Release(5, tree, None).load(codes=packed)
    left = [weakref.ref(item) for item in (release, release.modules["media.codec"].word)]
    release.discard()
    del release, first
    gc.collect()
    assert [item() for item in left] == [None, None]
