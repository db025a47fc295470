"""A mount that cannot be: one line, its exit code, nothing mounted, no daemon."""

import base64
import json
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from ovfuse.errors import (
    CipherdirError,
    DamagedError,
    KeyFileError,
    MountpointError,
    NewerFormatError,
    NoUsableKeyError,
    OvfuseError,
    TermsError,
    UntrustedError,
    UsageError,
)
from tests.mount.conftest import Sealed, envelope_of, flip, seal_directory
from tests.support.killing import kill_for_good
from tests.support.mounting import (
    Home,
    Mount,
    is_gone,
    mounted,
    refused_mount,
    run_ovfuse,
    succeed,
)
from tests.support.waiting import wait_until

pytestmark = pytest.mark.fuse


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """Mounts that must fail; the publisher's, unless another home is given."""

    publisher: Home
    mountpoint: Path
    engine: str

    def fails(
        self,
        error: type[OvfuseError],
        cipherdir: Path,
        *arguments: str | os.PathLike[str],
        home: Home | None = None,
        mountpoint: Path | None = None,
    ) -> str:
        """Return what is said."""
        return refused_mount(
            home or self.publisher,
            error,
            cipherdir,
            mountpoint or self.mountpoint,
            *arguments,
            engine=self.engine,
        )

    def mounted(self, cipherdir: Path) -> AbstractContextManager[Mount]:
        """Mount what can be."""
        place = self.mountpoint
        return mounted(self.publisher, cipherdir, place, engine=self.engine)


@pytest.fixture
def attempt(publisher: Home, mountpoint: Path, engine: str) -> Attempt:
    return Attempt(publisher=publisher, mountpoint=mountpoint, engine=engine)


def test_mountpoint_is_missing(small: Sealed, scratch: Path, attempt: Attempt) -> None:
    missing = scratch / "none"
    said = attempt.fails(MountpointError, small.cipherdir, mountpoint=missing)
    assert f"hint: mkdir {missing}\n" in said


@pytest.mark.parametrize("kind", ["file", "dangling link", "below a file"])
def test_mountpoint_is_no_directory(
    small: Sealed, scratch: Path, attempt: Attempt, kind: str
) -> None:
    place = scratch / "place"
    if kind == "dangling link":
        place.symlink_to("none")
    else:
        place.touch()
    if kind == "below a file":
        place /= "mnt"

    attempt.fails(MountpointError, small.cipherdir, mountpoint=place)


def test_mountpoint_is_not_empty(small: Sealed, attempt: Attempt) -> None:
    (attempt.mountpoint / ".hidden").touch()

    assert "is not empty" in attempt.fails(MountpointError, small.cipherdir)


def test_mountpoint_is_mounted_already(small: Sealed, attempt: Attempt) -> None:
    with attempt.mounted(small.cipherdir) as mount:
        done = run_ovfuse(attempt.publisher, "mount", small.cipherdir, mount.mountpoint)
        assert done.returncode == MountpointError.exit_code
        assert "is a mountpoint already" in done.stderr
        assert mount.status()["pid"] == mount.pid
        assert (mount.mountpoint / "model.xml").exists()


def test_mount_whose_daemon_was_killed(small: Sealed, attempt: Attempt) -> None:
    mountpoint = attempt.mountpoint
    with attempt.mounted(small.cipherdir) as mount:
        kill_for_good(mount.pid)
        wait_until(lambda: is_gone(mount.pid))

        said = attempt.fails(MountpointError, small.cipherdir)
        assert f"hint: ovfuse unmount {mountpoint}\n" in said
        assert mount.status()["state"] == "stale"
        assert mount.status()["pid"] is None
        assert f"{mountpoint}  {small.cipherdir}  stale" in succeed(
            mount.home, "status"
        )

        assert succeed(mount.home, "unmount", mountpoint) == ""
        mount.wait_for_end()
    with attempt.mounted(small.cipherdir):
        assert (mountpoint / "model.xml").exists()


