"""The engine that speaks the kernel's protocol: what the other engines cannot show."""

import errno
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import cast

import pytest

from ovfuse.errors import SupersededError
from ovfuse.serve.audit import Audit
from ovfuse.serve.engine import Setup
from ovfuse.serve.failures import Failures
from ovfuse.serve.kernel import wire
from ovfuse.serve.kernel.operations import REPLY_SIZE, Operations, Request
from ovfuse.serve.kernel.wire import Opcode
from ovfuse.serve.known_nodes import ROOT_ID, NodeTable
from ovfuse.serve.open_files import OpenFiles
from ovfuse.serve.options import MountOptions
from ovfuse.serve.processes import NOBODY
from ovfuse.view.contract import View
from tests.serve.memory_view import MemoryNode, MemoryView
from tests.serve.mounter import Mounter
from tests.support.waiting import wait_until

HEADER = Path("/usr/include/linux/fuse.h")
LAYOUTS = {
    "in_header": wire.IN_HEADER,
    "out_header": wire.OUT_HEADER,
    "init_out": wire.INIT_OUT,
    "entry_out": wire.ENTRY_OUT,
    "attr_out": wire.ATTR_OUT,
    "dirent": wire.DIRENT,
    "open_in": wire.OPEN_IN,
    "open_out": wire.OPEN_OUT,
    "read_in": wire.READ_IN,
    "release_in": wire.RELEASE_IN,
    "forget_in": wire.FORGET_IN,
    "batch_forget_in": wire.BATCH_FORGET_IN,
    "forget_one": wire.FORGET_ONE,
    "interrupt_in": wire.INTERRUPT_IN,
    "statfs_out": wire.STATFS_OUT,
}
ROOT = ROOT_ID
MKDIR = 9


@pytest.fixture
def engine() -> str:
    return "kernel"


@pytest.fixture
def operations(source: Path) -> Operations:
    return operations_on(MemoryView(source), source)


def request(operations: Operations, opcode: int, nodeid: int, body: bytes) -> Request:
    slot = operations.ledger.slot()
    slot.begin(7, None)
    return Request(opcode, 7, nodeid, NOBODY, memoryview(body), slot)


def ask(
    operations: Operations, opcode: int, nodeid: int, body: bytes = b""
) -> tuple[int, bytes]:
    """Return the errno and the payload of the reply."""
    reply = memoryview(bytearray(REPLY_SIZE))
    size = operations.answer(request(operations, opcode, nodeid, body), reply)
    length, error, unique = wire.OUT_HEADER.unpack_from(reply)
    assert (length, unique) == (size, 7)
    return -error, bytes(reply[wire.OUT_HEADER.size : size])


def look_up(operations: Operations, parent: int, name: bytes) -> int:
    code, payload = ask(operations, Opcode.LOOKUP, parent, name + b"\0")
    assert code == 0
    number: int = wire.ENTRY_OUT.unpack(payload)[0]
    return number


def test_layouts_and_numbers_are_those_of_the_header(tmp_path: Path) -> None:
    """As far as this machine's header has them: Debian 12 has that of Linux 6.1."""
    text = HEADER.read_text()
    structs = [name for name in LAYOUTS if f"struct fuse_{name} {{" in text]
    assert len(structs) >= 14
    opcodes = [op for op in Opcode if re.search(rf"FUSE_{op.name}\b", text)]
    flags = [flag for flag in wire.InitFlag if re.search(rf"FUSE_{flag.name}\s", text)]
    assert len(opcodes) == len(Opcode)
    of_linux_6_9 = {wire.InitFlag.PASSTHROUGH, wire.InitFlag.HAS_RESEND}
    assert {*flags, *of_linux_6_9} == set(wire.InitFlag)
    lines = [f"S({name})" for name in structs]
    lines += [f"N(FUSE_{member.name})" for member in (*opcodes, *flags)]
    (tmp_path / "sizes.c").write_text(
        "#include <stdio.h>\n#include <linux/fuse.h>\n"
        '#define S(n) printf("%zu\\n", sizeof(struct fuse_##n));\n'
        '#define N(n) printf("%llu\\n", (unsigned long long)(n));\n'
        f"int main(void) {{\n{chr(10).join(lines)}\nreturn 0; }}\n"
    )
    subprocess.run(["gcc", "-o", "sizes", "sizes.c"], cwd=tmp_path, check=True)
    said = subprocess.run(tmp_path / "sizes", check=True, capture_output=True).stdout
    expected = [LAYOUTS[name].size for name in structs]
    expected += [*map(int, opcodes), *map(int, flags)]
    assert list(map(int, said.split())) == expected


