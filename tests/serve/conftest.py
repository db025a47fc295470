"""Real mounts of a memory view; each must leave nothing behind."""

import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovfuse.serve.resident.memory_filesystem import MemoryFilesystem
from tests.serve.mounter import NOBODY, ROOT, Mounter
from tests.support.mounting import ENGINES


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """The engine under test; every test of the mount runs with each."""
    name: str = request.param
    return name


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A directory whose content is served; tests add to it before they mount."""
    directory = tmp_path / "source"
    (directory / "sub").mkdir(parents=True)
    (directory / "small.txt").write_bytes(b"hello\n")
    (directory / "sub" / "inner.txt").write_bytes(b"inner\n")
    return directory


@pytest.fixture
def mountpoint(tmp_path: Path) -> Path:
    """An empty directory."""
    directory = tmp_path / "mnt"
    directory.mkdir()
    return directory


@pytest.fixture
def mounter(
    engine: str, source: Path, mountpoint: Path, tmp_path: Path
) -> Iterator[Mounter]:
    """Mounts `source` on `mountpoint`; at the end nothing of it may be left."""
    mounter = Mounter(engine, source, mountpoint, tmp_path)
    yield mounter
    mounter.end()


@pytest.fixture
def open_path() -> Iterator[Path]:
    """An empty directory that every account can reach, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="ovfuse-") as parent:
        Path(parent).chmod(0o755)
        directory = Path(parent) / "mnt"
        directory.mkdir()
        yield directory


@pytest.fixture(scope="session")
def users_environment() -> dict[str, str]:
    """What an interpreter needs that is not that of this environment."""
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{ROOT}:{sysconfig.get_path('purelib')}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


@pytest.fixture(scope="session")
def users_python(users_environment: dict[str, str]) -> str:
    """An interpreter that an ordinary user can run, with what ovfuse needs."""
    if os.geteuid() != 0:
        pytest.skip("only root can become an ordinary user")
    for python in (sys.executable, "/usr/bin/python3"):
        try:
            subprocess.run(
                [python, "-c", "import ovfuse.serve.lifecycle, ovfuse.serve.libfuse"],
                env=users_environment | {"FUSE_LIBRARY_NAME": "fuse3"},
                user=NOBODY,
                group=NOBODY,
                extra_groups=[],
                cwd="/",
                check=True,
                capture_output=True,
            )
        except (OSError, subprocess.CalledProcessError):
            continue
        return python
    pytest.skip("no interpreter here that an ordinary user can run")


@pytest.fixture
def filesystem() -> Iterator[MemoryFilesystem]:
    """Where files in memory are; in no table of mounts."""
    if os.geteuid() != 0:
        pytest.skip("only root can make one")
    made = MemoryFilesystem()
    yield made
    made.close()
