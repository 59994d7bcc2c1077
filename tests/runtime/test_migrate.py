"""Lowered state on its way between two releases: whose migration is called, on what, and what it may return."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

from streamd.runtime.migrate import MigrationError, Steps, apply, steps_down, steps_up
from streamd.runtime.release import Release
from streamd.runtime.state import StateError, lift, lower, same, state

BOX = "@state\nclass Box:\n    inner: Leaf | None = None\n    a: int = 0\n\n\n@state\nclass Leaf:\n    n: int = 0\n"
CHANGED = {"m": [1, 2]}


class Fake(Release):
    """A release made of the texts of a few modules, which see each other by name; a lone text is that of "m"."""

    def __init__(self, number: int, texts: str | dict[str, str]) -> None:
        self.number = number
        self.modules = {}
        for name, text in ({"m": texts} if isinstance(texts, str) else texts).items():
            module = types.ModuleType(f"live@{number}.{name}")
            sys.modules[module.__name__] = module
            vars(module).update(self.modules, state=state)
            exec("from __future__ import annotations\n" + text, vars(module))
            self.modules[name] = module


@pytest.fixture(autouse=True)
def _forget():
    yield
    for name in [name for name in sys.modules if name.startswith("live@")]:
        del sys.modules[name]


def one(fields: str) -> str:
    return "@state\nclass Box:\n" + "".join(f"    {line}\n" for line in fields.split("; ")) + "\n\n"


def up(old: str, new: str, value: Any) -> Any:
    return apply(value, steps_up(Fake(1, old), Fake(2, new), CHANGED))


def down(old: str, new: str, value: Any) -> Any:
    return apply(value, steps_down(Fake(2, new), Fake(1, old), CHANGED))


def box(**fields: Any) -> dict[str, Any]:
    return {"@": "m:Box", **fields}


def test_a_field_with_a_default_appears_and_goes_without_a_word():
    old, new = one("a: int = 0"), one("a: int = 0; b: int = 5")
    assert up(old, new, box(a=1)) == box(a=1)
    assert down(old, new, box(a=1, b=7)) == box(a=1)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("a: int = 0", "b: int = 0", r"m:Box loses a: write upgrade\(\) and downgrade\(\) for it"),
        ("a: int = 0", "a: int; b: int", "m:Box gains b without a default: give one, or write upgrade"),
    ],
)
def test_what_cannot_be_guessed_must_be_written(old, new, sentence):
    with pytest.raises(MigrationError, match=sentence):
        up(one(old), one(new), box(a=1))


def test_records_are_migrated_wherever_they_sit_innermost_first():
    new = BOX + (
        "def upgrade_Box(old):\n    return {**old, 'a': old['a'] + (old['inner'] or {'n': 0})['n']}\n\n"
        "def upgrade_Leaf(old):\n    return {'n': old['n'] * 10}\n"
    )
    leaf = {"@": "m:Leaf", "n": 2}
    value: dict[str, Any] = {
        "@": "x:Other",
        "all": [box(inner=leaf, a=1)],
        "by": {"k": (box(inner=None, a=5), leaf)},
    }
    assert up(BOX, new, value) == {
        "@": "x:Other",
        "all": [box(inner={"@": "m:Leaf", "n": 20}, a=21)],
        "by": {"k": (box(inner=None, a=5), {"@": "m:Leaf", "n": 20})},
    }
    assert value["all"][0]["inner"] == {"@": "m:Leaf", "n": 2}


def test_a_module_with_several_records_names_its_migrations():
    with pytest.raises(
        MigrationError, match="m has several records; name its migrations upgrade_Box, upgrade_Leaf"
    ):
        up(BOX, BOX + "def upgrade(old):\n    return old\n", box(inner=None, a=1))
    assert up(BOX, BOX + "def upgrade_Leaf(old):\n    return old\n", box(inner=None, a=1)) == box(
        inner=None, a=1
    )


def test_a_record_that_is_added_needs_no_migration_of_the_others():
    old = one("a: int = 0")
    new = old + "@state\nclass More:\n    n: int = 0\n"
    assert up(old, new, box(a=1)) == box(a=1)
    assert down(old, new, box(a=1)) == box(a=1)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("raise KeyError('config')", r"m.upgrade raised KeyError: 'config'"),
        ("return None", "m.upgrade returned NoneType, not a dict of fields"),
        (
            "return {'a': {1, 2}}",
            r"m.upgrade returned state that is not plain: m:Box.a: set is not plain data",
        ),
        ("return {'a': [lambda: 0]}", r"not plain: m:Box.a\[0\]: function is not plain data"),
        ("loop = {}; loop['a'] = loop; return loop", "returned state that is not plain: .*recursion"),
        ("return [1]", "returned list, not a dict"),
        ("return Box()", "returned Box, not a dict"),
    ],
)
def test_what_a_migration_must_not_do_is_said_with_its_name(body, sentence):
    old = one("a: int = 0")
    with pytest.raises(MigrationError, match=sentence):
        up(old, old + f"def upgrade(old):\n    {body}\n", box(a=1))


def test_a_migration_sees_fields_without_the_tag():
    old = one("a: int = 0")
    new = old + "def upgrade(old):\n    assert '@' not in old\n    return {'a': len(old)}\n"
    assert up(old, new, box(a=7)) == box(a=1)


def test_a_migration_works_on_copies():
    old = one("a: list[int] = None; b: dict[str, list[int]] = None")
    new = old + "def upgrade(old):\n    old['a'].append(9)\n    old['b']['k'].clear()\n    return old\n"
    value = box(a=[1], b={"k": [2]})
    assert up(old, new, value) == box(a=[1, 9], b={"k": []})
    assert value == box(a=[1], b={"k": [2]})


def test_the_way_back_is_the_new_release_s_own():
    old = one("a: int = 0") + "def downgrade(new):\n    raise AssertionError('the old one knows nothing')\n"
    new = (
        one("b: int = 0")
        + "def upgrade(old):\n    return {'b': old['a']}\n\ndef downgrade(new):\n    return {'a': new['b']}\n"
    )
    assert down(old, new, box(b=3)) == box(a=3)
    assert up(old, new, box(a=3)) == box(b=3)


def test_other_modules_are_left_alone_and_no_steps_mean_no_copy():
    value = {"@": "x:Other", "a": [1]}
    assert up(one("a: int = 0"), one("a: int = 0; b: int = 0"), value) == value
    assert apply(value, Steps()) is value
    assert not Steps()


# ---- records that become others


def round_trip(old: Any, new: Any, value: Any, modules: Any = CHANGED, renames: Any = None) -> Any:
    """`value` in the new release; it is lifted there, and comes back as it was."""
    source, target = Fake(1, old), Fake(2, new)
    changed = apply(value, steps_up(source, target, modules, renames))
    returned = apply(lower(lift(changed, target.record)), steps_down(target, source, modules, renames))
    lift(returned, source.record)
    assert same(returned, value)
    return changed


def test_a_record_that_got_another_name_says_so():
    old = one("a: int = 0") + "@state\nclass Shelf:\n    boxes: list[Box] = None\n"
    new = old.replace("Box", "Crate") + (
        "def upgrade_Box(old):\n    return {**old, '@': 'm:Crate'}\n\n"
        "def downgrade_Crate(new):\n    return {**new, '@': 'm:Box'}\n"
    )
    shelf = {"@": "m:Shelf", "boxes": [box(a=1), box(a=2)]}
    assert round_trip(old, new, shelf) == {
        "@": "m:Shelf",
        "boxes": [{"@": "m:Crate", "a": 1}, {"@": "m:Crate", "a": 2}],
    }


def test_one_record_becomes_two_and_two_become_one():
    old = one("sps: bytes = b''; volume: int = 0")
    new = (
        "@state\nclass Sound:\n    volume: int\n\n\n@state\nclass Tracks:\n    sps: bytes\n    sound: Sound\n\n\n"
        "def upgrade(old):\n"
        "    return {'@': 'm:Tracks', 'sps': old['sps'], 'sound': {'@': 'm:Sound', 'volume': old['volume']}}\n\n"
        "def downgrade_Tracks(new):\n    return {'@': 'm:Box', 'sps': new['sps'], 'volume': new['sound']['volume']}\n"
    )
    before = box(sps=b"x", volume=7)
    after = {"@": "m:Tracks", "sps": b"x", "sound": {"@": "m:Sound", "volume": 7}}
    assert round_trip(old, new, before) == after
    merging = new.replace("def upgrade(", "def downgrade_Box(").replace(
        "def downgrade_Tracks", "def upgrade_Tracks"
    )
    both = new.partition("def upgrade")[0], old + merging[merging.index("def downgrade_Box") :]
    assert round_trip(*both, after) == before


@pytest.mark.parametrize(
    ("returned", "sentence"),
    [
        (
            "{'a': 1}",
            'm.upgrade_Box: release 2 has no state record m:Box; return "@" to say what it becomes',
        ),
        ("{'a': 1, '@': 'm:Nothing'}", "m.upgrade_Box: release 2 has no state record m:Nothing"),
        ("{'a': 1, '@': 7}", 'm.upgrade_Box returned "@": 7, which is no name of a record'),
        ("{'a': 1, '@': []}", "which is no name of a record"),
    ],
)
def test_what_a_record_becomes_must_be_a_record(returned, sentence):
    with pytest.raises(MigrationError, match=sentence):
        up(
            one("a: int = 0"),
            one("a: int = 0").replace("Box", "Crate") + f"def upgrade_Box(old):\n    return {returned}\n",
            box(a=1),
        )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "def upgrade_Bix(old): ...\n",
            "m.upgrade_Bix is for no record of the release before, which has Box",
        ),
        ("def downgrade_Bix(new): ...\n", "m.downgrade_Bix is for no record of this release, which has Box"),
    ],
)
def test_a_migration_for_a_record_that_there_is_not_is_refused_and_not_forgotten(text, sentence):
    old = one("a: int = 0")
    with pytest.raises(MigrationError, match=sentence):
        (up if "upgrade" in text.partition("(")[0][:12] and "down" not in text else down)(
            old, old + text, box(a=1)
        )


def test_a_migration_of_a_module_that_had_no_record_is_refused():
    with pytest.raises(
        MigrationError, match=r"m.upgrade is for no record: there is none in the release before"
    ):
        up("", one("a: int = 0") + "def upgrade(old): ...\n", box(a=1))


def test_a_record_that_is_gone_is_found_where_it_still_sits():
    old = BOX
    new = one("a: int = 0") + (
        "def upgrade_Box(old):\n    leaf = old['inner']\n    return {'a': leaf['n'] if leaf else -1}\n\n"
        "def downgrade_Box(new):\n"
        "    return {'inner': {'@': 'm:Leaf', 'n': new['a']} if new['a'] >= 0 else None, 'a': 0}\n"
    )
    assert round_trip(old, new, box(inner={"@": "m:Leaf", "n": 3}, a=0)) == box(a=3)
    assert round_trip(old, new, box(inner=None, a=0)) == box(a=-1)
    changed = up(old, one("a: int = 0; inner: int = 0"), {"@": "m:Leaf", "n": 3})
    with pytest.raises(StateError, match="release 2 has no state record m:Leaf"):
        lift(changed, Fake(2, one("a: int = 0")).record)


def test_a_failing_migration_shows_its_line(tmp_path):
    file = tmp_path / "m.py"
    file.write_text("def upgrade(old):\n    return {'a': old['b']}\n")
    fake = Fake(2, one("a: int = 0"))
    exec(compile(file.read_text(), str(file), "exec"), vars(fake.modules["m"]))
    with pytest.raises(MigrationError) as failed:
        apply(box(a=1), steps_up(Fake(1, one("a: int = 0")), fake, CHANGED))
    assert str(failed.value) == "m.upgrade raised KeyError: 'b' (line 2: return {'a': old['b']})"


# ---- modules under another name, and state that moves from one to the other

ROOM = "@state\nclass Room:\n    box: old.Box = None\n    all: list[old.Box] = None\n"
RENAMED = {"old": "fresh"}
MOVES: dict[str, list[int]] = {"old": [1, 0], "fresh": [0, 2], "room": [1, 2]}


def room(tag: str, *fields: dict[str, Any]) -> dict[str, Any]:
    first, *rest = ({"@": tag, **item} for item in fields)
    return {"@": "room:Room", "box": first, "all": rest}


@pytest.mark.parametrize(
    ("fields", "migrations", "after"),
    [
        ("a: int = 0", "", {"a": 1}),
        ("a: int = 0; b: int = 5", "", {"a": 1}),
        (
            "n: int = 0",
            "def upgrade(old):\n    return {'n': old['a']}\n\ndef downgrade(new):\n    return {'a': new['n']}\n",
            {"n": 1},
        ),
    ],
)
@pytest.mark.parametrize(
    "modules", [MOVES, {"fresh": [0, 2], "room": [1, 2]}], ids=["both named", "new named"]
)
def test_the_records_of_a_renamed_module_follow_it(fields, migrations, after, modules):
    old = {"old": one("a: int = 0"), "room": ROOM}
    new = {"fresh": one(fields) + migrations, "room": ROOM.replace("old.", "fresh.")}
    before = room("old:Box", {"a": 1}, {"a": 1})
    assert round_trip(old, new, before, modules, RENAMED) == room("fresh:Box", after, after)


def test_a_renamed_module_s_record_that_loses_a_field_needs_a_word_too():
    old, new = {"old": one("a: int = 0")}, {"fresh": one("b: int = 0")}
    with pytest.raises(MigrationError, match="fresh:Box loses a"):
        steps_up(Fake(1, old), Fake(2, new), MOVES, RENAMED)


PAIR = "@state\nclass Pair:\n    left: left.Left = None\n    right: right.Right = None\n"
OLD_PAIR = {
    "left": "@state\nclass Left:\n    total: int = 0\n    own: int = 0\n",
    "right": "@state\nclass Right:\n    own: int = 0\n",
    "pair": PAIR,
}
NEW_PAIR = {
    "left": "@state\nclass Left:\n    own: int = 0\n",
    "right": "@state\nclass Right:\n    own: int = 0\n    total: int = 0\n"
    "\n\ndef upgrade_session(state):\n"
    "    if state['@'] != 'pair:Pair':\n        return state\n"
    "    state['right']['total'] = state['left'].pop('total')\n    return state\n"
    "\n\ndef downgrade_session(state):\n"
    "    if state['@'] != 'pair:Pair':\n        return state\n"
    "    state['left']['total'] = state['right'].pop('total')\n    return state\n",
    "pair": PAIR,
}
BOTH = {"left": [1, 2], "right": [1, 2]}


def pair(left: dict[str, Any], right: dict[str, Any]) -> dict[str, Any]:
    return {"@": "pair:Pair", "left": {"@": "left:Left", **left}, "right": {"@": "right:Right", **right}}


def test_state_moves_from_one_module_s_record_to_another_s():
    before = pair({"total": 9, "own": 1}, {"own": 2})
    assert round_trip(OLD_PAIR, NEW_PAIR, before, BOTH) == pair({"own": 1}, {"own": 2, "total": 9})
    other = {"@": "right:Right", "own": 2}
    assert apply(other, steps_up(Fake(1, OLD_PAIR), Fake(2, NEW_PAIR), BOTH)) == other


def test_the_whole_state_comes_first_up_and_last_down():
    old = {"left": OLD_PAIR["left"], "right": OLD_PAIR["right"].replace("own", "name"), "pair": PAIR}
    new = {
        **NEW_PAIR,
        "right": NEW_PAIR["right"]
        + "\n\ndef upgrade(old):\n    return {'own': old['name'], 'total': old['total']}\n"
        + "\n\ndef downgrade(new):\n    return {'name': new['own'], 'total': new['total']}\n",
    }
    before = pair({"total": 9, "own": 1}, {"name": 2})
    assert round_trip(old, new, before, BOTH) == pair({"own": 1}, {"own": 2, "total": 9})


def test_several_whole_migrations_go_by_their_modules_names_and_back_against_them():
    note = "def {verb}_session(state):\n    state['seen'].append('{verb} {name}')\n    return state\n"
    texts = {
        name: "".join(note.format(verb=verb, name=name) for verb in ("upgrade", "downgrade"))
        for name in ("b", "a")
    }
    old, new = Fake(1, {"a": "", "b": ""}), Fake(2, texts)
    modules = {"b": [1, 2], "a": [1, 2]}
    changed = apply({"@": "a:A", "seen": []}, steps_up(old, new, modules))
    assert changed["seen"] == ["upgrade a", "upgrade b"]
    assert apply(changed, steps_down(new, old, modules))["seen"][2:] == ["downgrade b", "downgrade a"]


def test_a_removed_module_s_records_are_taken_up_by_the_whole_state():
    old = {"old": one("a: int = 0"), "room": ROOM}
    new = {
        "room": "@state\nclass Room:\n    a: int = 0\n    all: list[int] = None\n\n\n"
        "def upgrade_session(state):\n"
        "    return {'@': state['@'], 'a': state['box']['a'], 'all': [item['a'] for item in state['all']]}\n\n\n"
        "def downgrade_session(state):\n"
        "    boxes = [{'@': 'old:Box', 'a': item} for item in (state['a'], *state['all'])]\n"
        "    return {'@': state['@'], 'box': boxes[0], 'all': boxes[1:]}\n"
    }
    before = room("old:Box", {"a": 1}, {"a": 2})
    assert round_trip(old, new, before, {"old": [1, 0], "room": [1, 2]}) == {
        "@": "room:Room",
        "a": 1,
        "all": [2],
    }


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("raise KeyError('left')", "m.upgrade_session raised KeyError: 'left'"),
        ("return None", "m.upgrade_session returned NoneType, not a dict"),
        ("return {}", 'm.upgrade_session returned a state without its "@", which says what record it is'),
        (
            "return {**state, 'a': {1}}",
            "m.upgrade_session returned state that is not plain: state.a: set is not",
        ),
    ],
)
def test_what_a_whole_migration_must_not_do_is_said_with_its_name(body, sentence):
    old = one("a: int = 0")
    with pytest.raises(MigrationError, match=sentence):
        up(old, old + f"def upgrade_session(state):\n    {body}\n", box(a=1))


def test_a_whole_migration_works_on_a_copy():
    old = one("a: list[int] = None")
    new = old + "def upgrade_session(state):\n    state['a'].append(9)\n    return state\n"
    value = box(a=[1])
    assert up(old, new, value) == box(a=[1, 9])
    assert value == box(a=[1])
