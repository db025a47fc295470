"""What bench.py times, each in a process of its own: one function, one number."""

from __future__ import annotations

import mmap
import os
import random
import select
import sys
import time
from contextlib import suppress
from pathlib import Path

MiB = 1 << 20
PAGE_SIZE = 4096


def touch(size: str) -> float:
    """Use and free so much memory: what the machine gave back is slow at first."""
    memory = mmap.mmap(-1, int(size), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    zeros = bytes(MiB)
    for start in range(0, int(size), MiB):
        memory[start : start + MiB] = zeros
    return 0.0


def read(path: str) -> float:
    """Return the bytes per second of a sequential read."""
    buffer = bytearray(b"x" * MiB)
    size = Path(path).stat().st_size
    began = time.perf_counter()
    fd = os.open(path, os.O_RDONLY)
    total = 0
    while count := os.readv(fd, [buffer]):
        total += count
    seconds = time.perf_counter() - began
    if total != size:
        raise RuntimeError("it is not all there")
    return size / seconds


def map_all(path: str) -> float:
    """Return the bytes per second of mapping a file and touching every page."""
    size = Path(path).stat().st_size
    began = time.perf_counter()
    fd = os.open(path, os.O_RDONLY)
    mapping = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ)
    touched = mapping[::PAGE_SIZE]
    seconds = time.perf_counter() - began
    if len(touched) != -(-size // PAGE_SIZE):
        raise RuntimeError("it is not all there")
    return size / seconds


def read_randomly(path: str, count: str) -> float:
    """Return how many reads of 4 KiB a second does, each at another page."""
    pages = Path(path).stat().st_size // PAGE_SIZE
    numbers = random.Random(1).sample(range(pages), min(int(count), pages))  # noqa: S311
    began = time.perf_counter()
    fd = os.open(path, os.O_RDONLY)
    for number in numbers:
        os.pread(fd, PAGE_SIZE, number * PAGE_SIZE)
    return len(numbers) / (time.perf_counter() - began)


def read_beginning(path: str) -> float:
    """Return the seconds of opening a file and reading its first 100 bytes."""
    began = time.perf_counter()
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - nothing besides
        file.read(100)
    return time.perf_counter() - began


def list_all(directory: str) -> float:
    """Return the seconds of listing a directory and asking for every file's status."""
    began = time.perf_counter()
    for name in os.listdir(directory):
        os.stat(f"{directory}/{name}")  # noqa: PTH116 - as `ls -l` does
    return time.perf_counter() - began


def longest_pause(directory: str) -> float:
    """Return the longest wait for an answer until standard input ends, in seconds."""
    print("ready", flush=True)
    longest, number = 0.0, 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        began = time.perf_counter()
        with suppress(FileNotFoundError):  # which the kernel asks for each time
            os.stat(f"{directory}/none-{number}")  # noqa: PTH116 - nothing besides
        longest = max(longest, time.perf_counter() - began)
        number += 1
    return longest


def infer(path: str) -> float:
    """Return the seconds until OpenVINO has loaded a model and inferred once."""
    import numpy as np  # noqa: PLC0415 - only here, and an app has them already
    import openvino  # noqa: PLC0415 - likewise

    core = openvino.Core()
    core.get_property("CPU", "FULL_DEVICE_NAME")  # loads the plugin
    began = time.perf_counter()
    compiled = core.compile_model(path, "CPU")
    compiled([np.ones(compiled.inputs[0].shape, np.float32)])
    return time.perf_counter() - began


def build(path: str, size: str) -> float:
    """Make the model."""
    from tests.support import models  # noqa: PLC0415 - only here

    models.large_ir(Path(path), int(size))
    return 0.0


if __name__ == "__main__":
    print(globals()[sys.argv[1]](*sys.argv[2:]))
