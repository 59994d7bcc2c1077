"""A hundred viewers of three broadcasts do not notice twenty loads and twenty rollbacks."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from tests import media_samples
from tests.scenarios.harness import Encoder, Streamd, eventually, running
from tests.scenarios.viewers import KINDS, SMALL, Viewer, got_everything, watch

pytestmark = pytest.mark.scenario

NAMES = ("one", "two", "three")
VIEWERS = 100
LOADS = 20

# A patch that changes what is remembered of a half-read chunk, so that a load in the middle of one has work to do.
CHUNK_PATCH = '''"""chunk_count: count the chunks of a publisher."""

from __future__ import annotations

AMENDS = "protocol.rtmp_chunks@1"
VERSION = 2


@state
class Reader:
    """The same record with a new field in front, and one that is kept as a text."""

    fed: int = 0
    buffer: bytes = b""
    at: int = 0
    chunk_size: str = "128"
    max_message: int = MAX_MESSAGE
'''
