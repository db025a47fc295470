"""Under systemd a mount outlives its service: in a container, by the unit as it is."""

import errno
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import pytest

from tests.boot.service import PUBLISHER, Program, Service, has_checkout
from tests.mount.test_survival import IR
from tests.support.container import SUITES, Container
from tests.support.key_forms import forms_found, forms_of_key
from tests.support.process_memory import forms_in_memory
from tests.support.sealed import pattern, write_files
from tests.support.users import open_directory
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.fuse, pytest.mark.systemd]

MiB = 1 << 20
WEIGHTS = "weights.bin"
FILES = {
    WEIGHTS: pattern(3 * MiB + 4321),
    "sub/other.bin": pattern(MiB + 1),
    "sub/small.txt": pattern(10_000),
    "sub/empty.txt": b"",
    **{f"many/{number:02}": b"%d" % number for number in range(30)},
}
GONE = os.strerror(errno.ENOTCONN)
NUMBERS = itertools.count()
KINDS = ("whole", "mapped", "listed", "by-descriptor", "held-open")
# scripts/install does not bring OpenVINO.
KINDS_BY_SUITE = [
    pytest.param(suite, (*KINDS, "inferred"), id=f"{suite}-inferred")
    if has_checkout(suite)
    else pytest.param(suite, KINDS, id=f"{suite}-without_openvino")
    for suite in SUITES
]
EVENTS = ("daemon", "main", "all", "restart", "reload", "watchdog")
HOLDER = """
import mmap, os, sys
from hashlib import sha256
path, said = sys.argv[1:]
fd = os.open(path, os.O_RDONLY)
size = os.fstat(fd).st_size
mapping = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
assert mapping[:1000] == os.pread(fd, 1000, 0)
open(said, "w").write("open")
sys.stdin.readline()
try:
    os.fstatvfs(fd)  # which no cache answers
    said_now = [sha256(read).hexdigest() for read in (os.pread(fd, size, 0), mapping)]
except OSError as error:
    said_now = [error.strerror]
open(said, "a").writelines("\\n" + line for line in said_now)
"""


@pytest.fixture(scope="module")
def plain() -> Iterator[Path]:
    with open_directory() as scratch:
        plain = write_files(scratch / "plain", FILES)
        (plain / "ir").mkdir()
        subprocess.run([sys.executable, "-c", IR, plain / "ir/model.xml"], check=True)
        yield plain


@pytest.fixture
def service(
    container: Container, plain: Path, request: pytest.FixtureRequest
) -> Iterator[Service]:
    """An instance for each test, with files in memory unless it says otherwise."""
    options = getattr(request, "param", "resident=auto")
    service = Service(container, f"m{next(NUMBERS)}", plain, options)
    yield service
    service.systemctl("stop", check=False)
    service.systemctl("reset-failed", check=False)
    wait_until(service.is_gone)


class Holder:
    """A program of another unit that has a file open and mapped."""

    def __init__(self, service: Service, name: str = WEIGHTS) -> None:
        self._said = f"/run/holder-{service.name}.said"
        self._container = service.container
        self._program = Program(
            service.container,
            f"holder-{service.name}",
            ["python3", "-c", HOLDER, f"{service.mountpoint}/{name}", self._said],
        )
        wait_until(lambda: self.said == ["open"])

    @property
    def said(self) -> list[str]:
        with suppress(FileNotFoundError):
            return self._container.path(self._said).read_text().split("\n")
        return []

    def found(self) -> list[str]:
        """Return what it reads now: hashes, by its descriptor and by its mapping."""
        self._program.end()
        return self.said[1:]


def hash_of(data: bytes) -> str:
    return sha256(data).hexdigest()


