"""Disks that fail while they are read: short reads, errors, files that end early.

A filesystem of our own serves the files and injects the faults. Whatever happens, a
command ends with the error that its table of exit codes has for it, what was given
out is true, and nothing is left behind or remembered of it.
"""

import errno
import json
from pathlib import Path

import pytest

from ovfuse.errors import (
    CipherdirError,
    DamagedError,
    KeyFileError,
    NoUsableKeyError,
    OvfuseError,
    SourceError,
)
from tests.kill.scenarios import World, files_in
from tests.support.faults import Finished, Server
from tests.support.faults_fuse import FaultyDirectory, Rule, faulty
from tests.support.mounting import ENGINES, check_error_lines, mounted, succeed
from tests.support.sealed import pattern, write_files

pytestmark = pytest.mark.fuse

CONTENT = {"model.xml": b"<net/>", "sub/model.bin": pattern(200_000), "empty": b""}

POINTER = "model.ovfuse"
ENVELOPE = "seals/*/manifest.dsse.json"
BLOCKS = "seals/*/blocks"
KEYS = "seals/*/keys"
KEY_FILE = "seals/*/keys/*.age"
OBJECT = "seals/*/objects/*"
OPENED = (POINTER, "seals", "seals/*", ENVELOPE, KEYS, BLOCKS, OBJECT)


def broken(path: str, call: str = "read", start: int = 0) -> Rule:
    return Rule(path=path, call=call, error=errno.EIO, start=start)


@pytest.fixture
def sealed(world: World) -> World:
    """A world with a sealed model."""
    write_files(world.plain, CONTENT)
    succeed(world.home, "keygen")
    succeed(world.home, "encrypt", world.plain, world.model)
    return world


def run(world: World, server: Server, *arguments: str | Path) -> Finished:
    return server.run(world.home.environment, *arguments)


def check_refused(finished: Finished, error: type[OvfuseError], at: object) -> None:
    assert finished.status == error.exit_code, (at, finished)
    check_error_lines(finished.stderr)


def test_short_reads(sealed: World, server: Server, tmp_path: Path) -> None:
    """Every file of every kind may come in small pieces."""
    world = sealed
    config = world.home.config
    with faulty(world.directory, tmp_path) as directory:
        keys = directory.path / config.relative_to(world.directory)
        given: list[str | Path] = ["-i", keys / "identity.txt"]
        given += ["--verify-key", keys / "signing_key.pub"]
        directory.set(
            *(Rule(path=path, shorter=990) for path in ("plain/*", f"*/{OBJECT}")),
            *(
                Rule(path=f"*/{path}", shorter=7)
                for path in (POINTER, BLOCKS, KEY_FILE)
            ),
            Rule(path=f"*/{ENVELOPE}", shorter=7),
            Rule(path="home/*", shorter=7),
        )
        model = directory.path / "model"
        finished = run(world, server, "verify", model, *given)
        assert finished.status == 0, finished
        finished = run(world, server, "decrypt", model, world.output, *given)
        assert finished.status == 0, finished
        assert files_in(world.output) == CONTENT
        again = world.directory / "again"
        finished = run(
            world,
            server,
            *(
                "encrypt",
                directory.path / "plain",
                again,
                "--sign-key",
                keys / "signing_key",
            ),
        )
        assert finished.status == 0, finished
    world.model.rename(world.directory / "before")
    again.rename(world.model)
    assert world.files() == CONTENT


@pytest.mark.parametrize("path", OPENED)
def test_what_cannot_be_opened(
    path: str, sealed: World, server: Server, tmp_path: Path
) -> None:
    with faulty(sealed.model, tmp_path) as directory:
        for call in ("open", "getattr"):
            if call == "open" and path in {"seals", "seals/*", KEYS}:
                continue  # directories are not opened by this filesystem
            directory.set(broken(path, call))
            check_refused_everywhere(sealed, server, directory, CipherdirError)
        directory.set()
        assert run(sealed, server, "verify", directory.path).status == 0


def check_refused_everywhere(
    world: World, server: Server, directory: FaultyDirectory, error: type[OvfuseError]
) -> None:
    check_refused(run(world, server, "verify", directory.path), error, "verify")
    decrypt = run(world, server, "decrypt", directory.path, world.output)
    check_refused(decrypt, error, "decrypt")
    assert not world.output.exists()