@pytest.mark.parametrize("inner", ["mnt", "seals", "."])
def test_mountpoint_is_in_the_cipherdir(
    small: Sealed, scratch: Path, attempt: Attempt, inner: str
) -> None:
    cipherdir = small.copy(scratch / "sealed")
    (cipherdir / "mnt").mkdir()

    said = attempt.fails(MountpointError, cipherdir, mountpoint=cipherdir / inner)
    assert "is inside the cipherdir" in said


def test_cipherdir_is_in_the_mountpoint(
    small: Sealed, scratch: Path, attempt: Attempt
) -> None:
    cipherdir = small.copy(scratch / "sealed")
    attempt.fails(MountpointError, cipherdir, mountpoint=scratch)


def test_mountpoint_of_somebody_else(
    user: Home, small: Sealed, attempt: Attempt
) -> None:
    attempt.fails(MountpointError, small.cipherdir, home=user)


def test_there_is_no_key(home: Home, small: Sealed, attempt: Attempt) -> None:
    succeed(home, "trust", "add", attempt.publisher.public_key)

    said = attempt.fails(NoUsableKeyError, small.cipherdir, home=home)
    assert f"looked at '{home.identity}' (No such file or directory)" in said


def test_the_key_is_another(home: Home, small: Sealed, attempt: Attempt) -> None:
    succeed(home, "keygen")
    succeed(home, "trust", "add", attempt.publisher.public_key)

    said = attempt.fails(NoUsableKeyError, small.cipherdir, home=home)
    assert f"looked at '{home.identity}'" in said
    said = attempt.fails(NoUsableKeyError, small.cipherdir, "-i", home.identity)
    assert f"{attempt.publisher.identity}" not in said


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o660])
def test_identity_is_open_to_others(
    home: Home, small: Sealed, attempt: Attempt, mode: int
) -> None:
    succeed(home, "trust", "add", attempt.publisher.public_key)
    shutil.copy(attempt.publisher.identity, home.identity)
    home.identity.chmod(mode)

    said = attempt.fails(KeyFileError, small.cipherdir, home=home)
    assert f"hint: chmod 600 '{home.identity}'\n" in said


def test_identity_that_was_named_is_none(
    home: Home, small: Sealed, attempt: Attempt
) -> None:
    public_key = attempt.publisher.public_key
    for path in (home.directory / "none", home.directory, public_key):
        attempt.fails(KeyFileError, small.cipherdir, "-i", path)


@pytest.mark.parametrize("closed", ["", "model.ovfuse", "seals"])
def test_cipherdir_is_closed_to_the_user(
    user: Home, small: Sealed, scratch: Path, attempt: Attempt, closed: str
) -> None:
    cipherdir = small.copy(scratch / "sealed")
    (cipherdir / closed).chmod(0)
    mountpoint = user.make_directory(user.directory / "mnt")
    succeed(user, "keygen")

    said = attempt.fails(CipherdirError, cipherdir, home=user, mountpoint=mountpoint)
    assert "Permission denied" in said


@pytest.mark.parametrize("kind", ["missing", "file", "empty", "plain"])
def test_no_cipherdir(
    small: Sealed, scratch: Path, attempt: Attempt, kind: str
) -> None:
    place = scratch / "place"
    if kind == "file":
        place.touch()
    elif kind == "empty":
        place.mkdir()
    elif kind == "plain":
        shutil.copytree(small.plain, place)

    attempt.fails(CipherdirError, place)


def _flip_payload(cipherdir: Path) -> None:
    flip(envelope_of(cipherdir), 600)


def _flip_signature(cipherdir: Path) -> None:
    flip(envelope_of(cipherdir), -20)


def _append_to_envelope(cipherdir: Path) -> None:
    with envelope_of(cipherdir).open("ab") as file:
        file.write(b"\n")


def _lengthen_blocks(cipherdir: Path) -> None:
    with (seal_directory(cipherdir) / "blocks").open("ab") as file:
        file.write(bytes(32))


def _shorten_blocks(cipherdir: Path) -> None:
    os.truncate(seal_directory(cipherdir) / "blocks", 32)