def test_what_the_kernel_does_not_wait_for_is_taken_back(
    operations: Operations,
) -> None:
    reply = memoryview(bytearray(REPLY_SIZE))
    directory = look_up(operations, ROOT, b"sub")
    assert len(operations.nodes) == 1
    for opcode, nodeid, body in (
        (Opcode.LOOKUP, ROOT, b"small.txt\0"),
        (Opcode.READDIRPLUS, directory, b""),
    ):
        fh = 0
        if not body:
            _, opened = ask(operations, Opcode.OPENDIR, directory, bytes(8))
            fh = wire.OPEN_OUT.unpack(opened)[0]
            body = wire.READ_IN.pack(fh, 0, 4096, 0, 0, 0, 0)  # noqa: PLW2901
        asked = request(operations, opcode, nodeid, body)
        operations.answer(asked, reply)
        assert len(operations.nodes) == 2
        operations.take_back(asked)
        assert len(operations.nodes) == 1
    file = look_up(operations, ROOT, b"small.txt")
    asked = request(operations, Opcode.OPEN, file, bytes(8))
    operations.answer(asked, reply)
    fh = wire.OPEN_OUT.unpack_from(reply, wire.OUT_HEADER.size)[0]
    operations.take_back(asked)
    code, _ = ask(
        operations, Opcode.READ, file, wire.READ_IN.pack(fh, 0, 1, 0, 0, 0, 0)
    )
    assert code == errno.ESTALE


def test_unknown_and_writing_requests(operations: Operations) -> None:
    assert ask(operations, 4711, ROOT) == (errno.ENOSYS, b"")
    assert ask(operations, MKDIR, ROOT, bytes(8) + b"x\0") == (errno.EROFS, b"")
    assert ask(operations, Opcode.OPEN, ROOT, wire.OPEN_IN.pack(os.O_RDWR, 0)) == (
        errno.EROFS,
        b"",
    )
    assert ask(operations, Opcode.READ, ROOT, b"short") == (errno.EIO, b"")
    assert ask(operations, Opcode.LOOKUP, ROOT, b"small.txt") == (errno.EIO, b"")
    assert ask(operations, Opcode.GETATTR, 4711, bytes(16))[0] == errno.ESTALE


@pytest.mark.fuse
def test_process_that_waits_for_a_slow_unlock_can_be_interrupted(
    mounter: Mounter,
) -> None:
    """As with Ctrl-C: it ends at once, and the mount goes on."""
    (mounter.source / "slow").mkdir()
    mounter.mount()
    reader = subprocess.Popen(["ls", mounter.mountpoint / "slow"])
    try:
        where = Path(f"/proc/{reader.pid}/wchan")
        wait_until(lambda: where.read_text() == "request_wait_answer")
        reader.send_signal(signal.SIGINT)
        assert reader.wait(30) == -signal.SIGINT
    finally:
        reader.kill()
        reader.wait()
        mounter.gate.touch()
    assert (mounter.mountpoint / "small.txt").read_bytes() == b"hello\n"


class ClosingView(MemoryView):
    """Its sealings are closed the first times that somebody is about to be told."""

    def __init__(self, source: Path, times: int) -> None:
        super().__init__(source)
        self.left = times

    def retain(self, node: MemoryNode) -> None:
        if self.left:
            self.left -= 1
            raise SupersededError("the sealing was replaced and is gone")
        super().retain(node)


def operations_on(view: MemoryView, source: Path) -> Operations:
    setup = Setup(
        view=cast("View", view),
        cipherdir=source,
        mountpoint=source,
        options=MountOptions(),
        failures=Failures(),
    )
    return Operations(setup)


def test_name_is_looked_up_again_if_its_sealing_was_closed_just_then(
    source: Path,
) -> None:
    operations = operations_on(ClosingView(source, 1), source)
    name = min(path.name for path in source.iterdir()).encode()

    number = look_up(operations, ROOT, name)
    assert operations.nodes.get(number).lookups == 1


def test_directory_of_a_sealing_that_was_closed_is_listed_and_not_told_of(
    source: Path,
) -> None:
    operations = operations_on(ClosingView(source, 1000), source)
    code, opened = ask(operations, Opcode.OPENDIR, ROOT, wire.OPEN_IN.pack(0, 0))
    assert code == 0
    fh = wire.OPEN_OUT.unpack(opened)[0]
    body = wire.READ_IN.pack(fh, 0, 4096, 0, 0, 0, 0)
    code, entries = ask(operations, Opcode.READDIRPLUS, ROOT, body)

    assert code == 0
    assert all(path.name.encode() in entries for path in source.iterdir())
    assert len(operations.nodes) == 0
    assert wire.ENTRY_OUT.unpack_from(entries)[0] == 0


class GoneView(MemoryView):
    """All of it is gone."""

    def is_gone(self, node: MemoryNode) -> bool:
        return True