def happen(service: Service, event: str) -> None:
    """Take the processes away in one of the ways, until there are others."""
    if event in {"main", "all"}:
        service.kill(event)
    elif event == "watchdog":
        service.kill("main", "ABRT")
    elif event == "restart":
        service.systemctl("reset-failed", check=False)
        service.systemctl("restart")
    elif event == "reload":
        service.container.run("ovfuse", "reload", service.mountpoint)
    else:
        keeper = service.show("MainPID")
        service.container.run("pkill", "-KILL", "-P", keeper)


@pytest.mark.parametrize(("container", "kinds"), KINDS_BY_SUITE, indirect=["container"])
@pytest.mark.parametrize(
    "service", ["resident=never", "resident=auto", "resident=always"], indirect=True
)
def test_programs_notice_nothing(service: Service, kinds: tuple[str, ...]) -> None:
    service.start()
    started = service.show("ActiveEnterTimestampMonotonic")
    assert service.stored > 0
    with service.reading(*kinds) as readers:
        readers.wait_for_progress()
        for event in (*EVENTS, *EVENTS):
            happen(service, event)
            readers.wait_for_progress()

    assert service.show("ActiveState") == "active"
    assert service.show("ActiveEnterTimestampMonotonic") != started
    assert "error" not in service.log


@pytest.mark.parametrize("how", ["main", "all", "restart"])
@pytest.mark.parametrize("service", ["resident=never", "resident=auto"], indirect=True)
def test_what_is_open_of_a_version_that_is_gone_is_read_to_its_end(
    service: Service, plain: Path, how: str
) -> None:
    service.start()
    holder = Holder(service)
    newest = FILES[WEIGHTS][::-1]
    with open_directory() as scratch:
        other = write_files(scratch / "plain", {**FILES, WEIGHTS: newest})
        for _ in range(2):  # the version before is kept
            service.seal(other)
    wait_until(lambda: service.sha256(WEIGHTS) == hash_of(newest))
    assert len(os.listdir(service.container.path(f"{service.cipherdir}/seals"))) == 2

    for _ in range(2):
        happen(service, how)

    assert service.sha256(WEIGHTS) == hash_of(newest)
    assert holder.found() == [hash_of(FILES[WEIGHTS])] * 2


def test_stopped_service_leaves_nothing(service: Service) -> None:
    service.start()
    holder = Holder(service)

    service.systemctl("stop")

    assert not service.is_mounted
    assert service.show("ActiveState") == "inactive"
    wait_until(service.is_gone)
    assert holder.found() == [GONE]


def test_unmounting_ends_the_service(service: Service) -> None:
    service.start()

    service.container.run("ovfuse", "unmount", service.mountpoint)

    wait_until(service.is_gone)
    assert service.show("Result") == "success"
    service.start()
    assert service.sha256(WEIGHTS) == hash_of(FILES[WEIGHTS])


def test_service_that_cannot_be_started_again_leaves_nothing(service: Service) -> None:
    service.start()
    holder = Holder(service)
    service.override("[Service]\nExecStart=\nExecStart=/bin/false\n")

    service.systemctl("kill", "-s", "KILL")

    wait_until(lambda: service.show("ActiveState") == "failed")
    assert "Start request repeated too quickly" in service.log
    wait_until(service.is_gone)
    assert holder.found() == [GONE]


def test_service_that_is_stopped_between_starts_leaves_nothing(
    service: Service,
) -> None:
    service.start()
    service.override("[Service]\nRestartSec=1h\n")
    service.systemctl("kill", "-s", "KILL")
    wait_until(lambda: service.show("SubState") == "auto-restart")
    assert service.is_mounted

    service.systemctl("stop")

    wait_until(service.is_gone)


@pytest.mark.parametrize("how", ["kill", "restart"])
def test_identity_that_is_another_one_by_then_opens_nothing(
    service: Service, how: str
) -> None:
    service.start()
    holder = Holder(service, "sub/small.txt")
    other = f"/srv/{service.name}.other"
    service.container.run("ovfuse", "keygen", "-o", other)
    service.give_identity(other)

    words = ("kill", "-s", "KILL") if how == "kill" else ("restart",)
    service.systemctl(*words, check=False)

    wait_until(lambda: service.show("ExecMainStatus") == "15")
    wait_until(service.is_gone)
    assert "it is not sealed for any of your identities" in service.log
    assert holder.found() == [GONE]


