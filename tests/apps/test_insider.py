"""A recipient who knows the model key cannot make anybody read other bytes.

He replaces objects by ones that he encrypted: in every way valid messages, under the
right key, seal id and object id. Whoever reads them gets an error, and no byte.
"""

import errno
import json
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ovfuse.errors import DamagedError
from tests.apps.insider import Insider
from tests.support.mounting import Home, Mount, mounted, run_as, run_ovfuse, succeed

pytestmark = pytest.mark.fuse

BLOCK = 65536
SIZE = 20 * BLOCK + 1234
CHANGED_BLOCK = 9
CHANGED = range(CHANGED_BLOCK * BLOCK, (CHANGED_BLOCK + 1) * BLOCK)

MAPPING_READER = """
import mmap, sys
try:
    with open(sys.argv[1], "rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
except OSError as error:
    sys.exit(error.errno)
print(mapping[int(sys.argv[2])])
"""


def content(path: str) -> bytes:
    return random.Random(path).randbytes(SIZE)


def forged(path: str) -> bytes:
    return bytes(byte ^ 1 for byte in content(path))


def forged_in_one_byte(path: str) -> bytes:
    data = bytearray(content(path))
    data[CHANGED.start + 777] ^= 1
    return bytes(data)


def replace_object(insider: Insider, path: str) -> None:
    insider.replace_object(path, insider.encrypt(path, forged(path)))


def replace_object_by_its_own_content(insider: Insider, path: str) -> None:
    insider.replace_object(path, insider.encrypt(path, content(path)))


def replace_object_and_list(insider: Insider, path: str) -> None:
    message = insider.encrypt(path, forged(path))
    insider.replace_object(path, message)
    insider.replace_list(path, message)


def change_block_and_list(insider: Insider, path: str) -> None:
    message = insider.encrypt_alike(path, forged_in_one_byte(path))
    insider.replace_object(path, message)
    insider.replace_list(path, message)


def change_block(insider: Insider, path: str) -> None:
    message = insider.encrypt_alike(path, forged_in_one_byte(path))
    insider.replace_object(path, message)


Attack = Callable[[Insider, str], None]

WHOLE: dict[str, Attack] = {
    attack.__name__: attack
    for attack in (
        replace_object,
        replace_object_by_its_own_content,
        replace_object_and_list,
        change_block_and_list,
    )
}
"""Of the first bytes or the list at the latest it is seen that they are not signed."""

IN_PART: dict[str, Attack] = {"change_block": change_block}
"""Only one block is another, and the others can be read."""

HEALTHY = ("healthy", "sub/healthy")
OPENED = ("opened", "mapped")

ATTACKS = WHOLE | IN_PART


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory, home: Home, engine: str) -> Path:
    """A file for each attack, and others."""
    directory = tmp_path_factory.mktemp(f"insider-{engine}")
    for path in (*ATTACKS, *HEALTHY, *OPENED):
        (directory / "plain" / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / "plain" / path).write_bytes(content(path))
    succeed(home, "encrypt", directory / "plain", directory / "sealed")
    return directory / "sealed"


@pytest.fixture(scope="module")
def attacked(home: Home, sealed: Path) -> Insider:
    """Who has done all that can be done before anybody reads."""
    insider = Insider(home, sealed)
    for path, attack in ATTACKS.items():
        attack(insider, path)
    return insider


@pytest.fixture(scope="module")
def mount(home: Home, sealed: Path, attacked: Insider, engine: str) -> Iterator[Mount]:
    with mounted(home, sealed, sealed.parent / "mnt", engine=engine) as mount:
        yield mount


