"""Hundreds of damages behind one mount, while another model of it is being read.

One daemon serves a tree of copies of one model. Each copy is damaged in its own way
after the mount was made, then looked into: there are errors, or the right bytes.
"""

import errno
import itertools
import os
import random
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.hostile.published import (
    NAME,
    NEW_FILES,
    OLD_FILES,
    PARTS,
    PLACES,
    Published,
    make_published,
    write,
)
from tests.sealed.test_special_files import KINDS
from tests.support.encryptor import SealedFiles
from tests.support.mounting import ENGINES, Home, mounted

pytestmark = [pytest.mark.fuse, pytest.mark.slow]

FIRST = "a-good"  # the first of the tree, and so unlocked when it is mounted
REFUSALS = {errno.EIO, errno.EACCES, errno.ESTALE}
DEVICES = {"zero", "terminal", "no driver", "block device"}  # for root only

Damage = Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    """What is done to a copy of the model, and whether anybody must notice."""

    name: str
    damage: Damage = field(repr=False)
    must_fail: bool = True


@pytest.fixture(scope="module")
def published(home: Home) -> Published:
    return make_published().for_recipient(home.recipient)


# Damages


def changing(path: str, change: Callable[[bytes], bytes]) -> Damage:
    def damage(directory: Path) -> None:
        data = (directory / path).read_bytes()
        (directory / path).write_bytes(change(data))

    return damage


def flipping(bit: int) -> Callable[[bytes], bytes]:
    def flip(data: bytes) -> bytes:
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        return bytes(changed)

    return flip


def cutting(size: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:size]


