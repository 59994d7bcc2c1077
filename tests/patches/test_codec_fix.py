"""codec_fix: the fault of version 1, the cure, and the state there and back."""

from __future__ import annotations

from typing import Any

import av
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.live.media import flv
from streamd.runtime import migrate
from streamd.runtime.state import lift, lower, same
from streamd.runtime.vocabulary import PeerError
from tests import media_samples
from tests.patches.live_tree import release

MODULES = {"media.h264": [1, 2]}


@pytest.fixture(scope="module")
def releases(tmp_path_factory):
    where = tmp_path_factory.mktemp("releases")
    both = release(where), release(where, "codec_fix.py")
    yield both
    for one in both:
        one.discard()


def publish(h264: Any, track: Any, tags: Any) -> list[tuple[int, str]]:
    """(time, size) of each sequence header that a broadcast announces, as handlers do it: before the frame."""
    announced, said = b"", []
    for tag in tags:
        if tag.type != flv.VIDEO:
            continue
        message = flv.read_video(tag.payload)
        if message.kind == "config":
            h264.learn_config(track, message.body)
            continue
        h264.learn(track, message.body)
        if h264.config(track) != announced:
            announced = h264.config(track)
            said.append((tag.dts, h264.describe(track)))
    return said


def test_versions(releases):
    old, new = releases
    assert (old.versions["media.h264"], new.versions["media.h264"]) == (1, 2)
    assert {name for name in new.versions if new.versions[name] != old.versions[name]} == {"media.h264"}


def test_version_1_announces_the_first_size_for_ever(releases):
    h264 = releases[0].modules["media.h264"]
    assert publish(h264, h264.Track(), media_samples.resolutions(8)) == [(0, "h264 320x240")]


def test_version_2_announces_each_size_right_before_its_key_picture(releases):
    h264 = releases[1].modules["media.h264"]
    assert publish(h264, h264.Track(), media_samples.resolutions(8)) == [
        (0, "h264 320x240"),
        (2000, "h264 640x360"),
        (4000, "h264 320x240"),
        (6000, "h264 640x360"),
    ]


def test_sets_that_wait_are_not_announced_before_their_key_picture_comes(releases):
    h264 = releases[1].modules["media.h264"]
    track = h264.Track()
    tags = [tag for tag in media_samples.resolutions(4) if tag.type == flv.VIDEO and tag.dts <= 2000]
    assert publish(h264, track, tags[:-1]) == [(0, "h264 320x240")]
    assert len(track.waiting) == 2
    assert publish(h264, track, tags[-1:]) == [(2000, "h264 640x360")]
    assert track.waiting == []


@pytest.mark.parametrize(("version", "expected"), [(1, set()), (2, {(640, 360)})], ids=["fault", "cure"])
def test_whoever_joins_after_the_change_sees_a_picture_of_the_new_size(releases, version, expected):
    h264 = releases[version - 1].modules["media.h264"]
    track = h264.Track()
    tags = [tag for tag in media_samples.resolutions(4) if tag.type == flv.VIDEO]
    publish(h264, track, [tag for tag in tags if tag.dts <= 2000])
    head = flv.Tag(flv.VIDEO, 2000, flv.config_body("h264", h264.config(track)))
    late = [tag for tag in tags if tag.dts >= 2000][1:]  # from the key picture on
    path = media_samples.flv_file(f"late-{version}", [head, *late])
    assert {size for size in decoded_sizes(str(path)) if size == (640, 360)} == expected


def decoded_sizes(path: str) -> list[tuple[int, int]]:
    """What libavcodec makes of a file; what it cannot decode is passed over."""
    sizes = []
    with av.open(path) as file:
        for packet in file.demux(video=0):
            try:
                sizes += [(picture.width, picture.height) for picture in packet.decode()]
            except av.error.InvalidDataError:
                pass
    return sizes


