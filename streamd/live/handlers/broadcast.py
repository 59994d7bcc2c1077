"""A broadcast: one name, its publisher, everyone watching, from the first question to the end.

The rule this file keeps: the broadcast is longer than any publisher's connection. When the publisher goes, the viewers
stay for a grace period in phase "waiting"; when it comes back, or another takes over, they go on with the same timeline
from its first key frame. A peer's fault ends that peer only.

    waiting  no publisher: there was one (`lost` says when), or viewers have been allowed to wait for the first
    live     a publisher is connected
    ended    everyone has been told; the session is about to disappear
"""

from __future__ import annotations

from typing import Literal

from streamd.live.handlers import audience, fanout, publish_rtmp
from streamd.live.handlers.audience import Audience
from streamd.live.handlers.fanout import Fanout
from streamd.live.handlers.guests import HttpGuest, RtmpGuest
from streamd.live.handlers.publish_rtmp import Publisher
from streamd.live.handlers.settings import Settings
from streamd.live.media import aac, h264, timeline
from streamd.live.media.frame import Frame
from streamd.live.protocol import rtmp
from streamd.runtime.state import field, state
from streamd.runtime.vocabulary import (
    Close,
    Closed,
    Command,
    Congested,
    Count,
    Data,
    Drained,
    End,
    Event,
    Joined,
    Log,
    Move,
    PeerError,
    Refused,
    Restarted,
    Send,
    Stopping,
    Tick,
    Wake,
)

VERSION = 1

NEVER = -1


@state
class Broadcast:
    """See the module. Times in ms of the kernel's clock; `now` is that of the last event, for `describe`."""

    name: str
    settings: Settings
    fanout: Fanout
    began: int = 0
    now: int = 0
    phase: Literal["waiting", "live", "ended"] = "waiting"
    lost: int = NEVER
    publisher: Publisher | None = None
    title: str = ""
    timeline: timeline.Timeline = field(factory=timeline.Timeline)
    audience: Audience = field(factory=Audience)


def begin(name: str, settings: Settings, now: int) -> Broadcast:
    return Broadcast(name, settings, fanout.begin(settings), began=now, now=now)


def step(broadcast: Broadcast, event: Event) -> list[Command]:
    """Take one event. Raises nothing that is a peer's fault: those links are closed by command."""
    before, broadcast.now = broadcast.now, event.now
    if broadcast.phase == "ended":
        return []
    match event:
        case Data(now, link, data):
            publisher = broadcast.publisher
            if publisher is not None and publisher.link == link:
                return ingest(broadcast, publisher, data, now)
            commands = audience.feed(broadcast.audience, broadcast.fanout, link, data, now)
            return commands + end_if_idle(broadcast) if commands else commands
        case Joined(now, link, guest, where):
            return welcome(broadcast, link, guest, where, now)
        case Closed(now, link, reason):
            return part(broadcast, link, reason, now)
        case Tick(now, tag):
            return wake(broadcast, tag, now)
        case Congested(_now, link, group):
            late = Count(f"viewers of {group} that fell behind and skip to a key frame")
            return [late, *fanout.remind(broadcast.fanout, link, group)]
        case Drained(_now, _link, group):
            return [Count(f"viewers of {group} that caught up")]
        case Refused(_now, link, to, reason):
            return [Close(link, f"{to}: {reason}")]
        case Restarted(now, links):
            return reconcile(broadcast, links, before, now)
        case Stopping():
            return finish(broadcast, True, "The server is stopping.")
    return []


# ---- arrivals ----------------------------------------------------------------------------------------------


def welcome(broadcast: Broadcast, link: int, guest: object, where: str, now: int) -> list[Command]:
    """Somebody comes from the door with a question."""
    commands = fanout.open_rings(broadcast.fanout)
    if isinstance(guest, RtmpGuest) and guest.wants == "publish":
        return commands + begin_publishing(broadcast, link, guest, where, now)
    if not isinstance(guest, RtmpGuest | HttpGuest):
        return [Close(link, "came to a broadcast without a question"), *end_if_idle(broadcast)]
    people = broadcast.audience
    if broadcast.publisher is not None or broadcast.lost != NEVER:
        return commands + audience.admit(people, broadcast.fanout, link, guest, now)
    if guest.wants == "head" or broadcast.settings.wait_for_publisher <= 0:
        return [*audience.refuse(link, guest, audience.nothing_live(broadcast.name)), *end_if_idle(broadcast)]
    return commands + audience.wait(people, link, guest, now, now + broadcast.settings.wait_for_publisher)


