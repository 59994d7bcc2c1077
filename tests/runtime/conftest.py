"""A kernel on a fake live tree, for every test of the kernel."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.fake_live import World, running, write_tree


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The fake tree's directory."""
    return write_tree(tmp_path / "live")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path) as made:
        yield made


@pytest.fixture(autouse=True)
def nobody_else_in_the_collector() -> Iterator[None]:
    """An interruption that comes while the collector runs a callback, as one of the test libraries has, is printed as
    one that nobody could raise; it comes again, but the print would fail the test."""
    callbacks = gc.callbacks[:]
    gc.callbacks.clear()
    yield
    gc.callbacks[:] = callbacks
