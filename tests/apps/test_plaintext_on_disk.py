"""No 32 bytes of a model reach a disk, from sealing it to computing with it.

Looked for in all that the programs write, as strace sees it, and afterwards in all
files that changed meanwhile. Programs that do leak show that both would notice.
"""

import base64
import errno
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.apps.insider import Insider, model_key_of
from tests.apps.private_models import IR, NOTES, ONNX, make_private
from tests.support import infer
from tests.support.leaks import PlaintextWindows
from tests.support.mounting import (
    ENGINES,
    OVFUSE,
    Home,
    Mount,
    mounted,
    run_as,
    succeed,
)
from tests.support.tracing import Trace, changed_files, is_on_disk

pytestmark = [pytest.mark.fuse, pytest.mark.openvino, pytest.mark.tools]

DUMPS_DISABLED = "prctl(PR_SET_DUMPABLE, SUID_DUMP_DISABLE) = 0"

LARGEST_ELSEWHERE = 32 << 20  # ten times what there is to be found
INFERENCES = ((IR, "openvino"), (ONNX, "openvino"), (ONNX, "onnxruntime"))

LEAKING = {
    # What OpenVINO calls its cache.
    "cache_dir": """
import openvino
core = openvino.Core()
core.set_property({"CACHE_DIR": target})
core.compile_model(source, "CPU")
""",
    "copy": """
import shutil
shutil.copyfile(source, target + "/copy")
""",
    "copy_in_pieces": """
data = open(source, "rb").read()
with open(target + "/copy", "wb", buffering=0) as copy:
    for start in range(0, 4096, 16):
        copy.write(data[start : start + 16])
os.unlink(target + "/copy")
""",
    "nameless": """
with open(os.open(target, os.O_TMPFILE | os.O_WRONLY), "wb") as copy:
    copy.write(b"*" * 77 + open(source, "rb").read()[-32:])
""",
    "nameless_mapping": """
import mmap
copy = os.open(target, os.O_TMPFILE | os.O_RDWR)
os.ftruncate(copy, 4096)
mmap.mmap(copy, 4096)[:] = open(source, "rb").read(4096)
""",
    "sendfile": """
with open(source, "rb") as data, open(target + "/copy", "wb") as copy:
    os.sendfile(copy.fileno(), data.fileno(), 0, 4096)
os.unlink(target + "/copy")
""",
    "mapping": """
import mmap
with open(target + "/copy", "w+b") as copy:
    copy.truncate(4096)
    mapping = mmap.mmap(copy.fileno(), 4096)
    mapping[:] = open(source, "rb").read(4096)
""",
    "deleted_mapping": """
import mmap
with open(target + "/copy", "w+b") as copy:
    os.unlink(target + "/copy")
    copy.truncate(4096)
    mapping = mmap.mmap(copy.fileno(), 4096)
    mapping[:] = open(source, "rb").read(4096)
""",
}
KEPT = {"cache_dir", "copy", "mapping"}
"""Those that leave a file in which the plaintext can be found."""


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """Apart from the other tests': these run in the same process as them."""
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def disk() -> Iterator[Path]:
    """A directory that is on a disk, unlike /tmp on some machines."""
    with tempfile.TemporaryDirectory(prefix="ovfuse-", dir="/var/tmp") as directory:
        assert is_on_disk(Path(directory)), "/var/tmp is in memory: nothing to see"
        yield Path(directory)


@pytest.fixture(scope="module")
def private(disk: Path, plain: Path) -> Path:
    """Two models that exist nowhere else."""
    make_private(plain, disk / "private")
    return disk / "private"


@pytest.fixture(scope="module")
def windows(private: Path, plain: Path) -> PlaintextWindows:
    """All that must not be found."""
    windows = PlaintextWindows(private, plain)
    assert windows.count > (private / f"{ONNX}.data").stat().st_size
    return windows


@pytest.fixture(scope="module")
def untraced(disk: Path, private: Path, engine: str) -> Iterator[Mount]:
    """The private models on a mount that nobody traces; with a log."""
    directory = disk / f"untraced-{engine}"
    home = Home(directory=directory)
    sealed, options = directory / "sealed", ("-o", f"log={directory / 'log'}")
    succeed(home, "encrypt", private, sealed)
    with mounted(home, sealed, directory / "mnt", *options, engine=engine) as mount:
        yield mount


