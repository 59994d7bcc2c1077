"""What a release changes of its parent's records, in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from streamd.runtime.changes import record_changes
from streamd.runtime.release import Release
from tests.fake_live import TREE, write_tree

CODEC = TREE["media/codec.py"]
UPGRADE = "\n\ndef upgrade(old): return old\n"
WHOLE = "\n\ndef upgrade_session(state): return state\n"
EXTRA = "\n\n@state\nclass Extra:\n    a: int = 0\n"


def changes(root: Path, text: str, name: str = "media.codec", renames: dict[str, str] | None = None) -> Any:
    tree = {**TREE, f"{name.replace('.', '/')}.py": text}
    old = Release(1, write_tree(root / "old"), None).load()
    new = Release(2, write_tree(root / "new", tree), 1).load()
    try:
        return record_changes(old, new, {"media.codec": [1, 2]}, renames or {})
    finally:
        old.discard()
        new.discard()


def track(change: list[str], how: str) -> dict[str, Any]:
    return {"record": "media.codec:Track", "change": change, "how": how}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (CODEC, []),
        (CODEC.replace("frames: int = 0", "frames: int = 0\n    more: str = ''"), [track(["+ more: str"], "defaults")]),
        (CODEC.replace("frames: int = 0", "frames: float = 0.0") + UPGRADE, [track(["frames: int -> float"], "upgrade()")]),
        (CODEC + UPGRADE, [track([], "upgrade()")]),
        (CODEC + EXTRA, [{"record": "media.codec:Extra", "change": ["new record"], "how": "none needed"}]),
        (CODEC.replace("    config: bytes = b\"one:two\"\n", "") + WHOLE, [track(["- config: bytes"], "session migration")]),
    ],
)  # fmt: skip
def test_fields_and_what_takes_them_there_are_told(tmp_path, text, told):
    assert changes(tmp_path, text) == told


def test_a_module_under_another_name_is_told(tmp_path):
    told = changes(tmp_path, CODEC, "media.fresh", {"media.codec": "media.fresh"})
    assert told == [{"record": "media.fresh:Track", "change": ["was media.codec:Track"], "how": "renamed"}]
