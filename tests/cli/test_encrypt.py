"""`encrypt`: versions, whose cipherdir it is, for whom; interrupted and refused."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ovfuse.errors import (
    BusyError,
    CipherdirError,
    DamagedError,
    KeyFileError,
    NoUsableKeyError,
    OvfuseError,
    SourceError,
    UntrustedError,
    UsageError,
)
from tests.cli.conftest import (
    inspected,
    key_files,
    seal_directory,
    snapshot,
    unverified,
)
from tests.support.mounting import (
    Home,
    refused,
    run_as,
    run_ovfuse,
    start_ovfuse,
    succeed,
)
from tests.support.waiting import wait_until


@pytest.fixture
def sealed(home: Home, plain: Path, scratch: Path) -> Path:
    """The model directory, sealed once by its owner."""
    succeed(home, "encrypt", plain, scratch / "sealed")
    return scratch / "sealed"


@pytest.fixture
def other(scratch: Path) -> Home:
    """Somebody else, with keys."""
    home = Home(directory=scratch / "other")
    succeed(home, "keygen")
    return home


def test_first_sealing_makes_the_keys_and_says_for_whom(
    home: Home, plain: Path, scratch: Path
) -> None:
    done = run_ovfuse(home, "encrypt", plain, scratch / "sealed")

    assert done.returncode == 0
    assert f"for: {home.recipient}\n" in done.stdout
    assert "'sealed' version 1" in done.stdout
    facts = inspected(home, scratch / "sealed")
    assert f"model id: {facts['model_id']}\n" in done.stdout
    assert f"signed by: {facts['signatures'][0]['fingerprint']}\n" in done.stdout
    assert f"'{home.identity}'" in done.stderr
    assert "back these up" in done.stderr
    again = run_ovfuse(home, "encrypt", plain, scratch / "sealed")
    assert "made" not in again.stderr
    assert "warning" not in again.stderr


def test_sealing_again_is_the_next_version_of_the_same_model(
    home: Home, plain: Path, sealed: Path
) -> None:
    first = inspected(home, sealed)
    (plain / "model.xml").write_text("<net version='2'/>")
    assert "'sealed' version 2" in succeed(home, "encrypt", plain, sealed)
    second = inspected(home, sealed)

    assert (first["version"], second["version"]) == (1, 2)
    assert second["model_id"] == first["model_id"]
    assert second["seal_id"] != first["seal_id"]
    assert second["sealed_at"] > first["sealed_at"]
    # The one before is kept until the next.
    assert {path.name for path in (sealed / "seals").iterdir()} == {
        first["seal_id"],
        second["seal_id"],
    }
    succeed(home, "encrypt", plain, sealed)
    assert first["seal_id"] not in os.listdir(sealed / "seals")
    assert "version 3" in succeed(home, "verify", sealed)


def test_name_is_kept_and_new_model_starts_over(
    home: Home, plain: Path, scratch: Path
) -> None:
    sealed = scratch / "sealed"
    succeed(home, "encrypt", "--name", "vision/resnet", plain, sealed)
    first = inspected(home, sealed)
    assert "'vision/resnet' version 2" in succeed(home, "encrypt", plain, sealed)
    refused(home, UsageError, "encrypt", "--name", "other", plain, sealed)
    assert "version 2" in succeed(home, "verify", sealed)

    again = succeed(home, "encrypt", "--new-model", plain, sealed)
    assert "'sealed' version 1" in again
    assert inspected(home, sealed)["model_id"] != first["model_id"]


def test_cipherdir_of_another_publisher_is_left_alone(
    other: Home, plain: Path, sealed: Path, home: Home
) -> None:
    before = snapshot(sealed)
    said = refused(other, UntrustedError, "encrypt", plain, sealed)
    assert inspected(home, sealed)["signatures"][0]["fingerprint"] in said
    assert snapshot(sealed) == before

    assert "version 1" in succeed(other, "encrypt", "--new-model", plain, sealed)
    assert "version 1" in succeed(other, "verify", sealed)
    refused(home, UntrustedError, "encrypt", plain, sealed)


def test_trusted_colleague_continues_a_model(
    other: Home, home: Home, plain: Path, sealed: Path
) -> None:
    model_id = inspected(home, sealed)["model_id"]
    succeed(other, "trust", "add", home.public_key)
    refused(other, UsageError, "encrypt", plain, sealed)  # he cannot read the name

    succeed(other, "encrypt", "--name", "sealed", plain, sealed)
    facts = inspected(other, sealed)
    assert (facts["model_id"], facts["version"]) == (model_id, 2)
    assert "version 2" in succeed(other, "verify", sealed)


def test_key_is_wrapped_for_nobody_but_the_default(
    home: Home, other: Home, sealed: Path
) -> None:
    (key_file,) = key_files(sealed)
    opened = run_as(home, "age", "-d", "-i", home.identity, key_file)
    assert opened.returncode == 0
    stranger = run_as(other, "age", "-d", "-i", other.identity, key_file)
    assert stranger.returncode != 0
    (key_file,) = inspected(home, sealed)["key_files"]
    assert key_file["types"] == ["X25519"]


def test_only_those_named_can_open_it(
    home: Home, other: Home, plain: Path, scratch: Path
) -> None:
    third = scratch / "third.txt"
    third_recipient = succeed(home, "keygen", "-o", third).split()[1]
    (scratch / "team").write_text(
        f"# the team\n\n{other.recipient}\n  {third_recipient}  \n{other.recipient}\n"
    )
    sealed = scratch / "sealed"
    options = ("-R", scratch / "team", "-r", other.recipient.upper())
    said = succeed(home, "encrypt", *options, plain, sealed)

    assert len(key_files(sealed)) == 2
    assert {line for line in said.splitlines() if line.startswith("for: ")} == {
        f"for: {other.recipient}",
        f"for: {third_recipient}",
    }
    unverified(home, NoUsableKeyError, sealed)
    assert "version 1" in succeed(home, "verify", "-i", third, sealed)
    trusting = ("--verify-key", home.public_key)
    assert "version 1" in succeed(other, "verify", *trusting, sealed)


def test_recipients_are_not_taken_over_from_the_sealing_before(
    home: Home, other: Home, plain: Path, scratch: Path
) -> None:
    sealed = scratch / "sealed"
    succeed(home, "keygen")
    own = ("-r", home.recipient)
    succeed(home, "encrypt", *own, "-r", other.recipient, plain, sealed)
    assert len(key_files(sealed)) == 2
    succeed(home, "encrypt", plain, sealed)

    assert len(key_files(sealed)) == 1
    trusting = ("--verify-key", home.public_key)
    unverified(other, NoUsableKeyError, *trusting, sealed)


@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_ssh_keys_are_recipients_and_identities(
    home: Home, plain: Path, scratch: Path, kind: str
) -> None:
    key = scratch / "key"
    options = ("-q", "-t", kind, "-N", "", "-C", "a comment")
    assert run_as(home, "ssh-keygen", *options, "-f", key).returncode == 0
    sealed = scratch / "sealed"
    public = key.with_suffix(".pub").read_text().strip()

    said = succeed(home, "encrypt", "-r", public, plain, sealed)
    assert f"for: {' '.join(public.split()[:2])}\n" in said
    assert len(key_files(sealed)) == 1
    assert "version 1" in succeed(home, "verify", "-i", key, sealed)


def test_recipients_that_are_none(home: Home, plain: Path, scratch: Path) -> None:
    (scratch / "bad").write_text(f"{'x' * 20}\n")
    for options in (
        ("-r", "age1nobody"),
        ("-r", "AGE-SECRET-KEY-1" + "Q" * 58),
        ("-R", scratch / "bad"),
        ("-R", scratch / "none"),
        ("-R", scratch),
    ):
        refused(home, KeyFileError, "encrypt", *options, plain, scratch / "sealed")
    assert not (scratch / "sealed").exists()


def test_file_without_recipients_does_not_mean_the_default(
    home: Home, plain: Path, scratch: Path
) -> None:
    (scratch / "empty").write_text("# nobody\n")
    options = ("-R", scratch / "empty")
    refused(home, KeyFileError, "encrypt", *options, plain, scratch / "sealed")
    assert not (scratch / "sealed").exists()


def test_signing_key_of_ones_own_choice(home: Home, plain: Path, scratch: Path) -> None:
    key = scratch / "key"
    make = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
    assert run_as(home, *make).returncode == 0
    sealed = scratch / "sealed"

    succeed(home, "encrypt", "--sign-key", key, plain, sealed)
    unverified(home, UntrustedError, sealed)
    trusting = ("--verify-key", key.with_suffix(".pub"))
    assert "version 1" in succeed(home, "verify", *trusting, sealed)
    assert not (home.config / "signing_key").exists()


def test_signing_keys_that_will_not_do(home: Home, plain: Path, scratch: Path) -> None:
    made = {"rsa": ("rsa", ""), "locked": ("ed25519", "secret")}
    for name, (kind, passphrase) in made.items():
        make = ("ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-f", scratch / name)
        assert run_as(home, *make).returncode == 0
    (scratch / "text").write_text("no key")
    (scratch / "text").chmod(0o600)

    for name in ("rsa", "locked", "text", "none", "rsa.pub"):
        options = ("--sign-key", scratch / name)
        refused(home, KeyFileError, "encrypt", *options, plain, scratch / "sealed")
    assert not (scratch / "sealed").exists()


def test_own_keys_that_others_can_read_are_refused(
    home: Home, plain: Path, scratch: Path
) -> None:
    succeed(home, "keygen")
    for path in (home.identity, home.config / "signing_key"):
        path.chmod(0o644)
        refused(home, KeyFileError, "encrypt", plain, scratch / "sealed")
        path.chmod(0o600)
    assert not (scratch / "sealed").exists()


@pytest.mark.parametrize(
    "options",
    [
        ("--name", "a@1"),
        ("--name", ""),
        ("--name", "/a"),
        ("--name", "a/../b"),
        ("--name", "x" * 256),
        ("--not-before", "tomorrow"),
        ("--not-after", "2000-01-01"),
        ("--not-before", "2200-01-01", "--not-after", "2100-01-01"),
        ("--machine", "me"),
        ("--machine", "A" * 64),
    ],
    ids=" ".join,
)
def test_options_that_cannot_be(
    home: Home, plain: Path, scratch: Path, options: tuple[str, ...]
) -> None:
    refused(home, UsageError, "encrypt", *options, plain, scratch / "sealed")
    assert not (scratch / "sealed").exists()


def _missing(plain: Path) -> Path:
    return plain / "none"


def _file(plain: Path) -> Path:
    return plain / "model.xml"


def _fifo(plain: Path) -> Path:
    os.mkfifo(plain / "fifo")
    return plain


def _link_outside(plain: Path) -> Path:
    (plain / "link").symlink_to("/etc/passwd")
    return plain


def _dangling(plain: Path) -> Path:
    (plain / "link").symlink_to("none")
    return plain


def _link_loop(plain: Path) -> Path:
    (plain / "sub" / "up").symlink_to("..")
    return plain


def _no_utf8(plain: Path) -> Path:
    Path(os.fsdecode(os.fsencode(plain) + b"/\xff\x1b")).touch()
    return plain


def test_directories_that_cannot_be_sealed(
    home: Home, plain: Path, scratch: Path, sealed: Path
) -> None:
    before = snapshot(sealed)
    for spoil in (
        *(_missing, _file, _fifo, _link_outside, _dangling, _link_loop, _no_utf8),
    ):
        copy = scratch / spoil.__name__
        shutil.copytree(plain, copy)
        refused(home, SourceError, "encrypt", spoil(copy), sealed)
    refused(home, SourceError, "encrypt", copy, scratch / "new")

    assert snapshot(sealed) == before
    assert not (scratch / "new").exists()


def test_links_inside_are_followed(home: Home, plain: Path, scratch: Path) -> None:
    (plain / "copy.bin").symlink_to("model.bin")
    (plain / "again").symlink_to("sub")
    succeed(home, "encrypt", plain, scratch / "sealed")

    said = succeed(home, "verify", scratch / "sealed")
    assert "ok     'copy.bin'" in said
    assert "ok     'again/labels.txt'" in said


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("plain/sealed", SourceError),
        ("plain", SourceError),
        ("full", CipherdirError),
        ("file", CipherdirError),
        ("none/sealed", CipherdirError),
    ],
)
def test_places_where_it_cannot_go(
    home: Home, plain: Path, scratch: Path, target: str, error: type[OvfuseError]
) -> None:
    (scratch / "full").mkdir()
    (scratch / "full" / "letter.txt").write_text("precious")
    (scratch / "file").write_text("precious")
    succeed(home, "keygen")
    before = snapshot(scratch)

    refused(home, error, "encrypt", plain, scratch / target)
    assert snapshot(scratch) == before


def test_damaged_cipherdir_is_not_continued_but_replaced(
    home: Home, plain: Path, sealed: Path
) -> None:
    (seal_directory(sealed) / "manifest.dsse.json").write_bytes(b"{}")
    refused(home, DamagedError, "encrypt", plain, sealed)

    assert "version 1" in succeed(home, "encrypt", "--new-model", plain, sealed)
    assert "version 1" in succeed(home, "verify", sealed)


def test_empty_model_directory(home: Home, scratch: Path) -> None:
    (scratch / "empty" / "sub").mkdir(parents=True)
    refused(home, SourceError, "encrypt", scratch / "empty", scratch / "sealed")


@pytest.fixture
def small_disk(scratch: Path) -> Iterator[Path]:
    """A directory with room for 8 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a tmpfs")
    disk = scratch / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "x", disk], check=True)
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_full_disk_leaves_the_old_model(
    home: Home, plain: Path, small_disk: Path
) -> None:
    sealed = small_disk / "sealed"
    succeed(home, "encrypt", plain, sealed)
    before = snapshot(sealed)
    (plain / "large.bin").write_bytes(bytes(9 << 20))

    said = refused(home, CipherdirError, "encrypt", plain, sealed)
    assert "No space left on device" in said
    assert snapshot(sealed) == before
    refused(home, CipherdirError, "encrypt", plain, small_disk / "new")
    assert not (small_disk / "new").exists()


