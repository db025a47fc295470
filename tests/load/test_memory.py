"""Where plaintext is while it is loaded: marked memory, and files without a name."""

import gc
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ovfuse
from ovfuse import memory
from ovfuse.errors import DamagedError, LoadError
from ovfuse.load import tensors
from ovfuse.load.blobs import Blob, BlobFacts
from ovfuse.load.memory_files import MemoryFile, linked
from ovfuse.sealed import local_file
from ovfuse.secret import Secret
from tests.support.mounting import Home, succeed
from tests.support.sealed import pattern, write_files

MiB = 1 << 20
ROOT = Path(__file__).parents[2]


def fill(data: bytes) -> MemoryFile:
    def write(target: memoryview) -> None:
        target[:] = data

    return MemoryFile(len(data), write)


def mappings_of(address: int, size: int) -> list[str]:
    """What /proc/self/smaps says of the mappings that hold so many bytes."""
    found: list[str] = []
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines(keepends=True):
        if match := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            start, end = (int(number, 16) for number in match.groups())
            inside = start < address + size and address < end
            found += [""] if inside else []
        if inside:
            found[-1] += line
    assert found
    return found


@pytest.mark.openvino
def test_tensor_is_kept_out_of_core_dumps_and_swap() -> None:
    tensor, view = tensors.allocate(64 * MiB)
    for start in range(0, len(view), 4096):
        view[start] = 1
    locked_kib = 0
    # Memory of the heap may be several mappings, alike but for what was there before.
    for found in mappings_of(tensor.data.ctypes.data, len(view)):
        flags = re.search("VmFlags: (.*)", found)
        assert flags is not None
        assert "dd" in flags[1].split()  # MADV_DONTDUMP
        assert os.geteuid() != 0 or "lo" in flags[1].split()
        locked = re.search(r"Locked: +(\d+) kB", found)
        assert locked is not None
        locked_kib += int(locked[1])
    if os.geteuid() == 0:
        assert locked_kib >= 63 * 1024


@pytest.mark.openvino
def test_tensor_is_not_resident_before_it_is_written() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    before = resident()
    tensor, _ = tensors.allocate(512 * MiB)

    assert resident() - before < 64 * MiB
    assert tensor.shape == [512 * MiB]


@pytest.mark.openvino
@pytest.mark.parametrize("size", [0, 1, 4096])
def test_small_tensors_have_their_size(size: int) -> None:
    tensor, view = tensors.allocate(size)

    assert len(view) == tensor.byte_size == size
    assert not view.readonly


@pytest.mark.openvino
def test_more_than_there_is_is_an_error() -> None:
    with pytest.raises(LoadError, match="no memory"):
        tensors.allocate(1 << 60)


def test_one_warning_where_there_is_swap(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Refusing:
        madvise = mlock2 = staticmethod(lambda *_: -1)

    monkeypatch.setattr(memory, "_libc", Refusing)
    monkeypatch.setattr(memory, "may_swap", lambda: True)
    memory._warn_of_swap.cache_clear()

    memory.protect(4096, 4096)
    memory.protect(4096, 4096)

    assert [record.levelname for record in caplog.records] == ["WARNING"]
    memory._warn_of_swap.cache_clear()


def test_memory_file_is_closed_to_changes_and_has_no_name() -> None:
    with fill(b"content") as file:
        assert file.path.read_bytes() == b"content"
        assert str(file.path.readlink()) == "/memfd:ovfuse (deleted)"
        with file.path.open("r+b", buffering=0) as again:
            with pytest.raises(PermissionError):
                again.write(b"x")
            with pytest.raises(PermissionError):
                again.truncate(1)
        view = file.view()

    assert not file.path.exists()
    assert bytes(view) == b"content"
    with pytest.raises(TypeError):
        view[0] = 0


def test_empty_memory_file() -> None:
    with fill(b"") as file:
        assert file.path.read_bytes() == bytes(file.view()) == b""


def test_failed_memory_file_leaves_nothing() -> None:
    def fail(target: memoryview) -> None:
        target[:1] = b"x"
        raise LoadError("no")

    gc.collect()
    before = os.listdir("/proc/self/fd")
    with pytest.raises(LoadError, match="no"):
        MemoryFile(10, fail)
    assert os.listdir("/proc/self/fd") == before


def test_links_are_private_and_go_away(tmp_path: Path) -> None:
    with fill(b"1") as one, linked({"a/b": one, "c": one}) as root:
        assert root.stat().st_mode & 0o777 == 0o700
        assert (root / "a").stat().st_mode & 0o777 == 0o700
        assert (root / "a" / "b").read_bytes() == (root / "c").read_bytes() == b"1"
        assert str((root / "c").readlink()).startswith("/proc/self/fd/")

    assert not root.exists()


PROGRAM = """
import os, signal, sys
import ovfuse
class Core:
    def read_model(self, path):
        os.kill(os.getpid(), signal.SIGKILL)
with ovfuse.open_model(sys.argv[1]) as model:
    model.read_model(Core(), "secret-name.tflite")
"""


def test_killed_it_leaves_dangling_links_without_names(
    as_home: Home, tmp_path: Path
) -> None:
    content = b"\x00\x00\x00\x00TFL3" + pattern(100)
    source = write_files(tmp_path / "plain", {"secret-name.tflite": content})
    succeed(as_home, "encrypt", source, tmp_path / "sealed")
    left = tmp_path / "tmp"
    left.mkdir()
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "sealed")]
    environment = {**as_home.environment, "TMPDIR": str(left)}
    done = subprocess.run(command, env=environment, check=False)

    assert done.returncode == -9
    (directory,) = left.iterdir()
    assert directory.stat().st_mode & 0o777 == 0o700
    (link,) = directory.iterdir()
    assert link.name == "model.tflite"
    assert link.is_symlink()
    # Whatever reads it finds a file of its own, or none.
    assert re.fullmatch(r"/proc/self/fd/\d+", str(link.readlink()))


