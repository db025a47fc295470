"""What an open model is: its files, who may open it, what happens when it is closed."""

import gc
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ovfuse
from ovfuse import OpenModel
from ovfuse.errors import (
    CipherdirError,
    IsADirectoryNodeError,
    LoadError,
    NotFoundError,
    NoUsableKeyError,
    UntrustedError,
)
from tests.load.conftest import DOORS
from tests.support.mounting import Home, mounted, succeed
from tests.support.sealed import pattern, write_files

FROZEN = Path(__file__).parents[1] / "frozen" / "v1"
FILES = {
    "a/empty.bin": b"",
    "a/model.xml": b"<net/>",
    "a/model.bin": pattern(5 * 65536 * 16 + 1234),
    "one_block.bin": pattern(65536),
    "z": b"z",
}
TREE = {"fleet/detector": {"d.xml": b"<d/>"}, "classifier": {"c.xml": b"<c/>"}}


@pytest.fixture(scope="module")
def small(home: Home) -> Path:
    """A model of odd sizes, sealed."""
    source = write_files(home.directory / "small", FILES)
    cipherdir = home.directory / "small-sealed"
    succeed(home, "encrypt", source, cipherdir)
    return cipherdir


@pytest.fixture(scope="module", params=DOORS)
def place(request: pytest.FixtureRequest, home: Home, small: Path) -> Iterator[Path]:
    """The same, by each door."""
    if request.param == "sealed":
        yield small
        return
    mountpoint = home.directory / f"mnt-small-{request.param}"
    with mounted(home, small, mountpoint, engine=request.param):
        yield mountpoint


@pytest.fixture
def model(as_home: Home, place: Path) -> Iterator[OpenModel]:
    with ovfuse.open_model(place) as model:
        yield model


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_files_have_their_sizes_and_are_sorted(model: OpenModel) -> None:
    assert dict(model.files) == {path: len(data) for path, data in FILES.items()}
    assert list(model.files) == sorted(FILES)


@pytest.mark.parametrize("path", FILES)
def test_bytes_are_those_that_were_sealed(model: OpenModel, path: str) -> None:
    assert model.read_bytes(path) == FILES[path]


@pytest.mark.openvino
@pytest.mark.parametrize("path", FILES)
def test_tensor_has_the_bytes(model: OpenModel, path: str) -> None:
    from ovfuse.load.tensors import read_tensor

    tensor = read_tensor(model._source, path)

    assert tensor.data.tobytes() == FILES[path]


def test_file_is_read_and_sought(model: OpenModel) -> None:
    data = FILES["a/model.bin"]
    with model.open("a/model.bin") as file:
        assert isinstance(file, io.BufferedReader)
        assert file.seekable()
        assert not file.writable()
        assert file.read(10) == data[:10]
        assert file.seek(-100, os.SEEK_END) == len(data) - 100
        assert file.read() == data[-100:]
        assert file.read() == b""
        assert file.seek(70_000) == file.tell() == 70_000
        buffer = bytearray(200_000)
        assert file.readinto(buffer) == len(buffer)
        assert buffer == data[70_000:270_000]
        file.seek(len(data) + 5)
        assert file.read(1) == b""
        with pytest.raises(ValueError, match="negative"):
            file.seek(-1)


def test_unknown_path_is_not_found_and_similar_ones_are_named(model: OpenModel) -> None:
    for call in (model.read_bytes, model.open):
        with pytest.raises(NotFoundError, match=r"no file 'model\.bin'") as caught:
            call("model.bin")
        assert "'a/model.bin'" in caught.value.hint
    for path in ("", "/a/model.xml", "a/../z", "../z"):
        with pytest.raises(NotFoundError):
            model.read_bytes(path)


def test_directory_is_no_file(model: OpenModel) -> None:
    with pytest.raises(IsADirectoryNodeError):
        model.read_bytes("a")


def test_closed_model_says_so(as_home: Home, place: Path) -> None:
    gc.collect()  # what earlier tests left
    before = descriptors()
    with ovfuse.open_model(place) as model:
        file = model.open("a/model.bin")
        file.read(1)
    model.close()

    assert file.closed is file.raw.closed is True
    for call in (model.read_bytes, model.open):
        with pytest.raises(LoadError, match="closed"):
            call("z")
    with pytest.raises(LoadError, match="closed"):
        model._source.derive_key(b"label")
    with pytest.raises(LoadError, match="closed"):
        model.read_model(None, "a/model.xml")
    assert descriptors() == before