@pytest.fixture
def huge(scratch: Path) -> Path:
    """A model directory that takes seconds to seal; nobody waits for its end."""
    (scratch / "huge").mkdir()
    with (scratch / "huge" / "huge.bin").open("wb") as file:
        file.truncate(16 << 30)
    return scratch / "huge"


@contextmanager
def sealing(home: Home, source: Path, target: Path) -> Iterator[subprocess.Popen[str]]:
    """An `encrypt` that has written something and is then stopped."""
    before = set(target.glob("seals/*"))
    process = start_ovfuse(home, "encrypt", source, target)

    def has_written() -> bool:
        new = set(target.glob("seals/*")) - before
        return any(path.stat().st_size for s in new for path in s.glob("objects/*"))

    try:
        wait_until(lambda: process.poll() is not None or has_written())
        process.send_signal(signal.SIGSTOP)
        assert process.poll() is None
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_interrupt_leaves_the_old_model(home: Home, huge: Path, sealed: Path) -> None:
    before = snapshot(sealed)
    with sealing(home, huge, sealed) as process:
        refused(home, BusyError, "encrypt", huge, sealed)
        assert "version 1" in succeed(home, "verify", sealed)

        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGCONT)
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (130, "")
    assert stderr == "ovfuse: error: interrupted\n"
    assert snapshot(sealed) == before


