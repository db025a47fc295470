"""Tampered or forged bytes: an error of ovfuse's, and OpenVINO is never called."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

import ovfuse
from ovfuse.errors import DamagedError, OvfuseError
from tests.apps.insider import Insider
from tests.load.conftest import PATHS
from tests.support.mounting import ENGINES, Home, mounted, run_as

ROOT = Path(__file__).parents[2]
APP = (sys.executable, "-m", "tests.load.app")

PARTS = {
    "more/f32.xml": ("more/f32.xml", "more/f32.bin"),
    "more/paddle.pdmodel": ("more/paddle.pdmodel", "more/paddle.pdiparams"),
    "more/frozen.pb": ("more/frozen.pb",),
    "onnx/nmp.onnx": ("onnx/nmp.onnx",),
    "onnx-external/external.onnx": (
        "onnx-external/external.onnx",
        "onnx-external/external.onnx.data",
    ),
    "tflite/nmp.tflite": ("tflite/nmp.tflite",),
    "saved_model": (
        "saved_model/saved_model.pb",
        "saved_model/variables/variables.index",
        "saved_model/variables/variables.data-00000-of-00001",
    ),
    "compiled/basic_pitch.blob": ("compiled/basic_pitch.blob",),
}
"""The files that each model consists of."""

CASES = [(model, part) for model, parts in PARTS.items() for part in parts]

Forge = Callable[[Insider, Path, str], None]


class NoCore:
    """Stands for OpenVINO, which must not be called; it may be asked for settings."""

    def get_property(self, *_: str) -> str:
        return ""

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        def call(*_: object) -> NoReturn:
            raise AssertionError(f"OpenVINO was called: {name}")

        return call


def flip_first(insider: Insider, plain: Path, part: str) -> None:
    _flip(insider.object_of(part), 56)


def flip_middle(insider: Insider, plain: Path, part: str) -> None:
    _flip(insider.object_of(part), insider.object_of(part).stat().st_size // 2)


def flip_last(insider: Insider, plain: Path, part: str) -> None:
    _flip(insider.object_of(part), insider.object_of(part).stat().st_size - 1)


def _flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def truncate(insider: Insider, plain: Path, part: str) -> None:
    data = insider.object_of(part).read_bytes()
    insider.object_of(part).write_bytes(data[:-1])


def remove(insider: Insider, plain: Path, part: str) -> None:
    insider.object_of(part).unlink()


def forge(insider: Insider, plain: Path, part: str) -> None:
    """What the insider would like to be loaded, encrypted as the publisher would."""
    message = insider.encrypt(part, _other(plain / part))
    insider.replace_object(part, message)
    insider.replace_list(part, message)


def forge_block(insider: Insider, plain: Path, part: str) -> None:
    """By the same salt, so that only the block that differs is another."""
    insider.replace_object(part, insider.encrypt_alike(part, _other(plain / part)))


def _other(path: Path) -> bytes:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    return bytes(content)


FORGERIES = (flip_first, flip_middle, flip_last, truncate, remove, forge, forge_block)


@pytest.fixture
def copy(sealed: Path, tmp_path: Path) -> Path:
    """The sealed models, to be tampered with."""
    copy = tmp_path / "sealed"
    shutil.copytree(sealed, copy)
    return copy


def load(directory: Path, model: str, core: Any) -> None:
    with ovfuse.open_model(directory) as opened:
        if model.endswith(".blob"):
            opened.import_model(core, model, "CPU")
        else:
            opened.compile_model(core, model, "CPU")


@pytest.mark.openvino
@pytest.mark.parametrize("tamper", FORGERIES)
def test_openvino_is_not_called(
    as_home: Home, plain: Path, copy: Path, tamper: Forge
) -> None:
    insider = Insider(as_home, copy)
    (blocks,) = copy.glob("seals/*/blocks")
    for model, part in CASES:
        message, lists = insider.object_of(part).read_bytes(), blocks.read_bytes()
        tamper(insider, plain, part)

        with pytest.raises(DamagedError):
            load(copy, model, NoCore())

        insider.object_of(part).write_bytes(message)
        blocks.write_bytes(lists)


@pytest.mark.openvino
def test_openvino_is_called_without_tampering(as_home: Home, copy: Path) -> None:
    for model in PARTS:
        with pytest.raises(AssertionError, match="OpenVINO was called"):
            load(copy, model, NoCore())


@pytest.mark.openvino
def test_app_lives_through_it(home: Home, plain: Path, copy: Path) -> None:
    insider = Insider(home, copy)
    for model, part in CASES:
        if part == PARTS[model][-1]:
            forge(insider, plain, part)

    check_app(home, copy)


@pytest.mark.fuse
@pytest.mark.openvino
@pytest.mark.parametrize("engine", ENGINES)
def test_app_lives_through_it_on_a_mount(
    home: Home, plain: Path, copy: Path, engine: str
) -> None:
    with mounted(home, copy, home.directory / "mnt", engine=engine) as mount:
        insider = Insider(home, copy)
        for model, part in CASES:
            if part == PARTS[model][-1]:
                flip_middle(insider, plain, part)

        check_app(home, mount.mountpoint)


def check_app(home: Home, directory: Path) -> None:
    """Whatever was tampered with is an error; the process ends as it should."""
    done = run_as(home, *APP, directory, *PATHS, cwd=ROOT)

    assert done.returncode == 0, done.stderr
    found = {line["path"]: line for line in map(json.loads, done.stdout.splitlines())}
    errors = {path: line.get("error") for path, line in found.items()}
    assert errors == {path: "DamagedError" if path in PARTS else None for path in PATHS}


def test_every_error_is_one_line(as_home: Home, plain: Path, copy: Path) -> None:
    insider = Insider(as_home, copy)
    for _, part in CASES:
        flip_last(insider, plain, part)

    with ovfuse.open_model(copy) as model:
        for _, part in CASES:
            with pytest.raises(OvfuseError) as caught:
                model.read_bytes(part)
            assert caught.value.message.isprintable()
