"""AAC: what an AudioSpecificConfig says, in every way in which it can be said."""

from __future__ import annotations

import av
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.live.media import aac, flv
from streamd.live.media.aac import Config, Track
from streamd.runtime.vocabulary import PeerError
from tests import media_samples


def bits(*fields: tuple[int, int]) -> bytes:
    """(bits, value) pairs as bytes, zeros at the end."""
    text = "".join(f"{value:0{count}b}" for count, value in fields)
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


LC = Config(2, 48_000, 2, False, False, 0, 1024)
# front centre, front pair, back pair, LFE: 5.1 without a channel configuration
PROGRAM = (
    (4, 0), (2, 1), (4, 3), (4, 2), (4, 0), (4, 1), (2, 1), (3, 0), (4, 0), (1, 0), (1, 0), (1, 1), (3, 5),
    (1, 0), (4, 0), (1, 1), (4, 0), (1, 1), (4, 1), (4, 0),
)  # fmt: skip
HEAD = (5, 2), (4, 3), (4, 0), (1, 0), (1, 0), (1, 0)
PADDING = -sum(count for count, _ in (*HEAD, *PROGRAM)) % 8


@pytest.mark.parametrize(
    ("record", "expected", "described"),
    [
        pytest.param(b"\x11\x90", LC, "aac 48000 Hz, 2 channels", id="AAC-LC"),
        pytest.param(b"\x12\x08", LC._replace(sample_rate=44_100, channels=1), "aac 44100 Hz, 1 channel", id="mono"),
        pytest.param(b"\x11\x94", LC._replace(frame_length=960), "aac 48000 Hz, 2 channels", id="960 samples"),
        pytest.param(b"\x11\xb8", LC._replace(channels=8), "aac 48000 Hz, 8 channels", id="7.1"),
        pytest.param(
            bytes.fromhex("2b118800"), Config(2, 24_000, 2, True, False, 48_000, 1024), "he-aac 48000 Hz, 2 channels",
            id="explicit SBR, hierarchical",
        ),
        pytest.param(
            bytes.fromhex("eb098800"), Config(2, 24_000, 1, True, True, 48_000, 1024), "he-aac v2 48000 Hz, 2 channels",
            id="explicit SBR and PS, hierarchical",
        ),
        pytest.param(
            bytes.fromhex("131056e598"), Config(2, 24_000, 2, True, False, 48_000, 1024), "he-aac 48000 Hz, 2 channels",
            id="explicit SBR, backward compatible",
        ),
        pytest.param(
            bytes.fromhex("130856e59d4880"), Config(2, 24_000, 1, True, True, 48_000, 1024),
            "he-aac v2 48000 Hz, 2 channels", id="explicit SBR and PS, backward compatible",
        ),
        pytest.param(bytes.fromhex("119056e500"), LC, "aac 48000 Hz, 2 channels", id="SBR said to be absent"),
        pytest.param(bytes.fromhex("1310" + "00" * 5), LC._replace(sample_rate=24_000), "aac 24000 Hz, 2 channels", id="padding"),
        pytest.param(bytes.fromhex("131056e5"), LC._replace(sample_rate=24_000), "aac 24000 Hz, 2 channels", id="cut extension"),
        pytest.param(
            bits((5, 2), (4, 15), (24, 47_250), (4, 2), (3, 0)), LC._replace(sample_rate=47_250),
            "aac 47250 Hz, 2 channels", id="a rate in full",
        ),
        pytest.param(
            bits((5, 31), (6, 7), (4, 3), (4, 2), (16, 0)), LC._replace(object_type=39), "aac 48000 Hz, 2 channels",
            id="escaped object type (ELD)",
        ),
        pytest.param(
            bits((5, 20), (4, 3), (4, 2), (1, 0), (1, 1), (14, 9), (1, 1), (3, 0), (3, 0), (1, 0), (2, 0)),
            LC._replace(object_type=20), "aac 48000 Hz, 2 channels", id="scalable, error resilient, with core coder",
        ),
        pytest.param(
            bits(*HEAD, *PROGRAM, (PADDING, 0), (8, 2), (16, 0x4142)), LC._replace(channels=6), "aac 48000 Hz, 6 channels",
            id="program config element",
        ),
    ],
)  # fmt: skip
def test_every_way_of_saying_it(record, expected, described):
    assert aac.parse_config(record) == expected
    track = Track()
    aac.learn_config(track, record)
    assert aac.config(track) == record
    assert aac.describe(track) == described


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"\x11",
        b"\x00\x10",
        bits((5, 2), (4, 13), (4, 2), (3, 0)),
        bits((5, 2), (4, 15), (24, 0), (4, 2), (3, 0)),
        bits((5, 2), (4, 3), (4, 8), (3, 0)),
        bits((5, 5), (4, 3), (4, 2), (4, 14)),
        bits((5, 31), (6, 0)),
        bits(*HEAD, *PROGRAM),
        bits(*HEAD, (31, 0), (64, 0)),
        b"\x11\x90" + bytes(2000),
    ],
)
def test_a_malformed_config_is_the_peers_fault_and_changes_nothing(record):
    track = Track(b"\x11\x90")
    with pytest.raises(PeerError):
        aac.learn_config(track, record)
    assert track == Track(b"\x11\x90")


def test_nothing_is_known_at_first():
    assert aac.config(Track()) == b""
    assert aac.describe(Track()) == "aac"


def test_a_config_is_read_as_libavcodec_reads_it():
    tags = media_samples.plain()
    record = next(tag.payload[2:] for tag in tags if tag.type == flv.AUDIO)
    with av.open(str(media_samples.flv_file("aac", tags))) as file:
        known = file.streams.audio[0].codec_context
        config = aac.parse_config(record)
        assert (config.sample_rate, config.channels) == (known.sample_rate, known.layout.nb_channels)
        assert known.extradata == record


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_whatever_comes_only_the_peer_is_blamed(data):
    for record in (
        data,
        b"\x11\x90" + data,
        b"\x11\x80" + data,
        b"\x2b\x11" + data,
        b"\x13\x10\x56\xe5" + data,
    ):
        try:
            assert aac.parse_config(record).sample_rate > 0
        except PeerError:
            pass
