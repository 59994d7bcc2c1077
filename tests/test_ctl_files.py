"""`promote` and `sign`: what is written, what is refused, and that nothing is written by halves or elsewhere."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess

import pytest
from click.testing import CliRunner

from streamd import ctl
from tests.fake_admin import PROMOTED, FakeAdmin

H264 = "streamd/live/media/h264.py"
OLD = "streamd/live/media/old.py"


@pytest.fixture
def clone(tmp_path):
    """A directory as it was shipped."""
    for name, text in ((H264, "VERSION = 1\n"), (OLD, "OLD = 1\n"), ("README.md", "streamd\n")):
        path = tmp_path / "clone" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "clone"


@pytest.fixture
def server(tmp_path):
    fake = FakeAdmin(tmp_path / "admin.sock")
    yield fake
    fake.close()


@pytest.fixture
def typed(server):
    return lambda *words: CliRunner().invoke(ctl.cli, ["--admin", server.path, *map(str, words)])


def files_of(root) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


# ---- promote ---------------------------------------------------------------------------------------------


def test_the_merged_files_are_written_and_what_is_gone_is_removed(typed, clone):
    (clone / H264).chmod(0o755)
    result = typed("promote", clone)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"release 2 is in {clone}: wrote {H264}; removed {OLD}.\n"
    assert files_of(clone) == {H264: "VERSION = 2\n", "README.md": "streamd\n"}
    assert (clone / H264).stat().st_mode & 0o777 == 0o755


def test_a_second_time_there_is_nothing_to_do(typed, clone):
    typed("promote", clone)
    before = (clone / H264).stat().st_mtime_ns
    assert typed("promote", clone).stdout == f"{clone} has release 2: 2 files there already.\n"
    assert (clone / H264).stat().st_mtime_ns == before


def test_an_empty_directory_gets_the_files_in_directories_of_their_own(typed, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert typed("promote", empty).exit_code == 0
    assert files_of(empty) == {H264: "VERSION = 2\n"}


@pytest.mark.parametrize("name", [H264, OLD])
def test_what_somebody_has_edited_is_not_written_over_and_then_nothing_is(typed, clone, name):
    (clone / name).write_text("# mine\n")
    before = files_of(clone)
    result = typed("promote", clone)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"Refused at promote: {name} in {clone} is not as shipped")
    assert "--force" in result.stderr
    assert files_of(clone) == before
    assert typed("promote", "--force", clone).exit_code == 0
    assert files_of(clone) == {H264: "VERSION = 2\n", "README.md": "streamd\n"}


def test_a_server_that_does_not_say_what_was_shipped_overwrites_nothing(server, typed, clone):
    answer = {key: value for key, value in PROMOTED.items() if key != "shipped"}
    server.answers["promote"] = [answer]
    before = files_of(clone)
    assert typed("promote", clone).exit_code == 1
    assert files_of(clone) == before


@pytest.mark.parametrize("name", ["../outside.py", "/tmp/outside.py", "a/../../outside.py", "", "a\0b"])
def test_no_file_is_written_outside_of_the_directory(server, typed, clone, name):
    server.answers["promote"] = [{"ok": True, "release": 2, "files": {H264: "VERSION = 2\n", name: "bad\n"}}]
    before = files_of(clone.parent)
    for force in ((), ("--force",)):
        result = typed("promote", clone, *force)
        assert result.exit_code == 1
        assert "Nothing was written." in result.stderr
    assert {n: t for n, t in files_of(clone.parent).items() if "sock" not in n} == before


def test_no_link_leads_out_of_the_directory(server, typed, clone, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    shutil.rmtree(clone / "streamd")
    (clone / "streamd").symlink_to(outside)
    result = typed("promote", "--force", clone)
    assert (result.exit_code, list(outside.iterdir())) == (1, [])
    assert "leads out of" in result.stderr
    (clone / "streamd").unlink()
    (clone / H264).parent.mkdir(parents=True)
    (clone / H264).symlink_to(outside / "target.py")
    assert typed("promote", "--force", clone).exit_code == 1
    assert list(outside.iterdir()) == []


def test_a_directory_that_is_not_there_is_not_made(typed, tmp_path):
    result = typed("promote", tmp_path / "none")
    assert result.exit_code == 1
    assert "Make it first, or name a clone." in result.stderr
    assert not (tmp_path / "none").exists()


def test_json_says_what_was_written(typed, clone):
    answer = json.loads(typed("--json", "promote", clone).stdout)
    assert (answer["written"], answer["removed"], answer["directory"]) == ([H264], [OLD], str(clone))
    (clone / H264).write_text("# mine\n")
    assert json.loads(typed("--json", "promote", clone).stdout)["stage"] == "promote"


# ---- sign ------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A user with one key and no agent."""
    ssh = tmp_path / "home" / ".ssh"
    ssh.mkdir(parents=True)
    keygen("-q", "-t", "ed25519", "-N", "", "-C", "operator@there", "-f", ssh / "id_ed25519")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.py").write_text("VERSION = 2\n")
    return ssh


