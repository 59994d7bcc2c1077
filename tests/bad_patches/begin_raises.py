"""Whoever is there stays; nobody else can come.

Caught: rehearse
Told: begin: KeyError
"""

from __future__ import annotations

from streamd.live.handlers.settings import *  # for your editor

AMENDS = "handlers.settings@1"
VERSION = 2


def read(plain: Mapping[str, object]) -> Settings:
    return Settings(publisher_grace=milliseconds({}, "", plain["grace"]))
