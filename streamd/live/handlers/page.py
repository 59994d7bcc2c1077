"""The page in which a browser plays a broadcast: GET /live/NAME.

The rule this file keeps: the page is the same whether the broadcast is live or not. The script in it (player.js, served
with mpegts.js under /assets/) asks for NAME.flv, says what it finds, and asks again; so a viewer may come early, and
stays when the broadcast comes back.
"""

from __future__ import annotations

from html import escape
from types import MappingProxyType

VERSION = 1

# everything comes from this server; MSE plays from a blob: address
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "media-src 'self' blob:; worker-src 'self' blob:; base-uri 'none'; form-action 'none'"
)

HEADERS = MappingProxyType(
    {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
)

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="dark">
<title>{name}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/assets/player.css">
<script src="/assets/mpegts.js" defer></script>
<script src="/assets/player.js" defer></script>
</head>
<body>
<main data-name="{name}" data-state="waiting">
<div id="stage">
<video id="picture" autoplay muted playsinline controls aria-label="Live picture of {name}"></video>
<button id="unmute" type="button" hidden>Turn the sound on</button>
</div>
<div id="about">
<h1>{name}</h1>
<p id="status" role="status">Waiting for the broadcast to begin</p>
</div>
<noscript><p>This page needs JavaScript. In a player, open the address of this page with .flv behind it.</p></noscript>
</main>
</body>
</html>
"""


def render(name: str) -> bytes:
    """The page for the broadcast `name`."""
    return PAGE.replace("{name}", escape(name)).encode()
