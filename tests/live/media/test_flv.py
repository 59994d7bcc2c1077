"""FLV: message bodies and tags, both ways, checked against FFmpeg."""

from __future__ import annotations

import hashlib

import av
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.live.media import flv
from streamd.live.media.flv import AudioTag, Reader, Tag, VideoTag
from streamd.live.media.frame import Frame
from streamd.live.protocol import amf0
from streamd.runtime.vocabulary import PeerError
from tests import media_samples


def pull_all(reader: Reader) -> list[Tag]:
    return [tag for tag in iter(lambda: flv.pull(reader), None) if tag is not None]


# ---- message bodies ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"", VideoTag("command", "h264", False, 0, b"")),
        (b"\x17\x00\0\0\0record", VideoTag("config", "h264", True, 0, b"record")),
        (b"\x17\x00\0\0\0", VideoTag("command", "h264", True, 0, b"")),
        (b"\x17\x01\0\0\0picture", VideoTag("frame", "h264", True, 0, b"picture")),
        (b"\x27\x01\0\0\x28picture", VideoTag("frame", "h264", False, 40, b"picture")),
        (b"\x27\x01\xff\xff\xd8picture", VideoTag("frame", "h264", False, -40, b"picture")),
        (b"\x37\x01\x80\0\0picture", VideoTag("frame", "h264", False, -(2**23), b"picture")),
        (b"\x27\x01\0\0\0", VideoTag("command", "h264", False, 0, b"")),
        (b"\x17\x02\0\0\0", VideoTag("end", "h264", False, 0, b"")),
        (b"\x17\x02", VideoTag("end", "h264", False, 0, b"")),
        (b"\x57\x00", VideoTag("command", "h264", False, 0, b"\0")),
        (b"\x52\x01", VideoTag("command", "h264", False, 0, b"\x01")),
        # Enhanced RTMP
        (b"\x90avc1record", VideoTag("config", "h264", True, 0, b"record")),
        (b"\xa1avc1\xff\xff\xd8picture", VideoTag("frame", "h264", False, -40, b"picture")),
        (b"\x93avc1picture", VideoTag("frame", "h264", True, 0, b"picture")),
        (b"\x92avc1", VideoTag("end", "h264", False, 0, b"")),
        (b"\x94avc1colour", VideoTag("command", "h264", False, 0, b"colour")),
        (b"\xd1\x00", VideoTag("command", "h264", False, 0, b"\0")),
    ],
)
def test_video_messages(payload, expected):
    assert flv.read_video(payload) == expected


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"", AudioTag("command", "aac", b"")),
        (b"\xaf", AudioTag("command", "aac", b"")),
        (b"\xaf\x01", AudioTag("command", "aac", b"")),
        (b"\xaf\x00\x11\x90", AudioTag("config", "aac", b"\x11\x90")),
        (b"\xaf\x01sound", AudioTag("frame", "aac", b"sound")),
        (b"\xa0\x01sound", AudioTag("frame", "aac", b"sound")),
        (b"\x90mp4a\x11\x90", AudioTag("config", "aac", b"\x11\x90")),
        (b"\x91mp4asound", AudioTag("frame", "aac", b"sound")),
        (b"\x92mp4a", AudioTag("end", "aac", b"")),
        (b"\x94mp4a\0\x02", AudioTag("command", "aac", b"\0\x02")),
    ],
)
def test_audio_messages(payload, expected):
    assert flv.read_audio(payload) == expected


