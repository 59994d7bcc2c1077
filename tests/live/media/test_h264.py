"""H.264: parameter sets, configuration records and what a track learns, checked against libavcodec."""

from __future__ import annotations

import re
import struct

import av
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.live.media import flv, h264
from streamd.live.media.h264 import Track
from streamd.runtime.vocabulary import PeerError
from tests import media_samples

SPS, PPS = b"\x67\x42\xc0\x0d\xd9\x02\x83\xf6", b"\x68\xcb\x83\xcb\x20"
IDR, SLICE, SEI = b"\x65\x88\x84\x00", b"\x41\x9a\x02", b"\x06\x05\x01\x80"


class Bits:
    """Writes an SPS bit by bit."""

    def __init__(self) -> None:
        self.bits = ""

    def u(self, count: int, value: int) -> Bits:
        self.bits += f"{value:0{count}b}"
        return self

    def ue(self, *values: int) -> Bits:
        for value in values:
            digits = f"{value + 1:b}"
            self.bits += "0" * (len(digits) - 1) + digits
        return self

    def sps(self) -> bytes:
        """With header, trailing bits and emulation prevention."""
        bits = self.bits + "1"
        bits += "0" * (-len(bits) % 8)
        body = int(bits, 2).to_bytes(len(bits) // 8, "big")
        return b"\x67" + re.sub(rb"\0\0(?=[\0-\3])", b"\0\0\3", body)


def baseline(set_id: int = 0, width: int = 20, height: int = 15) -> Bits:
    """Up to the flag frame_mbs_only, sizes in macroblocks."""
    return Bits().u(8, 66).u(8, 0xC0).u(8, 30).ue(set_id, 0, 2, 1).u(1, 0).ue(width - 1, height - 1)


def small_sps(set_id: int, width: int = 20) -> bytes:
    return baseline(set_id, width).u(1, 1).u(1, 1).u(1, 0).u(1, 0).sps()


def small_pps(set_id: int, extra: bytes = b"\x20") -> bytes:
    return b"\x68" + bytes((int(Bits().ue(set_id).bits.ljust(8, "1")[:8], 2),)) + extra


def units(*nals: bytes, length: int = 4) -> bytes:
    return b"".join(len(nal).to_bytes(length, "big") + nal for nal in nals)


def header_of(tags: media_samples.Tags) -> bytes:
    return next(tag.payload[5:] for tag in tags if tag.type == flv.VIDEO)


# ---- the sequence parameter set ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "height", "profile", "b_frames", "rate"),
    [
        (320, 240, "baseline", 0, 25),
        (1920, 1080, "high", 2, 50),
        (854, 480, "main", 2, 30),
        (426, 240, "high", 0, 24),
        (1366, 768, "main", 0, 15),
        (322, 182, "baseline", 0, 60),
        (322, 182, "high422", 0, 25),
        (321, 183, "high444", 2, 25),
    ],
)
def test_an_sps_is_read_as_libavcodec_reads_it(width, height, profile, b_frames, rate):
    tags = media_samples.video_only(width, height, profile, b_frames, rate)
    record = header_of(tags)
    sps = h264.parse_sps(h264.parse_config(record)[0][0])
    with av.open(str(media_samples.flv_file("sps", tags))) as file:
        stream = file.streams.video[0]
        known = stream.codec_context
        frame = next(file.decode(video=0))
        assert (sps.width, sps.height) == (frame.width, frame.height) == (width, height)
        assert sps.frame_rate == pytest.approx(float(known.framerate)) == rate
        assert re.sub(r"\W.*", "", str(known.profile).replace("Constrained ", "")).lower() == {
            66: "baseline", 77: "main", 100: "high", 122: "high", 244: "high",
        }[sps.profile]  # fmt: skip
        assert {"yuv420p": 1, "yuv422p": 2, "yuv444p": 3}[frame.format.name] == sps.chroma_format
    assert sps.bit_depth == 8
    assert not sps.interlaced


