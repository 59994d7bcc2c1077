"""Plain, typed state: what a session is between two events, and the way into and out of a release.

The rule this file keeps: state holds data only (None, bool, int, float, str, bytes, bytearray, list, dict,
tuple and other `@state` records) and every field holds what its annotation says. `lower` turns a record into
tagged plain dicts that msgpack can pack and a migration can edit; `lift` builds records of one release from
them and refuses, by path, whatever is not plain or not of the declared type.

A lowered record is `{"@": "media.h264:Track", "config": b"...", ...}`. Immutable payloads (bytes, str) are
shared, never copied; containers and bytearrays are always copied, so a lowered value is a snapshot.

Lowering and lifting are compiled once per class from its annotations into closures: a move converts thousands
of records in slices of a millisecond, and walking annotations each time would cost ten times as much.
"""

from __future__ import annotations

import dataclasses
import inspect
import operator
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar, Union, dataclass_transform, get_args, get_origin, get_type_hints

from streamd.runtime import telling

T = TypeVar("T")
Lower = Callable[[Any], Any]
Lift = Callable[[Any, "Records"], Any]
Records = Callable[[str], type]  # tag -> the class of that tag in one release; raises StateError

TAG = "@"
ATOMS = (bool, int, float, str, bytes)
NESTED = (dict, list, tuple)


class StateError(Exception):
    """State is not plain, or not of the declared type. The message starts with the path to the culprit."""


def field(factory: Callable[[], T]) -> T:
    """A field whose default is made anew for every record: `field(list)`."""
    return dataclasses.field(default_factory=factory)


@dataclass_transform(field_specifiers=(field,))
def state(cls: type[T]) -> type[T]:
    """Declare a record of session state: a dataclass with slots, a tag, and nothing hidden.

    The tag is the module's name inside the live tree and the class's name, the same in every release, which is
    what lets a record of one release be found again in the next.
    """
    record = dataclasses.dataclass(slots=True)(cls)
    record.__state_tag__ = tag_of(cls.__module__, cls.__name__)  # type: ignore[attr-defined]
    return record


def tag_of(module: str, name: str) -> str:
    """The tag of a class: "media.h264:Track" for `live@7.media.h264` and for `streamd.live.media.h264`."""
    for prefix in ("streamd.live.", "live@"):
        if module.startswith(prefix):
            rest = module[len(prefix) :]
            return f"{rest.partition('.')[2] if prefix == 'live@' else rest}:{name}"
    return f"{'' if module == 'streamd.live' else module}:{name}"


def is_record(value: object) -> bool:
    return "__state_tag__" in type(value).__dict__


def lower(value: Any) -> Any:
    """A snapshot of `value` as tagged plain data. Raises StateError where something is not plain."""
    try:
        return _lower(value)
    except StateError:
        raise
    except (TypeError, AttributeError, KeyError, RecursionError) as error:
        raise StateError(f"state: {telling.text_of(error)}") from error


def lift(value: Any, records: Records) -> Any:
    """The records that `value` describes, in the release that `records` looks classes up in.

    Raises StateError, with the path, where a field is missing, unknown, or of the wrong type.
    """
    if not (isinstance(value, dict) and isinstance(value.get(TAG), str)):
        raise StateError(f"state: expected a lowered record, not {type(value).__name__}")
    cls = records(value[TAG])
    try:
        return _plan(cls).lift(value, records)
    except RecursionError as error:
        raise StateError("state: nested too deeply") from error