def test_interrupted_first_sealing_leaves_nothing(
    home: Home, huge: Path, scratch: Path
) -> None:
    succeed(home, "keygen")
    with sealing(home, huge, scratch / "sealed") as process:
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGCONT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr == "ovfuse: error: interrupted\n"
    assert not (scratch / "sealed").exists()


def test_killed_sealing_leaves_the_old_model_and_is_cleaned_by_the_next(
    home: Home, plain: Path, huge: Path, sealed: Path
) -> None:
    with sealing(home, huge, sealed) as process:
        process.kill()
    assert len(os.listdir(sealed / "seals")) == 2
    assert "version 1" in succeed(home, "verify", sealed)

    assert "version 2" in succeed(home, "encrypt", plain, sealed)
    assert len(os.listdir(sealed / "seals")) == 2
    assert "version 2" in succeed(home, "verify", sealed)


def test_killed_first_sealing_is_damage_until_the_next(
    home: Home, plain: Path, huge: Path, scratch: Path
) -> None:
    target = scratch / "sealed"
    with sealing(home, huge, target) as process:
        process.kill()
    unverified(home, DamagedError, target)

    assert "version 1" in succeed(home, "encrypt", plain, target)
    assert len(os.listdir(target / "seals")) == 1
    assert "version 1" in succeed(home, "verify", target)