def test_a_load_and_a_rollback_in_the_middle_of_a_broadcast(releases):
    old, new = releases
    tags = [tag for tag in media_samples.resolutions(12) if tag.type == flv.VIDEO]
    parts = [[tag for tag in tags if start <= tag.dts < start + 4000] for start in (0, 4000, 8000)]
    track = old.modules["media.h264"].Track()
    assert publish(old.modules["media.h264"], track, parts[0]) == [(0, "h264 320x240")]
    up, down = migrate.steps_up(old, new, MODULES), migrate.steps_down(new, old, MODULES)
    track = lift(migrate.apply(lower(track), up), new.record)
    sizes = publish(new.modules["media.h264"], track, parts[1])
    assert sizes[-1] == (6000, "h264 640x360")
    track = lift(migrate.apply(lower(track), down), old.record)
    assert publish(old.modules["media.h264"], track, parts[2]) == [(8000, "h264 640x360")]


SAMPLES = {
    "fresh": None,
    "main": media_samples.plain,
    "high": media_samples.b_frames,
    "high422": lambda: media_samples.video_only(322, 182, "high422"),
    "high444": lambda: media_samples.video_only(321, 183, "high444", 2),
    "baseline": lambda: media_samples.video_only(1920, 1080, "baseline"),
}


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
@pytest.mark.parametrize(
    "alter",
    [lambda record: record, lambda record: record[:1] + b"\0\0\0" + record[4:] + b"junk"],
    ids=["as sent", "sloppy"],
)
def test_downgrade_restores_exactly_what_upgrade_was_given(releases, sample, alter):
    old, new = releases
    h264 = old.modules["media.h264"]
    track = h264.Track()
    if sample is not None:
        record = next(tag.payload[5:] for tag in sample() if tag.type == flv.VIDEO)
        h264.learn_config(track, alter(record))
        assert h264.config(track)
    before = lower(track)
    up = migrate.apply(before, migrate.steps_up(old, new, MODULES))
    lifted = lift(up, new.record)
    assert new.modules["media.h264"].config(lifted) == h264.config(track)
    back = migrate.apply(lower(lifted), migrate.steps_down(new, old, MODULES))
    assert same(back, before)
    assert lift(back, old.record) == track


UNIT = st.one_of(
    st.binary(max_size=12),
    st.sampled_from((b"\x67\x42\xc0\x0d\xd9\x02\x83\xf6", b"\x68\xcb\x83\xcb\x20", b"\x65\x88", b"\x41\x9a")),
    st.builds(
        lambda head, body: head + body,
        st.sampled_from((b"\x67", b"\x67\x42\0\x0d", b"\x68")),
        st.binary(max_size=9),
    ),
)
MESSAGE = st.lists(UNIT, max_size=6).map(
    lambda units: b"".join(len(one).to_bytes(4, "big") + one for one in units)
)


@settings(max_examples=200, deadline=None)
@given(messages=st.lists(MESSAGE, max_size=6))
def test_whatever_an_encoder_sends_can_be_taken_back(releases, messages):
    old, new = releases
    h264 = new.modules["media.h264"]
    track = h264.Track()
    for message in messages:
        try:
            h264.learn(track, message)
        except PeerError:
            pass
    back = lift(migrate.apply(lower(track), migrate.steps_down(new, old, MODULES)), old.record)
    assert back.config == h264.config(track)
    assert h264.pack_config(*h264.parse_config(back.config), back.nal_length) == back.config


def test_what_waits_is_bounded(releases):
    h264 = releases[1].modules["media.h264"]
    track = h264.Track()
    large = [bytes((0x68, 0x80 | number)) + bytes(20_000) for number in (0x40, 0x60)]
    for _ in range(100):  # the same sets with every picture, and never a key picture
        h264.learn(track, b"".join(len(one).to_bytes(4, "big") + one for one in large))
    assert len(track.waiting) <= 2
    with pytest.raises(PeerError):
        for number in range(8):
            one = bytes((0x68, 0x08 | number >> 1, number << 7 & 0xFF)) + bytes(20_000)
            h264.learn(track, len(one).to_bytes(4, "big") + one)
