"""The RTMP handshake, server side: C0 C1 -> S0 S1 S2, then C2 is swallowed.

The rule this file keeps: functions from bytes to bytes; randomness is the caller's seed.

Plain (RTMP 5.2): C1 is time, four zero bytes and 1,528 bytes of noise; S2 echoes C1. Flash since version 9
puts its own version in place of the zeros and hides an HMAC-SHA256 digest in the noise, and plays H.264 only
from a server that answers in kind; FFmpeg checks the answer, too. The digest's place
is written in four bytes that stand at one of two offsets ("schemes"), and only the digest itself tells which
one was meant. This form was never published by Adobe; it is known from what Flash, FMLE and FMS send.
"""

from __future__ import annotations

from hashlib import sha256, shake_256
from hmac import compare_digest, digest

from streamd.runtime.vocabulary import PeerError

VERSION = 1

PROTOCOL = 3  # C0 and S0
ENCRYPTED = frozenset((6, 8, 9))  # RTMPE and its relatives
BLOCK = 1536  # bytes of C1, C2, S1 and S2
HELLO = 1 + BLOCK  # bytes of C0 and C1 together

SERVER_VERSION = bytes((5, 0, 17, 1))  # anything from 3 on makes clients expect digests
DIGEST = 32
SCHEMES = (772, 8)  # where the four bytes stand that place the digest; FFmpeg uses the second
SPAN = 728  # a digest starts within so many bytes after its four bytes

_GENUINE = bytes.fromhex("f0eec24a8068bee82e00d0d1029e7e576eec5d2d29806fab93b8e636cfeb31ae")
CLIENT_KEY = b"Genuine Adobe Flash Player 001" + _GENUINE
SERVER_KEY = b"Genuine Adobe Flash Media Server 001" + _GENUINE
CLIENT_WORDS = CLIENT_KEY[: -len(_GENUINE)]  # digests inside C1 and S1 are keyed with the words alone
SERVER_WORDS = SERVER_KEY[: -len(_GENUINE)]


def check_version(c0: int) -> None:
    """PeerError unless `c0`, the very first byte, can be answered with version 3 (RTMP 5.2.2)."""
    if c0 in ENCRYPTED:
        raise PeerError("encrypted RTMP (RTMPE) is not supported; use rtmp://")
    if c0 == 0x16:
        raise PeerError("this is TLS (rtmps://) on a plain RTMP port")
    if c0 >= 32:
        raise PeerError("this is not RTMP; the first byte looks like text (HTTP?)")


def answer(c1: bytes, seed: bytes) -> bytes:
    """S0, S1 and S2 (3,073 bytes) for the C1 of a client; `seed` is 32 random bytes."""
    if len(c1) != BLOCK:
        raise ValueError(f"C1 has {BLOCK} bytes, not {len(c1)}")
    noise = shake_256(seed).digest(2 * BLOCK)
    found = find_digest(c1, CLIENT_WORDS) if c1[4:8] != bytes(4) else None
    if found is None:
        s1 = bytes(8) + noise[: BLOCK - 8]
        return bytes((PROTOCOL,)) + s1 + c1
    scheme, place = found
    s1 = place_digest(bytes(4) + SERVER_VERSION + noise[: BLOCK - 8], scheme, SERVER_WORDS)
    return bytes((PROTOCOL,)) + s1 + echo(c1[place : place + DIGEST], noise[BLOCK:], SERVER_KEY)


def find_digest(block: bytes, key: bytes) -> tuple[int, int] | None:
    """(scheme, offset of the digest) if `block` has a digest made with `key`, or None."""
    for scheme in SCHEMES:
        place = digest_place(block, scheme)
        if compare_digest(make_digest(block, place, key), block[place : place + DIGEST]):
            return scheme, place
    return None


def digest_place(block: bytes, scheme: int) -> int:
    """Where the digest of `block` stands by a scheme: the sum of four bytes, taken within its half."""
    return sum(block[scheme : scheme + 4]) % SPAN + scheme + 4


def make_digest(block: bytes, place: int, key: bytes) -> bytes:
    """The digest of `block` without the 32 bytes at `place`."""
    return digest(key, block[:place] + block[place + DIGEST :], sha256)


def place_digest(block: bytes, scheme: int, key: bytes) -> bytes:
    """`block` with its digest written where `scheme` says."""
    place = digest_place(block, scheme)
    return block[:place] + make_digest(block, place, key) + block[place + DIGEST :]


def echo(their_digest: bytes, noise: bytes, key: bytes) -> bytes:
    """S2 (or C2): noise signed at its end with a key made from the digest that is answered."""
    body = noise[: BLOCK - DIGEST]
    return body + digest(digest(key, their_digest, sha256), body, sha256)