@dataclass(frozen=True, kw_only=True)
class Watch:
    """From its making on, what programs leave on the disk.

    Attributes:
        home: their home, working and temporary directory.
        trace: what they write.
        since_ns: the time of its making, in nanoseconds since the epoch.
    """

    home: Home
    trace: Trace
    since_ns: int

    @classmethod
    def start(cls, directory: Path) -> "Watch":
        """Begin; the directory is made."""
        if os.geteuid() != 0:
            pytest.skip("only root can trace a process that refuses it")
        directory.mkdir()
        trace = Trace(directory / "trace")
        program = (*trace.prefix, *OVFUSE)
        extra = {"TMPDIR": os.fspath(directory)}
        home = Home(directory=directory, program=program, extra=extra)
        since_ns = trace.directory.stat().st_ctime_ns
        return cls(home=home, trace=trace, since_ns=since_ns)

    def run(self, *command: str | os.PathLike[str]) -> str:
        """Run a program that is no part of ovfuse; return what it printed."""
        done = run_as(self.home, *self.trace.prefix, *command)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def changed(self) -> set[Path]:
        """Return the files in the programs' home that changed since."""
        # The traces are in hex: nothing is to be found in them.
        skipped = [self.trace.directory]
        return set(changed_files(self.home.directory, self.since_ns, but=skipped))

    def changed_elsewhere(self) -> Iterator[Path]:
        """Yield the others that changed, wherever a program could have thought of."""
        areas = {Path.home(), Path.cwd(), Path(tempfile.gettempdir())}
        areas |= {Path("/tmp"), Path("/var/tmp"), Path("/dev/shm")}
        skipped = [self.home.directory, *areas]
        for area in areas:
            # Whoever else works on this machine may write much more than we do.
            yield from changed_files(
                area, self.since_ns, but=skipped, largest=LARGEST_ELSEWHERE
            )


def test_nothing_of_a_model_reaches_the_disk(
    disk: Path, private: Path, windows: PlaintextWindows, engine: str
) -> None:
    watch = Watch.start(disk / f"traced-{engine}")
    home, directory = watch.home, watch.home.directory
    sealed, mountpoint, log = (directory / name for name in ("sealed", "mnt", "log"))
    succeed(home, "encrypt", private, sealed)
    options = ("-o", f"log={log}")
    with mounted(
        home, sealed, mountpoint, *options, engine=engine, foreground=True
    ) as mount:
        daemon = mount.pid
        for model, runtime in INFERENCES:
            command = (sys.executable, infer.__file__, mountpoint / model)
            said = watch.run(*command, "--runtime", runtime, "--out", "outputs.npz")
            assert len(said) == 65

    assert watch.trace.leaks(windows) == []
    changed = watch.changed()
    assert {path for path in sealed.rglob("*") if path.is_file()} < changed
    assert {log, directory / "outputs.npz"} < changed
    assert windows.search(changed) == []
    assert windows.search(watch.changed_elsewhere()) == []
    # The trace has seen what it should: objects, outputs, and what went to the kernel.
    written = watch.trace.written()
    assert {str(path) for path in sealed.rglob("objects/*")} < written.keys()
    assert {str(directory / "outputs.npz"), str(log)} < written.keys()
    assert windows.found_in(written["/dev/fuse"])
    assert watch.trace.has(daemon, DUMPS_DISABLED)


@pytest.mark.parametrize("leak", LEAKING)
def test_leak_is_noticed(
    disk: Path,
    windows: PlaintextWindows,
    untraced: Mount,
    engine: str,
    leak: str,
) -> None:
    watch = Watch.start(disk / f"{leak}-{engine}")
    target = watch.home.make_directory(watch.home.directory / "target")
    source = untraced.mountpoint / (IR if leak == "cache_dir" else f"{ONNX}.data")
    program = f"import os, sys\nsource, target = sys.argv[1:]\n{LEAKING[leak]}"
    watch.run(sys.executable, "-c", program, source, target)

    assert watch.trace.leaks(windows) != []
    found = [leak.path for leak in windows.search(watch.changed())]
    assert all(path.parent == target for path in found)
    assert bool(found) == (leak in KEPT)


def test_daemon_keeps_its_secrets(untraced: Mount, windows: PlaintextWindows) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can look into a daemon that refuses it")
    sealed, log = (untraced.home.directory / name for name in ("sealed", "log"))
    damaged = Insider(untraced.home, sealed).object_of(NOTES)
    damaged.write_bytes(damaged.read_bytes()[::-1])  # so that something is logged
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        (untraced.mountpoint / NOTES).read_bytes()
    for path in untraced.mountpoint.rglob("*.*"):
        if path.name != NOTES:
            assert path.read_bytes()

    process = Path("/proc", str(untraced.pid))
    status = dict(
        line.split(":", 1) for line in (process / "status").read_text().splitlines()
    )
    assert status["VmSwap"].split() == ["0", "kB"]
    limits = re.split(r"\s{2,}", (process / "limits").read_text().strip())
    core = limits.index("Max core file size")
    assert limits[core + 1 : core + 3] == ["0", "0"]
    logged = log.read_bytes()
    assert NOTES.encode() in logged
    for said in (
        logged,
        (process / "environ").read_bytes(),
        (process / "cmdline").read_bytes(),
    ):
        assert not windows.found_in(said)
        for key in forms_of_keys(untraced.home, sealed):
            assert key not in said.lower()


def forms_of_keys(home: Home, sealed: Path) -> list[bytes]:
    """Return what a log must not hold, in lower case."""
    key = model_key_of(home, sealed)
    identity = home.identity.read_bytes().splitlines()[-1]
    assert identity.startswith(b"AGE-SECRET-KEY-1")
    forms = [key, key.hex().encode(), base64.b64encode(key), repr(key).encode()]
    return [form.lower() for form in (*forms, identity, b"AGE-SECRET-KEY")]
