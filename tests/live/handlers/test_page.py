"""The page: nothing from elsewhere, nothing of a name taken for markup, and the files it asks for are there."""

from __future__ import annotations

import re
from pathlib import Path

import streamd.drivers
from streamd.live.handlers import page

ASSETS = Path(streamd.drivers.__file__).parent / "assets"


def test_a_name_is_text():
    text = page.render('<b>"x"&').decode()
    assert "<b>" not in text
    assert 'data-name="&lt;b&gt;&quot;x&quot;&amp;"' in text


def test_everything_comes_from_this_server():
    text = page.render("show").decode()
    assert re.findall(r'(?:src|href)="([^"]*)"', text) == [
        "data:,",
        "/assets/player.css",
        "/assets/mpegts.js",
        "/assets/player.js",
    ]
    assert "'self'" in page.POLICY
    assert "unsafe" not in page.POLICY
    assert "<script>" not in text
    assert "style=" not in text


def test_the_files_of_the_page_are_there_and_ask_for_nothing_else():
    for name in ("player.css", "player.js", "mpegts.js"):
        text = (ASSETS / name).read_text()
        assert "sourceMappingURL" not in text
        if name != "mpegts.js":
            assert "http://" not in text
            assert "https://" not in text


def test_the_vendored_player_names_its_version_and_licence():
    assert "1.8.2" in (ASSETS / "README.md").read_text()
    assert "1.8.2" in (ASSETS / "mpegts.js").read_text()[:200]
    assert "Apache License" in (ASSETS / "mpegts.js.LICENSE").read_text()
