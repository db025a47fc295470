"""`command:`: what programs may do wrong, and that nothing of them is left."""

import os
import shlex
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from ovfuse.errors import KeyFileError
from ovfuse.keys.sources import command as module
from ovfuse.keys.sources import parse_source
from tests.sources.conftest import program_in
from tests.support.mounting import is_gone
from tests.support.waiting import wait_until

SECRET = "AGE-SECRET-KEY-1NOTREALBUTLONGENOUGHTOBEONE"
RUNNER = """
import sys
from ovfuse.keys.sources import parse_source
parse_source(sys.argv[1]).read()
"""


def read(words: str) -> bytes:
    with parse_source(words).read() as secret:
        return bytes(secret.view)


def failure(words: str) -> str:
    """Return what the error says, which must be printable and without a secret."""
    with pytest.raises(KeyFileError) as caught:
        read(words)
    message = caught.value.message
    assert message.isprintable()
    assert "NOTREAL" not in message
    return message


def script(directory: Path, text: str) -> str:
    return f"command:{shlex.quote(str(program_in(directory, text)))}"


def test_output_is_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "a b").write_text("x\n")

    assert read(f"command:/bin/cat {shlex.quote(str(tmp_path / 'a b'))}") == b"x\n"


def test_no_shell_looks_at_the_arguments(tmp_path: Path) -> None:
    assert read("command:/bin/echo $HOME '*' ; x") == b"$HOME * ; x\n"


def test_what_the_program_gets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few variables, no input, no descriptor, no terminal, a directory of its own."""
    monkeypatch.setenv("SOME_TOKEN", "secret")
    monkeypatch.setenv("LD_PRELOAD", "")
    fd = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(fd, True)
    words = script(tmp_path, "env; pwd; cat; ls /proc/self/fd; ps -o sid= -p $$")
    lines = read(words).decode().splitlines()
    os.close(fd)

    names = {line.partition("=")[0] for line in lines if "=" in line}
    of_the_shell = {"LC_CTYPE", "OLDPWD", "PWD", "SHLVL", "_"}
    assert names - of_the_shell <= set(module._VARIABLES)
    assert "/" in lines
    assert f"{fd}" not in lines or fd <= 3
    assert int(lines[-1]) != os.getsid(0)


def test_exit_code_and_complaint_are_told(tmp_path: Path) -> None:
    words = script(tmp_path, "printf 'no\\033[2Jsuch key\\n' >&2; exit 3")

    said = failure(words)
    assert "ended with 3: 'no\\x1b[2Jsuch key'" in said
    assert said.startswith(f"'{words}'")


def test_complaint_is_bounded(tmp_path: Path) -> None:
    words = script(tmp_path, "head -c 1000000 /dev/zero | tr '\\0' x >&2; exit 1")

    assert len(failure(words)) < 600


@pytest.mark.parametrize(
    "text",
    [
        f"echo {SECRET} >&2; exit 1",
        f"echo {SECRET.lower()} >&2; exit 1",
        "echo NOTREAL-passphrase; echo it is NOTREAL-passphrase >&2; exit 1",
        "echo '-----BEGIN PRIVATE KEY-----' >&2; echo NOTREALNOTREAL >&2; exit 1",
    ],
)
def test_secret_in_a_complaint_is_not_repeated(tmp_path: Path, text: str) -> None:
    assert "wrote a secret to standard error" in failure(script(tmp_path, text))


def test_program_that_was_killed(tmp_path: Path) -> None:
    words = script(tmp_path, f"echo {SECRET}; kill -KILL $$")

    assert "got SIGKILL" in failure(words)


def test_too_much_output(tmp_path: Path) -> None:
    assert "prints more than a key needs" in failure(script(tmp_path, "yes"))


def test_empty_output_is_read(tmp_path: Path) -> None:
    assert read(script(tmp_path, ":")) == b""


def test_program_that_hangs_is_killed_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SECONDS", 1.0)
    pids = tmp_path / "pids"
    text = f"echo {SECRET}; sleep 1000 & echo $$ $! >{pids}; sleep 1000"
    said = failure(script(tmp_path, text))

    assert "does not end within 1 seconds" in said
    for pid in pids.read_text().split():
        wait_until(partial(is_gone, int(pid)))


def test_what_it_left_behind_is_killed_when_it_has_ended(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    text = f"echo found; sleep 1000 & echo $! >{pids}"

    assert read(script(tmp_path, text)) == b"found\n"
    wait_until(lambda: is_gone(int(pids.read_text())))


def test_it_dies_with_who_started_it_and_so_does_what_it_started(
    tmp_path: Path,
) -> None:
    pids = tmp_path / "pids"
    text = f"sleep 1000 & echo $$ $! >{pids}.new; mv {pids}.new {pids}; wait"
    words = script(tmp_path, text)
    with subprocess.Popen([sys.executable, "-c", RUNNER, words]) as process:
        wait_until(pids.exists)
        process.send_signal(signal.SIGKILL)
    for pid in pids.read_text().split():
        wait_until(partial(is_gone, int(pid)))


def test_program_that_is_not_there(tmp_path: Path) -> None:
    assert "No such file" in failure(f"command:{tmp_path / 'none'}")


def test_what_is_no_program(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("x")
    (tmp_path / "text").chmod(0o600)

    assert "is not a program" in failure(f"command:{tmp_path / 'text'}")
    assert "is not a program" in failure(f"command:{tmp_path}")


def test_program_without_a_known_form(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"\0\1\2")
    (tmp_path / "text").chmod(0o700)

    assert "Exec format error" in failure(f"command:{tmp_path / 'text'}")


@pytest.mark.parametrize("mode", [0o775, 0o757])
def test_program_that_others_can_write(tmp_path: Path, mode: int) -> None:
    words = script(tmp_path, "echo x")
    (tmp_path / "program").chmod(mode)

    assert "can be written by others" in failure(words)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_program_of_somebody_else(tmp_path: Path) -> None:
    words = script(tmp_path, "echo x")
    os.chown(tmp_path / "program", 54321, 54321)

    assert "belongs to another user" in failure(words)
