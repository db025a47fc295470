"""The model key in age files, made and opened by us and by the tool `age`."""

import base64
import logging
import re
import subprocess
from pathlib import Path

import pyrage
import pytest

from ovfuse.errors import DamagedError, KeyFileError
from ovfuse.sealed.wrapping import Identity, Recipient, stanza_types, unwrap, wrap
from ovfuse.secret import Secret
from tests.sealed.test_signing import make_ssh_key
from tests.support.sealed import make_identity, recipient_of, wrapped

KEY = bytes(range(32))


def age(*arguments: str | Path, data: bytes = b"") -> bytes:
    command = ["age", *map(str, arguments)]
    return subprocess.run(command, check=True, input=data, capture_output=True).stdout


def key_of(data: bytes, identity: Identity) -> bytes | None:
    secret = unwrap(data, [identity])
    return None if secret is None else bytes(secret.view)


def test_wrapped_key_is_unwrapped() -> None:
    identity = make_identity()
    data = wrapped(KEY, identity)

    assert stanza_types(data) == ["X25519"]
    assert key_of(data, identity) == KEY
    assert key_of(data, make_identity()) is None
    assert unwrap(data, []) is None


def test_first_identity_that_fits_is_used() -> None:
    identity = make_identity()
    secret = unwrap(wrapped(KEY, identity), [make_identity(), identity])

    assert secret is not None
    assert bytes(secret.view) == KEY


@pytest.mark.tools
def test_age_opens_our_file(tmp_path: Path) -> None:
    line = Identity.generate()
    (tmp_path / "identity.txt").write_text(f"{line}\n")
    data = wrapped(KEY, Identity.from_age(line))

    assert age("-d", "-i", tmp_path / "identity.txt", data=data) == KEY


@pytest.mark.tools
@pytest.mark.parametrize("more", [0, 2])
def test_we_open_the_file_of_age(more: int) -> None:
    identities = [make_identity() for _ in range(more + 1)]
    recipients = [recipient_of(i).canonical for i in identities]
    data = age(*(a for r in recipients for a in ("-r", r)), data=KEY)

    assert stanza_types(data) == ["X25519"] * (more + 1)
    assert [key_of(data, identity) for identity in identities] == [KEY] * (more + 1)


@pytest.mark.tools
@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_ssh_keys(tmp_path: Path, kind: str) -> None:
    identity = Identity.from_openssh(make_ssh_key(tmp_path / "key", kind))
    recipient = Recipient.parse((tmp_path / "key.pub").read_text())
    ours = wrap(Secret(KEY), recipient)
    theirs = age("-R", tmp_path / "key.pub", data=KEY)

    assert recipient.canonical == " ".join(
        (tmp_path / "key.pub").read_text().split()[:2]
    )
    assert stanza_types(ours) == stanza_types(theirs) == [f"ssh-{kind}"]
    assert age("-d", "-i", tmp_path / "key", data=ours) == KEY
    assert key_of(theirs, identity) == KEY
    assert identity.recipient is None


@pytest.mark.tools
def test_armored_file_is_not_one_of_ours() -> None:
    recipient = recipient_of(make_identity()).canonical
    with pytest.raises(DamagedError, match="not an age file"):
        stanza_types(age("-a", "-r", recipient, data=KEY))


# By pyrage, for the passphrase "secret".
SCRYPT_FILE = base64.b64decode(
    "YWdlLWVuY3J5cHRpb24ub3JnL3YxCi0+IHNjcnlwdCBZWGUvZTJvekRwZzY5OXZqd0F3MkdBIDE3CnF6"
    "OXRxUkNkTDdNTVRmL1VMcjZnM0Vsd2FHVmtnaVBIMWQva1hPaWE3Uk0KLS0tIDVQbWVPam5nelpWQm5K"
    "OXdaREVOb0o4TEFCekk0NDZMS1lFTkRCdFNIRmsKxje72qS/uTpDAaC9EFU3yRtbk7zZOqYR7ftk2Bdc"
    "/jGycdhP0D7HTKUc0AIS1qkwaUv60YCoeJkKOl2CCL175g=="
)


def test_file_for_a_passphrase_is_not_tried() -> None:
    data = SCRYPT_FILE

    assert stanza_types(data) == ["scrypt"]
    assert key_of(data, make_identity()) is None


def header(*stanzas: str) -> bytes:
    lines = ["age-encryption.org/v1", *stanzas]
    return ("\n".join(lines) + "\n--- mac\n").encode()


SALT = "j+mFroEsgc9T4nUKIWHrCA"


@pytest.mark.parametrize("factor", ["1", "9", "10", "18", "20"])
def test_work_factor_that_is_allowed(factor: str) -> None:
    assert stanza_types(header(f"-> scrypt {SALT} {factor}", "AAAA")) == ["scrypt"]


