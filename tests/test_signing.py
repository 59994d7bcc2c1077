"""Signatures as OpenSSH makes them are believed; what is one byte off, made for something else, or by somebody else, not."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import struct
import subprocess

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from streamd.config import ConfigError, load
from streamd.runtime.patchfile import PatchError
from streamd.signing import (
    BEGIN,
    END,
    MAX_SIGNATURE,
    NAMESPACE,
    SignatureError,
    Trust,
    parse_key,
    parse_keys,
    verify,
)

# Made with OpenSSH 9.2's ssh-keygen: here they are checked also where it is not installed.
PATCH = b"VERSION = 2\n"
ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHDyY2Vs6yBGP0n6CyqkaOx571Z60AJWCyFzYCGMql3b ed25519@test"
ED25519_SIGNED = b"""-----BEGIN SSH SIGNATURE-----
U1NIU0lHAAAAAQAAADMAAAALc3NoLWVkMjU1MTkAAAAgcPJjZWzrIEY/SfoLKqRo7HnvVn
rQAlYLIXNgIYyqXdsAAAANc3RyZWFtZC1wYXRjaAAAAAAAAAAGc2hhNTEyAAAAUwAAAAtz
c2gtZWQyNTUxOQAAAEC48flnFfFZcyGTWpI2eiiZDsRaasw9o5dqfF1gpdNo8MqNwo0o60
pyJl3l6ezn90B6tMEqqmbyI2Uu2QNeY88H
-----END SSH SIGNATURE-----
"""
ECDSA = (
    "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBITuFzb0aXIz1K4QFb53i1M+EQ/KFo8A4mqQa613nG5R"
    "hYYMeGz6DfQ5vFJSXoMla0F343gNdCPliwgTgO4xSXs= ecdsa@test"
)
ECDSA_SIGNED = b"""-----BEGIN SSH SIGNATURE-----
U1NIU0lHAAAAAQAAAGgAAAATZWNkc2Etc2hhMi1uaXN0cDI1NgAAAAhuaXN0cDI1NgAAAE
EEhO4XNvRpcjPUrhAVvneLUz4RD8oWjwDiapBrrXecblGFhgx4bPoN9Dm8UlJegyVrQXfj
eA10I+WLCBOA7jFJewAAAA1zdHJlYW1kLXBhdGNoAAAAAAAAAAZzaGE1MTIAAABkAAAAE2
VjZHNhLXNoYTItbmlzdHAyNTYAAABJAAAAIQDOsoviT0mNbVSBLbiZ2sZ1T7SBV1M9Npr8
yldwcJmCaAAAACATTsx+rQ/CST0zAddDrZtuiJTUuJrtOQI3rZZAyrMnZA==
-----END SSH SIGNATURE-----
"""
keygen = pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="needs ssh-keygen (openssh-client)")

OPERATOR = ed25519.Ed25519PrivateKey.from_private_bytes(b"a" * 32)
MALLORY = ed25519.Ed25519PrivateKey.from_private_bytes(b"m" * 32)


# ---- a signer of our own, which can also sign wrongly ------------------------------------------------------------


def s(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value


def mpint(value: int) -> bytes:
    return s(value.to_bytes(value.bit_length() // 8 + 1, "big"))


def public_line(private, comment: str = "") -> str:
    line = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    return f"{line} {comment}".strip()


def blob_of(private) -> bytes:
    return base64.b64decode(public_line(private).split()[1])


def armor(raw: bytes) -> bytes:
    text = base64.b64encode(raw).decode()
    lines = [text[at : at + 70] for at in range(0, len(text), 70)]
    return "\n".join([BEGIN, *lines, END, ""]).encode()


def sign(
    text: bytes = PATCH,
    private=OPERATOR,
    *,
    magic: bytes = b"SSHSIG",
    version: int = 1,
    namespace: bytes = NAMESPACE.encode(),
    reserved: bytes = b"",
    hashed: str = "sha512",
    algorithm: bytes = b"ssh-ed25519",
    claimed: bytes | None = None,  # the key that the blob names
    inner: bytes = b"",  # after the signature, inside its string
    after: bytes = b"",
    raw: bool = False,
    proof=None,
) -> bytes:
    digest = hashlib.new(hashed, text).digest()
    signed = b"SSHSIG" + s(namespace) + s(reserved) + s(hashed.encode()) + s(digest)
    made = proof(signed) if proof else private.sign(signed)
    body = (
        magic
        + struct.pack(">I", version)
        + s(blob_of(private) if claimed is None else claimed)
        + s(namespace)
        + s(reserved)
        + s(hashed.encode())
        + s(s(algorithm) + s(made) + inner)
        + after
    )
    return body if raw else armor(body)


KEYS = parse_keys([public_line(OPERATOR, "operator@there"), ED25519, ECDSA])


# ---- what is good ------------------------------------------------------------------------------------------------


def test_recorded_signatures_of_openssh_are_good():
    assert verify(PATCH, ED25519_SIGNED, KEYS) == "ed25519@test"
    assert verify(PATCH, ECDSA_SIGNED, KEYS) == "ecdsa@test"


@pytest.mark.parametrize(
    "signature",
    [
        sign(),
        sign(hashed="sha256"),
        sign(reserved=b"of the future"),  # PROTOCOL.sshsig: to be ignored, and it is signed
        sign().replace(b"\n", b"\r\n"),
        sign().rstrip(b"\n"),
        armor(sign(raw=True)).replace(b"\n", b"\n\n", 1),
    ],
)
def test_every_way_of_writing_the_same_is_good(signature):
    assert verify(PATCH, signature, KEYS) == "operator@there"


def test_an_empty_file_and_one_of_any_bytes_can_be_signed():
    for text in (b"", bytes(range(256)) * 100):
        assert verify(text, sign(text), KEYS) == "operator@there"


def test_a_key_without_a_comment_is_named_by_its_fingerprint():
    assert verify(PATCH, sign(), [parse_key(public_line(OPERATOR))]).startswith("SHA256:")


RSA = rsa.generate_private_key(65537, 2048)
CURVES = [
    (ec.SECP256R1(), b"ecdsa-sha2-nistp256", hashes.SHA256()),
    (ec.SECP384R1(), b"ecdsa-sha2-nistp384", hashes.SHA384()),
    (ec.SECP521R1(), b"ecdsa-sha2-nistp521", hashes.SHA512()),
]


@pytest.mark.parametrize(("curve", "name", "hashed"), CURVES)
def test_the_curves_of_nist(curve, name, hashed):
    private = ec.generate_private_key(curve)

    def proof(signed: bytes) -> bytes:
        return b"".join(map(mpint, decode_dss_signature(private.sign(signed, ec.ECDSA(hashed)))))

    keys = [parse_key(public_line(private, "curve"))]
    assert verify(PATCH, sign(private=private, algorithm=name, proof=proof), keys) == "curve"
    for broken in (
        lambda signed: proof(signed) + b"\0",
        lambda signed: proof(signed)[:-1],
        lambda signed: proof(signed) + mpint(1),
        lambda _: s(b"") + s(b""),
        lambda _: s(b"\xff") + s(b"\xff"),
        lambda _: s(b"\0\1") + s(b"\0\1"),
        lambda _: mpint(1) + mpint(1),
        lambda _: b"",
    ):
        with pytest.raises(SignatureError):
            verify(PATCH, sign(private=private, algorithm=name, proof=broken), keys)


@pytest.mark.parametrize(
    ("algorithm", "hashed", "good"),
    [
        (b"rsa-sha2-512", hashes.SHA512(), True),
        (b"rsa-sha2-256", hashes.SHA256(), True),
        (b"rsa-sha2-256", hashes.SHA512(), False),
        (b"ssh-rsa", hashes.SHA1(), False),
        (b"ssh-ed25519", hashes.SHA512(), False),
    ],
)
def test_rsa_with_sha_2_only(algorithm, hashed, good):
    def proof(signed: bytes) -> bytes:
        return RSA.sign(signed, padding.PKCS1v15(), hashed)

    keys = [parse_key(public_line(RSA, "rsa"))]
    signature = sign(private=RSA, algorithm=algorithm, proof=proof)
    if good:
        assert verify(PATCH, signature, keys) == "rsa"
        return
    with pytest.raises(SignatureError):
        verify(PATCH, signature, keys)


# ---- what is not -------------------------------------------------------------------------------------------------


def mpint_key(private) -> bytes:
    """The same key, its blob written with a byte more."""
    return blob_of(private) + b"\0"


HOSTILE = [
    ("another key", sign(private=MALLORY), "which [patches] keys does not name"),
    (
        "another key under the name of a good one",
        sign(private=MALLORY, claimed=blob_of(OPERATOR)),
        "operator@there",
    ),
    ("a good key under another's name", sign(claimed=blob_of(MALLORY)), "does not name"),
    ("a key with a byte more", sign(claimed=mpint_key(OPERATOR)), "does not name"),
    ("no key", sign(claimed=b""), "does not name"),
    ("for git", sign(namespace=b"git"), 'signed for "git", not as a patch'),
    ("for nothing", sign(namespace=b""), 'signed for "", not as a patch'),
    ("for nearly us", sign(namespace=b"streamd-patch\0"), "not as a patch"),
    ("for something that is not UTF-8", sign(namespace=b"\xff"), "not as a patch"),
    ("a hash that is none of sshsig", sign(hashed="sha1"), "ssh-ed25519 over sha1"),
    ("another hash", sign(hashed="sha384"), "over sha384"),
    ("another algorithm", sign(algorithm=b"rsa-sha2-512"), "may not use"),
    ("an algorithm that does not exist", sign(algorithm=b"\xff" * 100), "may not use"),
    ("no algorithm", sign(algorithm=b""), "may not use"),
    ("another format", sign(version=2), "the signature has format 2"),
    ("another magic", sign(magic=b"SSHSIC"), "none of ssh-keygen"),
    (
        "a short proof",
        sign(proof=lambda signed: OPERATOR.sign(signed)[:-1]),
        "not what operator@there signed",
    ),
    (
        "a long proof",
        sign(proof=lambda signed: OPERATOR.sign(signed) + b"\0"),
        "not what operator@there signed",
    ),
    ("no proof", sign(proof=lambda _: b""), "not what operator@there signed"),
    ("a proof of zeros", sign(proof=lambda _: bytes(64)), "not what operator@there signed"),
    ("the text signed without sshsig around it", sign(proof=lambda _: OPERATOR.sign(PATCH)), "not what"),
    ("bytes after the blob", sign(after=b"\0"), "has 1 bytes too many"),
    ("bytes after the proof", sign(inner=b"\0\0"), "has 2 bytes too many"),
    ("two blobs", armor(sign(raw=True) * 2), "bytes too many"),
    ("an empty file", b"", "does not begin with"),
    ("only armour", f"{BEGIN}\n{END}\n".encode(), "does not begin with"),
    ("empty armour", f"{BEGIN}\n\n{END}\n".encode(), "ends in the middle"),
    ("no armour", sign(raw=True), "is damaged"),
    ("no end", sign().replace(END.encode(), b""), "does not begin with"),
    ("no beginning", sign().replace(BEGIN.encode(), b""), "does not begin with"),
    ("text before", b"hello\n" + sign(), "does not begin with"),
    ("text after", sign() + b"hello\n", "does not begin with"),
    ("two signatures", sign() + sign(), "is damaged"),
    ("a PGP signature", sign().replace(b"SSH", b"PGP"), "does not begin with"),
    ("a space in it", sign().replace(b"U1NI", b"U1N I"), "is damaged"),
    ("a header in it", sign().replace(b"U1NI", b"Version: 1\nU1NI"), "is damaged"),
    ("a letter that is none", sign().replace(b"U1NI", b"U1N*"), "is damaged"),
    ("another alphabet", sign().replace(b"U1NI", b"U1N-"), "is damaged"),
    ("a letter less", sign().replace(b"U1NI", b"U1N"), "is damaged"),
    ("not ASCII", sign().replace(b"U1NI", "U1NÄ".encode()), "is damaged"),
    ("a NUL", sign().replace(b"U1NI", b"U1N\0"), "is damaged"),
    ("lengths without end", armor(b"SSHSIG" + b"\0\0\0\1" + b"\xff" * 40), "ends in the middle"),
    ("a minisign signature", b"untrusted comment: x\nRWQf6LRCGA9i\n", "does not begin with"),
]


@pytest.mark.parametrize(
    ("signature", "sentence"), [row[1:] for row in HOSTILE], ids=[row[0] for row in HOSTILE]
)
def test_a_signature_that_is_wrong_in_one_way_is_refused_in_a_sentence(signature, sentence):
    with pytest.raises(SignatureError) as refusal:
        verify(PATCH, signature, KEYS)
    assert sentence in str(refusal.value)
    assert refusal.value.stage == "signature"
    assert "\n" not in str(refusal.value)


def test_a_text_with_any_byte_changed_added_or_taken_away_is_not_what_was_signed():
    others = [PATCH + b"\0", PATCH[:-1], b"", b"\xef\xbb\xbf" + PATCH, PATCH.replace(b"\n", b"\r\n")]
    for place in range(len(PATCH)):
        for bit in range(8):
            changed = bytearray(PATCH)
            changed[place] ^= 1 << bit
            others.append(bytes(changed))
    for text in others:
        with pytest.raises(SignatureError, match="not what operator@there signed"):
            verify(text, sign(), KEYS)


def test_a_signature_cut_off_or_changed_at_any_byte_is_refused():
    raw = sign(raw=True)
    for end in range(len(raw)):
        with pytest.raises(SignatureError):
            verify(PATCH, armor(raw[:end]), KEYS)
    for place in range(len(raw)):
        changed = bytearray(raw)
        changed[place] ^= 1
        with pytest.raises(SignatureError):
            verify(PATCH, armor(bytes(changed)), KEYS)


def test_a_key_that_was_taken_out_of_the_configuration_is_no_longer_believed():
    with pytest.raises(SignatureError, match=r"SHA256:\S+, which \[patches\] keys does not name"):
        verify(PATCH, sign(), parse_keys([ED25519]))
    with pytest.raises(SignatureError):
        verify(PATCH, sign(), [])


# ---- keys --------------------------------------------------------------------------------------------------------

TEXT = public_line(OPERATOR).split()[1]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("", "is no public key; write the line of ~/.ssh/id_ed25519.pub"),
        ("ssh-ed25519", "is no public key"),
        ("operator", "is no public key"),
        (TEXT, "is no public key"),
        (f"ssh-ed25519 {TEXT}\nssh-ed25519 {TEXT}", "is no public key"),
        (f"ssh-ed25519 {TEXT[:-8]}", "is a damaged key"),
        (f"ssh-ed25519 {TEXT}AAAA", "is a damaged key"),
        (f"ssh-ed25519 {TEXT[:-1]}*", "is a damaged key"),
        (f"ssh-rsa {TEXT}", "is a damaged key"),
        (f"ecdsa-sha2-nistp256 {TEXT}", "is a damaged key"),
        (f"ssh-ed25519 {ECDSA.split()[1]}", "is a damaged key"),
        ("ssh-ed25519 AAAA", "is a damaged key"),
        (f"operator@there ssh-ed25519 {TEXT}", "options and names have no meaning here, write the key alone"),
        (f'restrict,from="10.0.0.1" ssh-ed25519 {TEXT}', "options and names have no meaning here"),
        (f'namespaces="streamd-patch" ssh-ed25519 {TEXT} operator', "options and names have no meaning here"),
        (f"cert-authority ssh-ed25519 {TEXT}", "options and names have no meaning here"),
        ("ssh-dss AAAAB3NzaC1kc3MAAACB", "a key of type ssh-dss cannot sign patches; use ssh-ed25519"),
        (
            "sk-ssh-ed25519@openssh.com AAAAGnNr",
            "a key of type sk-ssh-ed25519@openssh.com cannot sign patches",
        ),
        ("ssh-ed25519-cert-v01@openssh.com AAAA", "cannot sign patches"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "perhaps a private one: never write it anywhere"),
        (public_line(rsa.generate_private_key(65537, 1024)), "has 1024 bits; make a better one"),
    ],
)
def test_what_is_no_usable_key_is_said_at_the_start(tmp_path, line, sentence):
    with pytest.raises(SignatureError) as refusal:
        parse_key(line)
    assert sentence in str(refusal.value)
    path = tmp_path / "streamd.toml"
    path.write_text(f"[patches]\nkeys = ['''{line}''']\n")
    with pytest.raises(ConfigError) as wrong:
        load(path, {}, {})
    assert str(wrong.value) == f"{path}: [patches] keys: {refusal.value}."


def test_a_comment_may_have_several_words_and_the_line_spaces_around_it():
    assert (
        parse_key(f"  ssh-ed25519  {TEXT}   Operator of the night shift \n").name
        == "Operator of the night shift"
    )
    assert parse_key(f"ssh-ed25519 {TEXT}").name.startswith("SHA256:")


def test_the_same_key_twice_is_refused():
    with pytest.raises(SignatureError, match="mallory is the same key as operator; leave one of them out"):
        parse_keys([f"ssh-ed25519 {TEXT} operator", f"ssh-ed25519 {TEXT} mallory"])


def test_a_configuration_with_good_keys_loads(tmp_path):
    path = tmp_path / "streamd.toml"
    path.write_text(f"[patches]\nrequire_signature = true\nkeys = ['{ED25519}', '{ECDSA}']\n")
    assert load(path, {}, {}).patches.keys == (ED25519, ECDSA)


# ---- files -------------------------------------------------------------------------------------------------------


@pytest.fixture
def patch(tmp_path):
    path = tmp_path / "fix.py"
    path.write_bytes(PATCH)
    return path


def beside(path):
    return path.with_name("fix.py.sig")


@pytest.mark.parametrize("required", [False, True])
def test_a_signature_beside_the_patch_is_checked_where_there_are_keys(patch, required):
    trust = Trust([public_line(OPERATOR, "operator")], required)
    beside(patch).write_bytes(sign())
    assert trust(patch, PATCH) == "operator"
    for bad in (sign(private=MALLORY), sign(b"other"), b"", b"x" * (MAX_SIGNATURE + 1)):
        beside(patch).write_bytes(bad)
        with pytest.raises(PatchError, match=r"fix\.py\.sig"):
            trust(patch, PATCH)


def test_what_is_judged_are_the_bytes_that_were_read_not_the_file_as_it_is_now(patch):
    trust = Trust([public_line(OPERATOR, "operator")], True)
    beside(patch).write_bytes(sign())
    patch.write_bytes(b"import os\n")
    assert trust(patch, PATCH) == "operator"
    with pytest.raises(SignatureError, match="not what operator signed"):
        trust(patch, b"import os\n")


def test_without_a_signature_it_depends_on_the_configuration(patch):
    assert Trust([], False)(patch, PATCH) == ""
    assert Trust([public_line(OPERATOR)], False)(patch, PATCH) == ""
    with pytest.raises(SignatureError) as refusal:
        Trust([public_line(OPERATOR)], True)(patch, PATCH)
    assert str(refusal.value) == (
        "fix.py is not signed, and [patches] require_signature is on; sign it with: streamd-ctl sign fix.py"
    )


def test_without_keys_a_signature_is_not_looked_at(patch):
    beside(patch).write_bytes(b"whatever")
    assert Trust([], False)(patch, PATCH) == ""


@pytest.mark.parametrize("kind", ["link", "directory", "pipe", "loop"])
def test_what_stands_in_the_place_of_a_signature_is_refused_and_nobody_waits_for_it(patch, tmp_path, kind):
    (tmp_path / "elsewhere").write_bytes(sign())
    match kind:
        case "link":
            beside(patch).symlink_to(tmp_path / "elsewhere")
        case "directory":
            beside(patch).mkdir()
        case "pipe":
            os.mkfifo(beside(patch))
        case "loop":
            beside(patch).symlink_to(beside(patch))
    with pytest.raises(SignatureError, match=r"fix\.py\.sig"):
        Trust([public_line(OPERATOR)], False)(patch, PATCH)


# ---- with OpenSSH itself -----------------------------------------------------------------------------------------


@keygen
@pytest.mark.parametrize("kind", ["ed25519", "ecdsa -b 256", "ecdsa -b 384", "ecdsa -b 521", "rsa -b 2048"])
def test_what_ssh_keygen_signs_is_good_and_only_for_what_it_was_signed(tmp_path, kind):
    def run(*args: str) -> None:
        subprocess.run(
            ["ssh-keygen", "-q", *args], cwd=tmp_path, check=True, stdin=subprocess.DEVNULL, timeout=60
        )

    run("-t", *kind.split(), "-N", "", "-C", "me@here", "-f", "key")
    text = b"# a patch\n" * 1000
    trust = Trust([(tmp_path / "key.pub").read_text()], True)
    for hashed in ("sha256", "sha512"):
        for namespace in (NAMESPACE, "file"):
            (tmp_path / "fix.py").write_bytes(text)
            beside(tmp_path / "fix.py").unlink(missing_ok=True)
            run("-Y", "sign", "-O", f"hashalg={hashed}", "-n", namespace, "-f", "key", "fix.py")
            if namespace == NAMESPACE:
                assert trust(tmp_path / "fix.py", text) == "me@here"
                with pytest.raises(SignatureError, match="not what me@here signed"):
                    trust(tmp_path / "fix.py", text + b"#")
            else:
                with pytest.raises(SignatureError, match='signed for "file", not as a patch'):
                    trust(tmp_path / "fix.py", text)


@keygen
def test_openssh_believes_what_the_signer_of_these_tests_makes(tmp_path):
    """Otherwise the table above would refuse for other reasons than it says."""
    (tmp_path / "allowed").write_text(f"operator {public_line(OPERATOR)}\n")
    (tmp_path / "sig").write_bytes(sign())
    done = subprocess.run(
        ["ssh-keygen", "-Y", "verify", "-f", "allowed", "-I", "operator", "-n", NAMESPACE, "-s", "sig"],
        cwd=tmp_path,
        input=PATCH,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