@pytest.mark.parametrize(
    ("path", "starts"),
    [
        (POINTER, [0]),
        (ENVELOPE, [0, 1000]),
        (BLOCKS, [0, 32]),
        (OBJECT, [0, 56, 70_000, 200_000]),
    ],
)
def test_what_cannot_be_read(
    path: str, starts: list[int], sealed: World, server: Server, tmp_path: Path
) -> None:
    """An error of the disk is not damage; a file that ends early is."""
    with faulty(sealed.model, tmp_path) as directory:
        for start in starts:
            short = Rule(path=path, shorter=500)
            directory.set(broken(path, start=start), short)
            check_refused_everywhere(sealed, server, directory, CipherdirError)
            directory.set(Rule(path=path, ends=True, start=start), short)
            check_refused_everywhere(sealed, server, directory, DamagedError)
        directory.set()
        assert run(sealed, server, "verify", directory.path).status == 0


def test_key_files_that_cannot_be_read(
    sealed: World, server: Server, tmp_path: Path
) -> None:
    """They are skipped as others' are; a directory that cannot be listed is not."""
    with faulty(sealed.model, tmp_path) as directory:
        for rule in (broken(KEY_FILE), broken(KEY_FILE, "open")):
            directory.set(rule)
            check_refused_everywhere(sealed, server, directory, NoUsableKeyError)
        directory.set(broken(KEYS, "readdir"))
        check_refused_everywhere(sealed, server, directory, CipherdirError)


def test_identities_and_trusted_keys(
    sealed: World, server: Server, tmp_path: Path
) -> None:
    config = sealed.home.config
    with faulty(config, tmp_path) as directory:
        for name, option in (
            ("identity.txt", "-i"),
            ("signing_key.pub", "--verify-key"),
        ):
            path = directory.path / name
            for rule in (broken(name), broken(name, "open"), broken(name, "getattr")):
                directory.set(rule)
                finished = run(sealed, server, "verify", sealed.model, option, path)
                check_refused(finished, KeyFileError, rule)
            directory.set(Rule(path=name, shorter=7))
            finished = run(sealed, server, "verify", sealed.model, option, path)
            assert finished.status == 0, finished
            directory.set(Rule(path=name, ends=True, start=20))
            finished = run(sealed, server, "verify", sealed.model, option, path)
            check_refused(finished, KeyFileError, "ends")


def test_model_directory_that_cannot_be_read(
    sealed: World, server: Server, tmp_path: Path
) -> None:
    """Nothing is sealed, and what was sealed before stays."""
    world = sealed
    new = world.directory / "new"
    bad = "sub/model.bin"
    rules = [broken(bad, call) for call in ("getattr", "open", "read")]
    rules += [broken(bad, start=150_000), broken("sub", "readdir")]
    rules += [Rule(path=bad, ends=True, start=start) for start in (0, 150_000)]
    with faulty(world.plain, tmp_path) as directory:
        for rule in rules:
            directory.set(rule, Rule(path=bad, shorter=10_000))
            for target in (world.model, new):
                finished = run(world, server, "encrypt", directory.path, target)
                check_refused(finished, SourceError, rule)
                assert not new.exists()
                assert world.files() == CONTENT
                assert len(world.seals) == 1
                assert world.leftovers() == []


def read_in_pieces(path: Path, found: bytearray) -> None:
    with path.open("rb", buffering=0) as file:
        while piece := file.read(4096):
            found += piece


@pytest.mark.parametrize("engine", ENGINES)
def test_mount_on_a_disk_that_fails(engine: str, sealed: World, tmp_path: Path) -> None:
    """Reads fail while the disk does, and go on when it does not."""
    world = sealed
    target = tmp_path / "mounted"
    with (
        faulty(world.model, tmp_path) as directory,
        mounted(world.home, directory.path, target, engine=engine) as mount,
    ):
        large = target / "sub/model.bin"
        for rule in (broken(OBJECT), broken(OBJECT, "open"), broken(BLOCKS)):
            directory.set(rule)
            with pytest.raises(OSError, match="Input/output error"):
                large.read_bytes()
        directory.set(broken(OBJECT, start=140_000))
        begun = bytearray()
        with pytest.raises(OSError, match="Input/output error"):
            read_in_pieces(large, begun)
        assert begun
        assert CONTENT["sub/model.bin"].startswith(begun)
        directory.set(Rule(path=OBJECT, shorter=3000))
        assert files_in(target) == CONTENT
        assert mount.status()["failed_reads"] >= 4


def test_a_tree_in_which_one_model_cannot_be_read(
    sealed: World, server: Server, tmp_path: Path
) -> None:
    """The others are verified, and it is said which one it is."""
    world = sealed
    tree = world.directory / "tree"
    tree.mkdir()
    for name in ("a", "b"):
        succeed(world.home, "encrypt", world.plain, tree / name)
    with faulty(tree, tmp_path) as directory:
        directory.set(broken("a/seals/*/objects/*"))
        finished = run(world, server, "verify", directory.path)
        check_refused(finished, CipherdirError, "tree")
        done = json.loads(succeed(world.home, "verify", "--json", directory.path / "b"))
    assert not done["models"][0]["error"]
