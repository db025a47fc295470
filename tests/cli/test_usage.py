"""What is called wrongly ends with one line and code 2; help and version with 0."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from ovfuse import __version__
from ovfuse.errors import UsageError
from tests.support.mounting import OVFUSE, Home, refused, run_as, run_ovfuse, succeed

COMMANDS = (
    *("keygen", "encrypt", "mount", "unmount", "status", "verify", "inspect"),
    *("trust", "trust add", "trust list", "trust remove"),
    *("import-openssl", "decrypt", "prune", "doctor", "recipients", "recipients add"),
    *("recipients remove", "recipients list"),
)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "frobnicate",
        "--nope",
        "mount",
        "mount one",
        "mount one two three",
        "mount --nope one two",
        "mount -o",
        "encrypt one",
        "encrypt -r",
        "verify",
        "inspect",
        "unmount",
        "status extra",
        "keygen -o",
        "trust",
        "trust frobnicate",
        "trust add",
        "trust remove",
        "frob\x1b[31m\n",
        "mount --no\x07pe",
        "verify --json=yes one",
    ],
    ids=repr,
)
def test_wrong_calls(home: Home, line: str) -> None:
    said = refused(home, UsageError, *line.split(" "))
    assert not (home.config / "identity.txt").exists()
    assert "Traceback" not in said


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_says_what_a_command_does(home: Home, command: str) -> None:
    text = succeed(home, *command.split(), "--help")
    assert text.startswith(f"Usage: ovfuse {command}".rstrip())


def test_help_lists_all_commands(home: Home) -> None:
    text = succeed(home, "-h")
    for command in COMMANDS:
        assert f"  {command.split()[0]} " in text


def test_version(home: Home) -> None:
    assert succeed(home, "--version") == f"ovfuse {__version__}\n"
    python = Path(OVFUSE[0]).with_name("python")
    assert run_as(home, python, "-m", "ovfuse", "--version").stdout == (
        f"ovfuse {__version__}\n"
    )


def test_there_may_be_no_home(scratch: Path, plain: Path) -> None:
    nowhere: Mapping[str, str] = {"HOME": "", "XDG_CONFIG_HOME": ""}
    home = Home(directory=scratch / "home", extra=nowhere)

    done = run_ovfuse(home, "encrypt", plain, scratch / "sealed")
    assert done.returncode == 17
    assert done.stderr == (
        "ovfuse: error: there is no home directory to keep keys in\n"
    )
    assert not (scratch / "sealed").exists()


class Streams:
    """The program with its standard streams as a shell might leave them."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def run(self, script: str, *paths: Path) -> subprocess.CompletedProcess[str]:
        """Run a script in which $0 is the program."""
        return run_as(self._home, "bash", "-c", script, *self._home.program, *paths)


@pytest.fixture
def streams(home: Home) -> Streams:
    return Streams(home)


def test_closed_streams_do_no_harm(streams: Streams, plain: Path, home: Home) -> None:
    sealed = home.directory / "sealed"
    done = streams.run('"$0" encrypt "$1" "$2" <&- >&- 2>&-', plain, sealed)
    assert done.returncode == 0
    assert streams.run('"$0" verify "$1" 2>&-', sealed).returncode == 0
    assert streams.run('"$0" verify "$1" <&- >&- 2>&-', plain).returncode == 10


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_reader_may_have_seen_enough(
    streams: Streams, home: Home, unbuffered: str
) -> None:
    succeed(home, "keygen")
    script = (
        f"export PYTHONUNBUFFERED={unbuffered}; "
        '(sleep 0.5; "$0" trust list; echo "code $?" >&2) | true'
    )
    assert streams.run(script).stderr == "code 1\n"


def test_full_disk_is_told(streams: Streams, home: Home) -> None:
    succeed(home, "keygen")
    done = streams.run('"$0" trust list >/dev/full')
    assert done.returncode == 1
    assert done.stderr == ("ovfuse: error: standard output: No space left on device\n")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_names_that_the_encoding_lacks_are_escaped(
    scratch: Path, encoding: str
) -> None:
    extra = {"PYTHONIOENCODING": encoding}
    home = Home(directory=scratch / "home", extra=extra)
    plain = scratch / "plain"
    plain.mkdir()
    (plain / "\U0001f9e0").touch()

    assert "\\U0001f9e0" in succeed(
        home, "encrypt", "--name", "\U0001f9e0", plain, scratch / "sealed"
    )
    assert "ok     '\\U0001f9e0'" in succeed(home, "verify", scratch / "sealed")


def test_terminal_gets_a_progress_bar_and_a_pipe_does_not(
    home: Home, plain: Path, scratch: Path
) -> None:
    command = [*home.program, "encrypt", os.fspath(plain), os.fspath(scratch / "one")]
    shell = " ".join(f"'{word}'" for word in command)
    done = run_as(home, "script", "-qec", shell, "/dev/null")
    assert done.returncode == 0
    assert "\x1b[" in done.stdout
    assert "\x1b" not in run_ovfuse(home, "encrypt", plain, scratch / "two").stderr
