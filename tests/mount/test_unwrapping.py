"""Identities and passphrases are in short-lived processes only, however these end."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from ovfuse.errors import KeyFileError, NoUsableKeyError
from ovfuse.keys.identities import find_identities
from tests.mount.locking import current_pid, errno_of, lock, serving, unlock
from tests.mount.resealing import Resealed, version_of
from tests.support.held_memory import model_key_of
from tests.support.key_forms import Forms, forms_of_mount
from tests.support.killing import child_of, parent_of, unwrappers_of
from tests.support.mounting import (
    Home,
    Mount,
    check_error_lines,
    daemons_of,
    is_gone,
    is_mounted,
    mounted,
    refused,
    start_ovfuse,
    succeed,
)
from tests.support.process_memory import forms_in_memory
from tests.support.prompts import asking, type_into
from tests.support.sealed import recipient_of
from tests.support.users import needs_root
from tests.support.waiting import wait_until

pytestmark = pytest.mark.fuse

MODEL_KEY = "model key"
PASSPHRASE = "correct horse of a battery that nobody guesses"
CONTROL = """
import sys
from pathlib import Path
from ovfuse.keys.identities import find_identities
text = Path(sys.argv[1]).read_text()
held = text, text.lower(), find_identities([Path(sys.argv[1])])
print("ready", flush=True)
sys.stdin.read()
"""
CONTROL_OF_INPUT = """
import sys
held = input()
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def own(home: Home) -> Home:
    """Somebody whose identity a test may take away."""
    succeed(home, "keygen")
    return home


@pytest.fixture
def single(own: Home, scratch: Path) -> Resealed:
    return Resealed(own, scratch / "sealed", scratch / "plain").seal()


@pytest.fixture
def tree(publisher: Home, scratch: Path) -> Path:
    """Two models, of which a mount unlocks the first at its start."""
    for name in ("a", "b"):
        Resealed(publisher, scratch / "tree" / name, scratch / f"plain-{name}").seal()
    return scratch / "tree"


def shows(top: Path, version: int) -> bool:
    """Tell whether this version is read, whole."""
    with suppress(OSError):
        return version_of((top / "model.bin").read_bytes()) == version
    return False


# What is in memory


def identity_forms(forms: Forms) -> dict[str, bytes]:
    return {n: form for n, form in forms.items() if not n.startswith(MODEL_KEY)}


def check_memory(mount: Mount, forms: Forms) -> None:
    """Assert that keeper and daemon have the model key, and nothing else of it."""
    daemon = current_pid(mount)
    for pid in (daemon, parent_of(daemon)):
        found = forms_in_memory(pid, forms)
        assert MODEL_KEY in found
        assert found.isdisjoint(identity_forms(forms)), found


def check_control(identity: Path, forms: Forms) -> None:
    """Assert that a process that has the identity would be found out."""
    with subprocess.Popen(
        [sys.executable, "-c", CONTROL, identity],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        assert forms_in_memory(process.pid, forms) >= {
            "identity",
            "identity, bech32",
            "identity, bech32 in lower case",
        }


@needs_root
def test_identity_is_in_no_memory(
    own: Home, single: Resealed, scratch: Path, mountpoint: Path
) -> None:
    first = forms_of_mount(own, single.cipherdir)

    def forms() -> Forms:
        return {**first, MODEL_KEY: model_key_of(own, single.cipherdir)}

    check_control(own.identity, first)
    with serving(own, single.cipherdir, mountpoint) as mount:
        check_memory(mount, forms())
        single.seal()
        wait_until(lambda: shows(mountpoint, 2))
        check_memory(mount, forms())

        before = current_pid(mount)
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: is_gone(before))
        current_pid(mount)
        single.seal()
        wait_until(lambda: shows(mountpoint, 3))
        check_memory(mount, forms())

        succeed(own, "reload", mountpoint)
        single.seal()
        wait_until(lambda: shows(mountpoint, 4))
        check_memory(mount, forms())

        known = forms()
        lock(mount)
        unlock(mount)
        check_memory(mount, known)
        lock(mount)
        aside = own.identity.rename(scratch / "aside")
        unlock(mount, "-i", aside)
        assert shows(mountpoint, 4)
        check_memory(mount, known)


