"""euro_fix: a title in Windows-1252, before and after."""

from __future__ import annotations

import pytest

from tests import media_samples
from tests.patches.live_tree import release


@pytest.fixture(scope="module")
def releases(tmp_path_factory):
    where = tmp_path_factory.mktemp("releases")
    both = release(where), release(where, "euro_fix.py")
    yield both
    for one in both:
        one.discard()


@pytest.mark.parametrize(
    ("title", "before", "after"),
    [
        pytest.param(b"only 5 \x80", "only 5 \x80", "only 5 €", id="the euro sign"),
        pytest.param(
            "“Straße” – €".encode("cp1252"),
            "\x93Straße\x94 \x96 \x80",
            "“Straße” – €",
            id="quotes and dashes",
        ),
        pytest.param("nur 5 €".encode(), "nur 5 €", "nur 5 €", id="UTF-8 was right before"),
        pytest.param(b"caf\xe9", "café", "café", id="so was ISO-8859-1"),
    ],
)
def test_a_title(releases, title, before, after):
    for one, expected in zip(releases, (before, after)):
        metadata = one.modules["media.metadata"]
        values = metadata.read(media_samples.metadata_body(title))
        assert values == {"title": expected}
        assert metadata.read(metadata.write(values)) == values


def test_the_whole_table_is_that_of_the_encoding_standard(releases):
    special = releases[1].modules["protocol.text"].SPECIAL
    for code, character in zip(range(0x80, 0xA0), special, strict=True):
        try:
            assert bytes((code,)).decode("cp1252") == character
        except UnicodeDecodeError:
            assert character == chr(code)


def test_both_patches_fit_one_load(tmp_path):
    both = release(tmp_path, "codec_fix.py", "euro_fix.py")
    assert (both.versions["media.h264"], both.versions["protocol.text"]) == (2, 2)
    both.discard()
