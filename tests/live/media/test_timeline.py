"""The timeline: publishers' clocks in, one clock out that starts at 0 and never goes back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.live.media import timeline
from streamd.live.media.timeline import Timeline

HOUR = 3_600_000
WRAP = 2**32


def play(line: Timeline, stamps: list[tuple[str, int]], now: int = 0) -> list[tuple[str, int]]:
    """Map ("video" | "audio" | "data", publisher's time of any size) in order; `now` stands still unless told."""
    return [(track, timeline.map(line, track, stamp % WRAP, now)) for track, stamp in stamps]


def interleaved(
    start: int, length: int, jumps: dict[str, tuple[int, int]] | None = None
) -> list[tuple[str, int]]:
    """25 fps and AAC at 48 kHz (20 ms, rounded) in order of time; `jumps`: track -> (from this time on, add this)."""
    true = [(at, "video") for at in range(0, length, 40)] + [(at, "audio") for at in range(0, length, 20)]
    stamps = []
    for at, track in sorted(true, key=lambda item: (item[0], item[1] == "audio")):
        after, add = (jumps or {}).get(track, (length, 0))
        stamps.append((track, start + at + (add if at >= after else 0)))
    return stamps


def track(out: list[tuple[str, int]], name: str) -> list[int]:
    return [at for one, at in out if one == name]


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(0, id="at 0"),
        pytest.param(2**24 - 1000, id="across 2^24, where the extended timestamp begins"),
        pytest.param(2**31 - 1000, id="across 2^31, where signed numbers end"),
        pytest.param(2**32 - 1000, id="across 2^32, where the timestamp wraps"),
        pytest.param(2**32 - 1, id="wrapping at once"),
        pytest.param(HOUR * 9000, id="somewhere"),
    ],
)
def test_the_broadcast_starts_at_zero_and_keeps_the_publishers_distances(start):
    out = play(Timeline(), interleaved(start, 3000))
    assert track(out, "video") == list(range(0, 3000, 40))
    assert track(out, "audio") == list(range(0, 3000, 20))


def test_a_broadcast_goes_on_past_two_to_the_32():
    line = Timeline(top=2**32 - 500)
    out = play(line, interleaved(5, 2000))
    assert track(out, "video") == [2**32 - 460 + at for at in range(0, 2000, 40)]


@pytest.mark.parametrize("wraps", [1, 2, 5, 1000])
def test_many_wraps_are_counted(wraps):
    clock = timeline.Clock(live=True, last_in=wraps * WRAP - 1000, last_out=wraps * WRAP - 1000, step=40)
    line = Timeline(top=wraps * WRAP - 1000, clocks={"video": clock})
    assert play(line, [("video", 500)]) == [("video", wraps * WRAP + 500)]


@pytest.mark.parametrize("by", [HOUR, -HOUR, 10_000, -10_000, 2**31 - 5, 2**31 + 5, -3_000, 3_000, -600])
@pytest.mark.parametrize(
    ("video_at", "audio_at"),
    [
        pytest.param(1000, 1000, id="video first"),
        pytest.param(1020, 1000, id="audio first"),
        pytest.param(1000, 1400, id="audio straggles"),
        pytest.param(1400, 1000, id="video straggles"),
    ],
)
@pytest.mark.parametrize("start", [HOUR, 2**32 - 1200], ids=["plain", "near the wrap"])
def test_a_jump_of_the_encoders_clock_is_one_small_gap_and_sound_stays_with_picture(
    by, video_at, audio_at, start
):
    stamps = interleaved(start, 4000, {"video": (video_at, by), "audio": (audio_at, by)})
    if video_at == 1020:  # the first frame of all that jumps is one of sound
        stamps.remove(("video", start + 1000))
    out = play(Timeline(), stamps)
    expected = {"video": list(range(0, 4000, 40)), "audio": list(range(0, 4000, 20))}
    if video_at == 1020:
        expected["video"].remove(1000)
    for name, times in expected.items():
        found = track(out, name)
        assert found == sorted(found)
        assert max(abs(one - other) for one, other in zip(found, times, strict=True)) <= 20


def test_a_jump_there_and_back_leaves_no_trace():
    stamps = interleaved(0, 2000)
    place = stamps.index(("video", 1000))
    stamps[place] = ("video", 1000 + HOUR)
    out = play(Timeline(), stamps)
    assert track(out, "video") == list(range(0, 2000, 40))
    assert track(out, "audio") == list(range(0, 2000, 20))