def test_what_the_kernel_does_not_know_is_forgotten_when_that_is_certain(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may just be about to take up what it was told."""
    now = [1000.0]
    monkeypatch.setattr("ovfuse.serve.known_nodes.time.monotonic", lambda: now[0])
    operations = operations_on(GoneView(source), source)
    names = sorted(path.name.encode() for path in source.iterdir())
    lost, known = (look_up(operations, ROOT, name) for name in names[:2])

    def look(after: float) -> set[int]:
        now[0] += after
        operations.nodes.forget_lost(lambda number: number == known)
        return {number for number in (lost, known) if is_told(operations, number)}

    assert look(0) == {lost, known}
    assert look(4.9) == {lost, known}
    assert look_up(operations, ROOT, names[0]) == lost  # told again: from the start
    assert look(0.2) == {lost, known}
    assert look(4.9) == {lost, known}
    assert look(0.2) == {known}
    assert look(100) == {known}


def is_told(operations: Operations, number: int) -> bool:
    try:
        operations.nodes.get(number)
    except SupersededError:
        return False
    return True


def test_directories_of_a_predecessor_are_not_those_of_a_successor(
    operations: Operations, source: Path
) -> None:
    """The kernel may have them open yet, under numbers that it was given then."""
    setup = Setup(
        view=cast("View", MemoryView(source)),
        cipherdir=source,
        mountpoint=source,
        options=MountOptions(),
        failures=Failures(),
    )
    numbers = set()
    for each in (operations, Operations(setup)):
        for _ in range(3):
            _, opened = ask(each, Opcode.OPENDIR, ROOT, bytes(8))
            numbers.add(wire.OPEN_OUT.unpack(opened)[0])
    assert len(numbers) == 6


def test_file_that_cannot_be_opened_again_is_released_as_often_as_it_was_open(
    operations: Operations, source: Path
) -> None:
    number = look_up(operations, ROOT, b"small.txt")
    (source / "small.txt").unlink()
    files = OpenFiles(None, "never", operations.ledger.opens, Audit())
    operations.ledger.opens[number] = 2
    view = cast("View", MemoryView(source))
    nodes = NodeTable(view, operations.ledger.lookups)  # which does not know it

    files.restore(view, nodes)

    for left in (1, 0):
        with pytest.raises(SupersededError, match="is gone"):
            files.get(number).read_into(0, memoryview(b""))
        files.release(number)
        assert dict(operations.ledger.opens).get(number, 0) == left
    with pytest.raises(SupersededError, match="not open"):
        files.get(number)


def test_file_that_is_opened_anew_is_read_though_the_last_one_was_lost(
    operations: Operations, source: Path
) -> None:
    number = look_up(operations, ROOT, b"small.txt")
    node = operations.nodes.get(number).node
    files = OpenFiles(None, "never", operations.ledger.opens, Audit())
    operations.ledger.opens[number] = 1
    view = cast("View", MemoryView(source))
    nodes = NodeTable(view, operations.ledger.lookups)  # which does not know it
    files.restore(view, nodes)

    files.add(node, view.open(node), b"/small.txt", NOBODY)

    buffer = bytearray(6)
    for _ in range(2):
        assert files.get(number).read_into(0, memoryview(buffer)) == 6
        files.release(number)
        files.add(node, view.open(node), b"/small.txt", NOBODY)
    assert buffer == b"hello\n"


def test_file_that_is_counted_too_often_is_closed_when_nobody_has_it(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless it may have been opened just now."""
    now = [1000.0]
    monkeypatch.setattr("ovfuse.serve.open_files.time.monotonic", lambda: now[0])
    (source / "other.txt").write_bytes(b"other\n")
    operations = operations_on(MemoryView(source), source)
    names = (b"small.txt", b"other.txt")
    lost, known = (look_up(operations, ROOT, name) for name in names)
    for number in (lost, known):
        operations.ledger.opens[number] = 2
    files = OpenFiles(None, "never", operations.ledger.opens, Audit())
    view = cast("View", MemoryView(source))
    files.restore(view, operations.nodes)

    def look(after: float) -> dict[int, int]:
        now[0] += after
        files.close_lost(lambda number: number == known)
        return dict(operations.ledger.opens)

    assert look(0) == look(4.9) == {lost: 2, known: 2}
    node = operations.nodes.get(lost).node
    files.add(node, view.open(node), b"/", NOBODY)
    assert look(0.2) == look(4.9) == {lost: 3, known: 2}
    files.release(lost)
    assert look(0.2) == look(4.9) == {lost: 2, known: 2}
    assert look(0.2) == {known: 2}
    files.release(lost)  # of which the kernel tells after all
    assert look(100) == {known: 2}
    files.add(node, view.open(node), b"/", NOBODY)
    assert look(100) == look(100) == {lost: 1, known: 2}  # this one is not inherited