@pytest.mark.parametrize(
    ("sps", "expected"),
    [
        pytest.param(baseline().u(1, 1).u(1, 1).u(1, 0).u(1, 0), (320, 240, 0.0, False), id="plain"),
        pytest.param(
            baseline(0, 120, 68).u(1, 1).u(1, 1).u(1, 1).ue(0, 0, 0, 4).u(1, 0), (1920, 1080, 0.0, False), id="1080 lines"
        ),
        pytest.param(
            baseline(0, 120, 34).u(1, 0).u(1, 1).u(1, 1).u(1, 1).ue(0, 0, 0, 2).u(1, 0),
            (1920, 1080, 0.0, True),
            id="interlaced: cropping counts in 4 lines",
        ),
        pytest.param(
            baseline().u(1, 1).u(1, 1).u(1, 1).ue(1, 2, 3, 4).u(1, 0), (314, 226, 0.0, False), id="cropped on all sides"
        ),
        pytest.param(
            baseline().u(1, 1).u(1, 1).u(1, 0).u(1, 1).u(1, 1).u(8, 255).u(32, 0x00400021).u(1, 1).u(1, 1)
            .u(1, 1).u(4, 5).u(1, 1).u(24, 0x010101).u(1, 1).ue(2, 2).u(1, 1).u(32, 1001).u(32, 60000).u(1, 1),
            (320, 240, 60000 / 1001 / 2, False),
            id="everything in the VUI",
        ),
        pytest.param(
            baseline().u(1, 1).u(1, 1).u(1, 0).u(1, 1).u(4, 1).u(32, 0).u(32, 50), (320, 240, 0.0, False), id="a tick of 0"
        ),
        pytest.param(baseline().u(1, 1).u(1, 1).u(1, 0).u(1, 1).u(1, 1), (320, 240, 0.0, False), id="VUI cut short"),
        pytest.param(
            Bits().u(8, 100).u(8, 0).u(8, 30).ue(0, 1, 0, 0).u(1, 0).u(1, 1).u(1, 1).ue(*[0] * 16).u(7, 0)
            .ue(0, 1).u(1, 0).ue(0, 0, 2).ue(4, 5).ue(1).u(1, 0).ue(19, 14).u(1, 1).u(1, 1).u(1, 0).u(1, 0),
            (320, 240, 0.0, False),
            id="scaling list and picture order type 1",
        ),
    ],
)  # fmt: skip
def test_an_sps_written_by_hand(sps, expected):
    found = h264.parse_sps(sps.sps())
    assert (found.width, found.height, found.frame_rate, found.interlaced) == expected


@pytest.mark.parametrize(
    "sps",
    [
        b"",
        b"\x67",
        b"\x68\x42\xc0\x0d\xd9",
        b"\x67\x42\xc0\x0d\x00\x00\x00\x00\x00\x00",
        b"\x67" + bytes(2000),
        baseline(0, 70_000, 4).u(1, 1).u(1, 1).u(1, 0).u(1, 0).sps(),
        baseline(0, 1, 1).u(1, 1).u(1, 1).u(1, 1).ue(8, 8, 8, 8).u(1, 0).sps(),
        Bits().u(8, 100).u(8, 0).u(8, 30).ue(0, 4, 0, 0).u(80, 0).sps(),
        Bits().u(8, 100).u(8, 0).u(8, 30).ue(0, 1, 7, 0).u(80, 0).sps(),
        Bits().u(8, 66).u(8, 0).u(8, 30).ue(0, 0, 3, 1).u(80, 0).sps(),
        Bits().u(8, 66).u(8, 0).u(8, 30).ue(0, 0, 1).u(1, 0).ue(0, 0, 300).u(80, 0).sps(),
        b"\x67\x42\xc0\x0d" + b"\xff" * 70_000,
    ],
)
def test_a_malformed_sps_is_the_peers_fault(sps):
    with pytest.raises(PeerError):
        h264.parse_sps(sps)


def test_an_sps_cut_anywhere_is_the_peers_fault_or_lacks_its_vui():
    sps = h264.parse_config(header_of(media_samples.video_only(1920, 1080, "high", 2, 50)))[0][0]
    whole = h264.parse_sps(sps)
    assert h264.parse_sps(sps + b"trailing") == whole
    for end in range(len(sps)):
        try:
            assert h264.parse_sps(sps[:end])[:6] == whole[:6]
        except PeerError:
            assert end < 16


# ---- the configuration record --------------------------------------------------------------------------------


