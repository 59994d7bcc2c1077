"""Titles in any 8-bit text become characters, and nothing fails."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.live.protocol import text


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", ""),
        (b"plain", "plain"),
        ("Grüße, 世界 €5".encode(), "Grüße, 世界 €5"),
        (b"Caf\xe9", "Café"),
        (b"\xff\xfe", "ÿþ"),
        (b"5 \x80", "5 \x80"),  # version 1 reads the specials as ISO-8859-1 does
        (b"\xed\xa0\x80", "\xed\xa0\x80"),  # half of a surrogate pair is not UTF-8
        (b"\xc3", "Ã"),  # a text cut inside a character
    ],
)
def test_bytes_become_text(raw: bytes, expected: str) -> None:
    assert text.decode(raw) == expected


def test_the_specials_are_a_table_of_32_characters_used_by_position() -> None:
    assert len(text.SPECIAL) == 32
    every = bytes(range(0x80, 0x100))
    assert text.decode(every)[:32] == text.SPECIAL
    assert text.decode(every)[32:] == every[32:].decode("latin-1")


@given(st.binary(max_size=200))
def test_whatever_is_read_can_be_written_and_read_again(raw: bytes) -> None:
    once = text.decode(raw)
    assert text.decode(text.encode(once)) == once


def test_half_a_surrogate_pair_does_not_fail() -> None:
    assert text.encode("a\ud800b") == b"a?b"
