"""A keeper that goes on as another version of the program, in the same process.

The new program gets the records as the old one had them: descriptors stay open over
execve(2), and the bytes, among them keys, come through a pipe, which is memory of the
kernel that is never swapped. Whether the new one can take them is found out before.
"""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from ovfuse.keeping import Record
from ovfuse.quote import quoted
from ovfuse.secret import lock_all_memory
from ovfuse.serve.survival.channel import Records
from ovfuse.serve.survival.installed import current_python
from ovfuse.serve.survival.restarted import VARIABLE, take_pipe

__all__ = [
    "Restart",
    "check",
    "inherited_records",
    "reason_against",
    "start_anew",
]

_VERSION: Final = 1
"""Of the records: the programs before and after must mean the same by them."""
_PLAN: Final = "plan"
_CHECK: Final = (
    "import sys, ovfuse.cli.mount, ovfuse.serve.kernel, ovfuse.view, ovfuse.keys;"
    "from ovfuse.serve.survival.reload import check; check(sys.argv[1])"
)
"""With all that a daemon needs."""
_CHECK_SECONDS: Final = 60


def _program() -> list[str]:
    """With -P, nothing is imported from where the process happens to be."""
    return [current_python(), "-P"]


def check(version: str) -> None:
    """Raise ValueError if records of that version mean nothing to this program."""
    if int(version) != _VERSION:
        raise ValueError("the records are of another version")


@dataclass(frozen=True, slots=True)
class Restart:
    """How another version of the program is started.

    Attributes:
        words: of the command line, which nobody parses: they tell people what it is.
        plan: what it needs to know, as JSON.
    """

    words: Sequence[str]
    plan: Mapping[str, Any]


def reason_against() -> str | None:
    """Tell why the program, as it is on disk now, cannot go on, if so."""
    command = [*_program(), "-c", _CHECK, f"{_VERSION}"]
    try:
        done = subprocess.run(  # noqa: S603  a list, no shell
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd="/",
            timeout=_CHECK_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"it cannot be started: {quoted(str(error))}"
    if done.returncode == 0:
        return None
    lines = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
    return f"it does not work: {quoted(''.join(lines))}"


def start_anew(
    restart: Restart,
    records: Records,
    stored: Mapping[str, Any] | None,
    held: Sequence[int] = (),
) -> NoReturn:
    """Become the program as it is on disk now, which gets plan and records.

    And, as `stored` in the plan, what the service manager's store has; None: no store.
    And, as `held` there, further descriptors.

    Signals should be blocked: they then reach the new program when it can take them.

    Raises:
        OSError: it cannot be started; all is as before.
    """
    plan = json.dumps({**restart.plan, "stored": stored, "held": held})
    records = {**records, _PLAN: Record(plan.encode("ascii"))}
    command = [*_program(), "-m", "ovfuse", *restart.words]
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _write(writer, records)
    os.close(writer)
    kept = [*held, *(fd for record in records.values() for fd in record.fds)]
    try:
        for fd in (reader, *kept):
            os.set_inheritable(fd, True)
        os.execve(  # noqa: S606  a list, no shell
            command[0], command, {**os.environ, VARIABLE: f"{reader}"}
        )
    except OSError:
        for fd in kept:
            os.set_inheritable(fd, False)
        os.close(reader)  # which ends who writes
        os.waitpid(child, 0)
        raise


def inherited_records() -> tuple[dict[str, Any], Records]:
    """Return plan and records of the program before; once.

    Raises:
        ValueError: they are not whole.
    """
    pipe = take_pipe()
    records: Records = {}
    try:
        while head := _read_line(pipe):
            facts = json.loads(head)
            size = facts["size"]
            with _read(pipe, size + facts["secret"]) as data:
                records[facts["name"]] = Record(data[:size], facts["fds"], data[size:])
                data[:] = bytes(len(data))
            for fd in facts["fds"]:
                os.set_inheritable(fd, False)
    finally:
        os.close(pipe)
    with suppress(ChildProcessError):
        os.wait()  # for who wrote it
    plan = json.loads(bytes(records.pop(_PLAN).data))
    for fd in plan["held"]:
        os.set_inheritable(fd, False)
    return plan, records


def _read(pipe: int, size: int) -> memoryview:
    view = memoryview(bytearray(size))
    done = 0
    while done < size:
        count = os.readv(pipe, [view[done:]])
        if not count:
            raise ValueError("the records end early")
        done += count
    return view


def _write(pipe: int, records: Records) -> NoReturn:
    code = 1
    try:
        lock_all_memory()  # soon it will be the last one that has it, and fork unlocks
        for name, record in records.items():
            facts: dict[str, Any] = {"name": name, "fds": record.fds}
            facts |= {"size": len(record.data), "secret": len(record.secret)}
            os.write(pipe, json.dumps(facts).encode("ascii") + b"\n")
            for data in (record.data, record.secret):
                done = 0
                while done < len(data):
                    done += os.write(pipe, data[done:])
        code = 0
    finally:
        os._exit(code)


def _read_line(pipe: int) -> bytes:
    line = bytearray()
    while not line.endswith(b"\n"):
        piece = os.read(pipe, 1)
        if not piece:
            break
        line += piece
    return bytes(line)
