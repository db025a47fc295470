"""Nothing secret in what commands are told, print and log: a plugin of every run.

Whatever goes through `mounting.run_ovfuse` is kept, and so are the secrets at hand: the
lines of key files, the model keys of the encryptor, the beginnings of what is sealed.
At the end of the run none may be in any output; a finding names the test and the kind
of the secret, never the secret. That key files hold keys is what they are for.
"""

import base64
import contextlib
import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path

import pytest

from tests.support import encryptor, mounting
from tests.support.mounting import Completed, Home

__all__ = ["Collector", "Plugin", "collector", "record_output"]

Argument = str | os.PathLike[str]

# These are secret whoever made them.
_PATTERNS = {
    "age identity": re.compile(r"AGE-SECRET-KEY-1[0-9A-Z]{20}", re.IGNORECASE),
    "private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "OpenSSH private key": re.compile(r"b3BlbnNzaC1rZXktdjE"),  # its first bytes
}
_SMALLEST = 12
_FILES_LOOKED_AT = 50
_MARKER_SIZE = 24


class Collector:
    """The outputs and the secrets of a run."""

    def __init__(self) -> None:
        self._secrets: dict[str, str] = {}
        self._outputs: list[tuple[str, str]] = []
        self._logs: list[tuple[str, Path]] = []

    def add_secret(self, kind: str, *values: str) -> None:
        """Take what must not be seen in any output; what is too short is left out."""
        for value in values:
            if len(value) >= _SMALLEST:
                self._secrets[value] = kind

    def add_key(self, key: bytes) -> None:
        """Take a key in the ways in which it could be shown."""
        text = base64.b64encode(key).decode()
        raw = key.decode("utf-8", "surrogateescape")
        self.add_secret("key", key.hex(), text.rstrip("="), raw, repr(key)[2:-1])

    def add_key_file(self, path: Path) -> None:
        """Take every line of a key file that is secret."""
        try:
            lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
        except (OSError, UnicodeDecodeError):
            return
        is_private = any("PRIVATE KEY-----" in line for line in lines)
        for line in lines:
            if line.startswith("AGE-SECRET-KEY-1"):
                self.add_secret("age identity", line)
            elif is_private and not line.startswith("-----"):
                self.add_secret("private key", line)

    def add_plaintext(self, directory: Path) -> None:
        """Take the beginnings of some files that are sealed."""
        files = (path for path in directory.rglob("*") if path.is_file())
        for path in islice(files, _FILES_LOOKED_AT):
            with contextlib.suppress(OSError), path.open("rb") as file:
                start = file.read(_MARKER_SIZE)
                if len(set(start)) >= _SMALLEST // 2:
                    self.add_secret("plaintext", start.decode("utf-8", "ignore"))

    def record(self, *texts: str) -> None:
        """Take what a command was told, printed or logged."""
        self._outputs.extend((_test(), text) for text in texts if text)

    def record_log(self, path: Path) -> None:
        """Take a log file, which is read when the test ends."""
        self._logs.append((_test(), path))

    def read_logs(self) -> None:
        """Read the log files, before they are removed."""
        for test, path in self._logs:
            with contextlib.suppress(OSError):
                text = path.read_bytes().decode("utf-8", "surrogateescape")
                self._outputs.append((test, text))
        self._logs.clear()

    def findings(self) -> list[tuple[str, str]]:
        """Return the tests in which something secret was seen, and its kind."""
        return sorted(
            {(test, kind) for test, text in self._outputs for kind in self._in(text)}
        )

    @property
    def counts(self) -> tuple[int, int]:
        """How many outputs and how many secrets there are."""
        return len(self._outputs), len(self._secrets)

    def _in(self, text: str) -> Iterator[str]:
        for kind, pattern in _PATTERNS.items():
            if pattern.search(text):
                yield kind
        for value, kind in self._secrets.items():
            if value in text:
                yield kind


def _test() -> str:
    return os.environ.get("PYTEST_CURRENT_TEST", "?").rpartition(" ")[0]


collector = Collector()
record_output = collector.record


def _observe(home: Home, command: Sequence[Argument], done: Completed) -> None:
    """Take all that there is to know about a command of ovfuse that has ended."""
    words = [os.fspath(word) for word in command]
    # A private key in the place of a recipient is a mistake that a test makes.
    given = [word for word in words if not _PATTERNS["age identity"].search(word)]
    collector.record(*given, *home.environment.values(), done.stdout, done.stderr)
    keys = [home.identity, home.config / "signing_key"]
    for before, word in pairwise(words):
        if before in {"-i", "--identity", "--signing-key"}:
            keys.append(Path(home.directory, word))
        if before in {"--key-file", "--iv-file", "--password-file"}:
            with contextlib.suppress(OSError, UnicodeDecodeError):
                text = Path(home.directory, word).read_text("utf-8")
                collector.add_secret("key", text.strip())
    for path in keys:
        collector.add_key_file(path)
    for word in words:
        for name in re.findall(r"(?:^|,)log=([^,]+)", word):
            collector.record_log(Path(home.directory, name))
    # `encrypt ... MODEL_DIR CIPHERDIR`; a directory around key files is none.
    if "encrypt" in words:
        model = Path(home.directory, words[-2])
        if model.is_dir() and not home.directory.is_relative_to(model):
            collector.add_plaintext(model)


def _observing(run: Callable[..., Completed]) -> Callable[..., Completed]:
    @functools.wraps(run)
    def observed(home: Home, *command: Argument, cwd: Path | None = None) -> Completed:
        done = run(home, *command, cwd=cwd)
        # Other programs, such as age, are asked for secrets.
        if command[: len(home.program)] == home.program:
            _observe(home, command, done)
        return done

    return observed


class Plugin:
    """Watches from the start of a run, and fails it at the end."""

    def __init__(self) -> None:
        add_key_file = encryptor.SealedFiles.add_key_file

        @functools.wraps(add_key_file)
        def remembered(
            made: encryptor.SealedFiles, recipient: str, key: bytes | None = None
        ) -> str:
            collector.add_key(key or made.model_key)
            return add_key_file(made, recipient, key)

        patch = pytest.MonkeyPatch()
        patch.setattr(mounting, "run_as", _observing(mounting.run_as))
        patch.setattr(encryptor.SealedFiles, "add_key_file", remembered)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_teardown(self) -> None:
        """Read logs as long as they are there."""
        collector.read_logs()

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail the run if anything secret was seen."""
        if collector.findings():
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter
    ) -> None:
        """Say where."""
        found: Iterable[tuple[str, str]] = collector.findings()
        for test, kind in found:
            terminalreporter.write_line(f"SECRET IN OUTPUT: {kind}: {test}", red=True)
