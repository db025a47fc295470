"""From an empty machine to models at boot, and back: as docs/operating.md says."""

import re
import shlex
import signal
from collections.abc import Iterator

import pytest

from tests.boot.device import MOUNTPOINT, Device, blocks, document
from tests.boot.service import require_container
from tests.support.container import SUITES, booted
from tests.support.users import open_directory
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.fuse, pytest.mark.systemd]

IN_GROUP = ("User=daemon", "SupplementaryGroups=ovfuse")
OUTSIDE = ("User=daemon",)
UNIT = "ovfuse@models"
SEEN = ("/var/lib/ovfuse", "/var/lib/ovfuse-units", "/var/lib/private/ovfuse-units")
KEPT = {"/etc/ovfuse", *SEEN}
OTHER = "/srv/other"
"""A second mountpoint."""


@pytest.fixture(scope="module", params=SUITES)
def device(request: pytest.FixtureRequest) -> Iterator[Device]:
    suite: str = request.param
    require_container(suite)
    with open_directory() as scratch, booted(scratch, suite) as container:
        yield Device(container, suite, scratch)


@pytest.fixture
def ready(device: Device) -> Device:
    """One that is set up, by whichever test comes first."""
    device.set_up()
    return device


def test_six_commands_are_enough() -> None:
    commands = blocks("device")

    assert 0 < len(commands) <= 6
    for command in commands:
        assert len(re.sub("<<'END'.*", "", command, flags=re.DOTALL).split("\n")) <= 2


def test_models_are_there_after_a_reboot(ready: Device) -> None:
    """By the unit, and by a line in fstab."""
    check_access(ready, MOUNTPOINT)
    add_to_fstab(ready)

    ready.container.reboot()

    check_access(ready, MOUNTPOINT)
    wait_until(lambda: ready.mounts.count(OTHER))
    check_access(ready, OTHER)
    remove_from_fstab(ready)
    assert ready.mounts == [MOUNTPOINT]


def check_access(device: Device, mountpoint: str) -> None:
    """From other units, as root, as a member of the group, and as somebody else."""
    assert device.reads_right(mountpoint), device.read(mountpoint)
    assert device.reads_right(mountpoint, *IN_GROUP), device.read(mountpoint, *IN_GROUP)
    refused = device.read(mountpoint, *OUTSIDE)
    assert refused.returncode != 0
    assert "Permission denied" in refused.stderr


def add_to_fstab(device: Device) -> None:
    """Add the line of the document, for another mountpoint."""
    [line] = re.findall(r"^/\S+ /\S+ fuse\.ovfuse .*$", document(), re.MULTILINE)
    assert ",_netdev,nofail,x-systemd.requires=" in line
    line = line.replace(f" {MOUNTPOINT} ", f" {OTHER} ")
    device.run(f"mkdir -p {OTHER}; cat >>/etc/fstab", given=f"{line}\n")


def remove_from_fstab(device: Device) -> None:
    device.run(f"umount {OTHER}; sed -i '/fuse.ovfuse/d' /etc/fstab")
    device.run(f"rmdir {OTHER}; systemctl daemon-reload")


def test_programs_do_not_notice_an_upgrade(ready: Device) -> None:
    before = environment(ready)
    set_version(ready, "99.1")
    install, reload = blocks("upgrade")[0].strip().split("\n")
    with ready.reading("whole", "mapped", "held-open"):
        said = ready.run(install).stdout
        assert f"ovfuse reload {MOUNTPOINT}" in said
        assert running(ready) == {before}
        ready.run(reload)
    assert ready.run("ovfuse --version").stdout == "ovfuse 99.1\n"
    assert running(ready) == {environment(ready)} != {before}

    again = ready.run(install).stdout  # what is not needed any more goes

    assert "ovfuse reload" not in again
    assert environments(ready) == {environment(ready)}
    check_access(ready, MOUNTPOINT)


def set_version(device: Device, version: str) -> None:
    """Make the checkout another one."""
    device.run(f"sed -i 's/^version = .*/version = \"{version}\"/' pyproject.toml")


def environment(device: Device) -> str:
    return device.run("readlink -f /opt/ovfuse/current").stdout.strip()


def environments(device: Device) -> set[str]:
    found = device.run("find /opt/ovfuse -mindepth 1 -maxdepth 1 -type d").stdout
    return set(found.split())


def running(device: Device) -> set[str]:
    """The environments of which processes run."""
    script = "cat /proc/[0-9]*/maps 2>/dev/null | grep -o '/opt/ovfuse/[^/]*'"
    return set(device.run(f"{{ {script}; }} || true").stdout.split())


