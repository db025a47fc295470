"""Each source opens a mount, and what is sealed later; its identity is in no memory."""

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from ovfuse.errors import KeyFileError, UsageError
from ovfuse.keys.tpm2 import enrol
from ovfuse.secret import Secret
from tests.mount.locking import current_pid, lock, unlock
from tests.mount.resealing import Resealed
from tests.mount.test_unwrapping import check_memory, shows
from tests.sources.conftest import (
    credentials_in,
    key_in_keyring,
    program_in,
    with_descriptor,
    with_variables,
)
from tests.support.held_memory import model_key_of
from tests.support.key_forms import Forms, forms_of_mount
from tests.support.killing import parent_of, unwrappers_of
from tests.support.mounting import (
    Home,
    Mount,
    check_error_lines,
    daemons_of,
    is_gone,
    is_mounted,
    mounted,
    refused,
    refused_mount,
    start_ovfuse,
    succeed,
)
from tests.support.tpm import tpm_in
from tests.support.users import needs_root
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.fuse, pytest.mark.tools]


Source = tuple[str, Home]
"""What stands behind `-i`, and who can read it."""


@dataclass(frozen=True)
class Case:
    """A model, who mounts it, and where his identity is.

    Attributes:
        home: of who mounts, with what the source needs.
        words: behind `-i`.
        model: to be sealed again.
        identity: where it is, nowhere that anybody would look.
        known: forms of the identity.
    """

    home: Home
    words: str
    model: Resealed
    identity: Path
    known: Forms

    def forms(self) -> Forms:
        keys = Home(directory=self.home.directory.parent / "keys")
        return {**self.known, "model key": model_key_of(keys, self.model.cipherdir)}


@pytest.fixture
def owner(scratch: Path) -> Home:
    """Who seals for himself; his identity is then put aside."""
    home = Home(directory=scratch / "keys")
    succeed(home, "keygen")
    return home


@pytest.fixture
def case(owner: Home, scratch: Path, request: pytest.FixtureRequest) -> Iterator[Case]:
    model = Resealed(owner, scratch / "sealed", scratch / "plain").seal()
    home = Home(directory=scratch / "home")
    succeed(home, "trust", "add", owner.public_key)
    with ExitStack() as stack:
        words, home = KINDS[request.param](owner.identity, home, scratch, stack)
        known = forms_of_mount(owner, model.cipherdir)
        yield Case(home, words, model, owner.identity, known)


def in_credential(identity: Path, home: Home, scratch: Path, _: ExitStack) -> Source:
    directory = credentials_in(scratch, "models", identity)
    home = with_variables(home, CREDENTIALS_DIRECTORY=f"{directory}")
    return "credential:models", home


def in_keyring(identity: Path, home: Home, _: Path, stack: ExitStack) -> Source:
    name = f"ovfuse-test-{os.getpid()}"
    stack.enter_context(key_in_keyring(name, identity))
    return f"keyring:{name}", home


def in_tpm2(identity: Path, home: Home, scratch: Path, stack: ExitStack) -> Source:
    tpm = stack.enter_context(tpm_in(scratch / "tpm"))
    tpm.extend(7)
    with Secret(identity.read_bytes()) as secret:
        blob = enrol(secret, (7,), tcti=tpm.tcti)
    (scratch / "identity.tpm2").write_bytes(blob.to_bytes())
    (scratch / "identity.tpm2").chmod(0o600)
    home = with_variables(home, TPM2TOOLS_TCTI=tpm.tcti)
    return f"tpm2:{scratch / 'identity.tpm2'}", home


KINDS: Mapping[str, Callable[[Path, Home, Path, ExitStack], Source]] = {
    "credential": in_credential,
    "command": lambda path, home, *_: (f"command:/bin/cat {path}", home),
    "fd": lambda path, home, *_: ("fd:9", with_descriptor(home, 9, path, pipe=False)),
    "pipe": lambda path, home, *_: ("fd:9", with_descriptor(home, 9, path, pipe=True)),
    "stdin": lambda path, home, *_: ("fd:0", with_descriptor(home, 0, path, pipe=True)),
    "keyring": in_keyring,
    "tpm2": in_tpm2,
}


@contextmanager
def mount_of(case: Case, mountpoint: Path, *words: str) -> Iterator[Mount]:
    words = ("-i", case.words, *words)
    with mounted(
        case.home, case.model.cipherdir, mountpoint, *words, engine="kernel"
    ) as mount:
        yield mount


@needs_root
@pytest.mark.parametrize("case", KINDS, indirect=True)
def test_mount_finds_it_again_and_never_has_it(case: Case, mountpoint: Path) -> None:
    """At the start, for a new version, after a crash, and after an upgrade."""
    with mount_of(case, mountpoint) as mount:
        assert shows(mountpoint, 1)
        check_memory(mount, case.forms())
        case.model.seal()
        wait_until(lambda: shows(mountpoint, 2))

        before = current_pid(mount)
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: is_gone(before))
        current_pid(mount)
        case.model.seal()
        wait_until(lambda: shows(mountpoint, 3))

        succeed(case.home, "reload", mountpoint)
        case.model.seal()
        wait_until(lambda: shows(mountpoint, 4))
        check_memory(mount, case.forms())
        assert not has_open(current_pid(mount), "secretmem")
        assert not has_open(current_pid(mount), "identity.txt")


