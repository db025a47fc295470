"""The units as they are, under real systemd: what they promise besides survival."""

import itertools
import re
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from tests.boot.service import PUBLISHER, Service, publish
from tests.support.container import Container
from tests.support.sealed import pattern, write_files
from tests.support.users import NOBODY, open_directory
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.fuse, pytest.mark.systemd]

FILES = {"weights.bin": pattern(2_000_000), "sub/small.txt": pattern(10_000)}
NUMBERS = itertools.count()
IMMUTABLE = "i"
Spoil = Callable[[Service], None]


@pytest.fixture(scope="module")
def plain() -> Iterator[Path]:
    with open_directory() as scratch:
        yield write_files(scratch / "plain", FILES)


@pytest.fixture
def service(container: Container, plain: Path) -> Iterator[Service]:
    """An instance for each test, stopped at first."""
    service = Service(container, f"u{next(NUMBERS)}", plain)
    yield service
    service.systemctl("stop", check=False)
    service.systemctl("reset-failed", check=False)
    wait_until(service.is_gone)


# What systemd says of the units


def test_units_are_valid(service: Service) -> None:
    ended = f"ovfuse-ended@{service.name}.service"

    words = ("systemd-analyze", "verify", "--man=no", service.unit, ended)
    done = service.container.run(*words, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_exposure(service: Service) -> None:
    service.start()

    for unit in (service.unit, f"ovfuse-ended@{service.name}.service"):
        assert exposure_of(service.container, unit) <= 3.1


def exposure_of(container: Container, unit: str) -> float:
    """The number that systemd-analyze gives to a unit, as it is loaded."""
    words = ("systemd-analyze", "security", "--no-pager", unit)
    done = container.run(*words, check=False)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found is not None, done
    return float(found[1])


# Where nothing is mounted


def flags_of(container: Container, directory: str) -> str:
    return container.run("lsattr", "-d", directory).stdout.split()[0]


def can_write(container: Container, directory: str) -> bool:
    """Whether root can make a file there."""
    path = f"{directory}/cache"
    return container.run("touch", path, check=False).returncode == 0


def test_nobody_can_write_where_nothing_is_mounted(service: Service) -> None:
    assert can_write(service.container, service.mountpoint)
    service.container.run("rm", f"{service.mountpoint}/cache")

    for _ in range(2):  # also when it is so already
        service.start()
        assert service.sha256("weights.bin")
        service.systemctl("stop")
        wait_until(service.is_gone)

        assert IMMUTABLE in flags_of(service.container, service.mountpoint)
        assert not can_write(service.container, service.mountpoint)
        assert service.container.run("ls", "-A", service.mountpoint).stdout == ""


def test_mountpoint_may_belong_to_another_account(service: Service) -> None:
    service.container.run("chown", f"{NOBODY}", service.mountpoint)

    service.start()
    service.systemctl("stop")
    wait_until(service.is_gone)

    assert IMMUTABLE in flags_of(service.container, service.mountpoint)
    assert not can_write(service.container, service.mountpoint)


def test_it_is_closed_where_a_filesystem_has_no_flags(service: Service) -> None:
    service.container.run("mount", "-t", "ramfs", "none", service.mountpoint)
    service.mountpoint += "/models"
    service.container.run("mkdir", service.mountpoint)
    service.configure("allow_other")

    service.start()

    assert service.sha256("weights.bin")
    service.systemctl("stop")
    wait_until(service.is_gone)
    owner = service.container.run("stat", "-c", "%a %U", service.mountpoint)
    assert owner.stdout == "0 root\n"
    nobody = ("setpriv", f"--reuid={NOBODY}", "--clear-groups")
    tried = service.container.run(
        *nobody, "touch", f"{service.mountpoint}/cache", check=False
    )
    assert "Permission denied" in tried.stderr


def test_directory_that_is_in_use_is_left_as_it_is(service: Service) -> None:
    service.container.run("touch", f"{service.mountpoint}/something")

    service.systemctl("start", check=False)

    assert service.show("ExecMainStatus") == "20"
    assert "is not empty" in service.show("StatusText")
    wait_until(service.is_gone)
    assert IMMUTABLE not in flags_of(service.container, service.mountpoint)
    assert can_write(service.container, service.mountpoint)


def test_stale_mount_is_cleaned_up(service: Service) -> None:
    words = ("ovfuse", "mount", "-i", f"{PUBLISHER}/ovfuse/identity.txt")
    service.container.run(
        *("env", f"XDG_CONFIG_HOME={PUBLISHER}", *words),
        *(service.cipherdir, service.mountpoint),
    )
    service.container.run("pkill", "-KILL", "-f", f"mount .*{service.mountpoint}$")
    wait_until(
        lambda: (
            "not connected"
            in service.container.run("ls", service.mountpoint, check=False).stderr
        )
    )

    service.start()

    assert service.sha256("weights.bin")
    mounts = service.container.run("cat", "/proc/self/mountinfo").stdout
    assert mounts.count(f" {service.mountpoint} ") == 1


def test_mount_of_somebody_else_is_left_alone(service: Service) -> None:
    words = ("ovfuse", "mount", "-i", f"{PUBLISHER}/ovfuse/identity.txt")
    by_hand = (*words, service.cipherdir, service.mountpoint)
    service.container.run("env", f"XDG_CONFIG_HOME={PUBLISHER}", *by_hand)

    service.systemctl("start", check=False)

    ended = f"ovfuse-ended@{service.name}.service"
    shown = ("systemctl", "show", "-P", "ActiveState", ended)
    wait_until(lambda: service.container.run(*shown).stdout == "inactive\n")
    assert "is a mountpoint already" in service.show("StatusText")
    assert service.sha256("weights.bin") == sha256(FILES["weights.bin"]).hexdigest()
    service.container.run("ovfuse", "unmount", service.mountpoint)


# Who may read


def test_without_options_the_group_may_read_and_nobody_else(service: Service) -> None:
    service.container.path(service.configuration).write_text(
        f"CIPHERDIR={service.cipherdir}\nMOUNTPOINT={service.mountpoint}\n"
    )

    service.start()

    def read_by(*words: str) -> str:
        account = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", *words)
        path = f"{service.mountpoint}/sub/small.txt"
        done = service.container.run(*account, "sha256sum", path, check=False)
        return done.stdout + done.stderr

    found = sha256(FILES["sub/small.txt"]).hexdigest()
    assert found in read_by("--groups=ovfuse")
    assert "Permission denied" in read_by("--clear-groups")
    owner = service.container.run("stat", "-c", "%U:%G:%a", service.mountpoint)
    assert owner.stdout == "root:ovfuse:550\n"


def test_consumer_that_starts_first_waits_for_the_models(service: Service) -> None:
    done = service.container.run(
        *("systemd-run", "--quiet", "--pipe", "--wait", "--collect"),
        *(f"--property=Wants={service.unit}", f"--property=After={service.unit}"),
        f"--property=RequiresMountsFor={service.mountpoint}",
        f"--property=AssertPathIsMountPoint={service.mountpoint}",
        *("sha256sum", f"{service.mountpoint}/sub/small.txt"),
    )

    assert done.stdout.split()[0] == sha256(FILES["sub/small.txt"]).hexdigest()
    assert service.show("ActiveState") == "active"


# What it says


def two_models(service: Service, plain: Path) -> None:
    """Have a tree: a model of the publisher, and one of a stranger."""
    container, stranger = service.container, f"/srv/{service.name}.stranger"
    service.cipherdir = f"/srv/{service.name}.tree"
    container.run("mkdir", service.cipherdir)
    recipient = container.run(
        *(container.python, "-c", RECIPIENT, f"{PUBLISHER}/ovfuse/identity.txt")
    ).stdout.strip()
    publish(container, "encrypt", service.plain, f"{service.cipherdir}/ours")
    container.run(
        *("env", f"XDG_CONFIG_HOME={stranger}", "ovfuse", "encrypt"),
        *("-r", recipient, service.plain, f"{service.cipherdir}/theirs"),
    )
    service.configure("allow_other")


RECIPIENT = (
    "import sys, pyrage; from pathlib import Path\n"
    "lines = Path(sys.argv[1]).read_text().split()\n"
    "line = next(l for l in lines if l.startswith('AGE-SECRET-KEY-'))\n"
    "print(pyrage.x25519.Identity.from_str(line).to_public())\n"
)


def test_status_is_kept_current(service: Service, plain: Path) -> None:
    two_models(service, plain)
    service.override("[Service]\nWatchdogSec=6\n")  # reports come each second
    service.start()

    def says(text: str) -> None:
        wait_until(lambda: re.fullmatch(text, service.show("StatusText")))

    says("serving 2 models")
    theirs = f"{service.mountpoint}/theirs"
    assert service.container.run("ls", theirs, check=False).returncode != 0
    says("serving 1 model, 1 refused; 'theirs': .*trusted.*")
    service.container.run("ovfuse", "lock", service.mountpoint)
    says("locked")
    service.container.run("ovfuse", "unlock", service.mountpoint)
    says("serving 2 models")


def test_reload_takes_keys_that_are_trusted_now(service: Service, plain: Path) -> None:
    two_models(service, plain)
    service.start()
    theirs = f"{service.mountpoint}/theirs"
    assert service.container.run("ls", theirs, check=False).returncode != 0
    before = service.show("MainPID"), service.daemon
    key = f"/srv/{service.name}.stranger/ovfuse/signing_key.pub"
    service.container.run("ovfuse", "trust", "add", "--system", key)

    service.systemctl("reload")

    assert "weights.bin" in service.container.run("ls", theirs).stdout
    assert service.show("MainPID") == before[0]
    assert service.daemon != before[1]
    assert service.show("ActiveState") == "active"


# What cannot be mounted


def another_identity(service: Service) -> None:
    """For another device."""
    other = f"/srv/{service.name}.other"
    service.container.run("ovfuse", "keygen", "-o", other)
    service.give_identity(other)


def absent_credential(service: Service) -> None:
    service.container.run("rm", f"/etc/ovfuse/{service.name}.identity.cred")


def tampered_credential(service: Service) -> None:
    path = service.container.path(f"/etc/ovfuse/{service.name}.identity.cred")
    text = path.read_text()
    middle = len(text) // 2
    other = "A" if text[middle] != "A" else "B"
    path.write_text(text[:middle] + other + text[middle + 1 :])


def no_identity(service: Service) -> None:
    """The credential is whole, and holds something else."""
    path = f"/srv/{service.name}.text"
    service.container.path(path).write_text("hello\n")
    service.give_identity(path)


def stranger(service: Service) -> None:
    """A publisher who is not trusted."""
    service.container.run("rm", "-r", service.cipherdir)
    words = ("env", f"XDG_CONFIG_HOME=/srv/{service.name}.config", "ovfuse", "encrypt")
    service.container.run(*words, service.plain, service.cipherdir)


def nothing_sealed(service: Service) -> None:
    service.container.run("rm", "-r", service.cipherdir)


def wrong_option(service: Service) -> None:
    service.configure("nonesuch")


@pytest.mark.parametrize(
    ("spoil", "status", "said"),
    [
        (another_identity, "15", "not sealed for any of your identities"),
        (absent_credential, "243", "no identity: /etc/ovfuse/u"),
        (tampered_credential, "243", "no identity: /etc/ovfuse/u"),
        (no_identity, "17", "identity"),
        (stranger, "14", "trusted"),
        (nothing_sealed, "10", "sealed"),
        (wrong_option, "2", "nonesuch"),
    ],
)
def test_what_is_wrong_is_said_once(
    service: Service, spoil: Spoil, status: str, said: str
) -> None:
    spoil(service)

    service.systemctl("start", check=False)

    wait_until(lambda: service.show("ActiveState") == "failed")
    assert service.show("ExecMainStatus") == status
    assert service.show("NRestarts") == "0"
    assert said in service.show("StatusText")
    errors = [line for line in service.log.splitlines() if "ovfuse: error:" in line]
    assert len(errors) == 1, service.log
    assert said in errors[0]
    wait_until(service.is_gone)


# What hangs


def test_daemon_that_hangs_is_replaced(service: Service) -> None:
    service.override("[Service]\nWatchdogSec=4\n")
    service.start()
    keeper, daemon = service.show("MainPID"), service.daemon
    with service.reading("whole", "held-open") as readers:
        readers.wait_for_progress()
        service.container.run("kill", "-STOP", daemon)
        wait_until(lambda: service.daemon != daemon)
        readers.wait_for_progress()

    assert service.show("MainPID") == keeper
    assert service.show("NRestarts") == "0"
    assert "the last did not answer" in service.log


def test_keeper_that_hangs_is_replaced(service: Service) -> None:
    service.override("[Service]\nWatchdogSec=4\n")
    service.start()
    keeper = service.show("MainPID")
    with service.reading("whole", "held-open") as readers:
        readers.wait_for_progress()
        service.container.run("kill", "-STOP", keeper)
        wait_until(lambda: service.show("MainPID") not in {keeper, "0"})
        service.wait()
        readers.wait_for_progress()

    assert service.show("ActiveState") == "active"
    assert "Watchdog timeout" in service.log


def test_daemon_that_serves_is_left_alone(service: Service) -> None:
    """Over three times the time in which it must answer."""
    service.override("[Service]\nWatchdogSec=1\n")
    service.start()
    before = service.show("MainPID"), service.daemon
    pings = service.show("WatchdogTimestampMonotonic")
    started = int(pings)

    wait_until(
        lambda: int(service.show("WatchdogTimestampMonotonic")) > started + 3_000_000
    )

    assert (service.show("MainPID"), service.daemon) == before
