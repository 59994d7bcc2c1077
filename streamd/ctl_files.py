"""The two verbs that touch files with the user's own rights: `promote` writes, `sign` signs.

The rules this file keeps: nothing is written outside the directory that was named, whatever the server answers; nothing
is overwritten that somebody has edited; everything is checked before anything is written; and a file is whole or as
it was. Keys are ssh-keygen's business: none is ever read here.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from streamd.ctl_show import Answer, counted, listed

NAMESPACE = (
    "streamd-patch"  # what a signature is for: one made for a commit or a mail is no signature of a patch
)
KEY_NAMES = ("id_ed25519", "id_ecdsa", "id_rsa")
SSH_SECONDS = 10.0


class FilesError(Exception):
    """Nothing was written. The message says why and what to do."""


# ---- promote ---------------------------------------------------------------------------------------------


@dataclass
class Written:
    """What became of the files of a release."""

    written: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)

    def sentence(self, directory: Path, release: Any) -> str:
        if not self.written and not self.removed:
            same = f"{counted(len(self.same), 'file')} there already" if self.same else "nothing to write"
            return f"{directory} has release {release}: {same}."
        said = [f"wrote {listed(self.written)}"] if self.written else []
        said += [f"removed {listed(self.removed)}"] if self.removed else []
        said += [f"{counted(len(self.same), 'file')} there already"] if self.same else []
        return f"release {release} is in {directory}: {'; '.join(said)}."


def promote(answer: Answer, directory: Path, force: bool) -> Written:
    """Write the files of a release below `directory`. Raises FilesError."""
    shipped = answer.get("shipped") or {}
    try:
        root = directory.resolve(strict=True)
    except OSError as e:
        raise FilesError(
            f"{directory}: {(e.strerror or str(e)).lower()}. Make it first, or name a clone."
        ) from None
    if not root.is_dir():
        raise FilesError(f"{directory} is no directory.")
    if not force and any(root.iterdir()) and not (root / "streamd" / "live").is_dir():
        raise FilesError(
            f"{directory} is neither empty nor a clone of streamd. Name another, or write there all the same with --force."
        )
    done, edited = Written(), []
    plan: list[tuple[str, Path, bytes | None]] = []
    for name, text in sorted((answer.get("files") or {}).items()):
        place = _inside(root, name)
        fresh = None if text is None else text.encode()
        there = _there(place)
        if there == fresh:
            done.same.append(name)
            continue
        known = there is None or hashlib.sha256(there).hexdigest() == shipped.get(name)
        if not known and not force:
            edited.append(name)
        plan.append((name, place, fresh))
    if edited:
        raise FilesError(
            f"{listed(edited)} in {directory} {'is' if len(edited) == 1 else 'are'} not as shipped: somebody has edited "
            "it since. Nothing was written. Look at it (streamd-ctl diff has the patch), or write over it with --force."
        )
    for name, place, fresh in plan:
        try:
            if fresh is None:
                place.unlink()
                done.removed.append(name)
            else:
                _write(place, fresh)
                done.written.append(name)
        except OSError as e:
            so_far = [*done.written, *done.removed]
            raise FilesError(
                f"{place}: {(e.strerror or str(e)).lower()}. {f'Done before: {listed(so_far)}.' if so_far else 'Nothing was written.'}"
            ) from None
    return done


def _inside(root: Path, name: str) -> Path:
    """Where a file belongs. Raises FilesError if that is not below `root`, links followed."""
    pure = PurePosixPath(name)
    if pure.is_absolute() or not pure.parts or ".." in pure.parts or "\0" in name:
        raise FilesError(f"the server names {name!r}, which is not inside {root}. Nothing was written.")
    place = root / pure
    if place.is_symlink() or not place.parent.resolve().is_relative_to(root):
        raise FilesError(f"{place} is a link, or below one that leads out of {root}. Nothing was written.")
    return place


def _there(place: Path) -> bytes | None:
    try:
        return place.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as e:
        raise FilesError(f"{place}: {(e.strerror or str(e)).lower()}. Nothing was written.") from None


def _write(place: Path, data: bytes) -> None:
    """Beside its place, then renamed. Raises OSError."""
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        mode = place.stat().st_mode & 0o777
    except FileNotFoundError:
        mode = 0o666 & ~_umask()
    handle, beside = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), mode)
        os.replace(beside, place)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


def _umask() -> int:
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


# ---- sign ------------------------------------------------------------------------------------------------


@dataclass
class Signed:
    """Signatures that were made, and the public key that the server has to know."""

    signatures: list[str]
    public: str

    def sentence(self) -> str:
        key = f'\nThe server believes it with [patches] keys = ["{self.public}"]' if self.public else ""
        return f"signed: {listed(map(shlex.quote, self.signatures))}{key}"


def sign(paths: Sequence[str], key: str | None) -> Signed:
    """Sign patches as `ssh-keygen -Y sign -n streamd-patch` does; PATCH.sig beside each. Raises FilesError."""
    program = shutil.which("ssh-keygen")
    if program is None:
        raise FilesError("there is no ssh-keygen here. It comes with OpenSSH: apt install openssh-client.")
    patches = _patches(paths)
    # ssh-keygen puts a signature beside its file and asks before it overwrites one: both are done here instead,
    # so that a passphrase is asked for once, and an old signature stays until there is a new one
    with tempfile.TemporaryDirectory(prefix="streamd-sign-") as directory:
        key = key or _usual_key(Path(directory))
        copies = [Path(directory, f"{number}.py") for number in range(len(patches))]
        for patch, copy in zip(patches, copies, strict=True):
            try:
                copy.write_bytes(patch.read_bytes())
            except OSError as e:
                raise FilesError(f"{patch}: {(e.strerror or str(e)).lower()}.") from None
        command = [program, "-Y", "sign", "-n", NAMESPACE, "-f", key, *map(str, copies)]
        failed, why = _run(command)
        made = [copy.with_name(f"{copy.name}.sig") for copy in copies]
        if failed or not all(map(Path.exists, made)):
            raise FilesError(
                f"ssh-keygen could not sign with {key}: {'; '.join(why) or 'it gave no reason'}. Name another key with --key; "
                "for one that an agent holds (ssh-add -L), the file with its public half."
            )
        places = [patch.with_name(f"{patch.name}.sig") for patch in patches]
        for signature, place in zip(made, places, strict=True):
            try:
                _write(place, signature.read_bytes())
            except OSError as e:
                raise FilesError(f"{place}: {(e.strerror or str(e)).lower()}.") from None
        return Signed([str(place) for place in places], _public(program, key))


def _run(command: Sequence[str]) -> tuple[bool, list[str]]:
    """Whether ssh-keygen failed, and what it said. The terminal stays its own: it asks for the passphrase there."""
    said: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
    ) as process:
        assert process.stderr is not None
        for line in map(str.strip, process.stderr):
            if line.startswith("Confirm"):  # the key wants to be touched, now
                print(line, file=sys.stderr, flush=True)
            elif line and not line.startswith(("Signing file", "Write signature")):
                said.append(line)
    return process.returncode != 0, said


def _patches(paths: Sequence[str]) -> list[Path]:
    """The files that are meant; a directory means the patches in it, as it does to `load`."""
    found: list[Path] = []
    for path in map(Path, paths):
        inside = [path]
        if path.is_dir():
            inside = sorted(item for item in path.glob("*.py") if not item.name.startswith((".", "_")))
            if not inside:
                raise FilesError(f"{path}: a directory without a patch (*.py) in it.")
        found += [item for item in inside if item not in found]
    for path in found:
        if not path.is_file():
            raise FilesError(f"{path}: there is no such file. Patches are signed where they lie, from here.")
    return found


def _usual_key(directory: Path) -> str:
    """The user's own key: a file in ~/.ssh, its public half (then an agent has the rest), or the agent's first."""
    for suffix in ("", ".pub"):
        for name in KEY_NAMES:
            if (path := Path("~/.ssh", name + suffix).expanduser()).is_file():
                return str(path)
    if held := _output("ssh-add", "-L"):
        path = directory / "agent.pub"
        path.write_text(held.splitlines()[0] + "\n", encoding="utf-8")
        return str(path)
    raise FilesError(
        "no key in ~/.ssh and none in an agent. Name one with --key FILE, or make one: ssh-keygen -t ed25519."
    )


def _public(program: str, key: str) -> str:
    """The public key as one line, "" if it cannot be had without a passphrase."""
    beside = key if key.endswith(".pub") else f"{key}.pub"
    try:
        return Path(beside).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return _output(program, "-y", "-P", "", "-f", key)


def _output(*command: str) -> str:
    """What a program says; "" if it cannot."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SSH_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
