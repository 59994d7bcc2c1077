"""Everyone watching one broadcast, whatever they watch with.

The rule this file keeps: a viewer is in exactly one of `flv`, `raw`, `ws` and `rtmp`, or in `waiting`, and it is handled when
it comes, speaks or goes, never when a frame does. State per viewer is small, because all of it is converted when the
code is patched: an HTTP viewer is a number.

    waiting  asked for a broadcast without a publisher; its question is not answered yet
    pending  answered, but the present publisher has not had its first key frame, or its tracks are not known yet
"""

from __future__ import annotations

from streamd.live.handlers import fanout, watch_flv, watch_rtmp
from streamd.live.handlers.fanout import Fanout
from streamd.live.handlers.guests import HttpGuest, RtmpGuest
from streamd.live.protocol import http_chunked, rtmp, websocket
from streamd.runtime.state import field, state
from streamd.runtime.vocabulary import Close, Command, Leave, Log, Move, PeerError, Send, Wake

VERSION = 1

PING_EVERY = 20_000  # ms; proxies drop silent connections after 30 s or more
# ms without a byte, three pings included, after which a viewer has gone without saying so
DEAD_AFTER = 65_000


@state
class Waiting:
    """A viewer that waits for a publisher until `until` (ms)."""

    guest: RtmpGuest | HttpGuest
    until: int


@state
class Audience:
    """See the module. `flv`, `raw` (over HTTP/1.0) and `pending` map a link to `now` of its coming."""

    flv: dict[int, int] = field(factory=dict)
    raw: dict[int, int] = field(factory=dict)
    ws: dict[int, watch_flv.Socket] = field(factory=dict)
    rtmp: dict[int, watch_rtmp.Viewer] = field(factory=dict)
    pending: dict[int, int] = field(factory=dict)
    waiting: dict[int, Waiting] = field(factory=dict)
    pinging: bool = False


def count(audience: Audience) -> int:
    return over_http(audience) + len(audience.ws) + len(audience.rtmp) + len(audience.waiting)


def over_http(audience: Audience) -> int:
    return len(audience.flv) + len(audience.raw)


# ---- coming ------------------------------------------------------------------------------------------------


def admit(
    audience: Audience, fan: Fanout, link: int, guest: RtmpGuest | HttpGuest, now: int
) -> list[Command]:
    """Answer a viewer, and let it in as soon as there is a frame to start at."""
    commands: list[Command] = []
    if isinstance(guest, HttpGuest):
        commands.append(watch_flv.respond(link, guest))
        if guest.wants == "head":
            return commands
        if guest.wants == "flv":
            (audience.flv if guest.chunked else audience.raw)[link] = now
        else:
            audience.ws[link] = watch_flv.Socket(now)
    else:
        rtmp.accept_play(guest.peer)
        audience.rtmp[link] = watch_rtmp.Viewer(guest.peer)
        commands.append(Send(link, rtmp.take_output(guest.peer)))
    commands += let_in(audience, fan, link, now)
    if guest.wants == "play":
        commands += feed(audience, fan, link, b"", now)  # it may have said more meanwhile
    if guest.wants != "flv" and not audience.pinging:
        audience.pinging = True
        commands.append(Wake(PING_EVERY, "ping"))
    return commands


def let_in(audience: Audience, fan: Fanout, link: int, now: int) -> list[Command]:
    """Make a viewer a member of its group, or remember to do so."""
    if not fan.ready:
        audience.pending[link] = now
        return []
    audience.pending.pop(link, None)
    if link in audience.flv:
        return [fanout.join(fan, link, "flv")]
    if link in audience.raw:
        return [fanout.join(fan, link, "flv.raw")]
    if link in audience.ws:
        return [fanout.join(fan, link, "ws")]
    return place(audience, fan, link, audience.rtmp[link])


def let_all_in(audience: Audience, fan: Fanout, now: int) -> list[Command]:
    """There is a frame to start at: everyone pending joins."""
    return [command for link in list(audience.pending) for command in let_in(audience, fan, link, now)]


