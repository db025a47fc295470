"""Mounts a memory view: the mount command without keys. A script for the tests.

    python -m tests.serve.memory_mount [-f] [-o OPTIONS]... DIRECTORY MOUNTPOINT

$OVFUSE_TEST_OPEN makes the view fail to open: `nokey` as without an identity,
`kill` and `exit` as if the daemon died, `broken` by an unexpected exception,
`wait` waits for $OVFUSE_TEST_GATE after touching $OVFUSE_TEST_OPENING.
$OVFUSE_TEST_SWAP makes it a machine with swap, on which memory cannot be locked, and
$OVFUSE_TEST_OLD one with a kernel that sends no request again.
"""

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import cast
from unittest import mock

from ovfuse.errors import NoUsableKeyError, OvfuseError
from ovfuse.keeping import Keeping
from ovfuse.serve import lifecycle
from ovfuse.serve.kernel import session
from ovfuse.serve.kernel.wire import InitFlag
from ovfuse.serve.locked import Unlocking
from ovfuse.serve.options import parse_options
from ovfuse.view.contract import View
from tests.serve.memory_view import MemoryView, wait_for_gate


def patch_machine() -> None:
    """Make it another one, as the environment says."""
    has_swap = bool(os.environ.get("OVFUSE_TEST_SWAP"))
    mock.patch.object(lifecycle, "may_swap", return_value=has_swap).start()
    if has_swap:
        mock.patch.object(lifecycle, "lock_all_memory", return_value=False).start()

    if os.environ.get("OVFUSE_TEST_OLD"):
        wanted = session._WANTED & ~InitFlag.HAS_RESEND
        mock.patch.object(session, "_WANTED", wanted).start()


def main() -> int:
    """Parse, mount, and print an error as the command does."""
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("mountpoint", type=Path)
    parser.add_argument("-o", action="append", default=[], dest="options")
    parser.add_argument("-f", action="store_true", dest="foreground")
    arguments = parser.parse_args()

    patch_machine()

    def open_view(_keeping: Keeping, _unlocking: Unlocking | None) -> View:
        match os.environ.get("OVFUSE_TEST_OPEN"):
            case "nokey":
                raise NoUsableKeyError("no identity opens it", hint="pass -i")
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exit":
                os._exit(0)
            case "broken":
                raise ValueError("unexpected thing")
            case "wait":
                Path(os.environ["OVFUSE_TEST_OPENING"]).write_text(f"{os.getpid()}")
                wait_for_gate()
        return cast("View", MemoryView(arguments.directory))

    try:
        plan = lifecycle.MountPlan(
            cipherdir=arguments.directory,
            mountpoint=arguments.mountpoint,
            options=parse_options(arguments.options),
            open_view=open_view,
            foreground=arguments.foreground,
        )
        lifecycle.run_mount(plan)
    except OvfuseError as error:
        sys.stderr.write(f"ovfuse: error: {error.message}\n")
        if error.hint:
            sys.stderr.write(f"hint: {error.hint}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
