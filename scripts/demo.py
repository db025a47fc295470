"""The demo's logic; started by the shell script of the same name, in its .venv.

Commands are printed as they are run, so they can be typed again. Everything happens in
a directory of its own below .cache, with a fresh home for keys and state; both are
removed at the end, and whatever is still mounted there is unmounted.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tests.support import cxx, models
from tests.support.leaks import KEY_SIZE, PIECE_SIZE, PlaintextIndex

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache"
INFER = ROOT / "tests" / "support" / "infer.py"

SEALED = "sealed"
MOUNTPOINT = "mnt"
TIMEOUT_SECONDS = 300
PIPED_WIDTH = 140
SHOWN_DIGITS = 8
OCTAL = re.compile(r"\\([0-7]{3})")  # how mountinfo writes blanks and the like


@dataclass(frozen=True, kw_only=True)
class App:
    """A program that is given a model's path."""

    name: str
    command: tuple[str, ...]
    saves_outputs: bool = False
    compared: bool = True


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What an app made of a model: one line, and its outputs if it saved them."""

    result: str
    seconds: float
    failed: bool = False
    outputs: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One app on one model, by the plain path and by the mount's."""

    model: models.Model
    app: App
    plain: Outcome
    mount: Outcome
    passed: bool


class Shell:
    """Runs commands in the demo's directory and prints them as one would type them."""

    def __init__(self, console: Console, directory: Path, home: Path) -> None:
        """Keep the environment: nothing of the caller's keys or settings is used."""
        self.console = console
        self.directory = directory
        # Where python, ovfuse and benchmark_app are.
        programs = Path(sys.executable).parent
        own = {
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / "config"),
            "XDG_STATE_HOME": str(home / "state"),
            "XDG_RUNTIME_DIR": str(home / "run"),
            # Keeps OpenVINO's telemetry quiet.
            "CI": "true",
        }
        (home / "run").mkdir(mode=0o700)
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("OVFUSE_") and name != "CREDENTIALS_DIRECTORY"
        }
        path = f"{programs}:{os.environ['PATH']}"
        self.environment = inherited | own | {"PATH": path}
        self.show("cd", str(directory))
        self.show("export", f"PATH={programs}:$PATH")
        for name, value in own.items():
            self.show("export", f"{name}={value}")

    def show(self, *command: str) -> None:
        """Print a command."""
        words = (word if "$PATH" in word else shlex.quote(word) for word in command)
        self.console.print(Text(f"$ {' '.join(words)}", style="bold"), soft_wrap=True)

    def run(self, *command: str) -> None:
        """Run a command, its output passed through; raise if it fails."""
        self.show(*command)
        subprocess.run(
            command,
            check=True,
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            timeout=TIMEOUT_SECONDS,
        )

    def capture(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command and return what it printed."""
        self.show(*command)
        return subprocess.run(
            command,
            capture_output=True,
            check=False,
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=TIMEOUT_SECONDS,
        )


def main() -> int:
    """Run the demo; return the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/demo")
    parser.add_argument(
        "--large", type=int, default=256, metavar="MIB", help="size of the large model"
    )
    large_size = parser.parse_args().large * models.MiB
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    console = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)
    started = time.perf_counter()
    try:
        passed = _demo(console, large_size)
    except (subprocess.SubprocessError, OSError) as error:
        console.print(f"demo: {error}", style="red", markup=False)
        passed = False
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    seconds = time.perf_counter() - started
    console.print(f"{'passed' if passed else 'FAILED'} after {seconds:.0f} s")
    return 0 if passed else 1


def _stop(number: int, _frame: object) -> NoReturn:
    """Leave through the `finally` clauses, with the shell's status for a signal."""
    sys.exit(128 + number)