@contextmanager
def fails() -> Iterator[None]:
    with pytest.raises(OSError, match=os.strerror(errno.EIO)) as caught:
        yield
    assert caught.value.errno == errno.EIO


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """Open a file, without reading ahead."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        yield fd
    finally:
        os.close(fd)


def test_attacks_are_worth_the_name(attacked: Insider) -> None:
    for path in ATTACKS:
        assert len(attacked.encrypt(path, content(path))) > SIZE
    assert attacked.encrypt_alike("healthy", content("healthy")) == (
        attacked.object_of("healthy").read_bytes()
    )


@pytest.mark.parametrize("path", WHOLE)
def test_replaced_file_cannot_be_opened(mount: Mount, path: str) -> None:
    for _ in range(3):
        with fails(), opened(mount.mountpoint / path):
            pass
    with fails():
        (mount.mountpoint / path).read_bytes()


@pytest.mark.parametrize("path", IN_PART)
def test_changed_block_cannot_be_read(mount: Mount, path: str) -> None:
    numbers = random.Random(path)
    with opened(mount.mountpoint / path) as fd:
        for _ in range(100):
            offset, size = numbers.randrange(SIZE), numbers.randrange(1, 2 * BLOCK)
            end = min(SIZE, offset + size)
            if offset in CHANGED:
                with fails():
                    os.pread(fd, size, offset)
            elif end <= CHANGED.start or offset >= CHANGED.stop:
                assert os.pread(fd, size, offset) == content(path)[offset:end]
    with fails():
        (mount.mountpoint / path).read_bytes()


@pytest.mark.parametrize("path", ATTACKS)
def test_mapping_ends_with_an_error(mount: Mount, home: Home, path: str) -> None:
    done = run_as(
        home,
        *(sys.executable, "-c", MAPPING_READER),
        *(mount.mountpoint / path, str(CHANGED[777])),
    )

    assert done.returncode == (-signal.SIGBUS if path in IN_PART else errno.EIO)
    assert done.stdout == ""


@pytest.mark.parametrize("path", ATTACKS)
def test_tools_report_an_error(
    mount: Mount, home: Home, tmp_path: Path, path: str
) -> None:
    for command in (["sha256sum"], ["cp", "-t", tmp_path]):
        done = run_as(home, *command, mount.mountpoint / path)
        assert done.returncode != 0
        assert "Input/output error" in done.stderr
        assert done.stdout == ""
    released = b"".join(copy.read_bytes() for copy in tmp_path.iterdir())
    assert content(path)[: CHANGED.start].startswith(released)
    assert not released or path in IN_PART


def test_other_files_stay_readable(mount: Mount) -> None:
    for path in HEALTHY:
        assert (mount.mountpoint / path).read_bytes() == content(path)


def test_verify_names_the_files(home: Home, sealed: Path, attacked: Insider) -> None:
    done = run_ovfuse(home, "verify", "--json", sealed)

    assert done.returncode == DamagedError.exit_code
    (model,) = json.loads(done.stdout)["models"]
    found = {file["path"]: file["ok"] for file in model["files"]}
    assert {path for path, ok in found.items() if not ok} >= ATTACKS.keys()
    assert all(found[path] for path in HEALTHY)


def test_file_that_is_open_gives_an_error(mount: Mount, attacked: Insider) -> None:
    path = "opened"
    with opened(mount.mountpoint / path) as fd:
        assert os.pread(fd, BLOCK, 0) == content(path)[:BLOCK]
        message = attacked.encrypt_alike(path, forged(path))
        attacked.overwrite_object(path, message)
        attacked.replace_list(path, message)
        for offset in random.Random(path).sample(range(BLOCK, SIZE), 20):
            with fails():
                os.pread(fd, 100, offset)
    assert mount.status()["failed_reads"] >= 20


def test_mapping_that_exists_ends_with_an_error(
    mount: Mount, home: Home, attacked: Insider
) -> None:
    path = "mapped"
    with opened(mount.mountpoint / path):  # so that the daemon knows it as it was
        attacked.overwrite_object(path, attacked.encrypt_alike(path, forged(path)))
        done = run_as(
            home,
            *(sys.executable, "-c", MAPPING_READER),
            *(mount.mountpoint / path, str(CHANGED[777])),
        )

    assert (done.returncode, done.stdout) == (-signal.SIGBUS, "")
