"""HTTP: aiohttp reads requests and writes answers; live code decides what they say.

The rule this file keeps: an endless answer leaves aiohttp. Its connection's descriptor is duplicated, aiohttp's
transport is aborted (which closes one descriptor and says nothing to the peer), and the kernel goes on with the
other one as with any link: a long-lived viewer costs a socket and a cursor, no task and no transport.

Served here, so that no patch can break them: /healthz (the process turns), /readyz (it takes newcomers), and
the files under /assets/, from memory.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import mimetypes
import socket
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from aiohttp import HttpVersion11, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

from streamd.runtime.link import Link
from streamd.runtime.net import bound_socket
from streamd.runtime.session import Sessions

log = logging.getLogger("streamd")

HEAD_SECONDS = 10.0  # for the first request of a connection to arrive whole
KEEPALIVE_SECONDS = 30.0
MAX_BODY = 65_536  # bytes; nothing here takes a body yet
MAX_FIELD = 8_190  # bytes of a request line or header field, the size most servers allow
STREAMED = object()
SERVER = MappingProxyType({"Server": "streamd"})

Handler = RequestHandler


class Exchange:
    """One request that waits for live code's answer."""

    def __init__(self, request: web.BaseRequest) -> None:
        self.request = request
        self.done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        if not self.done.done():
            self.done.set_result(web.Response(status=status, headers={**SERVER, **headers}, body=body))

    def take(self, status: int, headers: dict[str, str]) -> tuple[socket.socket, bytes]:
        """The connection's socket, and the response head. Raises ConnectionResetError if the peer has gone."""
        # uvloop's transports have all of asyncio.Transport's methods without being a subclass of it
        transport: Any = self.request.transport
        if transport is None or transport.is_closing() or self.done.done():
            raise ConnectionResetError("the client has gone")
        head = _head(status, headers)
        sock = transport.get_extra_info("socket")
        twin = socket.fromfd(sock.fileno(), sock.family, sock.type)
        transport.pause_reading()  # what the client sends from now on is the kernel's to read
        twin.setblocking(False)
        self.done.set_result(STREAMED)
        return twin, head

    def drop(self) -> None:
        if not self.done.done():
            self.answer(
                503, {"Content-Type": "text/plain; charset=utf-8"}, b"the server gave this request up\n"
            )