def test_what_is_locked_stays_locked(service: Service) -> None:
    service.start()
    service.container.run("ovfuse", "lock", service.mountpoint)
    for how in ("restart", "main", "all"):
        happen(service, how)
        listed = service.container.run("ls", service.mountpoint, check=False)
        assert "Permission denied" in listed.stderr

    service.container.run("ovfuse", "unlock", service.mountpoint)

    assert service.sha256(WEIGHTS) == hash_of(FILES[WEIGHTS])
    happen(service, "all")
    assert service.sha256(WEIGHTS) == hash_of(FILES[WEIGHTS])


def test_other_options_make_another_mount(service: Service) -> None:
    service.start()
    holder = Holder(service)
    service.configure("resident=never,uid=1234")

    service.systemctl("restart")

    owner = service.container.run("stat", "-c", "%u", f"{service.mountpoint}/{WEIGHTS}")
    assert owner.stdout == "1234\n"
    assert service.sha256(WEIGHTS) == hash_of(FILES[WEIGHTS])
    assert holder.found() == [GONE]


def test_mount_elsewhere_leaves_nothing_where_it_was(service: Service) -> None:
    service.start()
    before = service.mountpoint
    service.mountpoint = f"{before}.moved"
    service.container.run("mkdir", service.mountpoint)
    service.configure("")

    service.systemctl("restart")

    assert service.sha256(WEIGHTS) == hash_of(FILES[WEIGHTS])
    mounts = service.container.run("cat", "/proc/self/mountinfo").stdout
    assert f" {before} " not in mounts


def test_publisher_who_is_not_trusted_any_more_opens_nothing(service: Service) -> None:
    service.override("[Service]\nEnvironment=XDG_CONFIG_HOME=/srv/untrusting\n")
    (key,) = os.listdir(service.container.path(f"{PUBLISHER}/ovfuse/trusted"))
    trusted = f"/srv/untrusting/ovfuse/trusted/{key}"
    service.container.run("mkdir", "-p", Path(trusted).parent)
    service.container.run("mv", f"/etc/ovfuse/trusted/{key}", trusted)
    try:
        service.start()
        service.container.run("mv", trusted, "/srv/untrusting")

        service.systemctl("restart", check=False)

        assert service.show("ExecMainStatus") == "14"
        wait_until(service.is_gone)
    finally:
        service.container.run(
            "cp", f"{PUBLISHER}/ovfuse/trusted/{key}", "/etc/ovfuse/trusted"
        )


def test_store_has_no_key(service: Service) -> None:
    service.start()
    Holder(service, "sub/small.txt").found()
    assert service.sha256(WEIGHTS) == hash_of(FILES[WEIGHTS])
    forms = forms_of_key("model key", model_key_of(service))
    init = service.container.init
    keeper = service.container.process(int(service.show("MainPID")))

    found = {
        form
        for fd in os.listdir(f"/proc/{init}/fd")
        if "memfd:" in f"{Path(f'/proc/{init}/fd/{fd}').readlink()}"
        for form in forms_found(forms, Path(f"/proc/{init}/fd/{fd}").read_bytes())
    }

    assert found == set()
    assert forms_in_memory(init, forms) == set()
    assert "model key" in forms_in_memory(keeper, forms)


def model_key_of(service: Service) -> bytes:
    """Return the model key of the current sealing."""
    script = (
        "import sys; from pathlib import Path; import pyrage\n"
        "lines = Path(sys.argv[1]).read_text().split()\n"
        "line = next(l for l in lines if l.startswith('AGE-SECRET-KEY-'))\n"
        "identity = pyrage.x25519.Identity.from_str(line)\n"
        "(file,) = Path(sys.argv[2]).glob('seals/*/keys/*.age')\n"
        "print(pyrage.decrypt(file.read_bytes(), [identity]).hex())\n"
    )
    identity = f"{PUBLISHER}/ovfuse/identity.txt"
    words = (service.container.python, "-c", script, identity, service.cipherdir)
    done = service.container.run(*words)
    return bytes.fromhex(done.stdout)