def has_open(pid: int, name: str) -> bool:
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.append(f"{link.readlink()}")
    return any(name in path for path in found)


@needs_root
@pytest.mark.parametrize("case", ["pipe"], indirect=True)
def test_lock_takes_away_what_came_by_a_pipe(case: Case, mountpoint: Path) -> None:
    with mount_of(case, mountpoint) as mount:
        keeper = parent_of(current_pid(mount))
        assert has_open(keeper, "secretmem")

        lock(mount)
        current_pid(mount, "locked")
        assert not has_open(keeper, "secretmem")
        said = refused(case.home, KeyFileError, "unlock", mountpoint)
        assert "'fd:9' holds no identity" in said
        unlock(mount, "-i", f"command:/bin/cat {case.identity}")
        assert shows(mountpoint, 1)


@pytest.mark.parametrize("case", ["command"], indirect=True)
def test_unlock_cannot_pass_a_descriptor_on(case: Case, mountpoint: Path) -> None:
    with mount_of(case, mountpoint) as mount:
        lock(mount)
        for words in ("fd:0", "passphrase:fd:0"):
            refused(case.home, UsageError, "unlock", "-i", words, mountpoint)
        unlock(mount)
        assert shows(mountpoint, 1)


@pytest.mark.parametrize("case", ["pipe", "tpm2"], indirect=True)
def test_variable_may_name_it(case: Case, mountpoint: Path) -> None:
    home = with_variables(case.home, OVFUSE_IDENTITY=case.words)
    with mounted(home, case.model.cipherdir, mountpoint, engine="kernel"):
        case.model.seal()
        wait_until(lambda: shows(mountpoint, 2))


@pytest.mark.parametrize("case", ["pipe", "command"], indirect=True)
def test_engine_without_a_keeper(case: Case, mountpoint: Path) -> None:
    with mounted(
        case.home,
        case.model.cipherdir,
        mountpoint,
        *("-i", case.words),
        engine="libfuse",
    ):
        assert shows(mountpoint, 1)


# Commands that end otherwise


@pytest.mark.parametrize("case", ["command"], indirect=True)
def test_command_that_is_killed_halfway(
    case: Case, mountpoint: Path, scratch: Path
) -> None:
    pids = scratch / "pids"
    program = program_in(
        scratch, f"echo $$ >{pids}.new; mv {pids}.new {pids}; exec sleep 1000"
    )
    words = ("mount", "-i", f"command:{program}", case.model.cipherdir, mountpoint)
    process = start_ovfuse(case.home, *words)
    wait_until(pids.exists)
    os.kill(int(pids.read_text()), signal.SIGKILL)
    _, said = process.communicate(timeout=60)

    assert process.returncode == KeyFileError.exit_code
    check_error_lines(said)
    assert f"'command:{program}' got SIGKILL" in said
    assert not is_mounted(mountpoint)
    wait_until(lambda: not daemons_of(mountpoint))


@pytest.mark.parametrize("case", ["command"], indirect=True)
def test_command_dies_with_who_waits_for_it(
    case: Case, mountpoint: Path, scratch: Path
) -> None:
    """The process that looks for identities is killed; what it started hangs."""
    pids, again = scratch / "pids", scratch / "again"
    program = program_in(
        scratch,
        f"[ -e {again} ] || exec cat {case.identity}\n"
        f"echo $$ >{pids}.new; mv {pids}.new {pids}; exec sleep 1000",
    )
    case = replace(case, words=f"command:{program}")
    with mount_of(case, mountpoint) as mount:
        keeper = parent_of(current_pid(mount))
        wait_until(lambda: not unwrappers_of(keeper))
        again.touch()
        case.model.seal()
        wait_until(pids.exists)
        (child,) = unwrappers_of(keeper)
        os.kill(child, signal.SIGKILL)

        wait_until(lambda: is_gone(int(pids.read_text())))
        assert shows(mountpoint, 1)
        again.unlink()
        case.model.seal()
        wait_until(lambda: shows(mountpoint, 3))


@pytest.mark.parametrize("case", ["tpm2"], indirect=True)
def test_device_that_was_changed(case: Case, mountpoint: Path) -> None:
    """What is open goes on; nothing new opens, and the next mount neither."""
    import tpm2_pytss as tss

    with mount_of(case, mountpoint) as mount:
        with tss.ESAPI(case.home.extra["TPM2TOOLS_TCTI"]) as api:
            api.pcr_event(tss.ESYS_TR.PCR7, b"another boot loader")
        case.model.seal()
        wait_until(lambda: "PCR 7 is not as it was" in mount.model()["reason"])
        assert shows(mountpoint, 1)
    said = refused_mount(
        case.home,
        KeyFileError,
        case.model.cipherdir,
        mountpoint,
        *("-i", case.words),
        engine="kernel",
    )
    assert "PCR 7 is not as it was" in said