def test_removal_leaves_what_it_says(ready: Device) -> None:
    ready.run("systemctl enable --now ovfuse-metrics")
    # As a unit in a sandbox, which has an account for a while.
    ready.run("systemd-run --wait -pDynamicUser=1 -pStateDirectory=ovfuse-units/x true")
    in_use = ready.run("scripts/install --uninstall", check=False)
    assert in_use.returncode == 1
    units = f"ovfuse-metrics.service {UNIT}.service"
    assert f"systemctl disable --now {units}" in in_use.stderr
    assert ready.reads_right()
    ready.run(f"systemctl stop {units}")
    assert ready.mounts == []

    told = ready.run(blocks("removal")[0]).stdout

    stays = set(re.findall(r"^install: (/\S+) stays$", told, re.MULTILINE))
    assert stays == KEPT
    left = {line.split()[0] for line in ready.files() ^ ready.files_before}
    assert {path for path in left if not path.startswith(tuple(KEPT))} == set()
    assert left >= KEPT
    assert "the group ovfuse stays" in told
    assert ready.run("getent group ovfuse").stdout
    for answer in ("", "n\n", "no\n"):
        refused = ready.run("scripts/install --purge", check=False, given=answer)
        assert refused.returncode == 1
        assert "nothing is removed" in refused.stderr
    assert ready.container.path("/etc/ovfuse/models.identity.cred").exists()

    ready.run("scripts/install --purge", given="y\n")

    assert ready.files() ^ ready.files_before == set()
    assert ready.run("getent group ovfuse", check=False).stdout == ""


def test_installing_again_changes_nothing(ready: Device) -> None:
    ready.run(blocks("device")[0])  # removes what nothing runs from any more
    files = ready.files()
    before = environment(ready)

    ready.run(blocks("device")[0])

    assert environment(ready) == before
    assert ready.files() ^ files == set()
    assert ready.reads_right()


@pytest.mark.parametrize("device", SUITES[:1], indirect=True)
def test_killed_installation_leaves_a_version_that_works(ready: Device) -> None:
    set_version(ready, "98.1")
    trap = 'case $BASH_COMMAND in "$KILL_AT"*) kill -KILL $$ ;; esac'
    ready.run("cat >/run/killed", given=f"set -o functrace\ntrap '{trap}' DEBUG\n")
    install = blocks("device")[0]
    versions = []
    for command in (
        'pip --python "$environment/bin/python" install "${index[@]}"',
        'mv -fT "$home/.current"',
        'mv -fT "$new" "$to"',
        'mv -fT "$list.new"',
        "reload_systemd",
    ):
        variables = f"BASH_ENV=/run/killed KILL_AT={shlex.quote(command)}"
        killed = ready.run(f"env {variables} {install}", check=False)
        assert killed.returncode == -signal.SIGKILL, killed
        versions.append(ready.run("ovfuse --version").stdout.split()[1])
        assert ready.reads_right()

    assert "98.1" not in versions[:2]
    assert set(versions[2:]) == {"98.1"}
    ready.run(install)
    assert environments(ready) == running(ready) | {environment(ready)}
    assert not ready.run("find / -xdev -name '.*.new'").stdout
    ready.run(f"systemctl restart {UNIT}")
    assert running(ready) == {environment(ready)}
    check_access(ready, MOUNTPOINT)


@pytest.mark.parametrize("device", SUITES[:1], indirect=True)
def test_changed_wheel_is_not_installed(ready: Device) -> None:
    files = ready.files()
    ready.run("cp -a pyproject.toml /srv/before.toml")
    set_version(ready, "97.1")
    ready.run("cp -a wheels /srv/changed; echo >>$(ls /srv/changed/pyrage*)")

    refused = ready.run("scripts/install --wheels /srv/changed", check=False)

    assert refused.returncode == 1
    assert "DO NOT MATCH THE HASHES" in refused.stderr
    assert ready.files() ^ files == set()
    assert ready.reads_right()
    ready.run("rm -r /srv/changed; mv /srv/before.toml pyproject.toml")


def test_foreign_file_is_not_replaced(ready: Device) -> None:
    foreign = "/usr/local/share/man/man1/ovfuse.1"
    ready.run(f"sed -i '\\|^{foreign}$|d' /opt/ovfuse/installed")
    files = ready.files()

    refused = ready.run(blocks("device")[0], check=False)

    assert refused.returncode == 1
    assert f"{foreign} is there, and not put there by this script" in refused.stderr
    assert ready.files() ^ files == set()
    ready.run(f"rm {foreign}")
    ready.run(blocks("device")[0])


