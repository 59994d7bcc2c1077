"""A slow network between a server and its viewers: any viewer becomes a slow one by connecting through it.

The rule this file keeps: it holds back nothing but time. Bytes towards the server pass at once; bytes towards the
viewer pass at `rate` bytes per second and connection, and what is not passed yet stays in the server's own sockets,
because the receive buffer here is as small as the system allows.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

from tests.scenarios.harness import Streamd

TURN = 0.1  # seconds between two reads of a connection
ROOM = 16_384  # bytes of receive buffer


class Throttled:
    """Looks like a server to viewers: its addresses are those of the slow network."""

    def __init__(self, streamd: Streamd) -> None:
        self.streamd = streamd
        self.rtmp = self.http = ""


@contextlib.asynccontextmanager
async def throttled(streamd: Streamd, rate: float) -> AsyncIterator[Any]:
    """The addresses of `streamd` behind a network with `rate` bytes per second for each connection."""
    tight = Throttled(streamd)
    servers = []
    for name, address in (("rtmp", streamd.rtmp), ("http", streamd.http)):
        server = await asyncio.start_server(_Carrier(address, rate).carry, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        setattr(tight, name, f"{host}:{port}")
        servers.append(server)
    try:
        yield tight
    finally:
        for server in servers:
            server.close()


class _Carrier:
    def __init__(self, address: str, rate: float) -> None:
        host, _, port = address.rpartition(":")
        self.address = (host, int(port))
        self.size = int(rate * TURN)

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ROOM)
        sock.setblocking(False)
        await loop.sock_connect(sock, self.address)
        back = asyncio.create_task(self._towards_server(reader, sock))
        try:
            due = loop.time()
            while data := await self._some(sock):
                writer.write(data)
                await writer.drain()
                due += TURN
                await asyncio.sleep(max(due - loop.time(), 0))
        except ConnectionError:
            pass
        finally:
            back.cancel()
            writer.close()
            sock.close()

    async def _some(self, sock: socket.socket) -> bytes:
        """What may pass in one turn; b"" at the end. The buffer is smaller than that, so it takes several reads."""
        loop = asyncio.get_running_loop()
        found = data = await loop.sock_recv(sock, self.size)
        with contextlib.suppress(BlockingIOError, TimeoutError):
            while data and len(found) < self.size:
                data = await asyncio.wait_for(loop.sock_recv(sock, self.size - len(found)), TURN / 10)
                found += data
        return found

    async def _towards_server(self, reader: asyncio.StreamReader, sock: socket.socket) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                await asyncio.get_running_loop().sock_sendall(sock, data)