@needs_root
def test_passphrase_is_in_no_memory(
    own: Home, single: Resealed, scratch: Path, mountpoint: Path
) -> None:
    words = ("encrypt", "-p", single.plain, scratch / "typed")
    assert type_into(own, *words, answers=[PASSPHRASE, PASSPHRASE]).code == 0
    forms = {"passphrase": PASSPHRASE.encode()}
    with asking(own, "mount", scratch / "typed", mountpoint) as asked:
        (child,) = [p for p in daemons_of(mountpoint) if is_unwrapper(p)]
        assert parent_of(child) in daemons_of(mountpoint)
        asked.answer(PASSPHRASE)
        assert asked.end() == 0
    mount = Mount(home=own, mountpoint=mountpoint)
    try:
        daemon = current_pid(mount)
        for pid in (daemon, parent_of(daemon)):
            assert forms_in_memory(pid, forms) == set()
        lock(mount)
        assert type_into(own, "unlock", mountpoint, answers=[PASSPHRASE]).code == 0
        assert shows(mountpoint, 1)
        daemon = current_pid(mount)
        for pid in (daemon, parent_of(daemon)):
            assert forms_in_memory(pid, forms) == set()
    finally:
        succeed(own, "unmount", mountpoint)
    mount.wait_for_end()
    with subprocess.Popen(
        [sys.executable, "-c", CONTROL_OF_INPUT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as control:
        assert control.stdin is not None
        assert control.stdout is not None
        control.stdin.write(PASSPHRASE.encode() + b"\n")
        control.stdin.flush()
        control.stdout.readline()
        assert forms_in_memory(control.pid, forms) == {"passphrase"}


def is_unwrapper(pid: int) -> bool:
    return Path(f"/proc/{pid}/comm").read_text() == "ovfuse-unwrap\n"


# Where identities are looked for


def test_identity_that_was_replaced_is_found(
    own: Home, single: Resealed, scratch: Path, mountpoint: Path
) -> None:
    """What is sealed for the new one only is shown by a mount that is older."""
    with serving(own, single.cipherdir, mountpoint):
        succeed(own, "keygen", "-o", scratch / "new")
        (new,) = find_identities([scratch / "new"]).identities
        (scratch / "new").rename(own.identity)
        single.seal(recipients=[recipient_of(new)])

        wait_until(lambda: shows(mountpoint, 2))


def test_identity_that_is_gone_stops_nothing_that_is_open(
    own: Home, single: Resealed, scratch: Path, mountpoint: Path
) -> None:
    log = scratch / "log"
    words = ("-i", own.identity, "-o", f"log={log}")
    with mounted(own, single.cipherdir, mountpoint, *words, engine="kernel") as mount:
        aside = own.identity.rename(scratch / "aside")
        before = mount.pid
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: "only what is open goes on" in log.read_text())
        single.seal()
        wait_until(lambda: "the sealing on disk is refused" in log.read_text())
        assert shows(mountpoint, 1)
        assert f"'{own.identity}': No such file" in mount.model()["reason"]

        aside.rename(own.identity)
        single.seal()
        wait_until(lambda: shows(mountpoint, 3))


def test_variable_may_be_relative(
    publisher: Home, tree: Path, scratch: Path, mountpoint: Path
) -> None:
    """It is looked at again where the daemon is in another directory."""
    shutil.copy(publisher.identity, scratch / "mine")
    shutil.copytree(publisher.config / "trusted", scratch / "trusted")
    home = Home(directory=scratch / "home", extra={"OVFUSE_IDENTITY": "mine"})
    (key,) = (scratch / "trusted").iterdir()
    words = ("mount", "-o", "engine=kernel", "--verify-key", key, tree, mountpoint)
    succeed(home, *words, cwd=scratch)
    try:
        assert shows(mountpoint / "b", 1)
    finally:
        succeed(home, "unmount", mountpoint)


# Places that do not answer, and children that are killed


@dataclass
class Looker:
    """Somebody who looks inside of a model, and waits."""

    path: Path
    error: int | None = None
    _thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        self.error = errno_of(os.listdir, self.path)

    def wait(self) -> int | None:
        """Return the error number, when there is an answer."""
        self._thread.join(30)
        assert not self._thread.is_alive()
        return self.error


@dataclass(frozen=True)
class Place:
    """An identity file on a filesystem whose server may be stopped."""

    path: Path
    server: int

    def stop(self) -> None:
        os.kill(self.server, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.server, signal.SIGCONT)


@pytest.fixture
def place(publisher: Home, scratch: Path) -> Iterator[Place]:
    (scratch / "keys").mkdir()
    shutil.copy(publisher.identity, scratch / "keys")
    succeed(publisher, "encrypt", scratch / "keys", scratch / "sealed-keys")
    cipherdir, mountpoint = scratch / "sealed-keys", scratch / "mounted-keys"
    options = ("umask=077", "resident=never")
    with serving(publisher, cipherdir, mountpoint, *options) as mount:
        found = Place(mountpoint / "identity.txt", mount.pid)
        try:
            yield found
        finally:
            found.go_on()


@contextmanager
def looking(
    home: Home, tree: Path, mountpoint: Path, place: Place, log: Path
) -> Iterator[tuple[Mount, Looker, int]]:
    """A mount in which somebody waits for a child, which waits for its identity."""
    words = ("-i", place.path, "-o", f"log={log}")
    with mounted(home, tree, mountpoint, *words, engine="kernel") as mount:
        assert shows(mountpoint / "a", 1)
        keeper = parent_of(mount.pid)
        wait_until(lambda: not unwrappers_of(keeper))
        place.stop()
        looker = Looker(mountpoint / "b")
        try:
            wait_until(lambda: unwrappers_of(keeper))
            (child,) = unwrappers_of(keeper)
            assert shows(mountpoint / "a", 1)
            yield mount, looker, child
        finally:
            place.go_on()
            looker.wait()
        wait_until(lambda: shows(mountpoint / "b", 1))
        wait_until(lambda: not unwrappers_of(keeper))


def test_place_that_does_not_answer_is_an_error(
    publisher: Home, tree: Path, mountpoint: Path, place: Place, scratch: Path
) -> None:
    log = scratch / "log"
    with looking(publisher, tree, mountpoint, place, log) as (mount, looker, child):
        assert looker.wait() == errno.EACCES
        assert "no answer within 10 seconds" in mount.model("b")["reason"]
        assert "no answer within 10 seconds" in log.read_text()
        wait_until(lambda: is_gone(child))
        assert shows(mountpoint / "a", 1)


def test_mount_does_not_wait_for_such_a_place(
    publisher: Home, tree: Path, mountpoint: Path, place: Place
) -> None:
    place.stop()
    process = start_ovfuse(publisher, "mount", "-i", place.path, tree, mountpoint)
    _, said = process.communicate(timeout=60)
    assert process.returncode == KeyFileError.exit_code
    check_error_lines(said)
    assert "no answer within 10 seconds" in said
    assert not is_mounted(mountpoint)
    wait_until(lambda: not daemons_of(mountpoint))


def test_child_that_is_killed_is_an_error(
    publisher: Home, tree: Path, mountpoint: Path, place: Place, scratch: Path
) -> None:
    log = scratch / "log"
    with looking(publisher, tree, mountpoint, place, log) as (mount, looker, child):
        os.kill(child, signal.SIGKILL)
        assert looker.wait() == errno.EACCES
        assert "the process for it has ended" in mount.model("b")["reason"]


def test_child_ends_with_its_daemon(
    publisher: Home, tree: Path, mountpoint: Path, place: Place, scratch: Path
) -> None:
    log = scratch / "log"
    with looking(publisher, tree, mountpoint, place, log) as (mount, looker, child):
        keeper = parent_of(mount.pid)
        os.kill(mount.pid, signal.SIGKILL)
        wait_until(lambda: child_of(keeper) not in {None, mount.pid})
        assert is_gone(child)
        wait_until(lambda: shows(mountpoint / "a", 1))
        place.go_on()
        assert looker.wait() is None
        mount.__dict__.pop("pid")


def test_children_that_are_killed_all_the_time(
    publisher: Home, scratch: Path, mountpoint: Path
) -> None:
    names = [f"m{number:02}" for number in range(12)]
    for name in names:
        Resealed(publisher, scratch / "tree" / name, scratch / "plain").seal()
    ended = threading.Event()
    killed: list[int] = []

    def kill_on(keeper: int) -> None:
        while not ended.is_set():
            for child in unwrappers_of(keeper):
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
                    killed.append(child)

    with serving(publisher, scratch / "tree", mountpoint) as mount:
        killer = threading.Thread(target=kill_on, args=[parent_of(mount.pid)])
        killer.start()
        try:
            lookers = [Looker(mountpoint / name) for name in names]
            errors = {looker.wait() for looker in lookers}
            wait_until(lambda: killed)
        finally:
            ended.set()
            killer.join()
        assert errors <= {None, errno.EACCES}
        for name in names:
            wait_until(partial(shows, mountpoint / name, 1))


# The terminal


@pytest.fixture
def typed(own: Home, single: Resealed, scratch: Path) -> Path:
    """A model that only a passphrase opens."""
    words = ("encrypt", "-p", single.plain, scratch / "typed")
    assert type_into(own, *words, answers=[PASSPHRASE, PASSPHRASE]).code == 0
    return scratch / "typed"


@pytest.mark.parametrize("foreground", [(), ("-f",)])
@pytest.mark.parametrize("who", ["everybody", "child", "daemon", "keeper", "killed"])
def test_prompt_that_is_interrupted_leaves_the_terminal_as_it_was(
    own: Home, typed: Path, mountpoint: Path, who: str, foreground: tuple[str, ...]
) -> None:
    with asking(own, "mount", *foreground, typed, mountpoint) as asked:
        (child,) = [p for p in daemons_of(mountpoint) if is_unwrapper(p)]
        keeper = parent_of(child)
        (daemon,) = [
            p for p in daemons_of(mountpoint) if parent_of(p) == keeper and p != child
        ]
        assert not asked.echoes
        if who == "everybody":
            asked.type(b"\x03")
        else:
            pid = {"child": child, "daemon": daemon}.get(who, keeper)
            os.kill(pid, signal.SIGKILL if who == "killed" else signal.SIGTERM)
        wait_until(lambda: asked.echoes)
        code = asked.end()
        assert code == 130 if who == "everybody" else code != 0
    assert not is_mounted(mountpoint)
    wait_until(lambda: not daemons_of(mountpoint))


def test_wrong_words_and_refused_unlocks_leave_no_child(
    own: Home, typed: Path, mountpoint: Path
) -> None:
    done = type_into(own, "mount", typed, mountpoint, answers=["wrong"])
    assert done.code == NoUsableKeyError.exit_code
    assert "that is not its passphrase" in done.stderr
    wait_until(lambda: not daemons_of(mountpoint))
    done = type_into(own, "mount", typed, mountpoint, answers=[PASSPHRASE])
    assert done.code == 0, done.stderr
    mount = Mount(home=own, mountpoint=mountpoint)
    keeper = parent_of(mount.pid)
    try:
        lock(mount)
        refused(own, NoUsableKeyError, "unlock", mountpoint)
        wait_until(lambda: not unwrappers_of(keeper))
    finally:
        succeed(own, "unmount", mountpoint)
    mount.wait_for_end()