def test_missing_packages_are_named_and_nothing_is_changed(ready: Device) -> None:
    files = ready.files()
    status = "/var/lib/dpkg/status"
    ready.run(f"cp -p {status} /run/status; sed -i 's/^Package: fuse3$/&x/' {status}")
    try:
        refused = ready.run(blocks("device")[0], check=False)
    finally:
        ready.run(f"cp -p /run/status {status}")

    assert refused.returncode == 1
    assert refused.stderr == (
        "install: error: Debian packages are missing: apt-get install fuse3\n"
    )
    assert ready.files() ^ files == set()


def test_only_root_may_install(ready: Device) -> None:
    words = ("setpriv", "--reuid=1", "--regid=1", "--clear-groups", "scripts/install")
    for action in ("", " --uninstall", " --purge --yes"):
        done = ready.run(f"{' '.join(words)}{action}", check=False)

        assert done.returncode == 1
        assert done.stderr == "install: error: only root can do this\n"


def test_mount_command(ready: Device) -> None:
    """mount(8) and umount(8), with an identity in a file and with lines of an fstab."""
    identity = "/run/of-the-device.txt"
    ready.run(
        f"umask 077; mkdir -p {OTHER}; systemd-creds decrypt --name=ovfuse.identity"
        f" /etc/ovfuse/models.identity.cred {identity}"
    )
    access = f"allow_other,gid=ovfuse,umask=0027,identity={identity}"
    words = f"{access},comment=models,_netdev,nofail,x-a.b=c"
    line = f"/var/lib/models {OTHER} fuse.ovfuse {words},users 0 0\n"
    ready.run("cat >/run/fstab", given=line)
    for command in (
        f"mount -t fuse.ovfuse -o ro,{words} /var/lib/models {OTHER}",
        f"cd /var/lib; mount -t fuse.ovfuse -o {words} models {OTHER}",
        f"mount -T /run/fstab {OTHER}",
        "mount -T /run/fstab -a",
        f"env -i /usr/bin/mount -T /run/fstab {OTHER}",
    ):
        ready.run(command)
        check_access(ready, OTHER)
        assert "ro" in options_of(ready, OTHER)
        ready.run(f"umount {OTHER}")
        assert OTHER not in ready.mounts
    ready.run("mount -T /run/fstab -a -O no_netdev")
    assert OTHER not in ready.mounts


def test_account_mounts_what_fstab_lets_it(ready: Device) -> None:
    ready.run(
        "umask 077; mkdir -p /srv/own; systemd-creds decrypt --name=ovfuse.identity"
        " /etc/ovfuse/models.identity.cred /run/own.txt"
    )
    ready.run("chown daemon /run/own.txt /srv/own; cp /etc/fstab /run/fstab.before")
    options = "user,noauto,identity=/run/own.txt"
    line = f"/var/lib/models /srv/own fuse.ovfuse {options} 0 0\n"
    ready.run("cat >>/etc/fstab", given=line)
    account = "setpriv --reuid=daemon --regid=daemon --clear-groups"
    account += " env XDG_STATE_HOME=/tmp/state XDG_RUNTIME_DIR=/tmp"

    ready.run(f"{account} mount /srv/own")

    assert ready.reads_right("/srv/own", "User=daemon")
    assert not ready.reads_right("/srv/own", "User=games")
    assert {"ro", "nosuid", "nodev", "noexec"} <= options_of(ready, "/srv/own")
    ready.run(f"{account} umount /srv/own")
    assert "/srv/own" not in ready.mounts
    ready.run("cp /run/fstab.before /etc/fstab; rm -r /srv/own /run/own.txt /tmp/state")


def options_of(device: Device, mountpoint: str) -> set[str]:
    done = device.run(f"findmnt -n -o OPTIONS {mountpoint}")
    return set(done.stdout.strip().split(","))


@pytest.mark.parametrize(
    ("options", "code"),
    [("nonesuch", 1), ("remount", 1), ("identity=/run/none", 32), ("strict", 32)],
)
def test_mount_command_that_fails(ready: Device, options: str, code: int) -> None:
    mount = f"mount -t fuse.ovfuse -o {options} /var/lib/models {OTHER}"

    done = ready.run(f"mkdir -p {OTHER}; {mount}", check=False)

    assert done.returncode == code, done.stderr
    assert "ovfuse: error: " in done.stderr
    assert OTHER not in ready.mounts


def test_completions_and_man_page_are_where_they_are_looked_for(ready: Device) -> None:
    script = "source /usr/local/share/bash-completion/completions/ovfuse; complete -p"
    assert "-F _ovfuse ovfuse" in ready.run(script).stdout
    for path in ("man/man1/ovfuse.1", "zsh/site-functions/_ovfuse"):
        assert ready.container.path(f"/usr/local/share/{path}").is_file()