def place(audience: Audience, fan: Fanout, link: int, viewer: watch_rtmp.Viewer) -> list[Command]:
    """Move an RTMP viewer to the group where it belongs now."""
    wanted, present = watch_rtmp.group_of(viewer), viewer.group
    if wanted == present:
        return []
    commands: list[Command] = [Leave(link, present)] if present else []
    if wanted and not fan.ready:
        audience.pending[link] = viewer.peer.heard
        wanted = ""
    viewer.group = wanted
    commands += side_groups(audience, fan)
    if wanted:
        commands.append(fanout.join(fan, link, wanted))
    return commands


def side_groups(audience: Audience, fan: Fanout) -> list[Command]:
    """Begin or end the groups of viewers that have switched sound or picture off."""
    used = frozenset(viewer.group for viewer in audience.rtmp.values())
    return fanout.use_sides(fan, used)


# ---- waiting for a publisher -------------------------------------------------------------------------------


def wait(audience: Audience, link: int, guest: RtmpGuest | HttpGuest, now: int, until: int) -> list[Command]:
    """Keep a question open until a publisher comes."""
    audience.waiting[link] = Waiting(guest, until)
    first = min(item.until for item in audience.waiting.values())
    return [Wake(max(first - now, 0), "wait")]


def answer_waiting(audience: Audience, fan: Fanout, now: int) -> list[Command]:
    """A publisher has come."""
    waiting, audience.waiting = audience.waiting, {}
    commands: list[Command] = [Wake(-1, "wait")] if waiting else []
    for link, item in waiting.items():
        commands += admit(audience, fan, link, item.guest, now)
    return commands


def refuse_late(audience: Audience, now: int, sentence: str) -> list[Command]:
    """Tell those whose time is over that nothing is live; ask to be woken for the next."""
    commands: list[Command] = []
    for link, item in list(audience.waiting.items()):
        if item.until <= now:
            del audience.waiting[link]
            commands += refuse(link, item.guest, sentence)
    if audience.waiting:
        first = min(item.until for item in audience.waiting.values())
        commands.append(Wake(first - now, "wait"))
    return commands


def nothing_live(name: str) -> str:
    """The sentence for a viewer of "live/NAME" where nothing is live."""
    return f"Nothing is live at /{name} now. Publish to rtmp://THIS-SERVER/{name} and ask again."


def refuse(link: int, guest: RtmpGuest | HttpGuest, sentence: str) -> list[Command]:
    """Nothing is live: 404, or NetStream.Play.StreamNotFound."""
    if isinstance(guest, HttpGuest):
        return [watch_flv.refuse(link, sentence)]
    rtmp.refuse_play(guest.peer, "NetStream.Play.StreamNotFound", sentence)
    return [Send(link, rtmp.take_output(guest.peer)), Close(link, "nothing is live under that name")]


# ---- speaking ----------------------------------------------------------------------------------------------


def feed(audience: Audience, fan: Fanout, link: int, data: bytes, now: int) -> list[Command]:
    """Bytes from a viewer. Its faults are its own end."""
    try:
        if (viewer := audience.rtmp.get(link)) is not None:
            return feed_rtmp(audience, fan, link, viewer, data, now)
        if (socket := audience.ws.get(link)) is not None:
            return feed_socket(audience, fan, link, socket, data, now)
        if (item := audience.waiting.get(link)) is not None and isinstance(item.guest, RtmpGuest):
            rtmp.feed(item.guest.peer, data, now)
    except PeerError as error:
        return part_with(audience, fan, link, str(error))
    return []  # an HTTP viewer has nothing to say after its request


def feed_rtmp(
    audience: Audience, fan: Fanout, link: int, viewer: watch_rtmp.Viewer, data: bytes, now: int
) -> list[Command]:
    outcome = watch_rtmp.feed(viewer, data, now)
    out = rtmp.take_output(viewer.peer)
    commands: list[Command] = [Send(link, out)] if out else []
    if outcome == "":
        return commands + (place(audience, fan, link, viewer) if link not in audience.pending else [])
    if viewer.group:
        commands.append(Leave(link, viewer.group))
    commands += forget(audience, fan, link)
    if outcome == "bye":
        return [*commands, Close(link, "closed its connection")]
    return [*commands, Move(link, f"door/again/{link}", RtmpGuest("door", viewer.peer), True)]


def feed_socket(
    audience: Audience, fan: Fanout, link: int, socket: watch_flv.Socket, data: bytes, now: int
) -> list[Command]:
    answer, closed = watch_flv.feed(socket, data, now)
    if closed:
        return [*forget(audience, fan, link), *say_goodbye(link, "ws", answer, "closed by the viewer")]
    return [Send(link, answer)] if answer else []


