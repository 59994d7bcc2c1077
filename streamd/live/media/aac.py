"""AAC: the AudioSpecificConfig (ISO/IEC 14496-3, 1.6.2.1), which FLV calls the AAC sequence header.

The rule this file keeps: `config` is what the encoder sent, byte for byte, once it has been read without
fault; what it says about SBR (HE-AAC) and parametric stereo is found in all three ways in which it may be
said (1.6.5.2): explicitly and hierarchically (object type 5 or 29 first), explicitly and backward compatibly
(after 0x2b7), or not at all.
"""

from __future__ import annotations

from typing import NamedTuple

from streamd.live.media.bits import Bits
from streamd.runtime.state import state
from streamd.runtime.vocabulary import PeerError

VERSION = 1

# Table 1.18: samplingFrequencyIndex. 13 and 14 are reserved, 15 means that 24 bits follow.
RATES = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350)
# Table 1.19: channelConfiguration. 0 leaves it to a program_config_element; None is reserved.
CHANNELS = (0, 1, 2, 3, 4, 5, 6, 8, None, None, None, 7, 8, 24, 8, None)

SBR = 5
PS = 29
# Table 1.17: object types that have a GASpecificConfig, and those of them that are error resilient.
GENERAL_AUDIO = frozenset({1, 2, 3, 4, 6, 7, 17, 19, 20, 21, 22, 23})
ERROR_RESILIENT = frozenset({17, 19, 20, 21, 22, 23})

# 2 bytes are usual, 5 with SBR, some 40 with a program_config_element and its comment.
MAX_CONFIG = 1_024


class Config(NamedTuple):
    """What an AudioSpecificConfig says.

    `object_type` is that of the core (2 is AAC-LC) and `sample_rate` (Hz) its rate; with `sbr`,
    `extension_rate` is the rate that comes out (0 without). `channels` is the core's: with `ps` one becomes
    two. `frame_length` is in samples of the core per frame.
    """

    object_type: int
    sample_rate: int
    channels: int
    sbr: bool
    ps: bool
    extension_rate: int
    frame_length: int


@state
class Track:
    """`config` is the AudioSpecificConfig as it came, b"" while unknown."""

    config: bytes = b""


def learn_config(track: Track, record: bytes) -> None:
    """Take over a sequence header (flv.AudioTag of kind "config"). PeerError where it is malformed."""
    parse_config(record)
    track.config = record


def config(track: Track) -> bytes:
    """The AudioSpecificConfig to announce to viewers, b"" while none is known."""
    return track.config


def describe(track: Track) -> str:
    """For the operator: "aac 48000 Hz, 2 channels", or "aac" while unknown. Never raises."""
    try:
        known = parse_config(config(track))
    except PeerError:
        return "aac"
    name = "he-aac v2" if known.ps else "he-aac" if known.sbr else "aac"
    channels = 2 if known.ps and known.channels == 1 else known.channels
    rate = known.extension_rate or known.sample_rate
    return f"{name} {rate} Hz, {channels} channel{'' if channels == 1 else 's'}"


def parse_config(record: bytes) -> Config:
    """Read an AudioSpecificConfig; bytes after it are ignored. PeerError where it is malformed."""
    if len(record) > MAX_CONFIG:
        raise PeerError(f"an AAC sequence header of {len(record)} bytes; {MAX_CONFIG} are the limit")
    bits = Bits(record, "an AAC sequence header")
    object_type = read_object_type(bits)
    rate = read_rate(bits)
    channels = read_channels(bits)
    sbr, ps, extension_rate = object_type in (SBR, PS), object_type == PS, 0
    if sbr:
        extension_rate = read_rate(bits)
        object_type = read_object_type(bits)
        if object_type == 22:
            bits.u(4)  # extensionChannelConfiguration, of ER BSAC
    if object_type not in GENERAL_AUDIO:
        # low delay, USAC and the like: their own configs follow, and no rule here needs them
        return Config(object_type, rate, channels, sbr, ps, extension_rate, 1024)
    frame_length, channels = read_general_audio(bits, object_type, channels)
    if not sbr:
        sbr, ps, extension_rate = read_sync_extension(bits)
    return Config(object_type, rate, channels, sbr, ps, extension_rate, frame_length)


def read_object_type(bits: Bits) -> int:
    """GetAudioObjectType (table 1.16)."""
    object_type = bits.u(5)
    if object_type == 31:
        object_type = 32 + bits.u(6)
    if object_type == 0:
        raise PeerError("an AAC sequence header has object type 0, which means nothing")
    return object_type


def read_rate(bits: Bits) -> int:
    """samplingFrequencyIndex, or the rate itself in 24 bits; Hz."""
    index = bits.u(4)
    rate = bits.u(24) if index == 15 else (*RATES, 0, 0)[index]
    if not rate:
        raise PeerError(f"an AAC sequence header has no sampling rate (index {index})")
    return rate


def read_channels(bits: Bits) -> int:
    """channelConfiguration as a number of channels, 0 where a program_config_element will say."""
    index = bits.u(4)
    channels = CHANNELS[index]
    if channels is None:
        raise PeerError(f"an AAC sequence header has channel configuration {index}, which is reserved")
    return channels


def read_general_audio(bits: Bits, object_type: int, channels: int) -> tuple[int, int]:
    """GASpecificConfig (4.4.1): (samples per frame, channels)."""
    frame_length = 960 if bits.u(1) else 1024
    if bits.u(1):
        bits.u(14)  # coreCoderDelay
    extension = bits.u(1)
    if channels == 0:
        channels = read_program_config(bits)
    if object_type in (6, 20):
        bits.u(3)  # layerNr
    if extension:
        if object_type == 22:
            bits.u(16)  # numOfSubFrame, layer_length
        if object_type in (17, 19, 20, 23):
            bits.u(3)  # the three resilience flags
        bits.u(1)  # extensionFlag3
    if object_type in ERROR_RESILIENT:
        bits.u(2)  # epConfig
    return frame_length, channels


def read_program_config(bits: Bits) -> int:
    """program_config_element (4.4.1.1): the number of channels."""
    bits.u(10)  # element_instance_tag, object_type, sampling_frequency_index
    front, side, back, lfe, associated, coupling = (bits.u(count) for count in (4, 4, 4, 2, 3, 4))
    for width in (4, 4, 3):  # mono, stereo and matrix mixdown
        if bits.u(1):
            bits.u(width)
    channels = lfe
    for _ in range(front + side + back):
        channels += 1 + bits.u(1)  # element_is_cpe
        bits.u(4)
    bits.u(4 * (lfe + associated) + 5 * coupling)
    bits.u(-bits.at % 8)
    bits.u(8 * bits.u(8))  # comment
    if not channels:
        raise PeerError("an AAC sequence header describes a program without a channel")
    return channels


def read_sync_extension(bits: Bits) -> tuple[bool, bool, int]:
    """(sbr, ps, rate with SBR in Hz) of a backward compatible extension, if one follows (1.6.2.1, 0x2b7 and
    0x548).

    What follows instead, or is cut short, is padding.
    """
    if bits.left() < 16 or bits.u(11) != 0x2B7 or bits.u(5) != SBR or bits.left() < 5 or not bits.u(1):
        return False, False, 0
    rate = read_rate(bits)
    return True, bits.left() >= 12 and bits.u(11) == 0x548 and bool(bits.u(1)), rate
