"""Chunks, read by the standard library's client: whole, byte by byte, ended and cut."""

from __future__ import annotations

import io
from http.client import HTTPResponse, IncompleteRead

import pytest

from streamd.live.protocol.http_chunked import LAST, chunk

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
SIZES = (1, 15, 16, 255, 256, 4_095, 65_536, 1 << 20)


class Wire(io.RawIOBase):
    """A connection on which at most `step` bytes come at a time."""

    def __init__(self, data: bytes, step: int) -> None:
        self.data = io.BytesIO(data)
        self.step = step

    def readable(self) -> bool:
        return True

    def readinto(self, room) -> int:
        data = self.data.read(min(self.step, len(room)))
        room[: len(data)] = data
        return len(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self, 1 if self.step == 1 else 65_536)


def received(body: bytes, step: int) -> bytes:
    response = HTTPResponse(Wire(HEAD + body, step))  # type: ignore[arg-type]
    response.begin()
    return response.read()


@pytest.mark.parametrize("step", [1, 7, 1 << 24], ids=["byte by byte", "by seven", "whole"])
@pytest.mark.parametrize("sizes", [(), *((size,) for size in SIZES[:6]), SIZES[:6]], ids=str)
def test_what_goes_into_chunks_comes_out(sizes, step):
    parts = [bytes([number + 1]) * size for number, size in enumerate(sizes)]
    assert received(b"".join(map(chunk, parts)) + LAST, step) == b"".join(parts)


@pytest.mark.parametrize("size", SIZES)
def test_the_size_is_hexadecimal_without_leading_zeros(size):
    assert chunk(bytes(size)) == f"{size:x}".encode() + b"\r\n" + bytes(size) + b"\r\n"


def test_nothing_is_no_chunk_because_that_would_be_the_last():
    assert chunk(b"") == b""


@pytest.mark.parametrize("step", [1, 1 << 24])
def test_without_the_last_chunk_a_client_knows_that_it_was_cut_off(step):
    whole = chunk(b"key") + chunk(b"inter")
    for length in range(len(whole) + 1):
        with pytest.raises(IncompleteRead):
            received(whole[:length], step)