def _demo(console: Console, large_size: int) -> bool:
    console.rule("models")
    CACHE.mkdir(exist_ok=True)
    (CACHE / ".gitignore").write_text("*\n")
    cache = CACHE / "models"
    plain = models.build_model_directory(cache / "demo", cache, large_size)
    apps = _apps(console, cache)
    console.print(f"{plain}: {_megabytes(plain)}", soft_wrap=True)
    with _workspace(console) as shell:
        console.rule("seal and mount")
        # Relative, as one would type it.
        model_dir = os.path.relpath(plain, shell.directory)
        shell.run("ovfuse", "keygen")
        shell.run("ovfuse", "encrypt", model_dir, SEALED)
        shell.run("ovfuse", "mount", SEALED, MOUNTPOINT)
        try:
            console.rule("apps")
            rows = [
                _run_both(shell, model, app, model_dir)
                for model in models.LAYOUT
                for app in apps
                if _suits(app, model)
            ]
        finally:
            console.rule("unmount")
            shell.run("ovfuse", "unmount", MOUNTPOINT)
        gone = not _mounts_below(shell.directory)
        console.print(f"nothing left mounted: {_yes(ok=gone)}")
        console.rule("plaintext in the sealed directory")
        tight = _search_plaintext(console, plain, shell.directory)
    _print_table(console, rows)
    return gone and tight and all(row.passed for row in rows)


def _apps(console: Console, cache: Path) -> list[App]:
    infer = ("python", os.path.relpath(INFER, CACHE / "demo"))
    apps = [
        App(name="openvino", command=infer, saves_outputs=True),
        App(
            name="onnxruntime",
            command=(*infer, "--runtime", "onnxruntime"),
            saves_outputs=True,
        ),
        App(
            name="benchmark_app",
            command=("benchmark_app", "-d", "CPU", "-t", "1", "-m"),
            compared=False,
        ),
    ]
    if cxx.find_compiler():
        app = cxx.build_guide_app(cache)
        apps.append(App(name="C++", command=(os.path.relpath(app, CACHE / "demo"),)))
    else:
        console.print("no g++ here: the C++ app is left out", style="yellow")
    return apps


def _suits(app: App, model: models.Model) -> bool:
    """Say whether an app takes this model; benchmark_app wants static shapes."""
    if app.name == "benchmark_app":
        return model.path.parts[0] == "large"
    return app.name != "onnxruntime" or "onnxruntime" in model.runtimes


@contextmanager
def _workspace(console: Console) -> Iterator[Shell]:
    """Give a shell in a fresh directory; leave nothing mounted and nothing behind."""
    directory = Path(tempfile.mkdtemp(prefix="demo-", dir=CACHE))
    # Elsewhere: the path of a socket in it has to be short.
    home = Path(tempfile.mkdtemp(prefix="ovfuse-demo-"))
    try:
        (directory / MOUNTPOINT).mkdir()
        yield Shell(console, directory, home)
    finally:
        for mountpoint in _mounts_below(directory):
            console.print(f"still mounted: {mountpoint}", style="red", markup=False)
            _detach(mountpoint)
        shutil.rmtree(home, ignore_errors=True)
        # Never into a mount: then the directory stays.
        if not _mounts_below(directory):
            shutil.rmtree(directory)


def _detach(mountpoint: Path) -> None:
    """Take a mount away that its own command left behind."""
    command = ["umount", "--lazy"] if os.geteuid() == 0 else ["fusermount3", "-uz"]
    subprocess.run([*command, str(mountpoint)], check=False, timeout=TIMEOUT_SECONDS)


