"""Builds the C++ app of OpenVINO's guide against the installed openvino wheel.

The wheel carries headers and libraries; a C++ compiler is all that is missing.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import tempfile
from hashlib import sha256
from pathlib import Path

SOURCE = Path(__file__).with_name("guide_app.cpp")
COMPILE_TIMEOUT_SECONDS = 300


def find_compiler() -> str | None:
    """Return the path of g++, or None."""
    return shutil.which("g++")


def build_guide_app(out_dir: Path) -> Path:
    """Return the guide's app as an executable; it is only compiled when needed."""
    compiler = find_compiler()
    if compiler is None:
        message = "no g++ on this machine"
        raise FileNotFoundError(message)
    wheel = _wheel_directory()
    (library,) = (wheel / "libs").glob("libopenvino.so.*")
    command = [compiler, "-std=c++17", "-O1", "-I", str(wheel / "include")]
    command += [str(SOURCE), str(library), f"-Wl,-rpath,{library.parent}"]
    app = out_dir / f"guide_app-{_digest(command)}"
    if not app.exists():
        out_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".cxx-", dir=out_dir) as directory:
            fresh = Path(directory) / "guide_app"
            subprocess.run(
                [*command, "-o", str(fresh)],
                check=True,
                timeout=COMPILE_TIMEOUT_SECONDS,
            )
            fresh.replace(app)
    return app


def _wheel_directory() -> Path:
    """Find the wheel without importing it, which would start its telemetry."""
    spec = importlib.util.find_spec("openvino")
    if spec is None or spec.origin is None:
        message = "the openvino wheel is not installed"
        raise FileNotFoundError(message)
    return Path(spec.origin).parent


def _digest(command: list[str]) -> str:
    """Return what the executable depends on: the source and how it is compiled."""
    parts = [SOURCE.read_bytes(), *(word.encode() for word in command)]
    return sha256(b"\0".join(parts)).hexdigest()[:16]
