"""A TPM in software, by itself: swtpm, which any program may extend and stop."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.support.waiting import wait_until

__all__ = ["Tpm", "tpm_in"]


@dataclass(frozen=True)
class Tpm:
    """A TPM that runs.

    Attributes:
        tcti: how it is reached.
        pid: of its process.
    """

    tcti: str
    pid: int

    def extend(self, pcr: int) -> None:
        """Measure something into a register."""
        import tpm2_pytss as tss

        with tss.ESAPI(self.tcti) as api:
            api.pcr_event(tss.ESYS_TR.PCR0 + pcr, b"something else is started")

    def stop(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


@contextmanager
def tpm_in(directory: Path) -> Iterator[Tpm]:
    """Run a TPM whose state is in a directory; its registers are as after a reset."""
    directory.mkdir(exist_ok=True)
    port = _free_ports()
    command = [
        "swtpm",
        "socket",
        "--tpm2",
        *("--tpmstate", f"dir={directory}"),
        *("--server", f"type=tcp,port={port},bindaddr=127.0.0.1"),
        *("--ctrl", f"type=tcp,port={port + 1},bindaddr=127.0.0.1"),
        *("--flags", "not-need-init,startup-clear"),
    ]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: process.poll() is not None or _answers(port))
            assert process.poll() is None
            yield Tpm(f"swtpm:host=127.0.0.1,port={port}", process.pid)
        finally:
            process.kill()


def _free_ports() -> int:
    """Return a port that is free, and so is the next."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            with suppress(OSError, OverflowError):
                second.bind(("127.0.0.1", port + 1))
                return port


def _answers(port: int) -> bool:
    """Tell whether it listens on both; without connecting, which it would count."""
    sockets = Path("/proc/net/tcp").read_text("ascii")
    return all(f":{p:04X} 00000000:0000 0A" in sockets for p in (port, port + 1))
