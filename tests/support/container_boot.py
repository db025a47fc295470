"""`python -m tests.support.container_boot ROOT PLACE SHOWN TPM`: boots a container.

Used by `container` alone, which has made namespaces for it. ROOT is a root directory,
upon which a layer in memory is put at PLACE; SHOWN is there in the container, too,
read-only. TPM is where systemd looks for one. When the container wants to reboot, it is
booted again.
"""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

from ovfuse.mountinfo import list_mounts

__all__ = ["main"]

_MNT_DETACH = 2
_OF_THE_SYSTEM = ("/proc", "/sys", "/dev")
_REBOOT = 133
"""What systemd-nspawn --keep-unit ends with, to be started again."""


def main(root: Path, place: Path, shown: Path, tpm: str) -> int:
    """Boot until it is switched off; return how it ended."""
    _let_go_of_mounts(root, place, shown)
    subprocess.run(["mount", "-t", "tmpfs", "none", place], check=True)
    layers = {"lowerdir": root}
    for name, directory in (("upperdir", "upper"), ("workdir", "work")):
        (place / directory).mkdir()
        layers[name] = place / directory
    (place / "root").mkdir()
    options = ",".join(f"{name}={layer}" for name, layer in layers.items())
    overlay = ["mount", "-t", "overlay", "-o", options, "none", f"{place}/root"]
    subprocess.run(overlay, check=True)
    nspawn = ["systemd-nspawn", "--quiet", f"--directory={place}/root", "--boot"]
    nspawn += [
        "--register=no",
        "--keep-unit",
        "--console=read-only",
        "--link-journal=no",
    ]
    nspawn += ["--bind=/dev/fuse", f"--bind-ro={shown}", "--private-network"]
    nspawn += [f"--setenv=SYSTEMD_TPM2_DEVICE={tpm}"]
    nspawn += ["--hostname=ovfuse-test", "--machine=ovfuse-test"]
    # Else a test in which it is midnight sees what is done once a day.
    nspawn += ["systemd.mask=timers.target"]
    while True:
        code = subprocess.run(nspawn, check=False).returncode
        if code != _REBOOT:
            return code


def _let_go_of_mounts(*needed: Path) -> None:
    """Unmount what others have mounted: here, it would stay when they unmount it."""
    libc = ctypes.CDLL(None, use_errno=True)
    python = (Path(sys.executable), Path(os.path.realpath(sys.executable)))
    for mount in reversed(list_mounts()):
        place = mount.mountpoint
        is_needed = any(path.is_relative_to(place) for path in (*needed, *python))
        is_systems = any(place.is_relative_to(top) for top in _OF_THE_SYSTEM)
        if not is_needed and not is_systems:
            libc.umount2(os.fsencode(place), _MNT_DETACH)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]))
