"""The door: one connection that has not yet said what it wants, or one HTTP request.

The rule this file keeps: a door decides nothing about a broadcast. It finds out which one is meant and hands the link
over, together with the question; the answer is given there, or here if there is no such broadcast. It ends when its
link has left.
"""

from __future__ import annotations

import re
from typing import Literal

from streamd.live.handlers import audience, page, watch_flv
from streamd.live.handlers.guests import HttpGuest, RtmpGuest
from streamd.live.handlers.settings import Settings
from streamd.live.protocol import rtmp
from streamd.runtime.state import field, state
from streamd.runtime.vocabulary import (
    Close,
    Closed,
    Command,
    Data,
    End,
    Event,
    Joined,
    Log,
    Move,
    Opened,
    Refused,
    Request,
    Respond,
    Restarted,
    Send,
    Stopping,
    Tick,
    Wake,
)

VERSION = 1

APP = "live"  # the only application: rtmp://host/live/NAME, http://host/live/NAME
NAME = re.compile(
    r"(?!\.+$)[\w.~@:+=,-]{1,128}"
)  # \w: letters and digits of any script; neither "/" nor "%" nor spaces
METHODS = "GET, HEAD, OPTIONS"


@state
class Door:
    """`peer` is None for an HTTP request; `asked` is the method of the request, or "publish", "play", or "" so far."""

    name: str
    settings: Settings = field(factory=Settings)
    began: int = 0
    link: int = 0
    peer: rtmp.Peer | None = None
    asked: str = ""
    phase: Literal["listening", "moving", "gone"] = "listening"


def step(door: Door, event: Event) -> list[Command]:
    """Take one event. Raises PeerError for a malformed connection."""
    match event:
        case Data(now, link, data):
            return feed(door, link, data, now)
        case Opened(now, link, _listener, _where, seed):
            door.peer = rtmp.open_peer(seed, door.settings.max_message_bytes)
            return enter(door, link, now)
        case Joined(now, link, guest, _where):
            return come_back(door, link, guest, now)
        case Request():
            door.link = event.link
            return answer(door, event)
        case Refused(_now, link, to, reason):
            return not_there(door, link, to, reason)
        case Closed(_now, link, _reason):
            return leave(door, link)
        case Tick(_now, _tag):
            return hurry(door)
        case Restarted(_now, links):
            # what it had said so far is lost with the state
            return [Close(link, "restarted before it said what it wants") for link in links] or [
                End("restarted")
            ]
        case Stopping():
            return [Close(door.link, "the server is stopping")] if door.link else []
    return []


def describe(door: Door) -> dict[str, object]:
    return {"kind": "door", "publisher": None, "viewers": 0, "phase": door.phase, "asked": door.asked}


# ---- RTMP: until publish or play ---------------------------------------------------------------------------


def enter(door: Door, link: int, now: int) -> list[Command]:
    """A connection begins, or begins anew, to say what it wants."""
    door.link, door.began, door.phase, door.asked = link, now, "listening", ""
    return [Wake(door.settings.handshake_timeout or -1, "handshake")]


def come_back(door: Door, link: int, guest: object, now: int) -> list[Command]:
    """A connection that has ended its publishing or playing returns, perhaps with its next wish unread already."""
    if not isinstance(guest, RtmpGuest):
        return [Close(link, "came to a door without an RTMP connection")]
    door.peer = guest.peer
    return [*enter(door, link, now), *listen(door, guest.peer, now)]


def feed(door: Door, link: int, data: bytes, now: int) -> list[Command]:
    if door.peer is None or link != door.link or door.phase == "gone":
        return []  # bytes after an HTTP request
    rtmp.feed(door.peer, data, now)
    return listen(door, door.peer, now) if door.phase == "listening" else []


def listen(door: Door, peer: rtmp.Peer, now: int) -> list[Command]:
    """Follow the dialogue until the peer asks for a broadcast or leaves."""
    while (intent := rtmp.pull(peer, now)) is not None:
        match intent:
            case rtmp.Connect(app, _url):
                if app.strip("/") != APP:
                    rtmp.refuse_connect(
                        peer, f"There is no application {app!r} here; use rtmp://host/{APP}/NAME."
                    )
                    return part(door, peer, f"asked for the application {app!r}")
                rtmp.accept_connect(peer)
            case rtmp.Publish(name, _kind, _query):
                if not NAME.fullmatch(name):
                    rtmp.refuse_publish(peer, "NetStream.Publish.BadName", f"{name!r} {BAD_NAME}")
                    return part(door, peer, f"asked to publish {name!r}, which is no name")
                return hand_over(door, peer, RtmpGuest("publish", peer), name, True)
            case rtmp.Play(name, _query, _start):
                if not NAME.fullmatch(name):
                    rtmp.refuse_play(peer, "NetStream.Play.StreamNotFound", f"{name!r} {BAD_NAME}")
                    return part(door, peer, f"asked to play {name!r}, which is no name")
                waits = door.settings.wait_for_publisher > 0
                return hand_over(door, peer, RtmpGuest("play", peer), name, waits)
            case rtmp.Bye():
                return part(door, peer, "closed its connection")
    return flush(door, peer)