def walk_records(value: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """`value` (lowered) with every record in it replaced by `change(record)`, innermost first.

    Containers are rebuilt, never edited, and only where `change` gives something other than what it got: `value`
    stays as it was, and what is the same is shared with it.
    """
    kind = type(value)
    if kind is dict:
        fresh = value
        for key, item in value.items():
            if type(item) in NESTED:
                changed = walk_records(item, change)
                if changed is not item:
                    if fresh is value:
                        fresh = dict(value)
                    fresh[key] = changed
        return change(fresh) if TAG in fresh else fresh
    if kind in NESTED:
        items = [walk_records(item, change) if type(item) in NESTED else item for item in value]
        if all(map(operator.is_, items, value)):
            return value
        return items if kind is list else tuple(items)
    return value


def copied(value: Any) -> Any:
    """The same lowered value with containers of its own."""
    kind = type(value)
    if kind is dict:
        return {key: copied(item) if type(item) in NESTED else item for key, item in value.items()}
    if kind in NESTED:
        items = [copied(item) if type(item) in NESTED else item for item in value]
        return items if kind is list else tuple(items)
    return value


def weight(value: Any) -> int:
    """Bytes of payloads and texts in a lowered value."""
    kind = type(value)
    if kind is bytes or kind is str:
        return len(value)
    if kind is dict:
        return sum(map(weight, value.values()))
    return sum(map(weight, value)) if kind in NESTED else 0


def check_plain(value: Any, path: str = "state") -> None:
    """Raise StateError unless `value` is made of plain data alone (what a migration may return)."""
    if value is None or type(value) in ATOMS or type(value) is bytearray:
        return
    if type(value) is dict:
        for key, item in value.items():
            if type(key) not in (str, int, bytes):
                raise StateError(f"{path}: a key is {type(key).__name__}; keys are str, int or bytes")
            check_plain(item, f"{path}.{key}")
    elif type(value) in (list, tuple):
        for index, item in enumerate(value):
            check_plain(item, f"{path}[{index}]")
    else:
        raise StateError(f"{path}: {type(value).__name__} is not plain data")


def fields_of(cls: type) -> dict[str, bool]:
    """The fields of a record and, for each, whether it has a default."""
    missing = dataclasses.MISSING
    return {
        item.name: item.default is not missing or item.default_factory is not missing
        for item in dataclasses.fields(cls)
    }


def prepare(cls: type) -> None:
    """Compile the plan of a record now, so that a bad annotation is found before anything is touched."""
    _plan(cls)


# ---- the compiled plans ------------------------------------------------------------------------------------


class _Plan:
    __slots__ = ("lift", "lower")

    def __init__(self, lower: Lower, lift: Lift) -> None:
        self.lower = lower
        self.lift = lift


def _lower(value: Any) -> Any:
    kind = type(value)
    if value is None or kind in ATOMS:
        return value
    if kind is list:
        return [_lower(item) for item in value]
    if kind is dict:
        return {_key(key): _lower(item) for key, item in value.items()}
    if kind is tuple:
        return tuple([_lower(item) for item in value])
    if kind is bytearray:
        return bytes(value)
    if "__state_tag__" in kind.__dict__:
        return _plan(kind).lower(value)
    raise StateError(f"state: {kind.__name__} is not plain data")


def _key(key: Any) -> Any:
    if type(key) in (str, int, bytes) and key != TAG:
        return key
    raise StateError(f"state: {key!r} cannot be a key; keys are str, int or bytes, and not {TAG!r}")


def _plan(cls: Any) -> _Plan:
    plan: _Plan | None = cls.__dict__.get("__state_plan__")
    if plan is None:
        plan = cls.__state_plan__ = _compile(cls)
    return plan


def _hints(cls: type) -> dict[str, Any]:
    module = sys.modules.get(cls.__module__)
    names = vars(module) if module else {}
    try:
        # the class's own names must not shadow the module's: a field `timeline` may be of type timeline.Timeline
        return get_type_hints(cls, globalns=names, localns=names)
    except (NameError, AttributeError, TypeError) as error:
        raise StateError(f"{cls.__name__}: an annotation is no type: {telling.text_of(error)}") from error


# What a record has besides its fields: what the decorator has made.
MADE = frozenset(
    "__annotations__ __dataclass_fields__ __dataclass_params__ __doc__ __eq__ __hash__ __init__ __match_args__ __module__ "
    "__qualname__ __repr__ __slots__ __state_plan__ __state_tag__ "
    "__annotate_func__ __annotations_cache__ __firstlineno__ __replace__ __static_attributes__".split()  # of later Pythons
)


def _check_bare(cls: type) -> None:
    """A record is data: nothing in it may run, for it would run in the kernel's hands. Raises StateError."""
    if type(cls) is not type or cls.__bases__ != (object,):
        raise StateError(f"{cls.__name__}: a record inherits nothing")
    fields = {item.name for item in dataclasses.fields(cls)}
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    for name, value in vars(cls).items():
        code = getattr(inspect.unwrap(value), "__code__", None) if callable(value) else None
        if (name not in MADE and name not in fields) or (code is not None and code.co_filename == file):
            raise StateError(f"{cls.__name__}: a record has fields only, not {name}")


def _compile(cls: Any) -> _Plan:
    tag: str = cls.__state_tag__
    _check_bare(cls)
    hints = _hints(cls)
    lifts = {item.name: _lifter(hints[item.name], f"{tag}.{item.name}") for item in dataclasses.fields(cls)}
    names = tuple(lifts)
    needed = frozenset(name for name, default in fields_of(cls).items() if not default)
    plain = frozenset(name for name in names if _is_atomic(hints[name]))
    deep = tuple(name for name in names if name not in plain)

    def lower_record(record: Any) -> dict[str, Any]:
        lowered: dict[str, Any] = {TAG: tag}
        for name in names:
            lowered[name] = getattr(record, name)
        for name in deep:
            lowered[name] = _lower(lowered[name])
        return lowered

    def lift_record(value: Any, records: Records) -> Any:
        if type(value) is not dict or value.get(TAG) != tag:
            raise StateError(f"expected a {tag} record, not {_describe(value)}")
        ready = {}
        for name, item in value.items():
            if name == TAG:
                continue
            build = lifts.get(name)
            if build is None:
                raise StateError(f"{tag} has no field {name!r}; upgrade must drop or rename it")
            try:
                ready[name] = build(item, records)
            except StateError as error:
                raise StateError(f"{tag}.{name}: {error}") from None
        if len(ready) < len(names) and not needed <= ready.keys():
            lost = ", ".join(sorted(needed - ready.keys()))
            raise StateError(f"{tag} needs {lost}; give it a default or an upgrade that fills it")
        try:
            return cls(**ready)
        except Exception as error:  # of a default's factory or of __post_init__
            raise StateError(f"{tag} cannot be made: {telling.told(error)}") from error

    return _Plan(lower_record, lift_record)


def _is_atomic(hint: Any) -> bool:
    """True if a value of this type is shared as it is (its wrong values are found by lift)."""
    if get_origin(hint) in (Union, types.UnionType):
        return all(_is_atomic(option) for option in get_args(hint))
    return hint in ATOMS or hint is type(None) or get_origin(hint) is Literal


def _lifter(hint: Any, where: str) -> Lift:
    origin, options = get_origin(hint), get_args(hint)
    if hint in ATOMS:
        return _lift_atom(hint)
    if hint is None or hint is type(None):
        return _lift_none
    if hint is bytearray:
        return _lift_bytearray
    if origin is Literal:
        return _lift_literal(options)
    if origin is list and len(options) == 1:
        return _lift_list(_lifter(options[0], where))
    if origin is dict and len(options) == 2 and options[0] in (str, int, bytes):
        return _lift_dict(options[0], _lifter(options[1], where))
    if origin is tuple and len(options) == 2 and options[1] is Ellipsis:
        return _lift_tuple(_lifter(options[0], where), None)
    if origin is tuple and options:
        return _lift_tuple(None, [_lifter(option, where) for option in options])
    if origin in (Union, types.UnionType):
        return _lift_union([(_matcher(option), _lifter(option, where)) for option in options], where)
    if hasattr(hint, "__state_tag__"):
        return _lift_nested(hint.__state_tag__)
    raise StateError(f"{where}: {hint!r} is not a type that state may have")


def _describe(value: Any) -> str:
    if type(value) is dict and TAG in value:
        return f"a {value[TAG]} record"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) < 60 else text[:57] + '...'}"


