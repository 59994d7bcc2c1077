"""State is plain and typed: what goes down comes up the same, and what is neither is refused by path."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from typing import Any, Literal

import pytest

from streamd.runtime.state import (
    StateError,
    check_plain,
    field,
    is_record,
    lift,
    lower,
    prepare,
    same,
    state,
    tag_of,
    walk_records,
)


@state
class Leaf:
    name: str = ""
    sizes: list[int] = field(factory=list)


@state
class Tree:
    count: int = 0
    share: float = 0.0
    on: bool = False
    raw: bytes = b""
    buffer: bytearray = field(factory=bytearray)
    leaf: Leaf | None = None
    leaves: dict[str, Leaf] = field(factory=dict)
    pair: tuple[int, str] = (0, "")
    many: tuple[int, ...] = ()
    phase: Literal["new", "live"] = "new"
    mixed: list[int] | list[str] | str = ""
    row: tuple[int, int] | list[int] | None = None


def tag(cls: type) -> str:
    return str(vars(cls)["__state_tag__"])


CLASSES = {tag(cls): cls for cls in (Leaf, Tree)}


def records(tag: str) -> type:
    return CLASSES[tag]


def there_and_back(value: Any) -> Any:
    return lift(lower(value), records)


FULL = Tree(
    7,
    0.5,
    True,
    b"\x00",
    bytearray(b"ab"),
    Leaf("x", [1, 2]),
    {"y": Leaf("y")},
    (1, "a"),
    (1, 2, 3),
    "live",
    ["a"],
    [1, 2, 3],
)


@pytest.mark.parametrize("value", [Tree(), FULL, Tree(mixed=[1]), Tree(mixed="a"), Tree(row=(1, 2))])
def test_a_record_comes_back_equal_and_of_the_same_types(value):
    back = there_and_back(value)
    assert back == value
    assert same(lower(back), lower(value))
    assert type(back.buffer) is bytearray
    assert type(back.row) is type(value.row)


def test_a_lowered_record_is_a_snapshot_that_shares_only_what_cannot_change():
    tree = Tree(raw=b"x" * 1000, buffer=bytearray(b"ab"), leaf=Leaf(sizes=[1]))
    lowered = lower(tree)
    tree.buffer += b"c"
    tree.leaf.sizes.append(2)  # type: ignore[union-attr]
    assert lowered["buffer"] == b"ab"
    assert lowered["leaf"]["sizes"] == [1]
    assert lowered["raw"] is tree.raw
    lifted = lift(lowered, records)
    lowered["leaf"]["sizes"].append(9)
    assert lifted.leaf.sizes == [1]


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (lambda: 0, "function is not plain data"),
        ({1, 2}, "set is not plain data"),
        (object(), "object is not plain data"),
        ([[[lambda: 0]]], "function is not plain data"),
        ({1.5: 0}, "cannot be a key"),
        ({"@": 0}, "cannot be a key"),
        ({True: 0}, "cannot be a key"),
        (types.SimpleNamespace(), "SimpleNamespace is not plain data"),
    ],
)
def test_what_is_not_plain_is_refused_on_the_way_down(value, sentence):
    with pytest.raises(StateError, match=sentence):
        lower(Tree(leaves=value))


def test_state_that_holds_itself_is_refused():
    leaf = Leaf()
    leaf.sizes.append(leaf.sizes)  # type: ignore[arg-type]
    with pytest.raises(StateError, match="recursion"):
        lower(leaf)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"a": [1, {"b": {2}}]}, r"state.a\[1\].b: set is not plain data"),
        ({"a": {1.5: 0}}, r"state.a: a key is float"),
        ({"a": (1, len)}, r"state.a\[1\]: builtin_function_or_method"),
    ],
)
def test_what_a_migration_returns_is_checked_by_path(value, sentence):
    with pytest.raises(StateError, match=sentence):
        check_plain(value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"count": True}, r"Tree.count: expected int, not bool True"),
        ({"count": 1.0}, r"Tree.count: expected int, not float 1.0"),
        ({"share": 1}, r"Tree.share: expected float, not int 1"),
        ({"on": 1}, r"Tree.on: expected bool"),
        ({"raw": "a"}, r"Tree.raw: expected bytes, not str 'a'"),
        ({"buffer": "a"}, r"Tree.buffer: expected bytes for a bytearray"),
        ({"leaf": {"@": "Tree"}}, r"Tree.leaf: .* may not hold a Tree record"),
        ({"leaf": 1}, r"Tree.leaf: .* may not hold int 1"),
        ({"leaf": "LEAF", "x": 0}, r"may not hold"),
        ({"leaves": []}, r"Tree.leaves: expected a dict"),
        ({"leaves": {1: "LEAF"}}, r"Tree.leaves: expected keys of str, not int 1"),
        ({"leaves": {"a": None}}, r"Tree.leaves: expected a .*Leaf record, not NoneType None"),
        ({"pair": (1,)}, r"Tree.pair: expected a tuple of 2, not of 1"),
        ({"pair": ("a", 1)}, r"Tree.pair: expected int"),
        ({"many": (1, "a")}, r"Tree.many: expected int"),
        ({"phase": "dead"}, r"Tree.phase: expected one of 'new', 'live', not str 'dead'"),
        ({"mixed": [1, "a"]}, r"Tree.mixed: expected str, not int 1"),
        ({"mixed": 5}, r"Tree.mixed.* may not hold int 5"),
        ({"more": 1}, r"Tree has no field 'more'; upgrade must drop or rename it"),
    ],
)
def test_a_wrong_type_is_refused_on_the_way_up_by_path(changes, sentence):
    lowered = {**lower(Tree()), **changes}
    with pytest.raises(StateError, match=sentence):
        lift(lowered, records)


@pytest.mark.parametrize("value", [None, 7, [], {}, {"@": 7}, "text"])
def test_a_session_s_state_is_a_record(value):
    with pytest.raises(StateError, match="expected a lowered record"):
        lift(value, records)


def test_a_field_without_a_default_must_be_there_and_one_with_a_default_need_not():
    @state
    class Bare:
        a: int
        b: int = 2

    def only(_tag: str) -> type:
        return Bare

    name = tag(Bare)
    assert lift({"@": name, "a": 1}, only) == Bare(1, 2)
    with pytest.raises(StateError, match="Bare needs a; give it a default"):
        lift({"@": name, "b": 1}, only)


def test_a_record_that_cannot_be_made_is_a_sentence():
    def fussy() -> int:
        raise ValueError("not that one")

    @state
    class Fussy:
        a: int = field(fussy)

    with pytest.raises(StateError, match="Fussy cannot be made: ValueError: not that one"):
        lift({"@": tag(Fussy)}, lambda _tag: Fussy)


class Base:
    pass


@pytest.mark.parametrize(
    ("base", "body"),
    [
        ("Base", "a: int = 0"),
        ("object, metaclass=Meta", "a: int = 0"),
        ("", "a: int = 0\n    def __post_init__(self): pass"),
        ("", "a: int = 0\n    def __init__(self, a): pass"),
        ("", "a: int = 0\n    def __eq__(self, other): return True"),
        ("", "a: int = 0\n    __repr__ = lambda self: ''"),
        ("", "a: int = 0\n    def method(self): pass"),
        ("", "a: int = 0\n    b = property(len)"),
        ("", "a: int = 0\n    MANY = 3"),
    ],
)
def test_a_record_has_fields_and_nothing_else(base, body):
    module = types.ModuleType("odd_state")
    vars(module).update(state=state, Base=Base, Meta=type("Meta", (type,), {}), __file__="odd.py")
    sys.modules["odd_state"] = module
    try:
        exec(compile(f"@state\nclass Odd({base}):\n    {body}\n", "odd.py", "exec"), vars(module))
        with pytest.raises(StateError, match="Odd: a record"):
            prepare(vars(module)["Odd"])
    finally:
        del sys.modules["odd_state"]


def test_a_class_that_descends_from_a_record_is_none():
    class Grown(Leaf):
        pass

    assert not is_record(Grown("x"))
    with pytest.raises(StateError, match="Grown is not plain data"):
        lower(Grown("x"))


@pytest.mark.parametrize(
    "annotation",
    ["set[int]", "Any", "list", "dict[float, int]", "object", "list[Missing]", "types.Missing", "'int' | 1"],
)
def test_a_type_that_state_may_not_have_is_found_when_the_class_is_prepared(annotation):
    module = types.ModuleType("odd_state")
    vars(module).update(state=state, types=types)
    sys.modules["odd_state"] = module
    try:
        exec(
            "from __future__ import annotations\nfrom typing import Any\n"
            f"@state\nclass Odd:\n    a: {annotation}\n",
            vars(module),
        )
        with pytest.raises(StateError, match="Odd"):
            prepare(module.Odd)
    finally:
        del sys.modules["odd_state"]


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("streamd.live", ":X"),
        ("streamd.live.media.h264", "media.h264:X"),
        ("live@7", ":X"),
        ("live@7.media.h264", "media.h264:X"),
        ("elsewhere", "elsewhere:X"),
    ],
)
def test_a_tag_is_the_same_in_every_release(module, expected):
    assert tag_of(module, "X") == expected


def test_records_are_walked_innermost_first_and_the_original_is_left_alone():
    lowered = lower(FULL)
    order: list[str] = []

    def change(record: dict[str, Any]) -> dict[str, Any]:
        order.append(record["@"].rpartition(":")[2])
        return {**record, "seen": len(order)}

    walked = walk_records(lowered, change)
    assert order == ["Leaf", "Leaf", "Tree"]
    assert (walked["seen"], walked["leaf"]["seen"], walked["leaves"]["y"]["seen"]) == (3, 1, 2)
    assert same(lowered, lower(FULL))


def pairs() -> Iterator[tuple[Any, Any, bool]]:
    nan = float("nan")
    yield 1, 1, True
    yield 1, True, False
    yield 1, 1.0, False
    yield nan, nan, True
    yield [1, 2], (1, 2), True
    yield [1, 2], (1, 2, 3), False
    yield b"a", bytearray(b"a"), True
    yield "a", b"a", False
    yield {"a": [1]}, {"a": [1]}, True
    yield {"a": [1]}, {"a": [True]}, False
    yield {"a": 1}, {"a": 1, "b": 1}, False
    yield None, 0, False


@pytest.mark.parametrize(("left", "right", "equal"), list(pairs()))
def test_sameness_tells_types_apart_but_not_a_list_from_a_tuple(left, right, equal):
    assert same(left, right) is equal
    assert same(right, left) is equal


def test_only_records_are_records():
    assert is_record(Tree())
    assert not is_record(7)
