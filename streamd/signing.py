"""Signatures of patches: PATCH.py.sig beside PATCH.py, as `ssh-keygen -Y sign -n streamd-patch -f KEY PATCH.py` writes it.

The format is OpenSSH's PROTOCOL.sshsig: an armoured blob that names the public key, a namespace and a hash, and signs
the hash of the file's bytes together with all of them. Operators have such keys already, in files, agents and tokens.

The rule this file keeps: a signature is good only if every byte of it is accounted for, the key in it is byte for byte
one of those in the configuration, and the namespace is ours, so that a signature made for something else (an e-mail, a
commit, a log-in) is never one for a patch. What is verified are the bytes that are then parsed, never a second read.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import stat
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from streamd.runtime.patchfile import PatchError

NAMESPACE = "streamd-patch"
SUFFIX = ".sig"
MAGIC = b"SSHSIG"
VERSION = 1
BEGIN, END = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"
MAX_SIGNATURE = 16_384  # bytes of the file; one by a 16,384 bit RSA key has some 6,000
MIN_RSA = 2048  # bits, as OpenSSH's own RequiredRSASize suggests

# PROTOCOL.sshsig, "Blob format": hash algorithms other than these are invalid.
HASHES = {"sha256": hashlib.sha256, "sha512": hashlib.sha512}
# key type -> the signature algorithms it may use, and their hash; "ssh-rsa" (SHA-1) is refused by PROTOCOL.sshsig, too
ALGORITHMS: dict[str, dict[str, HashAlgorithm | None]] = {
    "ssh-ed25519": {"ssh-ed25519": None},
    "ssh-rsa": {"rsa-sha2-256": SHA256(), "rsa-sha2-512": SHA512()},
    "ecdsa-sha2-nistp256": {"ecdsa-sha2-nistp256": SHA256()},
    "ecdsa-sha2-nistp384": {"ecdsa-sha2-nistp384": SHA384()},
    "ecdsa-sha2-nistp521": {"ecdsa-sha2-nistp521": SHA512()},
}

Public = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey


class SignatureError(PatchError):
    """Why a signature is not believed, or a key cannot be used, as a sentence."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence, "signature")


class Key(NamedTuple):
    """A public key of the configuration."""

    kind: str
    blob: bytes
    name: str  # its comment, or its fingerprint if it has none
    public: Public


# ---- keys ----------------------------------------------------------------------------------------------------