BAD_NAME = "cannot be the name of a broadcast: up to 128 letters, digits and . ~ @ : + = , - _"


def hand_over(door: Door, peer: rtmp.Peer, guest: RtmpGuest, name: str, create: bool) -> list[Command]:
    door.phase, door.asked = "moving", guest.wants
    return [*flush(door, peer), Wake(-1, "handshake"), Move(door.link, f"{APP}/{name}", guest, create)]


def flush(door: Door, peer: rtmp.Peer) -> list[Command]:
    out = rtmp.take_output(peer)
    return [Send(door.link, out)] if out else []


def part(door: Door, peer: rtmp.Peer, reason: str) -> list[Command]:
    door.phase = "gone"
    return [*flush(door, peer), Log("info", f"closed: {reason}"), Close(door.link, reason)]


def hurry(door: Door) -> list[Command]:
    if door.phase != "listening" or not door.link:
        return []
    door.phase = "gone"
    seconds = door.settings.handshake_timeout / 1000
    return [Close(door.link, f"did not say within {seconds:g} s what it wants")]


def leave(door: Door, link: int) -> list[Command]:
    if link != door.link:
        return []
    door.link, door.phase = 0, "gone"
    return [End("left")]


def not_there(door: Door, link: int, to: str, reason: str) -> list[Command]:
    """No session took the link: say that nothing is live under that name."""
    if door.peer is None:
        return [watch_flv.refuse(link, audience.nothing_live(to))]
    if door.asked == "publish":
        rtmp.refuse_publish(door.peer, "NetStream.Publish.Denied", f"{to} cannot be published now: {reason}.")
        return [*part(door, door.peer, f"{to} refused: {reason}")]
    rtmp.refuse_play(door.peer, "NetStream.Play.StreamNotFound", audience.nothing_live(to))
    return [Log("debug", f"{to} asked for, which is not live"), *part(door, door.peer, f"{to} is not live")]


# ---- HTTP --------------------------------------------------------------------------------------------------


def answer(door: Door, request: Request) -> list[Command]:
    """Route a request: /live/NAME.flv and /live/NAME; everything else is 404 with a sentence."""
    door.asked = request.method
    if request.method == "OPTIONS":
        headers = {**watch_flv.CORS, "Allow": METHODS, "Access-Control-Max-Age": "86400"}
        return [Respond(request.link, 204, headers, b"", False)]
    if request.method not in ("GET", "HEAD"):
        return [watch_flv.say(request.link, 405, f"Use one of {METHODS} here.", Allow=METHODS)]
    name, kind = route(request.path)
    if kind == "flv":
        return ask_for(door, request, name)
    if kind == "page" and door.settings.page:
        return [Respond(request.link, 200, dict(page.HEADERS), page.render(name), False)]
    return [watch_flv.say(request.link, 404, NO_SUCH_PATH)]


NO_SUCH_PATH = (
    "Nothing is served under this path. A broadcast plays at /live/NAME (a page) and at /live/NAME.flv (over HTTP "
    "or a WebSocket)."
)


def route(path: str) -> tuple[str, Literal["flv", "page", ""]]:
    """(name of the broadcast, what of it is wanted); ("", "") for a path that means nothing. `path` has no % escapes."""
    parts = path.split("/")
    if len(parts) == 4 and not parts[3]:
        parts.pop()  # /live/NAME/
    if len(parts) != 3 or parts[0] or parts[1] != APP:
        return "", ""
    name = parts[2].removesuffix(".flv")
    if not NAME.fullmatch(name):
        return "", ""
    return name, "page" if name == parts[2] else "flv"


def ask_for(door: Door, request: Request, name: str) -> list[Command]:
    """NAME.flv: upgrade, headers only, or the stream; the broadcast answers."""
    newer = request.version == "1.1"
    guest = HttpGuest("head" if request.method == "HEAD" else "flv", chunked=newer)
    # an Upgrade of an HTTP/1.0 client is to be ignored (RFC 9110 7.8)
    if newer and watch_flv.wants_upgrade(request.headers):
        fault = watch_flv.upgrade_fault(request.method, request.headers)
        if fault:
            return [watch_flv.say(request.link, 426, fault, Upgrade="websocket", Sec_WebSocket_Version="13")]
        guest = HttpGuest("ws", request.headers["sec-websocket-key"].strip())
    door.phase = "moving"
    waits = door.settings.wait_for_publisher > 0 and guest.wants != "head"
    return [Move(request.link, f"{APP}/{name}", guest, waits)]
