"""The unit in its sandbox: no right at all, and all that the other one promises."""

import itertools
import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from tests.boot.service import PUBLISHER, Service
from tests.support.container import ROOT, Container
from tests.support.sealed import pattern, write_files
from tests.support.users import open_directory
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.fuse, pytest.mark.systemd]

WEIGHTS = "weights.bin"
FILES = {WEIGHTS: pattern(3_000_000), "sub/small.txt": pattern(10_000)}
NUMBERS = itertools.count()
KINDS = ("whole", "mapped", "listed", "held-open")


def sandbox_in(container: Container) -> str:
    """Return the drop-in.

    The checkout may be closed to other accounts, as what is installed is not.
    """
    text = (ROOT / "systemd" / "sandboxed.conf").read_text("utf-8")
    if container.python.startswith(f"{ROOT}/"):
        text += f"TemporaryFileSystem={ROOT}:mode=0755\n"
        text += f"BindReadOnlyPaths={ROOT}/.venv {ROOT}/ovfuse\n"
    return text


@pytest.fixture(scope="module")
def plain() -> Iterator[Path]:
    with open_directory() as scratch:
        yield write_files(scratch / "plain", FILES)


@pytest.fixture
def outside(container: Container, plain: Path) -> Iterator[Service]:
    """An instance for each test, not in the sandbox yet."""
    service = Service(container, f"s{next(NUMBERS)}", plain, "allow_other")
    container.run("chmod", "-R", "a+rX", service.cipherdir, "/etc/ovfuse/trusted")
    yield service
    service.systemctl("stop", check=False)
    service.systemctl("reset-failed", check=False)
    wait_until(service.is_gone)


@pytest.fixture
def service(outside: Service) -> Service:
    """An instance for each test, in the sandbox."""
    outside.override(sandbox_in(outside.container))
    return outside


def hash_of(name: str) -> str:
    return sha256(FILES[name]).hexdigest()


def accounts_of(service: Service, process: str) -> tuple[str, str]:
    """The account and the effective capabilities of a process."""
    text = service.container.run("cat", f"/proc/{process}/status").stdout
    found = dict(re.findall(r"^(\w+):\s*(\S+)", text, re.MULTILINE))
    return found["Uid"], found["CapEff"]