def test_keys_are_wiped_when_it_is_closed(as_home: Home, small: Path) -> None:
    with ovfuse.open_model(small) as model:
        key = model._source._sealing.model_key  # type: ignore[attr-defined]  # only of a sealed one
        assert any(key.view)

    assert not any(key.view)


def test_dropped_file_is_closed(as_home: Home, place: Path) -> None:
    with ovfuse.open_model(place) as model:
        gc.collect()  # what earlier tests left
        before = descriptors()
        model.open("z").read()
        gc.collect()

        assert descriptors() == before


def test_sealed_model_knows_its_sealing_and_derives_keys(
    as_home: Home, small: Path
) -> None:
    with ovfuse.open_model(small) as model, ovfuse.open_model(small) as again:
        facts = model.facts
        first = model._source.derive_key(b"ovfuse.one.v1")
        same = again._source.derive_key(b"ovfuse.one.v1")
        other = model._source.derive_key(b"ovfuse.two.v1")

    assert facts is not None
    assert facts.version == 1
    assert [path.name for path in (small / "seals").iterdir()] == [facts.seal_id]
    assert first is not None
    assert same is not None
    assert other is not None
    assert len(first) == len(other) == 32
    assert bytes(first.view) == bytes(same.view) != bytes(other.view)


def test_wrong_size_of_a_buffer_is_refused(model: OpenModel) -> None:
    with pytest.raises(ValueError, match="size"):
        model._source.read_into("z", memoryview(bytearray(2)))


def test_identity_and_publisher_can_be_named(
    home: Home,
    small: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with pytest.raises(UntrustedError):
        ovfuse.open_model(small, identity=home.identity)
    with pytest.raises(NoUsableKeyError):
        ovfuse.open_model(small, verify_keys=home.public_key)

    for identity in (home.identity, str(home.identity), [home.identity]):
        with ovfuse.open_model(
            small, identity=identity, verify_keys=[home.public_key]
        ) as model:
            assert model.read_bytes("z") == b"z"
    with ovfuse.open_model(
        small, identity=home.identity, allow_untrusted=True
    ) as model:
        assert model.read_bytes("z") == b"z"


def test_passphrase_opens_and_nobody_is_asked(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    sealed, key = FROZEN / "passphrase", FROZEN / "signing_key.pub"
    with pytest.raises(NoUsableKeyError):
        ovfuse.open_model(sealed, verify_keys=key)
    with pytest.raises(NoUsableKeyError, match="not its passphrase"):
        ovfuse.open_model(sealed, verify_keys=key, passphrase="wrong")

    with ovfuse.open_model(sealed, verify_keys=key, passphrase="frozen solid") as model:
        assert model.read_bytes("model.xml")


def test_name_is_demanded(as_home: Home, small: Path) -> None:
    with ovfuse.open_model(small, name="small-sealed") as model:
        assert model.files
    with pytest.raises(UntrustedError, match="signed name"):
        ovfuse.open_model(small, name="other")


def test_tree_is_no_model_but_what_is_in_it_is(as_home: Home, tmp_path: Path) -> None:
    for name, files in TREE.items():
        target = tmp_path / "tree" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        source = write_files(tmp_path / "plain" / name, files)
        succeed(as_home, "encrypt", "--name", name, source, target)

    with pytest.raises(CipherdirError, match="not a sealed model") as caught:
        ovfuse.open_model(tmp_path / "tree")
    assert caught.value.hint
    with ovfuse.open_model(tmp_path / "tree" / "fleet" / "detector") as model:
        assert list(model.files) == ["d.xml"]


def test_what_is_no_model_is_refused(as_home: Home, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()

    for name in ("missing", "empty", "file"):
        with pytest.raises(CipherdirError, match=name):
            ovfuse.open_model(tmp_path / name)


def test_import_is_cheap_and_needs_no_openvino() -> None:
    program = (
        "import sys, ovfuse\n"
        "assert not {m for m in sys.modules if m.startswith('ovfuse.')}, sys.modules\n"
        "ovfuse.open_model\n"
        "assert 'openvino' not in sys.modules\n"
    )

    subprocess.run([sys.executable, "-c", program], check=True)


def test_unknown_attribute_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonesuch"):
        ovfuse.nonesuch  # noqa: B018 - the point
