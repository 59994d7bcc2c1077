"""What runs after a restart: the release that was kept, on the package that is installed."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from streamd.live.media import flv
from tests import media_samples
from tests.scenarios.harness import ROOT, Encoder, Streamd, running
from tests.scenarios.viewers import watch

pytestmark = pytest.mark.scenario

SHIPPED: dict[str, int] = {}
EURO = {"protocol.text": 2}
BOTH = {"media.h264": 2, "protocol.text": 2}


async def runs(streamd: Streamd) -> dict[str, int]:
    """The modules of the running release that differ from what was shipped, on the way to it from there."""
    status = await streamd.status()
    releases: dict[int, dict[str, Any]] = {item["number"]: item for item in status["releases"]}
    found: dict[str, int] = {}
    number = status["release"]
    while number is not None:
        found = releases[number]["modules"] | found
        number = releases[number]["parent"]
    return found


async def title(streamd: Streamd) -> str:
    """Which character the byte of the euro sign in Windows-1252 is now, as an operator sees it; a viewer is served."""
    encoder = await Encoder.connect(streamd, "check")
    viewer = watch(streamd, "check", "flv")
    tags = [tag for tag in media_samples.plain() if tag.type != flv.SCRIPT]
    await encoder.send(flv.Tag(flv.SCRIPT, 0, media_samples.metadata_body(b"\x80")))
    await encoder.send_all(tags[:50])
    await viewer.until(viewer.frames, "pictures")
    status = await streamd.until(lambda status: status["sessions"][0]["title"], "a title")
    viewer.ending()
    await encoder.close()
    await streamd.until(lambda status: not status["sessions"], "the broadcast is over")
    return str(status["sessions"][0]["title"])


async def restart(streamd: Streamd) -> None:
    assert await streamd.stop() == 0
    await streamd.start()


async def test_a_restart_boots_the_release_that_was_kept_last():
    async with running(publisher_grace=0) as streamd:
        assert await runs(streamd) == SHIPPED
        assert await title(streamd) == "\x80"
        await streamd.ctl("load", "--probation", "0", "euro_fix.py")
        assert await title(streamd) == "€"

        # loaded and not kept: as if it had never been, after a crash as well
        await restart(streamd)
        assert await runs(streamd) == SHIPPED
        assert await title(streamd) == "\x80"
        await streamd.ctl("load", "--probation", "0", "euro_fix.py")
        await streamd.kill()
        await streamd.start()
        assert await runs(streamd) == SHIPPED

        # kept
        await streamd.ctl("load", "--probation", "0", "euro_fix.py")
        kept = await streamd.ctl("keep")
        await streamd.ctl("load", "--probation", "0", "codec_fix.py")
        assert await runs(streamd) == BOTH
        await restart(streamd)
        status = await streamd.status()
        assert status["release"] == status["kept"] == kept["release"]
        assert await runs(streamd) == EURO
        assert await title(streamd) == "€"

        # and back to what was shipped, kept
        await streamd.ctl("rollback")
        await streamd.ctl("keep")
        await restart(streamd)
        assert await runs(streamd) == SHIPPED
        assert await title(streamd) == "\x80"


async def test_an_upgraded_package_takes_the_kept_patches_that_fit_and_names_the_others(tmp_path):
    shutil.copytree(ROOT / "streamd", tmp_path / "streamd", ignore=shutil.ignore_patterns("__pycache__"))
    async with running(package=tmp_path, publisher_grace=0) as streamd:
        await streamd.ctl("load", "--probation", "0", "codec_fix.py")
        await streamd.ctl("load", "--probation", "0", "euro_fix.py")
        await streamd.ctl("keep")
        assert await streamd.stop() == 0

        # the next version of the package brings a media.h264 of its own
        module = tmp_path / "streamd" / "live" / "media" / "h264.py"
        text = module.read_text(encoding="utf-8")
        assert "\nVERSION = 1\n" in text
        module.write_text(text.replace("\nVERSION = 1\n", "\nVERSION = 2\n"), encoding="utf-8")
        await streamd.start()

        warnings = [line["message"] for line in streamd.lines() if line["level"] == "warning"]
        named = [warning for warning in warnings if "codec_fix.py" in warning]
        assert len(named) == 1, warnings
        assert "media.h264" in named[0]
        assert not any("euro_fix.py" in warning for warning in warnings)
        assert await title(streamd) == "€"
        running_now = next(
            item for item in (await streamd.status())["releases"] if "running" in item["state"]
        )
        assert running_now["patches"] == ["euro_fix.py"]

        # and so it goes on: the next start has nothing to complain about
        await restart(streamd)
        assert [line["message"] for line in streamd.lines() if line["level"] == "warning"] == []
        assert await title(streamd) == "€"
