"""Lines with fields: what arrives at a socket such as the journal's."""

import logging
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovfuse.events import FACTS, Event, about
from ovfuse.serve.journal import JournalHandler, encode_fields

PLACE = Path("/srv/models")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
        ours.bind(f"{tmp_path}/socket")
        ours.settimeout(10)
        yield ours


class Kept(logging.Handler):
    """Keeps what it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def decoded(datagram: bytes) -> dict[str, bytes]:
    """Read a datagram as the protocol's description says."""
    found = {}
    while datagram:
        line, _, rest = datagram.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (size,) = struct.unpack_from("<Q", rest)
            value, rest = rest[8 : 8 + size], rest[9 + size :]
        found[name.decode()] = value
        datagram = rest
    return found


def handler_for(tmp_path: Path, **how: bool) -> tuple[JournalHandler, Kept]:
    kept = Kept()
    how = {"is_service": True, **how}
    made = JournalHandler(PLACE, kept, address=tmp_path / "socket", **how)
    return made, kept


def say(
    handler: logging.Handler,
    text: str,
    level: int = logging.INFO,
    extra: dict[str, object] | None = None,
) -> None:
    record = logging.makeLogRecord({"msg": text, "levelno": level, **(extra or {})})
    handler.handle(record)


def test_line_arrives_with_its_fields(journal: socket.socket, tmp_path: Path) -> None:
    handler, _ = handler_for(tmp_path)
    facts: dict[str, str | int]
    facts = {"model": "resnet", "version": 3, "uid": 0, "pid": 42, "exe": "/bin/cat"}
    say(handler, "opened", extra=about(Event.OPENED, **facts))

    found = decoded(journal.recv(65536))
    expected = {
        "MESSAGE": b"opened",
        "PRIORITY": b"6",
        "SYSLOG_IDENTIFIER": b"ovfuse",
        "SYSLOG_PID": b"%d" % os.getpid(),
        "MESSAGE_ID": Event.OPENED.value.encode(),
        "OVFUSE_MOUNTPOINT": b"/srv/models",
        "OVFUSE_MODEL": b"resnet",
        "OVFUSE_VERSION": b"3",
        "OVFUSE_UID": b"0",
        "OVFUSE_PID": b"42",
        "OVFUSE_EXE": b"/bin/cat",
    }
    if os.geteuid() == 0:
        expected["OBJECT_PID"] = b"42"
    assert found == expected
    handler.close()


@pytest.mark.parametrize(
    ("level", "priority"), [(10, b"7"), (20, b"6"), (30, b"4"), (40, b"3"), (50, b"2")]
)
def test_level_is_a_priority(
    journal: socket.socket, tmp_path: Path, level: int, priority: bytes
) -> None:
    handler, _ = handler_for(tmp_path)
    say(handler, "text", level)

    found = decoded(journal.recv(65536))
    assert found["PRIORITY"] == priority
    assert "MESSAGE_ID" not in found
    handler.close()


def test_process_is_named_only_where_numbers_are_the_journals(
    journal: socket.socket, tmp_path: Path
) -> None:
    handler, _ = handler_for(tmp_path, is_service=False)
    say(handler, "opened", extra=about(Event.OPENED, pid=42))

    assert "OBJECT_PID" not in decoded(journal.recv(65536))
    handler.close()


def test_no_value_makes_another_field(journal: socket.socket, tmp_path: Path) -> None:
    handler, _ = handler_for(tmp_path)
    evil = "a\nPRIORITY=0\nOVFUSE_UID=0\x1b\udcff"
    facts = dict.fromkeys(FACTS, evil)
    say(handler, evil, extra=about(Event.DENIED, **facts))

    found = decoded(journal.recv(65536))
    assert found["PRIORITY"] == b"6"
    escaped = rb"a\nPRIORITY=0\nOVFUSE_UID=0\x1b\xff"
    assert {found[f"OVFUSE_{name.upper()}"] for name in FACTS} == {escaped}
    handler.close()


def test_value_with_a_line_break_has_its_length(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ovfuse.serve.journal.printable", lambda text: text)
    fields = {"A": "one\ntwo=2", "B": "", "C": "x=y"}

    assert decoded(encode_fields(fields)) == {
        "A": b"one\ntwo=2",
        "B": b"",
        "C": b"x=y",
    }


def test_large_values_are_cut(journal: socket.socket, tmp_path: Path) -> None:
    handler, kept = handler_for(tmp_path)
    large = "é" * 100_000
    say(handler, large, extra=about(Event.FAILED, **dict.fromkeys(FACTS, large)))

    found = decoded(journal.recv(1 << 20))
    assert len(found["MESSAGE"]) < 9000
    assert found["MESSAGE"].decode().endswith("é…")
    assert kept.lines == []
    handler.close()


def test_line_goes_elsewhere_if_nobody_listens(tmp_path: Path) -> None:
    handler, kept = handler_for(tmp_path)
    say(handler, "one")
    ours = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.bind(f"{tmp_path}/socket")
    ours.close()
    say(handler, "two")
    handler.close()
    say(handler, "three")

    assert kept.lines == ["one", "two", "three"]


def test_line_goes_elsewhere_if_nobody_reads(
    journal: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ovfuse.serve.journal._TIMEOUT_SECONDS", 0.01)
    handler, kept = handler_for(tmp_path)
    number = 0
    while not kept.lines:
        say(handler, f"line {number}")
        number += 1
        assert number < 10_000

    assert kept.lines == [f"line {number - 1}"]
    handler.close()


def test_standard_error_is_marked_for_the_journal_and_for_nobody_else(
    tmp_path: Path,
) -> None:
    """What a command says is of a level, if systemd has connected it to the journal."""
    code = (
        "import os, sys; status = os.fstat(2); "
        "os.environ['JOURNAL_STREAM'] = sys.argv[1] or "
        "f'{status.st_dev}:{status.st_ino}'; "
        "from ovfuse.cli import terminal; terminal.error('e'); terminal.warning('w'); "
        "terminal.note('n'); terminal.hint('h')"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", code, stream],
            capture_output=True,
            text=True,
            check=True,
        ).stderr
        for stream in ("", "1:2")
    ]

    plain = "ovfuse: error: e\novfuse: warning: w\novfuse: n\nhint: h\n"
    assert said == [
        "<3>ovfuse: error: e\n<4>ovfuse: warning: w\n<6>ovfuse: n\n<6>hint: h\n",
        plain,
    ]