def _lift_atom(kind: type) -> Lift:
    def build(value: Any, _records: Records) -> Any:
        if type(value) is not kind:
            raise StateError(f"expected {kind.__name__}, not {_describe(value)}")
        return value

    return build


def _lift_none(value: Any, _records: Records) -> None:
    if value is not None:
        raise StateError(f"expected None, not {_describe(value)}")


def _lift_bytearray(value: Any, _records: Records) -> bytearray:
    if type(value) not in (bytes, bytearray):
        raise StateError(f"expected bytes for a bytearray, not {_describe(value)}")
    return bytearray(value)


def _lift_literal(words: tuple[Any, ...]) -> Lift:
    def build(value: Any, _records: Records) -> Any:
        if not any(type(value) is type(word) and value == word for word in words):
            raise StateError(f"expected one of {', '.join(map(repr, words))}, not {_describe(value)}")
        return value

    return build


def _lift_list(item: Lift) -> Lift:
    def build(value: Any, records: Records) -> list[Any]:
        if type(value) is not list:
            raise StateError(f"expected a list, not {_describe(value)}")
        return [item(one, records) for one in value]

    return build


def _lift_dict(key: type, item: Lift) -> Lift:
    def build(value: Any, records: Records) -> dict[Any, Any]:
        if type(value) is not dict or TAG in value:
            raise StateError(f"expected a dict, not {_describe(value)}")
        for name in value:
            if type(name) is not key:
                raise StateError(f"expected keys of {key.__name__}, not {_describe(name)}")
        return {name: item(one, records) for name, one in value.items()}

    return build


