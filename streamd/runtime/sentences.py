"""What the patch path says to the operator: pieces of sentences, and the figures in them.

The rule this file keeps: a name, a number, and nothing that needs to be looked up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from time import monotonic
from typing import Any

from streamd.runtime.mover import Move

PAUSES_TOLD = 1000  # in an answer; the longest go first


def ms(since: float) -> float:
    return round((monotonic() - since) * 1000, 3)


def pauses(move: Move) -> list[dict[str, Any]]:
    longest = sorted(move.pauses.items(), key=lambda item: -item[1])[:PAUSES_TOLD]
    return [{"name": name, "ms": pause} for name, pause in longest]


def changes(modules: dict[str, list[int]]) -> str:
    return (
        ", ".join(f"{name} {old or 'new'} -> {new or 'gone'}" for name, (old, new) in modules.items())
        or "no module changed"
    )


def rehearsed(report: dict[str, Any]) -> str:
    """What a rehearsal has seen, in a sentence or two."""
    failed = len(report["failures"])
    if failed:
        first = report["failures"][0]
        return f"{sessions(failed)} failed the rehearsal, first {first['name']}: {first['sentence']}."
    count = sum(1 for item in report["sessions"] if item["ok"])
    sentence = f"{sessions(count)} rehearsed there and back, {report['events']} events replayed"
    if shadow := report.get("shadow"):
        sentence += f" ({shadow['events']} of them while they happened)"
    if report["different"]:
        sentence += f", {report['different']} answered differently"
    if report["cured"]:
        sentence += f", {report['cured']} failed in the running code only"
    return f"{sentence}."


def differed(told: dict[str, Any]) -> str:
    text = ""
    if told["differences"]:
        text += f" {told['differences']} answers differed, first in {told['first_difference']}."
    if told["cured"]:
        text += f" {told['cured']} events failed in the former release only, first in {told['first_cure']}."
    return text


def stayed(move: Move) -> str:
    return f" {names(move.stayed)} could not be converted back and stays." if move.stayed else ""


def mixture(mixed: dict[int, list[str]]) -> str:
    return "; ".join(f"release {number}: {names(items)}" for number, items in sorted(mixed.items()))


def sessions(count: int) -> str:
    return f"{count} session{'' if count == 1 else 's'}"


def names(items: Sequence[str]) -> str:
    return ", ".join(items[:5]) + (f" and {len(items) - 5} more" if len(items) > 5 else "")


def numbers(items: Iterable[int]) -> str:
    return ", ".join(f"release {number}" for number in items) or "nothing"
