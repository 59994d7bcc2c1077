"""A release of protocol and media alone, with or without a patch, for the unit tests of the patches."""

from __future__ import annotations

import itertools
import re
import shutil
from pathlib import Path

from streamd.runtime import patchfile
from streamd.runtime.release import Release, read_tree

ROOT = Path(__file__).parents[2]
PATCHES = ROOT / "patches"
ENTRY = "VERSION = 1\n\ndef begin(): ...\ndef step(): ...\ndef describe(): ...\n"
NUMBERS = itertools.count(7000)


def release(where: Path, *names: str) -> Release:
    """Import the shipped protocol and media, amended by the patches of these file names, from the directory `where`."""
    number = next(NUMBERS)
    tree = where / str(number)
    for part in ("protocol", "media"):
        shutil.copytree(
            ROOT / "streamd" / "live" / part, tree / part, ignore=shutil.ignore_patterns("__pycache__")
        )
    (tree / "__init__.py").write_text(ENTRY)
    found = read_tree(tree)
    texts = {name: text for name, (_, text) in found.items()}
    said = {name: re.search(r"^VERSION = (\d+)$", text, re.MULTILINE) for name, text in texts.items()}
    versions = {name: int(match[1]) for name, match in said.items() if match}
    patches = [patchfile.read(PATCHES / name, PATCHES, 1_000_000) for name in names]
    for name, text in patchfile.merge(patches, texts, versions).items():
        found[name][0].write_text(text, encoding="utf-8")
    return Release(number, tree, None).load()
