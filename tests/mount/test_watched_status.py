"""`ovfuse status --watch`: a list per line, lines again and again, or a screen."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.mount.conftest import Sealed
from tests.support.mounting import Home, mounted, run_ovfuse, start_ovfuse

pytestmark = pytest.mark.fuse


def test_watch_prints_a_list_per_line_and_unlocks_nothing(
    publisher: Home, small: Sealed, scratch: Path, mountpoint: Path
) -> None:
    tree = scratch / "tree"
    tree.mkdir()
    for name in ("a/small", "b/small"):
        shutil.copytree(small.cipherdir, tree / name)
    with mounted(publisher, tree, mountpoint, engine="kernel"):
        words = ("status", "--watch", "--interval", "0.1", "--json")
        process = start_ovfuse(publisher, *words)
        assert process.stdout is not None
        lists = [json.loads(process.stdout.readline()) for _ in range(3)]
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)

    assert (process.returncode, said) == (0, "")
    for found in lists:
        (mount,) = [m for m in found if m["mountpoint"] == f"{mountpoint}"]
        assert sorted(m["state"] for m in mount["models"]) == ["locked", "unlocked"]


def test_watch_prints_text_again_where_there_is_no_terminal(
    publisher: Home, small: Sealed, mountpoint: Path
) -> None:
    with mounted(publisher, small.cipherdir, mountpoint, engine="kernel"):
        process = start_ovfuse(publisher, "status", "--watch", "--interval", "0.1")
        assert process.stdout is not None
        lines: list[str] = []
        while sum(f"{mountpoint}  " in line for line in lines) < 2:
            lines.append(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)

    assert process.returncode == 0
    assert "\n" in lines


def test_watch_redraws_a_terminal_and_leaves_it_as_it_was(
    publisher: Home, small: Sealed, mountpoint: Path
) -> None:
    terminal, its_end = os.openpty()
    with mounted(publisher, small.cipherdir, mountpoint, engine="kernel"):
        process = subprocess.Popen(
            [*publisher.program, "status", "--watch", "--interval", "0.1"],
            env={**publisher.environment, "TERM": "xterm", "COLUMNS": "200"},
            stdin=its_end,
            stdout=its_end,
            stderr=subprocess.PIPE,
        )
        os.close(its_end)
        screen = b""
        while screen.count(b"MOUNTPOINT") < 3:
            screen += os.read(terminal, 65536)
        process.send_signal(signal.SIGINT)
        while b"\x1b[?1049l" not in screen:
            screen += os.read(terminal, 65536)
        _, said = process.communicate(timeout=30)
    os.close(terminal)

    assert (process.returncode, said) == (0, b"")
    assert b"\x1b[?1049h" in screen
    assert b"\x1b[?25h" in screen  # the cursor
    assert run_ovfuse(publisher, "status", "--watch", "--interval", "0").returncode == 2
