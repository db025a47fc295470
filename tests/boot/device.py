"""A device that an operator sets up: a clean container, and docs/operating.md."""

import hashlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.boot.delivery import CHECKOUT, deliver
from tests.boot.service import Readers
from tests.support.container import ROOT, Container
from tests.support.mounting import Home, succeed
from tests.support.sealed import pattern, write_files

__all__ = ["MODEL", "MOUNTPOINT", "Device", "blocks", "document"]

CIPHERDIR = "/var/lib/models"
MOUNTPOINT = "/srv/models"
PLAIN = "/srv/plain"
MODEL = "detector/model.bin"
"""A file below the mountpoint."""

_FILES = {"model.bin": pattern(2_345_678), "model.xml": b"<net/>", "sub/labels": b"a\n"}
# Written by others than us all the time, or by the test itself.
_FLEETING = (
    *("/proc", "/sys", "/dev", "/run", "/tmp", "/var/tmp", "/var/log", "/srv"),
    *(CIPHERDIR, "/var/lib/systemd", f"{ROOT}"),
)


def document() -> str:
    """Return what operators read."""
    return (ROOT / "docs" / "operating.md").read_text("utf-8")


def blocks(name: str) -> list[str]:
    """Return the commands of the document that are marked so."""
    marked = rf"^<!-- runs: {name} -->\n```sh\n(.*?)^```$"
    return re.findall(marked, document(), re.DOTALL | re.MULTILINE)


class Device:
    """What there is of it, and who looks after it.

    Args:
        container: that has booted.
        suite: its version of Debian.
        scratch: an empty directory, outside, of the publisher.
    """

    def __init__(self, container: Container, suite: str, scratch: Path) -> None:
        self.container = container
        self._scratch = scratch
        self.publisher = Home(directory=scratch / "publisher")
        succeed(self.publisher, "keygen")
        deliver(container, suite)
        key = container.path(f"{CHECKOUT}/publisher.pub")
        shutil.copy(self.publisher.public_key, key)
        self.plain = write_files(scratch / "detector", _FILES)
        shutil.copytree(self.plain, container.path(f"{PLAIN}/detector"))
        self.files_before = self.files()
        """As `files` says, of a machine on which nobody has installed anything."""

    def run(
        self, script: str, *, check: bool = True, given: str = ""
    ) -> "subprocess.CompletedProcess[str]":
        """Run commands as a shell does, in the checkout."""
        words = ("bash", "-euo", "pipefail", "-c", f"cd {CHECKOUT}; {script}")
        return self.container.run(*words, check=check, given=given)

    def set_up(self) -> None:
        """Do what the document says, from the beginning; or nothing, if it was done."""
        if self.is_installed:
            self.run(f"systemctl start ovfuse@{Path(MOUNTPOINT).name}")
            return
        for command in blocks("device"):
            done = self.run(command)
            if found := re.search("^recipient: (age1.+)$", done.stdout, re.MULTILINE):
                self.publish(found[1])

    @property
    def is_installed(self) -> bool:
        """Whether anything is."""
        return self.container.path("/opt/ovfuse/installed").exists()

    def publish(self, recipient: str) -> None:
        """Have the publisher seal for the device, and deliver."""
        sealed = self._scratch / "sealed"
        shutil.rmtree(sealed, ignore_errors=True)
        sealed.mkdir()
        target = sealed / "detector"
        succeed(self.publisher, "encrypt", "-r", recipient, self.plain, target)
        delivered = self.container.path(CIPHERDIR)
        shutil.rmtree(delivered, ignore_errors=True)
        shutil.copytree(sealed, delivered)

    def read(
        self, mountpoint: str = MOUNTPOINT, *properties: str
    ) -> "subprocess.CompletedProcess[str]":
        """Have another unit, with those properties, hash a file of the mount."""
        return self.container.run(
            *("systemd-run", "--quiet", "--pipe", "--wait", "--collect"),
            *(f"--property={line}" for line in properties),
            *("timeout", "20", "sha256sum", f"{mountpoint}/{MODEL}"),
            check=False,
        )

    def reads_right(self, mountpoint: str = MOUNTPOINT, *properties: str) -> bool:
        """Whether that succeeds, with the right bytes."""
        said = self.read(mountpoint, *properties).stdout.split()
        return said[:1] == [hashlib.sha256(_FILES["model.bin"]).hexdigest()]

    @contextmanager
    def reading(self, *kinds: str) -> Iterator[Readers]:
        """Have programs read the mount; in the end nothing must have been wrong."""
        python = ("nice", "/usr/bin/python3")
        readers = Readers(self.container, python, kinds, (MOUNTPOINT, PLAIN))
        readers.wait_for_progress()
        yield readers
        readers.wait_for_progress()
        readers.end()

    @property
    def mounts(self) -> list[str]:
        """Where something of ovfuse is mounted."""
        listed = ("findmnt", "-rn", "-t", "fuse.ovfuse", "-o", "TARGET")
        return self.container.run(*listed, check=False).stdout.split()

    def files(self) -> set[str]:
        """Return a line for each file that is not there for a while only."""
        pruned = " -o ".join(f"-path {path}" for path in _FLEETING)
        printed = r"%p %y %m %u:%g %l\n"
        script = f"find / -xdev \\( {pruned} \\) -prune -o -printf '{printed}'"
        return set(self.run(script).stdout.splitlines())
