"""Who moves first: patterns, shares and waves."""

from __future__ import annotations

import pytest

from streamd.runtime.selection import Selection

STUDIOS = [f"live/studio{number}" for number in range(10)]
NAMES = ["door/1", *STUDIOS, "live/garden", "door/2"]


def test_without_wishes_everybody_moves_at_once_doors_included():
    chosen = Selection()
    assert chosen.whole
    assert chosen.chosen(0, NAMES) == NAMES


@pytest.mark.parametrize("pattern", ["live/studio*", "studio*", "studio[0-9]"])
def test_a_pattern_names_broadcasts_with_and_without_their_application(pattern):
    chosen = Selection((pattern,))
    assert not chosen.whole
    assert chosen.chosen(0, NAMES) == STUDIOS


def test_a_pattern_may_name_doors():
    assert Selection(("door/*",)).chosen(0, NAMES) == ["door/1", "door/2"]


def test_several_patterns_add_up():
    assert Selection(("garden", "live/studio1")).chosen(0, NAMES) == ["live/studio1", "live/garden"]


def test_each_wave_contains_the_one_before_and_the_last_everybody():
    waves = Selection((), (1.0, 10.0, 50.0, 100.0))
    sets = [set(waves.chosen(number, NAMES)) for number in range(4)]
    assert [len(item) for item in sets] == [1, 2, 6, 13]
    assert sets[0] < sets[1] < sets[2] < sets[3]
    assert not any(name.startswith("door/") for name in sets[2])
    assert waves.whole


def test_a_share_is_the_same_whatever_the_order_and_whoever_else_has_come():
    share = Selection((), (10.0,))
    assert share.chosen(0, NAMES) == share.chosen(0, NAMES[::-1])
    assert not share.whole


@pytest.mark.parametrize("percent", [0.001, 10.0, 99.9])
def test_a_share_of_few_is_at_least_one_and_of_none_is_none(percent):
    assert Selection((), (percent,)).chosen(0, ["live/only"]) == ["live/only"]
    assert Selection((), (percent,)).chosen(0, ["door/1"]) == []


def test_waves_within_a_pattern():
    waves = Selection(("studio*",), (10.0, 100.0))
    assert len(waves.chosen(0, NAMES)) == 1
    assert waves.chosen(1, NAMES) == STUDIOS
    assert not waves.whole