@pytest.mark.parametrize(
    "stanza",
    [
        f"-> scrypt {SALT} 21",
        f"-> scrypt {SALT} 30",
        f"-> scrypt {SALT} 99",
        f"-> scrypt {SALT} 100",
        f"-> scrypt {SALT} 18446744073709551616",
        f"-> scrypt {SALT} 0",
        f"-> scrypt {SALT} 010",
        f"-> scrypt {SALT} 0x10",
        f"-> scrypt {SALT} +10",
        f"-> scrypt {SALT} -1",
        f"-> scrypt {SALT} ",
        f"-> scrypt {SALT}",
        f"-> scrypt {SALT} 10 10",
        "-> scrypt",
    ],
)
def test_work_factor_that_is_refused(stanza: str) -> None:
    with pytest.raises(DamagedError, match="work factor"):
        stanza_types(header("-> X25519 AAAA", stanza))


@pytest.mark.parametrize(
    ("data", "types"),
    [
        (header("-> X25519 AAAA", "BBBB"), ["X25519"]),
        (header("-> a", "-> x-grease b", "-> c"), ["a", "c"]),
        (header(), []),
    ],
    ids=["one", "grease", "none"],
)
def test_types_of_recipients(data: bytes, types: list[str]) -> None:
    assert stanza_types(data) == types


def test_recipients_are_at_most_8() -> None:
    assert len(stanza_types(header(*["-> X25519 AAAA"] * 8))) == 8
    with pytest.raises(DamagedError, match="too many recipients"):
        stanza_types(header(*["-> X25519 AAAA"] * 8, "-> x-grease"))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n--- ",
        b"age-encryption.org/v1",
        b"age-encryption.org/v1\n-> X25519 AAAA\n",
        b"age-encryption.org/v2\n-> X25519 AAAA\n--- mac\n",
        b"age-encryption.org/v1\r\n-> X25519 AAAA\n--- mac\n",
        b" age-encryption.org/v1\n--- mac\n",
        b"age-encryption.org/v1\n\xff\n--- mac\n",
        b"-----BEGIN AGE ENCRYPTED FILE-----\n",
        bytes(1000),
    ],
)
def test_not_an_age_file(data: bytes) -> None:
    with pytest.raises(DamagedError, match="not an age file"):
        stanza_types(data)


@pytest.mark.parametrize("size", [0, 1, 31, 33, 1000])
def test_content_that_is_no_model_key(
    size: int, caplog: pytest.LogCaptureFixture
) -> None:
    identity = make_identity()
    data = pyrage.encrypt(bytes(size), [recipient_of(identity).age])

    assert key_of(data, identity) is None
    assert caplog.record_tuples == [
        (
            "ovfuse.sealed.wrapping",
            logging.WARNING,
            f"a key file holds {size} bytes, not a model key",
        )
    ]


def test_file_that_is_cut_anywhere() -> None:
    identity = make_identity()
    data = wrapped(KEY, identity)

    assert {key_of(data[:size], identity) for size in range(len(data))} == {None}


AGE_LINE = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
SSH_LINE = (
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIK/4yDdEVK0HhRuFFgQbcSE1nptQeaisxyUbfKJNaLuM"
)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        (AGE_LINE, AGE_LINE),
        (f" {AGE_LINE}\n", AGE_LINE),
        (AGE_LINE.upper(), AGE_LINE),
        (SSH_LINE, SSH_LINE),
        (f"{SSH_LINE} comment of his\n", SSH_LINE),
        (SSH_LINE.replace(" ", "  "), SSH_LINE),
    ],
)
def test_recipient_is_made_canonical(text: str, canonical: str) -> None:
    recipient = Recipient.parse(text)

    assert recipient.canonical == canonical
    assert recipient == Recipient.parse(canonical)
    assert repr(recipient) == f"Recipient(canonical='{canonical}')"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "age1",
        AGE_LINE[:-1],
        f"{AGE_LINE[:-1]}q",
        "AGE-SECRET-KEY-1QQQ",
        "age1é",
        "ssh-ed25519",
        "ssh-ed25519 AAAA",
        "ssh-ed25519 é",
        SSH_LINE.replace("ed25519", "rsa"),
        "ssh-dss AAAA",
        "ecdsa-sha2-nistp256 AAAA",
        "passphrase",
    ],
)
def test_not_a_recipient(text: str) -> None:
    with pytest.raises(KeyFileError, match="not a recipient") as caught:
        Recipient.parse(text)

    assert "age1" in caught.value.hint


def test_identity_knows_its_recipient_and_hides_itself() -> None:
    line = Identity.generate()
    identity = Identity.from_age(f" {line}\n")

    assert re.fullmatch(r"AGE-SECRET-KEY-1[0-9A-Z]{58}", line)
    assert recipient_of(identity).canonical.startswith("age1")
    assert line not in repr(identity)


@pytest.mark.parametrize(
    "line", ["", "AGE-SECRET-KEY-1", "é", "AGE-PLUGIN-TPM-1QQ", AGE_LINE]
)
def test_not_an_identity(line: str) -> None:
    with pytest.raises(KeyFileError, match="not an age identity"):
        Identity.from_age(line)


@pytest.mark.tools
@pytest.mark.parametrize(("kind", "passphrase"), [("ecdsa", ""), ("ed25519", "secret")])
def test_ssh_key_that_age_cannot_use(
    tmp_path: Path, kind: str, passphrase: str
) -> None:
    data = make_ssh_key(tmp_path / "key", kind, passphrase)
    with pytest.raises(KeyFileError, match="not an SSH private key that age can use"):
        Identity.from_openssh(data)
