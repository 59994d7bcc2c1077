"""A headless Chromium, driven over its DevTools protocol.

The rule this file keeps: no tool but the browser. One page, one WebSocket, one command at a time.

    async with chromium() as browser:
        await browser.open("http://127.0.0.1:8080/live/studio1")
        await browser.until("document.querySelector('video').currentTime > 1", "the picture moves")
        png = await browser.screenshot("video")
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from tests.scenarios.harness import START, eventually, program

FLAGS = """
    --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync --disable-dev-shm-usage --no-proxy-server --window-size=1000,800
    --remote-debugging-port=0
""".split()


class Browser:
    """One page."""

    def __init__(self, session: aiohttp.ClientSession, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.session = session
        self.socket = socket
        self.commands = 0

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the protocol; its result. Events in between are not kept."""
        self.commands += 1
        number = self.commands
        await self.socket.send_json({"id": number, "method": method, "params": params})
        while True:
            message = json.loads(await asyncio.wait_for(self.socket.receive_str(), START))
            if message.get("id") == number:
                assert "error" not in message, message["error"]
                found: dict[str, Any] = message["result"]
                return found

    async def open(self, url: str) -> None:
        await self.call("Page.enable")
        found = await self.call("Page.navigate", url=url)
        assert "errorText" not in found, found
        await self.until("document.readyState === 'complete'", f"{url} is loaded")

    async def evaluate(self, expression: str) -> Any:
        """The value of an expression of the page, which JSON must be able to say."""
        found = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    async def until(self, expression: str, what: str) -> Any:
        return await eventually(lambda: self.evaluate(expression), what, 2 * START)

    async def screenshot(self, selector: str) -> bytes:
        """What is seen of an element, as PNG."""
        box = await self.evaluate(
            f"document.querySelector({json.dumps(selector)}).getBoundingClientRect().toJSON()"
        )
        clip = {name: box[name] for name in ("x", "y", "width", "height")}
        shot = await self.call("Page.captureScreenshot", format="png", clip={**clip, "scale": 1})
        return base64.b64decode(shot["data"])


@contextlib.asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """A browser with an empty profile and an empty page."""
    profile = Path(tempfile.mkdtemp(prefix="streamd-browser-"))
    words = ["chromium", *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    quiet = {"stdout": asyncio.subprocess.DEVNULL, "stderr": asyncio.subprocess.DEVNULL}
    try:
        async with program(*words, **quiet) as process, aiohttp.ClientSession() as session:
            found = profile / "DevToolsActivePort"
            await eventually(lambda: found.exists() and "\n" in found.read_text(), "chromium listens", START)
            port = found.read_text().split()[0]
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                pages = [item for item in await answer.json() if item["type"] == "page"]
            async with session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                browser = Browser(session, socket)
                yield browser
                await browser.call("Browser.close")
                await asyncio.wait_for(process.wait(), START)
    finally:
        await eventually(lambda: _removed(profile), "the browser's helpers write nothing more")


def _removed(path: Path) -> bool:
    shutil.rmtree(path, ignore_errors=True)
    return not path.exists()
