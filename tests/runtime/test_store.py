"""What is on disk is whole or absent, and nobody else decides what is there."""

from __future__ import annotations

import os

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
    store.write_tree(6, TEXTS)
    store.write_record(Record(6, None, "aa", "bb"))
    (store.releases / "0008.new" / "media").mkdir(parents=True)
    (store.releases / "0007.json.new").write_text("{")
    (store.root / "kept.json.new").write_text("{")
    store.write_tree(7, TEXTS)  # written whole, but nothing says what it is
    later = Store(store.root)
    later.lock()  # before it, the other process may still be at work
    assert sorted(item.name for item in later.releases.iterdir()) == ["0006", "0006.json"]
    assert not (store.root / "kept.json.new").exists()


def test_what_is_removed_at_a_start_is_never_something_elsewhere(store, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("mine")
    (store.releases / "0009.new").symlink_to(precious)
    (store.releases / "0009").symlink_to(precious)
    (store.root / "kept.json.new").symlink_to(precious / "file")
    store.keep(3)
    store.lock()
    assert (precious / "file").read_text() == "mine"
    assert list(store.releases.iterdir()) == []


def test_nothing_is_written_through_a_link(store, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (store.root / "kept.json.new").symlink_to(precious)
    (store.root / "kept.json").symlink_to(precious)
    store.keep(3)
    assert store.kept == 3
    (store.root / "lock").symlink_to(precious)
    with pytest.raises(OSError):
        store.lock()
    assert precious.read_text() == "mine"


def test_a_directory_that_others_may_write_into_is_refused_in_a_sentence(store):
    for place in (store.root, store.releases):
        mode = place.stat().st_mode
        place.chmod(mode | 0o002)
        with pytest.raises(OSError, match=rf"{place} is writable by others; say: chmod o-w {place}"):
            store.lock()
        place.chmod(mode)
    store.lock()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory to somebody else")
def test_a_directory_of_somebody_else_is_refused_in_a_sentence(store):
    os.chown(store.releases, 65534, -1)
    with pytest.raises(
        OSError, match="belongs to uid 65534, who could change what this server runs; say: chown 0"
    ):
        store.lock()


def test_a_record_comes_back_as_it_was_written(store):
    record = Record(
        3, 2, "aa", "bb", {"media.codec": [1, 2]}, [{"name": "fix.py", "text": "x"}], {"uid": 1}, "now"
    )
    store.write_record(record)
    assert store.read_record(3) == record
    assert store.numbers() == [3]
    store.remove(3)
    assert store.numbers() == []


def test_a_record_of_another_version_has_what_is_known_here_and_defaults_for_the_rest(store):
    (store.releases / "0003.json").write_text(
        '{"number": 3, "parent": null, "shipped": "aa", "sha256": "bb", "tomorrow": [1], "differs": "louder"}'
    )
    record = store.read_record(3)
    assert record == Record(3, None, "aa", "bb", differs="louder")
    assert (record.renames, record.irreversible, record.signers) == ({}, "", [])


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


def test_the_history_is_chained_and_can_be_verified(store):
    assert store.history() == []
    for number in range(5):
        store.note(verb="load", release=number)
    assert [item["release"] for item in store.history()] == [0, 1, 2, 3, 4]
    assert [item["release"] for item in store.history(2)] == [3, 4]
    assert store.history()[0]["at"].endswith("+00:00")
    assert (store.verify().entries, store.verify().problems) == (5, [])
    assert store.verify(known="ab").problems


def test_a_directory_serves_one_process_at_a_time(tmp_path):
    first = Store(tmp_path)
    first.lock()
    with pytest.raises(OSError, match=r"another streamd uses .*; stop it, or give this one another --state"):
        Store(tmp_path).lock()
