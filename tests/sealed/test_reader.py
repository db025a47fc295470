"""Random access: the same bytes as the plaintext's, whatever is asked for."""

import os
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovfuse.errors import CipherdirError, DamagedError, OvfuseError
from ovfuse.sealed.reader import ObjectReader, ScratchPool
from ovfuse.sealed.sealing import Sealing
from tests.support.encryptor import Plain, SealedFiles, encrypt
from tests.support.sealed import (
    entry_of,
    make_identity,
    opened,
    pattern,
    read_at,
    write_sealed,
)

MiB = 2**20
BLOCK = 65536
SIZES = [
    *(0, 1, 16383, 16384, 16385, 32768, 49151),
    *(BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK - 1, 2 * BLOCK, 2 * BLOCK + 1),
    *(MiB - 1, MiB, MiB + 1),
]
PADDED_SIZES = {0: 1, 1: 16384, 16383: 16385, 16384: BLOCK, BLOCK - 1: 3 * BLOCK}
EDGES = sorted(
    {edge + d for edge in (0, 16384, 32768, BLOCK, 2 * BLOCK, MiB) for d in (-1, 0, 1)}
)


def seal_sizes() -> SealedFiles:
    plain = {f"s{size}": pattern(size) for size in SIZES}
    padded = {f"p{size}": pattern(size) for size in PADDED_SIZES}
    return encrypt(
        Plain(
            files=plain | padded,
            padded={f"p{size}": to for size, to in PADDED_SIZES.items()},
        ),
        "reader",
    )


@pytest.fixture(scope="module")
def sealing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sealing]:
    identity = make_identity()
    directory = write_sealed(seal_sizes(), tmp_path_factory.mktemp("r"), identity)
    with opened(directory, identity) as sealing:
        yield sealing


@pytest.fixture(scope="module")
def readers(sealing: Sealing) -> Iterator[dict[str, ObjectReader]]:
    found = {entry.path: sealing.open_file(entry) for entry in sealing.manifest.files}
    yield found
    for reader in found.values():
        reader.close()


def read(reader: ObjectReader, offset: int, size: int) -> bytes:
    """Read into a buffer that would show any byte too many."""
    buffer = bytearray(b"\xaa" * (size + 8))
    count = reader.read_into(offset, memoryview(buffer)[:size])
    assert buffer[count:] == b"\xaa" * (size + 8 - count)
    return bytes(buffer[:count])


names = st.sampled_from([f"s{s}" for s in SIZES] + [f"p{s}" for s in PADDED_SIZES])
near_edges = st.sampled_from(EDGES).filter(lambda edge: edge >= 0)
positions = near_edges | st.integers(0, MiB + 100)


@given(names, positions, near_edges | st.integers(0, 3 * BLOCK))
def test_any_part(
    readers: dict[str, ObjectReader], name: str, offset: int, size: int
) -> None:
    content = pattern(int(name[1:]))

    assert read(readers[name], offset, size) == content[offset : offset + size]


@pytest.mark.parametrize("size", SIZES)
def test_whole_file(readers: dict[str, ObjectReader], size: int) -> None:
    assert readers[f"s{size}"].plaintext_size == size
    assert read(readers[f"s{size}"], 0, size) == pattern(size)
    assert read(readers[f"s{size}"], 0, size + 1) == pattern(size)


@pytest.mark.parametrize("size", SIZES)
def test_bytes_at_every_edge(readers: dict[str, ObjectReader], size: int) -> None:
    content = pattern(size)
    for start in (edge for edge in (*EDGES, size - 1, size, size + 1) if edge >= 0):
        for count in (1, 2, 16384, BLOCK + 1):
            found = read(readers[f"s{size}"], start, count)
            assert found == content[start : start + count], (start, count)


@pytest.mark.parametrize("size", PADDED_SIZES)
def test_padding_is_never_shown(readers: dict[str, ObjectReader], size: int) -> None:
    reader = readers[f"p{size}"]

    assert read(reader, 0, 4 * BLOCK) == pattern(size)
    assert read(reader, size, 100) == b""
    assert read(reader, max(0, size - 1), 100) == pattern(size)[-1:]


@pytest.mark.parametrize("offset", [0, 5, 2**40, 2**63, 2**70])
def test_reading_after_the_end(readers: dict[str, ObjectReader], offset: int) -> None:
    assert read(readers["s0"], offset, 10) == b""


def test_reading_nothing(readers: dict[str, ObjectReader]) -> None:
    assert read(readers[f"s{BLOCK}"], 5, 0) == b""


def test_negative_offset(readers: dict[str, ObjectReader]) -> None:
    with pytest.raises(ValueError, match="negative offset"):
        readers["s1"].read_into(-1, memoryview(bytearray(1)))