def _lift_tuple(every: Lift | None, each: list[Lift] | None) -> Lift:
    def build(value: Any, records: Records) -> tuple[Any, ...]:
        # msgpack has no tuples: what was packed comes back as a list
        if type(value) not in (tuple, list):
            raise StateError(f"expected a tuple, not {_describe(value)}")
        if each is None:
            assert every is not None
            return tuple([every(one, records) for one in value])
        if len(value) != len(each):
            raise StateError(f"expected a tuple of {len(each)}, not of {len(value)}")
        return tuple([build(one, records) for build, one in zip(each, value, strict=True)])

    return build


def _lift_nested(tag: str) -> Lift:
    def build(value: Any, records: Records) -> Any:
        if type(value) is not dict or value.get(TAG) != tag:
            raise StateError(f"expected a {tag} record, not {_describe(value)}")
        return _plan(records(tag)).lift(value, records)

    return build


def _matcher(hint: Any) -> Callable[[Any], bool]:
    """A test of a union's option by the outermost shape; the option's own lift looks inside."""
    origin = get_origin(hint)
    if hasattr(hint, "__state_tag__"):
        return lambda value: type(value) is dict and value.get(TAG) == hint.__state_tag__
    if origin is Literal:
        return lambda value: value in get_args(hint)
    if origin is dict:
        return lambda value: type(value) is dict and TAG not in value
    if origin is tuple:
        return lambda value: type(value) in (tuple, list)
    if hint is bytearray:
        return lambda value: type(value) in (bytes, bytearray)
    kind = origin or (type(None) if hint is None else hint)
    return lambda value: type(value) is kind


def _lift_union(options: list[tuple[Callable[[Any], bool], Lift]], where: str) -> Lift:
    def build(value: Any, records: Records) -> Any:
        failure = None
        for matches, lift_option in options:
            if matches(value):
                try:
                    return lift_option(value, records)
                except StateError as error:  # list[int] | list[str]: another option may still fit
                    failure = error
        raise failure or StateError(f"{where} may not hold {_describe(value)}")

    return build


def same(left: Any, right: Any) -> bool:
    """Equality of lowered values that tells 1 from True and 1.0, and takes a list for a tuple."""
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(same(item, right[key]) for key, item in left.items())
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, bytes | bytearray) and isinstance(right, bytes | bytearray):
        return left == right
    return type(left) is type(right) and (left == right or (left != left and right != right))