def test_units_are_valid(service: Service) -> None:
    words = ("systemd-analyze", "verify", "--man=no", service.unit)
    done = service.container.run(*words, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_exposure(service: Service) -> None:
    service.start()

    words = ("systemd-analyze", "security", "--no-pager", service.unit)
    done = service.container.run(*words, check=False)

    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found is not None
    assert float(found[1]) <= 0.9


def test_models_are_seen_from_outside(service: Service) -> None:
    """And nobody who serves them is root, or has a capability."""
    service.start()

    assert service.sha256(WEIGHTS) == hash_of(WEIGHTS)
    nobody = ("setpriv", "--reuid=65534", "--clear-groups")
    path = f"{service.mountpoint}/{WEIGHTS}"
    done = service.container.run(*nobody, "sha256sum", path)
    assert done.stdout.split()[0] == hash_of(WEIGHTS)
    for process in (service.show("MainPID"), service.daemon):
        user, capabilities = accounts_of(service, process)
        assert user != "0"
        assert int(capabilities, 16) == 0
    owner = service.container.run("stat", "-c", "%u", path)
    assert owner.stdout == "0\n"


def test_programs_notice_nothing(service: Service) -> None:
    service.start()
    with service.reading(*KINDS) as readers:
        readers.wait_for_progress()
        for event in ("daemon", "main", "all", "restart", "reload", "main"):
            service.happen(event)
            readers.wait_for_progress()

    assert service.show("ActiveState") == "active"
    assert "error" not in service.log


def test_unit_that_serves_is_put_into_the_sandbox(outside: Service) -> None:
    outside.start()
    assert outside.sha256(WEIGHTS) == hash_of(WEIGHTS)
    outside.override(sandbox_in(outside.container))

    outside.systemctl("restart")

    assert outside.sha256(WEIGHTS) == hash_of(WEIGHTS)
    assert accounts_of(outside, outside.daemon)[0] != "0"
    assert outside.show("NRestarts") == "0"


def test_filesystem_of_somebody_else_is_not_unmounted(service: Service) -> None:
    """Also if MOUNTPOINT, as it is written by now, says so."""
    container, before = service.container, service.mountpoint
    service.start()
    service.mountpoint = f"{before}.other"
    container.run("mkdir", service.mountpoint)
    container.run("mount", "-t", "tmpfs", "other", service.mountpoint)
    service.configure("allow_other")

    service.systemctl("stop")

    assert service.is_mounted
    container.run("umount", "-l", service.mountpoint, before)
    service.mountpoint = before
    service.configure("allow_other")


def test_daemon_that_hangs_is_replaced(service: Service) -> None:
    service.override(sandbox_in(service.container) + "WatchdogSec=4\n")
    service.start()
    daemon = service.daemon

    service.container.run("kill", "-STOP", daemon)

    wait_until(lambda: service.daemon != daemon)
    assert service.sha256(WEIGHTS) == hash_of(WEIGHTS)


def test_commands_reach_it(service: Service) -> None:
    service.start()

    status = service.container.run("ovfuse", "status").stdout
    assert service.mountpoint in status
    assert "serving" in status
    service.container.run("ovfuse", "lock", service.mountpoint)
    listed = service.container.run("ls", service.mountpoint, check=False)
    assert "Permission denied" in listed.stderr
    service.container.run("ovfuse", "unlock", service.mountpoint)
    assert service.sha256(WEIGHTS) == hash_of(WEIGHTS)
    service.container.run("ovfuse", "unmount", service.mountpoint)
    wait_until(service.is_gone)
    assert service.show("Result") == "success"


def test_stopped_service_leaves_nothing(service: Service) -> None:
    service.start()

    service.systemctl("stop")

    assert not service.is_mounted
    wait_until(service.is_gone)
    assert service.show("Result") == "success"
    service.start()
    assert service.sha256(WEIGHTS) == hash_of(WEIGHTS)


def test_identity_that_opens_nothing_leaves_nothing(service: Service) -> None:
    other = f"/srv/{service.name}.other"
    service.container.run("ovfuse", "keygen", "-o", other)
    service.give_identity(other)

    service.systemctl("start", check=False)

    assert service.show("ExecMainStatus") == "15"
    wait_until(service.is_gone)
    service.give_identity(f"{PUBLISHER}/ovfuse/identity.txt")
    service.start()
    assert service.sha256(WEIGHTS) == hash_of(WEIGHTS)


def test_credential_that_cannot_be_decrypted_is_said(service: Service) -> None:
    service.container.run("rm", f"/etc/ovfuse/{service.name}.identity.cred")

    done = service.container.run("systemctl", "start", service.unit, check=False)

    assert done.returncode != 0
    wait_until(service.is_gone)
    assert service.show("ActiveState") == "failed"
    assert service.show("NRestarts") == "0"
    assert service.log.count("ovfuse: error: no identity") == 1
    assert "no identity" in service.show("StatusText")


@pytest.mark.parametrize("what", ["options", "mountpoint"])
def test_other_configuration_makes_another_mount(service: Service, what: str) -> None:
    service.start()
    before = service.mountpoint
    if what == "mountpoint":
        service.mountpoint = f"{before}.moved"
        service.container.run("mkdir", service.mountpoint)
    service.configure("allow_other,gid=1234")

    service.systemctl("restart")

    path = f"{service.mountpoint}/{WEIGHTS}"
    assert service.container.run("stat", "-c", "%g", path).stdout == "1234\n"
    assert service.sha256(WEIGHTS) == hash_of(WEIGHTS)
    mounts = service.container.run("cat", "/proc/self/mountinfo").stdout
    places = [line.split()[4] for line in mounts.splitlines()]
    assert [p for p in places if p.startswith(before)] == [service.mountpoint]


def test_keeper_that_is_killed_at_its_start_keeps_nobody_waiting(
    service: Service,
) -> None:
    """It has the connection, and has answered the kernel, which nobody knows after."""
    script = f"/srv/{service.name}.sh"
    service.container.path(script).write_text(
        'if [ -e "$STATE_DIRECTORY/tried" ]; then exec "$@"; fi\n'
        'touch "$STATE_DIRECTORY/tried"\n'
        f"exec {service.container.python} -c '{KILLED}'\n"
    )
    command = f"/bin/sh {script} /usr/local/bin/ovfuse mount -f -o allow_other"
    again = f"{command},premounted -- ${{CIPHERDIR}} ${{MOUNTPOINT}}"
    service.override(sandbox_in(service.container) + f"ExecStart=\nExecStart={again}\n")

    service.systemctl("start", check=False)

    wait_until(lambda: service.show("ActiveState") == "active")
    assert service.show("NRestarts") == "1"
    assert service.sha256(WEIGHTS) == hash_of(WEIGHTS)


KILLED = """
import os, signal
from ovfuse.serve.kernel.session import _shake_hands
from ovfuse.serve.survival.store import find_store
store = find_store()
store.take({})
_shake_hands(store.fresh)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_mount_of_somebody_else_is_left_alone(service: Service) -> None:
    """Also where the unit's own was before."""
    service.start()
    service.systemctl("stop")
    wait_until(service.is_gone)
    words = ("ovfuse", "mount", "-i", f"{PUBLISHER}/ovfuse/identity.txt")
    by_hand = (*words, service.cipherdir, service.mountpoint)
    service.container.run("env", f"XDG_CONFIG_HOME={PUBLISHER}", *by_hand)

    service.systemctl("start", check=False)

    wait_until(lambda: service.show("NRestarts") == "5")
    assert "is a mountpoint already" in service.log
    ended = f"ovfuse-ended@{service.name}.service"
    shown = ("systemctl", "show", "-P", "ActiveState", ended)
    wait_until(lambda: service.container.run(*shown).stdout == "inactive\n")
    path = f"{service.mountpoint}/{WEIGHTS}"
    found = service.container.run("sha256sum", path).stdout
    assert found.split()[0] == hash_of(WEIGHTS)
    service.container.run("ovfuse", "unmount", service.mountpoint)


def test_older_version_is_refused(service: Service, plain: Path) -> None:
    """What was seen is remembered, by an account that is made for each start."""
    container, old = service.container, f"{service.cipherdir}.old"
    container.run("cp", "-a", service.cipherdir, old)
    service.seal(plain)
    container.run("chmod", "-R", "a+rX", service.cipherdir)
    service.start()
    service.systemctl("stop")
    wait_until(service.is_gone)
    container.run("rm", "-r", service.cipherdir)
    container.run("mv", old, service.cipherdir)

    service.systemctl("start", check=False)

    assert service.show("ExecMainStatus") == "19"
    assert "was seen here" in service.show("StatusText")
    wait_until(service.is_gone)