PEAK = """
import json, sys
from pathlib import Path
import openvino
core = openvino.Core()
config = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
door, directory, path = sys.argv[1:]
if door == "plain":
    core.set_property({"ENABLE_MMAP": False})
    compiled = core.compile_model(f"{directory}/{path}", "CPU", config)
else:
    import ovfuse
    with ovfuse.open_model(directory) as model:
        if path.endswith(".blob"):
            compiled = model.import_model(core, path, "CPU", config)
        else:
            compiled = model.compile_model(core, path, "CPU", config)
import numpy
shape = [d.get_min_length() for d in compiled.inputs[0].partial_shape]
compiled([numpy.ones(shape, numpy.float32)])
status = Path("/proc/self/status").read_text()
print(next(l for l in status.splitlines() if l.startswith("VmHWM")).split()[1])
"""


@pytest.mark.openvino
@pytest.mark.slow
def test_peak_memory_is_that_of_plain_files(as_home: Home, tmp_path: Path) -> None:
    from tests.support import models

    plain, sealed = tmp_path / "plain", tmp_path / "sealed"
    models.large_ir(plain / "large.xml", 128 * MiB)
    models.export_blob(plain / "large.xml", plain / "large.blob")
    succeed(as_home, "encrypt", plain, sealed)

    def peak(door: str, directory: Path, path: str) -> int:
        command = [sys.executable, "-c", PEAK, door, str(directory), path]
        environment = as_home.environment
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True
        )
        return int(done.stdout) * 1024

    expected = peak("plain", plain, "large.xml")
    assert expected > 128 * MiB
    assert peak("loader", sealed, "large.xml") < 1.1 * expected
    assert peak("loader", sealed, "large.blob") < 1.1 * expected


def test_errors_leave_nothing_of_it(as_home: Home, tmp_path: Path) -> None:
    source = write_files(tmp_path / "plain", {"f": pattern(3 * MiB)})
    succeed(as_home, "encrypt", source, tmp_path / "sealed")
    (message,) = (tmp_path / "sealed").glob("seals/*/objects/*")
    data = bytearray(message.read_bytes())
    data[-1] ^= 1
    message.write_bytes(data)
    buffer = bytearray(3 * MiB)

    with (
        ovfuse.open_model(tmp_path / "sealed") as model,
        pytest.raises(DamagedError),
    ):
        model._source.read_into("f", memoryview(buffer))

    assert not any(buffer)


@pytest.mark.openvino
def test_no_memory_for_a_compiled_blob(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def populate(_: memoryview) -> None:
        raise MemoryError

    facts = BlobFacts(
        device="CPU",
        format=1,
        hardware="x",
        name="name",
        openvino="x",
        payload_sha256="0" * 64,
        seal_id="0" * 32,
    )
    with Secret.random(32) as key:
        blob = Blob(facts=facts, key=key)
        blob.write(tmp_path, memoryview(pattern(1000)))
        assert bytes(blob.read(tmp_path).data) == pattern(1000)
        monkeypatch.setattr(local_file, "populate", populate)

        with pytest.raises(LoadError, match="no memory for 1000 bytes"):
            blob.read(tmp_path)


WITHOUT_MEMORY = """
import mmap, sys
import ovfuse
from ovfuse.errors import LoadError

with open(sys.argv[2], "wb+") as file, ovfuse.open_model(sys.argv[1]) as model:
    file.truncate(model.files["f"])
    mapping = mmap.mmap(file.fileno(), 0)
    try:
        model._source.read_into("f", memoryview(mapping))
    except LoadError as error:
        print(error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small tmpfs")
def test_no_memory_is_an_error_and_no_signal(as_home: Home, tmp_path: Path) -> None:
    source = write_files(tmp_path / "plain", {"f": pattern(5 * MiB)})
    succeed(as_home, "encrypt", source, tmp_path / "sealed")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", small], check=True)
    try:
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_MEMORY, tmp_path / "sealed", small / "f"],
            env=as_home.environment,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        subprocess.run(["umount", small], check=True)

    said = (done.returncode, done.stdout, done.stderr)
    assert said == (0, "there is no memory for 5242880 bytes\n", "")
