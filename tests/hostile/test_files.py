"""Whole files removed, extended, swapped, duplicated, replaced; sealings mixed."""

import itertools
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from ovfuse.keys import Unlocker
from ovfuse.sealed.wrapping import Identity
from tests.hostile.published import (
    NEW_FILES,
    OLD_FILES,
    OTHER_FILES,
    PARTS,
    PLACES,
    Published,
    is_of_one_sealing,
    make_published,
    permissive,
    read_each,
    without_error,
    write,
)
from tests.support.encryptor import SealedFiles
from tests.support.sealed import recipient_of


@pytest.fixture(scope="module")
def published(identity: Identity) -> Published:
    return make_published().for_recipient(recipient_of(identity).canonical)


@pytest.fixture
def unlocker(published: Published, identity: Identity) -> Unlocker:
    return permissive(identity, published)


@pytest.fixture
def directory(tmp_path: Path, published: Published) -> Path:
    """The model with both sealings; the pointer names the newer."""
    return write(published.both, tmp_path)


def test_untouched(directory: Path, unlocker: Unlocker, published: Published) -> None:
    assert read_each(directory, unlocker) == NEW_FILES
    (directory / "model.ovfuse").write_bytes(published.old.files["model.ovfuse"])
    assert read_each(directory, unlocker) == OLD_FILES


@pytest.mark.parametrize("place", PLACES)
def test_removed(
    directory: Path, unlocker: Unlocker, published: Published, place: str
) -> None:
    path = directory / PLACES[place](published.new)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    found = read_each(directory, unlocker)

    assert is_of_one_sealing(found, NEW_FILES)
    assert not without_error(found)


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda data: b"",
    "zeros": lambda data: bytes(len(data)),
    "ones": lambda data: b"\xff" * len(data),
    "one byte more": lambda data: data + data[-1:],
    "an entry more": lambda data: data + data[-32:],
    "a chunk more": lambda data: data + bytes(16_400),
    "a block more": lambda data: data + bytes(65_600),
    "twice": lambda data: data * 2,
    "backwards": lambda data: data[::-1],
    "turned": lambda data: data[1:] + data[:1],
    "a line feed in front": lambda data: b"\n" + data,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("part", [*PARTS, "pointer"])
def test_replaced(
    directory: Path, unlocker: Unlocker, published: Published, part: str, change: str
) -> None:
    path = directory / PLACES[part](published.new)
    path.write_bytes(CHANGES[change](path.read_bytes()))
    found = read_each(directory, unlocker)

    assert is_of_one_sealing(found, NEW_FILES)
    assert not without_error(found)


def files_of(published: Published) -> dict[str, str]:
    """The path of every file of both sealings, by what it is."""
    return {"pointer": "model.ovfuse"} | {
        f"{part} of {which}": path_of(made)
        for which, made in (("old", published.old), ("new", published.new))
        for part, path_of in PARTS.items()
    }


def test_every_pair_is_swapped(
    directory: Path, unlocker: Unlocker, published: Published
) -> None:
    paths = files_of(published)
    for first, second in itertools.combinations(paths, 2):
        one, two = directory / paths[first], directory / paths[second]
        exchange(one, two)
        found = read_each(directory, unlocker)
        exchange(one, two)

        assert is_of_one_sealing(found, NEW_FILES), (first, second)
        touched = any(name.endswith(("new", "pointer")) for name in (first, second))
        assert without_error(found) != touched, (first, second)


def exchange(one: Path, two: Path) -> None:
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


def test_every_file_is_put_over_every_other(
    directory: Path, unlocker: Unlocker, published: Published
) -> None:
    paths = files_of(published)
    for source, target in itertools.permutations(paths, 2):
        path = directory / paths[target]
        kept = path.read_bytes()
        path.write_bytes((directory / paths[source]).read_bytes())
        found = read_each(directory, unlocker)
        path.write_bytes(kept)

        assert is_of_one_sealing(found, NEW_FILES), (source, target)
        touched = target.endswith(("new", "pointer"))
        assert without_error(found) != touched, (source, target)


def test_every_file_is_there_a_second_time(
    directory: Path, unlocker: Unlocker, published: Published
) -> None:
    for part, path in files_of(published).items():
        source = directory / path
        for name in ("copy", "0" * 32, f"{'0' * 32}.age", f".{source.name}"):
            copy = source.with_name(name)
            shutil.copy(source, copy)
            assert read_each(directory, unlocker) == NEW_FILES, part
            copy.unlink()


MIXES = [
    frozenset(parts)
    for count in range(len(PARTS) + 1)
    for parts in itertools.combinations(PARTS, count)
]


@pytest.mark.parametrize("which", ["old", "other"])
@pytest.mark.parametrize("pointer", ["new", "foreign", "both in turn"])
def test_every_mix_of_two_sealings(
    directory: Path,
    unlocker: Unlocker,
    published: Published,
    which: str,
    pointer: str,
) -> None:
    """Some files of the newer sealing are those of an older one, or another model's.

    The foreign sealing is beside it, whole; the pointer names the one, the other, or
    the one by the directory of the other.
    """
    foreign = getattr(published, which)
    foreign_files = {"old": OLD_FILES, "other": OTHER_FILES}[which]
    write(foreign.files, directory)
    for parts in MIXES:
        write(mixed(published, foreign, parts), directory)
        named = published.new if pointer == "new" else foreign
        (directory / "model.ovfuse").write_bytes(named.files["model.ovfuse"])
        if pointer == "both in turn":
            new, old = (
                directory / f"seals/{m.seal_id}" for m in (published.new, foreign)
            )
            rename_each_other(new, old)
        found = read_each(directory, unlocker)
        if pointer == "both in turn":
            rename_each_other(new, old)
            assert not without_error(found), parts
            continue
        allowed = NEW_FILES if pointer == "new" else foreign_files
        assert is_of_one_sealing(found, allowed), (parts, found)
        assert without_error(found) == (pointer != "new" or not parts), parts


def mixed(
    published: Published, foreign: SealedFiles, parts: frozenset[str]
) -> Mapping[str, bytes]:
    """The files of the newer sealing, some with the content of a foreign one."""
    new = published.new
    return {
        **new.files,
        **{PARTS[part](new): foreign.files[PARTS[part](foreign)] for part in parts},
    }


def rename_each_other(one: Path, two: Path) -> None:
    aside = one.with_name("aside")
    one.rename(aside)
    two.rename(one)
    aside.rename(two)