def _mounts_below(directory: Path) -> list[Path]:
    """Return what is mounted in a directory, the innermost first."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        path = Path(OCTAL.sub(lambda code: chr(int(code[1], 8)), line.split()[4]))
        if path.is_relative_to(directory):
            found.append(path)
    return found[::-1]


def _run_both(shell: Shell, model: models.Model, app: App, model_dir: str) -> Row:
    plain = _run_app(shell, model, app, model_dir)
    mount = _run_app(shell, model, app, MOUNTPOINT)
    passed = not plain.failed and not mount.failed
    if passed and app.compared:
        passed = plain.result == mount.result
    if passed and plain.outputs and mount.outputs:
        passed = _same_arrays(plain.outputs, mount.outputs)
    return Row(model=model, app=app, plain=plain, mount=mount, passed=passed)


def _run_app(shell: Shell, model: models.Model, app: App, base: str) -> Outcome:
    command = [*app.command]
    if app.name == "C++" and model.path.suffix == ".blob":
        command.append("--blob")
    command.append(f"{base}/{model.path}")
    outputs = None
    if app.saves_outputs:
        place = "mount" if base == MOUNTPOINT else "plain"
        name = f"{model.path.parts[0]}-{app.name}-{place}.npz"
        outputs = shell.directory / name
        command += ["--out", name]
    started = time.perf_counter()
    done = shell.capture(*command)
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        shell.console.print(done.stderr.strip(), style="red", markup=False)
        return Outcome(result=f"exit {done.returncode}", seconds=seconds, failed=True)
    return Outcome(
        result=_result(app, done.stdout.strip()), seconds=seconds, outputs=outputs
    )


def _result(app: App, output: str) -> str:
    """Return what an app printed, as one line; of benchmark_app the throughput."""
    if app.name != "benchmark_app":
        return " ".join(output.split())
    lines = [line for line in output.splitlines() if "Throughput:" in line]
    return lines[-1].split("Throughput:")[1].strip() if lines else "no throughput"


def _same_arrays(first: Path, second: Path) -> bool:
    with np.load(first) as one, np.load(second) as other:
        return one.files == other.files and all(
            one[name].dtype == other[name].dtype
            and one[name].shape == other[name].shape
            and one[name].tobytes() == other[name].tobytes()
            for name in one.files
        )


def _search_plaintext(console: Console, plain: Path, directory: Path) -> bool:
    """Search the sealed files for plaintext, and a file into which some was put."""
    names = sorted(
        {path.name for path in plain.rglob("*") if len(path.name) >= KEY_SIZE}
    )
    index = PlaintextIndex(plain, names)
    sealed = [path for path in (directory / SEALED).rglob("*") if path.is_file()]
    found = [str(leak) for leak in index.search(sealed)]
    found += [
        f"{path} is named after a file of the model"
        for path in (directory / SEALED).rglob("*")
        if any(name in path.name for name in names)
    ]
    console.print(
        f"{index.piece_count:,} pieces of {PIECE_SIZE} bytes and {len(names)} names, at"
        f" every offset of {len(sealed)} files ({_megabytes(directory / SEALED)}):"
        f" {len(found)} found"
    )
    for line in found:
        console.print(line, style="red", markup=False)
    notices = bool(index.search([_leaking_copy(plain, sealed, directory)]))
    console.print(
        f"a sealed file into which {PIECE_SIZE} bytes of plaintext were put is"
        f" noticed: {_yes(ok=notices)}"
    )
    return notices and not found


def _leaking_copy(plain: Path, sealed: list[Path], directory: Path) -> Path:
    """Copy the largest sealed file up to a MiB, with one piece of plaintext in it."""
    with max(sealed, key=lambda path: path.stat().st_size).open("rb") as file:
        data = bytearray(file.read(models.MiB))
    piece = (plain / "large" / "large.bin").read_bytes()[-PIECE_SIZE:]
    offset = len(data) // 2 | 1
    data[offset : offset + PIECE_SIZE] = piece
    copy = directory / "leaking"
    copy.write_bytes(data)
    return copy


def _print_table(console: Console, rows: list[Row]) -> None:
    table = Table(box=box.SIMPLE, title="the same model, plain and from the mount")
    for heading in ("model", "format", "app", "plain result", "mount result"):
        table.add_column(heading, no_wrap=True)
    table.add_column("identical?")
    table.add_column("plain s", justify="right")
    table.add_column("mount s", justify="right")
    for row in rows:
        table.add_row(
            *(str(row.model.path), row.model.kind, row.app.name),
            *(_short(row.app, row.plain), _short(row.app, row.mount)),
            _yes(ok=row.passed) if row.app.compared or not row.passed else "-",
            *(f"{row.plain.seconds:.2f}", f"{row.mount.seconds:.2f}"),
        )
    console.print(table)


def _short(app: App, outcome: Outcome) -> str:
    """Shorten digests; the C++ app's line ends with that of its last output."""
    if outcome.failed or not app.compared:
        return outcome.result
    return outcome.result.split()[-1][:SHOWN_DIGITS]


def _yes(*, ok: bool) -> str:
    return "[green]yes[/green]" if ok else "[red]NO[/red]"


def _megabytes(directory: Path) -> str:
    files = (path for path in directory.rglob("*") if path.is_file())
    return f"{sum(path.stat().st_size for path in files) / models.MiB:.1f} MiB"


if __name__ == "__main__":
    sys.exit(main())
