"""Checks of mount options, the state file, and requests on the control socket."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ovfuse.errors import RollbackError, UsageError
from ovfuse.keys.history import History, Place
from ovfuse.keys.places import state_directory
from ovfuse.sealed.envelope import parse_envelope
from ovfuse.serve.control import ControlServer
from ovfuse.serve.options import MountOptions, parse_options
from tests.support import encryptor

_ANSWER = {"ready": True, "models": []}


# Mount options


def mount_options() -> list[bytes]:
    return [
        b"ro,allow_other,uid=0,gid=4294967294,umask=077,noexec,strict",
        b"model=a\\,b\\\\c,engine=libfuse,log=x\0allow_untrusted,allow_rollback",
        b"audit=no,uid=root,gid=root,comment=x,exec",
        b"_netdev,x-systemd.automount,nofail,,defaults",
        *(b"rw", b"uid", b"uid=4294967295", b"log=", b"model=\\", b"umask=8"),
        b"uid=" + b"9" * 5000,
        "uid=\u0661".encode(),
    ]


def check_mount_options(data: bytes) -> bool:
    """Several strings, divided by NUL, which no argument can hold."""
    texts = [os.fsdecode(text) for text in data.split(b"\0")]
    try:
        options = parse_options(texts)
    except UsageError:
        return False
    again = _as_text(options)
    assert parse_options([again] if again else []) == options
    return True


def _as_text(options: MountOptions) -> str:
    """Return one string that says the same."""
    words = []
    for name in MountOptions.__slots__:
        value = getattr(options, name)
        if name == "audit":
            words.append("audit=yes" if value else "audit=no")
        elif value is True:
            words.append(name)
        elif value is not None and value is not False:
            text = f"{value:o}" if name == "umask" else str(value)
            escaped = text.replace("\\", "\\\\").replace(",", "\\,")
            words.append(f"{name}={escaped}")
    return ",".join(words)


# The state file and the control socket


def requests() -> list[bytes]:
    return [
        *(b'{"command": "status"}\n', b'{"command": "x"}\n', b'{"command":"status"}'),
        *(b"1\n", b'"\xff"\n', b"\xff\xfe{\0}\0\n\0", b"[" * 4000 + b"\n"),
        *(b"9" * 4095 + b"\n", b" " * 5000 + b"\n", b"\n", b""),
    ]


class Words:
    """A state directory with one file, and a control server without a mount."""

    def __init__(self, directory: Path) -> None:
        made = encryptor.encrypt(encryptor.Plain(files={"a": b""}), "fuzz")
        data = made.files[made.envelope_path]
        self._envelope = parse_envelope(data, made.seal_id)
        self._place = Place(directory / "large", "")
        base = state_directory()
        assert base is not None
        assert base.is_relative_to(directory)
        self._seen = base / "seen" / self._place.file_name
        self._seen.parent.mkdir(parents=True)
        self._history = History()
        self._rolling_back = History(allow_rollback=True)
        self._server = ControlServer(directory / "mountpoint", lambda: _ANSWER)

    def close(self) -> None:
        self._server._socket.close()

    def histories(self) -> list[bytes]:
        self._seen.unlink(missing_ok=True)
        self._history.record(self._place, self._envelope)
        good = self._seen.read_bytes()
        newer = good.replace(b'"version":1}', b'"version":2}')
        huge = good.replace(b'"version":1}', b'"version":1%s}' % (b"0" * 5000))
        return [good, newer, huge, good[:-1], b"", b"{}"]

    def check_history(self, data: bytes) -> bool:
        """A damaged file is forgotten, and what is recorded is remembered."""
        self._seen.write_bytes(data)
        accepted = True
        try:
            self._history.check(self._place, self._envelope)
        except RollbackError:
            accepted = False
        if accepted:
            self._history.record(self._place, self._envelope)
        else:
            assert self._seen.read_bytes() == data
            self._rolling_back.record(self._place, self._envelope)
        self._history.check(self._place, self._envelope)
        seen = json.loads(self._seen.read_bytes())
        assert seen["payload_sha256"] == self._envelope.payload_sha256
        assert encryptor.canonical(seen) == self._seen.read_bytes()
        return accepted

    def check_control(self, data: bytes) -> bool:
        """Whatever is asked, the thread ends with an answer or none."""
        ours, theirs = socket.socketpair()
        with ours:
            ours.sendall(data)
            ours.shutdown(socket.SHUT_WR)
            assert self._server._clients.acquire(blocking=False)
            self._server._serve(theirs)
            answer = b"".join(iter(lambda: ours.recv(4096), b""))
        if not answer:
            return False
        assert answer.endswith(b"\n")
        told = json.loads(answer)
        asked: bool = json.loads(data) == {"command": "status"}
        assert told == (_ANSWER if asked else {"error": "unknown command"})
        return asked


@contextmanager
def words(directory: Path) -> Iterator[Words]:
    """Make what they need below a directory, which the environment names as well."""
    made = Words(directory)
    try:
        yield made
    finally:
        made.close()
