"""Lowered state on its way between two releases: whose migration is called, on what, and what it may return."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

from streamd.runtime.migrate import MigrationError, apply, steps_down, steps_up
from streamd.runtime.release import Release
from streamd.runtime.state import state

BOX = "@state\nclass Box:\n    inner: Leaf | None = None\n    a: int = 0\n\n\n@state\nclass Leaf:\n    n: int = 0\n"
CHANGED = {"m": [1, 2]}


class Fake(Release):
    """A release made of one module's text."""

    def __init__(self, number: int, text: str) -> None:
        self.number = number
        module = types.ModuleType(f"live@{number}.m")
        sys.modules[module.__name__] = module
        vars(module)["state"] = state
        exec("from __future__ import annotations\n" + text, vars(module))
        self.modules = {"m": module}


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


def test_a_migration_sees_fields_without_the_tag_and_cannot_change_it():
    old = one("a: int = 0")
    new = old + "def upgrade(old):\n    assert '@' not in old\n    return {'a': len(old), '@': 'm:Other'}\n"
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
    assert apply(value, {}) is value
