"""The checkout in a container without a network, with what scripts/install needs."""

import platform
import shutil
import subprocess
from pathlib import Path

from tests.support.container import ROOT, Container
from tests.support.made_once import made_once

__all__ = ["CHECKOUT", "INSTALL", "deliver"]

CHECKOUT = "/srv/ovfuse"
INSTALL = (f"{CHECKOUT}/scripts/install", "--wheels", f"{CHECKOUT}/wheels")
"""The command, after that."""

_PYTHONS = {"bookworm": "3.11", "trixie": "3.13"}
_PARTS = (
    *("ovfuse", "scripts", "requirements", "systemd", "docs", "completion"),
    *("pyproject.toml", "README.md", "LICENSE"),
)


def deliver(container: Container, suite: str) -> None:
    """Put it there, for that version of Debian."""
    _copy_checkout(container.path(CHECKOUT))
    shutil.copytree(_wheels(suite), container.path(f"{CHECKOUT}/wheels"))


def _copy_checkout(target: Path) -> None:
    target.mkdir()
    for name in _PARTS:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, target / name, ignore=ignored)
        else:
            shutil.copy(source, target / name)


def _wheels(suite: str) -> Path:
    """Return what scripts/install downloads for it, once: the container could not."""
    version = _PYTHONS[suite]
    locks = [ROOT / "requirements" / f"{name}.lock" for name in ("run", "build")]
    texts = [version, platform.machine(), *(lock.read_text() for lock in locks)]

    def download(directory: Path) -> None:
        command = (ROOT / "scripts" / "install", "--download", directory)
        subprocess.run([*command, "--python", version], check=True)

    return made_once(ROOT / ".cache" / "wheels", "\n".join(texts), download)
