"""H.264: what a decoder must know before the first picture, and where it is found.

The rule this file keeps: `config` gives an AVCDecoderConfigurationRecord (ISO/IEC 14496-15, 5.3.3.1) that was
taken apart and put together again here, whatever the encoder wrote, so two records differ only if their
parameter sets do, and pack_config(*parse_config(record)) is the same record.

Parameter sets come in sequence headers and, from encoders that change resolution while they run, in-band
among the NAL units of frames. A set replaces the one of its kind that has the same id (ITU-T H.264,
7.4.1.2.1).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from streamd.live.media.bits import Bits
from streamd.runtime.state import state
from streamd.runtime.vocabulary import PeerError

VERSION = 1

# nal_unit_type (ITU-T H.264, table 7-1)
IDR = 5
SPS = 7
PPS = 8

# The record counts sets in 5 and in 8 bits (ISO/IEC 14496-15, 5.3.3.1.2).
MAX_SPS = 31
MAX_PPS = 255
# All sets of a track together. Real ones have 30 to 100 bytes; scaling lists and slice group maps make some
# hundred.
MAX_SETS_BYTES = 65_535
SET = "an H.264 parameter set"  # to name it where it ends too early
# 16 slices in 4 fields, SEI and padding stay far below.
MAX_NAL_UNITS = 4_096

# Profiles whose sequence parameter sets begin with chroma format and bit depth (ITU-T H.264, 7.3.2.1.1).
CHROMA_PROFILES = frozenset({100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135})
# Profiles after whose sets the record has chroma format, bit depths and SPS extensions: all but Baseline,
# Main, Extended.
SHORT_PROFILES = frozenset({66, 77, 88})


class Sps(NamedTuple):
    """What a sequence parameter set says. Sizes are pixels after cropping; `frame_rate` is 0.0 where it is
    not said."""

    profile: int
    constraints: int
    level: int
    id: int
    width: int
    height: int
    frame_rate: float
    chroma_format: int
    bit_depth: int
    interlaced: bool


@state
class Track:
    """`config` is the configuration record as pack_config writes it, b"" while unknown; `nal_length` the
    bytes of a NAL unit's length prefix."""

    config: bytes = b""
    nal_length: int = 4


# ---- what a track learns -----------------------------------------------------------------------------------


def learn_config(track: Track, record: bytes) -> None:
    """Take over a sequence header (flv.VideoTag of kind "config"). PeerError where it is malformed."""
    sps, pps, rest = parse_config(record)
    track.nal_length = parse_nal_length(record)
    track.config = pack_config(sps, pps, rest, track.nal_length)


def learn(track: Track, payload: bytes) -> None:
    """Take over the parameter sets that come with a key picture. To be called for every frame, key or not.

    Sets are believed where they stand in the access unit of an IDR picture, which activates them.
    PeerError where the payload or a set is malformed.
    """
    sets = parameter_sets(payload, track.nal_length)
    if sets and is_key(payload, track.nal_length):
        track.config = pack_config(*merge_sets(*parse_config(track.config), sets), track.nal_length)


def config(track: Track) -> bytes:
    """The configuration record to announce to viewers, b"" while none is known."""
    return track.config


def describe(track: Track) -> str:
    """For the operator: "h264 1280x720", or "h264" while the size is unknown. Never raises."""
    try:
        sps = parse_sps(parse_config(config(track))[0][0])
    except (PeerError, IndexError):
        return "h264"
    return f"h264 {sps.width}x{sps.height}"


# ---- parameter sets and NAL units --------------------------------------------------------------------------


def merge_sets(
    sps: list[bytes], pps: list[bytes], rest: bytes, sets: list[bytes]
) -> tuple[list[bytes], list[bytes], bytes]:
    """(SPS list, PPS list, rest) after `sets` have replaced those of their kind and id, new ones at the
    end."""
    new_sps = replace_sets(sps, [unit for unit in sets if nal_type(unit) == SPS])
    new_pps = replace_sets(pps, [unit for unit in sets if nal_type(unit) == PPS])
    check_limits(new_sps, new_pps)
    return new_sps, new_pps, rest if new_sps == sps else default_rest(new_sps)