@pytest.mark.parametrize(
    ("read", "payload", "named"),
    [
        (flv.read_video, b"\x12\0\0\0\0", "Sorenson H.263"),
        (flv.read_video, b"\x14\0\0\0\0", "On2 VP6"),
        (flv.read_video, b"\x1c\0\0\0\0", "number 12"),
        (flv.read_video, b"\x90hvc1record", "'hvc1'"),
        (flv.read_video, b"\x91av01picture", "'av01'"),
        (flv.read_video, b"\x91\0\xff\n'picture", "\\n"),
        (flv.read_video, b"\x96\x01avc1", "multitrack"),
        (flv.read_audio, b"\x2f\0", "MP3"),
        (flv.read_audio, b"\xbf\0", "Speex"),
        (flv.read_audio, b"\xcf\0", "number 12"),
        (flv.read_audio, b"\x91Opussound", "'Opus'"),
        (flv.read_audio, b"\x95\x01mp4a", "multitrack"),
    ],
)
def test_another_codec_is_named_and_refused(read, payload, named):
    with pytest.raises(PeerError) as caught:
        read(payload)
    assert named in str(caught.value)
    assert "H.264 (AVC) video and AAC audio are supported" in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("read", "payload"),
    [
        (flv.read_video, b"\x17"),
        (flv.read_video, b"\x17\x01\0\0"),
        (flv.read_video, b"\x17\x03\0\0\0x"),
        (flv.read_video, b"\x91avc"),
        (flv.read_video, b"\x91avc1\0\0"),
        (flv.read_video, b"\x95avc1x"),
        (flv.read_audio, b"\xaf\x02x"),
        (flv.read_audio, b"\x91mp4"),
        (flv.read_audio, b"\x93mp4ax"),
    ],
)
def test_a_malformed_message_is_the_peers_fault(read, payload):
    with pytest.raises(PeerError):
        read(payload)


@pytest.mark.parametrize(
    ("frame", "kind", "body"),
    [
        (Frame("video", "h264", 40, 40, True, b"picture"), 9, b"\x17\x01\0\0\0picture"),
        (Frame("video", "h264", 40, 120, False, b"picture"), 9, b"\x27\x01\0\0\x50picture"),
        (Frame("video", "h264", 40, 0, False, b"picture"), 9, b"\x27\x01\xff\xff\xd8picture"),
        (Frame("video", "h264", 2**40, 2**40 + 80, True, b""), 9, b"\x17\x01\0\0\x50"),
        (Frame("audio", "aac", 7, 7, True, b"sound"), 8, b"\xaf\x01sound"),
        (Frame("data", "script", 7, 7, False, b"script"), 18, b"script"),
    ],
)
def test_a_frame_is_a_message_of_its_type(frame, kind, body):
    assert flv.message_type(frame) == kind
    assert flv.body(frame) == body
    assert flv.mux(frame) == flv.tag(kind, frame.dts, body)
    if frame.payload and kind == 9:
        read = flv.read_video(body)
        assert (read.kind, read.key, read.body) == ("frame", frame.key, frame.payload)
        assert frame.dts + read.composition == frame.pts


def test_sequence_headers():
    assert flv.read_video(flv.config_body("h264", b"record")) == VideoTag(
        "config", "h264", True, 0, b"record"
    )
    assert flv.read_audio(flv.config_body("aac", b"\x11\x90")) == AudioTag("config", "aac", b"\x11\x90")


def test_a_script_message_has_its_values_and_a_dict_is_an_ecma_array():
    body = flv.script("onMetaData", {"width": 320.0, "title": "5 €"})
    assert amf0.decode(body) == ["onMetaData", {"width": 320.0, "title": "5 €"}]
    assert body[13] == 8
    assert amf0.decode(flv.script("onCue", 1.0, "two", None, True)) == ["onCue", 1.0, "two", None, True]


# ---- files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dts", "on_the_wire"),
    [
        (0, "00000000"),
        (0xFF_FFFF, "ffffff00"),
        (2**24, "00000001"),
        (2**31 - 1, "ffffff7f"),
        (2**31, "00000080"),
        (2**32 - 1, "ffffffff"),
        (2**32, "00000000"),
        (2**32 + 2**24 + 5, "00000501"),
    ],
)
def test_the_time_of_a_tag_has_its_upper_bits_last(dts, on_the_wire):
    tag = flv.tag(9, dts, b"body")
    assert tag == b"\x09\0\0\x04" + bytes.fromhex(on_the_wire) + b"\0\0\0body" + b"\0\0\0\x0f"
    reader = Reader(phase="tags")
    flv.feed(reader, tag)
    assert flv.pull(reader) == Tag(9, dts % 2**32, b"body")


@pytest.mark.parametrize(("audio", "video", "flags"), [(True, True, 5), (True, False, 4), (False, True, 1)])
def test_the_header_of_a_file(audio, video, flags):
    header = flv.header(audio, video)
    assert header == b"FLV\x01" + bytes((flags,)) + b"\0\0\0\x09" + b"\0\0\0\0"
    reader = Reader()
    flv.feed(reader, header)
    assert flv.pull(reader) is None
    assert (reader.audio, reader.video) == (audio, video)


