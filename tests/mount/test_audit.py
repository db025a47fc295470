"""Who opened which model, and who was denied: one line for each, whoever they are."""

import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.mount.conftest import Sealed
from tests.mount.trees import build_small
from tests.support.mounting import Home, Mount, mounted, run_as, succeed
from tests.support.users import NOBODY

pytestmark = pytest.mark.fuse

OPENED = re.compile(
    r"opened model='(?P<model>.*?)' path='(?P<path>.*?)' version=(?P<version>\d+) "
    r"mountpoint='(?P<mountpoint>.*?)' uid=(?P<uid>\d+) gid=(?P<gid>\d+) "
    r"pid=(?P<pid>\d+) exe='(?P<exe>.*?)' comm='(?P<comm>.*?)'"
)


def opened(log: Path) -> list[dict[str, str]]:
    """What the lines about opened models say."""
    lines = [line for line in log.read_text().splitlines() if " INFO opened " in line]
    found = [OPENED.search(line) for line in lines]
    assert all(found), lines
    return [match.groupdict() for match in found if match]


def denied(log: Path) -> list[str]:
    return [line for line in log.read_text().splitlines() if " INFO denied " in line]


def test_line_says_who_opened_what(
    publisher: Home, small: Sealed, scratch: Path, mountpoint: Path, engine: str
) -> None:
    log = scratch / "log"
    options = ("-o", f"log={log}")
    with mounted(publisher, small.cipherdir, mountpoint, *options, engine=engine):
        for _ in range(3):
            (mountpoint / "model.xml").read_bytes()
        (mountpoint / "sub" / "labels.txt").read_bytes()
        os.listdir(mountpoint)
        os.stat(mountpoint / "model.bin")  # noqa: PTH116

    (line,) = opened(log)
    assert line == {
        "model": "small",
        "path": "",
        "version": "1",
        "mountpoint": f"{mountpoint}",
        "uid": f"{os.getuid()}",
        "gid": f"{os.getgid()}",
        "pid": f"{os.getpid()}",
        "exe": os.path.realpath(sys.executable),
        "comm": Path("/proc/self/comm").read_text().strip(),
    }