def ping_all(audience: Audience, fan: Fanout, now: int) -> list[Command]:
    """Ask for signs of life, and part with those that have given none for long."""
    commands: list[Command] = []
    for link, viewer in list(audience.rtmp.items()):
        if viewer.deaf:
            continue
        if now - viewer.peer.heard > DEAD_AFTER:
            commands += part_with(audience, fan, link, NO_LIFE)
            continue
        rtmp.ping(viewer.peer, now)
        commands.append(Send(link, rtmp.take_output(viewer.peer)))
    for link, socket in list(audience.ws.items()):
        if now - socket.heard > DEAD_AFTER:
            commands += part_with(audience, fan, link, NO_LIFE)
            continue
        commands.append(Send(link, watch_flv.ping()))
    audience.pinging = bool(audience.rtmp or audience.ws)
    if audience.pinging:
        commands.append(Wake(PING_EVERY, "ping"))
    return commands


NO_LIFE = f"gave no sign of life for {DEAD_AFTER // 1000} s"


# ---- going -------------------------------------------------------------------------------------------------


def forget(audience: Audience, fan: Fanout, link: int) -> list[Command]:
    """A viewer has gone, or is about to."""
    audience.pending.pop(link, None)
    audience.waiting.pop(link, None)
    audience.flv.pop(link, None)
    audience.raw.pop(link, None)
    audience.ws.pop(link, None)
    viewer = audience.rtmp.pop(link, None)
    return side_groups(audience, fan) if viewer is not None and viewer.group in fan.sides else []


def part_with(audience: Audience, fan: Fanout, link: int, reason: str) -> list[Command]:
    """Close a viewer for a fault of its own, and say so in the log."""
    log = Log("info", f"the viewer on link {link} closed: {reason}")
    return [*forget(audience, fan, link), log, Close(link, reason)]


def dismiss(audience: Audience, going_away: bool, sentence: str) -> list[Command]:
    """Tell everyone that it is over, each in its own language, and close. `going_away`: the server stops."""
    commands: list[Command] = []
    for link, viewer in audience.rtmp.items():
        rtmp.play_stopped(viewer.peer, "NetStream.Play.UnpublishNotify", sentence)
        commands += say_goodbye(link, viewer.group, rtmp.take_output(viewer.peer), sentence)
    for link in audience.ws:
        commands += say_goodbye(link, "ws", watch_flv.farewell(going_away, sentence), sentence)
    for link in audience.flv:
        commands += say_goodbye(link, "flv", http_chunked.LAST, sentence)
    commands += [Close(link, sentence) for link in audience.raw]
    for link, item in audience.waiting.items():
        commands += refuse(link, item.guest, sentence)
    for table in (audience.flv, audience.raw, audience.ws, audience.rtmp, audience.pending, audience.waiting):
        table.clear()
    return commands


def say_goodbye(link: int, group: str, last: bytes, sentence: str) -> list[Command]:
    """Close a viewer with `last` as its last bytes: after everything that its group was sent."""
    leave: list[Command] = [Leave(link, group)] if group else []
    return [*leave, Send(link, last), Close(link, sentence)]


def reconcile(audience: Audience, fan: Fanout, links: frozenset[int], now: int) -> list[Command]:
    """Back from a checkpoint: forget who has gone; memberships have outlived the restart, half-read bytes have not."""
    commands: list[Command] = []
    known = [*audience.flv, *audience.raw, *audience.ws, *audience.rtmp, *audience.waiting]
    for link in known:
        if link not in links:
            commands += forget(audience, fan, link)
    for link in [*audience.pending, *audience.waiting]:
        # it may have been let in since the checkpoint; a second beginning in the middle would be garbage
        commands += [*forget(audience, fan, link), Close(link, "the broadcast was restarted")]
    for viewer in audience.rtmp.values():
        viewer.deaf = True
    for socket in audience.ws.values():
        socket.reader, socket.heard = websocket.Reader(), now
    audience.pinging = True
    commands.append(Wake(PING_EVERY, "ping"))
    if audience.waiting:
        commands.append(Wake(0, "wait"))
    return commands
