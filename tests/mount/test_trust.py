"""Whose models are shown: the second machine, the forger, nobody's signature."""

import json
import shutil
from pathlib import Path

import pytest

from ovfuse.errors import DamagedError, UntrustedError
from tests.mount.conftest import Sealed, envelope_of
from tests.support.mounting import Home, mounted, refused_mount, run_ovfuse, succeed

pytestmark = pytest.mark.fuse


@pytest.fixture
def device(home: Home) -> Home:
    """A machine that has an identity and trusts nobody."""
    succeed(home, "keygen", "-o", home.identity)
    return home


@pytest.fixture
def for_device(device: Home, publisher: Home, small: Sealed, scratch: Path) -> Path:
    """A cipherdir of the publisher's for the device."""
    cipherdir = scratch / "sealed"
    succeed(publisher, "encrypt", "-r", device.recipient, small.plain, cipherdir)
    return cipherdir


def fingerprint(home: Home) -> str:
    """Return the fingerprint of the signing key, as the command tells it."""
    lines = succeed(home, "keygen").splitlines()
    (line,) = [line for line in lines if line.startswith("signer: ")]
    return line.removeprefix("signer: ")


def test_device_needs_the_publishers_key(
    device: Home, publisher: Home, for_device: Path, mountpoint: Path, engine: str
) -> None:
    said = refused_mount(device, UntrustedError, for_device, mountpoint, engine=engine)
    assert fingerprint(publisher) in said
    assert "ovfuse trust add" in said

    succeed(device, "trust", "add", publisher.public_key)
    with mounted(device, for_device, mountpoint, engine=engine):
        assert (mountpoint / "model.xml").stat().st_size == 3000

    succeed(device, "trust", "remove", fingerprint(publisher))
    refused_mount(device, UntrustedError, for_device, mountpoint, engine=engine)
    options = ("--verify-key", publisher.public_key)
    with mounted(device, for_device, mountpoint, *options, engine=engine):
        assert (mountpoint / "model.xml").stat().st_size == 3000


def test_complete_forgery_is_refused(
    device: Home, publisher: Home, scratch: Path, mountpoint: Path, engine: str
) -> None:
    succeed(device, "trust", "add", publisher.public_key)
    forger = Home(directory=scratch / "forger")
    (scratch / "forged").mkdir()
    (scratch / "forged" / "model.xml").write_text("evil")
    recipient = ("-r", device.recipient)
    succeed(forger, "encrypt", *recipient, scratch / "forged", scratch / "sealed")

    said = refused_mount(
        device, UntrustedError, scratch / "sealed", mountpoint, engine=engine
    )
    assert fingerprint(forger) in said
    assert fingerprint(publisher) not in said
    options = ("-o", "allow_untrusted")
    with mounted(device, scratch / "sealed", mountpoint, *options, engine=engine):
        assert (mountpoint / "model.xml").read_text() == "evil"


def test_unsigned_model_is_refused(
    publisher: Home, small: Sealed, scratch: Path, mountpoint: Path, engine: str
) -> None:
    cipherdir = small.copy(scratch / "sealed")
    set_signatures(cipherdir, [])

    said = refused_mount(
        publisher, UntrustedError, cipherdir, mountpoint, engine=engine
    )
    assert "it is not signed" in said
    options = ("-o", "allow_untrusted")
    with mounted(publisher, cipherdir, mountpoint, *options, engine=engine):
        assert (mountpoint / "model.xml").stat().st_size == 3000


def test_signature_of_another_model_is_damage(
    publisher: Home, small: Sealed, scratch: Path, mountpoint: Path, engine: str
) -> None:
    cipherdir = small.copy(scratch / "sealed")
    succeed(publisher, "encrypt", small.plain, scratch / "other")
    set_signatures(cipherdir, signatures(scratch / "other"))

    refused_mount(publisher, DamagedError, cipherdir, mountpoint, engine=engine)


def test_publishers_key_inside_the_cipherdir_says_nothing(
    device: Home, publisher: Home, for_device: Path, mountpoint: Path, engine: str
) -> None:
    for place in (for_device, for_device / "trusted", envelope_of(for_device).parent):
        place.mkdir(exist_ok=True)
        shutil.copy(publisher.public_key, place / "key.pub")

    refused_mount(device, UntrustedError, for_device, mountpoint, engine=engine)


def test_one_trusted_signature_of_several_suffices(
    device: Home, publisher: Home, for_device: Path, mountpoint: Path, engine: str
) -> None:
    other = signatures(for_device)
    succeed(device, "trust", "add", publisher.public_key)
    # The same one twice is strange, and no reason to refuse.
    set_signatures(for_device, other * 2)

    with mounted(device, for_device, mountpoint, engine=engine):
        assert (mountpoint / "model.xml").exists()


def test_trusted_file_that_others_can_write_is_refused(
    device: Home, publisher: Home, for_device: Path, mountpoint: Path, engine: str
) -> None:
    said = succeed(device, "trust", "add", publisher.public_key)
    Path(said.split("'")[1]).chmod(0o666)

    done = run_ovfuse(device, "mount", for_device, mountpoint)
    assert done.returncode == 17
    assert "can be written by others" in done.stderr


def signatures(cipherdir: Path) -> list[dict[str, str]]:
    """Return the signatures of the current sealing."""
    found = json.loads(envelope_of(cipherdir).read_text())["signatures"]
    assert isinstance(found, list)
    return found


def set_signatures(cipherdir: Path, wanted: list[dict[str, str]]) -> None:
    """Replace the signatures, in canonical form."""
    path = envelope_of(cipherdir)
    envelope = json.loads(path.read_text()) | {"signatures": wanted}
    path.write_text(json.dumps(envelope, sort_keys=True, separators=(",", ":")))