def appending(tail: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data + tail


def removing(path: str) -> Damage:
    def damage(directory: Path) -> None:
        found = directory / path
        shutil.rmtree(found) if found.is_dir() else found.unlink()

    return damage


def swapping(first: str, second: str) -> Damage:
    def damage(directory: Path) -> None:
        one, two = directory / first, directory / second
        aside = directory / "aside"
        one.rename(aside)
        two.rename(one)
        aside.rename(two)

    return damage


def copying(source: str, target: str) -> Damage:
    return lambda directory: shutil.copyfile(directory / source, directory / target)


def putting(kind: str, path: str) -> Damage:
    return lambda directory: KINDS[kind](directory / path)


def together(*damages: Damage) -> Damage:
    def damage(directory: Path) -> None:
        for one in damages:
            one(directory)

    return damage


def one_file(files: dict[str, str], new: SealedFiles) -> Iterator[Case]:
    """Each file changed by itself."""
    chosen = random.Random(1)
    for part, path in files.items():
        size = len(new.files[path])
        for bit in [0, 8 * size - 1, *chosen.sample(range(8 * size), 16)]:
            yield Case(f"{part}: bit {bit}", changing(path, flipping(bit)))
        for length in sorted({0, 1, size // 2, size - 17, size - 1}):
            yield Case(f"{part}: cut at {length}", changing(path, cutting(length)))
        for tail in (b"\0", b"\n", bytes(32), bytes(16_400), bytes(65_600)):
            change = changing(path, appending(tail))
            yield Case(f"{part}: {len(tail)} bytes more, {tail[:1]!r}", change)


def one_place(new: SealedFiles) -> Iterator[Case]:
    """Something else, or nothing, in each place."""
    for place, path_of in PLACES.items():
        yield Case(f"{place}: removed", removing(path_of(new)))
        for kind in KINDS:
            if os.geteuid() == 0 or kind not in DEVICES:
                yield Case(f"{place}: {kind}", putting(kind, path_of(new)))


def two_files(files: dict[str, str]) -> Iterator[Case]:
    """Each file in the place of each other."""
    for one, two in itertools.combinations(files, 2):
        yield Case(f"{one} and {two}: swapped", swapping(files[one], files[two]))
    for one, two in itertools.permutations(files, 2):
        yield Case(f"{one} over {two}", copying(files[one], files[two]))


def two_sealings(files: dict[str, str], old: dict[str, str]) -> Iterator[Case]:
    """Files of the older sealing in the newer one."""
    for part in PARTS:
        yield Case(f"{part}: of the older one", copying(old[part], files[part]))
        swap = swapping(old[part], files[part])
        yield Case(f"{part}: swapped with that of the older one", swap)
        backwards = copying(files[part], old[part])
        yield Case(f"{part}: over that of the older", backwards, must_fail=False)
    for count in (2, 3, 4):
        for parts in itertools.combinations(PARTS, count):
            mix = together(*(copying(old[part], files[part]) for part in parts))
            yield Case(f"{' and '.join(parts)}: of the older one", mix)


def cases(published: Published) -> list[Case]:
    new = published.new
    files = {"pointer": "model.ovfuse", **{p: of(new) for p, of in PARTS.items()}}
    old = {part: of(published.old) for part, of in PARTS.items()}
    return [
        *one_file(files, new),
        *one_place(new),
        *two_files(files),
        *two_sealings(files, old),
    ]


# Looking


def read_fresh(path: Path) -> bytes:
    """Read a file anew, not from the page cache."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        pieces = iter(lambda: os.read(fd, 1 << 20), b"")
        return b"".join(pieces)
    finally:
        os.close(fd)


def look(served: Path, *allowed: dict[str, bytes]) -> tuple[list[int], set[str]]:
    """Read all of a model; return the errors, and the files whose bytes came.

    Every file that was sealed has the bytes of one allowed sealing or an error that
    is a refusal: it is never absent.
    """
    errors: list[int] = []
    found: dict[str, bytes] = {}
    for path in NEW_FILES:
        try:
            found[path] = read_fresh(served / path)
        except OSError as error:
            errors.append(error.errno or 0)
    try:
        assert sorted(os.listdir(served)) == ["a", "d"]
    except OSError as error:
        errors.append(error.errno or 0)
    assert any(found.items() <= files.items() for files in allowed), "other bytes"
    assert set(errors) <= REFUSALS, errors
    return errors, set(found)


class Reader:
    """Reads a model in a thread, again and again, as long as the context lasts."""

    def __init__(self, served: Path) -> None:
        self.rounds = 0
        self.wrong: list[object] = []
        self._served = served
        self._stop = threading.Event()

    @contextmanager
    def reading(self) -> Iterator[None]:
        thread = threading.Thread(target=self._read)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _read(self) -> None:
        while not self._stop.is_set() and not self.wrong:
            try:
                found = {path: read_fresh(self._served / path) for path in NEW_FILES}
            except OSError as error:
                self.wrong.append(error)
                return
            if found != NEW_FILES:
                self.wrong.append(found)
            self.rounds += 1


@pytest.mark.parametrize("engine", ENGINES)
def test_hundreds_of_damages_and_one_reader(
    home: Home, scratch: Path, published: Published, engine: str
) -> None:
    top = scratch / "sealed"
    write(published.both, top / FIRST / NAME)
    chosen = cases(published)
    for number in range(len(chosen)):
        write(published.both, top / f"case{number:03}" / NAME)
    counts: Counter[str] = Counter()
    wrong = []
    with mounted(home, top, scratch / "mnt", engine=engine) as mount:
        reader = Reader(mount.mountpoint / FIRST / NAME)
        with reader.reading():
            for number, case in enumerate(chosen):
                place = Path(f"case{number:03}", NAME)
                case.damage(top / place)
                errors, shown = look(mount.mountpoint / place, NEW_FILES)
                counts["refused" if len(errors) == 3 else "other"] += 1
                counts["in part"] += bool(errors and shown)
                if bool(errors) != case.must_fail:
                    wrong.append(case.name)
        states = Counter(model["state"] for model in mount.status()["models"])
        shutil.rmtree(top, ignore_errors=True)

    assert wrong == []
    assert reader.wrong == []
    assert reader.rounds > 10
    assert len(chosen) >= 300
    assert counts["refused"] > 100
    assert counts["in part"] > 50
    assert states["locked"] == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_damage_behind_what_is_unlocked(
    home: Home, scratch: Path, published: Published, engine: str
) -> None:
    """What was unlocked stays so; its files still have the right bytes or none."""
    top = scratch / "sealed"
    chosen = [case for case in cases(published) if "bit" not in case.name]
    for number in range(len(chosen)):
        write(published.both, top / f"case{number:03}" / NAME)
    failed = 0
    with mounted(home, top, scratch / "mnt", engine=engine) as mount:
        for number, case in enumerate(chosen):
            place = Path(f"case{number:03}", NAME)
            served = mount.mountpoint / place
            assert sorted(os.listdir(served)) == ["a", "d"]
            case.damage(top / place)
            errors, _ = look(served, NEW_FILES)
            failed += bool(errors)
        shutil.rmtree(top, ignore_errors=True)

    assert failed > 50


@pytest.mark.parametrize("engine", ENGINES)
def test_pointer_to_the_older_sealing_is_that_sealing(
    home: Home, scratch: Path, published: Published, engine: str
) -> None:
    """Where nothing newer was seen, the state allows it: whole, not mixed."""
    top = scratch / "sealed"
    for place in (FIRST, "older"):
        write(published.both, top / place / NAME)
    with mounted(home, top, scratch / "mnt", engine=engine) as mount:
        pointer = published.old.files["model.ovfuse"]
        (top / "older" / NAME / "model.ovfuse").write_bytes(pointer)
        errors, shown = look(mount.mountpoint / "older" / NAME, OLD_FILES)

    assert (errors, shown) == ([], set(OLD_FILES))