def test_full_store_is_said_and_what_is_on_disk_goes_on(service: Service) -> None:
    """There is room for one open file."""
    service.override("[Service]\nFileDescriptorStoreMax=24\nEnvironment=FDSTORE=24\n")
    service.configure("resident=never")
    service.start()
    holder = Holder(service, "sub/other.bin")
    with service.reading("whole", "held-open") as readers:
        readers.wait_for_progress()
        for how in ("all", "restart"):
            happen(service, how)
            readers.wait_for_progress()

    assert service.stored <= 24
    assert service.log.count("the descriptor store is full") == 3, service.log
    assert holder.found() == [hash_of(FILES["sub/other.bin"])] * 2


def test_foreign_descriptors_are_put_away(service: Service) -> None:
    foreign = (
        "import os, socket\n"
        "for name in ('ovfuse-record-7', 'ovfuse-file-8', 'other'):\n"
        "    fd = os.memfd_create('foreign')\n"
        "    os.write(fd, b'{}\\n')\n"
        "    to = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "    to.connect(os.environ['NOTIFY_SOCKET'])\n"
        "    text = f'FDSTORE=1\\nFDNAME={name}'.encode()\n"
        "    socket.send_fds(to, [text], [fd])\n"
    )
    script = f"/srv/{service.name}.foreign.py"
    service.container.path(script).write_text(foreign)
    service.override(
        f"[Service]\nNotifyAccess=all\nExecStartPre=/usr/bin/python3 {script}\n"
    )

    service.start()

    assert service.sha256(WEIGHTS) == hash_of(FILES[WEIGHTS])
    assert service.log.count("a record that was left is not whole") == 1
    names = service.container.run(
        "sh", "-c", 'ls -l "/proc/1/fd" | grep -c memfd:foreign', check=False
    )
    assert names.stdout == "0\n"


def test_consumer_is_restarted_with_requires_but_not_with_wants(
    service: Service,
) -> None:
    """As the head of the unit says: it would have noticed nothing."""
    service.start()
    started = {}
    for word in ("Wants", "Requires"):
        unit = f"{service.name}-{word}.service"
        started[word] = unit
        service.container.run(
            *("systemd-run", "--quiet", f"--unit={unit}"),
            *(f"--property={word}={service.unit}", f"--property=After={service.unit}"),
            *("sleep", "infinity"),
        )

    def process_of(word: str) -> str:
        shown = ("systemctl", "show", "-P", "MainPID", started[word])
        return service.container.run(*shown).stdout.strip()

    before = {word: process_of(word) for word in started}
    service.systemctl("restart")

    assert process_of("Wants") == before["Wants"]
    assert process_of("Requires") != before["Requires"]
    for unit in started.values():
        service.container.run("systemctl", "stop", unit, check=False)


def test_what_was_given_to_unlock_does_not_outlive_the_service(
    service: Service,
) -> None:
    service.start()
    service.container.run("ovfuse", "lock", service.mountpoint)
    other = f"/srv/{service.name}.other"
    service.container.run("ovfuse", "keygen", "-o", other)
    service.give_identity(other)  # which is read again with each start
    service.container.run(
        "ovfuse", "unlock", "-i", f"{PUBLISHER}/ovfuse/identity.txt", service.mountpoint
    )
    happen(service, "daemon")
    assert service.sha256(WEIGHTS) == hash_of(FILES[WEIGHTS])

    service.systemctl("kill", "-s", "KILL")

    wait_until(lambda: service.show("ExecMainStatus") == "15")
    wait_until(service.is_gone)
