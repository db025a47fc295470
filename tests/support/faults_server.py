"""`python -m tests.support.faults_server SOCKET`: forks commands; see faults.py.

Each line that comes is a command as JSON; a line that is sent says how it ended.
The commands are forked from here, where all is imported, and so start at once.
"""

import ctypes
import importlib
import json
import os
import pkgutil
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final
from unittest import mock

import ovfuse.cli
from ovfuse.errors import KeyFileError

_libc: Final = ctypes.CDLL(None, use_errno=True)
_NO_DESCRIPTOR: Final = -1
_PR_SET_PTRACER: Final = 0x59616D61
_ANY: Final = -1

# Each makes the system call of its name, of which nothing can come.
_COUNTING: Final[Mapping[str, Callable[[], object]]] = {
    "open": lambda: _libc.open(b"", os.O_RDONLY),
    "openat": lambda: os.open("", os.O_RDONLY),
    "mkdir": lambda: _libc.mkdir(b"", 0),
    "mkdirat": lambda: os.mkdir("", dir_fd=_NO_DESCRIPTOR),
    "write": lambda: os.write(_NO_DESCRIPTOR, b""),
    "rename": lambda: _libc.rename(b"", b""),
    "renameat": lambda: os.rename("", "", src_dir_fd=_NO_DESCRIPTOR),
    "link": lambda: _libc.link(b"", b""),
    "linkat": lambda: os.link("", "", src_dir_fd=_NO_DESCRIPTOR),
    "unlink": lambda: _libc.unlink(b""),
    "unlinkat": lambda: os.unlink("", dir_fd=_NO_DESCRIPTOR),
    "rmdir": lambda: _libc.rmdir(b""),
    "fsync": lambda: _libc.fsync(_NO_DESCRIPTOR),
    "syncfs": lambda: _libc.syncfs(_NO_DESCRIPTOR),
    "fchmod": lambda: os.fchmod(_NO_DESCRIPTOR, 0),
    "utimensat": lambda: os.utime("", (0, 0)),
}


def main() -> None:
    """Serve until the other side closes the socket."""
    for module in pkgutil.walk_packages(ovfuse.__path__, "ovfuse."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    # strace of an ordinary user sees paths only of who can be dumped.
    mock.patch.object(ovfuse.cli, "harden_process").start()
    _libc.prctl(_PR_SET_PTRACER, ctypes.c_long(_ANY), 0, 0, 0)  # for strace
    with suppress(KeyFileError):  # typer imports some of itself when it is first used
        ovfuse.cli.app(["verify", "-i", "/", "/"], standalone_mode=False)
    with socket.socket(fileno=int(sys.argv[1])) as client, client.makefile() as lines:
        client.sendall(b"ready\n")
        for line in lines:
            client.sendall(json.dumps(_run(json.loads(line))).encode() + b"\n")


def _run(request: dict[str, Any]) -> dict[str, Any]:
    stderr = os.memfd_create("stderr")
    pid = os.fork()
    if pid == 0:
        try:
            _be_command(request, stderr)
        finally:
            os._exit(99)
    _, status = os.waitpid(pid, 0)
    text = os.pread(stderr, 1 << 20, 0).decode("utf-8", "replace")
    os.close(stderr)
    code = os.waitstatus_to_exitcode(status)
    return {"pid": pid, "status": code, "stderr": text}


def _be_command(request: dict[str, Any], stderr: int) -> None:
    """Become the command, the chosen one of its calls being the next one counted."""
    null = os.open(os.devnull, os.O_RDWR)
    for target, source in ((0, null), (1, null), (2, stderr)):
        os.dup2(source, target)
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["ovfuse", *request["arguments"]]
    for _ in range(request["count"]):
        with suppress(OSError):
            _COUNTING[request["call"]]()
    try:
        ovfuse.cli.main()
    except SystemExit as ended:
        os._exit(ended.code if isinstance(ended.code, int) else 1)


if __name__ == "__main__":
    main()