class HttpServer(web.Server):
    """aiohttp's low-level server with a bound on connections, and on how long a first request may take.

    The bound counts the kernel's links (`links()` of them) as well, for a stream is one and no longer aiohttp's.
    """

    def __init__(
        self, handler: Callable[[web.BaseRequest], Any], max_connections: int, links: Callable[[], int]
    ) -> None:
        super().__init__(
            handler,
            handler_cancellation=True,
            access_log=None,
            logger=_aiohttp_log(),
            keepalive_timeout=KEEPALIVE_SECONDS,
            max_line_size=MAX_FIELD,
            max_field_size=MAX_FIELD,
        )
        self._max_connections = max_connections
        self._links = links
        self._newcomers: dict[Handler, asyncio.TimerHandle] = {}

    def connection_made(self, handler: Handler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        if len(self.connections) + self._links() > self._max_connections:
            transport.abort()
            return
        self._newcomers[handler] = asyncio.get_running_loop().call_later(HEAD_SECONDS, transport.abort)

    def connection_lost(self, handler: Handler, exc: BaseException | None = None) -> None:
        self.spoke(handler)
        super().connection_lost(handler, exc)

    def spoke(self, handler: Handler) -> None:
        if timer := self._newcomers.pop(handler, None):
            timer.cancel()


class Http:
    """The HTTP listener. `ready` says whether newcomers are welcome."""

    def __init__(
        self, sessions: Sessions, ready: Callable[[], bool], max_connections: int, backlog: int
    ) -> None:
        self._sessions = sessions
        self._ready = ready
        self._backlog = backlog
        self._server = HttpServer(
            self._handle, max_connections, lambda: len(sessions.net.links) if sessions.net else 0
        )
        self._assets = _read_assets()
        self._listener: asyncio.Server | None = None

    async def listen(self, host: str, port: int) -> tuple[str, int]:
        sock = bound_socket(host, port, self._backlog)
        self._listener = await asyncio.get_running_loop().create_server(self._server, sock=sock)
        address = sock.getsockname()
        return address[0], address[1]

    def stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()

    async def close(self) -> None:
        await self._server.shutdown(timeout=1.0)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self._server.spoke(request.protocol)
        fixed = self._fixed(request)
        if fixed is not None:
            return fixed
        if request.content_length is not None and request.content_length > MAX_BODY:
            return _text(413, f"a body may have {MAX_BODY} bytes here\n")
        exchange = Exchange(request)
        headers = {name.lower(): value for name, value in request.headers.items()}
        link = self._sessions.request(
            exchange,
            request.method,
            request.path,
            request.query_string,
            headers,
            _peer(request),
            "1.1" if request.version >= HttpVersion11 else "1.0",
        )
        try:
            answer = await exchange.done
        except asyncio.CancelledError:
            _gone(link)
            raise
        if answer is not STREAMED:
            assert isinstance(answer, web.Response)
            return answer
        transport = request.transport
        if transport is not None:
            transport.abort()
        # the abort cancels this handler; returning would make aiohttp write a response
        await asyncio.get_running_loop().create_future()
        raise AssertionError("an aborted connection's handler was not cancelled")

    def _fixed(self, request: web.BaseRequest) -> web.Response | None:
        path = request.path
        if path == "/healthz":
            return _text(200, "ok\n")
        if path == "/readyz":
            return _text(200, "ready\n") if self._ready() else _text(503, "not ready\n")
        if not path.startswith("/assets/"):
            return None
        asset = self._assets.get(path.removeprefix("/assets/"))
        if asset is None:
            return _text(404, "no such file\n")
        if request.method not in ("GET", "HEAD"):
            return web.Response(status=405, headers={"Allow": "GET, HEAD"})
        body, headers = asset
        if request.headers.get("If-None-Match") == headers["ETag"]:
            return web.Response(status=304, headers=headers)
        return web.Response(body=body, headers=headers)


def _aiohttp_log() -> logging.Logger:
    """Where aiohttp says what goes wrong."""
    logger = logging.getLogger("streamd.http")
    logger.addFilter(_blame_client)
    return logger


def _blame_client(record: logging.LogRecord) -> bool:
    """A request that is not HTTP is its client's fault: one line, where aiohttp would have an error's traceback."""
    fault = record.exc_info[1] if record.exc_info else None
    if isinstance(fault, HttpProcessingError):
        record.levelno, record.levelname, record.exc_info = logging.INFO, "INFO", None
        record.msg += f": {fault.code}, {fault.message.partition(chr(10))[0].rstrip(':')}"
    return record.levelno >= log.getEffectiveLevel()


def _gone(link: Link) -> None:
    link.exchange = None
    link.fail("closed by peer")


def _peer(request: web.BaseRequest) -> str:
    address = request.transport.get_extra_info("peername") if request.transport else None
    return f"{address[0]}:{address[1]}" if address else "unknown"


def _text(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=text, headers={**SERVER, "Cache-Control": "no-store"})


def _head(status: int, headers: dict[str, str]) -> bytes:
    """The head of an endless response (RFC 9112 section 4): its length is unknown. It ends with the connection, and
    with what live code frames it in if that says so in a Transfer-Encoding."""
    fields = {"Date": formatdate(usegmt=True), **SERVER, "Connection": "close", **headers}
    lines = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        *(f"{name}: {value}" for name, value in fields.items()),
    ]
    if any("\r" in line or "\n" in line for line in lines):
        raise ValueError("a header has a line break in it")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _read_assets() -> dict[str, tuple[bytes, dict[str, str]]]:
    """Every file of drivers/assets with its headers: a few hundred kilobytes, read once."""
    assets = {}
    for item in files("streamd.drivers").joinpath("assets").iterdir():
        if not item.is_file():
            continue
        body = item.read_bytes()
        kind = mimetypes.guess_type(item.name)[0] or "text/plain"
        headers = {
            **SERVER,
            "Content-Type": f"{kind}; charset=utf-8" if kind.startswith("text/") else kind,
            "ETag": f'"{hashlib.sha256(body).hexdigest()[:16]}"',
            "Cache-Control": "public, max-age=300",
            "X-Content-Type-Options": "nosniff",
        }
        assets[item.name] = (body, headers)
    return assets