HIGH = (
    Bits()
    .u(8, 100)
    .u(8, 0)
    .u(8, 31)
    .ue(0, 1, 0, 0)
    .u(1, 0)
    .u(1, 0)
    .ue(0, 2, 1)
    .u(1, 0)
    .ue(19, 14)
    .u(4, 0b1100)
    .sps()
)


def record(
    sps: list[bytes], pps: list[bytes], rest: bytes = b"", fourth: int = 0xFF, fifth: int = 0xE0
) -> bytes:
    """As a careless encoder may write it: profile and level 0, `fourth` and `fifth` for the reserved bits."""
    first, second = (b"".join(struct.pack(">H", len(one)) + one for one in sets) for sets in (sps, pps))
    return b"\x01\0\0\0" + bytes((fourth, fifth | len(sps))) + first + bytes((len(pps),)) + second + rest


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param(b"", ([], [], b""), id="nothing"),
        pytest.param(record([SPS], [PPS]), ([SPS], [PPS], b""), id="one of each"),
        pytest.param(record([SPS], [PPS], fourth=3, fifth=0), ([SPS], [PPS], b""), id="reserved bits clear"),
        pytest.param(
            record([SPS, small_sps(1)], [PPS, small_pps(1)]),
            ([SPS, small_sps(1)], [PPS, small_pps(1)], b""),
            id="two",
        ),
        pytest.param(record([SPS], [PPS], b"\xfd\xf8\xf8\0"), ([SPS], [PPS], b""), id="Baseline has no rest"),
        pytest.param(
            record([HIGH], [PPS], b"\xfd\xf8\xf8\0"),
            ([HIGH], [PPS], b"\xfd\xf8\xf8\0"),
            id="High with its rest",
        ),
        pytest.param(record([HIGH], [PPS]), ([HIGH], [PPS], b"\xfd\xf8\xf8\0"), id="High without"),
        pytest.param(
            record([HIGH], [PPS], b"\xfd\xf8"), ([HIGH], [PPS], b"\xfd\xf8\xf8\0"), id="High, cut short"
        ),
        pytest.param(
            record([HIGH], [PPS], b"\xfd\xf8\xf8\x01\0\x02\x6d\x80junk"),
            ([HIGH], [PPS], b"\xfd\xf8\xf8\x01\0\x02\x6d\x80"),
            id="an SPS extension and trailing bytes",
        ),
        pytest.param(record([b"", SPS], [PPS, b""]), ([SPS], [PPS], b""), id="empty sets are left out"),
        pytest.param(record([], []), ([], [], b""), id="no sets: they come in-band"),
    ],
)
def test_a_record_is_taken_apart_and_put_together_canonically(given, expected):
    assert h264.parse_config(given) == expected
    packed = h264.pack_config(*expected)
    assert h264.parse_config(packed) == (expected if packed else ([], [], b""))
    assert h264.pack_config(*h264.parse_config(packed)) == packed


@pytest.mark.parametrize(
    "given",
    [
        b"\x01",
        b"\0\0\0\x01\x67\x42\xc0\x0d",
        b"\x02" + record([SPS], [PPS])[1:],
        record([PPS], [SPS]),
        record([SPS[:4]], [PPS]),
        record([SPS], [b"\x68"]),
        record([SPS], [PPS], fourth=0xFE),
        record([SPS + bytes(40_000)], [PPS + bytes(40_000)]),
        *(record([SPS], [PPS])[:end] for end in range(1, len(record([SPS], [PPS])))),
    ],
)
def test_a_malformed_record_is_the_peers_fault_and_changes_nothing(given):
    track = Track()
    h264.learn_config(track, record([HIGH], [PPS]))
    before = (track.config, track.nal_length)
    with pytest.raises(PeerError):
        h264.learn_config(track, given)
    assert (track.config, track.nal_length) == before


@pytest.mark.parametrize("sample", [media_samples.plain, media_samples.b_frames])
def test_the_record_of_an_encoder_stays_as_it_is(sample):
    track = Track()
    h264.learn_config(track, header_of(sample()))
    assert h264.config(track) == header_of(sample())
    assert h264.describe(track) == "h264 320x240"


def test_nothing_is_known_at_first():
    assert h264.config(Track()) == b""
    assert h264.describe(Track()) == "h264"