def check_limits(sps: list[bytes], pps: list[bytes]) -> None:
    """Raise PeerError where the sets are more than a configuration record can have."""
    size = sum(map(len, sps)) + sum(map(len, pps))
    if len(sps) > MAX_SPS or len(pps) > MAX_PPS or size > MAX_SETS_BYTES:
        raise PeerError(
            f"{len(sps)} sequence and {len(pps)} picture parameter sets of {size} bytes; a track may have "
            f"{MAX_SPS} and {MAX_PPS} of {MAX_SETS_BYTES} bytes"
        )


def replace_sets(known: list[bytes], sets: list[bytes]) -> list[bytes]:
    """`known` with `sets` in the places of their namesakes (same kind, same id), new ones at the end.

    PeerError where a set has no proper id, or all of them are more than MAX_SETS_BYTES.
    """
    by_id = {(nal_type(unit), set_id(unit)): unit for unit in known}
    by_id.update({(nal_type(unit), set_id(unit)): unit for unit in sets})
    if sum(map(len, by_id.values())) > MAX_SETS_BYTES:
        raise PeerError(f"H.264 parameter sets of more than {MAX_SETS_BYTES} bytes")
    return list(by_id.values())


def parameter_sets(payload: bytes, nal_length: int = 4) -> list[bytes]:
    """The SPS and PPS among a payload's NAL units; nearly always []. PeerError where the payload is
    malformed."""
    found = [
        payload[start:end] for start, end in spans(payload, nal_length) if payload[start] & 0x1F in (SPS, PPS)
    ]
    if sum(map(len, found)) > MAX_SETS_BYTES:
        raise PeerError(f"H.264 parameter sets of more than {MAX_SETS_BYTES} bytes in one frame")
    return found


def nal_units(payload: bytes, nal_length: int = 4) -> list[bytes]:
    """The NAL units of a frame's payload, empty ones left out. PeerError where a length leads past the
    end."""
    return [payload[start:end] for start, end in spans(payload, nal_length)]


def is_key(payload: bytes, nal_length: int = 4) -> bool:
    """True if the payload has a slice of an IDR picture, where decoding may start."""
    return any(payload[start] & 0x1F == IDR for start, _ in spans(payload, nal_length))


def nal_type(unit: bytes) -> int:
    """nal_unit_type of a NAL unit that is not empty."""
    return unit[0] & 0x1F


def set_id(unit: bytes) -> int:
    """seq_parameter_set_id of an SPS, pic_parameter_set_id of a PPS."""
    if nal_type(unit) == SPS:
        value = Bits(unescape(unit[4:16]), SET).ue()
        limit = 31
    else:
        value = Bits(unescape(unit[1:16]), SET).ue()
        limit = 255
    if value > limit:
        raise PeerError(f"an H.264 parameter set has the id {value}; the highest is {limit}")
    return value


def spans(payload: bytes, nal_length: int) -> list[tuple[int, int]]:
    """(start, end) of each NAL unit in a length-prefixed payload (ISO/IEC 14496-15, 5.2.3), empty ones left
    out."""
    found = []
    at, size = 0, len(payload)
    while at < size:
        start = at + nal_length
        at = start + int.from_bytes(payload[at:start], "big")
        if at > size or start > size:
            raise PeerError(f"an H.264 NAL unit's length leads past the end of a frame of {size} bytes")
        if at > start:
            found.append((start, at))
        if len(found) > MAX_NAL_UNITS:
            raise PeerError(f"an H.264 frame has more than {MAX_NAL_UNITS} NAL units")
    return found


# ---- the configuration record (ISO/IEC 14496-15, 5.3.3.1) --------------------------------------------------


def parse_config(record: bytes) -> tuple[list[bytes], list[bytes], bytes]:
    """(SPS list, PPS list, rest) of a configuration record; b"" gives ([], [], b"").

    `rest` is what follows the sets in profiles above Main: chroma format, bit depths and SPS extensions. Many
    encoders leave it out; then it is filled in from the first SPS. Bytes after it are dropped. PeerError
    where malformed.
    """
    if not record:
        return [], [], b""
    if len(record) < 6 or record[0] != 1:
        raise PeerError("an H.264 sequence header is no AVCDecoderConfigurationRecord of version 1")
    sps, at = read_sets(record, 6, record[5] & 0x1F, SPS)
    if at >= len(record):
        raise PeerError("an H.264 sequence header ends before its picture parameter sets")
    pps, at = read_sets(record, at + 1, record[at], PPS)
    check_limits(sps, pps)
    if not sps or sps[0][1] in SHORT_PROFILES:
        return sps, pps, b""
    return sps, pps, read_rest(record, at) or default_rest(sps)