def keygen(*words, **more):
    return subprocess.run(["ssh-keygen", *map(str, words)], check=True, capture_output=True, **more)


def verified(patch, public) -> bool:
    allowed = patch.parent / "allowed"
    allowed.write_text(f"operator {public.read_text()}")
    command = ["ssh-keygen", "-Y", "verify", "-n", "streamd-patch", "-I", "operator", "-f", str(allowed)]
    command += ["-s", f"{patch}.sig"]
    return subprocess.run(command, input=patch.read_bytes(), capture_output=True).returncode == 0


def sign(*words):
    return CliRunner().invoke(ctl.cli, ["sign", *map(str, words)])


def test_a_signature_is_what_ssh_keygen_makes_and_stands_beside_its_patch(home, tmp_path):
    result = sign("a.py")
    assert (result.exit_code, result.stderr) == (0, "")
    public = (home / "id_ed25519.pub").read_text().strip()
    assert result.stdout == f'signed: a.py.sig\nThe server believes it with [patches] keys = ["{public}"]\n'
    assert verified(tmp_path / "a.py", home / "id_ed25519.pub")


def test_a_changed_patch_is_signed_again_without_a_question(home, tmp_path):
    sign("a.py")
    (tmp_path / "a.py").write_text("VERSION = 3\n")
    assert not verified(tmp_path / "a.py", home / "id_ed25519.pub")
    assert sign("a.py").exit_code == 0
    assert verified(tmp_path / "a.py", home / "id_ed25519.pub")


def test_a_directory_means_the_patches_in_it(home, tmp_path):
    (tmp_path / "day").mkdir()
    for name in ("b.py", "c.py", "_no.py", "notes.txt"):
        (tmp_path / "day" / name).write_text("\n")
    answer = json.loads(sign("--json", "day", "a.py", "a.py").stdout)
    assert answer["signatures"] == ["day/b.py.sig", "day/c.py.sig", "a.py.sig"]
    assert len(list(tmp_path.rglob("*.sig"))) == 3


def test_an_agent_signs_with_the_public_half(home, tmp_path, monkeypatch):
    started = subprocess.run(["ssh-agent", "-s"], check=True, capture_output=True, text=True).stdout
    facts = dict(part.split("=", 1) for part in started.replace(";", "\n").splitlines() if "=" in part)
    try:
        monkeypatch.setenv("SSH_AUTH_SOCK", facts["SSH_AUTH_SOCK"])
        subprocess.run(["ssh-add", "-q", str(home / "id_ed25519")], check=True, capture_output=True)
        (home / "id_ed25519").unlink()
        for more in (["--key", home / "id_ed25519.pub"], []):
            (tmp_path / "a.py.sig").unlink(missing_ok=True)
            assert sign("a.py", *more).exit_code == 0
            assert verified(tmp_path / "a.py", home / "id_ed25519.pub")
        public = (home / "id_ed25519.pub").rename(tmp_path / "kept.pub")
        assert sign("a.py").exit_code == 0  # nothing in ~/.ssh: the first of the agent
        assert verified(tmp_path / "a.py", public)
    finally:
        os.kill(int(facts["SSH_AGENT_PID"]), 15)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["none.py"], "none.py: there is no such file. Patches are signed where they lie, from here."),
        (["."], ".: a directory without a patch (*.py) in it."),
        (["a.py", "--key", "none"], "ssh-keygen could not sign with none: "),
    ],
)
def test_what_cannot_be_signed_is_refused_with_a_sentence(home, tmp_path, words, sentence):
    if words == ["."]:
        (tmp_path / "a.py").unlink()
    result = sign(*words)
    assert (result.exit_code, result.stdout) == (1, "")
    assert sentence in result.stderr
    assert not list(tmp_path.rglob("*.sig"))


def test_without_a_key_or_without_ssh_keygen_it_says_what_to_do(home, tmp_path, monkeypatch):
    shutil.rmtree(home)
    assert "make one: ssh-keygen -t ed25519." in sign("a.py").stderr
    monkeypatch.setenv("PATH", str(tmp_path))
    result = sign("a.py")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "there is no ssh-keygen here. It comes with OpenSSH: apt install openssh-client." in result.stderr


def test_a_signature_is_of_the_bytes_that_are_on_disk(home, tmp_path):
    odd = b"# \xff\r\n\x00"
    (tmp_path / "a.py").write_bytes(odd)
    assert sign("a.py").exit_code == 0
    assert hashlib.sha256((tmp_path / "a.py").read_bytes()).digest() == hashlib.sha256(odd).digest()
    assert verified(tmp_path / "a.py", home / "id_ed25519.pub")
