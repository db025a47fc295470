"""What /etc/ovfuse/NAME.conf says of the mounts that are to be there."""

from pathlib import Path

from ovfuse.serve.configured import Configured, configured_mounts


def test_files_are_read_as_systemd_reads_them(tmp_path: Path) -> None:
    (tmp_path / "models.conf").write_text(
        "# CIPHERDIR=/no\n; MOUNTPOINT=/no\n\n"
        "CIPHERDIR=/srv/sealed models \n"
        "MOUNTPOINT='/srv/models'\n"
        'OPTIONS="allow_other,umask=027"\nnonsense\n'
    )
    (tmp_path / "empty.conf").touch()
    (tmp_path / "directory.conf").mkdir()
    (tmp_path / "models.identity.cred").touch()

    empty, models = configured_mounts(tmp_path)

    assert (empty.name, empty.cipherdir, empty.mountpoint) == ("empty", "", "")
    assert models == Configured(
        name="models",
        cipherdir="/srv/sealed models",
        mountpoint="/srv/models",
        options="allow_other,umask=027",
    )
    assert models.unit == "ovfuse@models.service"


def test_no_directory_is_no_mounts(tmp_path: Path) -> None:
    assert list(configured_mounts(tmp_path / "none")) == []


def test_names_may_hold_anything(tmp_path: Path) -> None:
    (tmp_path / "a.conf").write_bytes(b"MOUNTPOINT=/srv/\xff'\nCIPHERDIR='\n")

    (found,) = configured_mounts(tmp_path)

    assert (found.mountpoint, found.cipherdir) == ("/srv/\udcff'", "'")
