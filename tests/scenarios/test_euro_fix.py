"""patches/euro_fix.py: a title with a euro sign, from an encoder that writes Windows-1252."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from streamd.live.media import flv
from tests import media_samples, rtmp_client
from tests.scenarios.harness import Encoder, Streamd, running
from tests.scenarios.viewers import KINDS, Viewer, got_everything, watch, watching

pytestmark = pytest.mark.scenario

NAME = "concert"


def titles(viewer: Viewer) -> list[Any]:
    """The titles that a viewer was told, in order."""
    scripts = [rtmp_client.read_amf(seen.payload) for seen in viewer.seen if seen.type == flv.SCRIPT]
    return [values[1]["title"] for values in scripts if values[0] == "onMetaData"]


def knows_more(viewer: Viewer, count: int) -> bool:
    return len(titles(viewer)) > count


async def announce(streamd: Streamd, encoder: Encoder, title: bytes, viewers: list[Viewer]) -> dict[str, str]:
    """Let the encoder send a title: what viewers over each way are told, a latecomer and the operator as well."""
    before = [len(titles(viewer)) for viewer in viewers]
    await encoder.send(flv.Tag(flv.SCRIPT, encoder.sent[-1].dts, media_samples.metadata_body(title)))
    found = {}
    for kind, viewer, count in zip(KINDS, viewers, before, strict=True):
        await viewer.until(partial(knows_more, viewer, count), "a new title")
        found[kind] = titles(viewer)[-1]
    status = await streamd.status()
    return found | {"operator": status["sessions"][0]["title"]}


async def told_at_the_start(streamd: Streamd, encoder: Encoder) -> list[str]:
    """The title that a viewer of each kind is told who comes after the next key picture."""
    await encoder.send_all(gop(encoder))
    found = []
    for kind in KINDS:
        viewer = watch(streamd, NAME, kind, keep=True)
        await viewer.until(viewer.frames, "pictures")
        await viewer.close()
        found.append(titles(viewer)[0])
    return found


def gop(encoder: Encoder) -> list[flv.Tag]:
    """The second of sound and pictures that follows what has been sent."""
    seconds = len([frame for frame in encoder.sent if frame.key])
    return [tag for tag in media_samples.plain() if tag.dts // 1000 == seconds and tag.type != flv.SCRIPT]


async def test_euro_fix_cures_titles_for_viewers_already_watching_and_a_rollback_brings_the_fault_back():
    everyone = (*KINDS, "operator")
    async with running(wait_for_publisher=60) as streamd, watching(streamd, NAME, keep=True) as viewers:
        await streamd.until(
            lambda status: status["sessions"] and status["sessions"][0]["waiting"] == len(KINDS),
            "viewers wait",
        )
        encoder = await Encoder.connect(streamd, NAME)
        await encoder.send_all(gop(encoder))
        for viewer in viewers:
            await viewer.until_level(encoder)

        # version 1: a control character where the euro sign should be; what is UTF-8 is right
        utf8 = "Tickets 5 €".encode()
        assert await announce(streamd, encoder, utf8, viewers) == dict.fromkeys(everyone, "Tickets 5 €")
        found = await announce(streamd, encoder, b"Tickets 6 \x80", viewers)
        assert found == dict.fromkeys(everyone, "Tickets 6 \x80")
        assert await told_at_the_start(streamd, encoder) == ["Tickets 6 \x80"] * len(KINDS)

        # version 2: the next title is right for everybody
        answer = await streamd.ctl("load", "euro_fix.py")
        assert answer["modules"] == {"protocol.text": [1, 2]}
        found = await announce(streamd, encoder, b"Tickets 7 \x80", viewers)
        assert found == dict.fromkeys(everyone, "Tickets 7 €")
        assert await told_at_the_start(streamd, encoder) == ["Tickets 7 €"] * len(KINDS)

        # version 1 again
        answer = await streamd.ctl("rollback")
        assert answer["modules"] == {"protocol.text": [2, 1]}
        found = await announce(streamd, encoder, b"Tickets 8 \x80", viewers)
        assert found == dict.fromkeys(everyone, "Tickets 8 \x80")

        await encoder.send_all(gop(encoder))
        for viewer in viewers:
            await viewer.until_level(encoder)
            assert got_everything(viewer, encoder) == ""
        await encoder.client.close()
