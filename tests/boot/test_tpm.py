"""An identity that systemd decrypts for the unit with a TPM."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import pytest

from tests.boot.service import PUBLISHER, Service
from tests.support.container import TPM, Container
from tests.support.sealed import pattern, write_files
from tests.support.users import open_directory
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.fuse, pytest.mark.systemd]

DATA = pattern(300_000)
MEASURE = """
import sys
import tpm2_pytss as tss
with tss.ESAPI(sys.argv[1]) as api:
    api.pcr_event(tss.ESYS_TR.PCR7, b"something else is started")
"""


def in_network(container: Container, *words: str) -> list[str]:
    """What runs outside, and has the container's loopback interface."""
    return ["nsenter", "--net", f"--target={container.init}", "--", *words]


@contextmanager
def tpm_of(container: Container, state: Path) -> Iterator[None]:
    """Run a TPM where systemd in the container looks for one."""
    server, control = TPM.server, TPM.control
    command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}"]
    command += ["--server", server, "--ctrl", control]
    command += ["--flags", "not-need-init,startup-clear"]
    process = subprocess.Popen(in_network(container, *command))
    try:
        wait_until(lambda: container.run(*LISTENS, check=False).returncode == 0)
        yield
    finally:
        process.kill()
        process.wait()


LISTENS = ("grep", "-q", f":{TPM.port:04X} 00000000:0000 0A", "/proc/net/tcp")


def measure(container: Container) -> None:
    """Extend register 7."""
    script = [sys.executable, "-c", MEASURE, TPM.tcti]
    subprocess.run(in_network(container, *script), check=True)


def give_identity(service: Service) -> None:
    """Encrypt the identity for this TPM as it is now, and for this machine."""
    service.container.run(
        *("systemd-creds", "encrypt", "--with-key=host+tpm2"),
        *(f"--tpm2-device={TPM.tcti}", "--tpm2-pcrs=7", "--name=ovfuse.identity"),
        f"{PUBLISHER}/ovfuse/identity.txt",
        f"/etc/ovfuse/{service.name}.identity.cred",
    )


def test_credential_is_for_this_tpm_as_it_was(
    container: Container, tmp_path: Path
) -> None:
    with open_directory() as scratch:
        plain = write_files(scratch / "plain", {"weights.bin": DATA})
        service = Service(container, "tpm", plain)
        with tpm_of(container, tmp_path):
            measure(container)  # what is bound to zeros is bound to nothing
            give_identity(service)
            check_served(service)
            measure(container)
            check_refused(service)

        with tpm_of(container, tmp_path):  # as after a reset
            check_refused(service)

        with tpm_of(container, tmp_path):
            measure(container)
            check_served(service)


def test_credential_without_its_tpm(container: Container, tmp_path: Path) -> None:
    with open_directory() as scratch:
        plain = write_files(scratch / "plain", {"weights.bin": DATA})
        service = Service(container, "without-tpm", plain)
        with tpm_of(container, tmp_path):
            measure(container)
            give_identity(service)

        check_refused(service)


def check_served(service: Service) -> None:
    """Start the unit, read through its mount, and stop it."""
    service.start()
    assert service.sha256("weights.bin") == sha256(DATA).hexdigest()
    service.systemctl("stop")
    wait_until(service.is_gone)


def check_refused(service: Service) -> None:
    """Start the unit, which must say what is wrong, and leave nothing."""
    service.systemctl("start", check=False)
    wait_until(service.is_gone)

    assert service.show("Result") == "exit-code"
    said = f"no identity: /etc/ovfuse/{service.name}.identity.cred is missing"
    assert f"ovfuse: error: {said}" in service.log
    assert service.show("StatusText").startswith(said)
    service.systemctl("reset-failed")
