"""What OpenVINO's published example encrypted: imported, mounted, computed with.

And no plaintext of it reaches a disk on the way.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apps.private_models import IR, make_private
from tests.apps.test_plaintext_on_disk import Watch
from tests.support import infer
from tests.support.leaks import PlaintextWindows
from tests.support.mounting import Home, mounted, run_as, succeed
from tests.support.openssl import (
    PUBLISHED_CIPHER,
    PUBLISHED_KEY,
    PUBLISHED_NAMES,
    encrypt,
    secret_file,
)
from tests.support.tracing import is_on_disk

pytestmark = [pytest.mark.fuse, pytest.mark.openvino, pytest.mark.tools]

MODELS = {
    "openvino_model.xml": "ir/basic_pitch.xml",
    "openvino_model.bin": "ir/basic_pitch.bin",
    "model.onnx": "onnx/nmp.onnx",
    "model.tflite": "tflite/nmp.tflite",
}
NAMES = {
    **PUBLISHED_NAMES,
    "model.onnx": "model_enc.onnx",
    "model.tflite": "model_enc.tflite",
}


@pytest.fixture
def disk() -> Iterator[Path]:
    """A directory that is on a disk, unlike /tmp on some machines."""
    with tempfile.TemporaryDirectory(prefix="ovfuse-", dir="/var/tmp") as directory:
        assert is_on_disk(Path(directory)), "/var/tmp is in memory: nothing to see"
        yield Path(directory)


def digest_of(home: Home, path: Path) -> str:
    done = run_as(home, sys.executable, infer.__file__, path)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_published_example_computes_the_same_on_a_mount(
    tmp_path: Path, plain: Path, engine: str
) -> None:
    home = Home(directory=tmp_path / "home")
    source, sealed = tmp_path / "source", tmp_path / "sealed"
    source.mkdir()
    for name, model in MODELS.items():
        encrypt(plain / model, source / NAMES[name])
    key = secret_file(tmp_path / "key", PUBLISHED_KEY)
    options = ("--key-file", key, "--iv-file", key)
    succeed(home, "import-openssl", *options, source, sealed)

    with mounted(home, sealed, tmp_path / "mnt", engine=engine) as mount:
        for name, model in MODELS.items():
            shown = mount.mountpoint / name
            assert shown.read_bytes() == (plain / model).read_bytes()
            if not name.endswith(".bin"):
                assert digest_of(home, shown) == digest_of(home, plain / model)


def test_nothing_decrypted_reaches_the_disk(disk: Path, plain: Path) -> None:
    private, source = disk / "private", disk / "source"
    make_private(plain, private)
    windows = PlaintextWindows(private, plain)
    for path in (path for path in private.rglob("*") if path.is_file()):
        target = source / path.relative_to(private)
        target.parent.mkdir(parents=True, exist_ok=True)
        encrypt(path, target.with_name(f"{target.name}.enc"))
    key = secret_file(disk / "key", PUBLISHED_KEY)
    watch = Watch.start(disk / "traced")
    sealed = watch.home.directory / "sealed"
    options = ("--key-file", key, "--iv-file", key)
    succeed(watch.home, "import-openssl", *options, source, sealed)

    assert watch.trace.leaks(windows) == []
    changed = watch.changed()
    assert {path for path in sealed.rglob("*") if path.is_file()} < changed
    assert windows.search(changed) == []
    assert windows.search(watch.changed_elsewhere()) == []
    written = watch.trace.written()
    assert {str(path) for path in sealed.rglob("objects/*")} < written.keys()
    for content in (*written.values(), *(path.read_bytes() for path in changed)):
        assert PUBLISHED_KEY.encode() not in content
        assert bytes.fromhex(PUBLISHED_KEY) not in content
    succeed(Home(directory=watch.home.directory), "verify", sealed)


def test_decryption_by_openssl_itself_is_noticed(disk: Path, plain: Path) -> None:
    private = disk / "private"
    make_private(plain, private)
    windows = PlaintextWindows(private, plain)
    encrypt(private / IR, disk / "encrypted")
    watch = Watch.start(disk / "traced")
    key = ("-K", PUBLISHED_KEY, "-iv", PUBLISHED_KEY)
    files = ("-in", disk / "encrypted", "-out", watch.home.directory / "decrypted")
    watch.run("openssl", "enc", "-d", f"-{PUBLISHED_CIPHER}", *key, *files)

    assert watch.trace.leaks(windows) != []
    assert windows.search(watch.changed()) != []