def test_a_hundred_jumps_do_not_add_up_to_a_lag_between_sound_and_picture():
    stamps = []
    for turn in range(100):
        stamps += interleaved(turn * 1000 + (turn * 7919 % 13) * HOUR, 1000)
    out = play(Timeline(), stamps)
    video, audio = track(out, "video"), track(out, "audio")
    assert abs(video[-1] - audio[-2]) <= 40
    assert abs(video[-1] - 99_960) <= 2_500  # 99 small gaps, each within a frame of the truth


def test_an_encoder_that_starts_anew_with_sound_ahead_leaves_no_heap_of_frames_on_one_time():
    line = Timeline()
    play(line, [("video", at) for at in range(0, 1000, 40)] + [("audio", at) for at in range(0, 2500, 20)])
    out = play(line, interleaved(0, 1000))
    assert len(set(track(out, "audio"))) == 50
    assert out[-1][1] - track(out, "video")[-1] == 20


@pytest.mark.parametrize(
    ("stamps", "expected"),
    [
        pytest.param([0, 40, 30, 120], [0, 40, 40, 120], id="jitter is held"),
        pytest.param(
            [0, 120, 40, 80, 240, 160, 200], [0, 120, 120, 120, 240, 240, 240], id="presentation times as dts"
        ),
        pytest.param([0, 40, 40, 80], [0, 40, 40, 80], id="the same time twice"),
        pytest.param([0, 40, 1_900], [0, 40, 1_900], id="frames dropped by the encoder"),
        pytest.param([0, 40, 40 - 499], [0, 40, 40], id="as far back as jitter may go"),
        pytest.param([0, 40, 40 - 501], [0, 40, 80], id="further back is a jump"),
        pytest.param(
            [0, 33, 66, 66 + HOUR], [0, 33, 66, 99], id="a jump goes on by the track's own distance"
        ),
    ],
)
def test_one_track_alone(stamps, expected):
    assert [at for _, at in play(Timeline(), [("video", 50_000 + stamp) for stamp in stamps])] == expected


def test_silence_that_really_passed_is_kept():
    line = Timeline()
    timeline.map(line, "video", 0, 1000)
    assert timeline.map(line, "video", 15_000, 16_000) == 15_000
    assert timeline.map(line, "video", 25_000, 26_100) == 25_000
    # but no clock of ours makes an hour true
    assert timeline.map(line, "video", 25_000 + HOUR, 26_000 + HOUR) == 25_040


def test_a_track_that_paused_while_the_other_went_on_is_in_step_again():
    line = Timeline()
    stamps = interleaved(0, 1000) + [("audio", at) for at in range(1000, 61_000, 20)]
    out = play(line, [*stamps, ("video", 61_000)])
    assert out[-1] == ("video", 61_000)


def test_unrelated_clocks_of_sound_and_picture_go_on_side_by_side():
    stamps = [(name, at + (7 * HOUR if name == "audio" else 0)) for name, at in interleaved(1000, 2000)]
    out = play(Timeline(), stamps)
    assert track(out, "video") == list(range(0, 2000, 40))
    audio = track(out, "audio")
    assert [one - audio[0] for one in audio] == list(range(0, 2000, 20))
    assert audio[0] <= 40


@pytest.mark.parametrize("start", [0, HOUR, 2**32 - 100, 977])
def test_a_publisher_that_comes_back_goes_on_one_frame_after_the_last_output(start):
    line = Timeline()
    timeline.resume(line)
    before = play(line, interleaved(5000, 1000))
    top = max(at for _, at in before)
    timeline.resume(line)
    after = play(line, interleaved(start, 1000), now=3000)
    assert after[0] == ("video", top + 40)
    assert track(after, "video") == list(range(top + 40, top + 1040, 40))
    assert track(after, "audio") == list(range(top + 40, top + 1040, 20))


def test_a_publisher_that_never_sent_a_frame_leaves_no_gap():
    line = Timeline()
    play(line, interleaved(0, 1000))
    for _ in range(3):
        timeline.resume(line)
    assert play(line, [("video", 9)]) == [("video", 980 + 40)]


