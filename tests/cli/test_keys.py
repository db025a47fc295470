"""`keygen` and `trust`: which files are made, and whom one believes."""

import os
import shutil
import stat
from pathlib import Path

import pytest

from ovfuse.errors import KeyFileError, NoUsableKeyError
from tests.cli.conftest import snapshot
from tests.support.mounting import Home, refused, run_as, run_ovfuse, succeed


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_keygen_makes_all_keys_and_says_so(home: Home) -> None:
    done = run_ovfuse(home, "keygen")

    assert done.returncode == 0
    assert home.recipient in done.stdout
    for path in (home.identity, home.public_key, home.public_key.with_suffix("")):
        assert f"'{path}'" in done.stdout
    assert "back these up" in done.stderr
    assert "ovfuse: warning: an identity" in done.stderr
    assert mode_of(home.config) == 0o700
    assert mode_of(home.identity) == 0o600
    assert mode_of(home.config / "signing_key") == 0o600
    secret = home.identity.read_text().splitlines()[-1]
    assert secret.startswith("AGE-SECRET-KEY-1")
    assert secret not in done.stdout + done.stderr


def test_keygen_again_keeps_what_is_there(home: Home) -> None:
    first = succeed(home, "keygen")
    before = snapshot(home.config)
    again = run_ovfuse(home, "keygen")

    assert again.stdout == first
    assert again.stderr == "ovfuse: the keys exist already and are kept\n"
    assert snapshot(home.config) == before


@pytest.mark.parametrize("umask", ["000", "022", "077"])
def test_keys_are_private_whatever_the_umask(home: Home, umask: str) -> None:
    script = f'umask {umask}; exec "$0" keygen'
    home.config.parent.mkdir()
    assert run_as(home, "sh", "-c", script, *home.program).returncode == 0
    assert mode_of(home.identity) == 0o600
    assert mode_of(home.config / "signing_key") == 0o600


def test_keygen_for_a_device_makes_an_identity_only(home: Home, scratch: Path) -> None:
    target = scratch / "device.txt"
    text = succeed(home, "keygen", "-o", target)

    assert mode_of(target) == 0o600
    assert text.splitlines()[0] in {
        f"recipient: {line.split()[-1]}"
        for line in target.read_text().splitlines()
        if "age1" in line
    }
    assert not home.config.exists()
    before = target.read_bytes()
    refused(home, KeyFileError, "keygen", "--output", target)
    assert target.read_bytes() == before


def test_keygen_where_nothing_can_be_written(home: Home, scratch: Path) -> None:
    (scratch / "file").touch()
    refused(home, KeyFileError, "keygen", "-o", scratch / "file" / "x")
    refused(home, KeyFileError, "keygen", "-o", scratch)


def test_own_tools_read_the_keys(home: Home, scratch: Path) -> None:
    """age and ssh-keygen take them as theirs."""
    said = succeed(home, "keygen")
    public = run_as(home, "age-keygen", "-y", home.identity)
    assert public.stdout.strip() == home.recipient
    listed = run_as(home, "ssh-keygen", "-l", "-f", home.public_key)
    assert listed.stdout.split()[1] in said


def test_own_key_is_trusted_from_the_start(home: Home) -> None:
    said = succeed(home, "keygen")
    (line,) = succeed(home, "trust", "list").splitlines()

    assert line.split()[0] in said


def test_trust_add_list_remove(home: Home, scratch: Path) -> None:
    other = Home(directory=scratch / "other")
    succeed(other, "keygen")
    fingerprint = succeed(other, "trust", "list").split()[0]
    assert succeed(home, "trust", "list") == ""

    for _ in range(2):
        assert fingerprint in succeed(home, "trust", "add", other.public_key)
        (line,) = succeed(home, "trust", "list").splitlines()
        assert line.startswith(fingerprint)
        assert mode_of(Path(line.split("'")[1])) == 0o644
    assert succeed(home, "trust", "remove", fingerprint)
    assert succeed(home, "trust", "list") == ""
    refused(home, KeyFileError, "trust", "remove", fingerprint)

    line = other.public_key.read_text().strip()
    assert fingerprint in succeed(home, "trust", "add", line)
    assert fingerprint in succeed(home, "trust", "list")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "# nothing\n",
        "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQC7\n",
        "ssh-ed25519 AAAA\n",
        "ssh-ed25519 !!!\n",
        "age1xyz\n",
        "\udcff\udcfe",
    ],
    ids=repr,
)
def test_trust_adds_nothing_but_publishers_keys(
    home: Home, scratch: Path, content: str
) -> None:
    path = scratch / "key.pub"
    path.write_bytes(os.fsencode(content))
    refused(home, KeyFileError, "trust", "add", path)
    assert not home.config.exists()


def test_private_key_is_not_added_by_mistake(home: Home) -> None:
    succeed(home, "keygen")
    refused(home, KeyFileError, "trust", "add", home.config / "signing_key")
    refused(home, KeyFileError, "trust", "add", home.directory)
    refused(home, KeyFileError, "trust", "add", home.directory / "none")


def test_comment_of_a_signer_does_not_steer_the_terminal(
    home: Home, scratch: Path
) -> None:
    succeed(home, "keygen", "-o", scratch / "unused")
    comment = "\x1b]0;owned\x07 \u202egood"
    options = ("-q", "-t", "ed25519", "-N", "", "-C", comment)
    assert run_as(home, "ssh-keygen", *options, "-f", scratch / "key").returncode == 0

    texts = [
        succeed(home, "trust", "add", scratch / "key.pub"),
        succeed(home, "trust", "list"),
    ]
    for text in texts:
        assert text.replace("\n", "").isprintable()
        assert "\\x1b]0;owned\\x07" in text
    fingerprint = texts[1].split()[0]
    assert succeed(home, "trust", "remove", fingerprint)


def test_identity_may_come_from_the_environment(
    home: Home, plain: Path, scratch: Path
) -> None:
    succeed(home, "encrypt", plain, scratch / "sealed")
    verify = ("verify", "--verify-key", home.public_key, scratch / "sealed")
    device = Home(directory=scratch / "device")
    credentials = scratch / "credentials"
    credentials.mkdir()
    shutil.copy(home.identity, credentials / "ovfuse.identity")
    (credentials / "ovfuse.identity").chmod(0o440)  # as systemd makes it

    for extra in (
        {"OVFUSE_IDENTITY": f"{home.identity}"},
        {"CREDENTIALS_DIRECTORY": f"{credentials}"},
    ):
        equipped = Home(directory=device.directory, extra=extra)
        assert "version 1" in succeed(equipped, *verify)
    assert run_ovfuse(device, *verify).returncode == NoUsableKeyError.exit_code
