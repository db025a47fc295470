"""A mount is a read-only directory like any other, but for what is listed here.

The same random calls go to the plain directory, on a read-only tmpfs, and to a mount
by each engine. Some thousand here; OVFUSE_COMPARED_CALLS says how many and
OVFUSE_COMPARED_SEED which (scripts/soak: a hundred thousand). What users should know
of the differences is in docs/cli.md.
"""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.mount.comparing import CALLS, Directory, Fields, build, compare
from tests.support.mounting import ENGINES, Home, mounted, succeed

pytestmark = pytest.mark.fuse

COUNT = int(os.environ.get("OVFUSE_COMPARED_CALLS", "10000"))
SEED = int(os.environ.get("OVFUSE_COMPARED_SEED", "1"))
ENOUGH = 40
"""So many differences that nobody expected are shown."""

FIELDS = {
    "directory.st_dev": "each mount is a filesystem",
    "file.st_dev": "each mount is a filesystem",
    "directory.st_ino": "it follows from the sealing and the path",
    "file.st_ino": "it follows from the sealing and the path",
    "numbers": "these are the same inode numbers",
    "directory.st_ctime_ns": "the sealing time",
    "file.st_ctime_ns": "the sealing time",
    "directory.st_size": "0: directories have no blocks of their own",
    "file.st_blocks": "what the bytes need, in 512: no block is half empty",
    "directory.st_blksize": "64 KiB: what is decrypted at once",
    "file.st_blksize": "64 KiB: what is decrypted at once",
}
"""What may differ from a plain directory, by field, and why.

Times of access and change, modes and owners may, too: here the plain files are given
those that a mount shows.
"""

ERRORS = {
    ("listxattr", None, "ENOTSUP"): "there are no extended attributes",
    ("getxattr", "ENODATA", "ENOTSUP"): "there are no extended attributes",
}
"""The call, its error on the plain directory, its error on a mount, and why."""

BETWEEN_ENGINES = {"directory.st_dev", "file.st_dev"}


MODELS = {"single": ("",), "tree": ("one", "group/two"), "resident": ("",)}
"""What is sealed by itself, below the top."""
OPTIONS = {"resident": "strict,resident=always"}


@pytest.fixture(scope="module", params=MODELS)
def directories(
    request: pytest.FixtureRequest, shared: Path, publisher: Home
) -> Iterator[Mapping[str, Directory]]:
    """One model, on demand or from memory, or a tree; the plain one comes first."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a read-only tmpfs")
    place = shared / f"compared-{request.param}"
    tops = {name: place / name for name in ("plain", *ENGINES)}
    tops["plain"].mkdir(parents=True)
    with ExitStack() as stack:
        run("mount", "-t", "tmpfs", "none", tops["plain"])
        stack.callback(run, "umount", tops["plain"])
        for model in MODELS[request.param]:
            sealed = place / "sealed" / model
            sealed.parent.mkdir(parents=True, exist_ok=True)
            succeed(publisher, "encrypt", build(tops["plain"] / model), sealed)
        for engine in ENGINES:
            options = OPTIONS.get(request.param, "strict")
            words = (place / "sealed", tops[engine], "-o", options)
            stack.enter_context(mounted(publisher, *words, engine=engine))
        disguise(tops["plain"], tops[ENGINES[0]])
        run("mount", "-o", "remount,ro", tops["plain"])
        found = {name: Directory(top) for name, top in tops.items()}
        for directory in found.values():
            stack.callback(directory.close)
        yield found


def run(*command: str | Path) -> None:
    subprocess.run(command, check=True)


def disguise(original: Path, top: Path) -> None:
    """Give plain files the times and modes that a mount shows."""
    for path in (*original.rglob("*"), original):
        shown = (top / path.relative_to(original)).stat()
        path.chmod(shown.st_mode & 0o7777)
        os.utime(path, ns=(shown.st_mtime_ns, shown.st_mtime_ns))


class Differences:
    """In what mounts differ: the known, and what nobody expected."""

    def __init__(self) -> None:
        self.known: set[object] = set()
        self.unexpected: list[object] = []

    def look(self, number: int, call: str, answers: Mapping[str, Fields]) -> None:
        plain, *mounts = answers.values()
        for mount in mounts:
            self._look(number, call, plain, mount)
        one, other = mounts
        if difference := differing(one, other, BETWEEN_ENGINES):
            self.unexpected.append((number, call, "engines", difference))

    def _look(self, number: int, call: str, plain: Fields, mount: Fields) -> None:
        errors = (call, plain.get("error"), mount.get("error"))
        self.known |= {errors} if errors in ERRORS else differing(plain, mount).keys()
        if errors not in ERRORS and (difference := differing(plain, mount, {*FIELDS})):
            self.unexpected.append((number, call, difference))


def differing(
    one: Fields, other: Fields, known: Collection[str] = ()
) -> dict[str, object]:
    names = one.keys() | other.keys()
    return {
        name: (shortened(one.get(name)), shortened(other.get(name)))
        for name in names.difference(known)
        if one.get(name) != other.get(name)
    }


def shortened(value: object) -> object:
    if isinstance(value, bytes | list | tuple) and len(value) > 20:
        return f"{len(value)} of {value[:20]!r}"
    return value


def test_mounts_differ_in_nothing_else(directories: Mapping[str, Directory]) -> None:
    found = Differences()
    made: Counter[str] = Counter()
    errors: Counter[object] = Counter()
    started = time.monotonic()
    for number, (call, answers) in enumerate(compare(directories, SEED, COUNT)):
        found.look(number, call, answers)
        made[call] += 1
        errors[answers["plain"].get("error")] += 1
        if len(found.unexpected) >= ENOUGH:
            break
    took = time.monotonic() - started
    fine = errors.pop(None)
    sys.stdout.write(
        f"{made.total()} calls, seed {SEED}, {took:.0f} s: {fine} went well, "
        f"{errors.total()} failed in {len(errors)} ways\n"
    )

    assert not found.unexpected, "\n".join(map(str, found.unexpected))
    assert found.known == {*FIELDS, *ERRORS}, "one of those has gone"
    assert made.keys() == CALLS.keys()
    assert fine > COUNT / 3
