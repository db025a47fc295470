"""Checks of key files, public keys, recipients and identities."""

import base64
import functools
from pathlib import Path

from ovfuse.errors import DamagedError, KeyFileError
from ovfuse.keys.identities import parse_identities
from ovfuse.keys.own import read_signing_key
from ovfuse.keys.recipients import parse_recipients
from ovfuse.keys.trusted import parse_public_keys
from ovfuse.sealed.primitives import recipient_file_id
from ovfuse.sealed.signing import PublicKey, SigningKey
from ovfuse.sealed.wrapping import (
    Identity,
    Recipient,
    is_for_passphrase,
    stanza_types,
    unwrap,
    unwrap_with_passphrase,
    wrap,
)
from ovfuse.secret import Secret
from tests.fuzz import age
from tests.support.sealed import recipient_of

_KEYS = Path(__file__).with_name("keys")
_MODEL_KEY = bytes(range(32))
_PASSPHRASE = "correct horse"
_LOW_WORK = 4


def own_identity() -> Identity:
    """Return the age identity of the tests' own."""
    return Identity.from_age((_KEYS / "identity.txt").read_text())


def _public_line(name: str) -> str:
    return (_KEYS / f"{name}.pub").read_text().strip()


def _age_public(identity: Identity) -> bytes:
    """Return the 32 bytes behind `age1...` (bech32)."""
    letters = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
    number = 0
    for letter in recipient_of(identity).canonical[len("age1") : -6]:
        number = number << 5 | letters.index(letter)
    return (number >> 4).to_bytes(32, "big")  # 52 letters hold 260 bits


