"""The systemd unit: what it says is valid, and its command line does what it means."""

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovfuse.errors import RollbackError
from ovfuse.serve.mounts import find_mount
from tests.serve.mounter import ROOT
from tests.support.killing import child_of, kill_for_good

UNIT = ROOT / "systemd" / "ovfuse@.service"
ENDED = ROOT / "systemd" / "ovfuse-ended@.service"
PROGRAM = "/usr/local/bin/ovfuse"

# Each gives a service a mount namespace of its own, where nobody sees the mount.
HIDING = (
    *("ProtectSystem", "ProtectHome", "PrivateTmp", "PrivateMounts", "PrivateIPC"),
    *("ProtectKernelTunables", "ProtectKernelModules", "ProtectKernelLogs"),
    *("ProtectControlGroups", "ProtectProc", "InaccessiblePaths", "ReadOnlyPaths"),
    *("ReadWritePaths", "TemporaryFileSystem", "DynamicUser", "PrivateDevices"),
    *("PrivateUsers", "BindPaths", "RootDirectory", "MountFlags"),
)


def settings(unit: Path = UNIT) -> list[tuple[str, str]]:
    """Every `Name=value` of a unit."""
    text = unit.read_text("utf-8").replace("\\\n", " ")
    return re.findall(r"^([A-Z]\w+)=(.*)$", text, re.MULTILINE)


def command_line(name: str, variables: dict[str, str], unit: Path = UNIT) -> list[str]:
    """The command of a setting, its variables put in as systemd does."""
    [command] = [value for key, value in settings(unit) if key == name]
    words = [
        re.sub(
            r"\$\{(\w+)\}|\$(\$)",
            lambda match: match[2] or variables[match[1]],
            word,
        )
        for word in shlex.split(command.lstrip("-"))
    ]
    if words[0] == PROGRAM:
        return [sys.executable, "-m", "ovfuse", *words[1:]]
    return words


@pytest.mark.systemd
def test_unit_is_valid(tmp_path: Path) -> None:
    program = tmp_path / "ovfuse"
    program.touch(mode=0o755)
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text("utf-8").replace(PROGRAM, f"{program}"), "utf-8")
    shutil.copy(ENDED, tmp_path)

    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", copy, tmp_path / ENDED.name],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", HIDING)
def test_nothing_hides_the_mount(name: str) -> None:
    for unit in (UNIT, ENDED):
        assert dict(settings(unit)).get(name, "no") == "no"


@pytest.mark.parametrize("unit", [UNIT, ENDED])
def test_own_network_does_not_hide_the_mount(unit: Path) -> None:
    """As it does from systemd 254 on, unless it is told not to."""
    said = dict(settings(unit))

    assert said["PrivateNetwork"] == "yes"
    assert said["PrivateMounts"] == "no"


def test_store_is_as_large_as_the_service_is_told() -> None:
    said = dict(settings())

    assert said["Environment"] == f"FDSTORE={said['FileDescriptorStoreMax']}"
    assert said["KillMode"] == "mixed"
    assert said["NotifyAccess"] == "exec"  # not the one that serves


def test_secrets_stay_in_memory() -> None:
    said = dict(settings())

    assert said["LimitMEMLOCK"] == "infinity"
    assert said["LimitCORE"] == "0"
    assert said["MemorySwapMax"] == "0"
    assert said["LoadCredentialEncrypted"].startswith("ovfuse.identity:")


def test_what_was_seen_is_kept_out_of_reach() -> None:
    said = dict(settings())

    assert said["StateDirectory"] == "ovfuse"  # /var/lib/ovfuse, as for root
    assert said["StateDirectoryMode"] == "0700"
    rollback = str(RollbackError.exit_code)
    assert rollback in said["RestartPreventExitStatus"].split()


def wait_for_ready(manager: socket.socket, daemon: subprocess.Popen[str]) -> None:
    """Return when READY=1 comes; fail as soon as the daemon has ended."""
    manager.settimeout(0.1)
    while True:
        try:
            if b"READY=1" in manager.recv(4096).split(b"\n"):
                return
        except TimeoutError:
            assert daemon.poll() is None, daemon.communicate()


