"""Publishers' keys: the same as ssh-keygen's, and RFC 8032's signatures."""

import base64
import subprocess
from pathlib import Path

import pytest

from ovfuse.errors import KeyFileError
from ovfuse.sealed.signing import PublicKey, SigningKey, is_trusted


def ssh_keygen(*arguments: str | Path) -> str:
    command = ["ssh-keygen", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def make_ssh_key(path: Path, kind: str = "ed25519", passphrase: str = "") -> bytes:
    ssh_keygen("-q", "-t", kind, "-N", passphrase, "-C", "of ssh-keygen", "-f", path)
    return path.read_bytes()


PEM = "-----BEGIN {0}PRIVATE KEY-----\nAAAA\n-----END {0}PRIVATE KEY-----\n"

# RFC 8032, section 7.1, TEST 2.
RFC_SECRET = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"
RFC_PUBLIC = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
RFC_SIGNATURE = (
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)


def test_signature_of_rfc_8032() -> None:
    key = PublicKey(bytes.fromhex(RFC_PUBLIC))

    assert key.verifies(bytes.fromhex(RFC_SIGNATURE), b"\x72")


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        (RFC_SIGNATURE, "73"),
        (RFC_SIGNATURE, ""),
        (RFC_SIGNATURE[:-2], "72"),
        (RFC_SIGNATURE + "00", "72"),
        ("", "72"),
        ("00" * 64, "72"),
    ],
)
def test_signature_of_something_else(signature: str, message: str) -> None:
    key = PublicKey(bytes.fromhex(RFC_PUBLIC))

    assert not key.verifies(bytes.fromhex(signature), bytes.fromhex(message))


@pytest.mark.tools
def test_key_of_ssh_keygen_signs(tmp_path: Path) -> None:
    key = SigningKey.from_openssh(make_ssh_key(tmp_path / "key"))
    public = PublicKey.from_line((tmp_path / "key.pub").read_text())

    assert key.public == public
    assert public.comment == "of ssh-keygen"
    assert public.verifies(key.sign(b"message"), b"message")
    assert public.line == (tmp_path / "key.pub").read_text().strip()


@pytest.mark.tools
def test_our_key_is_read_by_ssh_keygen(tmp_path: Path) -> None:
    key = SigningKey.generate("of ovfuse")
    (tmp_path / "key").write_bytes(key.to_openssh())
    (tmp_path / "key").chmod(0o600)
    (tmp_path / "key.pub").write_text(f"{key.public.line}\n")

    public = PublicKey.from_line(ssh_keygen("-y", "-f", tmp_path / "key"))
    assert public == key.public
    listed = ssh_keygen("-l", "-f", tmp_path / "key.pub")
    assert listed == f"256 {key.public.fingerprint} of ovfuse (ED25519)\n"


@pytest.mark.tools
@pytest.mark.parametrize(
    ("kind", "passphrase", "message"),
    [
        ("ed25519", "secret", "protected by a passphrase"),
        ("ecdsa", "", "not of type ssh-ed25519"),
        ("rsa", "", "not of type ssh-ed25519"),
    ],
)
def test_other_private_keys(
    tmp_path: Path, kind: str, passphrase: str, message: str
) -> None:
    data = make_ssh_key(tmp_path / "key", kind, passphrase)
    with pytest.raises(KeyFileError, match=message):
        SigningKey.from_openssh(data)


@pytest.mark.parametrize(
    "text", ["", "\xff", *(PEM.format(k) for k in ("OPENSSH ", "RSA ", ""))]
)
def test_not_a_private_key(text: str) -> None:
    with pytest.raises(KeyFileError):
        SigningKey.from_openssh(text.encode("latin-1"))


def test_every_cut_of_a_private_key_is_refused() -> None:
    data = SigningKey.generate().to_openssh().rstrip(b"\n")
    for size in range(len(data)):
        with pytest.raises(KeyFileError):
            SigningKey.from_openssh(data[:size])


def test_private_key_goes_there_and_back() -> None:
    key = SigningKey.generate("comment")
    again = SigningKey.from_openssh(key.to_openssh(), "another")

    assert again.public == key.public
    assert again.public.comment == "another"


def test_private_key_does_not_show_itself() -> None:
    key = SigningKey.generate("comment")

    assert repr(key) == f"<SigningKey {key.public.fingerprint}>"


LINE = PublicKey(bytes.fromhex(RFC_PUBLIC)).line


@pytest.mark.parametrize(
    ("line", "comment"),
    [
        (LINE, ""),
        (f"{LINE} a  comment ", "a  comment"),
        (f"  {LINE}\tc\n", "c"),
        (LINE.replace(" ", "  "), ""),
    ],
)
def test_public_key_line(line: str, comment: str) -> None:
    key = PublicKey.from_line(line)

    assert (key.line, key.comment) == (f"{LINE} {comment}".rstrip(), comment)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "ssh-ed25519",
        "ssh-ed25519 AAAA",
        "ssh-ed25519 ????",
        "ssh-ed25519 é",
        LINE.replace("ssh-ed25519", "ssh-rsa"),
        LINE.removeprefix("ssh-ed25519 "),
        LINE[:-1],
        f"{LINE}AAAA",
        f"cert-authority {LINE}",
        "ssh-ed25519-cert-v01@openssh.com AAAA",
    ],
)
def test_not_a_public_key_line(line: str) -> None:
    with pytest.raises(KeyFileError, match="not an ssh-ed25519 public key"):
        PublicKey.from_line(line)


def test_comment_with_lines_does_not_become_a_key() -> None:
    other = SigningKey.generate().public
    key = PublicKey.from_line(f"{LINE} x\v{other.line}")

    assert key.line.splitlines() == [f"{LINE} x\\x0b{other.line}"]


def test_keys_are_equal_whatever_their_comments() -> None:
    key = SigningKey.generate().public
    same = PublicKey(key.raw, "comment")

    assert key == same
    assert is_trusted([same], {key})
    assert not is_trusted([SigningKey.generate().public], {key})
    assert not is_trusted([], {key})
    assert not is_trusted([key], set())


def test_blob_is_that_of_rfc_8709() -> None:
    key = PublicKey(bytes(range(32)))
    blob = base64.b64decode(key.line.split()[1])

    assert blob == b"\0\0\0\x0bssh-ed25519\0\0\0 " + bytes(range(32))
    assert PublicKey.from_blob(blob) == key
