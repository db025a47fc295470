"""No 32 bytes of a model reach a disk while the loader loads it, in any format.

Looked for in all that an app writes, as strace sees it, and afterwards in all files of
its home, working and temporary directory. Apps that do leak show that it would notice.
"""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.load.conftest import PATHS, Door
from tests.support.leaks import PlaintextWindows
from tests.support.mounting import Completed, Home, run_as
from tests.support.tracing import Trace, changed_files, is_on_disk

pytestmark = [pytest.mark.openvino, pytest.mark.tools]

ROOT = Path(__file__).parents[2]
BY_MEMORY_FILE = (
    "onnx/nmp.onnx",
    "onnx-external/external.onnx",
    "tflite/nmp.tflite",
    "saved_model",
    "more/frozen.pb",
)

LEAKING = {
    # A loader that writes what OpenVINO takes by path into files.
    "temporary_file": """
import fcntl, tempfile
from ovfuse.load import memory_files
memory_files._create = lambda: tempfile.mkstemp()[0]
fcntl.fcntl = lambda *_: 0
""",
    # OpenVINO told to write models down, and an app that allows it.
    "serialize_tracing": """
import functools, os
import ovfuse
os.environ["OV_ENABLE_SERIALIZE_TRACING"] = "true"
ovfuse.open_model = functools.partial(ovfuse.open_model, allow_dumps=True)
""",
    # An app that keeps a copy, for a moment.
    "copy": """
import os
from ovfuse.load import reading
def leak(source, path, real=reading.read_tensor):
    tensor = real(source, path)
    with open("copy", "wb") as copy:
        copy.write(tensor.data)
    os.unlink("copy")
    return tensor
reading.read_tensor = leak
""",
}
CASES = [
    *(("temporary_file", path) for path in BY_MEMORY_FILE),
    ("serialize_tracing", "more/f32.xml"),
    *(("copy", f"more/{name}") for name in ("f32.xml", "f16.xml", "paddle.pdmodel")),
]


@pytest.fixture(scope="session")
def windows(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> PlaintextWindows:
    """All that must not be found: runs of zeros are no secret."""
    common = tmp_path_factory.mktemp("common")
    (common / "zeros").write_bytes(bytes(4096))
    return PlaintextWindows(plain, common)


@dataclass(frozen=True)
class Watch:
    """An app's home on a disk, and a trace of what it writes."""

    home: Home
    trace: Trace
    since_ns: int

    def run(self, program: str, directory: Path, *paths: str) -> Completed:
        """Run the app of these tests, after a few lines of Python."""
        code = f"import sys\n{program}\nfrom tests.load.app import main\nmain()"
        python = (*self.trace.prefix, sys.executable)
        return run_as(self.home, *python, "-c", code, directory, *paths)

    def changed(self) -> list[Path]:
        """Return the files of the home that changed."""
        skipped = [self.trace.directory]
        return list(changed_files(self.home.directory, self.since_ns, but=skipped))


@pytest.fixture
def watch(home: Home) -> Iterator[Watch]:
    if os.geteuid() != 0:
        pytest.skip("only root can trace every process")
    with tempfile.TemporaryDirectory(prefix="ovfuse-", dir="/var/tmp") as name:
        directory = Path(name)
        assert is_on_disk(directory), "/var/tmp is in memory: nothing to see"
        keys = {
            key: home.environment[key] for key in ("XDG_CONFIG_HOME", "XDG_STATE_HOME")
        }
        extra = {**keys, "TMPDIR": name, "PYTHONPATH": str(ROOT)}
        trace = Trace(directory / "trace")
        since_ns = trace.directory.stat().st_ctime_ns
        yield Watch(Home(directory=directory, extra=extra), trace, since_ns)


def test_nothing_reaches_the_disk(
    watch: Watch, door: Door, windows: PlaintextWindows
) -> None:
    done = watch.run("", door.directory, *PATHS)

    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["path"] for line in found if "digest" in line] == list(PATHS)
    assert watch.trace.leaks(windows) == []
    assert windows.search(watch.changed()) == []
    assert list(watch.home.directory.glob("ovfuse-*")) == []


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_leak_is_noticed(
    watch: Watch, sealed: Path, windows: PlaintextWindows, case: tuple[str, str]
) -> None:
    leak, path = case
    done = watch.run(LEAKING[leak], sealed, path)

    assert done.returncode == 0, done.stderr
    assert "digest" in json.loads(done.stdout.splitlines()[-1])
    assert watch.trace.leaks(windows) != []