# ---- NAL units -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 4])
def test_nal_units_of_every_length_size(length):
    payload = units(SEI, b"", IDR, SLICE, length=length)
    assert h264.nal_units(payload, length) == [SEI, IDR, SLICE]
    assert h264.is_key(payload, length)
    assert not h264.is_key(units(SEI, SLICE, length=length), length)


@pytest.mark.parametrize("end", [1, 3, 4, 5, 7, 9, 12])
def test_a_frame_that_ends_within_a_nal_unit_is_the_peers_fault(end):
    payload = units(SEI, IDR)[:end]
    with pytest.raises(PeerError):
        h264.nal_units(payload)


def test_a_frame_of_a_million_nal_units_is_refused():
    with pytest.raises(PeerError):
        h264.nal_units(b"\0\0\0\x01\x09" * 10_000)


# ---- what a track learns -------------------------------------------------------------------------------------


WIDE = small_sps(0, 40)


@pytest.mark.parametrize(
    ("messages", "size"),
    [
        pytest.param([], "320x240", id="the sequence header"),
        pytest.param([units(WIDE, PPS, IDR)], "640x240", id="sets with the key picture"),
        pytest.param([units(SEI, WIDE, SEI, IDR)], "640x240", id="the SPS alone"),
        pytest.param([units(SLICE), units(SEI)], "320x240", id="no sets"),
        pytest.param([units(WIDE, PPS, SLICE)], "320x240", id="sets with a picture that is no key picture"),
        pytest.param([units(WIDE, PPS), units(IDR)], "320x240", id="sets between pictures are left alone"),
        pytest.param([units(small_sps(3, 40), IDR)], "320x240", id="a set of another id stands beside"),
    ],
)
def test_version_1_learns_from_key_pictures_only(messages, size):
    track = Track()
    h264.learn_config(track, record([small_sps(0)], [PPS]))
    for message in messages:
        h264.learn(track, message)
    assert h264.describe(track) == f"h264 {size}"
    assert h264.pack_config(*h264.parse_config(track.config)) == track.config


def test_sets_replace_their_namesakes_and_others_stay():
    known = [small_sps(0), small_sps(1)]
    assert h264.replace_sets(known, [small_sps(1, 40), small_sps(2)]) == [
        small_sps(0),
        small_sps(1, 40),
        small_sps(2),
    ]
    sps, pps, rest = h264.merge_sets([small_sps(0)], [small_pps(0)], b"", [HIGH, small_pps(1)])
    assert (sps, pps, rest) == ([HIGH], [small_pps(0), small_pps(1)], b"\xfd\xf8\xf8\0")


def test_a_track_without_a_sequence_header_learns_from_the_first_key_picture():
    track = Track()
    h264.learn(track, units(WIDE, PPS, IDR))
    assert h264.config(track) == h264.pack_config([WIDE], [PPS], b"")


def test_the_sets_of_a_track_are_bounded():
    track = Track()
    with pytest.raises(PeerError):
        h264.learn(track, units(*(small_sps(number) for number in range(32)), PPS, IDR))
    with pytest.raises(PeerError):
        h264.learn(track, units(SPS + bytes(65_535), PPS, IDR))
    assert track == Track()


# ---- hostile bytes -------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=200),
    st.sampled_from((b"", b"\x67", b"\x67\x64\0\x1f", record([HIGH], [PPS]), units(SPS, IDR))),
)
def test_whatever_comes_only_the_peer_is_blamed(data, start):
    for parse in (h264.parse_sps, h264.parse_config, h264.nal_units, h264.is_key, h264.parameter_sets):
        try:
            parse(start + data)
        except PeerError:
            pass
    track = Track()
    for learn in (h264.learn_config, h264.learn, h264.learn):
        try:
            learn(track, start + data)
        except PeerError:
            pass
    assert h264.pack_config(*h264.parse_config(track.config), track.nal_length) == track.config
    h264.describe(track)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_record_with_flipped_bytes_only_blames_the_peer(data):
    good = bytearray(record([HIGH, SPS], [PPS, small_pps(1)], b"\xfd\xf8\xf8\x01\0\x02\x6d\x80"))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    track = Track()
    try:
        h264.learn_config(track, bytes(good))
    except PeerError:
        return
    assert h264.pack_config(*h264.parse_config(track.config), track.nal_length) == track.config