def test_each_process_is_told_once_whatever_its_threads(
    publisher: Home, small: Sealed, scratch: Path, mountpoint: Path, engine: str
) -> None:
    log, file = scratch / "log", mountpoint / "model.xml"
    options = ("-o", f"log={log}")
    with mounted(publisher, small.cipherdir, mountpoint, *options, engine=engine):
        threads = [threading.Thread(target=file.read_bytes) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for _ in range(2):
            subprocess.run(["cat", file], stdout=subprocess.DEVNULL, check=True)

    lines = opened(log)
    assert [Path(line["exe"]).name for line in lines[1:]] == ["cat", "cat"]
    assert lines[0]["pid"] == f"{os.getpid()}"
    assert len({line["pid"] for line in lines}) == 3


def test_next_version_is_told_anew(
    publisher: Home, scratch: Path, mountpoint: Path
) -> None:
    plain = build_small(scratch / "plain")
    succeed(publisher, "encrypt", plain, scratch / "sealed")
    log = scratch / "log"
    options = ("-o", f"log={log}")
    with mounted(
        publisher, scratch / "sealed", mountpoint, *options, engine="kernel"
    ) as mount:
        (mountpoint / "model.xml").read_bytes()
        succeed(publisher, "encrypt", plain, scratch / "sealed")
        while mount.model()["version"] != 2:
            pass
        (mountpoint / "model.xml").read_bytes()

    assert [line["version"] for line in opened(log)] == ["1", "2"]


def test_models_of_a_tree_and_other_accounts_are_told_apart(
    publisher: Home, user: Home, small: Sealed, scratch: Path, engine: str
) -> None:
    tree, log, mountpoint = scratch / "tree", scratch / "log", scratch / "mnt"
    (tree / "fleet").mkdir(parents=True)
    for name in ("small", "fleet/small"):
        shutil.copytree(small.cipherdir, tree / name)
    options = ("-o", f"log={log},allow_other")
    with mounted(publisher, tree, mountpoint, *options, engine=engine):
        for name in ("small", "fleet/small"):
            (mountpoint / name / "model.xml").read_bytes()
        done = run_as(user, "cat", mountpoint / "small" / "model.xml")
        assert done.returncode == 0

    lines = opened(log)
    assert [(line["path"], line["uid"]) for line in lines] == [
        ("small", f"{os.getuid()}"),
        ("fleet/small", f"{os.getuid()}"),
        ("small", f"{NOBODY}"),
    ]
    assert {line["model"] for line in lines} == {"small"}


def test_strangers_names_are_quoted(
    publisher: Home, small: Sealed, scratch: Path, mountpoint: Path
) -> None:
    log, program = scratch / "log", scratch / "x' uid=0\nforged\x1b[31m"
    shutil.copy("/bin/cat", program)
    options = ("-o", f"log={log}")
    with mounted(publisher, small.cipherdir, mountpoint, *options, engine="kernel"):
        subprocess.run(
            [program, mountpoint / "model.xml"], stdout=subprocess.DEVNULL, check=True
        )

    text = log.read_text()
    assert len(text.splitlines()) == 3
    assert "\x1b" not in text
    assert r"/x\' uid=0\nforged\x1b[31m' comm='x\' uid=0\n" in text


def test_program_of_another_namespace_has_no_name(
    publisher: Home, small: Sealed, scratch: Path, mountpoint: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount in another PID namespace")
    log = scratch / "log"
    mount = ["mount", "-o", f"log={log}"]
    inside = [*publisher.program, *mount, f"{small.cipherdir}", f"{mountpoint}"]
    script = '"$@" && touch "$READY" && read -r _; umount "$MNT"'
    ready = scratch / "ready"
    with subprocess.Popen(
        ["unshare", "--pid", "--fork", "sh", "-c", script, "sh", *inside],
        env={**publisher.environment, "READY": f"{ready}", "MNT": f"{mountpoint}"},
        stdin=subprocess.PIPE,
    ) as process:
        try:
            while not ready.exists():
                assert process.poll() is None
            (mountpoint / "model.xml").read_bytes()
        finally:
            process.communicate(b"\n")

    (line,) = opened(log)
    assert (line["pid"], line["exe"], line["comm"]) == ("0", "?", "?")
    assert line["uid"] == f"{os.getuid()}"


def locked_tree(publisher: Home, small: Sealed, scratch: Path) -> tuple[Path, Path]:
    """A tree with a model for the publisher and one that he cannot open."""
    tree = scratch / "tree"
    tree.mkdir()
    shutil.copytree(small.cipherdir, tree / "small")
    stranger = Home(directory=scratch / "stranger")
    succeed(stranger, "keygen")
    recipient = ("-r", stranger.recipient)
    succeed(publisher, "encrypt", *recipient, small.plain, tree / "other")
    return tree, scratch / "log"


def test_denials_are_told_and_counted(
    publisher: Home, small: Sealed, scratch: Path, mountpoint: Path, engine: str
) -> None:
    tree, log = locked_tree(publisher, small, scratch)
    options = ("-o", f"log={log}")
    with mounted(publisher, tree, mountpoint, *options, engine=engine) as mount:
        for number in range(40):
            with pytest.raises(PermissionError):
                (mountpoint / "other" / f"name {number}").read_bytes()
        assert mount.status()["denials"] >= 40
        assert mount.status()["opens"] == 0

    (line,) = denied(log)
    assert f"uid={os.getuid()} gid={os.getgid()} pid={os.getpid()} " in line
    assert f"exe='{os.path.realpath(sys.executable)}'" in line
    assert re.search(r"path='/other.*: it is not sealed for any", line), line


def test_one_account_cannot_fill_the_log_with_denials(
    publisher: Home, small: Sealed, scratch: Path, mountpoint: Path
) -> None:
    tree, log = locked_tree(publisher, small, scratch)
    options = ("-o", f"log={log}")
    with mounted(publisher, tree, mountpoint, *options, engine="kernel"):
        script = 'for i in $(seq 60); do cat "$1/other/$i"; done'
        done = subprocess.run(
            ["sh", "-c", script, "sh", mountpoint], capture_output=True, check=False
        )
        assert done.stderr.count(b"Permission denied") == 60

    lines = denied(log)
    assert len(lines) == 20
    assert lines[-1].endswith("(no more of this account for a while)")


def test_lock_is_a_denial(
    publisher: Home, small: Sealed, scratch: Path, mountpoint: Path
) -> None:
    log = scratch / "log"
    options = ("-o", f"log={log}")
    with mounted(publisher, small.cipherdir, mountpoint, *options, engine="kernel"):
        succeed(publisher, "lock", mountpoint)
        done = subprocess.run(
            ["cat", mountpoint / "model.xml"], capture_output=True, check=False
        )
        assert b"Permission denied" in done.stderr

    (line,) = denied(log)
    assert "the mount is locked" in line
    assert "comm='cat'" in line


def test_audit_can_be_turned_off(
    publisher: Home, small: Sealed, scratch: Path, mountpoint: Path
) -> None:
    tree, log = locked_tree(publisher, small, scratch)
    options = ("-o", f"log={log},audit=no")
    with mounted(publisher, tree, mountpoint, *options, engine="kernel") as mount:
        (mountpoint / "small" / "model.xml").read_bytes()
        with pytest.raises(PermissionError):
            (mountpoint / "other" / "model.xml").read_bytes()
        assert counted(mount) == (1, True)

    assert not opened(log)
    assert not denied(log)


def counted(mount: Mount) -> tuple[int, bool]:
    found = mount.status()
    return found["opens"], found["denials"] > 0