def test_many_threads_share_a_reader(readers: dict[str, ObjectReader]) -> None:
    content = pattern(MiB + 1)
    reader = readers[f"s{MiB + 1}"]
    wrong: list[int] = []
    barrier = threading.Barrier(6)

    def work(number: int) -> None:
        barrier.wait()
        for step in range(60):
            offset = (number * 40_009 + step * 65_537) % MiB
            size = 1 + (number * step * 977) % 100_000
            if read(reader, offset, size) != content[offset : offset + size]:
                wrong.append(offset)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []


def test_nothing_of_the_size_of_a_chunk_is_allocated(
    readers: dict[str, ObjectReader],
) -> None:
    reader = readers[f"s{MiB}"]
    buffer = memoryview(bytearray(MiB))
    reader.read_into(0, buffer)
    tracemalloc.start()
    try:
        for offset in (0, 1, 16383, 100_000):
            reader.read_into(offset, buffer)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 8192


def test_scratch_buffers_come_back_and_few_are_kept() -> None:
    pool = ScratchPool()
    first = pool.borrow()
    pool.give_back(first)
    assert pool.borrow() is first

    for scratch in [pool.borrow() for _ in range(40)]:
        pool.give_back(scratch)
    assert len(pool._spare) == 4


def test_wiped_pool_holds_no_plaintext(sealing: Sealing) -> None:
    entry = entry_of(sealing, f"s{BLOCK}")
    assert read_at(sealing, entry, 5, 10) == pattern(15)[5:]
    scratch = sealing._pool._spare[-1]
    assert pattern(15) in scratch.chunk.tobytes()
    sealing._pool.wipe()

    assert scratch.chunk.tobytes() == bytes(16384)


Break = Callable[[Path], None]


def flip(position: int) -> Break:
    def apply(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[position] ^= 1
        path.write_bytes(data)

    return apply


def truncate(size: int) -> Break:
    return lambda path: os.truncate(path, size)


@pytest.mark.parametrize(
    ("damage", "offset", "size"),
    [
        (flip(56), 0, 10),
        (flip(56), 65_000, 1000),
        (flip(-17), BLOCK, BLOCK),
        (flip(56 + 65600 + 20_000), 0, 2 * BLOCK),
        (truncate(56 + 65600), 65_000, 1000),
        (truncate(100_000), 0, 2 * BLOCK),
    ],
    ids=["first", "first too", "last", "second", "block cut off", "cut in a block"],
)
def test_buffer_is_zero_after_an_error(
    tmp_path: Path, damage: Break, offset: int, size: int
) -> None:
    identity = make_identity()
    made = encrypt(Plain(files={"f": pattern(2 * BLOCK)}), "zero")
    directory = write_sealed(made, tmp_path, identity)
    with opened(directory, identity) as sealing:
        reader = sealing.open_file(entry_of(sealing, "f"))
    damage(directory / made.object_path("f"))
    buffer = bytearray(b"\xaa" * (size + 8))

    with pytest.raises(DamagedError):
        reader.read_into(offset, memoryview(buffer)[:size])
    assert buffer == bytes(size) + b"\xaa" * 8
    reader.close()


def test_other_blocks_can_still_be_read(tmp_path: Path) -> None:
    identity = make_identity()
    made = encrypt(Plain(files={"f": pattern(3 * BLOCK)}), "zero")
    directory = write_sealed(made, tmp_path, identity)
    flip(56 + 65600)(directory / made.object_path("f"))

    with opened(directory, identity) as sealing:
        entry = entry_of(sealing, "f")
        assert read_at(sealing, entry, 0, BLOCK) == pattern(BLOCK)
        assert read_at(sealing, entry, 2 * BLOCK, 5) == pattern(3 * BLOCK)[-BLOCK:][:5]
        with pytest.raises(DamagedError):
            read_at(sealing, entry, BLOCK - 1, 2)


def test_object_that_the_system_cannot_read(sealing: Sealing, tmp_path: Path) -> None:
    reader = sealing.open_file(entry_of(sealing, "s1"))
    fd, reader._fd = reader._fd, os.open(tmp_path, os.O_RDONLY)
    os.close(fd)
    buffer = bytearray(b"x")

    with pytest.raises(CipherdirError, match="cannot be read"):
        reader.read_into(0, memoryview(buffer))
    assert buffer == b"\0"
    reader.close()


def test_closed_reader_reads_nothing(sealing: Sealing) -> None:
    reader = sealing.open_file(entry_of(sealing, "s1"))
    reader.close()
    reader.close()

    with pytest.raises(OvfuseError):
        reader.read_into(0, memoryview(bytearray(1)))