TAGS = [
    Tag(18, 0, b"meta"),
    Tag(9, 2**24, b"\x17\x01\0\0\0pic"),
    Tag(8, 2**32 - 1, b""),
    Tag(9, 3, bytes(300)),
]
FILE = flv.header(True, True) + b"".join(flv.tag(*tag) for tag in TAGS)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 11, 64, len(FILE)])
def test_a_file_is_read_in_pieces_of_any_size(size):
    reader, found = Reader(), []
    for at in range(0, len(FILE), size):
        flv.feed(reader, FILE[at : at + size])
        found += pull_all(reader)
    assert found == TAGS
    assert not reader.buffer


def test_what_follows_a_tag_stays_in_the_buffer():
    reader = Reader()
    flv.feed(reader, FILE + b"\x09\0\0")
    assert pull_all(reader) == TAGS
    assert reader.buffer == b"\x09\0\0"


def test_a_longer_header_is_passed_over():
    reader = Reader()
    flv.feed(reader, b"FLV\x02\x05\0\0\0\x0cxyz\0\0\0\0" + flv.tag(*TAGS[0]))
    assert flv.pull(reader) == TAGS[0]


@pytest.mark.parametrize(
    "data",
    [
        b"G",
        b"FLX",
        b"FLV\x01\x05\0\0\0\x08",
        b"FLV\x01\x05\xff\xff\xff\xff",
        flv.header(True, True) + b"\x07" + bytes(10),
        flv.header(True, True) + b"\x29" + bytes(10),
        flv.header(True, True) + b"\x09\xff\xff\xff" + bytes(7),
    ],
)
def test_what_is_no_flv_is_the_peers_fault(data):
    reader = Reader()
    flv.feed(reader, data)
    with pytest.raises(PeerError):
        flv.pull(reader)


@pytest.mark.parametrize("sample", [media_samples.plain, media_samples.b_frames], ids=["plain", "b_frames"])
def test_a_file_muxed_from_frames_has_for_ffmpeg_the_times_and_bytes_that_went_in(sample):
    tags, out = sample(), [flv.header(True, True)]
    expected: dict[str, list[tuple[int | None, int | None, bool, str]]] = {"video": [], "audio": []}
    for tag in tags:
        if tag.type == flv.SCRIPT:
            continue
        name = "video" if tag.type == flv.VIDEO else "audio"
        read = flv.read_video(tag.payload) if name == "video" else flv.read_audio(tag.payload)
        if read.kind == "config":
            out.append(flv.tag(tag.type, tag.dts, flv.config_body(read.codec, read.body)))
            continue
        key, pts = (read.key, tag.dts + read.composition) if isinstance(read, VideoTag) else (True, tag.dts)
        out.append(flv.mux(Frame(name, read.codec, tag.dts, pts, key, read.body)))
        expected[name].append((tag.dts, pts, key, hashlib.sha1(read.body).hexdigest()))
    path = media_samples.directory() / "muxed.flv"
    path.write_bytes(b"".join(out))
    found: dict[str, list[tuple[int | None, int | None, bool, str]]] = {"video": [], "audio": []}
    with av.open(str(path)) as file:
        for packet in file.demux():
            if packet.size:
                digest = hashlib.sha1(bytes(packet)).hexdigest()
                found[packet.stream.type].append((packet.dts, packet.pts, packet.is_keyframe, digest))
    assert found == expected
    assert any(dts != pts for dts, pts, _, _ in expected["video"]) == (sample is media_samples.b_frames)


# ---- hostile bytes -------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=64))
def test_whatever_comes_only_the_peer_is_blamed(data):
    for read in (flv.read_video, flv.read_audio):
        for start in (b"", b"\x17", b"\x91avc1", b"\xaf", b"\x91mp4a"):
            try:
                read(start + data)
            except PeerError:
                pass


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.binary(max_size=40), max_size=8),
    st.sampled_from((b"", b"FLV\x01", flv.header(True, True), FILE)),
)
def test_whatever_comes_as_a_file_only_the_peer_is_blamed(pieces, start):
    reader = Reader()
    flv.feed(reader, start)
    for piece in pieces:
        try:
            pull_all(reader)
        except PeerError:
            return
        flv.feed(reader, piece)
