"""What tests/support/known_secrets.py sees, and that it fails a run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ovfuse.sealed.wrapping import Identity
from tests.support.known_secrets import Collector, collector
from tests.support.mounting import Home, run_ovfuse, succeed
from tests.support.users import open_directory

ROOT = Path(__file__).parents[1]
IDENTITY = Identity.generate()
PRIVATE = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAAsecretAAAAsecret\n-----END"
KEY = bytes(range(32, 64))
PLAINTEXT = "<net name='topsecret' version='11'/>"


@pytest.fixture
def made(tmp_path: Path) -> Collector:
    found = Collector()
    (tmp_path / "identity.txt").write_text(f"# public: no secret\n{IDENTITY}\n")
    (tmp_path / "signing_key").write_text(PRIVATE)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.xml").write_text(PLAINTEXT)
    found.add_key_file(tmp_path / "identity.txt")
    found.add_key_file(tmp_path / "signing_key")
    found.add_key(KEY)
    found.add_plaintext(tmp_path / "model")
    return found


SEEN = {
    "identity": (f"error: {IDENTITY}", "age identity"),
    "unknown identity": ("AGE-SECRET-KEY-1" + "Q" * 58, "age identity"),
    "lower case": (IDENTITY.lower(), "age identity"),
    "head of a private key": (PRIVATE.splitlines()[0], "private key"),
    "line of a private key": ("x AAAAsecretAAAAsecret", "private key"),
    "OpenSSH": ("b3BlbnNzaC1rZXktdjEAAAAABG5vbmU", "OpenSSH private key"),
    "hex": (f"key {KEY.hex()}", "key"),
    "bytes": (f"{KEY!r}", "key"),
    "plaintext": (f"malformed: {PLAINTEXT}", "plaintext"),
}


@pytest.mark.parametrize("case", SEEN)
def test_secret_is_seen(made: Collector, case: str) -> None:
    text, kind = SEEN[case]
    made.record("harmless", text)
    ((test, found),) = made.findings()

    assert found == kind
    assert test.endswith(f"::test_secret_is_seen[{case}]")


def test_what_is_no_secret_is_not_seen(made: Collector) -> None:
    made.record("# public: no secret", "age1" + "q" * 58, "SHA256:" + "A" * 43, "")

    assert made.findings() == []


def test_log_is_read_before_it_is_gone(made: Collector, tmp_path: Path) -> None:
    (tmp_path / "log").write_text(IDENTITY)
    made.record_log(tmp_path / "log")
    made.record_log(tmp_path / "none")
    made.read_logs()
    (tmp_path / "log").unlink()

    assert [kind for _, kind in made.findings()] == ["age identity"]


def test_commands_are_watched() -> None:
    outputs, secrets = collector.counts
    with open_directory() as directory:
        home = Home(directory=directory / "home")
        succeed(home, "keygen")
        assert collector.counts[0] > outputs
        assert collector.counts[1] > secrets
        line = home.identity.read_text().splitlines()[-1]

        assert line in collector._secrets
        assert run_ovfuse(home, "keygen").stderr


def test_identity_in_the_place_of_something_else_is_not_repeated() -> None:
    with open_directory() as directory:
        home = Home(directory=directory / "home")
        for command in (
            ("encrypt", "-r", IDENTITY, directory, directory / "sealed"),
            ("trust", "add", IDENTITY),
            ("inspect", IDENTITY.lower()),
            (IDENTITY,),
        ):
            done = run_ovfuse(home, *command)
            assert done.returncode != 0
            assert IDENTITY[16:].lower() not in (done.stdout + done.stderr).lower()


def test_run_fails(tmp_path: Path) -> None:
    """A run of its own, in which a test tells a secret on the command line."""
    (tmp_path / "test_it.py").write_text(
        "from tests.support.mounting import Home, run_ovfuse\n"
        "def test_it(tmp_path):\n"
        "    home = Home(directory=tmp_path / 'home')\n"
        f"    assert run_ovfuse(home, 'inspect', '{PRIVATE.splitlines()[0]}').stderr\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest"]
    command += ["-c", f"{ROOT / 'pyproject.toml'}", f"--rootdir={ROOT}"]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", f"{tmp_path / 'test_it.py'}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}"},
        check=False,
        capture_output=True,
        text=True,
    )

    assert "1 passed" in done.stdout, done.stdout + done.stderr
    assert "SECRET IN OUTPUT: private key: " in done.stdout
    assert PRIVATE.splitlines()[0] not in done.stdout
    assert done.returncode == 1