def _remove_pointer(cipherdir: Path) -> None:
    (cipherdir / "model.ovfuse").unlink()


def _point_elsewhere(cipherdir: Path) -> None:
    (cipherdir / "model.ovfuse").write_text(f"ovfuse 1 {'0' * 32}\n")


def _link_pointer(cipherdir: Path) -> None:
    (cipherdir / "model.ovfuse").rename(cipherdir / "pointer")
    (cipherdir / "model.ovfuse").symlink_to("pointer")


def _pointer_fifo(cipherdir: Path) -> None:
    (cipherdir / "model.ovfuse").unlink()
    os.mkfifo(cipherdir / "model.ovfuse")


def _link_seal(cipherdir: Path) -> None:
    directory = seal_directory(cipherdir)
    directory.rename(cipherdir / "elsewhere")
    directory.symlink_to("../elsewhere")


@pytest.mark.parametrize(
    "damage",
    [
        *(_flip_payload, _flip_signature, _append_to_envelope),
        *(_lengthen_blocks, _shorten_blocks, _remove_pointer),
        *(_point_elsewhere, _link_pointer, _pointer_fifo, _link_seal),
    ],
)
def test_sealed_model_is_damaged(
    small: Sealed, scratch: Path, attempt: Attempt, damage: Callable[[Path], None]
) -> None:
    cipherdir = small.copy(scratch / "sealed")
    damage(cipherdir)

    attempt.fails(DamagedError, cipherdir)
    if damage is _flip_signature:  # it waives trust, not what is whole
        attempt.fails(DamagedError, cipherdir, "-o", "allow_untrusted")


@pytest.mark.parametrize("pointer", ["ovfuse 2 x\n", "ovfuse 10\n", "ovfuse 2 " * 99])
def test_format_is_newer(
    small: Sealed, scratch: Path, attempt: Attempt, pointer: str
) -> None:
    cipherdir = small.copy(scratch / "sealed")
    (cipherdir / "model.ovfuse").write_text(pointer)

    said = attempt.fails(NewerFormatError, cipherdir)
    assert f"made by a newer ovfuse (format {pointer.split()[1]})" in said


@pytest.mark.parametrize(
    "terms",
    [("--not-before", "2200-01-01T18:00+02:00"), ("--machine", "0" * 64)],
    ids=lambda terms: terms[0],
)
def test_terms_do_not_allow_it(
    small: Sealed, scratch: Path, attempt: Attempt, terms: tuple[str, ...]
) -> None:
    cipherdir = scratch / "sealed"
    succeed(attempt.publisher, "encrypt", *terms, small.plain, cipherdir)

    attempt.fails(TermsError, cipherdir)


def test_name_is_not_the_demanded_one(small: Sealed, attempt: Attempt) -> None:
    said = attempt.fails(UntrustedError, small.cipherdir, "-o", "model=other")
    assert "its signed name is 'small', not 'other'" in said


@pytest.mark.parametrize(
    "option", ["uid=me", "umask=9", "uid", "log=/none/there", "engine=none", "rw"]
)
def test_options_are_wrong(small: Sealed, attempt: Attempt, option: str) -> None:
    attempt.fails(UsageError, small.cipherdir, "-o", option)


def test_unknown_option_is_told_the_known_ones(small: Sealed, attempt: Attempt) -> None:
    said = attempt.fails(UsageError, small.cipherdir, "-o", "allow_other,cheese=1")

    assert "'cheese=1'" in said
    for known in ("allow_other", "uid=", "strict", "model=", "engine=", "log="):
        assert known in said


def test_sealed_model_tells_nothing_of_its_content(small: Sealed) -> None:
    envelope = envelope_of(small.cipherdir).read_text()
    clear = base64.b64decode(json.loads(envelope)["payload"]) + b"".join(
        path.read_bytes() for path in small.cipherdir.rglob("*") if path.is_file()
    )
    for secret in (b"model.xml", b"labels", b"small", b"cat\ndog", b"empty"):
        assert secret not in clear