def begin_publishing(
    broadcast: Broadcast, link: int, guest: RtmpGuest, where: str, now: int
) -> list[Command]:
    """A publisher comes: the first, one that is back, or one more than there may be."""
    commands: list[Command] = []
    if (former := broadcast.publisher) is not None:
        if not broadcast.settings.takeover:
            return refuse_second(broadcast, link, guest, where, former)
        sentence = f"{where} has taken over {broadcast.name}."
        commands += dismiss_publisher(broadcast, former, "NetStream.Publish.BadName", sentence)
    peer = guest.peer
    rtmp.accept_publish(peer)
    publisher = broadcast.publisher = Publisher(link, where, peer, now, rate_since=now)
    timeline.resume(broadcast.timeline)
    broadcast.phase, broadcast.lost, broadcast.fanout.ready = "live", NEVER, False
    commands += [
        Send(link, rtmp.take_output(peer)),
        Wake(-1, "grace"),
        Wake(broadcast.settings.publisher_timeout or -1, "publisher"),
        Wake(publish_rtmp.RATE_WINDOW, "rate"),
        Log("info", f"{where} publishes with {peer.flash_ver or 'an unnamed encoder'}"),
    ]
    commands += audience.answer_waiting(broadcast.audience, broadcast.fanout, now)
    return commands + ingest(broadcast, publisher, b"", now)


def refuse_second(
    broadcast: Broadcast, link: int, guest: RtmpGuest, where: str, former: Publisher
) -> list[Command]:
    sentence = f"{broadcast.name} is already being published by {former.where}."
    rtmp.refuse_publish(guest.peer, "NetStream.Publish.BadName", sentence)
    return [
        Send(link, rtmp.take_output(guest.peer)),
        Close(link, sentence),
        Log("warning", f"{where} refused: {sentence}"),
    ]


# ---- the publisher's bytes ---------------------------------------------------------------------------------


def ingest(broadcast: Broadcast, publisher: Publisher, data: bytes, now: int) -> list[Command]:
    """Bytes of the publisher become units for everybody; a fault of the publisher ends its connection only."""
    commands: list[Command] = []
    peer, line = publisher.peer, broadcast.timeline
    publish_rtmp.measure(publisher, len(data), now)
    try:
        rtmp.feed(peer, data, now)
        while (intent := rtmp.pull(peer, now)) is not None:
            if type(intent) is rtmp.Media:
                frame = publish_rtmp.read(publisher, line, intent, now)
                if frame is not None:
                    commands += publish(broadcast, publisher, frame, now)
                elif intent.type == rtmp.DATA:
                    commands.append(Count("data messages that viewers need not see, or that are no AMF0"))
            elif type(intent) is rtmp.Unpublish:
                return commands + leave_stage(broadcast, publisher, now)
            elif type(intent) is rtmp.Bye:
                commands += dismiss_publisher(broadcast, publisher, "", "closed its connection")
                return commands + lose_publisher(broadcast, now, "closed its connection")
    except PeerError as error:
        commands += dismiss_publisher(broadcast, publisher, "NetStream.Publish.Rejected", str(error))
        return commands + lose_publisher(broadcast, now, str(error))
    if peer.out:
        commands.append(Send(publisher.link, rtmp.take_output(peer)))
    return commands


def publish(broadcast: Broadcast, publisher: Publisher, frame: Frame, now: int) -> list[Command]:
    """One frame to everybody, if they can use it; newcomers join as soon as there is a frame to start at."""
    fan = broadcast.fanout
    if frame.track == "data":
        broadcast.title = publisher.title
        return fanout.tell_script(fan, frame, frame.payload == publisher.offers.script)
    key = publish_rtmp.starts_here(publisher, frame, now)
    if frame.track == "video" and not key and publisher.started != "video":
        return [Count("frames dropped before the publisher's first key frame")]
    if key:
        publisher.started = "video" if frame.track == "video" else "audio"
    commands = fanout.publish(fan, publisher.offers, frame, key)
    if not fan.ready and publisher.started and publish_rtmp.is_settled(publisher, now):
        fan.ready = True
        commands += audience.let_all_in(broadcast.audience, fan, now)
    return commands


# ---- the publisher's end -----------------------------------------------------------------------------------


def leave_stage(broadcast: Broadcast, publisher: Publisher, now: int) -> list[Command]:
    """The publisher ended its stream in good order: its connection goes back to a door, where it may ask anew."""
    broadcast.publisher = None
    commands: list[Command] = []
    out = rtmp.take_output(publisher.peer)
    if out:
        commands.append(Send(publisher.link, out))
    back = Move(publisher.link, f"door/again/{publisher.link}", RtmpGuest("door", publisher.peer), True)
    return [*commands, back, *lose_publisher(broadcast, now, "ended its stream")]


def dismiss_publisher(broadcast: Broadcast, publisher: Publisher, code: str, sentence: str) -> list[Command]:
    """End a publisher's connection, with a status if `code` is given."""
    broadcast.publisher = None
    if code:
        rtmp.publish_stopped(publisher.peer, code, sentence)
    commands: list[Command] = []
    out = rtmp.take_output(publisher.peer)
    if out:
        commands.append(Send(publisher.link, out))
    return [*commands, Close(publisher.link, sentence)]


