"""No 32 bytes of a model reach a disk, though an app keeps what it compiles.

As in tests/apps: in all that is written, as strace sees it, and in all files that
changed meanwhile. What OpenVINO itself offers leaks, also where it says it does not.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.apps.test_plaintext_on_disk import Watch
from tests.load.caching.cached import (
    EXTERNAL,
    FOLDED,
    PATHS,
    load_elsewhere,
    make_models,
)
from tests.support.leaks import PlaintextWindows
from tests.support.mounting import Home, succeed
from tests.support.tracing import is_on_disk

pytestmark = [pytest.mark.openvino, pytest.mark.tools]

MODES: dict[str, dict[str, Any]] = {
    "default": {},
    "speed": {"CACHE_MODE": "OPTIMIZE_SPEED"},
    "size": {"CACHE_MODE": "OPTIMIZE_SIZE"},
}

UNPROTECTED = """
import os, sys
import openvino
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
directory, name, cache, mode, encrypted = sys.argv[1:]
key = AESGCM(os.urandom(32))
config = {"CACHE_DIR": cache, "CACHE_MODE": mode}
if encrypted == "yes":
    config["CACHE_ENCRYPTION_CALLBACKS"] = [
        lambda data: key.encrypt(bytes(12), data, None),
        lambda data: key.decrypt(bytes(12), data, None),
    ]
openvino.Core().compile_model(os.path.join(directory, name), "CPU", config)
"""

EXPORT = """
import sys
import openvino
compiled = openvino.Core().compile_model(sys.argv[1], "CPU")
open(sys.argv[2], "wb").write(compiled.export_model().getvalue())
"""


@pytest.fixture(scope="module")
def disk() -> Iterator[Path]:
    """A directory that is on a disk, unlike /tmp on some machines."""
    with tempfile.TemporaryDirectory(prefix="ovfuse-", dir="/var/tmp") as directory:
        assert is_on_disk(Path(directory)), "/var/tmp is in memory: nothing to see"
        yield Path(directory)


@pytest.fixture(scope="module")
def private(disk: Path) -> Path:
    """Models that exist nowhere else."""
    return make_models(disk / "private", seed=int.from_bytes(os.urandom(8), "big"))


@pytest.fixture(scope="module")
def windows(disk: Path, private: Path) -> PlaintextWindows:
    """All that must not be found: what is stored, and what OpenVINO makes of it."""
    twin = make_models(disk / "twin", seed=int.from_bytes(os.urandom(8), "big"))
    for directory in (private, twin):
        fold(directory)
    return PlaintextWindows(private, twin)


def fold(directory: Path) -> None:
    """Put what OpenVINO computes from the weights beside the models."""
    import numpy as np

    values = np.fromfile((directory / FOLDED).with_suffix(".bin"), np.float32)
    first, scales, second, third = np.split(values, np.cumsum([96 * 96, 96, 96 * 96]))
    ((first.reshape(96, 96) * scales).astype(np.float32)).tofile(directory / "scaled")
    (second + third).tofile(directory / "added")


@pytest.fixture(scope="module")
def sealed(disk: Path, private: Path) -> tuple[Home, Path]:
    """The models, sealed, and who can open them."""
    home = Home(directory=disk / "home")
    succeed(home, "keygen")
    succeed(home, "encrypt", private, disk / "sealed")
    return home, disk / "sealed"


def watch_of(owner: Home, directory: Path) -> Watch:
    """Watch a home that has the keys of another."""
    watch = Watch.start(directory)
    keys = {"XDG_CONFIG_HOME": owner.environment["XDG_CONFIG_HOME"]}
    return replace(watch, home=replace(watch.home, extra={**watch.home.extra, **keys}))


@pytest.mark.parametrize("mode", MODES)
def test_nothing_of_a_model_reaches_the_cache(
    disk: Path, sealed: tuple[Home, Path], windows: PlaintextWindows, mode: str
) -> None:
    owner, cipherdir = sealed
    watch = watch_of(owner, disk / f"cache-{mode}")
    home, place = watch.home, watch.home.directory / "app-cache"
    config = {"CACHE_DIR": str(place), **MODES[mode]}
    for path in PATHS:
        for from_cache in (False, True):
            found = load_elsewhere(
                home, cipherdir, path, prefix=watch.trace.prefix, config=config
            )
            assert found.from_cache == from_cache
            assert found.warned == []

    assert watch.trace.leaks(windows) == []
    changed = watch.changed()
    assert len([path for path in changed if path.parent == place]) == len(PATHS)
    assert windows.search(changed) == []
    assert windows.search(watch.changed_elsewhere()) == []
    # The trace has seen what it should.
    written = watch.trace.written()
    assert any(target.startswith(f"{place}/") for target in written)


def test_nothing_of_a_model_reaches_the_disk_when_it_is_compiled(
    disk: Path, sealed: tuple[Home, Path], windows: PlaintextWindows
) -> None:
    owner, cipherdir = sealed
    watch = watch_of(owner, disk / "compile")
    for path in PATHS:
        succeed(watch.home, "compile", cipherdir, path)

    assert watch.trace.leaks(windows) == []
    changed = watch.changed()
    assert len([path for path in changed if path.suffix == ".ovfuse"]) == len(PATHS)
    assert windows.search(changed) == []
    assert windows.search(watch.changed_elsewhere()) == []
    written = watch.trace.written()
    assert any("/compiled/" in target for target in written)


def test_compiled_blob_in_a_file_leaks(
    disk: Path, private: Path, windows: PlaintextWindows
) -> None:
    watch = Watch.start(disk / "export")
    blob = watch.home.directory / "blob"

    watch.run(sys.executable, "-c", EXPORT, private / FOLDED, blob)

    assert watch.trace.leaks(windows) != []
    assert [leak.path for leak in windows.search(watch.changed())] == [blob]


@pytest.mark.parametrize("encrypted", ["no", "yes"])
@pytest.mark.parametrize(
    "case",
    [
        (FOLDED, "OPTIMIZE_SPEED"),
        (FOLDED, "OPTIMIZE_SIZE"),  # is to keep weights out: what it computes stays in
        (EXTERNAL, "OPTIMIZE_SPEED"),
    ],
    ids="-".join,
)
def test_cache_of_openvino_leaks(
    disk: Path,
    private: Path,
    windows: PlaintextWindows,
    case: tuple[str, str],
    encrypted: str,
) -> None:
    watch = Watch.start(disk / "-".join(["plain", *case, encrypted]))
    place = watch.home.directory / "app-cache"
    program = (sys.executable, "-c", UNPROTECTED)

    watch.run(*program, private, case[0], place, case[1], encrypted)

    assert watch.trace.leaks(windows) != []
    assert windows.search(watch.changed()) != []