def parse_key(line: str) -> Key:
    """A line of an `id_*.pub` file: type, base64 and, perhaps, a comment. Raises SignatureError."""
    words = line.split(None, 2)
    if len(words) < 2 or "\n" in line.strip():
        raise SignatureError(f'"{_short(line)}" is no public key; write the line of ~/.ssh/id_ed25519.pub')
    kind, text, comment = words[0], words[1], words[2].strip() if len(words) > 2 else ""
    if kind not in ALGORITHMS:
        raise SignatureError(_not_that_kind(line, kind))
    try:
        blob = base64.b64decode(text, validate=True)
        public = load_ssh_public_key(f"{kind} {text}".encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SignatureError(
            f'"{_short(line)}" is a damaged key: {error}; copy its .pub line again'
        ) from None
    if not isinstance(public, Public):  # the text says one type, the blob another
        raise SignatureError(f'"{_short(line)}" is no {kind} key; copy its .pub line again')
    if isinstance(public, rsa.RSAPublicKey) and public.key_size < MIN_RSA:
        raise SignatureError(
            f'"{_short(line)}" has {public.key_size} bits; make a better one with: ssh-keygen -t ed25519'
        )
    return Key(kind, blob, comment or fingerprint(blob), public)


def parse_keys(lines: Sequence[str]) -> list[Key]:
    """All of the configuration's. Raises SignatureError, also where one is there twice."""
    keys: dict[bytes, Key] = {}
    for line in lines:
        key = parse_key(line)
        if key.blob in keys:
            raise SignatureError(
                f"{key.name} is the same key as {keys[key.blob].name}; leave one of them out"
            )
        keys[key.blob] = key
    return list(keys.values())


def _not_that_kind(line: str, kind: str) -> str:
    if kind.startswith("-----BEGIN"):
        return "that is no public key, and perhaps a private one: never write it anywhere; use its .pub line"
    if kind.startswith(("sk-", "ssh-dss")) or "-cert-" in kind:
        return f"a key of type {kind} cannot sign patches; use ssh-ed25519, ecdsa-sha2-* or ssh-rsa"
    if any(f"{known} " in line for known in ALGORITHMS):
        return f'"{_short(line)}" begins with "{_short(kind)}"; options and names have no meaning here, write the key alone'
    return f'"{_short(line)}" is no public key; write the line of ~/.ssh/id_ed25519.pub'


def fingerprint(blob: bytes) -> str:
    """As `ssh-keygen -l` shows it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


# ---- signatures ----------------------------------------------------------------------------------------------


def verify(text: bytes, signature: bytes, keys: Sequence[Key], namespace: str = NAMESPACE) -> str:
    """The name of the key that signed these bytes. Raises SignatureError if none of `keys` has."""
    blob = Reader(_dearmor(signature))
    if blob.take(len(MAGIC)) != MAGIC:
        raise SignatureError("the signature is none of ssh-keygen -Y sign")
    if (version := blob.number()) != VERSION:
        raise SignatureError(f"the signature has format {version}, known is {VERSION}")
    signer, named = blob.string(), blob.string()
    reserved, hash_name, inner = blob.string(), blob.string(), Reader(blob.string())
    blob.end()
    algorithm, proof = inner.string().decode("ascii", "replace"), inner.string()
    inner.end()
    key = next((item for item in keys if item.blob == signer), None)
    if key is None:
        raise SignatureError(
            f"it is signed by the key {fingerprint(signer)}, which [patches] keys does not name"
        )
    if named != namespace.encode():
        raise SignatureError(
            f'it is signed for "{_short(named.decode("utf-8", "replace"))}", not as a patch; sign with: streamd-ctl sign'
        )
    hashed = HASHES.get(hash_name.decode("ascii", "replace"))
    if hashed is None or algorithm not in ALGORITHMS[key.kind]:
        raise SignatureError(
            f"it is signed with {_short(algorithm)} over {_short(hash_name.decode('ascii', 'replace'))}, "
            f"which a key of type {key.kind} may not use"
        )
    signed = MAGIC + b"".join(map(_string, (named, reserved, hash_name, hashed(text).digest())))
    try:
        _check(key.public, proof, signed, ALGORITHMS[key.kind][algorithm])
    except InvalidSignature:
        raise SignatureError(
            f"it is not what {key.name} signed; sign it again with: streamd-ctl sign"
        ) from None
    return key.name


def _check(public: Public, proof: bytes, signed: bytes, hashed: HashAlgorithm | None) -> None:
    """Raises InvalidSignature."""
    match public:
        case ed25519.Ed25519PublicKey():
            public.verify(proof, signed)
        case rsa.RSAPublicKey():
            assert hashed is not None
            if len(proof) != (public.key_size + 7) // 8:  # RFC 8332, section 3
                raise InvalidSignature
            public.verify(proof, signed, padding.PKCS1v15(), hashed)
        case ec.EllipticCurvePublicKey():
            assert hashed is not None
            numbers = Reader(proof)  # RFC 5656, section 3.1.2: r and s
            r, s = numbers.integer(), numbers.integer()
            numbers.end()
            public.verify(encode_dss_signature(r, s), signed, ec.ECDSA(hashed))


def _dearmor(signature: bytes) -> bytes:
    """PROTOCOL.sshsig, "Armored format". Nothing may stand around it, no other text slip in."""
    try:
        lines = signature.decode("ascii").replace("\r\n", "\n").strip("\n").split("\n")
        if len(lines) < 3 or lines[0] != BEGIN or lines[-1] != END:
            raise SignatureError(f"the signature does not begin with {BEGIN} and end with {END}")
        return base64.b64decode("".join(lines[1:-1]), validate=True)
    except (UnicodeDecodeError, binascii.Error) as error:
        raise SignatureError(f"the signature is damaged: {error}") from None


class Reader:
    """The types of RFC 4251, section 5, from the beginning to the end."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise SignatureError("the signature ends in the middle")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self) -> int:
        (number,) = struct.unpack(">I", self.take(4))
        return int(number)

    def string(self) -> bytes:
        return self.take(self.number())

    def integer(self) -> int:
        """An mpint; a signature's are positive and written as short as can be."""
        raw = self.string()
        if not raw or raw[0] & 0x80 or (raw[0] == 0 and not (len(raw) > 1 and raw[1] & 0x80)):
            raise SignatureError("the signature has a number that is not written as RFC 4251 says")
        return int.from_bytes(raw, "big")

    def end(self) -> None:
        if self.at != len(self.data):
            raise SignatureError(f"the signature has {len(self.data) - self.at} bytes too many")


def _string(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


# ---- files ---------------------------------------------------------------------------------------------------


class Trust:
    """Whose patches are believed. Called with a patch's path and the very bytes that will be parsed, it says who signed
    them, "" for nobody where that is allowed, or raises SignatureError.

    Where keys are configured a signature that is there has to be good, required or not: a bad one means that
    somebody was at the file. Without keys there is nothing to hold it against, and it is not looked at.
    """

    def __init__(self, keys: Sequence[str], required: bool) -> None:
        self.keys = parse_keys(keys)
        self.required = required

    def __call__(self, path: Path, raw: bytes) -> str:
        if not self.keys:
            return ""
        beside = path.with_name(path.name + SUFFIX)
        try:
            signature = _read(beside)
        except FileNotFoundError:
            if not self.required:
                return ""
            raise SignatureError(
                f"{path.name} is not signed, and [patches] require_signature is on; sign it with: streamd-ctl sign {path.name}"
            ) from None
        except OSError as error:
            raise SignatureError(f"{beside}: {error.strerror or error}") from error
        try:
            return verify(raw, signature, self.keys)
        except SignatureError as error:
            raise SignatureError(f"{beside.name}: {error}") from None


def _read(path: Path) -> bytes:
    """A file that somebody else may have made: no link, no pipe, no more than a signature has."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise SignatureError(f"{path} is not a regular file")
        raw = file.read(MAX_SIGNATURE + 1)
    if len(raw) > MAX_SIGNATURE:
        raise SignatureError(f"{path} has more than {MAX_SIGNATURE} bytes; that is no signature")
    return raw
