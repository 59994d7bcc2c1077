"""onMetaData: what is kept of it, and how it is written for viewers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.live.media import metadata
from streamd.live.protocol import amf0
from streamd.live.protocol.amf import Encodable
from streamd.runtime.vocabulary import PeerError
from tests import media_samples

OBS: dict[str, Encodable] = {
    "duration": 0.0, "fileSize": 0.0, "width": 1280.0, "height": 720.0, "videocodecid": "avc1", "framerate": 30.0,
    "stereo": True, "2.1": False, "encoder": "obs-output module (libobs version 29.0.2)", "title": "5 € – Straße",
}  # fmt: skip


def said(name: str, values: dict[str, Encodable]) -> bytes:
    return amf0.encode(name) + amf0.encode_ecma(values)


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        pytest.param(
            amf0.encode("@setDataFrame") + said("onMetaData", OBS), OBS, id="@setDataFrame, ECMA array"
        ),
        pytest.param(said("onMetaData", OBS), OBS, id="without @setDataFrame"),
        pytest.param(amf0.encode("@setDataFrame", "onMetaData", OBS), OBS, id="an object"),
        pytest.param(amf0.encode("@setDataFrame", "onMetaData", OBS, 1.0), OBS, id="trailing values"),
        pytest.param(amf0.encode("@clearDataFrame", "onMetaData"), {}, id="taken back"),
        pytest.param(
            amf0.encode("onMetaData", {"a": None, "b": {"c": 1.0}, "d": [1.0]}), {}, id="nothing scalar"
        ),
        pytest.param(
            amf0.encode("onMetaData", {"a": float("nan"), "b": float("inf"), "c": 1.0}),
            {"c": 1.0},
            id="no number",
        ),
        pytest.param(amf0.encode("onMetaData"), None, id="no values"),
        pytest.param(amf0.encode("onMetaData", "text"), None, id="no dict"),
        pytest.param(amf0.encode("onTextData", {"text": "x"}), None, id="another message"),
        pytest.param(amf0.encode(1.0, {"text": "x"}), None, id="no name"),
        pytest.param(b"", None, id="empty"),
    ],
)
def test_what_is_kept(payload, expected):
    assert metadata.read(payload) == expected


def test_what_was_read_is_written_and_read_again():
    values = metadata.read(said("onMetaData", OBS))
    assert values is not None
    assert metadata.read(metadata.write(values)) == OBS
    assert amf0.decode(metadata.write(values))[0] == "onMetaData"


def test_the_server_takes_its_own_word_off():
    assert metadata.strip(amf0.encode("@setDataFrame") + b"rest") == b"rest"
    assert metadata.strip(b"rest") == b"rest"
    assert metadata.strip(amf0.encode("onCue", "@setDataFrame")) == amf0.encode("onCue", "@setDataFrame")


def test_metadata_is_bounded():
    values = metadata.read(said("onMetaData", {f"{number:0999}": "x" * 3_000 for number in range(200)}))
    assert values is not None
    assert len(values) == metadata.MAX_VALUES
    assert all(isinstance(text, str) and len(text) == metadata.MAX_TEXT for text in values.values())


def test_a_title_in_utf_8_arrives_whole():
    assert metadata.read(media_samples.metadata_body("5 €".encode())) == {"title": "5 €"}


def test_every_cut_of_a_message_is_read_or_the_peers_fault():
    payload = amf0.encode("@setDataFrame") + said("onMetaData", OBS)
    for end in range(len(payload)):
        try:
            kept = metadata.read(payload[:end])
        except PeerError:
            continue
        assert kept is None or kept.items() <= OBS.items()


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=100),
    st.sampled_from((b"", metadata.SET, amf0.encode("onMetaData"), said("onMetaData", OBS)[:40])),
)
def test_whatever_comes_only_the_peer_is_blamed(data, start):
    try:
        values = metadata.read(start + data)
    except PeerError:
        return
    if values is not None:
        metadata.read(metadata.write(values))