def parse_nal_length(record: bytes) -> int:
    """The bytes of a NAL unit's length prefix that a record declares: 1, 2 or 4. PeerError for 3, which may
    not be."""
    nal_length = (record[4] & 3) + 1 if len(record) > 4 else 4
    if nal_length == 3:
        raise PeerError("an H.264 sequence header declares NAL unit lengths of 3 bytes; 1, 2 and 4 exist")
    return nal_length


def read_sets(record: bytes, at: int, count: int, kind: int) -> tuple[list[bytes], int]:
    """`count` sets with 16-bit lengths from `at`, and where they end. Empty ones are left out."""
    sets = []
    for _ in range(count):
        start = at + 2
        at = start + int.from_bytes(record[at:start], "big")
        if at > len(record) or start > len(record):
            raise PeerError("an H.264 sequence header ends within a parameter set")
        if at == start:
            continue
        unit = record[start:at]
        if nal_type(unit) != kind or len(unit) < (5 if kind == SPS else 2):
            raise PeerError(f"an H.264 sequence header has NAL type {nal_type(unit)} where {kind} belongs")
        sets.append(unit)
    return sets, at


def read_rest(record: bytes, at: int) -> bytes:
    """Chroma format, bit depths and SPS extensions from `at`, b"" if they are not there whole."""
    end = at + 4
    if end > len(record):
        return b""
    for _ in range(record[end - 1]):
        end += 2 + int.from_bytes(record[end : end + 2], "big")
        if end > len(record):
            return b""
    return record[at:end]


def default_rest(sps: list[bytes]) -> bytes:
    """What belongs after the sets in a record whose first SPS is `sps[0]`, without SPS extensions."""
    if not sps or sps[0][1] in SHORT_PROFILES:
        return b""
    first = parse_sps(sps[0])
    # luma and chroma depth differ in no encoder met so far; a decoder goes by the SPS anyway
    return bytes((0xFC | first.chroma_format, 0xF8 | first.bit_depth - 8, 0xF8 | first.bit_depth - 8, 0))


def pack_config(sps: list[bytes], pps: list[bytes], rest: bytes, nal_length: int = 4) -> bytes:
    """The configuration record of these sets; b"" unless there is at least one of each kind.

    Profile and level are those of the first SPS. The sets are within the limits: parse_config and merge_sets,
    where all sets come from, see to that.
    """
    if not (sps and pps):
        return b""
    parts = [b"\x01", sps[0][1:4], bytes((0xFC | nal_length - 1, 0xE0 | len(sps)))]
    for unit in sps:
        parts += (struct.pack(">H", len(unit)), unit)
    parts.append(bytes((len(pps),)))
    for unit in pps:
        parts += (struct.pack(">H", len(unit)), unit)
    return b"".join((*parts, rest))


# ---- the sequence parameter set (ITU-T H.264, 7.3.2.1.1 and E.1.1) -----------------------------------------


def unescape(unit: bytes) -> bytes:
    """A NAL unit without its emulation prevention bytes (ITU-T H.264, 7.4.1)."""
    return unit.replace(b"\0\0\3", b"\0\0")


