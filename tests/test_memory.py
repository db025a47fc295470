"""Buffers that the kernel has back; what else is in memory.py is tested in load/."""

import subprocess
import sys

import pytest

from ovfuse.memory import allocate

# In a process of its own, whose memory nobody else has fragmented.
PROGRAM = """
import re, threading
from ovfuse.memory import allocate
PIECE = b"x" * (1 << 20)
def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1])
def work(barrier):
    for size in (1, 2, 1, 2):
        buffer = allocate(size << 20)
        for start in range(0, len(buffer), len(PIECE)):
            buffer[start : start + len(PIECE)] = PIECE
        barrier.wait()
def run():
    barrier = threading.Barrier(8)
    threads = [threading.Thread(target=work, args=[barrier]) for _ in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
before = resident()
for _ in range(4): run()
print(resident() - before)
"""


def test_memory_of_threads_is_given_back() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )

    assert int(done.stdout) < 2048  # KiB; malloc keeps some 26,000 of it


def test_it_is_zeros_and_can_be_written() -> None:
    buffer = allocate(10_000)
    assert buffer == bytes(10_000)
    buffer[:3] = b"abc"
    assert bytes(buffer[:4]) == b"abc\0"


def test_too_much_is_an_error() -> None:
    with pytest.raises(MemoryError):
        allocate(1 << 60)
