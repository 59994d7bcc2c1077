"""Whose patches a server loads: signed by an operator's own key, every byte of them; and what its history vouches for."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from tests.scenarios.harness import output, running

pytestmark = [
    pytest.mark.scenario,
    pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="needs ssh-keygen (openssh-client)"),
]


async def test_only_what_an_operator_signed_is_loaded_and_the_history_says_who_that_was(tmp_path):
    key, stranger = tmp_path / "operator", tmp_path / "stranger"
    for path in (key, stranger):
        await output(
            "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"{path.name}@there", "-f", str(path)
        )
    public = key.with_suffix(".pub").read_text().strip()
    tables: dict[str, dict[str, Any]] = {
        "patches": {"require_signature": True, "keys": [public]},
        "probation": {"seconds": 0},
    }
    async with running(tables) as streamd:
        patch = streamd.patches / "codec_fix.py"

        unsigned = await streamd.ctl("load", "codec_fix.py", code=1)
        assert unsigned["stage"] == "signature"
        assert "codec_fix.py is not signed, and [patches] require_signature is on" in unsigned["error"]

        await streamd.ctl("sign", "--key", str(stranger), str(patch))
        foreign = await streamd.ctl("load", "codec_fix.py", code=1)
        assert "which [patches] keys does not name" in foreign["error"]

        await streamd.ctl("sign", "--key", str(key), str(patch))
        whole = patch.read_bytes()
        patch.write_bytes(whole + b"#\n")
        changed = await streamd.ctl("load", "codec_fix.py", code=1)
        assert "codec_fix.py.sig: it is not what operator@there signed" in changed["error"]
        assert (await streamd.ctl("check", "codec_fix.py", code=1))["stage"] == "signature"

        patch.write_bytes(whole)
        loaded = await streamd.ctl("load", "codec_fix.py")
        status = await streamd.status()
        assert {item["number"]: item["signers"] for item in status["releases"]} == {
            1: [],
            loaded["release"]: ["operator@there"],
        }

        verified = (await streamd.ctl("history", "--verify"))["verified"]
        assert verified["problems"] == []
        history = streamd.root / "state" / "history.jsonl"
        history.write_bytes(history.read_bytes().replace(b'"refused"', b'"ok"', 1))
        answer = await streamd.ctl("history", "--verify", code=1)
        assert "does not follow from the one before" in answer["error"]


async def test_a_server_with_a_damaged_key_does_not_start(tmp_path):
    with pytest.raises(AssertionError, match=r"\[patches\] keys: .* is a damaged key"):
        async with running({"patches": {"keys": ["ssh-ed25519 AAAA"]}}):
            pass
