"""A kernel on a fake live tree, for every test of the kernel."""

from __future__ import annotations

from collections.abc import AsyncIterator
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
