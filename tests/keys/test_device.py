"""The secret of a device: one for each identity, in a directory of one's own."""

import os
from pathlib import Path

import pytest

from ovfuse.errors import KeyFileError
from ovfuse.keys.device import DeviceSecret
from ovfuse.sealed.wrapping import Identity


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty directory."""
    path = tmp_path / "device"
    path.mkdir(mode=0o700)
    return path


def identity() -> Identity:
    return Identity.from_age(Identity.generate())


def made(directory: Path, *identities: Identity) -> bytes:
    with DeviceSecret(directory, identities).find_or_make() as secret:
        return bytes(secret.view)


def test_secret_is_drawn_once(place: Path) -> None:
    mine = identity()
    directory = place / "a" / "b"

    assert DeviceSecret(directory, [mine]).find() is None
    first = made(directory, mine)
    assert made(directory, mine) == first
    found = DeviceSecret(directory, [mine]).find()
    assert found is not None
    assert bytes(found.view) == first
    assert len(set(first)) > 8
    (path,) = directory.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert directory.stat().st_mode & 0o777 == 0o700
    assert first not in path.read_bytes()


def test_each_identity_and_device_has_its_own(place: Path) -> None:
    mine, other = identity(), identity()

    secrets = [
        made(place / "a", mine),
        made(place / "a", other),
        made(place / "b", mine),
    ]

    assert len(set(secrets)) == 3
    assert made(place / "a", other) == secrets[1]


def test_ssh_identity_alone_is_not_enough(place: Path) -> None:
    with pytest.raises(KeyFileError, match="needs an age identity"):
        DeviceSecret(place, [Identity(None, object())])
    assert made(place, Identity(None, identity().age), identity())


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_directory_that_others_can_write_is_refused(place: Path, mode: int) -> None:
    place.chmod(mode)

    with pytest.raises(KeyFileError, match="written by others"):
        made(place, identity())
    assert list(place.iterdir()) == []


def test_directory_of_somebody_else_is_refused(place: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give directories away")
    os.chown(place, 12345, 12345)

    with pytest.raises(KeyFileError, match="another user"):
        made(place, identity())


def test_file_that_others_can_read_is_refused(place: Path) -> None:
    mine = identity()
    made(place, mine)
    (path,) = place.iterdir()
    path.chmod(0o644)

    with pytest.raises(KeyFileError, match="used by others"):
        made(place, mine)


def test_damaged_file_is_an_error_that_says_so(place: Path) -> None:
    mine = identity()
    made(place, mine)
    (path,) = place.iterdir()
    path.write_bytes(path.read_bytes()[:-1] + b"\0")

    with pytest.raises(KeyFileError, match="damaged"):
        made(place, mine)


def test_one_that_was_made_meanwhile_wins(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As two processes do it that start at the same time."""
    mine = identity()
    first = made(place, mine)
    device = DeviceSecret(place, [mine])
    find, answers = device.find, iter([True, False])
    monkeypatch.setattr(
        DeviceSecret, "find", lambda _: None if next(answers) else find()
    )

    with device.find_or_make() as secret:
        assert bytes(secret.view) == first
