"""`ovfuse status`: the mounts of this machine, for people or as JSON."""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ovfuse.cli.parameters import Json
from ovfuse.cli.terminal import say, say_json
from ovfuse.quote import printable

if TYPE_CHECKING:
    from ovfuse.serve.status import MountStatus

__all__ = ["status"]

_HEADINGS = ("MOUNTPOINT", "CIPHERDIR", "STATE", "PID", "ENGINE", "FAILED READS")


def status(as_json: Json = False) -> None:
    """List the mounts, their sealed models, and how they are doing."""
    from ovfuse.serve.status import list_status

    mounts = list_status()
    if as_json:
        say_json([mount.as_json() for mount in mounts])
    elif sys.stdout.isatty():
        _print_table(mounts)
    else:
        for mount in mounts:
            say("  ".join(_cells(mount)))
            for line in _lines(mount):
                say(f"  {line}")


def _print_table(mounts: "list[MountStatus]") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*_HEADINGS, box=None, pad_edge=False)
    for mount in mounts:
        table.add_row(*(Text(cell, overflow="fold") for cell in _cells(mount)))
        for line in _lines(mount):
            table.add_row(Text(f"  {line}", overflow="fold"))
    Console().print(table)


def _cells(mount: "MountStatus") -> list[str]:
    values = (
        *(mount.mountpoint, mount.cipherdir, mount.state),
        *(mount.pid, mount.engine, mount.failed_reads),
    )
    return ["-" if value is None else printable(str(value)) for value in values]


def _lines(mount: "MountStatus") -> Iterator[str]:
    if mount.resident_files and mount.resident_bytes:
        size = mount.resident_bytes / 2**20
        yield f"{mount.resident_files} in memory, {size:.1f} MiB"
    for model in mount.models:
        name = model.name or model.path
        version = f" version {model.version}" if model.version else ""
        reason = f": {model.reason}" if model.reason else ""
        yield printable(f"{name}{version}, {model.state}{reason}")
