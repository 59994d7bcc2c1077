"""What is on disk is whole or absent, and the history survives a crash in the middle of a line."""

from __future__ import annotations

import json

import pytest

from streamd.runtime.store import Record, Store

TEXTS = {"": ("__init__.py", "A = 1\n"), "media.codec": ("media/codec.py", "B = 'ä'\n")}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "state")


def test_a_tree_is_written_whole_and_replaced_whole(store):
    path = store.write_tree(7, TEXTS)
    assert path == store.root / "releases" / "0007"
    assert (path / "media/codec.py").read_text() == "B = 'ä'\n"
    store.write_tree(7, {"": TEXTS[""]})
    assert sorted(item.name for item in path.rglob("*")) == ["__init__.py"]
    assert [item.name for item in store.releases.iterdir()] == ["0007"]


def test_what_a_cut_off_load_left_is_removed_at_the_next_start(store):
    (store.releases / "0008.new" / "media").mkdir(parents=True)
    (store.releases / "0007.json.new").write_text("{")
    later = Store(store.root)
    later.lock()  # before it, the other process may still be at work
    assert list(later.releases.iterdir()) == []


def test_a_record_comes_back_as_it_was_written(store):
    record = Record(
        3, 2, "aa", "bb", {"media.codec": [1, 2]}, [{"name": "fix.py", "text": "x"}], {"uid": 1}, "now"
    )
    store.write_record(record)
    assert store.read_record(3) == record
    assert store.numbers() == [3]
    store.remove(3)
    assert store.numbers() == []


@pytest.mark.parametrize("text", [None, "", "{", "[]", "7", '{"number": 3}', '{"nonsense": 1}', "\xff"])
def test_a_record_that_cannot_be_read_is_a_lookup_that_fails(store, text):
    if text is not None:
        (store.releases / "0003.json").write_text(text, encoding="latin-1")
    with pytest.raises(LookupError, match=r"release 3: .*0003.json"):
        store.read_record(3)


@pytest.mark.parametrize(
    ("text", "kept"),
    [(None, None), ("", None), ("{}", None), ('{"release": "x"}', None), ("[]", None), ('{"release": 4}', 4)],
)
def test_the_kept_number_is_there_or_not(store, text, kept):
    if text is not None:
        (store.root / "kept.json").write_text(text)
    assert store.kept == kept
    store.keep(9)
    assert store.kept == 9


def test_a_number_is_never_used_twice(store):
    assert store.next_number() == 1
    store.write_tree(4, TEXTS)
    assert store.next_number() == 5
    store.note(verb="load", release=11)
    store.remove(4)
    (store.releases / "notes.json").write_text("{}")
    assert store.next_number() == 12
    assert store.numbers() == []


def test_history_is_told_oldest_first(store):
    assert store.history() == []
    for number in range(5):
        store.note(verb="load", release=number, text="ä \n \u2028")
    assert [item["release"] for item in store.history()] == [0, 1, 2, 3, 4]
    assert [item["release"] for item in store.history(2)] == [3, 4]
    assert store.history()[0]["text"] == "ä \n \u2028"
    assert store.history()[0]["at"].endswith("+00:00")


@pytest.mark.parametrize("torn", [b'{"at": "2026', b'{"at": "\xc3', b"\xff\xfe\0", b"[1]\n", b"7\n", b"\n\n"])
def test_a_torn_line_is_passed_over_and_takes_no_other_with_it(store, torn):
    store.note(verb="load", release=1)
    path = store.root / "history.jsonl"
    path.write_bytes(path.read_bytes() + torn)
    store.note(verb="rollback", release=2)
    assert [item["verb"] for item in store.history()] == ["load", "rollback"]
    assert store.next_number() == 3
    assert path.read_bytes().endswith(b"}\n")


def test_every_history_line_is_one_line(store):
    store.note(verb="load", text="a\nb")
    assert json.loads((store.root / "history.jsonl").read_text())["text"] == "a\nb"


def test_a_directory_serves_one_process_at_a_time(tmp_path):
    first = Store(tmp_path)
    first.lock()
    with pytest.raises(OSError, match=r"another streamd uses .*; stop it, or give this one another --state"):
        Store(tmp_path).lock()
