"""The handshake, against a client written here from the same facts."""

from __future__ import annotations

import hmac
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.live.protocol import rtmp_handshake as handshake
from streamd.runtime.vocabulary import PeerError

SEED = bytes(range(32))
NOISE = bytes(index * 7 & 0xFF for index in range(1528))
PLAIN = bytes(8) + NOISE


def digested(scheme: int, noise: bytes = NOISE) -> bytes:
    """A C1 as Flash makes it."""
    return handshake.place_digest(bytes(4) + bytes((128, 0, 7, 2)) + noise, scheme, handshake.CLIENT_WORDS)


def test_a_plain_client_gets_its_own_bytes_back() -> None:
    reply = handshake.answer(PLAIN, SEED)
    assert len(reply) == 1 + 2 * handshake.BLOCK
    assert reply[0] == 3
    assert reply[1 + handshake.BLOCK :] == PLAIN
    assert reply[1:9] == bytes(8)


@pytest.mark.parametrize("scheme", handshake.SCHEMES)
@pytest.mark.parametrize("top", [0, 255])
def test_a_flash_client_finds_the_digests_it_looks_for(scheme: int, top: int) -> None:
    noise = bytearray(NOISE)
    noise[scheme - 8 : scheme - 4] = bytes((top,)) * 4  # the digest at either end of where it may be
    c1 = digested(scheme, bytes(noise))
    reply = handshake.answer(c1, SEED)
    s1, s2 = reply[1 : 1 + handshake.BLOCK], reply[1 + handshake.BLOCK :]
    assert s1[4] >= 3  # what makes FFmpeg check
    assert handshake.find_digest(s1, handshake.SERVER_WORDS) == (
        scheme,
        handshake.digest_place(s1, scheme),
    )
    place = handshake.digest_place(c1, scheme)
    key = hmac.digest(handshake.SERVER_KEY, c1[place : place + 32], sha256)
    assert s2[-32:] == hmac.digest(key, s2[:-32], sha256)


def test_a_version_without_a_digest_is_answered_plainly() -> None:
    c1 = bytes((0, 0, 0, 1, 9, 0, 124, 2)) + NOISE
    assert handshake.answer(c1, SEED)[1 + handshake.BLOCK :] == c1


def test_the_seed_decides_the_noise() -> None:
    assert handshake.answer(PLAIN, SEED) == handshake.answer(PLAIN, SEED)
    assert handshake.answer(PLAIN, SEED) != handshake.answer(PLAIN, bytes(32))


@pytest.mark.parametrize(
    ("first", "because"),
    [(6, "RTMPE"), (8, "RTMPE"), (9, "RTMPE"), (0x16, "TLS"), (ord("G"), "HTTP"), (0xFF, "not RTMP")],
)
def test_other_protocols_are_named(first: int, because: str) -> None:
    with pytest.raises(PeerError, match=because):
        handshake.check_version(first)


@pytest.mark.parametrize("first", [0, 2, 3, 4, 31])
def test_odd_versions_are_answered_with_three(first: int) -> None:
    handshake.check_version(first)


def test_half_a_c1_is_our_bug() -> None:
    with pytest.raises(ValueError, match="1536"):
        handshake.answer(b"short", SEED)


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=12, max_size=12))
@settings(max_examples=50)
def test_any_c1_is_answered(seed: bytes, head: bytes) -> None:
    c1 = head + bytes(764) + head[:4] + bytes(756)
    assert len(handshake.answer(c1, seed)) == 3073
