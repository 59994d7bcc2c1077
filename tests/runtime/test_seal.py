"""The seal says by name what live code has changed of the interpreter, the kernel or a release, and puts it back."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from types import ModuleType
from typing import Any

import pytest

from streamd.runtime import state, vocabulary
from streamd.runtime.release import Release
from streamd.runtime.seal import Seal


@pytest.fixture
def release(tree: Path) -> Any:
    made = Release(1, tree, None).load()
    yield made
    made.discard()


def sealed(release: Release) -> list[ModuleType]:
    kernel = [module for name, module in sys.modules.items() if name.startswith("streamd.runtime.")]
    return [builtins, *kernel, *release.modules.values()]


def change_len(_release: Release) -> None:
    builtins.len = lambda _value: 7


def add_a_builtin(_release: Release) -> None:
    builtins.extra = 1  # type: ignore[attr-defined]


def take_a_builtin_away(_release: Release) -> None:
    del builtins.sorted


def change_the_kernel(_release: Release) -> None:
    state.lower = lambda value: value


def change_a_command(_release: Release) -> None:
    vocabulary.Send.link = property(lambda _self: 1)  # type: ignore[assignment]


def add_to_an_event(_release: Release) -> None:
    vocabulary.Data.extra = []  # type: ignore[attr-defined]


def take_from_a_command(_release: Release) -> None:
    del vocabulary.Send._fields


def change_another_release(release: Release) -> None:
    vars(release.modules["media.codec"])["word"] = str


def add_to_another_release(release: Release) -> None:
    vars(release.modules["handlers"])["cache"] = {}


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (change_len, "builtins.len"),
        (add_a_builtin, "builtins.extra"),
        (take_a_builtin_away, "builtins.sorted"),
        (change_the_kernel, "streamd.runtime.state.lower"),
        (change_a_command, "streamd.runtime.vocabulary.Send.link"),
        (add_to_an_event, "streamd.runtime.vocabulary.Data.extra"),
        (take_from_a_command, "streamd.runtime.vocabulary.Send._fields"),
        (change_another_release, "live@1.media.codec.word"),
        (add_to_another_release, "live@1.handlers.cache"),
    ],
)
def test_what_was_changed_is_named_and_mended(
    release: Release, change: Callable[[Release], None], name: str
) -> None:
    seal = Seal(sealed(release))
    assert seal.broken() == []
    try:
        change(release)
        found = seal.broken()
    finally:
        seal.mend()
    assert found == [name]
    assert seal.broken() == []
    assert len("abc") == 3
    assert vocabulary.Send(1, b"x").link == 1
    assert sorted([2, 1]) == [1, 2]


def test_a_value_that_is_equal_but_not_the_same_does_not_go_unseen_for_being_a_function(
    release: Release,
) -> None:
    codec = release.modules["media.codec"]
    seal = Seal([codec])
    vars(codec)["word"] = lambda: "codec 1"
    assert seal.broken() == ["live@1.media.codec.word"]
    seal.mend()
    assert codec.both() == "codec 1 tail 1"


def test_a_release_that_was_let_go_of_breaks_nothing(tree: Path) -> None:
    release = Release(2, tree, None).load()
    seal = Seal(release.modules.values())
    release.discard()
    assert seal.broken() == []
    seal.mend()


def test_running_the_code_breaks_no_seal(release: Release) -> None:
    seal = Seal(sealed(release))
    room = release.begin("live/a", {}, 0)
    again = state.lift(state.lower(room), release.record)
    release.describe(again)
    assert release.step(again, vocabulary.Tick(1, "x")) == []
    assert seal.broken() == []


def test_looking_at_it_is_cheap(release: Release) -> None:
    seal = Seal(sealed(release))
    best = min(_timed(seal) for _ in range(50))
    assert best < 0.0005, f"{best * 1e6:.0f} us"  # 60 to 100 us where nothing else runs


def _timed(seal: Seal) -> float:
    started = perf_counter()
    seal.broken()
    return perf_counter() - started