def lose_publisher(broadcast: Broadcast, now: int, reason: str) -> list[Command]:
    """Without a publisher: wait for it for the grace period, or end at once if there is none."""
    grace = broadcast.settings.publisher_grace
    broadcast.publisher, broadcast.fanout.ready = None, False
    broadcast.phase, broadcast.lost = "waiting", now
    log = Log(
        "info",
        f"publisher gone: {reason}; {audience.count(broadcast.audience)} viewers kept {grace / 1000:g} s",
    )
    if grace <= 0:
        return [log, *finish(broadcast, False, ENDED)]
    return [log, Wake(-1, "publisher"), Wake(grace, "grace")]


ENDED = "The broadcast has ended."


def finish(broadcast: Broadcast, going_away: bool, sentence: str) -> list[Command]:
    """Tell everyone, close everyone, end the session."""
    commands: list[Command] = []
    if broadcast.publisher is not None:
        commands += dismiss_publisher(broadcast, broadcast.publisher, "NetStream.Unpublish.Success", sentence)
    commands += audience.dismiss(broadcast.audience, going_away, sentence)
    broadcast.phase, broadcast.fanout.ready = "ended", False
    return [*commands, End(sentence)]


# ---- departures and time -----------------------------------------------------------------------------------


def part(broadcast: Broadcast, link: int, reason: str, now: int) -> list[Command]:
    """A link is gone."""
    publisher = broadcast.publisher
    if publisher is not None and publisher.link == link:
        return lose_publisher(broadcast, now, reason)
    return [*audience.forget(broadcast.audience, broadcast.fanout, link), *end_if_idle(broadcast)]


def end_if_idle(broadcast: Broadcast) -> list[Command]:
    """A broadcast that has never had a publisher ends with the last viewer that waited for one."""
    if broadcast.phase == "waiting" and broadcast.lost == NEVER and not audience.count(broadcast.audience):
        broadcast.phase = "ended"
        return [End("nobody waits for it any more")]
    return []


def wake(broadcast: Broadcast, tag: str, now: int) -> list[Command]:
    people, publisher, settings = broadcast.audience, broadcast.publisher, broadcast.settings
    if tag == "ping":
        return audience.ping_all(people, broadcast.fanout, now)
    if tag == "wait" and publisher is None:
        return [
            *audience.refuse_late(people, now, audience.nothing_live(broadcast.name)),
            *end_if_idle(broadcast),
        ]
    if tag == "grace" and publisher is None and broadcast.lost != NEVER:
        return finish(broadcast, False, ENDED)
    if tag == "rate" and publisher is not None:
        publish_rtmp.measure(publisher, 0, now)  # silence is a rate as well
        return [Wake(publish_rtmp.RATE_WINDOW, "rate")]
    if tag == "publisher" and publisher is not None:
        left = publisher.peer.heard + settings.publisher_timeout - now
        if left > 0:
            return [Wake(left, "publisher")]
        sentence = f"sent nothing for {settings.publisher_timeout / 1000:g} s"
        commands = dismiss_publisher(broadcast, publisher, "NetStream.Publish.Idle", sentence)
        return commands + lose_publisher(broadcast, now, sentence)
    return []


def reconcile(broadcast: Broadcast, links: list[int], before: int, now: int) -> list[Command]:
    """Back from a checkpoint, some seconds in the past: these links are open, and no other.

    The publisher has to come back: its chunk stream went on meanwhile, and nobody can read on in the middle of it. The
    viewers' groups belong to the kernel and are as they were. The timeline moves on by the time that is missing, so
    that nothing goes out earlier than what the viewers have.
    """
    commands: list[Command] = []
    people, line = broadcast.audience, broadcast.timeline
    publisher = broadcast.publisher
    if line.top >= 0:
        line.top += max(now - before, 0)
    fanout.distrust(broadcast.fanout)
    commands += fanout.open_rings(broadcast.fanout)
    commands += audience.reconcile(people, broadcast.fanout, frozenset(links), now)
    known = frozenset([*people.flv, *people.raw, *people.ws, *people.rtmp, *people.waiting])
    commands += [Close(link, "the broadcast was restarted") for link in links if link not in known]
    if publisher is not None or broadcast.lost != NEVER:
        return commands + lose_publisher(broadcast, now, "the broadcast was restarted")
    return commands + end_if_idle(broadcast)


# ---- for the operator --------------------------------------------------------------------------------------


def describe(broadcast: Broadcast) -> dict[str, object]:
    """Plain facts; nothing here is called per frame."""
    publisher, people = broadcast.publisher, broadcast.audience
    return {
        "kind": "broadcast",
        "phase": broadcast.phase,
        "publisher": publish_rtmp.describe(publisher, broadcast.now) if publisher is not None else None,
        "viewers": audience.count(people),
        "viewers_by": {"flv": audience.over_http(people), "ws": len(people.ws), "rtmp": len(people.rtmp)},
        "waiting": len(people.waiting),
        "bitrate_kbps": publisher.kbps if publisher is not None else 0,
        "video": h264.describe(publisher.video) if publisher is not None and publisher.video_seen else "",
        "audio": aac.describe(publisher.audio) if publisher is not None and publisher.offers.audio else "",
        "title": broadcast.title,
        "uptime_ms": broadcast.now - broadcast.began,
    }
