"""Settings: seconds become milliseconds, the rest keeps its default."""

from __future__ import annotations

import pytest

from streamd.live.handlers.settings import Settings, read


@pytest.mark.parametrize(
    ("plain", "changed"),
    [
        ({}, {}),
        ({"publisher_grace": 2.5}, {"publisher_grace": 2_500}),
        ({"publisher_timeout": 7}, {"publisher_timeout": 7_000}),
        ({"handshake_timeout": 0.1}, {"handshake_timeout": 100}),
        ({"wait_for_publisher": 3}, {"wait_for_publisher": 3_000}),
        ({"viewer_max_lag": 1, "viewer_max_slow": 2}, {"viewer_max_lag": 1_000, "viewer_max_slow": 2_000}),
        (
            {"gop_cache_bytes": 100, "max_message_bytes": 200},
            {"gop_cache_bytes": 100, "max_message_bytes": 200},
        ),
        ({"takeover": True, "page": False}, {"takeover": True, "page": False}),
        ({"something else": 1}, {}),
    ],
)
def test_settings(plain, changed):
    assert read(plain) == Settings(**changed)
