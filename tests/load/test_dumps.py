"""Variables by which OpenVINO writes models to disk: refused, and named."""

import os
import sys
from pathlib import Path

import pytest

import ovfuse
from ovfuse.errors import LoadError
from ovfuse.load.dumps import dump_variables
from tests.support import more_models
from tests.support.mounting import ENGINES, Home, mounted, run_as, run_ovfuse, succeed
from tests.support.sealed import write_files

NAMES = (
    "OV_ENABLE_SERIALIZE_TRACING",
    "OV_ENABLE_VISUALIZE_TRACING",
    "OPENVINO_HETERO_VISUALIZE",
    "OV_CPU_BLOB_DUMP_DIR",
    "OV_CPU_EXEC_GRAPH_PATH",
    "OV_CPU_DUMP_IR",
    "OV_GPU_DUMP_GRAPHS_PATH",
    "NPUW_DUMP_SUBS",
    "OPENVINO_NPUW_DUMP_FULL",
)
SERIALIZE = NAMES[0]


@pytest.fixture(scope="module")
def small(home: Home) -> Path:
    cipherdir = home.directory / "dumps"
    succeed(home, "encrypt", write_files(home.directory / "dumps-plain"), cipherdir)
    return cipherdir


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in dump_variables():
        monkeypatch.delenv(name)


@pytest.mark.parametrize("name", NAMES)
def test_opening_is_refused(
    as_home: Home, small: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "secret-value")

    with pytest.raises(LoadError, match=name) as caught:
        ovfuse.open_model(small)
    assert "secret-value" not in caught.value.message + caught.value.hint


@pytest.mark.parametrize("value", ["", "0", "false", "OFF"])
def test_switched_off_is_not_set(
    as_home: Home, small: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv(SERIALIZE, value)

    with ovfuse.open_model(small) as model:
        assert model.files


@pytest.mark.parametrize(
    "name", ["OV_VISUALIZE_TREE_IO", "OV_CPU_MAX_ISA", "DUMP", "OV_DUMP\n"]
)
def test_others_are_let_be(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")

    assert dump_variables() == []


def test_loading_is_refused_when_it_is_set_later(
    as_home: Home, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ovfuse.open_model(small) as model:
        monkeypatch.setenv(SERIALIZE, "1")

        for load in (model.read_model, model.compile_model):
            with pytest.raises(LoadError, match=SERIALIZE):
                load(None, "model.xml")
        with pytest.raises(LoadError, match=SERIALIZE):
            model.import_model(None, "model.bin", "CPU")
        assert model.read_bytes("sub/labels.txt") == b"cat\ndog\n"


@pytest.mark.openvino
def test_it_can_be_allowed_and_then_openvino_does_write(
    home: Home, tmp_path: Path
) -> None:
    """So that there is something to guard against."""
    more_models.ir(tmp_path / "plain" / "f32.xml", "f32")
    sealed = tmp_path / "sealed"
    succeed(home, "encrypt", tmp_path / "plain", sealed)
    program = """
import os, sys
os.environ[sys.argv[2]] = sys.argv[3]
import openvino, ovfuse
with ovfuse.open_model(sys.argv[1], allow_dumps=True) as model:
    model.compile_model(openvino.Core(), "f32.xml", "CPU")
"""
    for value, leaks in (("true", True), ("0", False), ("", False)):
        directory = tmp_path / (value or "empty")
        directory.mkdir()
        command = (sys.executable, "-c", program, sealed, SERIALIZE, value)
        done = run_as(home, *command, cwd=directory)
        assert done.returncode == 0, done.stderr
        assert any(directory.glob("*.bin")) == leaks


@pytest.mark.fuse
@pytest.mark.parametrize("engine", ENGINES)
def test_mount_refuses_what_its_apps_inherit(
    home: Home, small: Path, tmp_path: Path, engine: str
) -> None:
    told = Home(
        directory=home.directory,
        extra={SERIALIZE: "secret-value", NAMES[3]: "/secret-value"},
    )
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    options = ("-o", f"engine={engine}")
    done = run_ovfuse(told, "mount", *options, small, mountpoint)
    assert done.returncode == LoadError.exit_code
    assert f"error: OpenVINO would write what it loads to disk: {NAMES[3]}, " in (
        done.stderr
    )
    assert "-o allow_dumps" in done.stderr
    assert "secret-value" not in done.stderr

    options = ("-o", f"engine={engine},allow_dumps")
    done = run_ovfuse(told, "mount", *options, small, mountpoint)
    succeed(home, "unmount", mountpoint)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if SERIALIZE in line]
    assert line.startswith("ovfuse: warning: ")
    assert NAMES[3] in line
    assert "secret-value" not in done.stderr
    with mounted(home, small, mountpoint, engine=engine):
        pass
    assert os.listdir(mountpoint) == []
