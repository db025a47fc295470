"""Which interpreter goes on with a mount, after scripts/install."""

import sys
from pathlib import Path

from ovfuse.serve.survival.installed import current_python


def environment(path: Path) -> Path:
    path.mkdir()
    (path / "ovfuse-installed").touch()
    return path


def test_newest_environment_beside_goes_on(tmp_path: Path) -> None:
    old, new = environment(tmp_path / "1"), environment(tmp_path / "2")
    link = tmp_path / "current"

    link.symlink_to(old.name)
    assert current_python(old) == f"{old}/bin/python3"
    link.unlink()
    link.symlink_to(new.name)

    assert current_python(old) == f"{new}/bin/python3"


def test_environments_of_others_are_left_alone(tmp_path: Path) -> None:
    own, other = environment(tmp_path / "1"), environment(tmp_path / "2")
    (tmp_path / "current").symlink_to(other.name)

    (other / "ovfuse-installed").unlink()  # not whole
    assert current_python(own) == sys.executable
    (other / "ovfuse-installed").touch()
    (own / "ovfuse-installed").unlink()  # not made by scripts/install

    assert current_python(own) == sys.executable
    assert current_python() == sys.executable