@pytest.mark.parametrize("again", [False, True], ids=["first publisher", "second publisher"])
def test_sound_a_little_earlier_than_the_first_picture_is_held_until_then(again):
    line = Timeline()
    floor = 0
    if again:
        play(line, interleaved(0, 1000))
        timeline.resume(line)
        floor = 980 + 40
    out = play(
        line,
        [("video", 1000), ("audio", 940), ("audio", 960), ("audio", 980), ("audio", 1000), ("video", 1040)],
    )
    assert track(out, "video") == [floor, floor + 40]
    assert track(out, "audio")[-1] == floor
    assert min(at for _, at in out) >= (floor - 39 if again else 0)
    assert track(out, "audio") == sorted(track(out, "audio"))


@pytest.mark.parametrize("again", [False, True], ids=["first publisher", "second publisher"])
def test_sound_much_earlier_than_the_first_picture_lifts_both(again):
    line = Timeline()
    floor = 0
    if again:
        play(line, interleaved(0, 1000))
        timeline.resume(line)
        floor = 981
    stamps = [
        ("video", 3000),
        *(("audio", at) for at in range(1000, 3000, 20)),
        ("video", 3040),
        ("audio", 3040),
    ]
    out = play(line, stamps)
    audio = track(out, "audio")
    assert len(set(audio)) == len(audio)
    assert audio[0] == floor
    assert track(out, "video")[-1] == audio[-1] == floor + 2040


def test_nothing_goes_out_below_what_the_former_publisher_had():
    line = Timeline()
    top = max(at for _, at in play(line, interleaved(0, 1000)))
    timeline.resume(line)
    out = play(line, [("data", 0), ("video", 7000), ("data", 0), ("audio", 6990), ("data", 6900)])
    assert all(at > top for _, at in out)


@pytest.mark.parametrize(
    ("stamps", "expected"),
    [
        pytest.param([("data", 0)], [0], id="metadata first"),
        pytest.param(
            [("data", HOUR), ("video", 5), ("video", 45)], [0, 0, 40], id="metadata does not start the clock"
        ),
        pytest.param(
            [("video", HOUR), ("data", 0), ("video", HOUR + 40)], [0, 0, 40], id="metadata at 0 moves nothing"
        ),
        pytest.param(
            [("video", 0), ("video", 40), ("data", 20)], [0, 40, 20], id="a cue point has its own time"
        ),
        pytest.param(
            [("video", 0), ("data", 4000), ("video", 40)], [0, 0, 40], id="a cue point is never ahead"
        ),
    ],
)
def test_data_follows(stamps, expected):
    assert [at for _, at in play(Timeline(), stamps)] == expected


@pytest.mark.parametrize(
    ("stamp", "near", "expected"),
    [
        (0, 0, 0),
        (5, WRAP - 5, WRAP + 5),
        (WRAP - 5, 5, -5),
        (WRAP - 5, WRAP + 5, WRAP - 5),
        (5, 7 * WRAP - 5, 7 * WRAP + 5),
        (2**31 - 1, 0, 2**31 - 1),
        (2**31, 0, -(2**31)),
    ],
)
def test_unwrap_finds_the_nearest(stamp, near, expected):
    assert timeline.unwrap(stamp, near) == expected


STAMP = st.one_of(
    st.integers(0, WRAP - 1),
    st.sampled_from((0, 40, 80, 2**24, 2**31, WRAP - 1, WRAP - 40, HOUR)),
)
EVENT = st.tuples(st.sampled_from(("video", "audio", "data", "resume")), STAMP, st.integers(0, 5_000))


@settings(max_examples=300, deadline=None)
@given(st.lists(EVENT, max_size=40))
def test_whatever_comes_no_track_goes_back_and_no_switch_goes_below(events):
    line, now, last, floor = Timeline(), 0, {"video": 0, "audio": 0, "data": 0}, 0
    for name, stamp, passed in events:
        now += passed
        if name == "resume":
            timeline.resume(line)
            floor = line.top + 1
            continue
        at = timeline.map(line, name, stamp, now)
        assert at >= last[name]
        assert at >= floor
        last[name] = at
    # the time that went out is bounded by what could have passed for true, frame by frame
    assert line.top <= len(events) * (timeline.SILENCE + timeline.FORWARD + timeline.SKEW)