class Keys:
    """All kinds of keys, and a file to parse.

    Args:
        directory: for that file.
    """

    def __init__(self, directory: Path) -> None:
        self._file = directory / "file"
        self._file.touch(mode=0o600)
        self._age = own_identity()
        self._identities = [
            self._age,
            Identity.from_openssh((_KEYS / "ed25519").read_bytes()),
            Identity.from_openssh((_KEYS / "rsa").read_bytes()),
        ]

    def _write(self, data: bytes) -> Path:
        self._file.write_bytes(data)
        return self._file

    # Key files

    def key_files(self) -> list[bytes]:
        x25519 = functools.partial(age.x25519_stanza, _age_public(self._age))
        blob = base64.b64decode(_public_line("ed25519").split()[1])
        ed25519 = functools.partial(age.ed25519_stanza, blob)
        rsa = functools.partial(age.rsa_stanza, _public_line("rsa"))
        grease = "-> x-grease a b\n\n"
        scrypt = age.scrypt_stanza(_PASSPHRASE, _LOW_WORK)
        made = [
            *([stanza()] for stanza in (x25519, ed25519, rsa)),
            *([stanza(bytes(17))] for stanza in (x25519, ed25519, rsa)),
            *([stanza(b"")] for stanza in (x25519, ed25519, rsa)),
            [grease, x25519()],
            [x25519(), ed25519(), rsa()],
            [scrypt],
            [scrypt, x25519()],
            [scrypt.replace(f" {_LOW_WORK}\n", " 21\n")],
            [x25519()] * 9,
        ]
        return [
            *(age.age_file(stanzas, _MODEL_KEY) for stanzas in made),
            age.age_file([x25519()], b"short"),
            wrap(Secret(_MODEL_KEY), recipient_of(self._age)),
        ]

    def check_key_file(self, data: bytes) -> bool:
        try:
            stanza_types(data)
        except DamagedError:
            return False
        found = unwrap(data, self._identities)
        if found is None and is_for_passphrase(data) and _asks_little(data):
            found = unwrap_with_passphrase(data, _PASSPHRASE)
        assert found is None or len(found) == len(_MODEL_KEY)
        return found is not None

    # Public keys, recipients

    def public_keys(self) -> list[bytes]:
        line = _public_line("ed25519")
        kind, blob, _ = line.split()
        return [
            f"# keys\n\n{line}\n".encode(),
            f"{kind} {blob}".encode(),
            f"  {kind}\t{blob}   a  comment \x1b[1m\u202e\r\n".encode(),
            _public_line("rsa").encode(),
            f"{kind} {blob[:-1]}\n".encode(),
            f"{kind} {blob[4:]}\n".encode(),
        ]

    def check_public_keys(self, data: bytes) -> bool:
        try:
            keys = parse_public_keys(self._write(data))
        except KeyFileError:
            return False
        for key in keys:
            again = PublicKey.from_line(key.line)
            assert (again, again.comment) == (key, key.comment)
            assert PublicKey.from_blob(key.blob) == key
            assert key.line.isprintable()
        return True

    def recipients(self) -> list[bytes]:
        canonical = recipient_of(self._age).canonical
        lines = [canonical, _public_line("ed25519"), _public_line("rsa")]
        return [
            *(f"{line}\n".encode() for line in lines),
            "\n".join(["# all", *lines, "", canonical.upper()]).encode(),
            lines[1].replace(" ", "  ").encode(),
            b"ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAAQM=",
            _ssh_rsa_line(exponent=b"", modulus=b"\0"),  # the library panics
            *(f"{lines[2].split(' fuzz')[0]}{end}".encode() for end in "\u05d9A"),
            b"ecdsa-sha2-nistp256 AAAA",
            b"age1pq1qqq",
        ]

    def check_recipients(self, data: bytes) -> bool:
        """What is accepted can be used, and has one canonical form."""
        try:
            found = parse_recipients([], [self._write(data)])
        except KeyFileError:
            return False
        with Secret(_MODEL_KEY) as model_key:
            for recipient in found:
                assert Recipient.parse(recipient.canonical) == recipient
                assert recipient.canonical.isascii()
                assert recipient.canonical.isprintable()
                assert len(recipient_file_id(model_key.view, recipient.canonical)) == 32
                assert len(stanza_types(wrap(model_key, recipient))) == 1
        return True

    # Identities and signing keys

    def identities(self) -> list[bytes]:
        line = (_KEYS / "identity.txt").read_bytes()
        return [
            *(line, b"# a comment\n\n" + line + line, line.lower(), line[:-2]),
            *((_KEYS / name).read_bytes() for name in ("ed25519", "rsa")),
            b"AGE-PLUGIN-YUBIKEY-1QQQ\n",
            *map(ssh_rsa_key, (b"\0", b"\1", b"")),  # the library panics
        ]

    def check_identities(self, data: bytes) -> bool:
        try:
            found = parse_identities(data, self._file)
        except KeyFileError:
            return False
        assert found
        for identity in found:
            if identity.recipient is not None:
                canonical = identity.recipient.canonical
                assert Recipient.parse(canonical) == identity.recipient
        return True

    def signing_keys(self) -> list[bytes]:
        return [(_KEYS / name).read_bytes() for name in ("ed25519", "rsa")]

    def check_signing_key(self, data: bytes) -> bool:
        try:
            key = read_signing_key(self._write(data))
        except KeyFileError:
            return False
        assert SigningKey.from_openssh(key.to_openssh()).public == key.public
        assert key.public.verifies(key.sign(b"message"), b"message")
        return True


def _ssh_rsa_line(*, exponent: bytes, modulus: bytes) -> bytes:
    blob = b"".join(map(_ssh_string, (b"ssh-rsa", exponent, modulus)))
    return b"ssh-rsa " + base64.b64encode(blob)


def ssh_rsa_key(prime: bytes) -> bytes:
    """Return an OpenSSH private key whose numbers are nonsense."""
    public = b"".join(map(_ssh_string, (b"ssh-rsa", b"\3", b"\x0f")))
    fields = (b"ssh-rsa", b"\x0f", b"\3", b"\3", b"\1", prime, prime, b"comment")
    private = b"same" * 2 + b"".join(map(_ssh_string, fields))
    private += bytes(range(1, 1 + -len(private) % 8))
    blob = b"".join(
        (
            b"openssh-key-v1\0",
            *map(_ssh_string, (b"none", b"none", b"")),
            *(b"\0\0\0\1", _ssh_string(public), _ssh_string(private)),
        )
    )
    text = base64.encodebytes(blob).decode()
    mark = "-----{} OPENSSH PRIVATE KEY-----\n"
    return (mark.format("BEGIN") + text + mark.format("END")).encode()


def _ssh_string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def _asks_little(data: bytes) -> bool:
    """Tell whether its scrypt stanzas are quick; the cap is far too slow for this."""
    lines = data.partition(b"\n--- ")[0].split(b"\n")
    stanzas = [line.split(b" ") for line in lines if line.startswith(b"-> scrypt ")]
    return all(int(stanza[3]) <= _LOW_WORK for stanza in stanzas)