def parse_sps(sps: bytes) -> Sps:
    """Read a sequence parameter set NAL unit, header byte included. PeerError where it is malformed.

    A VUI that ends too early (some hardware encoders) counts as one that does not say the frame rate.
    """
    if len(sps) < 5 or nal_type(sps) != SPS:
        raise PeerError("no H.264 sequence parameter set")
    if len(sps) > MAX_SETS_BYTES:
        raise PeerError(f"an H.264 sequence parameter set of {len(sps)} bytes")
    bits = Bits(unescape(sps[1:]), SET)
    profile, constraints, level = bits.u(8), bits.u(8), bits.u(8)
    number = bits.ue()
    chroma_format, separate, bit_depth = read_chroma(bits, profile)
    skip_order(bits)
    bits.ue()  # max_num_ref_frames
    bits.u(1)  # gaps_in_frame_num_value_allowed_flag
    width, height = (bits.ue() + 1) * 16, (bits.ue() + 1) * 16
    progressive = bits.u(1)  # frame_mbs_only_flag
    if not progressive:
        height *= 2
        bits.u(1)  # mb_adaptive_frame_field_flag
    bits.u(1)  # direct_8x8_inference_flag
    if bits.u(1):
        cut_x, cut_y = read_cropping(bits, 0 if separate else chroma_format, progressive)
        width, height = width - cut_x, height - cut_y
    if not (0 < width <= 65_536 and 0 < height <= 65_536):
        raise PeerError(f"an H.264 sequence parameter set says {width}x{height} pixels")
    frame_rate = read_frame_rate(bits) if bits.u(1) else 0.0
    return Sps(
        profile,
        constraints,
        level,
        number,
        width,
        height,
        frame_rate,
        chroma_format,
        bit_depth,
        not progressive,
    )


def read_chroma(bits: Bits, profile: int) -> tuple[int, bool, int]:
    """(chroma_format_idc, separate colour planes, bit depth of luma); 4:2:0 and 8 bits where the profile does
    not say."""
    if profile not in CHROMA_PROFILES:
        return 1, False, 8
    chroma_format = bits.ue()
    if chroma_format > 3:
        raise PeerError(
            f"an H.264 sequence parameter set has chroma format {chroma_format}; the highest is 3"
        )
    separate = chroma_format == 3 and bool(bits.u(1))
    bit_depth = bits.ue() + 8
    if bit_depth > 14 or bits.ue() > 6:
        raise PeerError("an H.264 sequence parameter set has a bit depth above 14")
    bits.u(1)  # qpprime_y_zero_transform_bypass_flag
    if bits.u(1):
        for index in range(8 if chroma_format != 3 else 12):
            if bits.u(1):
                skip_scaling_list(bits, 16 if index < 6 else 64)
    return chroma_format, separate, bit_depth


def skip_scaling_list(bits: Bits, size: int) -> None:
    """7.3.2.1.1.1: it ends at `size` values or where the next scale becomes 0."""
    last = 8
    for _ in range(size):
        last = (last + bits.se()) % 256
        if last == 0:
            return


def skip_order(bits: Bits) -> None:
    """log2_max_frame_num_minus4 and the picture order count."""
    bits.ue()
    order = bits.ue()
    if order == 0:
        bits.ue()
    elif order == 1:
        bits.u(1)
        bits.se()
        bits.se()
        cycle = bits.ue()
        if cycle > 255:
            raise PeerError(f"an H.264 sequence parameter set has {cycle} frames in a picture order cycle")
        for _ in range(cycle):
            bits.se()
    elif order > 2:
        raise PeerError(
            f"an H.264 sequence parameter set has picture order count type {order}; the highest is 2"
        )


def read_cropping(bits: Bits, chroma: int, progressive: int) -> tuple[int, int]:
    """(pixels, lines) that are cut off, in units of the chroma sampling (ITU-T H.264, 7-19 to 7-22)."""
    left, right, top, bottom = bits.ue(), bits.ue(), bits.ue(), bits.ue()
    unit_x = 2 if chroma in (1, 2) else 1
    unit_y = (2 if chroma == 1 else 1) * (1 if progressive else 2)
    return (left + right) * unit_x, (top + bottom) * unit_y


def read_frame_rate(bits: Bits) -> float:
    """time_scale / num_units_in_tick / 2 (a tick is a field) of the VUI (E.1.1), 0.0 where it does not
    say."""
    try:
        if bits.u(1) and bits.u(8) == 255:  # aspect ratio, Extended_SAR
            bits.u(32)
        if bits.u(1):  # overscan
            bits.u(1)
        if bits.u(1):  # video signal type
            bits.u(4)
            if bits.u(1):
                bits.u(24)
        if bits.u(1):  # chroma location
            bits.ue()
            bits.ue()
        if not bits.u(1):
            return 0.0
        tick, scale = bits.u(32), bits.u(32)
    except PeerError:
        return 0.0
    return scale / tick / 2 if tick else 0.0
