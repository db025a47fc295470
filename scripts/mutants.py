"""Runs the mutants of mutants.toml: the program without one of its protections.

Each is a textual change of one file, made in a copy of the checkout with an environment
of its own, so that commands that tests start are mutated too. The tests named with it
run until one fails; if none does, the protection is not tested.
"""

import argparse
import concurrent.futures
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import tomllib
import venv
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIST = ROOT / "scripts" / "mutants.toml"
PAGE = ROOT / "docs" / "assurance.md"
START, END = "<!-- scripts/mutants -->\n", "<!-- end -->\n"
TIMEOUT_SECONDS = 600
HANG_SECONDS = 60
NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "*.pyc")
FAILED = re.compile(r"^(?:FAILED|ERROR) (tests/\S+?\.py(?:::\w+)?)", re.MULTILINE)
STARTED = re.compile(r"^(tests/\S+?\.py::\w+)", re.MULTILINE)
PYTEST_FAILED = 1


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """What is taken out: `old` must be there exactly once."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    quick: bool = False

    def apply(self, text: str) -> str:
        """Return the changed source.

        Raises:
            ValueError: the text is not there exactly once, or it would be no Python.
        """
        found = text.count(self.old)
        if found != 1:
            raise ValueError(f"{self.name}: found {found} times in {self.file}")
        changed = text.replace(self.old, self.new)
        compile(changed, self.file, "exec")
        return changed


@dataclass(frozen=True)
class Result:
    """Which test failed; None: none did."""

    mutant: Mutant
    test: str | None
    seconds: float


def load() -> list[Mutant]:
    """Return all mutants of the list."""
    entries = tomllib.loads(LIST.read_text(encoding="utf-8"))["mutant"]
    return [Mutant(**{**entry, "tests": tuple(entry["tests"])}) for entry in entries]


class Copy:
    """A copy of the checkout with an environment in which it is installed."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "checkout"
        self._temporary = directory / "t"  # sockets have short paths
        self._environment = directory / "venv"
        shutil.copytree(ROOT, self.root, ignore=NOT_COPIED, symlinks=True)
        venv.create(self._environment, with_pip=False, symlinks=True)
        libraries = sysconfig.get_path(
            "purelib", vars={"base": f"{self._environment}", "platbase": ""}
        )
        installed = Path(pytest.__file__).parents[1]
        Path(libraries, "copy.pth").write_text(f"{self.root}\n{installed}\n")
        program = self._environment / "bin" / "ovfuse"
        python = self._environment / "bin" / "python"
        program.write_text(f"#!{python}\nfrom ovfuse.cli import main\nmain()\n")
        program.chmod(0o755)

    @contextmanager
    def mutated(self, mutant: Mutant, number: int) -> Iterator[None]:
        """Change one file for as long as the context lasts."""
        path = self.root / "ovfuse" / mutant.file
        text = path.read_text(encoding="utf-8")
        status = path.stat()
        path.write_text(mutant.apply(text), encoding="utf-8")
        # Python tells old byte code by size and time: no two may agree.
        later = status.st_mtime_ns + 10**9 * (number + 1)
        os.utime(path, ns=(later, later))
        try:
            yield
        finally:
            path.write_text(text, encoding="utf-8")
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    def run(self, tests: Iterable[str]) -> tuple[int | None, str]:
        """Run tests up to a failure; return exit status (None: hung) and output."""
        shutil.rmtree(self._temporary, ignore_errors=True)
        binaries = self._environment / "bin"
        python = binaries / "python"
        # A daemon that a failed test left behind is ended, and unmounts.
        command: list[str | Path] = [python, "-m", "tests.support.leftovers"]
        command += [python, "-m", "pytest", "-x", "-v", "--tb=short"]
        command += ["-p", "no:randomly", "-p", "no:cacheprovider"]
        command += ["-o", f"faulthandler_timeout={HANG_SECONDS}"]
        command += [f"--basetemp={self._temporary}", *tests]
        environment = {
            **os.environ,
            "CI": "true",
            "OVFUSE_REQUIRE": "",
            "PATH": f"{binaries}:{os.environ['PATH']}",
            "VIRTUAL_ENV": f"{self._environment}",
        }
        process = subprocess.Popen(
            command,
            cwd=self.root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            said, _ = process.communicate(timeout=TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            said, _ = process.communicate()
            return None, said
        return process.returncode, said


def judge(copy: Copy, mutant: Mutant, number: int) -> Result:
    """Run the mutant's tests and see which one notices.

    Raises:
        RuntimeError: the tests did not run at all.
    """
    started = time.monotonic()
    with copy.mutated(mutant, number):
        status, said = copy.run(mutant.tests)
    seconds = time.monotonic() - started
    if status == 0:
        return Result(mutant, None, seconds)
    if failed := FAILED.search(said):
        if status == PYTEST_FAILED and "::" in failed[1]:
            return Result(mutant, failed[1], seconds)
    elif running := STARTED.findall(said):
        return Result(mutant, running[-1], seconds)  # hung, or died of a signal
    raise RuntimeError(f"{mutant.name}: the tests did not run:\n{said[-4000:]}")


def judge_all(
    mutants: Sequence[Mutant], jobs: int, directory: Path
) -> Iterator[Result]:
    """Yield the results in the order of the list."""
    copies: queue.SimpleQueue[Copy] = queue.SimpleQueue()
    for number in range(jobs):
        copies.put(Copy(directory / f"{number}"))
    _check_unchanged(mutants, copies)

    def one(item: tuple[int, Mutant]) -> Result:
        copy = copies.get()
        try:
            return judge(copy, item[1], item[0])
        finally:
            copies.put(copy)

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(one, enumerate(mutants))


def _check_unchanged(
    mutants: Sequence[Mutant], copies: "queue.SimpleQueue[Copy]"
) -> None:
    """Tests that fail anyway would notice everything.

    Raises:
        RuntimeError: they do.
    """
    tests = dict.fromkeys(test for mutant in mutants for test in mutant.tests)
    copy = copies.get()
    status, said = copy.run(tests)
    copies.put(copy)
    if status != 0:
        raise RuntimeError(f"without a mutant the tests fail:\n{said[-4000:]}")


def row(result: Result) -> str:
    """Return the row of the page's table."""
    noticed = f"`{result.test}`" if result.test else "**nothing**"
    return f"| {result.mutant.name} | `{result.mutant.file}` | {noticed} |\n"


def write_page(results: Iterable[Result]) -> None:
    """Put the results into the page's table; other rows stay, in the list's order."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    old, _, after = rest.partition(END)
    rows = {line.split("|")[1].strip(): line for line in old.splitlines(keepends=True)}
    rows |= {result.mutant.name: row(result) for result in results}
    names = [mutant.name for mutant in load() if mutant.name in rows]
    head = "| without | in | is noticed by |\n| --- | --- | --- |\n"
    table = head + "".join(rows[name] for name in names)
    PAGE.write_text(f"{before}{START}{table}{END}{after}", encoding="utf-8")


def main() -> int:
    """Run what was asked for; return the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("words", nargs="*")
    asked = parser.parse_args()
    mutants = [
        mutant
        for mutant in load()
        if (mutant.quick or not asked.quick)
        and (not asked.words or any(word in mutant.name for word in asked.words))
    ]
    results = []
    with tempfile.TemporaryDirectory(prefix="om-") as directory:
        for result in judge_all(mutants, asked.jobs, Path(directory)):
            noticed = result.test or "NOTHING"
            print(
                f"{result.seconds:5.1f} s  {result.mutant.name}: {noticed}", flush=True
            )
            results.append(result)
    survivors = [result.mutant.name for result in results if result.test is None]
    print(f"{len(results)} mutants, {len(survivors)} survived", *survivors, sep="\n")
    if asked.write:
        write_page(results)
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