class Service:
    """What the service manager gives to the unit, for a model sealed here."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.variables = {
            "CIPHERDIR": f"{directory}/sealed",
            "MOUNTPOINT": f"{directory}/mnt",
            "OPTIONS": "",
        }
        self.mountpoint = directory / "mnt"
        self.mountpoint.mkdir()
        (directory / "model").mkdir()
        (directory / "model" / "model.xml").write_bytes(b"<net/>")
        self._publish()

    def _publish(self) -> None:
        """Seal the model; the device gets the identity and the public key only."""
        publisher, device = self._directory / "publisher", self._directory / "device"
        credentials = self._directory / "credentials"
        environment = {**os.environ, "XDG_CONFIG_HOME": f"{publisher}"}
        for arguments in (
            ["keygen"],
            ["encrypt", f"{self._directory}/model", self.variables["CIPHERDIR"]],
        ):
            subprocess.run(
                [sys.executable, "-m", "ovfuse", *arguments],
                env=environment,
                check=True,
                capture_output=True,
            )
        shutil.copytree(publisher / "ovfuse" / "trusted", device / "ovfuse" / "trusted")
        credentials.mkdir(mode=0o700)
        identity = credentials / "ovfuse.identity"
        shutil.copyfile(publisher / "ovfuse" / "identity.txt", identity)
        identity.chmod(0o400)
        self.environment = {
            "PATH": os.environ["PATH"],
            "XDG_CONFIG_HOME": f"{device}",
            "XDG_STATE_HOME": f"{device}/state",
            "CREDENTIALS_DIRECTORY": f"{credentials}",
        }

    def start(
        self, name: str, unit: Path = UNIT, **environment: str
    ) -> subprocess.Popen[str]:
        """Start the command of a setting."""
        return subprocess.Popen(
            command_line(name, self.variables, unit),
            env=self.environment | self.variables | environment,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """A sealed model, and everything that the unit needs to mount it."""
    service = Service(tmp_path)
    yield service
    left = find_mount(service.mountpoint)
    if left is not None:
        subprocess.run(["umount", "-l", service.mountpoint], check=True)
    assert left is None


@pytest.mark.fuse
@pytest.mark.parametrize(
    "options",
    [
        "",
        pytest.param(
            "allow_other,umask=022",
            marks=pytest.mark.skipif(
                os.geteuid() != 0, reason="only root may always allow others"
            ),
        ),
    ],
)
def test_ready_when_the_mount_answers_and_gone_when_stopped(
    service: Service, tmp_path: Path, options: str
) -> None:
    service.variables["OPTIONS"] = options
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"{tmp_path}/notify")
        with service.start("ExecStart", NOTIFY_SOCKET=f"{tmp_path}/notify") as daemon:
            wait_for_ready(manager, daemon)

            assert (service.mountpoint / "model.xml").read_bytes() == b"<net/>"
            daemon.terminate()
            _, errors = daemon.communicate(timeout=30)
    assert daemon.returncode == 0, errors
    assert find_mount(service.mountpoint) is None


@pytest.mark.parametrize(
    ("words", "code"),
    [(["premount"], 2), (["mount", "-o", "premounted"], 21)],
)
def test_what_only_a_unit_can_do(service: Service, words: list[str], code: int) -> None:
    places = service.variables["CIPHERDIR"], service.variables["MOUNTPOINT"]
    done = subprocess.run(
        [sys.executable, "-m", "ovfuse", *words, *places],
        env=service.environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == code
    assert re.fullmatch("ovfuse: error: .*\nhint: .*systemd.*\n", done.stderr)


@pytest.mark.fuse
def test_mount_of_a_killed_daemon_is_cleaned_up(
    service: Service, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"{tmp_path}/notify")
        with service.start("ExecStart", NOTIFY_SOCKET=f"{tmp_path}/notify") as daemon:
            wait_for_ready(manager, daemon)
            serving = child_of(daemon.pid)
            assert serving is not None
            kill_for_good(serving)
    assert find_mount(service.mountpoint) is not None

    with service.start("ExecStop", ENDED) as cleaner:
        _, errors = cleaner.communicate(timeout=30)

    assert (cleaner.returncode, errors) == (0, "")
    assert find_mount(service.mountpoint) is None


@pytest.mark.fuse
def test_cleaning_up_leaves_other_filesystems_alone(service: Service) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a tmpfs")
    subprocess.run(["mount", "-t", "tmpfs", "none", service.mountpoint], check=True)
    try:
        with service.start("ExecStop", ENDED) as cleaner:
            cleaner.communicate(timeout=30)

        assert cleaner.returncode == 0
        assert find_mount(service.mountpoint) is not None
    finally:
        subprocess.run(["umount", service.mountpoint], check=True)
