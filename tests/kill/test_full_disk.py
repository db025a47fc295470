"""A real disk that is full, at every moment at which it can become so."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ovfuse.errors import CipherdirError, KeyFileError, OutputError, OvfuseError
from tests.kill.scenarios import World, files_in
from tests.support.faults import Finished, Server
from tests.support.mounting import check_error_lines, succeed
from tests.support.sealed import pattern, write_files

pytestmark = [
    pytest.mark.fuse,  # it mounts, too
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a disk"),
]

DISK = 512 * 1024
PAGE = 4096
SMALL = {"model.xml": b"<net/>", "a/model.bin": pattern(50_000)}
LARGE = {"model.xml": b"<new/>", "b/model.bin": pattern(90_000), "c": b""}


@contextmanager
def disk(directory: Path) -> Iterator[Path]:
    """Mount an empty disk of half a MiB on a directory, which is made."""
    directory.mkdir()
    size = f"size={DISK}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "none", directory], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", directory], check=True)


def fill(directory: Path, free: int) -> None:
    """Leave so many bytes of the disk free."""
    ballast = directory / "ballast"
    ballast.unlink(missing_ok=True)
    status = os.statvfs(directory)
    ballast.write_bytes(bytes(status.f_bavail * status.f_frsize - free))


def check_refused(finished: Finished, error: type[OvfuseError]) -> None:
    assert finished.status == error.exit_code, finished
    assert "No space left on device" in finished.stderr
    check_error_lines(finished.stderr)


def test_encrypt(world: World, server: Server) -> None:
    """The old model stays, whole, and nothing else; with room enough it goes on."""
    environment = world.home.environment
    succeed(world.home, "keygen")
    with disk(world.model) as model:
        cipherdir = model / "cipher"
        done = []
        for free in range(0, 200_000, 3 * PAGE):
            shutil.rmtree(cipherdir, ignore_errors=True)
            shutil.rmtree(world.plain, ignore_errors=True)
            fill(model, DISK // 2)
            write_files(world.plain, SMALL)
            arguments = ("encrypt", world.plain, cipherdir)
            assert server.run(environment, *arguments).status == 0
            shutil.rmtree(world.plain)
            write_files(world.plain, LARGE)
            fill(model, free)
            before = files_in(cipherdir)
            finished = server.run(environment, *arguments)
            done.append(finished.status == 0)
            if finished.status:
                check_refused(finished, CipherdirError)
                assert files_in(cipherdir) == before
            verified = server.run(environment, "verify", cipherdir)
            assert verified.status == 0, verified
        assert done == sorted(done)
        assert True in done
        assert False in done


def test_first_encrypt(world: World, server: Server) -> None:
    """Nothing is left of a model for which there is no room."""
    succeed(world.home, "keygen")
    write_files(world.plain, LARGE)
    with disk(world.model) as model:
        for free in range(0, 80_000, 2 * PAGE):
            fill(model, free)
            arguments = ("encrypt", world.plain, model / "cipher")
            check_refused(
                server.run(world.home.environment, *arguments), CipherdirError
            )
            assert not (model / "cipher").exists()


def test_decrypt(world: World, server: Server) -> None:
    """No plaintext is left on a disk that has no room for all of it."""
    succeed(world.home, "keygen")
    write_files(world.plain, LARGE)
    succeed(world.home, "encrypt", world.plain, world.model)
    with disk(world.output) as output:
        for free in range(0, 80_000, 2 * PAGE):
            fill(output, free)
            arguments = ("decrypt", world.model, output / "plain")
            check_refused(server.run(world.home.environment, *arguments), OutputError)
            assert not (output / "plain").exists()
        fill(output, 150_000)
        assert server.run(world.home.environment, *arguments).status == 0
        assert files_in(output / "plain") == LARGE


def test_keys(world: World, server: Server) -> None:
    """A key is there whole, or not at all."""
    environment = world.home.environment
    with disk(world.home.config.parent) as config:
        for pages in range(8):
            shutil.rmtree(config / "ovfuse", ignore_errors=True)
            fill(config, pages * PAGE)
            finished = server.run(environment, "keygen")
            if finished.status:
                check_refused(finished, KeyFileError)
            for path in files_in(config):
                assert (config / path).stat().st_size, path
            (config / "ballast").unlink()
            finished = server.run(environment, "keygen")
            assert finished.status == 0, finished


def test_recipients(world: World, server: Server) -> None:
    """Whoever could open it still can."""
    environment = world.home.environment
    succeed(world.home, "keygen")
    succeed(world.home, "keygen", "-o", world.device)
    (line,) = (
        line
        for line in world.device.read_text().splitlines()
        if line.startswith("# public key: ")
    )
    write_files(world.plain, SMALL)
    with disk(world.model) as model:
        cipherdir = model / "cipher"
        assert server.run(environment, "encrypt", world.plain, cipherdir).status == 0
        before = files_in(cipherdir)
        fill(model, 0)
        recipient = line.removeprefix("# public key: ")
        arguments = ("recipients", "add", cipherdir, "-r", recipient)
        check_refused(server.run(environment, *arguments), CipherdirError)
        assert files_in(cipherdir) == before
        assert server.run(environment, "prune", cipherdir).status == 0
        assert files_in(cipherdir) == before


def test_history(world: World, server: Server) -> None:
    """That nothing can be remembered is said, and holds nobody up."""
    environment = world.home.environment
    succeed(world.home, "keygen")
    write_files(world.plain, SMALL)
    succeed(world.home, "encrypt", world.plain, world.model)
    state = world.home.directory / "state"
    shutil.rmtree(state)
    with disk(state):
        fill(state, 0)
        finished = server.run(environment, "verify", world.model)
        assert finished.status == 0, finished
        assert "No space left on device" in finished.stderr
        assert not list(state.rglob("*.json"))
        (state / "ballast").unlink()
        finished = server.run(environment, "verify", world.model)
        assert finished.status == 0, finished
        assert "No space left on device" not in finished.stderr
        assert list(state.rglob("*.json"))
